package deploy

import (
	"context"

	"mesh"
)

// life lasts as long as a stack has its name.
type life struct {
	ctx context.Context
	end context.CancelCauseFunc
}

// Life is a context that ends when the stack is destroyed or renamed; its cause is a
// *mesh.Error that says which.
func (d *Deployer) Life(stack mesh.StackName) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, ok := d.lives[stack]
	if !ok {
		l.ctx, l.end = context.WithCancelCause(context.Background())
		d.lives[stack] = l
	}
	return l.ctx
}

// over ends the life of a stack, for whoever follows it.
func (d *Deployer) over(stack mesh.StackName, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l, ok := d.lives[stack]; ok {
		delete(d.lives, stack)
		l.end(why)
	}
}
