package store

import (
	"context"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
)

var bucketDestroyed = []byte("destroyed")

// destroyedForm notes that somebody destroyed a stack, until everything of it is
// gone. Without this note, nothing is deleted because a record is missing: the
// missing record may be the error.
type destroyedForm struct {
	V    int       `json:"v"`
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

func (f *destroyedForm) check(key []byte) error {
	if err := checkVersion(f.V); err != nil {
		return err
	}
	return checkKey(key, f.Name)
}

// maxDestroyed limits the notes: more can only accumulate while the engine is down.
const maxDestroyed = 1000

func noteDestroyed(tx *bbolt.Tx, name mesh.StackName) error {
	b, err := tx.CreateBucketIfNotExists(bucketDestroyed)
	if err != nil {
		return err
	}
	if b.Stats().KeyN >= maxDestroyed {
		k, _ := b.Cursor().First()
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return put(b, []byte(name), &destroyedForm{V: 1, Name: string(name), At: time.Now().UTC()})
}

func forgetDestroyed(tx *bbolt.Tx, name mesh.StackName) error {
	if b := tx.Bucket(bucketDestroyed); b != nil {
		return b.Delete([]byte(name))
	}
	return nil
}

// Destroyed returns the stacks that were destroyed and may have left something. If a
// name is neither one of these nor a stack's, what exists under it may still belong
// to somebody.
func (s *Store) Destroyed(ctx context.Context) (out []mesh.StackName, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out = nil
		b := tx.Bucket(bucketDestroyed)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			if parse(k, v, new(destroyedForm)) == nil {
				out = append(out, mesh.StackName(k))
			}
			return nil
		})
	})
	return out, err
}

// Provisional notes a name under which something is about to be created before the
// stack is recorded: until then it may be removed.
func (s *Store) Provisional(ctx context.Context, name mesh.StackName) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketStacks).Bucket([]byte(name)) != nil {
			return nil
		}
		return noteDestroyed(tx, name)
	})
}

// Gone records that nothing is left of a destroyed stack.
func (s *Store) Gone(ctx context.Context, name mesh.StackName) error {
	return s.update(ctx, func(tx *bbolt.Tx) error { return forgetDestroyed(tx, name) })
}
