package store

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
)

var bucketAddons = []byte("addons")

// maxAddons limits the add-ons of a server.
const maxAddons = 500

// addonForm is the stored form of an add-on. Its passwords are sealed, with the name as their
// context.
type addonForm struct {
	V         int               `json:"v"`
	Name      string            `json:"name"`
	Kind      string            `json:"kind"`
	Version   string            `json:"version"`
	Image     string            `json:"image"`
	ImageID   string            `json:"image_id,omitempty"`
	Digest    string            `json:"digest,omitempty"`
	State     string            `json:"state"`
	User      string            `json:"user,omitempty"`
	OldUser   string            `json:"old_user,omitempty"`
	Database  string            `json:"database,omitempty"`
	Sealed    []byte            `json:"sealed"`
	Volume    string            `json:"volume,omitempty"`
	Pending   string            `json:"pending,omitempty"`
	Memory    int64             `json:"memory,omitempty"`
	CPUs      float64           `json:"cpus,omitempty"`
	Params    map[string]string `json:"params,omitempty"`
	Kept      []keptForm        `json:"kept,omitempty"`
	Created   time.Time         `json:"created"`
	CreatedBy string            `json:"created_by,omitempty"`
	Preview   string            `json:"preview,omitempty"`
}

type keptForm struct {
	Volume  string    `json:"volume"`
	Image   string    `json:"image,omitempty"`
	ImageID string    `json:"image_id,omitempty"`
	Version string    `json:"version,omitempty"`
	Why     string    `json:"why,omitempty"`
	Until   time.Time `json:"until"`
}

// addonSecrets are what is sealed of an add-on.
type addonSecrets struct {
	Password []byte `json:"password"`
	Admin    []byte `json:"admin"`
	Old      []byte `json:"old,omitempty"`
}

func (f *addonForm) check(key []byte) error {
	return errors.Join(checkVersion(f.V), checkKey(key, f.Name),
		checkOneOf("its state", f.State, mesh.AddonCreating, mesh.AddonReady, mesh.AddonStopped, mesh.AddonDestroying))
}

func addonContext(name string) []byte { return []byte("addon " + name) }

func (s *Store) readAddon(key, data []byte) (mesh.Addon, error) {
	var f addonForm
	if err := parse(key, data, &f); err != nil {
		return mesh.Addon{}, err
	}
	plain, err := s.seal.open(f.Sealed, addonContext(f.Name), "its password", "is missing")
	if err != nil {
		return mesh.Addon{}, err
	}
	var secret addonSecrets
	if err := json.Unmarshal(plain, &secret); err != nil {
		return mesh.Addon{}, errors.New("its password cannot be read")
	}
	a := mesh.Addon{
		Name: mesh.AddonName(f.Name), Kind: mesh.AddonKind(f.Kind), Version: f.Version, Image: f.Image, ImageID: f.ImageID, Digest: f.Digest,
		State: mesh.AddonState(f.State), User: f.User, Database: f.Database, Volume: f.Volume, Pending: f.Pending, Memory: f.Memory, CPUs: f.CPUs, Params: f.Params,
		Password: mesh.NewSecret(string(secret.Password)), Admin: mesh.NewSecret(string(secret.Admin)),
		Created: f.Created, CreatedBy: mesh.KeyName(f.CreatedBy), Preview: mesh.StackName(f.Preview),
	}
	if f.OldUser != "" || len(secret.Old) > 0 {
		a.Old = mesh.Login{User: f.OldUser, Password: mesh.NewSecret(string(secret.Old))}
	}
	for _, k := range f.Kept {
		a.Kept = append(a.Kept, mesh.KeptVolume(k))
	}
	return a, nil
}

