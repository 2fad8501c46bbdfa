package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/cluster"
)

// machine runs instances in memory.
type machine struct {
	n int // its number: its addresses begin with 10.0.n

	mu      sync.Mutex
	away    bool // it answers nothing
	all     map[string]mesh.Instance
	made    int
	fn      func(mesh.InstanceEvent)
	startup error // what Start fails with
	stopped []string
	images  []string
}

var errAway = mesh.Errorf(mesh.Unavailable, "the engine does not answer")

func (m *machine) err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return errAway
	}
	return nil
}

func (m *machine) Start(_ context.Context, s mesh.InstanceSpec) (mesh.Instance, error) {
	if err := m.err(); err != nil {
		return mesh.Instance{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.startup != nil {
		return mesh.Instance{}, m.startup
	}
	m.made++
	m.images = append(m.images, s.Image)
	in := mesh.Instance{
		ID: fmt.Sprintf("%d-%d", m.n, m.made), Stack: s.Stack, Name: s.Name, Deployment: s.Deployment, Memory: s.Memory, CPUs: s.CPUs, State: mesh.InstanceRunning,
		Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(m.n), 1}), uint16(8000+m.made)), Inside: netip.AddrFrom4([4]byte{10, 9, byte(m.n), byte(m.made)}),
	}
	m.all[in.ID] = in
	return in, nil
}

func (m *machine) list() ([]mesh.Instance, error) {
	if err := m.err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.all), func(a, b mesh.Instance) int { return strings.Compare(a.ID, b.ID) }), nil
}

func (m *machine) Look(context.Context) ([]mesh.Instance, error) { return m.list() }
func (m *machine) List(context.Context) ([]mesh.Instance, error) { return m.list() }
func (m *machine) Ping(ctx context.Context) error {
	if err := m.err(); err != nil {
		<-ctx.Done() // as a cut cable does
		return err
	}
	return nil
}

func (m *machine) Stop(_ context.Context, id string, _ time.Duration) error {
	if err := m.err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.all, id)
	m.stopped = append(m.stopped, id)
	return nil
}
func (m *machine) Halt(context.Context, string, time.Duration) error { return m.err() }
func (m *machine) Revive(_ context.Context, id string) (mesh.Instance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all[id], nil
}

func (m *machine) Watch(ctx context.Context, fn func(mesh.InstanceEvent), _ func()) error {
	m.mu.Lock()
	m.fn = fn
	m.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (m *machine) Check(context.Context, mesh.Instance, mesh.Check, func(string)) (string, error) {
	return fmt.Sprint(m.n), m.err()
}
func (m *machine) RunOneOff(context.Context, mesh.OneOff) (int, error) { return m.n, nil }
func (m *machine) Detach(_ context.Context, _ mesh.OneOff, r mesh.DetachedRun) (mesh.DetachedRun, error) {
	return r, nil
}

func (m *machine) Detached(context.Context, mesh.StackName) ([]mesh.DetachedRun, error) {
	return nil, nil
}
func (m *machine) AwaitRun(context.Context, string) error                              { return nil }
func (m *machine) Logs(context.Context, mesh.LogQuery, func(mesh.LogLine) error) error { return nil }
func (m *machine) OneOffs(context.Context, mesh.StackName) (int, error)                { return 0, nil }
func (m *machine) Exec(context.Context, mesh.Exec) (int, error)                        { return m.n, m.err() }
func (m *machine) StatFile(context.Context, string, string) (mesh.File, error) {
	return mesh.File{}, nil
}
func (m *machine) ListFiles(context.Context, string, string) ([]mesh.File, error) { return nil, nil }
func (m *machine) CopyOut(context.Context, string, string, io.Writer) error       { return nil }
func (m *machine) CopyIn(context.Context, string, string, io.Reader) error        { return nil }
func (m *machine) Stacks(context.Context) ([]mesh.StackName, error) {
	return []mesh.StackName{mesh.StackName(fmt.Sprintf("only-%d", m.n)), "shop"}, m.err()
}
func (m *machine) RemoveStack(context.Context, mesh.StackName) error { return m.err() }
func (m *machine) Sweep(context.Context) error                       { return nil }
func (m *machine) Attach(context.Context) error                      { return nil }
func (m *machine) Outputs(ctx context.Context, found func(mesh.OutputSource), listed func(map[string]bool)) error {
	id := fmt.Sprintf("out-%d", m.n)
	found(mesh.OutputSource{ID: id})
	listed(map[string]bool{id: true})
	time.Sleep(100 * time.Millisecond)
	switch m.n { // an instance begins on one, and then another one is listed again
	case 2:
		found(mesh.OutputSource{ID: "late-2"})
	case 3:
		time.Sleep(100 * time.Millisecond)
		listed(map[string]bool{id: true})
	}
	<-ctx.Done()
	return nil
}

func (m *machine) Output(_ context.Context, id string, _ int, _ bool, fn func(time.Time, byte, []byte) error) error {
	return fn(time.Time{}, 1, fmt.Appendf(nil, "%s on %d", id, m.n))
}
func (m *machine) Secrets(context.Context, mesh.OutputSource) ([]string, error) { return nil, nil }
func (m *machine) Usage(_ context.Context, ids []string) (map[string]mesh.Usage, error) {
	out := map[string]mesh.Usage{}
	for _, id := range ids {
		out[id] = mesh.Usage{Memory: int64(m.n)}
	}
	return out, m.err()
}
func (m *machine) Disk(context.Context) (map[string]int64, error) { return nil, nil }

// world is three nodes, the first of which is this machine.
type world struct {
	t        *testing.T
	c        *cluster.Cluster
	machines []*machine

	mu     sync.Mutex
	nodes  []mesh.Node
	agents map[string]time.Time
	silent map[int]bool // nodes whose instances accept no connections
	on     bool
	alone  bool
	events []string
	lost   int
}

func (w *world) List(context.Context) ([]mesh.Node, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.nodes), nil
}

