package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"mesh"
)

// AddonServer runs the servers of add-ons. Its methods may be called from several
// goroutines; those that change an add-on are called for one add-on at a time.
type AddonServer interface {
	AddonKinds
	AddonData
	// Fetch makes sure that the engine has the image, and records which one: the one on
	// record if there is one. fresh asks the registry for a newer one first.
	Fetch(ctx context.Context, a mesh.Addon, fresh bool, say func(string)) (mesh.Addon, error)
	// Run makes the server run and returns once it answers. It may be called again.
	Run(ctx context.Context, a mesh.Addon) error
	// Stop keeps the container. Remove removes one volume, with what uses it.
	Stop(ctx context.Context, a mesh.Addon) error
	Remove(ctx context.Context, name mesh.AddonName, volume string) error
	// Lost reports whether the volume of an add-on that has data does not exist.
	Lost(ctx context.Context, a mesh.Addon) (bool, error)
	// Volumes returns what the engine has of add-ons; an empty name: a container without one.
	Volumes(ctx context.Context) (map[mesh.AddonName][]string, error)
	// Reach connects an add-on with the stacks that are attached to it, and with no others.
	// Hide disconnects it from all.
	Reach(ctx context.Context, a mesh.Addon) error
	Hide(ctx context.Context, a mesh.Addon) error
	// Address is where the server itself connects.
	Address(ctx context.Context, a mesh.Addon) (netip.AddrPort, error)
	// Shell is what people type into. Logs writes what the server has printed.
	Shell(ctx context.Context, a mesh.Addon, words []string) (mesh.Exec, error)
	Logs(ctx context.Context, a mesh.Addon, lines int, follow bool, w io.Writer) error
	// Down returns what those add-ons do whose servers are not simply running.
	Down(ctx context.Context, all []mesh.Addon) (map[mesh.AddonName]mesh.AddonStatus, error)
	// State, Figures and Slow describe a server.
	State(ctx context.Context, a mesh.Addon) (mesh.AddonStatus, error)
	Figures(ctx context.Context, a mesh.Addon, st mesh.AddonStatus) (mesh.AddonStatus, error)
	Slow(ctx context.Context, a mesh.Addon) (lines []string, ok bool, err error)
}

// AddonKinds knows what add-ons there can be.
type AddonKinds interface {
	All() (list []mesh.AddonKindInfo, faults []error)
	Kind(name string) (mesh.AddonKindInfo, error)
	// Plan returns a new add-on. Nothing exists yet.
	Plan(kind, version string, name mesh.AddonName) (mesh.Addon, error)
	// Renew returns it with a new volume, Upgraded with another version of its image, and
	// Rotated with another login.
	Renew(a mesh.Addon) mesh.Addon
	Upgraded(a mesh.Addon, version string) (mesh.Addon, error)
	Rotated(a mesh.Addon) (mesh.Addon, error)
	// Vars are the config vars of a stack that is attached.
	Vars(a mesh.Addon, at mesh.Attachment) (mesh.Config, error)
	CheckParam(a mesh.Addon, name, value string) error
}

// AddonData reads and writes what add-ons have.
type AddonData interface {
	Form(a mesh.Addon) (form, note string, err error)
	// Dump writes all data; it is whole if the error is nil. Fill runs a server with the
	// data of a dump on a new volume.
	Dump(ctx context.Context, a mesh.Addon, w io.Writer) error
	Fill(ctx context.Context, a mesh.Addon, r io.Reader) error
	// Check returns what must be the same of data before and after.
	Check(ctx context.Context, a mesh.Addon) (rows string, ok bool, err error)
	// Admit lets stacks sign in as next says as well; Dismiss only as next says.
	Admit(ctx context.Context, a, next mesh.Addon) error
	Dismiss(ctx context.Context, a, next mesh.Addon) error
}

// AddonStore holds the records of add-ons.
type AddonStore interface {
	Addons(ctx context.Context) ([]mesh.Addon, error)
	// Addon returns NotFound if there is none, and Damaged.
	Addon(ctx context.Context, name mesh.AddonName) (mesh.Addon, error)
	// AddAddon returns a Conflict if the name is taken.
	AddAddon(ctx context.Context, a mesh.Addon) error
	// UpdateAddon changes an add-on with fn, which may run more than once.
	UpdateAddon(ctx context.Context, name mesh.AddonName, fn func(*mesh.Addon) error) (mesh.Addon, error)
	RemoveAddon(ctx context.Context, name mesh.AddonName) error
}

