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
	StartFunc    func(mesh.InstanceSpec) error                               // called before a container is created
	CheckFunc    func(ctx context.Context, in mesh.Instance) (string, error) // replaces the check
	CheckedFunc  func(mesh.Instance, mesh.Check)                             // called before each check
	ReviveFunc   func(mesh.Instance) error                                   // called before a container starts again
	OneOffFunc   func(ctx context.Context, o mesh.OneOff) (int, error)       // runs the command; nil: does nothing
	DetachedFunc func()                                                      // called before detached runs are listed
	ExecFunc     func(ctx context.Context, e mesh.Exec) (int, error)         // runs the command; nil: does nothing
	PlaceFunc    func(mesh.InstanceSpec) (node mesh.NodeName, shared bool)   // says where an instance is; nil: here
	Away         bool                                                        // the engine does not answer; set with SetAway
	Images       func(id string) bool                                        // reports whether an image exists; nil: every image does
	mu           sync.Mutex
	files        map[string]map[string]stored // by container and path
	n            int
	containers   map[string]*Container
	runs         []mesh.DetachedRun
	ended        chan struct{} // closed when a run ends
	DetachErr    error         // of Detach; nil: it works
	graces       []time.Duration
	watchers     map[chan mesh.InstanceEvent]func()
}

// Container is one container of a Runner.
type Container struct {
	mesh.Instance
	Spec mesh.InstanceSpec
}

// NewRunner returns an engine with no containers.
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

// SetAway makes the engine unavailable or available. Running containers keep running.
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
	if err := r.alone(spec.Mounts, ""); err != nil {
		return mesh.Instance{}, err
	}
	in := r.Put(spec, mesh.InstanceRunning)
	r.tell(mesh.InstanceEvent{Instance: in, At: time.Now()})
	return in, nil
}

// alone returns an error if a container other than self has a volume that is not shared.
func (r *Runner) alone(mounts []mesh.Mount, self string) error {
	for _, c := range r.Containers() {
		for _, m := range mounts {
			uses := slices.ContainsFunc(c.Spec.Mounts, func(o mesh.Mount) bool { return o.Engine == m.Engine })
			if uses && !m.Shared && c.ID != self && c.State == mesh.InstanceRunning {
				return mesh.Errorf(mesh.Unavailable, "its volume is still in use by %s", c.ID)
			}
		}
	}
	return nil
}

// Put creates a container without calling any function field.
func (r *Runner) Put(spec mesh.InstanceSpec, state mesh.InstanceState) mesh.Instance {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	c := &Container{Spec: spec, Instance: mesh.Instance{
		ID: fmt.Sprintf("c%d", r.n), Stack: spec.Stack, Name: spec.Name, Release: spec.Release, Deployment: spec.Deployment, Spec: spec.Fingerprint,
		State: state, Started: time.Now(), Addr: r.addr(spec.Subnet),
	}}
	if r.PlaceFunc != nil {
		var shared bool
		if c.Node, shared = r.PlaceFunc(spec); shared {
			c.Inside = netip.AddrFrom4([4]byte{10, 200, 0, byte(r.n)})
		}
	}
	r.containers[c.ID] = c
	return c.Instance
}

// Check reports a running container as healthy.
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

// Halt ends a container and keeps it.
func (r *Runner) Halt(ctx context.Context, id string, grace time.Duration) error {
	if err := cmp.Or(r.away(), context.Cause(ctx)); err != nil {
		return err
	}
	r.mu.Lock()
	r.graces = append(r.graces, grace)
	c := r.containers[id]
	running := c != nil && c.State == mesh.InstanceRunning
	if i := slices.IndexFunc(r.runs, func(d mesh.DetachedRun) bool { return d.ID == id && d.Running }); i >= 0 {
		r.endRun(i, 143)
	}
	r.mu.Unlock()
	if running {
		r.Kill(id)
	}
	return nil
}

// Graces returns the grace periods that containers were given, in the order of their
// stops.
func (r *Runner) Graces() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.graces)
}

