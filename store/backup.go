package store

import (
	"context"
	"io"
	"os"

	"go.etcd.io/bbolt"
)

// Snapshot writes the data file as it is at one instant to a file without a name,
// and returns that, at its beginning. Transactions go on meanwhile. The caller
// closes it.
func (s *Store) Snapshot(ctx context.Context) (_ *os.File, err error) {
	f, err := os.CreateTemp(s.dir, ".mesh.db-*")
	if err != nil {
		return nil, noRoom(err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(f)
		return err
	})
	if err != nil {
		return nil, noRoom(err)
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}
