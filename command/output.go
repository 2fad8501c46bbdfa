package command

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"mesh"
)

// harmless passes on mesh's own text, which may quote others: no control sequence of
// theirs reaches a terminal. Each write must consist of whole runes.
type harmless struct{ w io.Writer }

func (h harmless) Write(p []byte) (int, error) {
	if _, err := io.WriteString(h.w, mesh.VisibleOutput(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// say prints an answer to stdout, and tell prints other messages to stderr. args may
// quote others: each argument stays on its line.
func (c *call) say(format string, args ...any) {
	_, _ = fmt.Fprintf(c.Stdout, format, visible(args)...)
}

func (c *call) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(c.Stderr, format, visible(args)...)
}

func visible(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		if v := reflect.ValueOf(a); v.Kind() == reflect.String {
			a = mesh.Visible(v.String())
		}
		out[i] = a
	}
	return out
}

// crlf writes to a terminal in raw mode.
type crlf struct{ w io.Writer }

func (c crlf) Write(p []byte) (int, error) {
	if _, err := io.WriteString(c.w, strings.ReplaceAll(string(p), "\n", "\r\n")); err != nil {
		return 0, err
	}
	return len(p), nil
}

// list prints the result of a listing command: v for a program, rows for a person.
func (c *call) list(v any, heading []string, rows [][]string) error {
	if c.json {
		return c.printJSON(v)
	}
	c.table(heading, rows)
	return nil
}

// printJSON prints v as JSON.
func (c *call) printJSON(v any) error {
	enc := json.NewEncoder(c.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
