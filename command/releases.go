package command

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// History reads releases and deployments.
type History interface {
	// Release and Deployment return NotFound if there is no record of it, or no longer.
	Release(ctx context.Context, stack mesh.StackName, n mesh.ReleaseNumber) (mesh.Release, error)
	Deployment(ctx context.Context, stack mesh.StackName, n mesh.DeploymentNumber) (mesh.Deployment, error)
	// Releases and Deployments return the newest first, at most limit of them, or all
	// if limit is 0.
	Releases(ctx context.Context, stack mesh.StackName, limit int) ([]mesh.Release, error)
	Deployments(ctx context.Context, stack mesh.StackName, limit int) ([]mesh.Deployment, error)
	// ReadOutput opens the recorded output of a deployment, which may still grow.
	ReadOutput(stack mesh.StackName, n mesh.DeploymentNumber) (io.ReadCloser, error)
}

var releaseCommands = []*definition{
	{
		topic: "releases", short: "List the releases, newest first", stack: true, json: true, run: runReleases,
		flags: limitFlag,
	},
	{
		topic: "releases", verb: "info", args: "vN", short: "Show a release", stack: true, json: true, min: 1, max: 1, run: runReleaseInfo,
	},
	{
		topic: "rollback", args: "[vN | COMMIT]", short: "Release an earlier image, config and commands again",
		long:  "It prints what it changes: the image, names of config vars, commands and the number of instances.",
		stack: true, access: mesh.AccessDeploy, max: 1, run: runRollback,
		flags: func(f *pflag.FlagSet) { f.Bool("dry-run", false, "print what it would change, and change nothing") },
	},
	{
		topic: "deployments", short: "List the deployments and their results, newest first", stack: true, json: true, run: runDeployments,
		flags: limitFlag,
	},
	{
		topic: "deployments", verb: "show", args: "[N | vN]", short: "Print the recorded output of a deployment (default: last)",
		long:  "vN is the deployment that made this release.",
		stack: true, json: true, max: 1, run: runDeploymentShow,
		flags: func(f *pflag.FlagSet) {
			f.BoolP("follow", "f", false, "follow until it ends; its result is the exit status")
		},
	},
	{
		topic: "deployments", verb: "cancel", args: "[N]", short: "Cancel the running deployment, or one that waits",
		stack: true, access: mesh.AccessDeploy, max: 1, run: runDeploymentCancel,
	},
}

func limitFlag(f *pflag.FlagSet) { f.IntP("lines", "n", 20, "maximum number of rows (0: all)") }

type releaseJSON struct {
	Release     string            `json:"release"`
	Current     bool              `json:"current"`
	Staged      bool              `json:"staged,omitempty"` // it has never been current
	Description string            `json:"description"`
	By          string            `json:"by"`
	Created     time.Time         `json:"created"`
	Deployment  int               `json:"deployment"`
	Commit      string            `json:"commit,omitempty"`
	Source      string            `json:"source,omitempty"`
	Image       string            `json:"image"`
	Digest      string            `json:"digest,omitempty"`
	ImageID     string            `json:"image_id"`
	Config      []string          `json:"config"`
	Formation   map[string]int    `json:"formation"`
	Commands    map[string]string `json:"commands"`

	ServerConfig  []string            `json:"server_config,omitempty"`  // names, of config:set --global
	ServiceConfig map[string][]string `json:"service_config,omitempty"` // names, of svc:update --env
}

func (c *call) releaseJSON(r mesh.Release) releaseJSON {
	j := releaseJSON{
		Release: r.Number.String(), Current: r.Number == c.stack.Current, Staged: r.Staged, Description: r.Description, By: string(r.By), Created: r.Created,
		Deployment: int(r.Deployment), Commit: string(r.Commit), Source: r.Source, Image: r.Image.Ref, Digest: r.Image.Digest, ImageID: r.Image.ID, Config: r.Config.Names(), ServerConfig: serverVars(r).Names(),
		Formation: map[string]int{}, Commands: map[string]string{},
	}
	if j.Config == nil {
		j.Config = []string{}
	}
	for s, n := range r.Formation {
		j.Formation[string(s)] = n
	}
	for s, v := range r.Services {
		j.Commands[string(s)] = v.Command
		if len(v.Config) > 0 {
			if j.ServiceConfig == nil {
				j.ServiceConfig = map[string][]string{}
			}
			j.ServiceConfig[string(s)] = v.Config.Names()
		}
	}
	return j
}

func runReleases(ctx context.Context, c *call) error {
	n, _ := c.flags.GetInt("lines")
	releases, err := c.History.Releases(ctx, c.stack.Name, n)
	if err != nil {
		return err
	}
	list := make([]releaseJSON, 0, len(releases))
	var rows [][]string
	for _, r := range releases {
		j := c.releaseJSON(r)
		list = append(list, j)
		mark := ""
		switch s := c.stack.Staged; {
		case j.Current:
			mark = "current"
		case s != nil && s.Release == r.Number:
			mark = "staged"
		case r.Staged:
			mark = "never live"
		}
		commit := r.Commit.Short()
		if commit == "" {
			commit = "-"
		}
		rows = append(rows, []string{j.Release, mark, commit, j.Description, j.By, c.when(j.Created)})
	}
	return c.list(list, []string{"RELEASE", "", "COMMIT", "WHAT", "BY", "WHEN"}, rows)
}

