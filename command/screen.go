package command

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"mesh"
)

// screen is how to format output: for a person, or for a program.
type screen struct {
	person bool
	width  int // in characters; 0: unknown
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

// states holds the words that show at a glance how something is.
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

// when formats a time: relative on a screen, RFC 3339 elsewhere.
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