// addonWork is who changes which add-on, and which add-ons stacks may reach that are not
// recorded as attached. The zero value is ready.
type addonWork struct {
	mu     sync.Mutex
	busy   map[mesh.AddonName]work
	lent   map[mesh.StackName][]mesh.AddonName
	hidden map[mesh.AddonName]int // add-ons whose data is being switched; no stack reaches them
}

type work struct {
	what  string
	since time.Time
	own   bool          // begun by the server itself, as after its start
	ended chan struct{} // closed at its end
}

// ownWork is how long a change that somebody asks for waits for what the server does with
// an add-on by itself, of which he cannot know.
const ownWork = 20 * time.Second

// claim takes an add-on for a change, until the returned function is called. It returns a
// Conflict if somebody else changes it.
func (d *Deployer) claim(ctx context.Context, name mesh.AddonName, what string) (release func(), err error) {
	late := time.NewTimer(ownWork)
	defer late.Stop()
	for {
		release, b := d.tryClaim(name, work{what: what})
		if release != nil {
			return release, nil
		}
		if b.own {
			select {
			case <-b.ended:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-late.C:
			}
		}
		return nil, mesh.Errorf(mesh.Conflict, "%s is being %s, since %s", name, b.what, b.since.UTC().Format(time.RFC3339)).WithHint("wait until that has ended, and try again")
	}
}

// tryClaim takes an add-on without waiting. A nil release means that it is taken, by b.
func (d *Deployer) tryClaim(name mesh.AddonName, job work) (release func(), b work) {
	w := &d.addons
	w.mu.Lock()
	defer w.mu.Unlock()
	if b, taken := w.busy[name]; taken {
		return nil, b
	}
	if w.busy == nil {
		w.busy = map[mesh.AddonName]work{}
	}
	job.since, job.ended = d.Now(), make(chan struct{})
	w.busy[name] = job
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.busy, name)
		close(job.ended)
	}, work{}
}

// claimOwn is claimed for what the server does by itself: it does not wait, and ok is false
// if somebody changes the add-on, or it is gone.
func (d *Deployer) claimOwn(ctx context.Context, name mesh.AddonName, what string) (a mesh.Addon, release func(), ok bool) {
	if release, _ = d.tryClaim(name, work{what: what, own: true}); release == nil {
		return a, nil, false
	}
	a, err := d.Store.Addon(ctx, name)
	if err != nil {
		release()
		return a, nil, false
	}
	return a, release, true
}

// claimed takes an add-on for a change, and returns its record as it is now: one that was
// read before may be out of date.
func (d *Deployer) claimed(ctx context.Context, name mesh.AddonName, what string) (a mesh.Addon, release func(), err error) {
	if release, err = d.claim(ctx, name, what); err != nil {
		return a, nil, err
	}
	if a, err = d.Store.Addon(ctx, name); err != nil {
		release()
		return a, nil, err
	}
	return a, release, nil
}

// claimReady is claimed for an add-on that has data.
func (d *Deployer) claimReady(ctx context.Context, name mesh.AddonName, what string) (a mesh.Addon, release func(), err error) {
	if a, release, err = d.claimed(ctx, name, what); err != nil {
		return a, nil, err
	}
	if err := hasData(a); err != nil {
		release()
		return a, nil, err
	}
	return a, release, nil
}

// lend lets a stack reach add-ons that it is not recorded as attached to, until the
// returned function is called.
func (d *Deployer) lend(stack mesh.StackName, names ...mesh.AddonName) (back func()) {
	w := &d.addons
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lent == nil {
		w.lent = map[mesh.StackName][]mesh.AddonName{}
	}
	w.lent[stack] = append(w.lent[stack], names...)
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, name := range names {
			if i := slices.Index(w.lent[stack], name); i >= 0 {
				w.lent[stack] = slices.Delete(w.lent[stack], i, i+1)
			}
		}
		if len(w.lent[stack]) == 0 {
			delete(w.lent, stack)
		}
	})
}

