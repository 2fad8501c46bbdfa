package command

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// AuditReader reads the audit log.
type AuditReader interface {
	// AuditLog returns at most limit entries, the newest first, of all stacks if stack
	// is empty.
	AuditLog(ctx context.Context, stack mesh.StackName, limit int) ([]mesh.AuditEntry, error)
}

// Auditor records what a key did, or tried to do, to a stack or to the server.
type Auditor interface {
	Audit(ctx context.Context, by mesh.KeyName, stack mesh.StackName, action string, err error)
}

var auditCommands = []*definition{
	{
		topic: "audit", short: "List what keys did, newest first", access: mesh.AccessAdmin, quiet: true, json: true, run: runAudit,
		flags: func(f *pflag.FlagSet) {
			f.IntP("lines", "n", 50, "maximum number of rows (0: all)")
			f.StringP("app", "a", "", "only actions on this `STACK`")
		},
	},
}

type auditJSON struct {
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Stack  string    `json:"stack,omitempty"`
	Action string    `json:"action"`
	Result string    `json:"result"`
}

func runAudit(ctx context.Context, c *call) error {
	n, _ := c.flags.GetInt("lines")
	stack, _ := c.flags.GetString("app")
	if stack == "" {
		stack = c.named
	}
	entries, err := c.AuditLog.AuditLog(ctx, mesh.StackName(stack), n)
	if err != nil {
		return err
	}
	list := make([]auditJSON, 0, len(entries))
	var rows [][]string
	for _, e := range entries {
		list = append(list, auditJSON{At: e.At, By: string(e.By), Stack: string(e.Stack), Action: e.Action, Result: e.Result})
		on := string(e.Stack)
		if on == "" {
			on = "-"
		}
		rows = append(rows, []string{c.when(e.At), string(e.By), on, mesh.Clip(e.Action, 60), mesh.Clip(e.Result, 80)})
	}
	return c.list(list, []string{"WHEN", "BY", "STACK", "WHAT", "RESULT"}, rows)
}

// audit records a command that changes something or prints secrets, or that failed to.
// Of its arguments it keeps only those that cannot be a config var's value.
func (c *call) audit(ctx context.Context, err error) {
	changes := c.def.ownCheck || c.def.changes && len(c.args) > 0 || c.changed
	if c.def.quiet || c.def.access == mesh.AccessRead && !changes && len(c.audited) == 0 {
		return
	}
	var exit mesh.ExitCode
	if errors.As(err, &exit) {
		err = nil // the command ran; its exit code is not an error of mesh
	}
	// If a line cannot be parsed, any part of it may be a value.
	if errors.Is(err, mesh.Invalid) && (c.def.verbatim || c.def.topic == "config" && !validNames(c.args)) {
		err = mesh.Errorf(mesh.Invalid, "refused: the arguments are not valid")
	}
	words := []string{c.def.name()}
	args := c.args
	if c.def.keeps != nil {
		args = c.def.keeps(c)
	}
	if c.def.verbatim {
		args = programOf(c.args, c.def.topic == "enter" && c.flags.ArgsLenAtDash() != 0)
	}
	for _, a := range args {
		if c.def.topic == "config" {
			name, _, ok := strings.Cut(a, "=")
			if a = name; !varName.MatchString(name) || !ok && c.def.verb == "set" {
				a = "…" // part of a value that a shell has split
			}
		}
		if a != "" {
			words = append(words, mesh.Clip(a, 60))
		}
	}
	for _, a := range c.audited {
		words = append(words, mesh.Clip(a, 60))
	}
	if c.def.verbatim && len(c.args) > len(args) {
		words = append(words, "…")
	}
	c.Auditor.Audit(ctx, c.Key.Name, c.stack.Name, strings.Join(words, " "), err)
}

// program matches a word that names a program: it has no blanks, quotes or =, so no
// value can follow in it.
var program = regexp.MustCompile(`^[A-Za-z0-9_./+-]+$`)

// programOf keeps the program of a command line, and the instance before it if there is
// one. The words after it may contain a password.
func programOf(args []string, instance bool) (kept []string) {
	most := 1
	if instance {
		most = 2
	}
	for _, a := range args[:min(most, len(args))] {
		if a, _, _ = strings.Cut(a, " "); !program.MatchString(a) {
			break
		}
		kept = append(kept, a)
	}
	return kept
}

// varName matches names of config vars.
var varName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// validNames reports whether all arguments are NAME=VALUE. If so, an error quotes a
// name; otherwise it may quote part of a value.
func validNames(args []string) bool {
	for _, a := range args {
		if !strings.Contains(a, "=") {
			return false
		}
	}
	return true
}
