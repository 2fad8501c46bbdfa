package store

import (
	"context"

	"go.etcd.io/bbolt"

	"mesh"
)

// keyGlobal is in bucketMeta: the config vars of all stacks.
var keyGlobal = []byte("global")

type globalForm struct {
	V      int    `json:"v"`
	Config []byte `json:"config"` // sealed
}

func (f *globalForm) check([]byte) error { return checkVersion(f.V) }

// globalContext keeps the sealed vars from being taken for something else that is sealed.
var globalContext = []byte("config vars of all stacks")

func (s *Store) readGlobal(tx *bbolt.Tx) (mesh.Config, error) {
	data := tx.Bucket(bucketMeta).Get(keyGlobal)
	if data == nil {
		return mesh.Config{}, nil
	}
	var f globalForm
	err := parse(keyGlobal, data, &f)
	if err == nil {
		var plain []byte
		if plain, err = s.seal.open(f.Config, globalContext, "they", "are missing"); err == nil {
			var cfg mesh.Config
			if cfg, err = decodeConfig(plain); err == nil {
				return cfg, nil
			}
		}
	}
	e := mesh.Errorf(mesh.Damaged, "the config vars of all stacks are damaged: %w", err)
	return nil, e.WithHint("restore a backup, or remove them and set them again: ssh mesh config:unset --global --all (docs/operating.md, Damaged records)")
}

// GlobalConfig returns the config vars of all stacks, or an error of kind Damaged.
func (s *Store) GlobalConfig(ctx context.Context) (cfg mesh.Config, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		cfg, err = s.readGlobal(tx)
		return err
	})
	return cfg, err
}

// UpdateGlobalConfig replaces the config vars of all stacks with what fn returns, and
// returns it. If they cannot be read, fn gets the error and decides.
func (s *Store) UpdateGlobalConfig(ctx context.Context, fn func(mesh.Config, error) (mesh.Config, error)) (cfg mesh.Config, err error) {
	err = s.update(ctx, func(tx *bbolt.Tx) error {
		old, err := s.readGlobal(tx)
		if cfg, err = fn(old, err); err != nil {
			return err
		}
		if len(cfg) == 0 {
			return tx.Bucket(bucketMeta).Delete(keyGlobal)
		}
		data, err := encodeConfig(cfg)
		if err != nil {
			return err
		}
		sealed, err := s.seal.close(data, globalContext)
		if err != nil {
			return err
		}
		return put(tx.Bucket(bucketMeta), keyGlobal, &globalForm{V: 1, Config: sealed})
	})
	return cfg, err
}
