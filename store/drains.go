package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
)

var bucketDrains = []byte("drains")

const (
	maxDrains      = 200
	maxStackDrains = 10 // of one stack
)

// drainForm is the stored form of a drain. What it needs to sign in is sealed, with the ID
// as its context.
type drainForm struct {
	V       int       `json:"v"`
	ID      string    `json:"id"`
	Stack   string    `json:"stack,omitempty"`
	Shown   string    `json:"shown"`
	Sealed  []byte    `json:"sealed"`
	CA      string    `json:"ca,omitempty"`
	Fenced  bool      `json:"fenced,omitempty"`
	Added   time.Time `json:"added"`
	AddedBy string    `json:"added_by,omitempty"`
}

func (f *drainForm) check(key []byte) error {
	return errors.Join(checkVersion(f.V), checkKey(key, f.ID))
}

// drainSecrets are what is sealed of a drain.
type drainSecrets struct {
	URL     []byte   `json:"url"`
	Headers [][]byte `json:"headers,omitempty"`
}

func drainContext(id string) []byte { return []byte("drain " + id) }

func (s *Store) readDrain(key, data []byte) (mesh.Drain, error) {
	var f drainForm
	if err := parse(key, data, &f); err != nil {
		return mesh.Drain{}, err
	}
	plain, err := s.seal.open(f.Sealed, drainContext(f.ID), "its URL", "is missing")
	if err != nil {
		return mesh.Drain{}, err
	}
	var secret drainSecrets
	if err := json.Unmarshal(plain, &secret); err != nil {
		return mesh.Drain{}, errors.New("its URL cannot be read")
	}
	d := mesh.Drain{
		ID: f.ID, Stack: mesh.StackName(f.Stack), URL: mesh.NewSecret(string(secret.URL)), Shown: f.Shown, CA: f.CA, Fenced: f.Fenced,
		Added: f.Added, AddedBy: mesh.KeyName(f.AddedBy),
	}
	for _, h := range secret.Headers {
		d.Headers = append(d.Headers, mesh.NewSecret(string(h)))
	}
	return d, nil
}

// Drains returns all drains, by ID, except damaged records.
func (s *Store) Drains(ctx context.Context) ([]mesh.Drain, error) {
	return readable(ctx, s, bucketDrains, s.readDrain)
}

// AddDrain records a drain, its URL and headers sealed. An ID that is taken is a Conflict,
// as are more drains than the limits. A stack that does not exist is an error of kind
// NoStack.
func (s *Store) AddDrain(ctx context.Context, d mesh.Drain) error {
	secret := drainSecrets{URL: []byte(d.URL.Reveal())}
	for _, h := range d.Headers {
		secret.Headers = append(secret.Headers, []byte(h.Reveal()))
	}
	plain, err := json.Marshal(secret)
	if err != nil {
		return err
	}
	sealed, err := s.seal.close(plain, drainContext(d.ID))
	if err != nil {
		return err
	}
	f := &drainForm{V: 1, ID: d.ID, Stack: string(d.Stack), Shown: d.Shown, Sealed: sealed, CA: d.CA, Fenced: d.Fenced, Added: d.Added, AddedBy: string(d.AddedBy)}
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketDrains)
		if err != nil {
			return err
		}
		if b.Get([]byte(d.ID)) != nil {
			return mesh.Errorf(mesh.Conflict, "a drain %s already exists", d.ID).WithHint("try again")
		}
		if b.Stats().KeyN >= maxDrains {
			return mesh.Errorf(mesh.Conflict, "the server has %d drains, which is the limit", maxDrains).WithHint("remove one that nobody needs: ssh mesh drains:remove ID")
		}
		if d.Stack != "" {
			if _, err := stackBucket(tx, d.Stack); err != nil && !errors.Is(err, mesh.Damaged) {
				return err
			}
			if n := len(drainsOf(b, d.Stack)); n >= maxStackDrains {
				return mesh.Errorf(mesh.Conflict, "%s has %d drains, which is the limit", d.Stack, maxStackDrains).WithHint("remove one that nobody needs: ssh mesh drains:remove ID")
			}
		}
		return put(b, []byte(d.ID), f)
	})
}

func drainsOf(b *bbolt.Bucket, stack mesh.StackName) (out []*drainForm) {
	_ = b.ForEach(func(k, v []byte) error {
		var f drainForm
		if parse(k, v, &f) == nil && f.Stack == string(stack) {
			out = append(out, &f)
		}
		return nil
	})
	return out
}

// RemoveDrain removes a drain. A damaged record can be removed as well.
func (s *Store) RemoveDrain(ctx context.Context, id string) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketDrains)
		if b == nil || b.Get([]byte(id)) == nil {
			return mesh.Errorf(mesh.NotFound, "there is no drain %q", mesh.Clip(id, 60)).WithHint("list them with: ssh mesh drains")
		}
		return b.Delete([]byte(id))
	})
}

// renameDrains keeps the drains of a renamed stack. Those of a destroyed stack, whose new
// name is empty, go with it: without a stack they would get the lines of all.
func renameDrains(tx *bbolt.Tx, from, to mesh.StackName) (err error) {
	b := tx.Bucket(bucketDrains)
	if b == nil {
		return nil
	}
	for _, f := range drainsOf(b, from) {
		if to == "" {
			err = errors.Join(err, b.Delete([]byte(f.ID)))
			continue
		}
		f.Stack = string(to)
		err = errors.Join(err, put(b, []byte(f.ID), f))
	}
	return err
}
