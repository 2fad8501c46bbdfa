// Package deploytest has what a deploy.Deployer works with, for tests: a Runner,
// a Builder, a Router and Repos that work, in memory, and the real store on a
// folder of the test's. A function field bends what a test wants to go wrong.
//
//	w := deploytest.New(t)
//	d := w.Start(nil)
//	err := d.Push(ctx, w.Commit("blog", map[string]string{"Procfile": "web: ./serve"}), &out)
package deploytest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // ids as git has them
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	"mesh/deploy"
	"mesh/store"
)

// World is a server's surroundings. Use it in a synctest bubble: time stands
// still until all have nothing to do.
type World struct {
	T       *testing.T
	Store   *store.Store
	Runner  *Runner
	Builder *Builder
	Router  *Router
	Repos   *Repos
	Options deploy.Options // of the deployers that are started; fill in what a test wants
}

// New makes a world with nothing in it. The store is checked at the test's end.
func New(t *testing.T) *World {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &World{T: t, Store: s, Runner: NewRunner(), Builder: NewBuilder(), Router: NewRouter(), Repos: NewRepos()}
	t.Cleanup(func() {
		if err := errors.Join(w.Store.Check(), w.Store.Close()); err != nil {
			t.Errorf("the store is not consistent: %v", err)
		}
	})
	w.Runner.image = w.Builder.has
	return w
}

// Deployer makes a deployer in this world that does not run yet.
func (w *World) Deployer() *deploy.Deployer {
	o := w.Options
	o.Store, o.Builder, o.Runner, o.Router, o.Repos, o.Domain = w.Store, w.Builder, w.Runner, w.Router, w.Repos, cmp.Or(o.Domain, "localhost")
	o.Logger = slog.New(slog.NewTextHandler(w.T.Output(), nil))
	d := deploy.New(o)
	w.Repos.derive(d.RepoState)
	return d
}

// Start starts a deployer as a server does: it reconciles and supervises. stop
// ends it and waits; the end of the test stops it, too.
func (w *World) Start() (d *deploy.Deployer, stop func()) {
	w.T.Helper()
	d = w.Deployer()
	ctx, cancel := context.WithCancel(context.Background())
	if err := d.Reconcile(ctx); err != nil {
		w.T.Errorf("reconcile: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.Run(ctx); err != nil {
			w.T.Errorf("run: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	w.T.Cleanup(stop)
	synctest.Wait()
	return d, stop
}

// Commit puts a commit into a stack's repository, as a push does that has moved
// the branch.
func (w *World) Commit(stack mesh.StackName, files map[string]string) mesh.Push {
	return w.Repos.Commit(stack, files)
}

// Runner is an engine in memory.
type Runner struct {
	StartFunc    func(mesh.InstanceSpec) error                               // before a container is made
	CheckFunc    func(ctx context.Context, in mesh.Instance) (string, error) // instead of the check
	CheckedFunc  func(mesh.Instance, mesh.Check)                             // before each check
	ReviveFunc   func(mesh.Instance) error                                   // before a container starts again
	OneOffFunc   func(ctx context.Context, o mesh.OneOff) (int, error)       // instead of doing nothing
	DetachedFunc func()                                                      // before detached runs are listed
	ExecFunc     func(ctx context.Context, e mesh.Exec) (int, error)         // instead of doing nothing
	Away         bool                                                        // the engine does not answer; set with SetAway
	image        func(id string) bool                                        // tells whether there is such an image; nil: there is
	mu           sync.Mutex
	n            int
	containers   map[string]*Container
	runs         []mesh.DetachedRun
	graces       []time.Duration
	watchers     map[chan mesh.InstanceEvent]func()
}

// Container is a container of Runner's.
type Container struct {
	mesh.Instance
	Spec mesh.InstanceSpec
}

// NewRunner returns an engine without containers.
func NewRunner() *Runner {
	return &Runner{containers: map[string]*Container{}, watchers: map[chan mesh.InstanceEvent]func(){}}
}

var errAway = mesh.Errorf(mesh.Unavailable, "the Docker Engine does not answer")

func (r *Runner) away() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Away {
		return errAway
	}
	return nil
}

// SetAway takes the engine away or brings it back; what runs goes on running.
func (r *Runner) SetAway(away bool) {
	r.mu.Lock()
	r.Away = away
	var lost []func()
	if !away {
		lost = slices.Collect(maps.Values(r.watchers))
	}
	r.mu.Unlock()
	for _, fn := range lost {
		fn()
	}
}

// Start starts a container.
func (r *Runner) Start(ctx context.Context, spec mesh.InstanceSpec) (mesh.Instance, error) {
	if err := cmp.Or(r.away(), context.Cause(ctx)); err != nil {
		return mesh.Instance{}, err
	}
	if r.StartFunc != nil {
		if err := r.StartFunc(spec); err != nil {
			return mesh.Instance{}, err
		}
	}
	if r.image != nil && !r.image(spec.Image) {
		return mesh.Instance{}, mesh.Errorf(mesh.NotFound, "%s cannot start: the image %s is gone from the engine", spec.Name, spec.Image)
	}
	return r.Put(spec, mesh.InstanceRunning), nil
}

// Put makes a container without asking anybody.
func (r *Runner) Put(spec mesh.InstanceSpec, state mesh.InstanceState) mesh.Instance {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	c := &Container{Spec: spec, Instance: mesh.Instance{
		ID: fmt.Sprintf("c%d", r.n), Stack: spec.Stack, Name: spec.Name, Release: spec.Release, Deployment: spec.Deployment, Spec: spec.Fingerprint,
		State: state, Started: time.Now(), Addr: r.addr(spec.Subnet),
	}}
	r.containers[c.ID] = c
	return c.Instance
}

// Check finds a running container healthy.
func (r *Runner) Check(ctx context.Context, in mesh.Instance, how mesh.Check, _ func(string)) (string, error) {
	if r.CheckedFunc != nil {
		r.CheckedFunc(in, how)
	}
	if r.CheckFunc != nil {
		return r.CheckFunc(ctx, in)
	}
	c, ok := r.Get(in.ID)
	if !ok || c.State != mesh.InstanceRunning {
		return "", mesh.Errorf(mesh.Failed, "%s ended with exit code %d", in.Name, c.ExitCode)
	}
	return "GET / 200", nil
}

// Stop removes a container.
func (r *Runner) Stop(ctx context.Context, id string, grace time.Duration) error {
	if err := cmp.Or(r.away(), context.Cause(ctx)); err != nil {
		return err
	}
	r.mu.Lock()
	r.graces = append(r.graces, grace)
	r.mu.Unlock()
	r.Vanish(id)
	return nil
}

// Graces are the times that containers were given to stop, in the order in which
// they were.
func (r *Runner) Graces() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.graces)
}

