package command

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"mesh"
)

// screen is how output looks: for a person, or for whatever reads it.
type screen struct {
	person bool
	width  int // in characters; 0: not known
	colour bool
}

func screenOf(r mesh.Request) screen {
	s := screen{person: r.TTY, width: r.Size.Width}
	if v, ok := r.Env[mesh.EnvScreen]; ok && !r.TTY {
		s.person = true
		if n, err := strconv.Atoi(v); err == nil && n > 0 && n < 10_000 {
			s.width = n
		}
	}
	s.colour = s.person && r.Env[mesh.EnvNoColor] == ""
	return s
}

// Colours of ECMA-48, "select graphic rendition".
const (
	green  = "32"
	yellow = "33"
	red    = "31"
	bold   = "1"
)

// states are the words that say at a glance how something is.
var states = map[string]string{
	"up": green, "running": green, "live": green, "current": green, "ok": green,
	"crashed": red, "failed": red, "missing": red, "failing": red, "halted": red, "paused": red, "unreachable": red, "no": red, "unknown": red,
	"degraded": yellow, "maintenance": yellow, "stopped": yellow, "starting": yellow, "waiting": yellow, "cancelled": yellow, "ended": yellow,
}

// paint colours a cell that begins with the name of a state.
func (c *call) paint(cell, text string) string {
	word, _, _ := strings.Cut(cell, " ")
	code := states[strings.TrimSuffix(word, ":")]
	if !c.view.colour || code == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// least is what a column keeps when a table is made to fit.
const least = 8

// fit makes columns narrower, the widest first and never the first, which names
// what the row is about, until a table fits into a width.
func fit(width []int, into int) {
	if into <= 0 {
		return
	}
	total := 2 * (len(width) - 1)
	for _, w := range width {
		total += w
	}
	for total > into {
		widest := -1
		for i := 1; i < len(width); i++ {
			if width[i] > least && (widest < 0 || width[i] >= width[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		width[widest]--
		total--
	}
}

// table prints rows in columns: the heading to stderr, the data to stdout. On a
// screen it fits into its width.
func (c *call) table(heading []string, rows [][]string) {
	width := make([]int, len(heading))
	for _, r := range append([][]string{heading}, rows...) {
		for i, cell := range r {
			r[i] = mesh.Visible(cell) // one row is one line
			cell = r[i]
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	fit(width, c.view.width)
	line := func(w io.Writer, r []string, paint func(cell, text string) string) {
		var b strings.Builder
		pad := 0
		for i, cell := range r {
			text := []rune(cell)
			if len(text) > width[i] {
				text = append(text[:width[i]-1], '…')
			}
			if len(text) > 0 {
				b.WriteString(strings.Repeat(" ", pad))
				b.WriteString(paint(cell, string(text)))
				pad = 0
			}
			pad += width[i] - len(text) + 2
		}
		_, _ = fmt.Fprintln(w, b.String())
	}
	line(c.Stderr, heading, func(_, text string) string {
		if c.view.colour {
			return "\x1b[" + bold + "m" + text + "\x1b[0m"
		}
		return text
	})
	for _, r := range rows {
		line(c.Stdout, r, c.paint)
	}
}

// when is a time for people: relative on a screen, RFC 3339 elsewhere.
func (c *call) when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	if !c.view.person {
		return t.UTC().Format(time.RFC3339)
	}
	return ago(c.Now().Sub(t)) + " ago"
}

func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// errInterrupted is a Ctrl-C on a terminal.
var errInterrupted = mesh.Errorf(mesh.Cancelled, "interrupted")

// interruptible ends ctx at a Ctrl-C. A terminal of ours is raw: the key arrives as
// a character (ETX) on stdin, and there is no line discipline that makes a signal
// of it. The reading goes on until the session ends.
func (c *call) interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		b := make([]byte, 64)
		for {
			n, err := c.Stdin.Read(b)
			if strings.ContainsRune(string(b[:n]), 3) {
				cancel(errInterrupted)
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// order keeps the two streams of a client without a terminal of ours in the order
// in which they were written: OpenSSH's client, when it has something for both,
// writes stdout first, so that a heading would come below its table.
type order struct {
	ctx   context.Context // of the command
	flush func(context.Context)

	mu    sync.Mutex
	later bool // something was written to stderr that may not have been shown yet
}

type ordered struct {
	io.Writer
	order  *order
	stderr bool
}

func (w ordered) Write(p []byte) (int, error) {
	w.order.mu.Lock()
	defer w.order.mu.Unlock()
	if w.order.later && !w.stderr {
		w.order.flush(w.order.ctx)
	}
	w.order.later = w.stderr
	return w.Writer.Write(p)
}

// harmless passes on text of mesh's own, in which what others chose may stand: no
// control sequence of theirs reaches a terminal. It is for whole writes of whole runes.
type harmless struct{ w io.Writer }

func (h harmless) Write(p []byte) (int, error) {
	if _, err := io.WriteString(h.w, mesh.VisibleOutput(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// say prints an answer, and tell what is said besides. Texts among args may be
// somebody else's: each stays on its line.
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

// crlf is a terminal in raw mode.
type crlf struct{ w io.Writer }

func (c crlf) Write(p []byte) (int, error) {
	if _, err := io.WriteString(c.w, strings.ReplaceAll(string(p), "\n", "\r\n")); err != nil {
		return 0, err
	}
	return len(p), nil
}
