package command

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
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

	Services map[string]configNamesJSON `json:"services,omitempty"` // of svc:update --env
	Server   *configNamesJSON           `json:"server,omitempty"`   // of config:set --global
}

type configNamesJSON struct {
	Added   []string `json:"added,omitempty"`
	Changed []string `json:"changed,omitempty"`
	Removed []string `json:"removed,omitempty"`
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
		var before mesh.Release
		if i+1 < len(releases) {
			before = releases[i+1]
		}
		d := before.Config.Changes(r.Config)
		j := configChangeJSON{Release: r.Number.String(), By: string(r.By), Created: r.Created, Added: d.Added, Changed: d.Changed, Removed: d.Removed}
		var texts []string
		if !d.Empty() {
			texts = append(texts, d.String())
		}
		if d := serverVars(before).Changes(serverVars(r)); !d.Empty() {
			j.Server = &configNamesJSON{d.Added, d.Changed, d.Removed}
			texts = append(texts, fmt.Sprintf("for all stacks %s", d))
		}
		for _, svc := range servicesOf(before, r) {
			d := before.Services[svc].Config.Changes(r.Services[svc].Config)
			if d.Empty() {
				continue
			}
			if j.Services == nil {
				j.Services = map[string]configNamesJSON{}
			}
			j.Services[string(svc)] = configNamesJSON{d.Added, d.Changed, d.Removed}
			texts = append(texts, fmt.Sprintf("for %s %s", svc, d))
		}
		if len(texts) == 0 {
			continue
		}
		list = append(list, j)
		rows = append(rows, []string{j.Release, strings.Join(texts, "; "), string(r.By), c.when(r.Created)})
	}
	return c.list(list, []string{"RELEASE", "CONFIG VARS", "BY", "WHEN"}, rows)
}

// serverVars returns the config vars of all stacks that a release does not have itself.
func serverVars(r mesh.Release) mesh.Config { return r.Global.Without(r.Config) }

// servicesOf returns the services of releases, sorted.
func servicesOf(releases ...mesh.Release) (names []mesh.ServiceName) {
	for _, r := range releases {
		names = slices.AppendSeq(names, maps.Keys(r.Services))
	}
	slices.SortFunc(names, mesh.CompareServices)
	return slices.Compact(names)
}

// runConfigDiff prints one line for each config var that differs: "+NAME", "-NAME" or
// "~NAME", with --show also the values. A comment follows if it is the var of a service.
func runConfigDiff(ctx context.Context, c *call) error {
	show, _ := c.flags.GetBool("show")
	if show && !c.Key.May(mesh.AccessDeploy, c.stack.Name) {
		return c.denied(mesh.AccessDeploy)
	}
	if show {
		c.audited = []string{"--show"}
	}
	global, err := c.Settings.GlobalConfig(ctx)
	if err != nil {
		return err
	}
	now := mesh.Release{Config: c.stack.Config, Global: global, Services: map[mesh.ServiceName]mesh.Service{}}
	for name, set := range c.stack.Services {
		now.Services[name] = mesh.Service{Config: set.Config}
	}
	releases := []mesh.Release{{}, now}
	for i, typed := range c.args {
		n, err := mesh.ParseReleaseNumber(typed)
		if err != nil {
			return err
		}
		if releases[i], err = c.History.Release(ctx, c.stack.Name, n); err != nil {
			return err
		}
	}
	from, to := releases[0], releases[1]
	if c.json {
		return c.configDiffJSON(from, to, show)
	}
	differ := c.diffLines(from.Config, to.Config, "", show)
	differ = c.diffLines(serverVars(from), serverVars(to), "  # for all stacks", show) || differ
	for _, svc := range servicesOf(from, to) {
		differ = c.diffLines(from.Services[svc].Config, to.Services[svc].Config, "  # for "+string(svc), show) || differ
	}
	if !differ {
		c.tell("%s: no config var differs\n", c.stack.Name)
	}
	return nil
}

func (c *call) configDiffJSON(from, to mesh.Release, show bool) error {
	part := func(from, to mesh.Config) (map[string]any, error) {
		d := from.Changes(to)
		out := map[string]any{"added": some(d.Added), "changed": some(d.Changed), "removed": some(d.Removed)}
		if show {
			for key, cfg := range map[string]mesh.Config{"from": from, "to": to} {
				values, err := plainValues(cfg)
				if err != nil {
					return nil, err
				}
				out[key] = values
			}
		}
		return out, nil
	}
	out, err := part(from.Config, to.Config)
	if err != nil {
		return err
	}
	if was, is := serverVars(from), serverVars(to); !was.Equal(is) {
		if out["server"], err = part(was, is); err != nil {
			return err
		}
	}
	services := map[string]any{}
	for _, svc := range servicesOf(from, to) {
		if from.Services[svc].Config.Equal(to.Services[svc].Config) {
			continue
		}
		if services[string(svc)], err = part(from.Services[svc].Config, to.Services[svc].Config); err != nil {
			return err
		}
	}
	if len(services) > 0 {
		out["services"] = services
	}
	return c.printJSON(out)
}

// diffLines prints how two configs differ, with a comment behind each line, and reports
// whether they do.
func (c *call) diffLines(from, to mesh.Config, comment string, show bool) bool {
	d := from.Changes(to)
	line := func(mark, name string, cfg mesh.Config) {
		if show {
			name += "=" + Join([]string{cfg[name].Reveal()})
		}
		_, _ = fmt.Fprintf(c.Stdout, "%s%s%s\n", mark, name, comment)
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
	return !d.Empty()
}

// some returns an empty list for nil, which JSON would print as null.
func some(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}