// Vanish removes a container, which dies of it when it runs.
func (r *Runner) Vanish(id string) {
	r.mu.Lock()
	c := r.containers[id]
	r.runs = slices.DeleteFunc(r.runs, func(d mesh.DetachedRun) bool { return d.ID == id })
	delete(r.containers, id)
	r.mu.Unlock()
	if c != nil && c.State == mesh.InstanceRunning {
		c.State, c.ExitCode = mesh.InstanceExited, 137
		r.tell(mesh.InstanceEvent{Instance: c.Instance, Died: true, ByHand: true, At: time.Now()})
	}
}

// Kill ends a container as "docker kill" or an engine that shuts down does.
func (r *Runner) Kill(id string) {
	r.mu.Lock()
	c := r.containers[id]
	c.State, c.ExitCode = mesh.InstanceExited, 137
	in := c.Instance
	r.mu.Unlock()
	r.tell(mesh.InstanceEvent{Instance: in, Died: true, ByHand: true, At: time.Now()})
}

// Bend changes a container behind mesh's back: pauses it, takes its address. With
// seen, the engine tells of it.
func (r *Runner) Bend(id string, seen bool, fn func(*mesh.Instance)) {
	r.mu.Lock()
	fn(&r.containers[id].Instance)
	r.mu.Unlock()
	if seen {
		r.tell(mesh.InstanceEvent{Changed: true, At: time.Now()})
	}
}

// Crash ends a container's process.
func (r *Runner) Crash(id string, code int) {
	r.mu.Lock()
	c := r.containers[id]
	c.State, c.ExitCode = mesh.InstanceExited, code
	in := c.Instance
	r.mu.Unlock()
	r.tell(mesh.InstanceEvent{Instance: in, Died: true, At: time.Now()})
}

// CrashUnseen ends a container's process while nobody watches.
func (r *Runner) CrashUnseen(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers[id].State = mesh.InstanceExited
}

func (r *Runner) tell(ev mesh.InstanceEvent) {
	r.mu.Lock()
	watchers := slices.Collect(maps.Keys(r.watchers))
	r.mu.Unlock()
	for _, ch := range watchers {
		ch <- ev
	}
}

