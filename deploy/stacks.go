package deploy

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"mesh"
)

// subnetBits is the size of a stack's network: 61 containers.
const subnetBits = 26

// CreateStack records a new stack with a network of its own and routes its name.
func (d *Deployer) CreateStack(ctx context.Context, name mesh.StackName, by mesh.KeyName) (mesh.Stack, error) {
	if err := d.free(name); err != nil {
		return mesh.Stack{}, err
	}
	st := mesh.Stack{Name: name, Created: d.Now().UTC(), CreatedBy: by}
	st, err := d.Store.CreateStack(ctx, st, func(taken []mesh.Stack, st mesh.Stack) (mesh.Stack, error) {
		for _, o := range taken {
			if o.Was == st.Name {
				return st, renaming(o.Was)
			}
		}
		if _, ok := d.owner(taken, d.host(st.Name)); ok {
			return st, mesh.Errorf(mesh.Conflict, "the name %s is a domain of another stack", d.host(st.Name)).WithHint("choose another name")
		}
		var err error
		st.Subnet, err = d.subnet(taken)
		return st, err
	})
	if err != nil {
		return st, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.held, name)
	fl := &fleet{stack: d.newestLocked(st), members: map[mesh.InstanceName]*member{}}
	d.fleets[name] = fl
	d.switchLocked(fl)
	return st, nil
}

// subnet chooses a network of the pool that meets no other. Docker's own default
// pools end after 31 networks. The search begins anywhere, so that two servers on
// one machine seldom want the same.
func (d *Deployer) subnet(taken []mesh.Stack) (netip.Prefix, error) {
	var used []netip.Prefix
	for _, o := range taken {
		used = append(used, o.Subnet)
	}
	if d.Taken != nil {
		used = append(used, d.Taken()...)
	}
	base := d.Pool.Masked()
	count := uint32(1) << max(0, subnetBits-base.Bits())
	start := rand.Uint32()
	addr := base.Addr().As4()
	first := binary.BigEndian.Uint32(addr[:])
	for i := range count {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], first+(start+i)%count<<(32-subnetBits))
		p := netip.PrefixFrom(netip.AddrFrom4(b), subnetBits)
		if !slices.ContainsFunc(used, func(u netip.Prefix) bool { return u.IsValid() && u.Overlaps(p) }) {
			return p, nil
		}
	}
	return netip.Prefix{}, mesh.Errorf(mesh.Unavailable, "no network is left for another stack: all %d of %s are in use", count, d.Pool)
}

// subnetTries is how often a stack gets another network when something else on
// the machine has the one that was chosen.
const subnetTries = 8

// withSubnet runs fn, which makes the stack's network when it is missing, and
// again with another subnet when that one turns out to be taken by something that
// mesh cannot see: the network of another server, made since.
func (d *Deployer) withSubnet(ctx context.Context, st mesh.Stack, fn func(mesh.Stack) error) (mesh.Stack, error) {
	for try := 1; ; try++ {
		err := fn(st)
		if !errors.Is(err, mesh.Conflict) || try == subnetTries {
			return st, err
		}
		stacks, serr := d.Store.Stacks(ctx)
		if serr != nil {
			return st, errors.Join(err, serr)
		}
		p, serr := d.subnet(stacks)
		if serr != nil {
			return st, errors.Join(err, serr)
		}
		if st.Was != "" {
			st.Subnet = p // recorded with the new name
			continue
		}
		d.Logger.Info("subnet is taken, choosing another", "stack", st.Name, "was", st.Subnet.String(), "now", p.String())
		st, serr = d.Store.UpdateStack(ctx, st.Name, func(s *mesh.Stack) error { s.Subnet = p; return nil })
		if serr != nil {
			return st, errors.Join(err, serr)
		}
	}
}

// DestroyStack removes a stack: what runs, its images, network, routes,
// repository, records and output. Deployments that are under way are cancelled
// first.
func (d *Deployer) DestroyStack(ctx context.Context, name mesh.StackName, by mesh.KeyName) error {
	if _, err := d.Store.Stack(ctx, name); err != nil && !errors.Is(err, mesh.Damaged) {
		return err
	}
	for _, t := range d.tickets(name) {
		t.cancel(mesh.Errorf(mesh.Cancelled, "%s was destroyed by %s", name, by))
		select {
		case <-t.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	ctx = context.WithoutCancel(ctx)
	d.mu.Lock()
	d.destroying[name] = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.destroying, name)
	}()
	// The record goes first: a server that is killed from here on removes the rest
	// when it starts.
	if err := d.Store.DestroyStack(ctx, name); err != nil {
		return err
	}
	d.mu.Lock()
	delete(d.fleets, name)
	delete(d.held, name)
	d.Router.Remove(name)
	d.mu.Unlock()
	d.over(name, mesh.Errorf(mesh.NoStack, "%s was destroyed by %s", name, by))
	d.Logger.Info("stack destroyed", "stack", name, "key", string(by))
	err := d.Repos.Remove(ctx, name) // before the last of it: what is left then is not known to be nobody's
	d.removeStack(ctx, name)
	return err
}

