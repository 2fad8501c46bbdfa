package deploy

import (
	"context"
	"fmt"
	"time"

	"mesh"
)

// locked returns an error that says who has locked a stack, since when and why.
func locked(st mesh.Stack) error {
	why := ""
	if st.Lock.Why != "" {
		why = fmt.Sprintf(" (%s)", st.Lock.Why)
	}
	return mesh.Errorf(mesh.Conflict, "%s is locked by %s since %s%s", st.Name, st.Lock.By, st.Lock.Since.UTC().Format(time.RFC3339), why).
		WithHint("nothing is deployed until: ssh mesh unlock -a %s", st.Name)
}

// Lock freezes a stack: until it is unlocked, no push, rollback or config change makes
// a release. Scaling, restarting, stopping and starting still work.
func (d *Deployer) Lock(ctx context.Context, stack mesh.StackName, by mesh.KeyName, why string) (mesh.Stack, error) {
	return d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error {
		if s.Lock != nil {
			return locked(*s)
		}
		s.Lock = &mesh.Lock{By: by, Since: d.Now().UTC(), Why: mesh.Visible(why)}
		return nil
	})
}

// Unlock allows releases again, whoever locked the stack.
func (d *Deployer) Unlock(ctx context.Context, stack mesh.StackName) error {
	st, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error {
		if s.Lock == nil {
			return mesh.Errorf(mesh.Conflict, "%s is not locked", stack)
		}
		s.Lock = nil
		return nil
	})
	if err == nil && st.Forge != nil {
		d.lookAtForge(stack) // it may have waited
	}
	return err
}
