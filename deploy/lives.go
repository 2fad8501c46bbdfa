package deploy

import (
	"context"
	"sync"

	"mesh"
)

// lives holds a context for each stack that someone follows. It lasts as long as the
// stack has its name.
type lives struct {
	mu sync.Mutex
	by map[mesh.StackName]life
}

type life struct {
	ctx context.Context
	end context.CancelCauseFunc
}

// Life returns a context that ends when the stack is destroyed or renamed. Its cause is
// a *mesh.Error that says which.
func (d *Deployer) Life(stack mesh.StackName) context.Context { return d.lives.of(stack) }

func (l *lives) of(stack mesh.StackName) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = map[mesh.StackName]life{}
	}
	found, ok := l.by[stack]
	if !ok {
		found.ctx, found.end = context.WithCancelCause(context.Background())
		l.by[stack] = found
	}
	return found.ctx
}

// end ends the life of a stack, for everyone who follows it.
func (l *lives) end(stack mesh.StackName, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if found, ok := l.by[stack]; ok {
		delete(l.by, stack)
		found.end(why)
	}
}
