package store

import (
	"context"
	"fmt"

	"go.etcd.io/bbolt"

	"mesh"
)

// Release returns one release of a stack.
func (s *Store) Release(ctx context.Context, stack mesh.StackName, n mesh.ReleaseNumber) (r mesh.Release, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		b, err := stackBucket(tx, stack)
		if err != nil {
			return err
		}
		data := b.Bucket(bucketReleases).Get(number(uint64(n)))
		if data == nil {
			return mesh.Errorf(mesh.NotFound, "%s has no release %s", stack, n).WithHint("list them with: ssh mesh releases -a %s", stack)
		}
		r, err = s.readRelease(b, stack, number(uint64(n)), data)
		return err
	})
	return r, err
}

func (s *Store) readRelease(b *bbolt.Bucket, stack mesh.StackName, key, data []byte) (mesh.Release, error) {
	var f releaseForm
	what := func() string { return fmt.Sprintf("release v%s of %s", numberText(key), stack) }
	if err := parse(key, data, &f); err != nil {
		return mesh.Release{}, damagedRecord(what(), err)
	}
	cfg, err := s.openConfig(b, f.Config)
	if err != nil {
		return mesh.Release{}, damagedRecord(what(), fmt.Errorf("its config vars: %w", err))
	}
	r := f.release(stack, cfg)
	if len(f.Global) > 0 {
		if r.Global, err = s.openConfig(b, f.Global); err != nil {
			return mesh.Release{}, damagedRecord(what(), fmt.Errorf("the config vars of all stacks: %w", err))
		}
	}
	err = s.openServices(b, f.Services, func(n mesh.ServiceName, c mesh.Config) {
		svc := r.Services[n]
		svc.Config = c
		r.Services[n] = svc
	})
	if err != nil {
		return mesh.Release{}, damagedRecord(what(), fmt.Errorf("its config vars: %w", err))
	}
	return r, nil
}

// newest calls fn with the values of a numbered bucket, last one first, at most
// limit of them, or all if limit is 0.
func newest(b *bbolt.Bucket, limit int, fn func(key, data []byte) error) error {
	c := b.Cursor()
	n := 0
	for k, v := c.Last(); k != nil && (limit <= 0 || n < limit); k, v = c.Prev() {
		if err := fn(k, v); err != nil {
			return err
		}
		n++
	}
	return nil
}

// Releases returns the newest releases first, at most limit of them, or all if limit
// is 0.
func (s *Store) Releases(ctx context.Context, stack mesh.StackName, limit int) (out []mesh.Release, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out = nil
		b, err := stackBucket(tx, stack)
		if err != nil {
			return err
		}
		return newest(b.Bucket(bucketReleases), limit, func(key, data []byte) error {
			r, err := s.readRelease(b, stack, key, data)
			out = append(out, r)
			return err
		})
	})
	return out, err
}

// Deployment returns one deployment of a stack.
func (s *Store) Deployment(ctx context.Context, stack mesh.StackName, n mesh.DeploymentNumber) (d mesh.Deployment, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		b, err := stackBucket(tx, stack)
		if err != nil {
			return err
		}
		data := b.Bucket(bucketDeployments).Get(number(uint64(n)))
		if data == nil {
			return mesh.Errorf(mesh.NotFound, "%s has no deployment %s", stack, n).WithHint("list them with: ssh mesh deployments -a %s", stack)
		}
		d, err = readDeployment(stack, number(uint64(n)), data)
		return err
	})
	return d, err
}

func readDeployment(stack mesh.StackName, key, data []byte) (mesh.Deployment, error) {
	var f deploymentForm
	if err := parse(key, data, &f); err != nil {
		return mesh.Deployment{}, damagedRecord(fmt.Sprintf("deployment %s of %s", numberText(key), stack), err)
	}
	return f.deployment(stack), nil
}

// Deployments returns the newest deployments first, at most limit of them, or all if
// limit is 0.
func (s *Store) Deployments(ctx context.Context, stack mesh.StackName, limit int) (out []mesh.Deployment, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out = nil
		b, err := stackBucket(tx, stack)
		if err != nil {
			return err
		}
		return newest(b.Bucket(bucketDeployments), limit, func(key, data []byte) error {
			d, err := readDeployment(stack, key, data)
			out = append(out, d)
			return err
		})
	})
	return out, err
}

