package deploy

import (
	"context"
	"errors"
	"fmt"

	"mesh"
	"mesh/deploy/fleet"
)

// CreateStack records a new stack with its own network, and routes its name.
func (d *Deployer) CreateStack(ctx context.Context, name mesh.StackName, by mesh.KeyName) (mesh.Stack, error) {
	return d.create(ctx, mesh.Stack{Name: name, CreatedBy: by})
}

// create adds a new stack, and gives it a subnet.
func (d *Deployer) create(ctx context.Context, st mesh.Stack) (mesh.Stack, error) {
	return d.createIf(ctx, st, func([]mesh.Stack) error { return nil })
}

// createIf is create, unless admit returns an error. It gets the existing stacks.
func (d *Deployer) createIf(ctx context.Context, st mesh.Stack, admit func(taken []mesh.Stack) error) (mesh.Stack, error) {
	name := st.Name
	if err := d.names.free(name); err != nil {
		return mesh.Stack{}, err
	}
	st.Created = d.Now().UTC()
	st, err := d.Store.CreateStack(ctx, st, func(taken []mesh.Stack, st mesh.Stack) (mesh.Stack, error) {
		for _, o := range taken {
			if o.Was == st.Name {
				return st, renaming(o.Was)
			}
		}
		if _, ok := d.owner(taken, d.host(st.Name)); ok {
			return st, mesh.Errorf(mesh.Conflict, "the name %s is a domain of another stack", d.host(st.Name)).WithHint("choose another name")
		}
		err := admit(taken)
		if err == nil {
			st.Subnet, err = d.subnet(taken)
		}
		return st, err
	})
	if err != nil {
		return st, err
	}
	d.fleet.Create(st)
	d.refresh(ctx, name) // until now the fleet did not know the stack
	return st, nil
}

// DestroyStack removes a stack: its instances, images, network, routes, repository,
// records and output. It first cancels its deployments.
//
// The previews of the stack are destroyed with it. If they cannot be, the stack stays.
func (d *Deployer) DestroyStack(ctx context.Context, name mesh.StackName, by mesh.KeyName) error {
	st, err := d.Store.Stack(ctx, name)
	if err != nil && !errors.Is(err, mesh.Damaged) {
		return err
	}
	if users, err := d.users(ctx, name); err != nil {
		return err
	} else if len(users) > 0 {
		other := "another stack is"
		if len(users) > 1 {
			other = fmt.Sprintf("%d other stacks are", len(users))
		}
		return mesh.Errorf(mesh.Conflict, "%s linked to %s and would fail without it", other, name).
			WithHint("see which with: ssh mesh stacks:info -a %s; remove a link with: ssh mesh stacks:unlink %s -a STACK", name, name)
	}
	if err := d.destroyPreviews(ctx, name, by); err != nil {
		return err
	}
	for _, t := range d.lanes.tickets(name) {
		t.cancel(mesh.Errorf(mesh.Cancelled, "%s was destroyed by %s", name, by))
		select {
		case <-t.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	ctx = context.WithoutCancel(ctx)
	defer d.names.destroy(name)()
	d.names.started(ctx, name) // so that removeStack finds its container
	// Remove the record first: a server that is killed after this removes the rest when
	// it starts.
	if err := d.Store.DestroyStack(ctx, name); err != nil {
		return err
	}
	d.fleet.Drop(name)
	d.staged.take(name)
	d.tellDefault(ctx)
	d.lives.end(name, mesh.Errorf(mesh.NoStack, "%s was destroyed by %s", name, by))
	d.Logger.Info("stack destroyed", "stack", name, "key", string(by))
	err = d.Repos.Remove(ctx, name) // before the note that it was destroyed: without that, leftovers have no known owner
	d.removeStack(ctx, name)
	if st.Preview != nil {
		d.resetBranch(ctx, st.Preview.Of)
		if derr := d.dropPreviewAddons(ctx); derr != nil {
			d.Logger.Warn("add-ons of a preview not removed yet", "stack", name, "err", derr)
		}
	}
	return err
}

// removeTries is how often mesh asks the engine to remove a stack's containers and
// images before it leaves that to the next start.
const removeTries = 8

// removeStack removes what a destroyed stack has in the engine, and then the note that
// it was destroyed. If the engine is away, or one of its file systems is busy,
// removeStack tries again in the background.
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
			d.Logger.Warn("stack not completely removed yet", "stack", name, "err", err)
			if !fleet.Wait(ctx, fleet.Backoff(try), nil) {
				return
			}
			if _, serr := d.Store.Stack(ctx, name); !errors.Is(serr, mesh.NoStack) {
				return // a new stack has the name
			}
			err = remove(ctx)
		}
	})
}
