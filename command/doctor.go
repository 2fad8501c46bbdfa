package command

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"mesh"
)

// Server reports on the server and its machine, and manages them.
type Server interface {
	Info(ctx context.Context) mesh.ServerInfo
	// Diagnose looks for problems. It takes a few seconds at most.
	Diagnose(ctx context.Context) []mesh.Finding
	// Backup writes a consistent tar of everything that the server owns, and returns
	// the number of files in it.
	Backup(ctx context.Context, w io.Writer, dumps ...mesh.Backup) (files int, err error)
	// Mirror sends the server to a standby, which answers on r, until ctx ends or it leaves.
	Mirror(ctx context.Context, r io.Reader, w io.Writer) error
	// Upgrade replaces this process with the binary on disk, and returns the new
	// process once it serves. After an error this process keeps serving.
	Upgrade(ctx context.Context) (mesh.Successor, error)
}

var doctorCommands = []*definition{
	{
		topic: "diagnose", short: "Find out why a stack is not up, and what to do", stack: true, quiet: true, json: true, run: runDiagnose,
		long: "It looks at the last deployment, each instance, what listens in it, the image, DNS, certificates, the last\n" +
			"minute's answers and the server. Exit status: 0 if all is well, 1 if something is wrong.",
	},
	{
		topic: "server", verb: "set", args: "NAME=VALUE…", short: "Change settings of the server; without arguments, list them",
		long: "autocreate=on|admins|off: for whom a push to a stack that does not exist creates it. stacks:create is not affected.\n" +
			"default-stack=STACK: the stack that gets requests for unknown hosts, with its access rules; without certificates for\n" +
			"them. An empty value is the default. In force at once.",
		access: mesh.AccessAdmin, max: maxArgs, json: true, run: runServerSet,
	},
	{
		topic: "server", verb: "info", short: "Show versions, addresses, disk and Docker", access: mesh.AccessAdmin, quiet: true, json: true, run: runServerInfo,
	},
	{
		topic: "doctor", short: "Find problems and how to fix them; exit status 1 if any", access: mesh.AccessAdmin, quiet: true, json: true, run: runDoctor,
	},
}

// SettingsReader reads the settings of the server.
type SettingsReader interface {
	ServerSettings(ctx context.Context) (mesh.ServerSettings, error)
	// GlobalConfig returns the config vars of all stacks.
	GlobalConfig(ctx context.Context) (mesh.Config, error)
}

// ServerSetter changes the settings of the server.
type ServerSetter interface {
	// SetServer changes them with fn, which may run more than once.
	SetServer(ctx context.Context, by mesh.KeyName, fn func(*mesh.ServerSettings) error) (mesh.ServerSettings, error)
}

// runServerSet changes all settings or none.
func runServerSet(ctx context.Context, c *call) error {
	if len(c.args) == 0 {
		s, err := c.Settings.ServerSettings(ctx)
		if err != nil {
			return err
		}
		return c.listServer(s)
	}
	change := func(s *mesh.ServerSettings) error {
		for _, arg := range c.args {
			name, value, ok := strings.Cut(arg, "=")
			if !ok {
				return c.usage("%q is not NAME=VALUE", mesh.Clip(arg, 60))
			}
			if err := s.Set(name, value); err != nil {
				return err
			}
		}
		return nil
	}
	if err := change(new(mesh.ServerSettings)); err != nil {
		return err
	}
	s, err := c.ServerSetter.SetServer(ctx, c.Key.Name, change)
	if err != nil {
		return err
	}
	return c.listServer(s)
}

func (c *call) listServer(s mesh.ServerSettings) error {
	values := map[string]string{}
	var rows [][]string
	for _, v := range s.List() {
		values[v.Name] = v.Value
		value := v.Value
		if value == "" {
			value = "-"
		}
		rows = append(rows, []string{v.Name, value, v.What})
	}
	return c.list(values, []string{"SETTING", "VALUE", "MEANING"}, rows)
}

type serverJSON struct {
	Version   string    `json:"version"`
	Started   time.Time `json:"started"`
	SSH       string    `json:"ssh"`
	HTTP      string    `json:"http"`
	Admin     string    `json:"admin,omitempty"`
	Domain    string    `json:"domain"`
	Data      string    `json:"data"`
	DiskFree  uint64    `json:"disk_free"`
	Engine    string    `json:"engine"`
	EngineAPI string    `json:"engine_api"`
	Git       string    `json:"git"`
	HostKey   string    `json:"host_key"`
}

func runServerInfo(ctx context.Context, c *call) error {
	i := c.Server.Info(ctx)
	if c.json {
		return c.printJSON(serverJSON(i))
	}
	row := func(k, v string) {
		if v == "" {
			v = "-"
		}
		c.say("%-14s %s\n", k, v)
	}
	row("Version:", i.Version)
	row("Started:", c.when(i.Started))
	row("SSH:", i.SSH)
	row("HTTP:", i.HTTP)
	row("Admin:", i.Admin)
	row("Domain:", i.Domain)
	if s, err := c.Settings.ServerSettings(ctx); err == nil {
		for _, v := range s.List() {
			row(v.Name+":", v.Value)
		}
	}
	row("Data:", i.Data)
	row("Disk free:", fmt.Sprintf("%.1f GiB", float64(i.DiskFree)/(1<<30)))
	row("Docker Engine:", i.Engine)
	row("git:", i.Git)
	row("Host key:", i.HostKey)
	return nil
}

type findingJSON struct {
	OK   bool   `json:"ok"`
	What string `json:"what"`
	Mend string `json:"mend,omitempty"`
}

// tellFindings prints what is well and what is wrong. If anything is, the exit status is 1.
func (c *call) tellFindings(list []findingJSON) error {
	if c.json {
		if err := c.printJSON(list); err != nil {
			return err
		}
	}
	ill := false
	for _, f := range list {
		ill = ill || !f.OK
		switch {
		case c.json:
		case f.OK:
			c.say("ok    %s\n", mesh.Visible(f.What))
		default:
			c.say("WRONG %s\n      %s\n", mesh.Visible(f.What), mesh.Visible(f.Mend))
		}
	}
	if ill {
		return mesh.ExitCode(1)
	}
	return nil
}

func runDoctor(ctx context.Context, c *call) error {
	list := []findingJSON{}
	for _, f := range c.Server.Diagnose(ctx) {
		list = append(list, findingJSON(f))
	}
	return c.tellFindings(list)
}
