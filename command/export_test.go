package command

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"mesh"
)

// Row is a command of the table, for tests that try all of them.
type Row struct {
	Name  string
	Stack bool
	Flags []string // its options that take a value
}

// Rows lists the table.
func Rows() (rows []Row) {
	for _, d := range table() {
		r := Row{Name: d.name(), Stack: d.stack}
		if d.flags != nil {
			fs := pflag.NewFlagSet("", pflag.ContinueOnError)
			d.flags(fs)
			fs.VisitAll(func(f *pflag.Flag) {
				if f.Value.Type() != "bool" {
					r.Flags = append(r.Flags, f.Name)
				}
			})
		}
		rows = append(rows, r)
	}
	return rows
}

// Parses reports whether a command line names an existing command and options, with a
// valid number of arguments. A last argument "…" stands for any number.
func Parses(line string) error {
	words, starts, err := split(line)
	if err != nil {
		return err
	}
	c := &call{Commands: &Commands{}, Request: mesh.Request{Line: line}, starts: starts}
	if words, err = c.leading(words); err != nil {
		return err
	}
	def, rest, err := find(words)
	if err != nil {
		return err
	}
	c.def = def
	if err := c.parse(rest); err != nil {
		return err
	}
	n := len(c.args)
	if n > 0 && c.args[n-1] == "…" {
		n = max(def.min, n-1)
	}
	if def.stack && n > def.max { // Dokku's way: the stack is the first argument
		n--
	}
	if n < def.min || n > def.max {
		return fmt.Errorf("%d arguments", n)
	}
	return nil
}

// Shorts returns the help lines, by command.
func Shorts() map[string]string {
	out := map[string]string{}
	for _, d := range table() {
		out[d.name()] = d.short
	}
	return out
}

// TopScreen returns the screen of top after some keys.
func TopScreen(ctx context.Context, s *Commands, r mesh.Request, keys []string) (string, error) {
	c := &call{Commands: s, Request: r, view: screenOf(r)}
	m := &topModel{call: c, ctx: ctx, view: topView{order: "cpu"}, width: r.Size.Width, height: r.Size.Height}
	m.look()
	for _, k := range keys {
		m.press(k, k)
		m.look()
	}
	return m.draw(), m.err
}
