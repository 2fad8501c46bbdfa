package store

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
)

// keyGuarded is in the bucket of a stack whose rules keep some people out. It is beside
// the record, so that it can still be read if the record cannot.
var keyGuarded = []byte("guarded")

type accessForm struct {
	Users  []accessUserForm `json:"users,omitempty"`
	Allow  []string         `json:"allow,omitempty"`
	Deny   []string         `json:"deny,omitempty"`
	Except []string         `json:"except,omitempty"`
	Limit  *rateForm        `json:"limit,omitempty"`
}

type accessUserForm struct {
	Name string `json:"name"`
	Hash []byte `json:"hash"` // sealed, with the name as its context
}

type rateForm struct {
	Requests  int           `json:"requests"`
	Per       time.Duration `json:"per_ns"`
	PerClient bool          `json:"per_client,omitempty"`
}

func (f *accessForm) check() error {
	if f == nil {
		return nil
	}
	if err := errors.Join(checkPrefixes("its access rules contain", f.Allow), checkPrefixes("its access rules contain", f.Deny)); err != nil {
		return err
	}
	if r := f.Limit; r != nil && (r.Requests < 1 || r.Per != time.Second && r.Per != time.Minute) {
		return fmt.Errorf("its limit is %d requests in %s", r.Requests, r.Per)
	}
	return nil
}

// checkPrefixes returns an error that begins with where if a prefix cannot be read.
func checkPrefixes(where string, list []string) error {
	for _, p := range list {
		if _, err := netip.ParsePrefix(p); err != nil {
			return fmt.Errorf("%s the prefix %q", where, mesh.Clip(p, 60))
		}
	}
	return nil
}

// sealContext keeps a sealed hash from being taken for something else that is sealed.
func sealContext(user string) []byte { return []byte("access user " + user) }

// storeAccess seals the hashes of passwords. There are no rules: nil.
func (s *Store) storeAccess(a mesh.AccessRules) (*accessForm, error) {
	if a.IsZero() {
		return nil, nil //nolint:nilnil // no rules, no form
	}
	f := &accessForm{Allow: texts(a.Allow), Deny: texts(a.Deny), Except: a.Except}
	if a.Limit.Requests > 0 {
		f.Limit = &rateForm{a.Limit.Requests, a.Limit.Per, a.Limit.PerClient}
	}
	for _, u := range a.Users {
		hash, err := s.seal.close([]byte(u.Hash.Reveal()), sealContext(u.Name))
		if err != nil {
			return nil, err
		}
		f.Users = append(f.Users, accessUserForm{u.Name, hash})
	}
	return f, nil
}

// openAccess is the reverse of storeAccess.
func (s *Store) openAccess(f *accessForm) (a mesh.AccessRules, err error) {
	if f == nil {
		return a, nil
	}
	if a.Allow, err = prefixes(f.Allow); err != nil {
		return a, err
	}
	if a.Deny, err = prefixes(f.Deny); err != nil {
		return a, err
	}
	a.Except = f.Except
	if r := f.Limit; r != nil {
		a.Limit = mesh.Rate{Requests: r.Requests, Per: r.Per, PerClient: r.PerClient}
	}
	for _, u := range f.Users {
		plain, err := s.seal.open(u.Hash, sealContext(u.Name), "the password of a user", "is missing")
		if err != nil {
			return a, err
		}
		a.Users = append(a.Users, mesh.AccessUser{Name: u.Name, Hash: mesh.NewSecret(string(plain))})
	}
	return a, nil
}

func texts(list []netip.Prefix) (out []string) {
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}

func prefixes(list []string) (out []netip.Prefix, err error) {
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// noteGuarded keeps keyGuarded in step with the record.
func noteGuarded(b *bbolt.Bucket, a mesh.AccessRules) error {
	if a.Guards() {
		return b.Put(keyGuarded, []byte{1})
	}
	return b.Delete(keyGuarded)
}

// Guarded reports whether a stack has rules that keep some people out, even if its
// record cannot be read.
func (s *Store) Guarded(name mesh.StackName) (guarded bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketStacks).Bucket([]byte(name))
		guarded = b != nil && b.Get(keyGuarded) != nil
		return nil
	})
	return guarded, err
}
