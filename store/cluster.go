package store

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
)

// keyCluster is in bucketMeta: what the server knows of its nodes.
var keyCluster = []byte("cluster")

// clusterForm is the stored form of a mesh.Cluster. The key of its authority is sealed.
type clusterForm struct {
	V         int          `json:"v"`
	Enabled   time.Time    `json:"enabled"`
	By        string       `json:"by,omitempty"`
	Addr      string       `json:"addr,omitempty"`
	Authority []byte       `json:"authority,omitempty"`
	Sealed    []byte       `json:"sealed,omitempty"`
	Invites   []inviteForm `json:"invites,omitempty"`
}

type inviteForm struct {
	Sum   string    `json:"sum"`
	Until time.Time `json:"until"`
	By    string    `json:"by,omitempty"`
}

func (f *clusterForm) check([]byte) error {
	err := checkVersion(f.V)
	if f.Addr != "" {
		_, aerr := netip.ParseAddr(f.Addr)
		err = errors.Join(err, aerr)
	}
	return err
}

var clusterContext = []byte("authority of the nodes")

func (s *Store) readCluster(tx *bbolt.Tx) (c mesh.Cluster, err error) {
	data := tx.Bucket(bucketMeta).Get(keyCluster)
	if data == nil {
		return c, nil
	}
	var f clusterForm
	if err := parse(keyCluster, data, &f); err != nil {
		return c, damagedRecord("the record of the nodes", err)
	}
	c = mesh.Cluster{Enabled: f.Enabled, By: mesh.KeyName(f.By), Authority: f.Authority}
	if f.Addr != "" {
		c.Addr, _ = netip.ParseAddr(f.Addr) // checked above
	}
	for _, i := range f.Invites {
		c.Invites = append(c.Invites, mesh.Invite{Sum: i.Sum, Until: i.Until, By: mesh.KeyName(i.By)})
	}
	if len(f.Sealed) > 0 {
		plain, err := s.seal.open(f.Sealed, clusterContext, "its key", "is missing")
		if err != nil {
			return c, damagedRecord("the record of the nodes", err)
		}
		var text string
		if err := json.Unmarshal(plain, &text); err != nil {
			return c, damagedRecord("the record of the nodes", err)
		}
		c.AuthorityKey = mesh.NewSecret(text)
	}
	return c, nil
}

// Cluster returns what the server knows of its nodes.
func (s *Store) Cluster(ctx context.Context) (c mesh.Cluster, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		c, err = s.readCluster(tx)
		return err
	})
	return c, err
}

// UpdateCluster changes what the server knows of its nodes with fn, which may run more than
// once, and returns it. A zero value removes the record.
func (s *Store) UpdateCluster(ctx context.Context, fn func(*mesh.Cluster) error) (c mesh.Cluster, err error) {
	err = s.update(ctx, func(tx *bbolt.Tx) error {
		if c, err = s.readCluster(tx); err != nil {
			return err
		}
		if err := fn(&c); err != nil {
			return err
		}
		if !c.On() {
			c = mesh.Cluster{}
			return tx.Bucket(bucketMeta).Delete(keyCluster)
		}
		f := &clusterForm{V: 1, Enabled: c.Enabled, By: string(c.By), Authority: c.Authority}
		if c.Addr.IsValid() {
			f.Addr = c.Addr.String()
		}
		for _, i := range c.Invites {
			f.Invites = append(f.Invites, inviteForm{i.Sum, i.Until, string(i.By)})
		}
		plain, err := json.Marshal(c.AuthorityKey.Reveal())
		if err != nil {
			return err
		}
		if f.Sealed, err = s.seal.close(plain, clusterContext); err != nil {
			return err
		}
		return put(tx.Bucket(bucketMeta), keyCluster, f)
	})
	return c, err
}