// Attached returns the add-ons that the instances of a stack may reach.
func (d *Deployer) Attached(stack mesh.StackName) (out []mesh.Addon) {
	ctx := context.Background() // it does not wait
	d.addons.mu.Lock()
	names, hidden := slices.Clone(d.addons.lent[stack]), maps.Clone(d.addons.hidden)
	d.addons.mu.Unlock()
	st, err := d.Store.Stack(ctx, stack)
	if err != nil && !errors.Is(err, mesh.NoStack) {
		d.Logger.Warn("the add-ons of a stack are not known", "stack", stack, "err", err)
	}
	names = append(names, st.Reaches()...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if hidden[name] > 0 {
			continue
		}
		a, err := d.Store.Addon(ctx, name)
		if err != nil {
			d.Logger.Warn("an add-on of a stack is not known", "stack", stack, "addon", name, "err", err)
			continue
		}
		out = append(out, a)
	}
	return out
}

// AddonUsers returns the stacks that are attached to an add-on.
func (d *Deployer) AddonUsers(ctx context.Context, name mesh.AddonName) (out []mesh.StackName, err error) {
	stacks, err := d.Store.Stacks(ctx)
	for _, s := range stacks {
		if len(s.Attachment(name)) > 0 {
			out = append(out, s.Name)
		}
	}
	return out, err
}

// sayer prints steps of a change to an add-on, for people who wait for it.
func sayer(out io.Writer) func(string) {
	if out == nil {
		return func(string) {}
	}
	return func(line string) { _, _ = fmt.Fprintf(out, "-----> %s\n", line) }
}

// CreateAddon creates an add-on and returns once its server answers. If that fails, nothing
// is left.
func (d *Deployer) CreateAddon(ctx context.Context, n mesh.NewAddon, by mesh.KeyName, out io.Writer) (mesh.Addon, error) {
	a, err := d.plan(n, by)
	if err != nil {
		return a, err
	}
	return d.newAddon(ctx, a, out, "created", d.AddonServer.Run)
}

// plan returns an add-on that somebody asks for. Nothing exists yet.
func (d *Deployer) plan(n mesh.NewAddon, by mesh.KeyName) (mesh.Addon, error) {
	a, err := d.AddonServer.Plan(n.Kind, n.Version, n.Name)
	if err != nil {
		return a, err
	}
	for name, v := range n.Params {
		if err := d.AddonServer.CheckParam(a, name, v); err != nil {
			return a, err
		}
	}
	a.Memory, a.CPUs, a.Params, a.Created, a.CreatedBy = n.Memory, n.CPUs, n.Params, d.Now().UTC(), by
	return a, nil
}

// newAddon records an add-on and makes it run with fn.
func (d *Deployer) newAddon(ctx context.Context, a mesh.Addon, out io.Writer, doing string, fn func(context.Context, mesh.Addon) error) (mesh.Addon, error) {
	release, err := d.claim(ctx, a.Name, doing)
	if err != nil {
		return a, err
	}
	defer release()
	say := sayer(out)
	if err := d.Store.AddAddon(ctx, a); err != nil {
		return a, err
	}
	done := false
	defer func() {
		if !done {
			d.discardAddon(context.WithoutCancel(ctx), a)
		}
	}()
	if a, err = d.AddonServer.Fetch(ctx, a, false, say); err != nil {
		return a, err
	}
	// What runs must be on record before it does.
	if _, err := d.Store.UpdateAddon(ctx, a.Name, func(r *mesh.Addon) error { r.ImageID, r.Digest = a.ImageID, a.Digest; return nil }); err != nil {
		return a, err
	}
	say("Starting " + string(a.Name) + ", " + a.Image)
	if err := fn(ctx, a); err != nil {
		return a, err
	}
	if a, err = d.Store.UpdateAddon(ctx, a.Name, func(r *mesh.Addon) error { r.State = mesh.AddonReady; return nil }); err != nil {
		return a, err
	}
	done = true
	d.Logger.Info("add-on created", "addon", a.Name, "kind", string(a.Kind), "image", a.Image, "key", string(a.CreatedBy))
	return a, nil
}

// discardAddon removes an add-on that was never ready, or is being destroyed. What cannot be
// removed now is removed by the next Reconcile.
func (d *Deployer) discardAddon(ctx context.Context, a mesh.Addon) {
	volumes := []string{a.Volume}
	for _, k := range a.Kept {
		volumes = append(volumes, k.Volume)
	}
	if all, err := d.AddonServer.Volumes(ctx); err == nil {
		volumes = append(volumes, all[a.Name]...)
	}
	slices.Sort(volumes)
	var faults []error
	for _, v := range slices.Compact(volumes) {
		faults = append(faults, d.AddonServer.Remove(ctx, a.Name, v))
	}
	err := errors.Join(faults...)
	if err == nil {
		err = d.Store.RemoveAddon(ctx, a.Name)
	}
	if err != nil && !errors.Is(err, mesh.NotFound) {
		d.Logger.Warn("add-on not completely removed; the next start does it", "addon", a.Name, "err", err)
	}
}