// Vanish removes a container. A running one dies.
func (r *Runner) Vanish(id string) {
	r.mu.Lock()
	c := r.containers[id]
	if i := slices.IndexFunc(r.runs, func(d mesh.DetachedRun) bool { return d.ID == id }); i >= 0 {
		r.endRun(i, 137)
		r.runs = slices.Delete(r.runs, i, i+1)
	}
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

// Bend changes a container behind mesh's back, for example pauses it or removes its
// address. With seen, the engine reports the change.
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
	if err := r.alone(c.Spec.Mounts, id); err != nil {
		return c.Instance, err
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
	if !k.Addr.IsValid() { // in its network again, at a new address
		r.n++
		k.Addr = r.addr(k.Spec.Subnet)
	}
	return k.Instance, nil
}

// addr returns the address of the newest container, in the network of its stack. The
// caller holds r.mu.
func (r *Runner) addr(subnet netip.Prefix) netip.AddrPort {
	if !subnet.IsValid() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(r.n >> 8), byte(r.n)}), mesh.Port)
	}
	a := subnet.Addr().As4()
	a[3] += byte(2 + r.n%60)
	return netip.AddrPortFrom(netip.AddrFrom4(a), mesh.Port)
}

// Look returns the same as List.
func (r *Runner) Look(ctx context.Context) ([]mesh.Instance, error) { return r.List(ctx) }

// List returns the containers, sorted by ID.
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

// Watch passes on the events of Crash and Vanish.
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

// RunOneOff calls OneOffFunc. If that is nil, "exit N" returns N.
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

// Detach records a run, which lasts until EndRun.
func (r *Runner) Detach(_ context.Context, o mesh.OneOff, run mesh.DetachedRun) (mesh.DetachedRun, error) {
	if err := cmp.Or(r.away(), r.DetachErr); err != nil {
		return run, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	run.ID, run.Name, run.Running, run.Started = fmt.Sprintf("c%d", r.n), o.Name, true, time.Now()
	r.runs = append(r.runs, run)
	return run, nil
}

// OneOffs returns 0: a one-off here is no more than a call of OneOffFunc.
func (r *Runner) OneOffs(context.Context, mesh.StackName) (int, error) { return 0, r.away() }

// EndRun ends a detached run.
func (r *Runner) EndRun(name string, code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.runs {
		if r.runs[i].Name == name {
			r.endRun(i, code)
		}
	}
}

func (r *Runner) endRun(i, code int) {
	r.runs[i].Running, r.runs[i].ExitCode, r.runs[i].Ended = false, code, time.Now()
	if r.ended != nil {
		close(r.ended)
		r.ended = nil
	}
}

// LeaveUnborn makes a run one whose container was created, and never started.
func (r *Runner) LeaveUnborn(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.runs {
		if r.runs[i].Name == name {
			r.endRun(i, 0)
			r.runs[i].Unborn, r.runs[i].Started, r.runs[i].Ended = true, time.Time{}, time.Time{}
		}
	}
}

// AwaitRun waits for the end of a run.
func (r *Runner) AwaitRun(ctx context.Context, id string) error {
	for {
		r.mu.Lock()
		running := slices.ContainsFunc(r.runs, func(d mesh.DetachedRun) bool { return d.ID == id && d.Running })
		if r.ended == nil {
			r.ended = make(chan struct{})
		}
		ended := r.ended
		r.mu.Unlock()
		if !running {
			return r.away()
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Logs calls fn with one line, which names the run.
func (r *Runner) Logs(_ context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error {
	if err := r.away(); err != nil {
		return err
	}
	return fn(mesh.LogLine{At: time.Now(), Name: q.Run, Text: "output of " + q.Run})
}

// Detached returns the runs.
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

// Exec calls ExecFunc.
func (r *Runner) Exec(ctx context.Context, e mesh.Exec) (int, error) {
	if r.ExecFunc != nil {
		return r.ExecFunc(ctx, e)
	}
	return 0, r.away()
}

// Sweep does nothing.
func (r *Runner) Sweep(context.Context) error { return nil }

// Stacks returns the stacks that have containers.
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

// Ping reports whether the engine is available.
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

// Containers returns all containers in the order of their creation.
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

// Names returns the containers as "web.1@c3", sorted by name. One that does not run is
// marked with "!".
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
