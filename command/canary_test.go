package command_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"mesh"
)

// fakeCanaries has the canary of its fake.
type fakeCanaries struct{ *fake }

func (f fakeCanaries) Canary(_ context.Context, stack mesh.StackName) (mesh.CanaryState, error) {
	if f.canary == nil {
		return mesh.CanaryState{}, mesh.Errorf(mesh.NotFound, "no canary of %s is in progress", stack)
	}
	return *f.canary, nil
}

func (f fakeCanaries) DecideCanary(ctx context.Context, stack mesh.StackName, promote bool, by mesh.KeyName, _ io.Writer) (mesh.CanaryState, error) {
	f.do("canary of %s by %s: %t", stack, by, promote)
	return f.Canary(ctx, stack)
}

func (f fakeCanaries) Switch(_ context.Context, stack mesh.StackName, n mesh.ReleaseNumber, by mesh.KeyName, _ io.Writer) error {
	f.do("switch %s to %s by %s", stack, n, by)
	return nil
}

func (f fakeCanaries) StagedLink(st mesh.Stack) (string, error) {
	if st.Staged == nil {
		return "", mesh.Errorf(mesh.NotFound, "no release of %s waits for switch", st.Name)
	}
	return "http://" + st.Staged.Release.String() + "--blog.localhost:8080/?mesh-pass=x", nil
}

func (f fakeCanaries) DiscardStaged(_ context.Context, stack mesh.StackName) (mesh.ReleaseNumber, error) {
	f.do("discard of %s", stack)
	return 3, nil
}

func TestSwitch(t *testing.T) {
	t.Parallel()
	f := full()
	if r := do(t, f, "switch:link -a blog"); r.fault == nil || !strings.Contains(r.fault.Text, "no release of blog waits") {
		t.Errorf("without one: %v", r.fault)
	}
	f.stacks[0].Staged = &mesh.Staged{Release: 3, By: "laptop", Since: now, Until: now.Add(time.Hour)}
	if r := do(t, f, "switch:link -a blog"); r.out != "http://v3--blog.localhost:8080/?mesh-pass=x\n" {
		t.Errorf("%q", r.out)
	}
	if r := do(t, f, "switch:link -a blog --json"); !strings.Contains(r.out, `"release": "v3"`) || !strings.Contains(r.out, `"until"`) {
		t.Errorf("%q", r.out)
	}
	if r := do(t, f, "switch v3 -a blog"); r.status != 0 || !strings.Contains(strings.Join(f.did, " "), "switch blog to v3 by laptop") {
		t.Errorf("%q %q %q", r.out, r.err, f.did)
	}
	if r := do(t, f, "switch 3x -a blog"); r.fault == nil || r.fault.Kind != mesh.Invalid {
		t.Errorf("%v", r.fault)
	}
	if r := do(t, f, "switch:discard -a blog"); r.out != "blog: discarded v3\n" {
		t.Errorf("%q", r.out)
	}
	if r := do(t, f, "switch:link -a blog", as(mesh.Key{Name: "r", Role: mesh.RoleRead})); r.fault == nil || r.fault.Kind != mesh.Denied {
		t.Errorf("with the role read: %v", r.fault)
	}
}

func TestCanary(t *testing.T) {
	t.Parallel()
	f := full()
	if r := do(t, f, "canary -a blog"); r.status != 1 || !strings.Contains(r.fault.Text, "no canary of blog") {
		t.Errorf("without one: %d %v", r.status, r.fault)
	}
	s := mesh.CanaryState{Release: 12, Was: 11, By: "laptop", Began: now.Add(-time.Minute), Steps: mesh.Canary{0.1, 0.5}, Until: now.Add(4 * time.Minute)}
	s.Total.New.Status = [6]uint64{2: 90, 5: 10}
	s.Total.New.Latency[mesh.LatencyClass(20*time.Millisecond)] = 100
	s.Total.Old.Status = [6]uint64{2: 1000}
	f.canary = &s
	r := do(t, f, "canary -a blog")
	for _, want := range []string{"10% of the clients get v12 since 2026-03-04T11:59:00Z, by laptop; step 1 of 2 (10%,50%) ends 2026-03-04T12:04:00Z", "v12", "100", "10%", "≤ 20ms", "v11", "1000", "0%"} {
		if !strings.Contains(r.err+r.out, want) {
			t.Errorf("no %q in\n%s%s", want, r.err, r.out)
		}
	}
	if r := do(t, f, "canary -a blog --json"); !strings.Contains(r.out, `"share": 0.1`) || !strings.Contains(r.out, `"p95_seconds": 0.02`) {
		t.Errorf("as JSON: %s", r.out)
	}
	if r := do(t, f, "canary:promote -a blog"); r.out != "blog v12: all clients get it\n" || !strings.Contains(strings.Join(f.did, " "), "canary of blog by laptop: true") {
		t.Errorf("%q %q %q", r.out, r.err, f.did)
	}
	if r := do(t, f, "canary:abort -a blog"); r.out != "blog: took v12 back; all clients get v11\n" {
		t.Errorf("%q %q", r.out, r.err)
	}
	if r := do(t, f, "canary:abort -a blog", as(mesh.Key{Name: "r", Role: mesh.RoleRead})); r.fault == nil || r.fault.Kind != mesh.Denied {
		t.Errorf("with the role read: %v", r.fault)
	}
}
