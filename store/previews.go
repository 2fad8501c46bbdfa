package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"go.etcd.io/bbolt"

	"mesh"
)

// previews yields the previews and the stacks that they belong to.
func previews(tx *bbolt.Tx) iter.Seq2[mesh.StackName, mesh.StackName] {
	return func(yield func(preview, of mesh.StackName) bool) {
		stacks := tx.Bucket(bucketStacks)
		c := stacks.Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			if !bytes.Contains(k, []byte("--")) { // as the name of every preview does
				continue
			}
			var f stackForm
			if b := stacks.Bucket(k); b == nil || parse(k, b.Get(keyRecord), &f) != nil || f.Preview == nil {
				continue // a damaged record belongs to nobody
			}
			if !yield(mesh.StackName(k), f.Preview.Of) {
				return
			}
		}
	}
}

// Previews returns the previews of a stack, by name, or all if it is empty. It leaves out
// damaged ones. It reads no record of another stack.
func (s *Store) Previews(ctx context.Context, of mesh.StackName) (out []mesh.Stack, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out = nil
		for name, parent := range previews(tx) {
			if of != "" && parent != of {
				continue
			}
			st, err := s.readStack(name, tx.Bucket(bucketStacks).Bucket([]byte(name)))
			switch {
			case err == nil:
				out = append(out, st)
			case !errors.Is(err, mesh.Damaged):
				return fmt.Errorf("read stack %s: %w", name, err)
			}
		}
		return nil
	})
	return out, err
}

// renameInPreviews makes the previews of a renamed stack belong to its new name. Their own
// names do not change.
func renameInPreviews(tx *bbolt.Tx, from, to mesh.StackName) (err error) {
	changed := map[mesh.StackName]*stackForm{} // a bucket must not change while it is walked
	stacks := tx.Bucket(bucketStacks)
	for name, of := range previews(tx) {
		if of != from {
			continue
		}
		var f stackForm
		if perr := parse([]byte(name), stacks.Bucket([]byte(name)).Get(keyRecord), &f); perr == nil {
			f.Preview.Of = to
			changed[name] = &f
		}
	}
	for name, f := range changed {
		err = errors.Join(err, put(stacks.Bucket([]byte(name)), keyRecord, f))
	}
	return err
}
