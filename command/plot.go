package command

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/guptarohit/asciigraph"

	"mesh"
)

const (
	plotMargin = 10 // columns before the first interval
	labelWidth = plotMargin - 3
	plotHeight = 4 // rows between the least and the highest value
)

// plotWidth returns how many intervals fit.
func (c *call) plotWidth() int {
	w := c.view.width
	if w <= 0 {
		w = 80
	}
	return min(w, 200) - plotMargin - 1
}

// series is a plot.
type series struct {
	title  string
	value  func(*mesh.Measure) float64
	format func(float64) string
}

var plotted = []series{
	{"requests per second", func(m *mesh.Measure) float64 { return m.Rate() }, func(v float64) string { return fmt.Sprintf("%g", round(v, 2)) }},
	{"latency, 95 of 100 requests", func(m *mesh.Measure) float64 { return m.Latency.Quantile(95).Seconds() }, shortLatency},
	{"CPU, of one core", (*mesh.Measure).Cores, func(v float64) string { return fmt.Sprintf("%.3g%%", v*100) }},
	{"memory", func(m *mesh.Measure) float64 { return float64(m.Memory) }, func(v float64) string { return shortBytes(int64(v)) }},
}

func shortLatency(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d == 0:
		return "0"
	case d < 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// plots prints the plots, one below the other, with the same axis.
func (c *call) plots(got mesh.Measures, all []mesh.Measure, marks []mesh.Deployment) {
	for _, s := range plotted {
		values, top, last := make([]float64, len(all)), 0., math.NaN()
		for i := range all {
			if values[i] = math.NaN(); all[i].Samples > 0 {
				values[i] = s.value(&all[i])
				top, last = max(top, values[i]), values[i]
			}
		}
		if top == 0 {
			continue // nothing of the kind
		}
		head := fmt.Sprintf("%s   highest %s, last %s", s.title, strings.TrimSpace(s.format(top)), strings.TrimSpace(s.format(last)))
		_, _ = fmt.Fprintf(c.Stdout, "%s\n%s\n", c.bold(head), asciigraph.Plot(padded(values), asciigraph.Height(plotHeight), asciigraph.LowerBound(0), asciigraph.UpperBound(ceiling(top, s.title == "memory")),
			asciigraph.YAxisValueFormatter(func(v float64) string { return fmt.Sprintf("%*s", labelWidth, s.format(v)) })))
	}
	if line, legend := c.markLine(got, len(all), marks); line != "" {
		_, _ = fmt.Fprintln(c.Stdout, strings.Repeat(" ", plotMargin)+line)
		defer func() {
			for _, l := range legend {
				c.say("%s\n", l)
			}
		}()
	}
	_, _ = fmt.Fprintln(c.Stdout, c.timeLine(got, len(all)))
}

func (c *call) bold(text string) string {
	if !c.view.colour {
		return text
	}
	return "\x1b[" + bold + "m" + text + "\x1b[0m"
}

// padded doubles the last value: the library draws from each value to the next, so the last one
// would not be seen.
func padded(values []float64) []float64 {
	return append(slices.Clone(values), values[len(values)-1])
}

// ceiling returns a number that is not less than v and whose quarters are round, for bytes
// in the unit that v is shown in.
func ceiling(v float64, bytes bool) float64 {
	unit := 1.
	if bytes {
		for v/unit >= 1024 {
			unit *= 1024
		}
	}
	p := math.Pow(10, math.Floor(math.Log10(v/unit)))
	for _, f := range []float64{1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10} {
		if f*p*unit >= v*(1-1e-9) {
			return f * p * unit
		}
	}
	return v
}

// maxLegend is how many deployments are listed below the plots.
const maxLegend = 8

// markLine returns a line with a mark for each deployment, and what the last ones of them
// were.
func (c *call) markLine(got mesh.Measures, n int, marks []mesh.Deployment) (line string, legend []string) {
	cells := []rune(strings.Repeat(" ", n))
	for _, d := range marks {
		at := d.Created
		if !d.Ended.IsZero() {
			at = d.Ended
		}
		i := int(at.Sub(got.Start) / got.Step)
		if i < 0 || i >= n {
			continue
		}
		mark := '^'
		switch d.Status { //nolint:exhaustive // the others are no code that runs
		case mesh.StatusFailed:
			mark = 'x'
		case mesh.StatusWaiting, mesh.StatusRunning:
			mark = '…'
		case mesh.StatusCancelled:
			continue
		}
		if cells[i] != 'x' {
			cells[i] = mark
		}
		release := fmt.Sprintf("#%d", d.Number)
		if d.Release > 0 {
			release = d.Release.String()
		}
		legend = append(legend, fmt.Sprintf("%s %-5s %-9s %s, %s by %s: %s", string(mark), release, d.Kind, c.when(at), d.Status, d.By, mesh.Clip(d.Subject, 40)))
	}
	if len(legend) > maxLegend {
		left := len(legend) - maxLegend
		legend = append(legend[left:], fmt.Sprintf("  and %d before; list all with: ssh mesh deployments -a %s", left, c.stack.Name))
	}
	return strings.TrimRight(string(cells), " "), legend
}

// timeLine returns the times of the first interval, the middle and the end.
func (c *call) timeLine(got mesh.Measures, n int) string {
	layout := "15:04"
	if got.Step*time.Duration(n) > 36*time.Hour {
		layout = "Jan 2"
	}
	cells := []rune(strings.Repeat(" ", plotMargin+n+len(layout)))
	put := func(i int, text string) {
		if i+len(text) <= len(cells) {
			copy(cells[i:], []rune(text))
		}
	}
	at := func(i int) string { return got.Start.Add(time.Duration(i) * got.Step).UTC().Format(layout) }
	put(plotMargin, at(0))
	if n >= 30 {
		put(plotMargin+n/2, at(n/2))
	}
	if n >= 15 {
		put(plotMargin+n-len(layout), at(n))
	}
	return strings.TrimRight(string(cells), " ") + " UTC"
}