func (w *world) Machine(n mesh.Node) cluster.Machine { return w.machines[int(n.ID[0]-'1')] }
func (w *world) Agents() map[string]time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.agents)
}

func (w *world) Bring(_ context.Context, n mesh.Node, _ mesh.StackName, id string) (string, error) {
	return id + "@" + n.ID, nil
}
func (w *world) Prepare(ctx context.Context, n mesh.Node) error { return w.Machine(n).(*machine).err() }
func (w *world) Tend(context.Context, mesh.Node)                {}

func (w *world) set(fn func()) {
	w.mu.Lock()
	fn()
	w.mu.Unlock()
	w.c.Changed()
	time.Sleep(10 * time.Second)
	synctest.Wait()
}

func bubble(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, agents: map[string]time.Time{"2": time.Now(), "3": time.Now()}, silent: map[int]bool{}, on: true}
		for i := range 3 {
			w.machines = append(w.machines, &machine{n: i + 1, all: map[string]mesh.Instance{}})
			w.nodes = append(w.nodes, mesh.Node{ID: fmt.Sprint(i + 1), Name: mesh.NodeName(fmt.Sprintf("node%d", i+1)), Self: i == 0, Ready: true, Arch: "x86_64", CPUs: 2, Memory: 1 << 30, Labels: map[string]string{}})
		}
		locked := func(b *bool) func() bool {
			return func() bool {
				w.mu.Lock()
				defer w.mu.Unlock()
				return *b
			}
		}
		w.c = cluster.New(cluster.Options{
			Local: w.machines[0], Nodes: w, Reach: w, On: locked(&w.on), Alone: locked(&w.alone), Arch: "x86_64", Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
			Probe: func(ctx context.Context, at netip.AddrPort) error {
				w.mu.Lock()
				silent := w.silent[int(at.Addr().As4()[2])]
				w.mu.Unlock()
				if silent {
					time.Sleep(time.Second)
					return errors.New("no answer")
				}
				return nil
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _ = w.c.Run(ctx) })
		all.Go(func() {
			_ = w.c.Watch(ctx, func(e mesh.InstanceEvent) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.events = append(w.events, fmt.Sprintf("%s on %s died=%v hand=%v lost=%v", e.Instance.ID, e.Instance.Node, e.Died, e.ByHand, e.Lost))
			}, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.lost++
			})
		})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		fn(t, w)
		cancel()
		all.Wait()
		synctest.Wait()
	})
}

func spec(service string, slot int) mesh.InstanceSpec {
	return mesh.InstanceSpec{Stack: "shop", Name: mesh.InstanceName{Service: mesh.ServiceName(service), Slot: slot}, Image: "img"}
}

