package command

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Measures returns what stacks did and used.
type Measures interface {
	// Measures leaves gaps where nothing is known. The only errors are those of ctx.
	Measures(ctx context.Context, q mesh.MeasureQuery) (mesh.Measures, error)
	// Latest returns the last mesh.MeasureStep by instance, and without a slot the requests
	// of a service that no instance got. The map is the caller's.
	Latest(stack mesh.StackName) map[mesh.InstanceName]mesh.Measure
}

var metricsCommands = []*definition{
	{
		topic: "metrics", short: "Draw requests, latency, CPU and memory over time", stack: true, json: true, run: runMetrics,
		long: "Below the plots are marks for deployments: ^ live, x failed, … in progress. The table has totals, and the\n" +
			"highest memory. A line of a service without a number has the requests that no instance got, and all of the\n" +
			"service from the time before two weeks ago. mesh keeps 10 s for a day, a minute for two weeks and 15 minutes\n" +
			"for a year.",
		flags: func(f *pflag.FlagSet) {
			f.String("since", "24h", "the last `AGE`, for example 1h or 7d")
			f.StringP("ps", "p", "", "only this `SERVICE` or instance, for example web or web.1")
		},
	},
}

// The times that metrics can show.
const (
	leastAge = time.Minute
	mostAge  = 366 * 24 * time.Hour
)

func runMetrics(ctx context.Context, c *call) error {
	text, _ := c.flags.GetString("since")
	age, err := mesh.ParseAge(text)
	if err != nil || age < leastAge || age > mostAge {
		return c.usage("--since takes an age from 1m to 366d, for example 1h or 7d, not %q", mesh.Clip(text, 60))
	}
	only, err := c.measured()
	if err != nil {
		return err
	}
	now := c.Now()
	q := mesh.MeasureQuery{Stack: c.stack.Name, Since: now.Add(-age), Until: now, Points: max(c.plotWidth(), 20), By: mesh.ByInstance}
	if c.json {
		q.Points = 0
	}
	got, err := c.Measures.Measures(ctx, q)
	if err != nil {
		return err
	}
	got.Rows = slices.DeleteFunc(got.Rows, func(r mesh.MeasureRow) bool {
		return only.Service != "" && (r.Name.Service != only.Service || only.Slot != 0 && r.Name.Slot != only.Slot)
	})
	all := together(got)
	marks, err := c.marks(ctx, q.Since)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(metricsJSONOf(q, got, all, marks))
	}
	if len(got.Rows) == 0 {
		c.tell("nothing was measured of %s since %s\n", c.stack.Name, c.when(q.Since))
		return nil
	}
	c.plots(got, all, marks)
	c.totals(got)
	return nil
}

// measured returns the service or instance of -p; zero: all.
func (c *call) measured() (name mesh.InstanceName, err error) {
	typed, _ := c.flags.GetString("ps")
	if typed == "" {
		return name, nil
	}
	if name, err = mesh.ParseInstanceName(typed); err == nil {
		return name, nil
	}
	svc, err := mesh.ParseServiceName(typed)
	return mesh.InstanceName{Service: svc}, err
}

// together returns the intervals of all rows together.
func together(m mesh.Measures) []mesh.Measure {
	var all []mesh.Measure
	for _, r := range m.Rows {
		if all == nil {
			all = make([]mesh.Measure, len(r.Points))
		}
		for i, p := range r.Points {
			all[i].Beside(p)
		}
	}
	return all
}

// marks returns the deployments since a time that ran code, oldest first.
func (c *call) marks(ctx context.Context, since time.Time) ([]mesh.Deployment, error) {
	all, err := c.History.Deployments(ctx, c.stack.Name, 0)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(d mesh.Deployment) bool {
		return d.Created.Before(since) || d.Status == mesh.StatusDryRun || d.Status == mesh.StatusSkipped
	})
	slices.Reverse(all)
	return all, nil
}

type metricsJSON struct {
	Stack       string            `json:"stack"`
	Since       time.Time         `json:"since"`
	Until       time.Time         `json:"until"`
	Step        float64           `json:"step_seconds"`
	Points      []measureJSON     `json:"points"`
	Rows        []measuredRowJSON `json:"rows"`
	Deployments []deploymentJSON  `json:"deployments"`
}

// measuredRowJSON is the total of an instance, or of what no instance of a service got.
type measuredRowJSON struct {
	Service  string `json:"service"`
	Instance string `json:"instance,omitempty"`
	measureJSON
}

