// Scale simulates a large server: the real store, deployer, cluster and router, over engines in
// memory. It prints what each of them costs at a number of stacks and of nodes: docs/scale.md.
//
//	go run ./tools/scale -stacks 100,1000,10000 -nodes 1,100,1000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"mesh"
	"mesh/cluster"
	"mesh/deploy"
	"mesh/deploy/deploytest"
	"mesh/router"
	"mesh/store"
)

func main() {
	stacks := flag.String("stacks", "100,1000,10000", "`NUMBERS` of stacks, each with two instances")
	nodes := flag.String("nodes", "1,100,1000", "`NUMBERS` of nodes")
	idle := flag.Duration("idle", 20*time.Second, "how long the server is watched while nothing happens")
	flag.Parse()
	fmt.Println("| stacks | nodes | a new stack, the last hundred, median | a push to one of them, median | open the store | mesh.db | list the stacks | reconcile | memory | CPU while nothing happens | a route changes | find a route | a node's instances are elsewhere |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, n := range numbers(*stacks) {
		if err := simulate(n, numbers(*nodes), *idle); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
	}
}

func numbers(s string) (out []int) {
	for f := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "error: %q is not a number\n", f)
			os.Exit(2)
		}
		out = append(out, n)
	}
	return out
}

// world is a server.
type world struct {
	dir    string
	store  *store.Store
	fleet  *fleet
	router *router.Router
	repos  *deploytest.Repos
	build  *deploytest.Builder
}

func (w *world) deployer() (*deploy.Deployer, *cluster.Cluster) {
	log := slog.New(slog.DiscardHandler)
	c := cluster.New(cluster.Options{
		Local: w.fleet.machines[0], Nodes: w.fleet, Reach: w.fleet, On: func() bool { return len(w.fleet.machines) > 1 }, Arch: "x86_64", Logger: log, Probe: w.fleet.probe,
	})
	w.router = router.New(router.Options{Logger: log})
	d := deploy.New(deploy.Options{
		Store: w.store, Builder: w.build, Runner: c, Router: w.router, Repos: w.repos, Domain: "example.com", Logger: log,
		Pool: netip.MustParsePrefix("10.0.0.0/9"), // the default has room for 1,024 stacks
	})
	w.repos.Derive(d.RepoState)
	return d, c
}

// start reconciles and supervises. stop ends that.
func (w *world) start() (d *deploy.Deployer, took time.Duration, stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	d, c := w.deployer()
	c.Settle(ctx)
	began := time.Now()
	if err := d.Reconcile(ctx); err != nil {
		cancel()
		return nil, 0, nil, err
	}
	took = time.Since(began)
	var all sync.WaitGroup
	all.Go(func() { _ = c.Run(ctx) })
	all.Go(func() { _ = d.Run(ctx) })
	return d, took, func() { cancel(); all.Wait() }, nil
}

func simulate(stacks int, nodes []int, idle time.Duration) (err error) {
	w := &world{fleet: newFleet(1), repos: deploytest.NewRepos(), build: deploytest.NewBuilder()}
	if w.dir, err = os.MkdirTemp("", "scale"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(w.dir) }()
	if w.store, err = store.Open(w.dir); err != nil {
		return err
	}
	defer func() { _ = w.store.Close() }()
	d, _, stop, err := w.start()
	if err != nil {
		return err
	}
	created, err := w.push(d, 0, stacks)
	stop()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		w.fleet.spread(n)
		if err := w.measure(stacks, created, idle); err != nil {
			return err
		}
	}
	return nil
}

// push pushes stacks, new ones or again, and returns the median of the last hundred times.
func (w *world) push(d *deploy.Deployer, from, to int) (time.Duration, error) {
	var took []time.Duration
	for i := from; i < to; i++ {
		p := w.repos.Commit(mesh.StackName(fmt.Sprintf("s%05d", i)), map[string]string{"Procfile": "web: ./serve\nworker: ./work", "app.json": `{"formation":{"worker":{"quantity":1}}}`})
		began := time.Now()
		if err := d.Push(context.Background(), p, io.Discard); err != nil {
			return 0, fmt.Errorf("push stack %d of %d: %w", i+1, to, err)
		}
		took = append(took, time.Since(began))
	}
	took = took[max(0, len(took)-100):]
	slices.Sort(took)
	return took[len(took)/2], nil
}

