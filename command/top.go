package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

var topCommands = []*definition{
	{
		topic: "top", short: "Watch what instances do and use; needs ssh -t", quiet: true, json: true, terminal: true, parts: true, run: runTop,
		long: "On a terminal it shows the last 10 s of all stacks that the key may see, until q. Other keys: c, m, r, p, e and n sort by CPU,\n" +
			"memory, requests, latency, errors and name; i turns instances into stacks and back; / filters by name; the\n" +
			"arrows scroll. Elsewhere it prints one table and ends.",
		flags: func(f *pflag.FlagSet) {
			f.String("sort", "cpu", "by `COLUMN`: cpu, memory, rps, p95, errors or name")
			f.Bool("stacks", false, "a line for each stack instead of each instance")
			f.String("filter", "", "only lines whose name contains this `TEXT`")
		},
	},
}

// topOrder is what the lines of top are sorted by.
type topOrder string

// The orders, with the key that selects each.
var topOrders = []struct {
	key  string
	name topOrder
	head string // its column
	less func(a, b topLine) int
}{
	{"c", "cpu", "CPU", func(a, b topLine) int { return cmp.Compare(b.measure.Cores(), a.measure.Cores()) }},
	{"m", "memory", "MEM", func(a, b topLine) int { return cmp.Compare(b.measure.Memory, a.measure.Memory) }},
	{"r", "rps", "RPS", func(a, b topLine) int { return cmp.Compare(b.measure.Rate(), a.measure.Rate()) }},
	{"p", "p95", "P95", func(a, b topLine) int { return cmp.Compare(b.p95(), a.p95()) }},
	{"e", "errors", "5XX", func(a, b topLine) int { return cmp.Compare(b.measure.Status[5], a.measure.Status[5]) }},
	{"n", "name", "STACK", func(topLine, topLine) int { return 0 }},
}

// topView is what a viewer has chosen.
type topView struct {
	order  topOrder
	stacks bool
	filter string
}

// topLine is an instance, or a stack.
type topLine struct {
	stack   mesh.StackName
	name    string // of the instance; for a stack, how many of its instances are up
	state   string
	measure mesh.Measure
}

func (l topLine) p95() time.Duration { return l.measure.Latency.Quantile(95) }

// topLines returns the lines of all stacks that the key may see.
func (c *call) topLines(ctx context.Context, v topView) ([]topLine, error) {
	all, err := c.Stacks.Stacks(ctx)
	if err != nil {
		return nil, err
	}
	var lines []topLine
	for _, st := range all {
		if c.Key.May(mesh.AccessRead, st.Name) {
			lines = append(lines, c.topOf(st, v.stacks)...)
		}
	}
	lines = slices.DeleteFunc(lines, func(l topLine) bool {
		name := string(l.stack)
		if !v.stacks {
			name += " " + l.name
		}
		return !strings.Contains(name, v.filter)
	})
	slices.SortStableFunc(lines, func(a, b topLine) int {
		n := 0
		for _, o := range topOrders {
			if o.name == v.order {
				n = o.less(a, b)
			}
		}
		return cmp.Or(n, cmp.Compare(a.stack, b.stack))
	})
	return lines, nil
}

// topOf returns the lines of a stack: its instances by name, or all together with the requests
// that no instance got.
func (c *call) topOf(st mesh.Stack, whole bool) (lines []topLine) {
	latest := c.Measures.Latest(st.Name)
	up, sum := 0, topLine{stack: st.Name}
	status := c.Processes.Status(st.Name)
	for _, in := range status {
		if in.State == mesh.Up {
			up++
		}
		lines = append(lines, topLine{st.Name, in.Name.String(), string(in.State), latest[in.Name]})
	}
	if !whole {
		return lines
	}
	for _, m := range latest {
		sum.measure.Beside(m)
	}
	sum.name = fmt.Sprintf("%d/%d", up, len(status))
	switch {
	case st.Current == 0:
		sum.state = "not deployed"
	case st.Stopped:
		sum.state = "stopped"
	case st.Maintained:
		sum.state = "maintenance"
	case up == 0 && len(status) > 0:
		sum.state = "crashed"
	case up < len(status):
		sum.state = "degraded"
	default:
		sum.state = "running"
	}
	return []topLine{sum}
}

// topTable returns the lines as cells, with a heading.
func topTable(lines []topLine, v topView) (heading []string, rows [][]string) {
	heading = []string{"STACK", "INSTANCE", "STATE", "RPS", "P95", "5XX", "CPU", "MEM"}
	if v.stacks {
		heading[1] = "UP"
	}
	for _, l := range lines {
		row := []string{string(l.stack), l.name, l.state, "-", "-", "-", "-", "-"}
		if l.measure.Requests() > 0 {
			row[3], row[4], row[5] = fmt.Sprintf("%.1f", l.measure.Rate()), shortTime(l.p95()), strconv.FormatUint(l.measure.Status[5], 10)
		}
		if l.measure.Memory > 0 {
			row[6], row[7] = percent(l.measure.Cores()), shortBytes(l.measure.Memory)
		}
		rows = append(rows, row)
	}
	return heading, rows
}

type topJSON struct {
	Stack    string  `json:"stack"`
	Instance string  `json:"instance,omitempty"`
	Up       string  `json:"up,omitempty"`
	State    string  `json:"state"`
	RPS      float64 `json:"rps"`
	P95      float64 `json:"p95_ms"`
	Errors   uint64  `json:"status_5xx"` // in 10 s
	Cores    float64 `json:"cpu_cores"`
	Memory   int64   `json:"memory_bytes"`
}

// topView returns what the options choose.
func (c *call) topView() (v topView, err error) {
	order, _ := c.flags.GetString("sort")
	v.stacks, _ = c.flags.GetBool("stacks")
	v.filter, _ = c.flags.GetString("filter")
	v.order = topOrder(order)
	var names []string
	for _, o := range topOrders {
		if o.name == v.order {
			return v, nil
		}
		names = append(names, string(o.name))
	}
	return v, c.usage("--sort takes one of %s, not %q", strings.Join(names, ", "), mesh.Clip(order, 60))
}

func runTop(ctx context.Context, c *call) error {
	v, err := c.topView()
	if err != nil {
		return err
	}
	if c.TTY && !c.json {
		return c.watchTop(ctx, v)
	}
	lines, err := c.topLines(ctx, v)
	if err != nil {
		return err
	}
	if c.json {
		out := []topJSON{}
		for _, l := range lines {
			j := topJSON{
				Stack: string(l.stack), Instance: l.name, State: l.state, RPS: round(l.measure.Rate(), 3), P95: millis(l.p95()),
				Errors: l.measure.Status[5], Cores: round(l.measure.Cores(), 4), Memory: l.measure.Memory,
			}
			if v.stacks {
				j.Instance, j.Up = "", l.name
			}
			out = append(out, j)
		}
		return c.printJSON(out)
	}
	if len(lines) == 0 {
		c.tell("nothing runs\n")
		return nil
	}
	heading, rows := topTable(lines, v)
	c.table(heading, rows)
	return nil
}

// errTopOver is why top ends in a process that another one has replaced.
var errTopOver = mesh.Errorf(mesh.Unavailable, "the server was upgraded or stopped").WithHint("start it again with: ssh -t mesh top")

// topError returns why top cannot go on.
func topError(ctx context.Context, err error) error {
	var e *mesh.Error
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &e):
		return err
	}
	return errTopOver
}
