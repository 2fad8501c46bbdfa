package command

import (
	"context"
	"fmt"
	"time"

	"mesh"
)

type configChangeJSON struct {
	Release string    `json:"release"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
	Added   []string  `json:"added,omitempty"`
	Changed []string  `json:"changed,omitempty"`
	Removed []string  `json:"removed,omitempty"`
}

// runConfigHistory compares each release with the one before it. Of the oldest release
// that is kept, all config vars count as added.
func runConfigHistory(ctx context.Context, c *call) error {
	n, _ := c.flags.GetInt("lines")
	releases, err := c.History.Releases(ctx, c.stack.Name, 0)
	if err != nil {
		return err
	}
	list := []configChangeJSON{}
	var rows [][]string
	for i, r := range releases {
		if n > 0 && len(list) == n {
			break
		}
		var before mesh.Config
		if i+1 < len(releases) {
			before = releases[i+1].Config
		}
		d := before.Changes(r.Config)
		if d.Empty() {
			continue
		}
		list = append(list, configChangeJSON{Release: r.Number.String(), By: string(r.By), Created: r.Created, Added: d.Added, Changed: d.Changed, Removed: d.Removed})
		rows = append(rows, []string{r.Number.String(), d.String(), string(r.By), c.when(r.Created)})
	}
	return c.list(list, []string{"RELEASE", "CONFIG VARS", "BY", "WHEN"}, rows)
}

// runConfigDiff prints one line for each config var that differs: "+NAME", "-NAME" or
// "~NAME", with --show also the values.
func runConfigDiff(ctx context.Context, c *call) error {
	show, _ := c.flags.GetBool("show")
	if show && !c.Key.May(mesh.AccessDeploy, c.stack.Name) {
		return c.denied(mesh.AccessDeploy)
	}
	if show {
		c.audited = []string{"--show"}
	}
	configs := []mesh.Config{nil, c.stack.Config}
	for i, typed := range c.args {
		n, err := mesh.ParseReleaseNumber(typed)
		if err != nil {
			return err
		}
		r, err := c.History.Release(ctx, c.stack.Name, n)
		if err != nil {
			return err
		}
		configs[i] = r.Config
	}
	from, to := configs[0], configs[1]
	d := from.Changes(to)
	if c.json {
		out := map[string]any{"added": some(d.Added), "changed": some(d.Changed), "removed": some(d.Removed)}
		if show {
			for key, cfg := range map[string]mesh.Config{"from": from, "to": to} {
				values, err := plainValues(cfg)
				if err != nil {
					return err
				}
				out[key] = values
			}
		}
		return c.printJSON(out)
	}
	line := func(mark, name string, cfg mesh.Config) {
		if show {
			name += "=" + Join([]string{cfg[name].Reveal()})
		}
		_, _ = fmt.Fprintf(c.Stdout, "%s%s\n", mark, name)
	}
	for _, name := range d.Added {
		line("+", name, to)
	}
	for _, name := range d.Removed {
		line("-", name, from)
	}
	for _, name := range d.Changed {
		if !show {
			line("~", name, to)
			continue
		}
		line("-", name, from)
		line("+", name, to)
	}
	if d.Empty() {
		c.tell("%s: no config var differs\n", c.stack.Name)
	}
	return nil
}

// some returns an empty list for nil, which JSON would print as null.
func some(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}