// Revive starts a container again.
func (r *Runner) Revive(_ context.Context, id string) (mesh.Instance, error) {
	if err := r.away(); err != nil {
		return mesh.Instance{}, err
	}
	c, ok := r.Get(id)
	if !ok {
		return mesh.Instance{}, mesh.Errorf(mesh.NotFound, "the container %s is gone", id)
	}
	if r.ReviveFunc != nil {
		if err := r.ReviveFunc(c.Instance); err != nil {
			return c.Instance, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.containers[id]
	if k == nil {
		return mesh.Instance{}, mesh.Errorf(mesh.NotFound, "the container %s is gone", id)
	}
	if k.State != mesh.InstanceRunning {
		k.State, k.Started = mesh.InstanceRunning, time.Now()
	}
	if !k.Addr.IsValid() { // in its network again, at another address
		r.n++
		k.Addr = r.addr(k.Spec.Subnet)
	}
	return k.Instance, nil
}

// addr is the address of the container made last, in the network of its stack. r.mu is
// held.
func (r *Runner) addr(subnet netip.Prefix) netip.AddrPort {
	if !subnet.IsValid() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(r.n >> 8), byte(r.n)}), mesh.Port)
	}
	a := subnet.Addr().As4()
	a[3] += byte(2 + r.n%60)
	return netip.AddrPortFrom(netip.AddrFrom4(a), mesh.Port)
}

// Look is List.
func (r *Runner) Look(ctx context.Context) ([]mesh.Instance, error) { return r.List(ctx) }

// List lists the containers by id.
func (r *Runner) List(context.Context) ([]mesh.Instance, error) {
	if err := r.away(); err != nil {
		return nil, err
	}
	var out []mesh.Instance
	for _, c := range r.Containers() {
		out = append(out, c.Instance)
	}
	return out, nil
}