// measure starts a server again, and prints what things cost.
func (w *world) measure(stacks int, created, idle time.Duration) error {
	if err := w.store.Close(); err != nil {
		return err
	}
	began := time.Now()
	var err error
	if w.store, err = store.Open(w.dir); err != nil {
		return err
	}
	opened := time.Since(began)
	info, err := os.Stat(filepath.Join(w.dir, "mesh.db"))
	if err != nil {
		return err
	}
	began = time.Now()
	if _, err := w.store.Stacks(context.Background()); err != nil {
		return err
	}
	listed := time.Since(began)

	w.router = nil
	w.repos.Derive(nil) // what remains is the machines and the repositories, which are simulated
	before := heap()
	d, reconciled, stop, err := w.start()
	if err != nil {
		return err
	}
	defer stop()
	time.Sleep(3 * time.Second) // what a start begins has ended
	memory := heap() - before
	cpu, began := spent(), time.Now()
	time.Sleep(idle)
	share := 100 * float64(spent()-cpu) / float64(time.Since(began))
	pushed, err := w.push(d, max(0, stacks-100), stacks)
	if err != nil {
		return err
	}
	change, find := w.routes(stacks)
	moved, nodes := "—", len(w.fleet.machines)
	if nodes > 1 {
		dt, n := w.fail(nodes - 1)
		moved = fmt.Sprintf("%d in %s", n, dt.Round(10*time.Millisecond))
	}
	fmt.Printf("| %d | %d | %s | %s | %s | %.1f MB | %s | %s | %.0f MB | %.1f %% of a core | %s | %s | %s |\n", stacks, nodes, round(created), round(pushed), round(opened), float64(info.Size())/1e6,
		round(listed), round(reconciled), float64(memory)/1e6, share, round(change), round(find), moved)
	return nil
}

// routes measures a change of one stack's route, and how long it takes to find the stack of a host.
func (w *world) routes(stacks int) (change, find time.Duration) {
	host := func(i int) mesh.Host { return mesh.Host(fmt.Sprintf("s%05d.example.com", i)) }
	n := min(stacks, 1000)
	began := time.Now()
	for i := range n {
		w.router.Switch(mesh.Route{Stack: mesh.StackName(fmt.Sprintf("s%05d", i)), Hosts: []mesh.Host{host(i)}, Targets: []mesh.Target{{ID: fmt.Sprint("t", i), Addr: netip.MustParseAddrPort("10.1.1.1:5000")}}})
	}
	change = time.Since(began) / time.Duration(n)
	began = time.Now()
	for i := range 100_000 {
		if _, ok := w.router.StackOf(string(host(i % stacks))); !ok {
			panic("a host without a stack") // a tool
		}
	}
	return change, time.Since(began) / 100_000
}

// fail cuts a node off, and waits until as many instances as it had are on others.
func (w *world) fail(i int) (took time.Duration, n int) {
	m := w.fleet.machines[i]
	m.mu.Lock()
	n = len(m.all)
	m.away = true
	m.mu.Unlock()
	want := w.fleet.count(nil) - n
	began := time.Now()
	for w.fleet.count(m) < want+n {
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began), n
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse) //nolint:gosec // not that large
}

func spent() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func round(d time.Duration) string {
	switch {
	case d > 10*time.Second:
		d = d.Round(time.Second)
	case d > 10*time.Millisecond:
		d = d.Round(time.Millisecond)
	case d > 10*time.Microsecond:
		d = d.Round(time.Microsecond)
	}
	return d.String()
}

// fleet is nodes in memory: cluster.Nodes and cluster.Reach.
type fleet struct {
	machines []*machine
	began    time.Time
}

func newFleet(n int) *fleet {
	f := &fleet{began: time.Now()}
	for i := range n {
		f.machines = append(f.machines, &machine{n: i, all: map[string]mesh.Instance{}})
	}
	return f
}

// spread has n machines instead, each with as many of the instances.
func (f *fleet) spread(n int) {
	var all []mesh.Instance
	for _, m := range f.machines {
		m.mu.Lock()
		for _, in := range m.all {
			all = append(all, in)
		}
		m.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b mesh.Instance) int { return strings.Compare(a.ID, b.ID) })
	f.machines = newFleet(n).machines
	for i, in := range all {
		m := f.machines[i%n]
		m.made++
		in.ID, in.Addr, in.Node = fmt.Sprintf("%d-%d", m.n, m.made), netip.AddrPortFrom(m.addr(), uint16(1024+m.made%60000)), "" //nolint:gosec // ports of a simulation
		m.all[in.ID] = in
	}
}

func id(i int) string { return fmt.Sprintf("node%07d", i) }