// start starts instances and returns how many each node got.
func (w *world) start(specs ...mesh.InstanceSpec) string {
	w.t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	by := map[mesh.NodeName]int{}
	for _, s := range specs {
		all.Go(func() {
			in, err := w.c.Start(w.t.Context(), s)
			if err != nil {
				w.t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			by[in.Node]++
		})
	}
	all.Wait()
	return fmt.Sprintf("%d %d %d", by["node1"], by["node2"], by["node3"])
}

func many(service string, n int) (out []mesh.InstanceSpec) {
	for i := range n {
		out = append(out, spec(service, i+1))
	}
	return out
}

// where returns the instances that Look has, by node.
func (w *world) where() string {
	w.t.Helper()
	all, err := w.c.Look(w.t.Context())
	if err != nil {
		w.t.Error(err)
	}
	var out []string
	for _, in := range all {
		out = append(out, string(in.Node)+":"+in.ID)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestStart_Spreads(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		if got := w.start(many("web", 6)...); got != "2 2 2" {
			t.Errorf("web: %s", got)
		}
		if got := w.start(many("worker", 1)...); got != "1 0 0" {
			t.Errorf("worker: %s", got)
		}
		if got := w.start(many("mail", 2)...); got != "0 1 1" {
			t.Errorf("mail, beside a worker on node1: %s", got)
		}
		// A deployment spreads what it starts, wherever the old instances are that will end.
		next := many("mail", 3)
		for i := range next {
			next[i].Deployment = 7
		}
		if got := w.start(next...); got != "1 1 1" {
			t.Errorf("the next mail: %s", got)
		}
		// What runs elsewhere has the image by the name that its engine has.
		if i := w.machines[1].images; i[0] != "img@2" || w.machines[0].images[0] != "img" {
			t.Errorf("the images are %q and %q", i, w.machines[0].images)
		}
	})
}

func TestStart_WhatDoesNotFit(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		big := spec("big", 1)
		big.Memory, big.CPUs = 700<<20, 1
		of := func(slot int) mesh.InstanceSpec {
			s := big
			s.Name.Slot = slot
			return s
		}
		if got := w.start(of(1), of(2), of(3)); got != "1 1 1" {
			t.Errorf("700 MB each: %s", got)
		}
		_, err := w.c.Start(t.Context(), of(4))
		const want = "big.4 cannot be placed: node1 has 324MiB of memory free of the 700MiB that are needed; node2 has 324MiB"
		var e *mesh.Error
		if !errors.As(err, &e) || !strings.HasPrefix(e.Text, want) || e.Hint == "" {
			t.Errorf("a fourth: %v", err)
		}
		greedy := spec("greedy", 1)
		greedy.CPUs = 1.5
		if _, err := w.c.Start(t.Context(), greedy); err == nil || !strings.Contains(err.Error(), "has 1 cores free of the 1.5") {
			t.Errorf("cores: %v", err)
		}
		// A node that was thought to fit, and does not answer, is not the last word.
		w.machines[1].startup = mesh.Errorf(mesh.Unavailable, "gone")
		if got := w.start(many("web", 3)...); got != "2 0 1" && got != "1 0 2" {
			t.Errorf("without node2: %s", got)
		}
		w.machines[2].startup = mesh.Errorf(mesh.Failed, "no program")
		if _, err := w.c.Start(t.Context(), labelled("name=node3")); err == nil || err.Error() != "no program (on node3)" {
			t.Errorf("a fault of the app: %v", err)
		}
	})
}

func labelled(on ...string) mesh.InstanceSpec {
	s := spec("here", 1)
	s.On = on
	return s
}

func TestStart_Labels(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.set(func() { w.nodes[2].Labels["zone"] = "b" })
		if got := w.start(labelled("zone=b"), labelled("zone=b")); got != "0 0 2" {
			t.Errorf("zone=b: %s", got)
		}
		if got := w.start(labelled("name=node2")); got != "0 1 0" {
			t.Errorf("name=node2: %s", got)
		}
		if _, err := w.c.Start(t.Context(), labelled("zone=b", "name=node2")); err == nil || !strings.Contains(err.Error(), "node2 has no label zone=b; node3 has no label name=node2") {
			t.Errorf("both: %v", err)
		}
		// What has a volume is where that is.
		s := spec("db", 1)
		s.Mounts = []mesh.Mount{{Volume: "v"}}
		w.set(func() { w.nodes[0].Drained, w.nodes[1].Drained = true, true })
		if got := w.start(s, s); got != "2 0 0" {
			t.Errorf("with a volume: %s", got)
		}
		if got := w.start(many("web", 2)...); got != "0 0 2" {
			t.Errorf("the others are drained: %s", got)
		}
		// A processor that images are not built for.
		w.set(func() { w.nodes[2].Arch = "aarch64" })
		if _, err := w.c.Start(t.Context(), spec("web", 9)); err == nil || !strings.Contains(err.Error(), "node3 is not used: its processor is aarch64, and images are built for x86_64") {
			t.Errorf("on another processor: %v", err)
		}
	})
}

