package command

import (
	"context"
	"fmt"
	"io"
	"strings"

	"mesh"
)

func serverCommands() []*definition {
	return []*definition{
		{
			topic: "version", short: "Print the version of the server", json: true, run: func(_ context.Context, c *call) error {
				if c.json {
					return c.printJSON(map[string]string{"version": c.Version})
				}
				c.say("mesh %s\n", c.Version)
				return nil
			},
		},
		{
			topic: "help", args: "[TOPIC]", short: "List all commands, or those of a topic", max: 2,
			run: func(_ context.Context, c *call) error {
				if len(c.args) == 0 {
					_, _ = fmt.Fprint(c.Stdout, "usage: ssh mesh COMMAND, or in a checkout or on the server: mesh COMMAND\n\n")
					if err := c.help(c.Stdout, "", nil); err != nil {
						return err
					}
					_, _ = fmt.Fprint(c.Stdout, "\nName the stack with -a STACK, as the first argument, or as the SSH user.\nHelp for one command: ssh mesh help COMMAND\nOn the server itself: mesh serve (mesh serve --help), mesh restore FILE.tar, mesh standby; as root: mesh confine, mesh firewall\n")
					return nil
				}
				if d, _, err := find(c.args); err == nil && (d.verb != "" || single(d.topic)) {
					return c.help(c.Stdout, d.topic, d)
				}
				return c.help(c.Stdout, topic(strings.TrimSuffix(c.args[0], ":")), nil)
			},
		},
	}
}

// Here runs a command that needs no server: help, completion and version, which is the
// version of the binary itself.
func Here(version string, words []string, stdout, stderr io.Writer) error {
	return (&Commands{Version: version}).Run(context.Background(), mesh.Request{Line: Join(words), Stdout: stdout, Stderr: stderr})
}

// single reports whether a topic has only one command.
func single(topic string) bool {
	n := 0
	for _, d := range table() {
		if d.topic == topic {
			n++
		}
	}
	return n == 1
}
