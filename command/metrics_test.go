package command_test

import (
	"strings"
	"testing"
	"time"

	"mesh"
)

func TestMetrics_Pictures(t *testing.T) {
	t.Parallel()
	wide := func(r *mesh.Request) { r.TTY, r.Size = true, mesh.WindowSize{Width: 100, Height: 40} }
	golden(t, "metrics", do(t, full(), "metrics -a blog").out)
	golden(t, "metrics-terminal", strings.ReplaceAll(do(t, full(), "metrics -a blog --since 3h", wide).out, "\r\n", "\n"))
	golden(t, "metrics.json", do(t, full(), "metrics -a blog --json").out)
	golden(t, "metrics-one", do(t, full(), "metrics -a blog -p web.2 --since 2w").out)
	golden(t, "top", do(t, full(), "top").out)
	golden(t, "top-stacks", do(t, full(), "top --stacks --sort name").out)
	golden(t, "top.json", do(t, full(), "top --json --sort rps").out)
}

func TestMetrics_Refusals(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"metrics -a blog --since 5":      `--since takes an age from 1m to 366d, for example 1h or 7d, not "5"`,
		"metrics -a blog --since 2y":     `not "2y"`,
		"metrics -a blog --since 30s":    `not "30s"`,
		"metrics -a blog --since -1d":    `not "-1d"`,
		"metrics -a blog --since 99999w": `not "99999w"`,
		"metrics -a blog -p UPPER":       `UPPER`,
		"metrics -a nosuch":              `no stack`,
		"top --sort colour":              `--sort takes one of cpu, memory, rps, p95, errors, name, not "colour"`,
	} {
		if r := do(t, full(), line); r.status == 0 || !strings.Contains(r.err, want) {
			t.Errorf("%s: %d, %s", line, r.status, r.err)
		}
	}
}

func TestMetrics_NothingMeasured(t *testing.T) {
	t.Parallel()
	f := full()
	f.unmeasured = true
	if r := do(t, f, "metrics -a blog"); r.status != 0 || r.out != "" || !strings.Contains(r.err, "nothing was measured of blog since") {
		t.Errorf("%d, %q, %q", r.status, r.out, r.err)
	}
	if r := do(t, f, "metrics -a blog --json"); r.status != 0 || !strings.Contains(r.out, `"points": []`) {
		t.Errorf("%d, %s", r.status, r.out)
	}
	if r := do(t, f, "top --filter nosuch"); r.status != 0 || r.out != "" || r.err != "nothing runs\n" {
		t.Errorf("%d, %q, %q", r.status, r.out, r.err)
	}
	if r := do(t, f, "top"); !strings.Contains(r.out, "worker.1") {
		t.Errorf("without measures: %q", r.out)
	}
}

// A key sees the stacks that it may see, and no others.
func TestTop_OfALimitedKey(t *testing.T) {
	t.Parallel()
	as := func(stacks ...mesh.StackName) option {
		return func(r *mesh.Request) { r.Key = mesh.Key{Name: "ci", Role: mesh.RoleRead, Stacks: stacks} }
	}
	if r := do(t, full(), "top --stacks", as("empty")); !strings.Contains(r.out, "empty") || strings.Contains(r.out, "blog") {
		t.Errorf("%s%s", r.out, r.err)
	}
	if r := do(t, full(), "metrics -a blog", as("empty")); r.status == 0 || strings.Contains(r.out, "requests") {
		t.Errorf("%s%s", r.out, r.err)
	}
}

// keys gives one key after the other, once the screen shows what the step before it has
// done.
type keys struct {
	t     *testing.T
	out   *screenOf
	steps []string // text to wait for, then keys
}

func (k *keys) Read(b []byte) (int, error) {
	if len(k.steps) == 0 {
		<-k.t.Context().Done() // a terminal that says nothing more
		return 0, k.t.Context().Err()
	}
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(k.out.since(), k.steps[0]); {
		if time.Now().After(deadline) {
			k.t.Errorf("the screen never showed %q:\n%q", k.steps[0], k.out.since())
			return copy(b, "\x03"), nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	n := copy(b, k.steps[1])
	k.steps = k.steps[2:]
	return n, nil
}
