package command

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"mesh"
)

// Collector removes what builds have left behind.
type Collector interface {
	// Collect removes the images that no rollback needs, and shrinks the build cache to
	// its limit. With dry it only reports what it would remove.
	Collect(ctx context.Context, dry bool) (gone []mesh.Garbage, cache int64, err error)
	Cache(ctx context.Context) (size, limit int64, err error)
	ClearCache(ctx context.Context) (freed int64, err error)
}

// DeployKeys reads the keys that the stacks' repositories use elsewhere.
type DeployKeys interface {
	// DeployKey returns the public key of a stack's repository. It creates the key if
	// it is missing.
	DeployKey(ctx context.Context, stack mesh.StackName) (string, error)
}

var gcCommands = []*definition{
	{
		topic: "gc", args: "[--dry-run]", short: "Remove images that no rollback needs, and excess build cache",
		long: "mesh does this after each deployment. For each stack it keeps the images of the current release and of the\n" +
			"five before it. Images that do not belong to this server are never removed.",
		access: mesh.AccessAdmin, json: true, run: runGC,
		flags: func(fs *pflag.FlagSet) { fs.Bool("dry-run", false, "print what would be removed") },
	},
	{
		topic: "git", verb: "deploy-key", short: "Print the stack's public key, for private submodules",
		long:  "Add it as a read-only key where the submodules are hosted. Their URLs in .gitmodules must begin with ssh://.",
		stack: true, access: mesh.AccessDeploy, run: runDeployKey,
	},
	{
		topic: "build", verb: "cache", args: "[--clear]", short: "Show the size of the build cache, or empty it",
		access: mesh.AccessAdmin, json: true, run: runBuildCache,
		flags: func(fs *pflag.FlagSet) { fs.Bool("clear", false, "empty the cache; the next builds run every step") },
	},
}

type garbageJSON struct {
	Stack  string   `json:"stack"`
	Image  string   `json:"image"`
	Names  []string `json:"names"`
	Size   int64    `json:"size"`
	Remove bool     `json:"removed"`
}

func runGC(ctx context.Context, c *call) error {
	dry, _ := c.flags.GetBool("dry-run")
	gone, cache, err := c.Collector.Collect(ctx, dry)
	if err != nil {
		return err
	}
	slices.SortFunc(gone, func(a, b mesh.Garbage) int {
		return strings.Compare(string(a.Stack)+strings.Join(a.Refs, " ")+a.ID, string(b.Stack)+strings.Join(b.Refs, " ")+b.ID)
	})
	if c.json {
		out := struct {
			Images []garbageJSON `json:"images"`
			Cache  int64         `json:"cache"`
		}{[]garbageJSON{}, cache}
		for _, g := range gone {
			out.Images = append(out.Images, garbageJSON{string(g.Stack), g.ID, append([]string{}, g.Refs...), g.Size, !dry})
		}
		return c.printJSON(out)
	}
	var rows [][]string
	var total int64
	for _, g := range gone {
		id := strings.TrimPrefix(g.ID, "sha256:")
		rows = append(rows, []string{string(g.Stack), id[:min(12, len(id))], size(g.Size), strings.Join(g.Refs, " ")})
		total += g.Size
	}
	if len(rows) > 0 {
		c.table([]string{"STACK", "IMAGE", "SIZE", "NAMES"}, rows)
	}
	verb := "removed"
	if dry {
		verb = "would be removed"
	}
	// Images share layers, so together they take less than the sum.
	c.say("%d images of at most %s, and %s of build cache, %s\n", len(gone), size(total), size(cache), verb)
	return nil
}

func runDeployKey(ctx context.Context, c *call) error {
	key, err := c.DeployKeys.DeployKey(ctx, c.stack.Repository())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.Stdout, key)
	return err
}

func runBuildCache(ctx context.Context, c *call) error {
	if on, _ := c.flags.GetBool("clear"); on {
		freed, err := c.Collector.ClearCache(ctx)
		if err != nil {
			return err
		}
		if c.json {
			return c.printJSON(map[string]int64{"freed": freed})
		}
		c.say("%s freed\n", size(freed))
		return nil
	}
	used, limit, err := c.Collector.Cache(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]int64{"size": used, "limit": limit})
	}
	c.say("%s of %s\n", size(used), size(limit))
	return nil
}

// size formats a number of bytes for people.
func size(n int64) string {
	switch {
	case n > 0 && n < 100e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 10e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n < 10e9:
		return fmt.Sprintf("%.0f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}