// ready returns the record of an add-on that has data.
func (d *Deployer) ready(ctx context.Context, name mesh.AddonName) (mesh.Addon, error) {
	a, err := d.Store.Addon(ctx, name)
	if err == nil {
		err = hasData(a)
	}
	return a, err
}

// hasData returns an error for an add-on that is not ready yet, or not any more.
func hasData(a mesh.Addon) error {
	if a.State == mesh.AddonCreating || a.State == mesh.AddonDestroying {
		return mesh.Errorf(mesh.Conflict, "%s is %s", a.Name, a.State).WithHint("wait until that has ended: ssh mesh addons")
	}
	return nil
}

// DestroyAddon removes an add-on and its data. It is refused while a stack is attached.
// With backup it first makes a last one, in the folder of backups, and returns its ID; empty:
// the kind has none. If that fails, nothing is removed.
func (d *Deployer) DestroyAddon(ctx context.Context, name mesh.AddonName, by mesh.KeyName, backup bool) (last string, err error) {
	a, release, err := d.claimed(ctx, name, "destroyed")
	if err != nil { // a damaged record names no volume
		return "", err
	}
	defer release()
	users, err := d.AddonUsers(ctx, name)
	if err != nil {
		return "", err
	}
	if len(users) > 0 {
		return "", mesh.Errorf(mesh.Conflict, "%s is attached to %s", name, joinNames(users)).
			WithHint("detach it first: ssh mesh addons:detach %s -a %s", name, users[0])
	}
	for _, damage := range d.Store.Damaged() {
		if damage.Whole && damage.Stack != "" { // its attachments cannot be read
			return "", mesh.Errorf(mesh.Conflict, "%s is damaged, and may be attached to %s", damage.What, name).
				WithHint("mend or destroy that stack first: ssh mesh doctor")
		}
	}
	if backup {
		if last, err = d.lastBackup(ctx, a); err != nil {
			return "", err
		}
	}
	ctx = context.WithoutCancel(ctx)
	if _, err := d.Store.UpdateAddon(ctx, name, func(r *mesh.Addon) error { r.State = mesh.AddonDestroying; return nil }); err != nil {
		return "", err
	}
	d.Logger.Info("add-on destroyed", "addon", name, "kind", string(a.Kind), "key", string(by))
	if err := d.UnscheduleBackup(ctx, mesh.BackupSubject(name), by); err != nil && !errors.Is(err, mesh.NotFound) {
		d.Logger.Warn("schedule for backups not removed", "addon", name, "err", err)
	}
	d.discardAddon(ctx, a)
	return last, nil
}

func joinNames(names []mesh.StackName) string {
	var all []string
	for _, n := range names {
		all = append(all, string(n))
	}
	return strings.Join(all, ", ")
}

// StopAddon ends the server of an add-on until StartAddon.
func (d *Deployer) StopAddon(ctx context.Context, name mesh.AddonName) error {
	return d.setAddon(ctx, name, "stopped", func(a *mesh.Addon) error { a.State = mesh.AddonStopped; return nil }, d.AddonServer.Stop)
}

// StartAddon makes the server of an add-on run, and returns once it answers.
func (d *Deployer) StartAddon(ctx context.Context, name mesh.AddonName) error {
	return d.setAddon(ctx, name, "started", func(a *mesh.Addon) error { a.State = mesh.AddonReady; return nil }, d.runKept)
}

// RestartAddon ends the server of an add-on and starts it again.
func (d *Deployer) RestartAddon(ctx context.Context, name mesh.AddonName) error {
	return d.setAddon(ctx, name, "restarted", func(a *mesh.Addon) error { a.State = mesh.AddonReady; return nil }, func(ctx context.Context, a mesh.Addon) error {
		if err := d.AddonServer.Stop(ctx, a); err != nil {
			return err
		}
		return d.runKept(ctx, a)
	})
}

