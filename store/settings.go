package store

import (
	"context"
	"errors"

	"go.etcd.io/bbolt"

	"mesh"
)

// settingsRecord is the stored form of mesh.ServerSettings.
type settingsRecord struct {
	V            int    `json:"v"`
	AutoCreate   string `json:"autocreate,omitempty"`
	DefaultStack string `json:"default_stack,omitempty"`
}

func (f *settingsRecord) check([]byte) error {
	err := checkVersion(f.V)
	if f.AutoCreate != "" {
		err = errors.Join(err, checkOneOf("autocreate", f.AutoCreate, mesh.AutoCreateOff, mesh.AutoCreateAdmins))
	}
	return err
}

// readSettings reads the settings of the server; none are recorded: all zero.
func readSettings(tx *bbolt.Tx) (mesh.ServerSettings, error) {
	data := tx.Bucket(bucketMeta).Get(keySettings)
	if data == nil {
		return mesh.ServerSettings{}, nil
	}
	var f settingsRecord
	if err := parse(keySettings, data, &f); err != nil {
		return mesh.ServerSettings{}, damagedRecord("the settings of the server", err)
	}
	return mesh.ServerSettings{AutoCreate: mesh.AutoCreate(f.AutoCreate), DefaultStack: mesh.StackName(f.DefaultStack)}, nil
}

func writeSettings(tx *bbolt.Tx, s mesh.ServerSettings) error {
	return put(tx.Bucket(bucketMeta), keySettings, &settingsRecord{V: 1, AutoCreate: string(s.AutoCreate), DefaultStack: string(s.DefaultStack)})
}

// ServerSettings returns the settings of the server.
func (s *Store) ServerSettings(ctx context.Context) (out mesh.ServerSettings, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out, err = readSettings(tx)
		return err
	})
	return out, err
}

// UpdateServerSettings changes the settings of the server with fn, and returns them. A
// default stack that does not exist is an error of kind NoStack. Settings that cannot be
// read are replaced: fn gets those of a new server.
func (s *Store) UpdateServerSettings(ctx context.Context, fn func(*mesh.ServerSettings) error) (out mesh.ServerSettings, err error) {
	err = s.update(ctx, func(tx *bbolt.Tx) error {
		if out, err = readSettings(tx); err != nil && !errors.Is(err, mesh.Damaged) {
			return err
		}
		if err := fn(&out); err != nil {
			return err
		}
		if out.DefaultStack != "" {
			if _, err := stackBucket(tx, out.DefaultStack); err != nil && !errors.Is(err, mesh.Damaged) {
				return err
			}
		}
		return writeSettings(tx, out)
	})
	return out, err
}

// renameDefault keeps the default stack in step with the names of stacks; to is empty for
// one that is destroyed.
func renameDefault(tx *bbolt.Tx, from, to mesh.StackName) error {
	set, err := readSettings(tx)
	if err != nil || set.DefaultStack != from {
		return nil //nolint:nilerr // settings that cannot be read name no stack
	}
	set.DefaultStack = to
	return writeSettings(tx, set)
}