func (s *Store) writeAddon(b *bbolt.Bucket, a mesh.Addon) error {
	plain, err := json.Marshal(addonSecrets{Password: []byte(a.Password.Reveal()), Admin: []byte(a.Admin.Reveal()), Old: []byte(a.Old.Password.Reveal())})
	if err != nil {
		return err
	}
	sealed, err := s.seal.close(plain, addonContext(string(a.Name)))
	if err != nil {
		return err
	}
	f := &addonForm{
		V: 1, Name: string(a.Name), Kind: string(a.Kind), Version: a.Version, Image: a.Image, ImageID: a.ImageID, Digest: a.Digest,
		State: string(a.State), User: a.User, OldUser: a.Old.User, Database: a.Database, Sealed: sealed, Volume: a.Volume, Pending: a.Pending, Memory: a.Memory, CPUs: a.CPUs, Params: a.Params,
		Created: a.Created, CreatedBy: string(a.CreatedBy), Preview: string(a.Preview),
	}
	for _, k := range a.Kept {
		f.Kept = append(f.Kept, keptForm(k))
	}
	return put(b, []byte(a.Name), f)
}

// Addons returns all add-ons, by name, except damaged records.
func (s *Store) Addons(ctx context.Context) ([]mesh.Addon, error) {
	return readable(ctx, s, bucketAddons, s.readAddon)
}

func noAddon(name mesh.AddonName) error {
	return mesh.Errorf(mesh.NotFound, "there is no add-on %q", mesh.Clip(mesh.Visible(string(name)), 60)).WithHint("list them with: ssh mesh addons")
}

// addon reads one add-on.
func (s *Store) addon(tx *bbolt.Tx, name mesh.AddonName) (mesh.Addon, error) {
	b := tx.Bucket(bucketAddons)
	if b == nil {
		return mesh.Addon{}, noAddon(name)
	}
	data := b.Get([]byte(name))
	if data == nil {
		return mesh.Addon{}, noAddon(name)
	}
	a, err := s.readAddon([]byte(name), data)
	if err != nil {
		return a, damagedRecord("the record of the add-on "+string(name), err)
	}
	return a, nil
}

// Addon returns one add-on, NotFound if there is none, or Damaged.
func (s *Store) Addon(ctx context.Context, name mesh.AddonName) (a mesh.Addon, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		a, err = s.addon(tx, name)
		return err
	})
	return a, err
}

// AddAddon records an add-on. A name that is taken is a Conflict, as is one too many.
func (s *Store) AddAddon(ctx context.Context, a mesh.Addon) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketAddons)
		if err != nil {
			return err
		}
		if b.Get([]byte(a.Name)) != nil {
			return mesh.Errorf(mesh.Conflict, "an add-on named %q already exists", a.Name).WithHint("choose another name, or attach it: ssh mesh addons:attach %s -a STACK", a.Name)
		}
		if b.Stats().KeyN >= maxAddons {
			return mesh.Errorf(mesh.Conflict, "the server has %d add-ons, which is the limit", maxAddons).WithHint("destroy one that nobody needs: ssh mesh addons:destroy NAME --confirm NAME")
		}
		return s.writeAddon(b, a)
	})
}

// UpdateAddon changes an add-on with fn, which may run more than once, and returns it. fn
// cannot change its name.
func (s *Store) UpdateAddon(ctx context.Context, name mesh.AddonName, fn func(*mesh.Addon) error) (a mesh.Addon, err error) {
	err = s.update(ctx, func(tx *bbolt.Tx) error {
		if a, err = s.addon(tx, name); err != nil {
			return err
		}
		a.Params = maps.Clone(a.Params)
		if err := fn(&a); err != nil {
			return err
		}
		a.Name = name
		return s.writeAddon(tx.Bucket(bucketAddons), a)
	})
	return a, err
}

// RemoveAddon removes the record of an add-on, also a damaged one.
func (s *Store) RemoveAddon(ctx context.Context, name mesh.AddonName) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketAddons)
		if b == nil || b.Get([]byte(name)) == nil {
			return noAddon(name)
		}
		return b.Delete([]byte(name))
	})
}