// A node that nobody reaches is dead: what ran there has ended, and cannot be revived. When it
// comes back, what it still has is seen again.
func TestDeath(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start(many("web", 3)...)
		lost := w.lost
		w.set(func() { delete(w.agents, "3"); w.nodes[2].Ready = false; w.silent[3] = true })
		if got := w.where(); got != "node1:1-1 node2:2-1" || !slices.Equal(w.events, []string{"3-1 on node3 died=true hand=true lost=true"}) {
			t.Errorf("dead: %s, events %q", got, w.events)
		}
		if _, err := w.c.Revive(t.Context(), "3-1"); !errors.Is(err, mesh.NotFound) {
			t.Errorf("revived: %v", err)
		}
		if err := w.c.RemoveStack(t.Context(), "blog"); !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "node3 is away") {
			t.Errorf("a stack was removed while it was dead: %v", err)
		}
		if err := w.c.Stop(t.Context(), "3-1", 0); err != nil || len(w.machines[2].stopped) > 0 {
			t.Errorf("stopped: %v, %q", err, w.machines[2].stopped)
		}
		if got := w.start(many("web", 1)...); got != "1 0 0" && got != "0 1 0" {
			t.Errorf("in its place: %s", got)
		}
		w.set(func() { w.agents["3"] = time.Now(); w.nodes[2].Ready = true; delete(w.silent, 3) })
		if got := w.where(); !strings.Contains(got, "node3:3-1") || w.lost == lost {
			t.Errorf("back: %s, lost %d times, was %d", got, w.lost, lost)
		}
		if err := w.c.RemoveStack(t.Context(), "blog"); err != nil {
			t.Errorf("a stack was removed: %v", err)
		}
		if err := w.c.Stop(t.Context(), "3-1", 0); err != nil || !slices.Equal(w.machines[2].stopped, []string{"3-1"}) {
			t.Errorf("stopped: %v, %q", err, w.machines[2].stopped)
		}
	})
}

// An agent that is missing alone costs nothing but what only it can do.
func TestAgentAlone(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start(many("web", 3)...)
		w.set(func() { delete(w.agents, "2") })
		if got := w.where(); got != "node1:1-1 node2:2-1 node3:3-1" || len(w.events) > 0 {
			t.Errorf("%s, events %q", got, w.events)
		}
		if got := w.start(many("mail", 2)...); got != "1 0 1" {
			t.Errorf("meanwhile: %s", got)
		}
		nodes, instances := w.c.Members()
		i := slices.IndexFunc(nodes, func(n mesh.Node) bool { return n.ID == "2" })
		if nodes[i].Fault != "its agent is not connected" || instances["2"] != 1 {
			t.Errorf("%+v, %d instances", nodes[i], instances["2"])
		}
	})
}

// A cable that is cut says nothing: the node is dead although its connection seems to exist, and
// long before anybody is told that it does not.
func TestSilence(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start(many("web", 3)...)
		w.mu.Lock()
		w.silent[2] = true
		w.mu.Unlock()
		m := w.machines[1]
		m.mu.Lock()
		m.away = true
		m.mu.Unlock()
		began := time.Now()
		for len(func() []string { w.mu.Lock(); defer w.mu.Unlock(); return w.events }()) == 0 {
			if time.Since(began) > 20*time.Second {
				t.Fatal("nobody notices")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took > 4500*time.Millisecond {
			t.Errorf("noticed after %v", took)
		}
		// A node that is only slow keeps its instances.
		m = w.machines[2]
		m.mu.Lock()
		m.away = true
		m.mu.Unlock()
		time.Sleep(10 * time.Second)
		if got := w.where(); got != "node1:1-1 node3:3-1" {
			t.Errorf("slow: %s", got)
		}
		m.mu.Lock()
		m.away = false
		m.mu.Unlock()
		time.Sleep(5 * time.Second)
		if got := w.start(labelled("name=node3")); got != "0 0 1" {
			t.Errorf("fast again: %s", got)
		}
	})
}