// setAddon records a change of an add-on, and then makes it with fn, which finishes even if
// ctx ends.
func (d *Deployer) setAddon(ctx context.Context, name mesh.AddonName, doing string, change func(*mesh.Addon) error, fn func(context.Context, mesh.Addon) error) error {
	_, release, err := d.claimReady(ctx, name, doing)
	if err != nil {
		return err
	}
	defer release()
	ctx = context.WithoutCancel(ctx)
	a, err := d.Store.UpdateAddon(ctx, name, change)
	if err != nil {
		return err
	}
	return fn(ctx, a)
}

// SetAddon changes the limits and parameters of an add-on. Limits change while it runs;
// other parameters make it start again. If it does not answer with them, it goes back to
// those that it had.
func (d *Deployer) SetAddon(ctx context.Context, name mesh.AddonName, c mesh.AddonChange, out io.Writer) (mesh.Addon, error) {
	was, release, err := d.claimReady(ctx, name, "changed")
	if err != nil {
		return was, err
	}
	defer release()
	for p, v := range c.Params {
		if err := d.AddonServer.CheckParam(was, p, v); err != nil {
			return was, err
		}
	}
	next := c.Apply(was)
	if was.State == mesh.AddonReady {
		say := sayer(out)
		if !maps.Equal(was.Params, next.Params) {
			say("Starting " + string(name) + " again with other parameters")
		}
		ctx = context.WithoutCancel(ctx)
		if err := d.AddonServer.Run(ctx, next); err != nil {
			say("Going back to what it had")
			if berr := d.AddonServer.Run(ctx, was); berr != nil {
				d.Logger.Error("add-on does not run as before", "addon", name, "err", berr)
			}
			return was, err
		}
	}
	return d.Store.UpdateAddon(ctx, name, func(a *mesh.Addon) error {
		a.Memory, a.CPUs, a.Params = next.Memory, next.CPUs, next.Params
		return nil
	})
}

// AddonState returns what an add-on does, with its figures if full is set.
func (d *Deployer) AddonState(ctx context.Context, a mesh.Addon, full bool) (mesh.AddonStatus, error) {
	st, err := d.AddonServer.State(ctx, a)
	if err == nil && full {
		st, err = d.AddonServer.Figures(ctx, a, st)
	}
	d.addons.mu.Lock()
	defer d.addons.mu.Unlock()
	if w, busy := d.addons.busy[a.Name]; busy {
		st.State += ", being " + w.what
	}
	return st, err
}

// AddonShell runs the shell of an add-on, and returns its exit code.
func (d *Deployer) AddonShell(ctx context.Context, name mesh.AddonName, run mesh.Run) (int, error) {
	a, err := d.ready(ctx, name)
	if err != nil {
		return 0, err
	}
	e, err := d.AddonServer.Shell(ctx, a, run.Words)
	if err != nil {
		return 0, err
	}
	d.Logger.Info("add-on entered", "addon", name, "key", string(run.By))
	e.TTY, e.Stdin, e.Stdout, e.Stderr, e.Size, e.Resize = run.TTY, run.Stdin, run.Stdout, run.Stderr, run.Size, run.Resize
	return d.Runner.Exec(ctx, e)
}