// free tells whether a name can be taken.
func (d *Deployer) free(name mesh.StackName) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.destroying[name] {
		return mesh.Errorf(mesh.Conflict, "%s is being destroyed", name).WithHint("try again in a moment")
	}
	if d.renaming[name] {
		return renaming(name)
	}
	return nil
}

// removeTries is how often the engine is asked to let go of a stack's containers
// and images before that is left to the next start.
const removeTries = 8

// removeStack removes what a stack that is no more has in the engine, and then the note
// that it was destroyed. An engine
// that cannot, because it is away or a file system of its own is busy, is asked
// again in the background.
func (d *Deployer) removeStack(ctx context.Context, name mesh.StackName) {
	remove := func(ctx context.Context) error {
		err := errors.Join(d.Runner.RemoveStack(ctx, name), d.Builder.Collect(ctx, name, nil))
		if err == nil {
			err = d.Store.Gone(ctx, name)
		}
		return err
	}
	err := remove(ctx)
	if err == nil {
		return
	}
	d.background(func(ctx context.Context) {
		for try := 1; err != nil && try < removeTries; try++ {
			d.Logger.Warn("not all of a stack removed yet", "stack", name, "err", err)
			if !sleep(ctx, backoff(try)) {
				return
			}
			if _, serr := d.Store.Stack(ctx, name); !errors.Is(serr, mesh.NoStack) {
				return // there is a stack of that name again
			}
			err = remove(ctx)
		}
	})
}

// AddDomain routes a host name to a stack, on behalf of a key. With to, another host
// of the stack, requests for it are told to go there.
func (d *Deployer) AddDomain(ctx context.Context, name mesh.StackName, host, to mesh.Host, key mesh.Key) error {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return err
	}
	if o, ok := d.owner(stacks, host); ok && d.host(o.Name) == host && key.May(mesh.AccessRead, o.Name) {
		return ownName(host, o.Name)
	}
	if err := d.mayHave(stacks, name, host, key); err != nil {
		return err
	}
	return d.changeDomains(ctx, name, func(st *mesh.Stack) error {
		if slices.Contains(st.Domains, host) {
			return mesh.Errorf(mesh.Conflict, "%s leads to %s already", host, name)
		}
		if to != "" {
			switch {
			case strings.HasPrefix(string(host), "*"):
				return mesh.Errorf(mesh.Invalid, "a wildcard cannot be redirected").WithHint("redirect one host at a time")
			case strings.HasPrefix(string(to), "*"):
				return mesh.Errorf(mesh.Invalid, "%s is no host that a browser could be sent to", to).WithHint("name one host")
			case to != d.host(name) && !slices.Contains(st.Domains, to), st.Redirects[to] != "":
				return mesh.Errorf(mesh.Invalid, "%s is no host of %s that serves it", to, name).WithHint("add that one first: ssh mesh domains:add -a %s %s", name, to)
			}
			if st.Redirects == nil {
				st.Redirects = map[mesh.Host]mesh.Host{}
			}
			st.Redirects[host] = to
		}
		st.Domains = append(st.Domains, host)
		slices.Sort(st.Domains)
		return nil
	})
}

// mayHave tells whether a key may give a host to a stack. What is at or below the base
// domain is the server's: whoever has it gets the cookies of the whole domain, or what
// is meant for a stack that does not exist yet. A stack has what is below its own name.
// An admin of the server may give away the rest, but nothing that is reserved.
func (d *Deployer) mayHave(stacks []mesh.Stack, stack mesh.StackName, host mesh.Host, key mesh.Key) error {
	below, ours := strings.CutSuffix("."+string(host), "."+d.Domain)
	if parent, wild := strings.CutPrefix(string(host), "*."); wild && strings.HasSuffix(d.Domain, "."+parent) && !key.May(mesh.AccessAdmin, "") {
		return mesh.Errorf(mesh.Denied, "%s covers the server's base domain %s", host, d.Domain).WithHint("name one host, or ask an admin to add it")
	}
	if !ours {
		return d.mayCover(stacks, stack, host, key)
	}
	labels := strings.Split(strings.TrimPrefix(below, "."), ".")
	switch label := labels[len(labels)-1]; {
	case mesh.Reserved(label):
		return mesh.Errorf(mesh.Denied, "%s is mesh's own", host).WithHint("choose a name below %s, or one of another domain", d.host(stack))
	case label == string(stack) && len(labels) > 1:
		return nil
	}
	if !key.May(mesh.AccessAdmin, "") {
		return mesh.Errorf(mesh.Denied, "%s belongs to the server: its base domain is %s", host, d.Domain).
			WithHint("choose a name below %s, or one of another domain; or ask an admin to add it", d.host(stack))
	}
	return nil
}

