package store

import (
	"cmp"
	"context"
	"io"
	"os"

	"go.etcd.io/bbolt"

	"mesh"
)

// Version returns a number that grows with every change.
func (s *Store) Version(ctx context.Context) (n uint64, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		n = uint64(tx.ID()) //nolint:gosec // it counts from 1
		return nil
	})
	return n, err
}

// Snapshot writes the data file as it is at one instant to an unnamed file, and
// returns that, positioned at its beginning. Transactions continue meanwhile. The
// caller closes it.
func (s *Store) Snapshot(ctx context.Context) (_ *os.File, err error) {
	f, err := os.CreateTemp(s.dir, ".mesh.db-*")
	if err != nil {
		return nil, mesh.TellNoRoom(err)
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
		to := &catch{Writer: f}
		if _, err := tx.WriteTo(to); err != nil {
			return cmp.Or(to.err, err) // bbolt turns it into text
		}
		return nil
	})
	if err != nil {
		return nil, mesh.TellNoRoom(err)
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

// catch keeps the error of a writer.
type catch struct {
	io.Writer
	err error
}

func (c *catch) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.err = cmp.Or(c.err, err)
	return n, err
}