func (f *fleet) List(context.Context) (out []mesh.Node, err error) {
	for i, m := range f.machines {
		m.mu.Lock()
		ready := !m.away
		m.mu.Unlock()
		out = append(out, mesh.Node{
			ID: id(i), Name: mesh.NodeName(id(i)), Addr: m.addr(), Self: i == 0, Manager: i == 0, Ready: ready, Arch: "x86_64", CPUs: 16, Memory: 64 << 30, Labels: map[string]string{},
		})
	}
	return out, nil
}

func (f *fleet) of(n mesh.Node) *machine {
	i, _ := strconv.Atoi(strings.TrimPrefix(n.ID, "node"))
	return f.machines[i]
}

func (f *fleet) Machine(n mesh.Node) cluster.Machine { return f.of(n) }
func (f *fleet) Agents() map[string]time.Time {
	out := map[string]time.Time{}
	for i, m := range f.machines {
		m.mu.Lock()
		if i > 0 && !m.away {
			out[id(i)] = f.began
		}
		m.mu.Unlock()
	}
	return out
}

func (f *fleet) Bring(_ context.Context, _ mesh.Node, _ mesh.StackName, image string) (string, error) {
	return image, nil
}
func (f *fleet) Prepare(context.Context, mesh.Node) error { return nil }
func (f *fleet) Tend(context.Context, mesh.Node)          {}

// probe is cluster.Options.Probe.
func (f *fleet) probe(ctx context.Context, at netip.AddrPort) error {
	b := at.Addr().As4()
	m := f.machines[int(b[2])*250+int(b[3])-1]
	m.mu.Lock()
	away := m.away
	m.mu.Unlock()
	if !away {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second) // as the real one
	defer cancel()
	<-ctx.Done()
	return ctx.Err()
}

// count returns how many instances run, without those of one machine.
func (f *fleet) count(without *machine) (n int) {
	for _, m := range f.machines {
		if m != without {
			m.mu.Lock()
			n += len(m.all)
			m.mu.Unlock()
		}
	}
	return n
}

// machine is an engine in memory. What this program does not use panics.
type machine struct {
	cluster.Machine
	n int

	mu   sync.Mutex
	away bool
	made int
	all  map[string]mesh.Instance
}

func (m *machine) addr() netip.Addr {
	return netip.AddrFrom4([4]byte{10, 250, byte(m.n / 250), byte(m.n%250 + 1)})
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
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return mesh.Instance{}, errAway
	}
	m.made++
	in := mesh.Instance{
		ID: fmt.Sprintf("%d-%d", m.n, m.made), Stack: s.Stack, Name: s.Name, Release: s.Release, Deployment: s.Deployment, Spec: s.Fingerprint, Memory: s.Memory, CPUs: s.CPUs, State: mesh.InstanceRunning,
		Started: time.Now(), Addr: netip.AddrPortFrom(m.addr(), uint16(1024+m.made%60000)), Inside: netip.AddrFrom4([4]byte{10, 200, byte(m.made / 250), byte(m.made%250 + 1)}), //nolint:gosec // ports of a simulation
	}
	m.all[in.ID] = in
	return in, nil
}

func (m *machine) Stop(_ context.Context, id string, _ time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return errAway
	}
	delete(m.all, id)
	return nil
}

func (m *machine) Look(context.Context) ([]mesh.Instance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return nil, errAway
	}
	out := make([]mesh.Instance, 0, len(m.all))
	for _, in := range m.all {
		out = append(out, in)
	}
	return out, nil
}
func (m *machine) List(ctx context.Context) ([]mesh.Instance, error) { return m.Look(ctx) }
func (m *machine) Ping(ctx context.Context) error {
	err := m.err()
	if err != nil {
		<-ctx.Done() // as a cut cable does
	}
	return err
}

func (m *machine) Watch(ctx context.Context, _ func(mesh.InstanceEvent), _ func()) error {
	<-ctx.Done()
	return nil
}

func (m *machine) Check(context.Context, mesh.Instance, mesh.Check, func(string)) (string, error) {
	return "200", m.err()
}

func (m *machine) Detached(context.Context, mesh.StackName) ([]mesh.DetachedRun, error) {
	return nil, m.err()
}
func (m *machine) OneOffs(context.Context, mesh.StackName) (int, error) { return 0, nil }
func (m *machine) Stacks(context.Context) ([]mesh.StackName, error)     { return nil, m.err() }
func (m *machine) RemoveStack(context.Context, mesh.StackName) error    { return m.err() }
func (m *machine) Sweep(context.Context) error                          { return nil }
func (m *machine) Attach(context.Context) error                         { return nil }
func (m *machine) RunOneOff(context.Context, mesh.OneOff) (int, error) {
	return 1, errors.New("not simulated")
}