// mayCover tells whether a key may take a host out of the wildcard of another stack.
func (d *Deployer) mayCover(stacks []mesh.Stack, stack mesh.StackName, host mesh.Host, key mesh.Key) error {
	for _, parent, below := strings.Cut(string(host), "."); below; _, parent, below = strings.Cut(parent, ".") {
		wildcard := mesh.Host("*." + parent)
		for _, o := range stacks {
			if o.Name != stack && wildcard != host && slices.Contains(o.Domains, wildcard) && !key.May(mesh.AccessDeploy, o.Name) {
				return mesh.Errorf(mesh.Conflict, "%s belongs to another stack, which has %s", host, wildcard)
			}
		}
	}
	return nil
}

// owner is the stack that a host leads to, by the stack's own name or as one of its
// domains.
func (d *Deployer) owner(stacks []mesh.Stack, host mesh.Host) (mesh.Stack, bool) {
	i := slices.IndexFunc(stacks, func(o mesh.Stack) bool { return d.host(o.Name) == host || slices.Contains(o.Domains, host) })
	if i < 0 {
		return mesh.Stack{}, false
	}
	return stacks[i], true
}

func ownName(host mesh.Host, stack mesh.StackName) error {
	return mesh.Errorf(mesh.Conflict, "%s is the own name of the stack %s", host, stack)
}

// RemoveDomain takes a host name from a stack.
func (d *Deployer) RemoveDomain(ctx context.Context, name mesh.StackName, host mesh.Host) error {
	if host == d.host(name) {
		return mesh.Errorf(mesh.Conflict, "%s is the stack's own name and stays", host)
	}
	return d.changeDomains(ctx, name, func(st *mesh.Stack) error {
		i := slices.Index(st.Domains, host)
		if i < 0 {
			return mesh.Errorf(mesh.NotFound, "%s has no domain %s", name, host).WithHint("list them with: ssh mesh domains -a %s", name)
		}
		for from, to := range st.Redirects {
			if to == host {
				return mesh.Errorf(mesh.Conflict, "%s is redirected to %s", from, host).WithHint("remove that one first: ssh mesh domains:remove -a %s %s", name, from)
			}
		}
		for _, e := range st.Endpoints {
			if e.Host == host {
				return mesh.Errorf(mesh.Conflict, "%s is published at %s", e.Service, e).
					WithHint("take that back first: ssh mesh svc:unpublish -a %s %s --endpoint %s", name, e.Service, e)
			}
		}
		delete(st.Redirects, host)
		st.Domains = slices.Delete(st.Domains, i, i+1)
		return nil
	})
}

// changeDomains changes where the requests of a stack go, at once.
func (d *Deployer) changeDomains(ctx context.Context, name mesh.StackName, fn func(*mesh.Stack) error) error {
	if _, err := d.Store.UpdateStack(ctx, name, fn); err != nil {
		return err
	}
	d.refresh(name)
	return nil
}

// Domains returns the host names that lead to a stack, its own first.
func (d *Deployer) Domains(st mesh.Stack) []mesh.Host {
	return append([]mesh.Host{d.host(st.Name)}, st.Domains...)
}

// AddKey lets a key in. The first key is an admin's: without one nobody could add
// more over SSH.
func (d *Deployer) AddKey(ctx context.Context, k mesh.Key) error {
	k.Added = d.Now().UTC()
	if err := d.Store.AddKey(ctx, k); err != nil {
		return err
	}
	d.Logger.Info("key added", "key", string(k.Name), "role", string(k.Role), "fingerprint", k.Fingerprint, "by", string(k.AddedBy))
	return nil
}

// RemoveKey shuts a key out. The last admin key may be removed: the local socket
// lets an admin in whatever the keys are.
func (d *Deployer) RemoveKey(ctx context.Context, name, by mesh.KeyName) error {
	keys, err := d.Store.Keys(ctx)
	if err != nil {
		return err
	}
	if err := d.Store.RemoveKey(ctx, name); err != nil {
		return err
	}
	for _, k := range keys {
		if k.Name == name {
			d.ShutOut(k.Fingerprint)
		}
	}
	d.Logger.Info("key removed", "key", string(name), "by", string(by))
	return nil
}
