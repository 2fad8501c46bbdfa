package command

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"mesh"
)

var buildCommands = []*definition{
	{
		topic: "build", short: "Show the build and check settings", stack: true, json: true, run: runBuild,
	},
	{
		topic: "build", verb: "set", args: "NAME=VALUE…", short: "Change build and check settings, for the next push",
		long: "branch=NAME       the branch that is deployed\n" +
			"dockerfile=PATH   the Dockerfile, in the repository (Dockerfile)\n" +
			"health=/PATH      what has to answer 2xx or 3xx (any answer but 5xx at /)\n" +
			"check-timeout=1m  how long an instance may take to become healthy (1m)\n" +
			"drain=30s         how long requests in flight may take when an instance retires (30s)\n" +
			"stop-timeout=30s  from SIGTERM to SIGKILL (30s)\n" +
			"first-byte=60s    how long the app may take to begin an answer (60s); at once, without a push",
		stack: true, access: mesh.AccessDeploy, min: 1, max: many, run: runBuildSet,
	},
	{
		topic: "build", verb: "unset", args: "NAME…", short: "Put settings back to their defaults",
		stack: true, access: mesh.AccessDeploy, min: 1, max: many, run: runBuildUnset,
	},
}

// setting is one name of build:set.
type setting struct {
	name string
	get  func(mesh.Settings) string
	set  func(s *mesh.Settings, v string) error // "" is the default
}

var branchRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`)

var settings = []setting{
	{"branch", func(s mesh.Settings) string { return s.Branch }, func(s *mesh.Settings, v string) error {
		// git check-ref-format's rules, as far as the pattern leaves them open.
		if v != "" && (!branchRule.MatchString(v) || strings.Contains(v, "..") || strings.Contains(v, "//") || strings.HasSuffix(v, "/") || strings.HasSuffix(v, ".lock") || strings.HasSuffix(v, ".")) {
			return mesh.Errorf(mesh.Invalid, "%q is not a branch name", mesh.Clip(v, 60))
		}
		s.Branch = v
		return nil
	}},
	{"dockerfile", func(s mesh.Settings) string { return s.Dockerfile }, func(s *mesh.Settings, v string) error {
		clean := path.Clean("/" + v)[1:]
		if v != "" && (clean == "" || strings.HasPrefix(v, "/") || strings.Contains("/"+v+"/", "/../") || strings.ContainsAny(v, "\x00\n")) {
			return mesh.Errorf(mesh.Invalid, "%q is not a path inside the repository", mesh.Clip(v, 60)).WithHint("give one such as docker/web.Dockerfile")
		}
		s.Dockerfile = clean
		return nil
	}},
	{"health", func(s mesh.Settings) string { return s.Health }, func(s *mesh.Settings, v string) error {
		if v != "" && (!strings.HasPrefix(v, "/") || strings.ContainsAny(v, " \r\n\t\x00#") || len(v) > 1000) {
			return mesh.Errorf(mesh.Invalid, "%q is not a path to ask for", mesh.Clip(v, 60)).WithHint("give one such as /healthz")
		}
		s.Health = v
		return nil
	}},
	duration("check-timeout", time.Second, time.Hour, func(s *mesh.Settings) *time.Duration { return &s.CheckTimeout }),
	duration("drain", 0, 24*time.Hour, func(s *mesh.Settings) *time.Duration { return &s.Drain }),
	duration("stop-timeout", time.Second, time.Hour, func(s *mesh.Settings) *time.Duration { return &s.StopTimeout }),
	duration("first-byte", time.Second, 24*time.Hour, func(s *mesh.Settings) *time.Duration { return &s.FirstByte }),
}

func duration(name string, least, most time.Duration, field func(*mesh.Settings) *time.Duration) setting {
	return setting{
		name, func(s mesh.Settings) string {
			if d := *field(&s); d != 0 {
				return d.String()
			}
			return ""
		},
		func(s *mesh.Settings, v string) error {
			if v == "" {
				*field(s) = 0
				return nil
			}
			d, err := time.ParseDuration(v)
			if err != nil || d < least || d > most || d == 0 {
				return mesh.Errorf(mesh.Invalid, "%s=%q is not a time from %s to %s", name, mesh.Clip(v, 40), max(least, time.Millisecond), most).WithHint("give one such as 45s or 2m")
			}
			*field(s) = d
			return nil
		},
	}
}

func findSetting(name string) (setting, error) {
	best, dist := "", 3
	for _, s := range settings {
		if s.name == name {
			return s, nil
		}
		if d := distance(s.name, name); d < dist {
			best, dist = s.name, d
		}
	}
	e := mesh.Errorf(mesh.Invalid, "there is no build setting %q", mesh.Clip(name, 60))
	var names []string
	for _, s := range settings {
		names = append(names, s.name)
	}
	e.Hint = "there are " + strings.Join(names, ", ")
	if best != "" {
		e.Hint = fmt.Sprintf("did you mean %s?", best)
	}
	return setting{}, e
}

func runBuild(_ context.Context, c *call) error {
	if c.json {
		out := map[string]string{}
		for _, s := range settings {
			if v := s.get(c.stack.Settings); v != "" {
				out[s.name] = v
			}
		}
		return c.printJSON(out)
	}
	for _, s := range settings {
		if v := s.get(c.stack.Settings); v != "" {
			_, _ = fmt.Fprintf(c.Stdout, "%s=%s\n", s.name, v)
		}
	}
	return nil
}

func (c *call) changeSettings(ctx context.Context, change func(*mesh.Settings) error) error {
	st, err := c.Deployer.SetSettings(ctx, c.stack.Name, change)
	if err != nil {
		return err
	}
	c.stack = st
	return runBuild(ctx, c)
}

func runBuildSet(ctx context.Context, c *call) error {
	return c.changeSettings(ctx, func(set *mesh.Settings) error {
		for _, a := range c.args {
			name, value, ok := strings.Cut(a, "=")
			if !ok || value == "" {
				return c.usage("%q is not NAME=VALUE", mesh.Clip(a, 60))
			}
			s, err := findSetting(name)
			if err != nil {
				return err
			}
			if err := s.set(set, value); err != nil {
				return err
			}
		}
		return nil
	})
}

func runBuildUnset(ctx context.Context, c *call) error {
	return c.changeSettings(ctx, func(set *mesh.Settings) error {
		for _, name := range c.args {
			s, err := findSetting(name)
			if err != nil {
				return err
			}
			if err := s.set(set, ""); err != nil {
				return err
			}
		}
		return nil
	})
}