// DialAddon connects to the server of an add-on for a key that may use it. Its error is
// NotFound if the key may not, or if the add-on has no such port.
func (d *Deployer) DialAddon(ctx context.Context, key mesh.Key, name mesh.AddonName, port int) (net.Conn, error) {
	a, err := d.ready(ctx, name)
	if err == nil {
		var users []mesh.StackName
		if users, err = d.AddonUsers(ctx, name); err == nil && !key.MayAddon(mesh.AccessDeploy, users, a.CreatedBy, false) {
			err = mesh.Errorf(mesh.NotFound, "there is no add-on %q", name)
		}
	}
	if err != nil {
		return nil, err
	}
	at, err := d.AddonServer.Address(ctx, a)
	if err != nil {
		return nil, err
	}
	if int(at.Port()) != port {
		return nil, mesh.Errorf(mesh.NotFound, "%s listens on port %d, not %d", name, at.Port(), port)
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", at.String())
	if err != nil {
		return nil, mesh.Errorf(mesh.Unavailable, "%s does not answer: %w", name, err)
	}
	return c, nil
}

// AddonLogs writes what the server of an add-on has printed.
func (d *Deployer) AddonLogs(ctx context.Context, name mesh.AddonName, lines int, follow bool, w io.Writer) error {
	a, err := d.Store.Addon(ctx, name)
	if err != nil {
		return err
	}
	return d.AddonServer.Logs(ctx, a, lines, follow, w)
}

// reconcileAddons makes the servers of add-ons match their records. It removes what a
// killed server has left of them, and nothing of an add-on that has no record: that may be
// what is missing.
func (d *Deployer) reconcileAddons(ctx context.Context) error {
	if d.AddonServer == nil {
		return nil
	}
	records, err := d.Store.Addons(ctx)
	if err != nil {
		return err
	}
	volumes, err := d.AddonServer.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, listed := range records {
		a, release, ok := d.claimOwn(ctx, listed.Name, "started")
		if !ok {
			continue // somebody is at it, or was
		}
		if a.State == mesh.AddonCreating || a.State == mesh.AddonDestroying {
			d.discardAddon(ctx, a)
			release()
			continue
		}
		for _, v := range volumes[a.Name] {
			if v != a.Volume && v != a.Pending && !keeps(a, v) { // a restored record does not know what came after it
				d.Logger.Warn("the engine has a volume of an add-on that its record does not know; leaving it alone", "addon", a.Name, "volume", v)
			}
		}
		d.background(func(ctx context.Context) {
			defer release()
			if a.Pending != "" {
				d.Logger.Info("removing what an interrupted change of an add-on has left", "addon", a.Name, "volume", a.Pending)
				next := a
				next.Volume = a.Pending
				d.unfill(ctx, next)
			}
			d.settleAddon(ctx, a)
		})
	}
	return nil
}

// settleAddon makes the servers of an add-on, which is claimed, run, or not, as recorded.
func (d *Deployer) settleAddon(ctx context.Context, a mesh.Addon) {
	for _, k := range a.Kept {
		if k.Volume == "" {
			continue
		}
		old := a
		old.Volume = k.Volume
		if err := d.AddonServer.Stop(ctx, old); err != nil && ctx.Err() == nil {
			d.Logger.Warn("the server of earlier data was not stopped", "addon", a.Name, "volume", k.Volume, "err", err)
		}
	}
	if a.State != mesh.AddonReady {
		return
	}
	err := d.runKept(ctx, a)
	if err == nil && !a.Old.IsZero() {
		err = d.resumeRotation(ctx, a)
	}
	if err != nil && ctx.Err() == nil {
		d.Logger.Error("add-on does not run as recorded", "addon", a.Name, "err", err)
	}
}

func keeps(a mesh.Addon, volume string) bool {
	return slices.ContainsFunc(a.Kept, func(k mesh.KeptVolume) bool { return k.Volume == volume })
}

// expireAddons removes earlier data of add-ons whose time is up, every hour until ctx ends.
func (d *Deployer) expireAddons(ctx context.Context) {
	if d.AddonServer == nil {
		return
	}
	hourly(ctx, func() {
		d.dropKept(ctx)
		d.dropBackups(ctx)
	})
}

// hourly calls fn at once, and then every hour until ctx ends.
func hourly(ctx context.Context, fn func()) {
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	for {
		fn()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func (d *Deployer) dropKept(ctx context.Context) {
	records, err := d.Store.Addons(ctx)
	if err != nil {
		d.Logger.Warn("earlier data of add-ons not removed", "err", err)
	}
	for _, a := range records {
		if !slices.ContainsFunc(a.Kept, d.expired) {
			continue
		}
		a, release, ok := d.claimOwn(ctx, a.Name, "cleaned")
		if !ok {
			continue // the next round does it
		}
		for _, k := range a.Kept {
			if d.expired(k) {
				d.dropOne(ctx, a, k)
			}
		}
		release()
	}
}

func (d *Deployer) expired(k mesh.KeptVolume) bool { return !d.Now().Before(k.Until) }

// dropOne removes earlier data of an add-on, which is claimed.
func (d *Deployer) dropOne(ctx context.Context, a mesh.Addon, k mesh.KeptVolume) {
	var err error
	if k.Volume != "" && k.Volume != a.Volume {
		err = d.AddonServer.Remove(ctx, a.Name, k.Volume)
	}
	if err == nil {
		_, err = d.Store.UpdateAddon(ctx, a.Name, func(r *mesh.Addon) error {
			r.Kept = slices.DeleteFunc(slices.Clone(r.Kept), func(o mesh.KeptVolume) bool { return o == k })
			return nil
		})
	}
	if err != nil {
		d.Logger.Warn("earlier data of an add-on not removed", "addon", a.Name, "volume", k.Volume, "err", err)
	}
}