func runReleaseInfo(ctx context.Context, c *call) error {
	n, err := mesh.ParseReleaseNumber(c.args[0])
	if err != nil {
		return err
	}
	r, err := c.History.Release(ctx, c.stack.Name, n)
	if err != nil {
		return err
	}
	j := c.releaseJSON(r)
	if c.json {
		return c.printJSON(j)
	}
	row := func(k, v string) { c.say("%-12s %s\n", k, mesh.Visible(v)) }
	row("Release:", j.Release)
	row("What:", j.Description)
	row("By:", j.By)
	row("When:", c.when(j.Created))
	row("Deployment:", r.Deployment.String())
	if d, err := c.History.Deployment(ctx, c.stack.Name, r.Deployment); err == nil && !d.Ended.IsZero() {
		row("Took:", fmt.Sprintf("%.1fs", d.Ended.Sub(d.Created).Seconds()))
	}
	if j.Commit != "" {
		row("Commit:", j.Commit)
	}
	if j.Source != "" {
		row("Source:", j.Source)
	}
	row("Image:", j.Image)
	if j.Digest != "" {
		row("Digest:", j.Digest)
	}
	row("Formation:", formationLine(j.Formation))
	for _, s := range r.Formation.Services() {
		v := r.Services[s]
		command := v.Command
		if command == "" {
			command = "the image's own"
		}
		row(string(s)+":", fmt.Sprintf("%s (%s)", command, v.From))
	}
	for _, name := range j.Config {
		row("Config:", name)
	}
	for _, name := range j.ServerConfig {
		row("Config:", name+" (for all stacks)")
	}
	for _, s := range servicesOf(r) {
		for _, name := range j.ServiceConfig[string(s)] {
			row("Config:", name+" (for "+string(s)+")")
		}
	}
	return nil
}

func runRollback(ctx context.Context, c *call) error {
	var n mesh.ReleaseNumber
	if len(c.args) > 0 {
		var err error
		if n, err = c.releaseOf(ctx, c.args[0]); err != nil {
			return err
		}
	}
	if dry, _ := c.flags.GetBool("dry-run"); dry {
		return c.tellRollback(ctx, n)
	}
	if err := c.Deployments.Rollback(ctx, c.stack.Name, c.Key.Name, n, c.Stderr); err != nil {
		return err
	}
	st, err := c.Stacks.Stack(ctx, c.stack.Name)
	if err != nil {
		return err
	}
	r, err := c.History.Release(ctx, st.Name, st.Current)
	if err != nil {
		return err
	}
	c.say("%s %s: %s\n", st.Name, st.Current, r.Description)
	return nil
}

// tellRollback prints what a rollback would change.
func (c *call) tellRollback(ctx context.Context, n mesh.ReleaseNumber) error {
	if n == 0 {
		all, err := c.History.Releases(ctx, c.stack.Name, 0)
		if err != nil {
			return err
		}
		if n = mesh.Before(all, c.stack.Current); n == 0 {
			c.tell("%s has no release before %s that differs from it\n", c.stack.Name, c.stack.Current)
			return nil
		}
	}
	now, err := c.History.Release(ctx, c.stack.Name, c.stack.Current)
	if err != nil {
		return err
	}
	then, err := c.History.Release(ctx, c.stack.Name, n)
	if err != nil {
		return err
	}
	if then.Global, err = c.Settings.GlobalConfig(ctx); err != nil { // they are the server's
		return err
	}
	then.Formation = mesh.Formation{} // it stays
	for name, count := range now.Formation {
		then.Formation[name] = count
	}
	changes := now.Changes(then)
	if len(changes) == 0 {
		c.tell("%s is the same as %s\n", then.Number, now.Number)
	}
	for _, l := range changes {
		c.say("%s\n", mesh.Visible(l))
	}
	return nil
}

// commitPrefix is the beginning of a commit's ID, as long as git itself shortens it.
var commitPrefix = regexp.MustCompile(`^[0-9a-f]{4,40}$`)

// releaseOf returns the release with a number, or the newest one of a commit.
func (c *call) releaseOf(ctx context.Context, typed string) (mesh.ReleaseNumber, error) {
	n, err := mesh.ParseReleaseNumber(typed)
	if err == nil && len(typed) < 7 || !commitPrefix.MatchString(typed) {
		return n, err
	}
	all, err := c.History.Releases(ctx, c.stack.Name, 0)
	if err != nil {
		return 0, err
	}
	var found *mesh.Release
	for _, r := range all {
		if !strings.HasPrefix(string(r.Commit), typed) {
			continue
		}
		if found != nil && found.Commit != r.Commit {
			return 0, mesh.Errorf(mesh.Invalid, "releases of several commits begin with %s", typed).WithHint("type more of it, or the release: ssh mesh releases -a %s", c.stack.Name)
		}
		if found == nil {
			found = &r
		}
	}
	if found == nil {
		return 0, mesh.Errorf(mesh.NotFound, "%s has no release of the commit %s", c.stack.Name, typed).WithHint("list them with: ssh mesh releases -a %s", c.stack.Name)
	}
	return found.Number, nil
}
