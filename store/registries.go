package store

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
)

var bucketRegistries = []byte("registries")

type registryForm struct {
	V        int       `json:"v"`
	Host     string    `json:"host"`
	User     string    `json:"user"`
	Password []byte    `json:"password"` // sealed, with the host as its context
	Added    time.Time `json:"added"`
	AddedBy  string    `json:"added_by,omitempty"`
}

func (f *registryForm) check(key []byte) error {
	return errors.Join(checkVersion(f.V), checkKey(key, f.Host))
}

// Registries returns the registries that the server can log in to, by host, except
// damaged records.
func (s *Store) Registries(ctx context.Context) ([]mesh.Registry, error) {
	return readable(ctx, s, bucketRegistries, s.readRegistry)
}

func (s *Store) readRegistry(key, data []byte) (mesh.Registry, error) {
	var f registryForm
	if err := parse(key, data, &f); err != nil {
		return mesh.Registry{}, err
	}
	plain, err := s.seal.open(f.Password, []byte(f.Host), "the password", "is missing")
	if err != nil {
		return mesh.Registry{}, err
	}
	return mesh.Registry{Host: f.Host, User: f.User, Password: mesh.NewSecret(string(plain)), Added: f.Added, AddedBy: mesh.KeyName(f.AddedBy)}, nil
}

// PutRegistry records the login for a registry, replacing an earlier one for its
// host. The password is sealed.
func (s *Store) PutRegistry(ctx context.Context, r mesh.Registry) error {
	password, err := s.seal.close([]byte(r.Password.Reveal()), []byte(r.Host))
	if err != nil {
		return err
	}
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketRegistries)
		if err != nil {
			return err
		}
		if b.Get([]byte(r.Host)) == nil && b.Stats().KeyN >= maxRegistries {
			return mesh.Errorf(mesh.Conflict, "the server has logins for %d registries, which is the limit", maxRegistries).
				WithHint("remove one that nobody uses: ssh mesh registry:logout HOST")
		}
		return put(b, []byte(r.Host), &registryForm{
			V: 1, Host: r.Host, User: r.User, Added: r.Added, AddedBy: string(r.AddedBy),
			Password: password,
		})
	})
}

// RemoveRegistry removes a registry.
func (s *Store) RemoveRegistry(ctx context.Context, host string) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRegistries)
		if b == nil || b.Get([]byte(host)) == nil {
			return mesh.Errorf(mesh.NotFound, "the server has no login for %s", mesh.Clip(host, 80)).WithHint("list the registries with: ssh mesh registry")
		}
		return b.Delete([]byte(host))
	})
}