// Watch passes on what Crash and Vanish do.
func (r *Runner) Watch(ctx context.Context, fn func(mesh.InstanceEvent), lost func()) error {
	ch := make(chan mesh.InstanceEvent, 1000)
	r.mu.Lock()
	r.watchers[ch] = lost
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.watchers, ch)
	}()
	for {
		select {
		case ev := <-ch:
			fn(ev)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// RunOneOff does what OneOffFunc says.
func (r *Runner) RunOneOff(ctx context.Context, o mesh.OneOff) (int, error) {
	if err := r.away(); err != nil {
		return 0, err
	}
	if r.OneOffFunc != nil {
		return r.OneOffFunc(ctx, o)
	}
	return 0, nil
}

// Detach remembers a run, which goes on until EndRun.
func (r *Runner) Detach(_ context.Context, o mesh.OneOff, run mesh.DetachedRun) (mesh.DetachedRun, error) {
	if err := r.away(); err != nil {
		return run, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	run.ID, run.Name, run.Running, run.Started = fmt.Sprintf("c%d", r.n), o.Name, true, time.Now()
	r.runs = append(r.runs, run)
	return run, nil
}

// OneOffs counts those that run: none, as OneOffFunc is all there is of them.
func (r *Runner) OneOffs(context.Context, mesh.StackName) (int, error) { return 0, r.away() }

// EndRun lets a detached run end by itself.
func (r *Runner) EndRun(name string, code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.runs {
		if r.runs[i].Name == name {
			r.runs[i].Running, r.runs[i].ExitCode = false, code
		}
	}
}

// Detached lists the runs.
func (r *Runner) Detached(_ context.Context, stack mesh.StackName) ([]mesh.DetachedRun, error) {
	if fn := r.DetachedFunc; fn != nil && stack != "" {
		fn()
	}
	if err := r.away(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.runs), func(d mesh.DetachedRun) bool { return stack != "" && d.Stack != stack }), nil
}

// Exec does what ExecFunc says.
func (r *Runner) Exec(ctx context.Context, e mesh.Exec) (int, error) {
	if r.ExecFunc != nil {
		return r.ExecFunc(ctx, e)
	}
	return 0, r.away()
}

// Sweep has nothing to do.
func (r *Runner) Sweep(context.Context) error { return nil }

// Stacks names the stacks that have containers.
func (r *Runner) Stacks(context.Context) ([]mesh.StackName, error) {
	if err := r.away(); err != nil {
		return nil, err
	}
	var names []mesh.StackName
	for _, c := range r.Containers() {
		if !slices.Contains(names, c.Stack) {
			names = append(names, c.Stack)
		}
	}
	return names, nil
}

// RemoveStack removes the containers of a stack.
func (r *Runner) RemoveStack(_ context.Context, stack mesh.StackName) error {
	if err := r.away(); err != nil {
		return err
	}
	for _, c := range r.Containers() {
		if c.Stack == stack {
			r.Vanish(c.ID)
		}
	}
	return nil
}

// Ping tells whether the engine is there.
func (r *Runner) Ping(context.Context) error { return r.away() }

// Get returns a container.
func (r *Runner) Get(id string) (Container, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return Container{}, false
	}
	return *c, true
}

// Containers returns all containers in the order they were made.
func (r *Runner) Containers() []Container {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Container
	for _, c := range r.containers {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Container) int {
		return cmp.Or(cmp.Compare(len(a.ID), len(b.ID)), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// Names lists the containers as "web.1@c3", by name, those that do not run with a
// "!".
func (r *Runner) Names() string {
	var out []string
	for _, c := range r.Containers() {
		s := c.Name.String() + "@" + c.ID
		if c.State != mesh.InstanceRunning {
			s += "!"
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// Memory keeps what a deployer has seen, as a file does.
type Memory struct {
	mu    sync.Mutex
	last  []mesh.Instance
	saves int
}

// Load returns what was saved last.
func (m *Memory) Load() ([]mesh.Instance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.last), nil
}

// Save keeps it.
func (m *Memory) Save(all []mesh.Instance) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = slices.Clone(all)
	m.saves++
	return nil
}

// Saves is how often something was saved.
func (m *Memory) Saves() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saves
}

// Builder builds images in memory.
type Builder struct {
	Free, Need, CacheSize int64 // bytes, of Room and Cache; set before anything runs

	BuildFunc func(ctx context.Context, b mesh.Build, w io.Writer) error // before the image is there
	Shape     func(*mesh.Image)                                          // makes the image another one

	RenameFunc func() error // before tags move

	mu     sync.Mutex
	images map[string]mesh.StackName
	tags   map[string]string
	builds []mesh.Build
}

// NewBuilder returns a builder without images.
func NewBuilder() *Builder {
	return &Builder{images: map[string]mesh.StackName{}, tags: map[string]string{}}
}

// Build gives an image whose ID is the commit's.
func (b *Builder) Build(ctx context.Context, m mesh.Build, w io.Writer) (mesh.Image, error) {
	b.mu.Lock()
	b.builds = append(b.builds, m)
	b.mu.Unlock()
	_, _ = io.WriteString(w, "-----> Building with ./Dockerfile\n       #1 building\n")
	if b.BuildFunc != nil {
		if err := b.BuildFunc(ctx, m, w); err != nil {
			return mesh.Image{}, err
		}
	}
	if ctx.Err() != nil {
		return mesh.Image{}, context.Cause(ctx)
	}
	img := mesh.Image{ID: "sha256:" + cmp.Or(string(m.Commit), m.Tags[0]), Ref: m.Tags[0], Size: 1e6, Cmd: []string{"/app"}, Shell: true}
	if b.Shape != nil {
		b.Shape(&img)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.images[img.ID] = m.Stack
	return img, nil
}

// Tag names an image.
func (b *Builder) Tag(_ context.Context, id, ref string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.images[id]; !ok {
		return mesh.Errorf(mesh.NotFound, "no image %s", id)
	}
	b.tags[ref] = id
	return nil
}

// Sweep removes images.
func (b *Builder) Sweep(_ context.Context, keep func(mesh.StackName, string) bool, dry bool) (gone []mesh.Garbage, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, of := range b.images {
		if !keep(of, id) {
			gone = append(gone, mesh.Garbage{Stack: of, ID: id, Size: 1e6})
		}
	}
	for _, g := range gone {
		if !dry {
			delete(b.images, g.ID)
			b.Free += g.Size
		}
	}
	return gone, nil
}

// Room has Free bytes free when Need is not 0.
func (b *Builder) Room(context.Context) (free, need int64, known bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Free, b.Need, b.Need > 0, nil
}

// Cache is as large as CacheSize.
func (b *Builder) Cache(context.Context) (size, limit int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.CacheSize, 1e6, nil
}

// PruneCache makes the cache 1 MB large, or empty.
func (b *Builder) PruneCache(_ context.Context, all bool) (freed int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	keep := int64(1e6)
	if all {
		keep = 0
	}
	freed = max(0, b.CacheSize-keep)
	b.CacheSize -= freed
	b.Free += freed
	return freed, nil
}

// Dockerfile is that of the tree.
func (b *Builder) Dockerfile(t mesh.Tree, _ mesh.Settings) (string, bool, error) {
	for _, e := range t.Entries() {
		if e.Path == mesh.DefaultDockerfile {
			r, err := t.Open(e)
			if err != nil {
				return "", false, err
			}
			text, err := io.ReadAll(r)
			return string(text), false, err
		}
	}
	return "FROM scratch\n", true, nil
}

// Present tells whether an image is there.
func (b *Builder) Present(_ context.Context, id string) (bool, error) { return b.has(id), nil }

func (b *Builder) has(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.images[id]
	return ok
}

// Stacks names those that tags name.
func (b *Builder) Stacks(context.Context) ([]mesh.StackName, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := map[mesh.StackName]bool{}
	for ref := range b.tags {
		name, _, _ := strings.Cut(strings.TrimPrefix(ref, "mesh/"), ":")
		seen[mesh.StackName(name)] = true
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// Lose removes all images, as a prune does.
func (b *Builder) Lose() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.images)
	clear(b.tags)
}

// SignIn lets anybody in whose password is not "wrong".
func (b *Builder) SignIn(_ context.Context, r mesh.Registry) error {
	if r.Password.Reveal() == "wrong" {
		return mesh.Errorf(mesh.Denied, "%s does not let %q in", r.Host, r.User)
	}
	return nil
}

// Rename moves tags and images to another stack.
func (b *Builder) Rename(_ context.Context, from, to mesh.StackName) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.RenameFunc != nil {
		if err := b.RenameFunc(); err != nil {
			return err
		}
	}
	for ref, id := range maps.Clone(b.tags) {
		if tag, ok := strings.CutPrefix(ref, "mesh/"+string(from)+":"); ok {
			b.tags["mesh/"+string(to)+":"+tag] = id
			delete(b.tags, ref)
		}
	}
	for id, of := range b.images {
		if of == from {
			b.images[id] = to
		}
	}
	return nil
}

// Collect removes images.
func (b *Builder) Collect(_ context.Context, stack mesh.StackName, keep map[string]bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.images, func(id string, of mesh.StackName) bool { return of == stack && !keep[id] })
	maps.DeleteFunc(b.tags, func(ref, id string) bool {
		return strings.HasPrefix(ref, "mesh/"+string(stack)+":") && !keep[id]
	})
	return nil
}

// Builds returns what was asked for.
func (b *Builder) Builds() []mesh.Build {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.builds)
}

// Images is how many there are.
func (b *Builder) Images() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.images)
}