// BeginDeployment gives d the stack's next number and records it. If there are more
// than 1,000, the oldest are removed, with their output.
func (s *Store) BeginDeployment(ctx context.Context, d mesh.Deployment) (mesh.Deployment, error) {
	var first uint64
	trimmed := false
	err := s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := s.changeable(tx, d.Stack)
		if err != nil {
			return err
		}
		st, err := s.readStack(d.Stack, b)
		if err != nil {
			return err
		}
		old := st
		st.LastNumber++
		d.Number = st.LastNumber
		if err := s.writeStack(tx, b, old, st); err != nil {
			return err
		}
		if err := put(b.Bucket(bucketDeployments), number(uint64(d.Number)), storeDeployment(d)); err != nil {
			return err
		}
		first, trimmed, err = trimDeployments(b)
		return err
	})
	if err == nil && trimmed {
		if err := s.trimOutput(d.Stack, first); err != nil {
			s.note(fmt.Sprintf("cannot remove old output of %s: %v", d.Stack, err))
		}
	}
	return d, err
}

// UpdateDeployment replaces the record of d, unless that is final.
func (s *Store) UpdateDeployment(ctx context.Context, d mesh.Deployment) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := s.changeable(tx, d.Stack)
		if err != nil {
			return err
		}
		return updateDeployment(b, d)
	})
}

func updateDeployment(b *bbolt.Bucket, d mesh.Deployment) error {
	db := b.Bucket(bucketDeployments)
	data := db.Get(number(uint64(d.Number)))
	if data == nil {
		return mesh.Errorf(mesh.NotFound, "%s has no deployment %s", d.Stack, d.Number)
	}
	old, err := readDeployment(d.Stack, number(uint64(d.Number)), data)
	if err != nil {
		return err
	}
	if old.Status.Final() {
		return mesh.Errorf(mesh.Conflict, "deployment %s of %s has already ended (%s)", d.Number, d.Stack, old.Status)
	}
	return put(db, number(uint64(d.Number)), storeDeployment(d))
}

// Commit makes d live and, if r is not nil, makes r the stack's current release;
// r.Number must be the one after the last, or that of the staged release. change, which
// may be nil, is applied to the stack in the same transaction. No release is staged any
// more once there is another current one.
func (s *Store) Commit(ctx context.Context, d mesh.Deployment, r *mesh.Release, change func(*mesh.Stack) error) (st mesh.Stack, err error) {
	d.Status = mesh.StatusLive
	return s.conclude(ctx, d, r, change)
}

// Stage records r as the staged release of a stack, with the end of d, and leaves the
// current one as it is. Otherwise it is like Commit.
func (s *Store) Stage(ctx context.Context, d mesh.Deployment, r *mesh.Release, change func(*mesh.Stack) error) (st mesh.Stack, err error) {
	d.Status = mesh.StatusStaged
	return s.conclude(ctx, d, r, change)
}

// conclude is Commit or Stage, as the status of d says.
func (s *Store) conclude(ctx context.Context, d mesh.Deployment, r *mesh.Release, change func(*mesh.Stack) error) (st mesh.Stack, err error) {
	err = s.update(ctx, func(tx *bbolt.Tx) error {
		trimmed := false
		b, err := s.changeable(tx, d.Stack)
		if err != nil {
			return err
		}
		old, err := s.readStack(d.Stack, b)
		if err != nil {
			return err
		}
		st = old
		if change != nil {
			if st, err = apply(old, change); err != nil {
				return err
			}
		}
		if r != nil {
			live := d.Status == mesh.StatusLive
			rb := b.Bucket(bucketReleases)
			next := uint64(1)
			if k, _ := rb.Cursor().Last(); k != nil {
				next = fromNumber(k) + 1
			}
			if old.Staged != nil && old.Staged.Release == r.Number && live && next == uint64(r.Number)+1 { //nolint:gosec // not negative
				next--
			}
			if uint64(r.Number) != next {
				return fmt.Errorf("record release %s of %s: the next one is v%d", r.Number, d.Stack, next)
			}
			ref, err := s.putConfig(b, r.Config)
			if err != nil {
				return err
			}
			f := storeRelease(*r, ref)
			f.Staged = !live
			if f.Global, err = s.putConfig(b, r.Global); err != nil {
				return err
			}
			if err := s.putServices(b, f.Services, func(n mesh.ServiceName) mesh.Config { return r.Services[n].Config }); err != nil {
				return err
			}
			if err := put(rb, number(next), f); err != nil {
				return err
			}
			if d.Release = r.Number; live {
				st.Current, st.Staged = r.Number, nil
			}
			if trimmed, err = trimReleases(b, st.Current); err != nil {
				return err
			}
		}
		if err := s.writeStack(tx, b, old, st); err != nil {
			return err
		}
		if trimmed {
			var f stackForm
			if err := parse([]byte(st.Name), b.Get(keyRecord), &f); err != nil {
				return err
			}
			if err := tidyConfigs(b, f.refs()); err != nil {
				return err
			}
		}
		return updateDeployment(b, d)
	})
	return st, err
}