// A node that has just joined has no name for a moment.
func TestNameless(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.set(func() { w.nodes[2].Name = "" })
		w.set(func() {
			w.nodes = append(w.nodes[:2], mesh.Node{ID: "3", Ready: true})
		})
		w.set(func() { w.nodes[2].Name = "node3" })
		if got := w.start(labelled("name=node3")); got != "0 0 1" {
			t.Errorf("%s", got)
		}
	})
}

func TestRemovedNode(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start(many("web", 3)...)
		w.set(func() { w.nodes = w.nodes[:2]; delete(w.agents, "3"); w.silent[3] = true })
		nodes, _ := w.c.Members()
		if got := w.where(); got != "node1:1-1 node2:2-1" || len(nodes) != 2 || len(w.events) != 1 {
			t.Errorf("%s, %d nodes, events %q", got, len(nodes), w.events)
		}
	})
}

// Everything about an instance goes to the node that has it.
func TestPassesOn(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start(many("web", 3)...)
		ctx := t.Context()
		n, err := w.c.Exec(ctx, mesh.Exec{ID: "3-1"})
		if saw, cerr := w.c.Check(ctx, mesh.Instance{ID: "2-1"}, mesh.Check{}, nil); n != 3 || saw != "2" || errors.Join(err, cerr) != nil {
			t.Errorf("exec on %d, checked by %s, %v %v", n, saw, err, cerr)
		}
		use, err := w.c.Usage(ctx, []string{"1-1", "2-1", "3-1"})
		if err != nil || use["1-1"].Memory != 1 || use["2-1"].Memory != 2 || use["3-1"].Memory != 3 {
			t.Errorf("%v, %v", use, err)
		}
		stacks, err := w.c.Stacks(ctx)
		if err != nil || !slices.Equal(stacks, []mesh.StackName{"only-1", "only-2", "only-3", "shop"}) {
			t.Errorf("%v, %v", stacks, err)
		}
		if code, err := w.c.RunOneOff(ctx, mesh.OneOff{}); err != nil || code != 1 {
			t.Errorf("a one-off command runs on %d, %v", code, err)
		}
		octx, end := context.WithCancel(ctx)
		var found, listed []string
		var mu sync.Mutex
		var all sync.WaitGroup
		all.Go(func() {
			_ = w.c.Outputs(octx, func(src mesh.OutputSource) {
				mu.Lock()
				defer mu.Unlock()
				found = append(found, src.ID)
			}, func(ids map[string]bool) {
				mu.Lock()
				defer mu.Unlock()
				listed = append(listed, strings.Join(slices.Sorted(maps.Keys(ids)), " "))
			})
		})
		time.Sleep(time.Second)
		synctest.Wait()
		end()
		all.Wait()
		slices.Sort(found)
		// Half of them would have the others forgotten.
		if !slices.Equal(found, []string{"late-2", "out-1", "out-2", "out-3"}) || !slices.Equal(listed, []string{"out-1 out-2 out-3", "late-2 out-1 out-2 out-3"}) {
			t.Errorf("found %q, listed %q", found, listed)
		}
		_ = w.c.Output(ctx, "out-2", -1, false, func(_ time.Time, _ byte, text []byte) error {
			if string(text) != "out-2 on 2" {
				t.Errorf("%s", text)
			}
			return nil
		})
	})
}

func TestOff(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start(many("web", 3)...)
		// On the way back, new instances start here, and the others are still reached.
		w.set(func() { w.alone = true })
		in, err := w.c.Start(t.Context(), spec("web", 4))
		if err != nil || in.ID != "1-2" || in.Node != "" {
			t.Errorf("alone: %+v, %v", in, err)
		}
		if err := w.c.Stop(t.Context(), "2-1", 0); err != nil || !slices.Equal(w.machines[1].stopped, []string{"2-1"}) {
			t.Errorf("%v, %q", err, w.machines[1].stopped)
		}
		w.set(func() { w.on, w.alone = false, false })
		if got := w.where(); got != ":1-1 :1-2" {
			t.Errorf("off: %q", got)
		}
		if in, err := w.c.Start(t.Context(), spec("web", 5)); err != nil || in.Node != "" || in.ID != "1-3" {
			t.Errorf("off: %+v, %v", in, err)
		}
	})
}