// Tagged returns the image that has a name.
func (b *Builder) Tagged(ref string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tags[ref]
}

// Router remembers what it is told.
type Router struct {
	DrainFunc func(ctx context.Context, id string) error // instead of returning at once

	mu       sync.Mutex
	routes   map[mesh.StackName]mesh.Route
	switches []mesh.Route
	drained  []string
}

// NewRouter returns a router without routes.
func NewRouter() *Router { return &Router{routes: map[mesh.StackName]mesh.Route{}} }

// Switch remembers a route.
func (r *Router) Switch(route mesh.Route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.routes[route.Stack] = route
	r.switches = append(r.switches, route)
}

// Remove forgets a stack.
func (r *Router) Remove(stack mesh.StackName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.routes, stack)
}

// Drain returns at once: there are no requests.
func (r *Router) Drain(ctx context.Context, id string, _ time.Duration) error {
	r.mu.Lock()
	r.drained = append(r.drained, id)
	for _, route := range r.routes {
		for _, t := range route.Targets {
			if t.ID == id {
				r.mu.Unlock()
				return fmt.Errorf("drain %s: it still has a route", id)
			}
		}
	}
	r.mu.Unlock()
	if r.DrainFunc != nil {
		return r.DrainFunc(ctx, id)
	}
	return ctx.Err()
}

// Route returns what a stack has now.
func (r *Router) Route(stack mesh.StackName) (mesh.Route, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	route, ok := r.routes[stack]
	return route, ok
}

// Targets lists where a stack's traffic goes, as "c1 c2".
func (r *Router) Targets(stack mesh.StackName) string {
	route, _ := r.Route(stack)
	var out []string
	for _, t := range route.Targets {
		out = append(out, t.ID)
	}
	return strings.Join(out, " ")
}

