package command

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"mesh"
)

// Canaries decides about releases that some clients try.
type Canaries interface {
	// Canary returns NotFound if none is in progress.
	Canary(ctx context.Context, stack mesh.StackName) (mesh.CanaryState, error)
	// DecideCanary gives the release all clients, or takes it back, and returns when that
	// is done. It writes to out what explains an error.
	DecideCanary(ctx context.Context, stack mesh.StackName, promote bool, by mesh.KeyName, out io.Writer) (mesh.CanaryState, error)
}

var canaryCommands = []*definition{
	{
		topic: "canary", short: "Compare the release that some clients try with the old one", stack: true, json: true, run: runCanary,
		long: "`git push -o canary=10 mesh BRANCH`, or `build:set canary=10%,50%` for every push, gives a new release a share of the\n" +
			"clients first. Each share lasts canary-step. If the release answers more requests with 5xx than the old one, or takes\n" +
			"much longer, it is taken back and the push is rejected.",
	},
	{
		topic: "canary", verb: "promote", short: "Give the release on trial all clients now", stack: true, access: mesh.AccessDeploy, run: func(ctx context.Context, c *call) error {
			return c.decideCanary(ctx, true)
		},
	},
	{
		topic: "canary", verb: "abort", short: "Take the release on trial back; the push is rejected", stack: true, access: mesh.AccessDeploy, run: func(ctx context.Context, c *call) error {
			return c.decideCanary(ctx, false)
		},
	},
}

type canaryJSON struct {
	Release    string         `json:"release"`
	Was        string         `json:"was"`
	Deployment int            `json:"deployment"`
	By         string         `json:"by"`
	Began      time.Time      `json:"began"`
	Share      float64        `json:"share"`
	Steps      []float64      `json:"steps"`
	Step       int            `json:"step"`
	Until      time.Time      `json:"until"`
	New        canarySideJSON `json:"new"`
	Old        canarySideJSON `json:"old"`
}

type canarySideJSON struct {
	Requests uint64  `json:"requests"`
	Errors   uint64  `json:"errors"`
	P50      float64 `json:"p50_seconds"`
	P95      float64 `json:"p95_seconds"`
}

func sideOf(m mesh.Measure) canarySideJSON {
	return canarySideJSON{m.Requests(), m.Status[5], m.Latency.Quantile(50).Seconds(), m.Latency.Quantile(95).Seconds()}
}

func runCanary(ctx context.Context, c *call) error {
	s, err := c.Canaries.Canary(ctx, c.stack.Name)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(canaryJSON{
			Release: s.Release.String(), Was: s.Was.String(), Deployment: int(s.Deployment), By: string(s.By), Began: s.Began,
			Share: s.Share(), Steps: s.Steps, Step: s.Step + 1, Until: s.Until.UTC(), New: sideOf(s.Total.New), Old: sideOf(s.Total.Old),
		})
	}
	c.tell("%s of the clients get %s since %s, by %s; step %d of %d (%s) ends %s\n",
		mesh.Percent(s.Share()), s.Release, c.when(s.Began), s.By, s.Step+1, len(s.Steps), s.Steps, c.in(s.Until))
	row := func(n mesh.ReleaseNumber, m mesh.Measure) []string {
		share := "-"
		if all := m.Requests(); all > 0 {
			share = mesh.Percent(float64(m.Status[5]) / float64(all))
		}
		return []string{n.String(), strconv.FormatUint(m.Requests(), 10), share, brief(m.Latency.Quantile(50)), brief(m.Latency.Quantile(95))}
	}
	c.table([]string{"RELEASE", "REQUESTS", "5XX", "P50", "P95"}, [][]string{row(s.Release, s.Total.New), row(s.Was, s.Total.Old)})
	return nil
}

// brief prints a duration of a request, which is unknown if it is 0.
func brief(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("≤ %s", mesh.Brief(d))
}

func (c *call) decideCanary(ctx context.Context, promote bool) error {
	s, err := c.Canaries.DecideCanary(ctx, c.stack.Name, promote, c.Key.Name, c.Stderr)
	if err != nil {
		return err
	}
	if promote {
		c.say("%s %s: all clients get it\n", c.stack.Name, s.Release)
	} else {
		c.say("%s: took %s back; all clients get %s\n", c.stack.Name, s.Release, s.Was)
	}
	return nil
}
