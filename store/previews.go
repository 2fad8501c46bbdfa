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

// previews yields the previews and their records.
func previews(tx *bbolt.Tx) iter.Seq2[mesh.StackName, *stackForm] {
	return func(yield func(mesh.StackName, *stackForm) bool) {
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
			if !yield(mesh.StackName(k), &f) {
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
		for name, f := range previews(tx) {
			if of != "" && f.Preview.Of != of {
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
	for name, f := range previews(tx) {
		if f.Preview.Of == from {
			f.Preview.Of = to
			changed[name] = f
		}
	}
	for name, f := range changed {
		err = errors.Join(err, put(tx.Bucket(bucketStacks).Bucket([]byte(name)), keyRecord, f))
	}
	return err
}