// Switches returns all that was switched.
func (r *Router) Switches() []mesh.Route {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.switches)
}

// Drained tells whose requests were waited for.
func (r *Router) Drained() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.drained)
}

// Repos are repositories in memory.
type Repos struct {
	mu       sync.Mutex
	deployed func(context.Context, mesh.StackName) (mesh.RepoState, error)
	n        int
	trees    map[mesh.Commit]map[string]string
	heads    map[mesh.StackName]mesh.RepoState
	open     int
}

// NewRepos returns no repositories.
func NewRepos() *Repos {
	return &Repos{trees: map[mesh.Commit]map[string]string{}, heads: map[mesh.StackName]mesh.RepoState{}}
}

// Commit adds a commit and moves main to it.
func (r *Repos) Commit(stack mesh.StackName, files map[string]string) mesh.Push {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	c := mesh.Commit(fmt.Sprintf("%040x", 0xa000000000000000+uint64(r.n)<<8))
	c = mesh.Commit(fmt.Sprintf("%07d", r.n) + string(c)[7:])
	r.trees[c] = files
	r.heads[stack] = mesh.RepoState{Branch: "main", Commit: c}
	return mesh.Push{Stack: stack, By: "laptop", Branch: "main", Commit: c}
}

// Subject is the number that a commit has.
func (r *Repos) Subject(_ context.Context, stack mesh.StackName, c mesh.Commit) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.trees[c]; !ok {
		return "", fmt.Errorf("no commit %s in %s", c, stack)
	}
	return "Commit " + c.Short(), nil
}

// Open opens a commit; its first line is the number it has.
func (r *Repos) Open(_ context.Context, stack mesh.StackName, c mesh.Commit) (mesh.Tree, string, func(), error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	files, ok := r.trees[c]
	if !ok {
		return nil, "", nil, fmt.Errorf("no commit %s in %s", c, stack)
	}
	r.open++
	release := sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.open--
	})
	return Tree(files), "Commit " + c.Short(), release, nil
}

// FetchModules finds none.
func (r *Repos) FetchModules(context.Context, mesh.StackName, mesh.Commit, func(string)) (bool, error) {
	return false, nil
}

// derive sets what tells where the deploy branch must point.
func (r *Repos) derive(deployed func(context.Context, mesh.StackName) (mesh.RepoState, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deployed = deployed
}

// ResetBranch puts the deploy branch where the Deployer that was made last says.
func (r *Repos) ResetBranch(ctx context.Context, stack mesh.StackName) error {
	r.mu.Lock()
	deployed := r.deployed
	r.mu.Unlock()
	state, err := deployed(ctx, stack)
	if err == nil {
		r.Move(stack, state)
	}
	return err
}

// Move points the deploy branch of a stack that has a repository elsewhere.
func (r *Repos) Move(stack mesh.StackName, state mesh.RepoState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.heads[stack]; ok {
		r.heads[stack] = state
	}
}

// Rename moves a repository.
func (r *Repos) Rename(_ context.Context, from, to mesh.StackName) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, done := r.heads[to]; done {
		return nil
	}
	if h, ok := r.heads[from]; ok {
		r.heads[to] = h
		delete(r.heads, from)
	}
	return nil
}

// Remove forgets a repository.
func (r *Repos) Remove(_ context.Context, stack mesh.StackName) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.heads, stack)
	return nil
}

// Head is where the deploy branch points.
func (r *Repos) Head(stack mesh.StackName) mesh.Commit {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heads[stack].Commit
}

// Left is how many trees nobody has closed.
func (r *Repos) Left() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

// Tree is a mesh.Tree of files by name.
type Tree map[string]string

// Entries lists the files and the folders that they are in.
func (t Tree) Entries() []mesh.TreeEntry {
	var out []mesh.TreeEntry
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		for i, c := range name {
			if dir := name[:i]; c == '/' && !seen[dir] {
				seen[dir] = true
				out = append(out, mesh.TreeEntry{Path: dir, Mode: fs.ModeDir | 0o755})
			}
		}
		out = append(out, mesh.TreeEntry{Path: name, Mode: 0o644, Size: int64(len(t[name])), ID: fmt.Sprintf("%x", sha1.Sum([]byte(t[name])))}) //nolint:gosec // see above
	}
	return out
}

// Open reads a file.
func (t Tree) Open(e mesh.TreeEntry) (io.ReadCloser, error) {
	text, ok := t[e.Path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

// Output collects what a deployment prints; it may be written to and read from
// several goroutines.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
