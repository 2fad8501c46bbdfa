package store

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
)

var bucketRecipients = []byte("recipients")

const (
	maxRecipients      = 200
	maxStackRecipients = 20 // that are limited to one stack, each
)

// recipientForm is the stored form of a recipient. What it needs to sign in is sealed, with
// the name as its context.
type recipientForm struct {
	V       int       `json:"v"`
	Name    string    `json:"name"`
	Service string    `json:"service"`
	Shown   string    `json:"shown"`
	Sealed  []byte    `json:"sealed"`
	Stacks  []string  `json:"stacks,omitempty"`
	On      []string  `json:"on,omitempty"`
	Fenced  bool      `json:"fenced,omitempty"`
	Added   time.Time `json:"added"`
	AddedBy string    `json:"added_by,omitempty"`
}

func (f *recipientForm) check(key []byte) error {
	return errors.Join(checkVersion(f.V), checkKey(key, f.Name))
}

// recipientSecrets are what is sealed of a recipient.
type recipientSecrets struct {
	URL     []byte `json:"url"`
	Signing []byte `json:"signing,omitempty"`
}

func recipientContext(name string) []byte { return []byte("recipient " + name) }

func (s *Store) readRecipient(key, data []byte) (mesh.Recipient, error) {
	var f recipientForm
	if err := parse(key, data, &f); err != nil {
		return mesh.Recipient{}, err
	}
	plain, err := s.seal.open(f.Sealed, recipientContext(f.Name), "its URL", "is missing")
	if err != nil {
		return mesh.Recipient{}, err
	}
	var secret recipientSecrets
	if err := json.Unmarshal(plain, &secret); err != nil {
		return mesh.Recipient{}, errors.New("its URL cannot be read")
	}
	r := mesh.Recipient{
		Name: mesh.RecipientName(f.Name), Service: f.Service, Shown: f.Shown, URL: mesh.NewSecret(string(secret.URL)),
		Fenced: f.Fenced, Added: f.Added, AddedBy: mesh.KeyName(f.AddedBy),
	}
	if len(secret.Signing) > 0 {
		r.Signing = mesh.NewSecret(string(secret.Signing))
	}
	for _, st := range f.Stacks {
		r.Stacks = append(r.Stacks, mesh.StackName(st))
	}
	for _, k := range f.On {
		r.On = append(r.On, mesh.AlertKind(k))
	}
	return r, nil
}

// Recipients returns the recipients of alerts, by name, except damaged records.
func (s *Store) Recipients(ctx context.Context) ([]mesh.Recipient, error) {
	return readable(ctx, s, bucketRecipients, s.readRecipient)
}

// AddRecipient records a recipient, its URL and signing key sealed. A name that is taken
// is a Conflict, as are more recipients than the limits. A stack that does not exist is
// an error of kind NoStack.
func (s *Store) AddRecipient(ctx context.Context, r mesh.Recipient) error {
	plain, err := json.Marshal(recipientSecrets{URL: []byte(r.URL.Reveal()), Signing: []byte(r.Signing.Reveal())})
	if err != nil {
		return err
	}
	sealed, err := s.seal.close(plain, recipientContext(string(r.Name)))
	if err != nil {
		return err
	}
	f := &recipientForm{V: 1, Name: string(r.Name), Service: r.Service, Shown: r.Shown, Sealed: sealed, Fenced: r.Fenced, Added: r.Added, AddedBy: string(r.AddedBy)}
	for _, st := range r.Stacks {
		f.Stacks = append(f.Stacks, string(st))
	}
	for _, k := range r.On {
		f.On = append(f.On, string(k))
	}
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketRecipients)
		if err != nil {
			return err
		}
		if b.Get([]byte(r.Name)) != nil {
			return mesh.Errorf(mesh.Conflict, "a recipient named %q already exists", string(r.Name)).WithHint("choose another name, or remove it first: ssh mesh notify:remove %s", r.Name)
		}
		if b.Stats().KeyN >= maxRecipients {
			return mesh.Errorf(mesh.Conflict, "the server has %d recipients, which is the limit", maxRecipients).WithHint("remove one that nobody needs: ssh mesh notify:remove NAME")
		}
		for _, st := range r.Stacks {
			if _, err := stackBucket(tx, st); err != nil && !errors.Is(err, mesh.Damaged) {
				return err
			}
			n := 0
			_ = b.ForEach(func(k, v []byte) error {
				var o recipientForm
				if parse(k, v, &o) == nil && slices.Contains(o.Stacks, string(st)) {
					n++
				}
				return nil
			})
			if n >= maxStackRecipients {
				return mesh.Errorf(mesh.Conflict, "%s has %d recipients, which is the limit", st, maxStackRecipients).WithHint("remove one that nobody needs: ssh mesh notify:remove NAME")
			}
		}
		return put(b, []byte(r.Name), f)
	})
}

// RemoveRecipient removes a recipient, and the messages that wait for it. A damaged
// record can be removed as well.
func (s *Store) RemoveRecipient(ctx context.Context, name mesh.RecipientName) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRecipients)
		if b == nil || b.Get([]byte(name)) == nil {
			return mesh.Errorf(mesh.NotFound, "no recipient is named %q", mesh.Clip(string(name), 60)).WithHint("list them with: ssh mesh notify")
		}
		return errors.Join(b.Delete([]byte(name)), dropNotices(tx, string(name)))
	})
}

func dropNotices(tx *bbolt.Tx, recipient string) error {
	return deleteNotices(tx.Bucket(bucketOutbox), func(all []*noticeForm) []*noticeForm {
		return slices.DeleteFunc(all, func(f *noticeForm) bool { return f.Recipient != recipient })
	})
}

// renameInRecipients keeps recipients limited to a renamed stack. One that was limited to
// a single stack is removed with that stack: without a limit it would get the alerts of all.
func renameInRecipients(tx *bbolt.Tx, from, to mesh.StackName) error {
	b := tx.Bucket(bucketRecipients)
	if b == nil {
		return nil
	}
	var changed []*recipientForm
	err := b.ForEach(func(k, v []byte) error {
		var f recipientForm
		if parse(k, v, &f) == nil && slices.Contains(f.Stacks, string(from)) {
			changed = append(changed, &f)
		}
		return nil
	})
	for _, f := range changed {
		f.Stacks = slices.DeleteFunc(f.Stacks, func(st string) bool { return st == string(from) })
		if to != "" {
			f.Stacks = append(f.Stacks, string(to))
		}
		if len(f.Stacks) == 0 {
			err = errors.Join(err, b.Delete([]byte(f.Name)), dropNotices(tx, f.Name))
			continue
		}
		err = errors.Join(err, put(b, []byte(f.Name), f))
	}
	return err
}
