package deploytest

import (
	"cmp"
	"context" //nolint:gosec // ids as git has them
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"mesh"
)

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
	Images       func(id string) bool                                        // tells whether there is such an image; nil: there is
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
	if r.Images != nil && !r.Images(spec.Image) {
		return mesh.Instance{}, mesh.Errorf(mesh.NotFound, "%s cannot start: the image %s is missing from the engine", spec.Name, spec.Image)
	}
	in := r.Put(spec, mesh.InstanceRunning)
	r.tell(mesh.InstanceEvent{Instance: in, At: time.Now()})
	return in, nil
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

// RunOneOff does what OneOffFunc says; without one, "exit N" ends with N.
func (r *Runner) RunOneOff(ctx context.Context, o mesh.OneOff) (int, error) {
	if err := r.away(); err != nil {
		return 0, err
	}
	if r.OneOffFunc != nil {
		return r.OneOffFunc(ctx, o)
	}
	if c := o.Process.Cmd; len(c) == 2 && c[0] == "exit" {
		return strconv.Atoi(c[1])
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