type measureJSON struct {
	At       *time.Time        `json:"at,omitempty"`
	Known    float64           `json:"known_seconds"` // 0: nothing is known of this interval
	Requests uint64            `json:"requests"`
	RPS      float64           `json:"rps"`
	Status   map[string]uint64 `json:"status,omitempty"`
	P50      float64           `json:"p50_ms"`
	P95      float64           `json:"p95_ms"`
	P99      float64           `json:"p99_ms"`
	Bytes    uint64            `json:"response_bytes"`
	InFlight int64             `json:"in_flight"`
	Held     int64             `json:"held"`
	Cores    float64           `json:"cpu_cores"`
	Memory   int64             `json:"memory_bytes"`
	Restarts uint64            `json:"restarts"`
	Disk     int64             `json:"disk_bytes"`
}

func measureJSONOf(m mesh.Measure) measureJSON {
	j := measureJSON{
		Known: m.Span().Seconds(), Requests: m.Requests(), RPS: round(m.Rate(), 3), Bytes: m.Bytes, InFlight: m.InFlight, Held: m.Held, Cores: round(m.Cores(), 4),
		P50: millis(m.Latency.Quantile(50)), P95: millis(m.Latency.Quantile(95)), P99: millis(m.Latency.Quantile(99)),
		Memory: m.Memory, Restarts: m.Restarts, Disk: m.Disk,
	}
	for i, n := range m.Status {
		if n == 0 {
			continue
		}
		if j.Status == nil {
			j.Status = map[string]uint64{}
		}
		class := "other"
		if i > 0 {
			class = strconv.Itoa(i) + "xx"
		}
		j.Status[class] = n
	}
	return j
}

// round rounds to so many decimals, since JSON is read by people as well.
func round(v float64, decimals int) float64 {
	f := math.Pow10(decimals)
	return math.Round(v*f) / f
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func metricsJSONOf(q mesh.MeasureQuery, got mesh.Measures, all []mesh.Measure, marks []mesh.Deployment) metricsJSON {
	j := metricsJSON{
		Stack: string(q.Stack), Since: q.Since.UTC(), Until: q.Until.UTC(), Step: got.Step.Seconds(),
		Points: []measureJSON{}, Rows: []measuredRowJSON{}, Deployments: []deploymentJSON{},
	}
	for i, m := range all {
		p, at := measureJSONOf(m), got.Start.Add(time.Duration(i)*got.Step).UTC()
		p.At = &at
		j.Points = append(j.Points, p)
	}
	for _, r := range got.Rows {
		row := measuredRowJSON{Service: string(r.Name.Service), measureJSON: measureJSONOf(r.Total())}
		if r.Name.Slot > 0 {
			row.Instance = r.Name.String()
		}
		j.Rows = append(j.Rows, row)
	}
	for _, d := range marks {
		j.Deployments = append(j.Deployments, toDeploymentJSON(d))
	}
	return j
}

// totals prints a table of the rows.
func (c *call) totals(got mesh.Measures) {
	var rows [][]string
	for _, r := range got.Rows {
		m := r.Total()
		if m.Requests() == 0 && m.Memory == 0 {
			continue // it held requests, which an instance got then
		}
		requests := []string{"-", "-", "-", "-"}
		if m.Requests() > 0 {
			requests = []string{strconv.FormatUint(m.Requests(), 10), strconv.FormatUint(m.Status[5], 10), shortTime(m.Latency.Quantile(50)), shortTime(m.Latency.Quantile(95))}
		}
		use := []string{"-", "-", "-", "-"}
		if m.Memory > 0 {
			use = []string{percent(m.Cores()), shortBytes(m.Memory), strconv.FormatUint(m.Restarts, 10), shortBytes(m.Disk)}
		}
		rows = append(rows, slices.Concat([]string{rowName(r.Name)}, requests, use))
	}
	c.table([]string{"NAME", "REQUESTS", "5XX", "P50", "P95", "CPU", "MEMORY", "RESTARTS", "DISK"}, rows)
}

// rowName names a row: "web.1", "web: no instance", or the rest.
func rowName(n mesh.InstanceName) string {
	switch {
	case n.Service == "":
		return "(other services)"
	case n.Slot == 0:
		return string(n.Service)
	}
	return n.String()
}

// percent formats cores as a percentage of one.
func percent(cores float64) string {
	if cores > 0 && cores < .1 {
		return fmt.Sprintf("%.1f%%", cores*100)
	}
	return fmt.Sprintf("%.0f%%", cores*100)
}

// shortBytes formats a size in at most five characters: 950K, 1.5M, 182M, 2.1G.
func shortBytes(n int64) string {
	v, i := float64(n), 0
	for v >= 999.5 && i < 4 {
		v /= 1024
		i++
	}
	unit := []string{"B", "K", "M", "G", "T"}[i]
	if i > 0 && v < 9.95 {
		return fmt.Sprintf("%.1f%s", v, unit)
	}
	return fmt.Sprintf("%.0f%s", v, unit)
}

// shortTime formats a duration: 1.5ms, 20ms, 3s; 0 as "-".
func shortTime(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < time.Second:
		return fmt.Sprintf("%gms", millis(d))
	}
	return fmt.Sprintf("%gs", d.Seconds())
}
