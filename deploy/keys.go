package deploy

import (
	"context"

	"mesh"
)

// AddKey adds a key. The first key must be an admin's: otherwise nobody could add more
// over SSH.
func (d *Deployer) AddKey(ctx context.Context, k mesh.Key) error {
	k.Added = d.Now().UTC()
	if err := d.Store.AddKey(ctx, k); err != nil {
		return err
	}
	d.toldKeys(ctx)
	d.Logger.Info("key added", "key", string(k.Name), "role", string(k.Role), "fingerprint", k.Fingerprint, "by", string(k.AddedBy))
	return nil
}

// RemoveKey removes a key. The last admin key may be removed as well: the local socket
// always has admin rights.
func (d *Deployer) RemoveKey(ctx context.Context, name, by mesh.KeyName) error {
	keys, err := d.Store.Keys(ctx)
	if err != nil {
		return err
	}
	if err := d.Store.RemoveKey(ctx, name); err != nil {
		return err
	}
	for _, k := range keys {
		if k.Name == name {
			d.EndSessions(k.SignIn())
		}
	}
	d.toldKeys(ctx)
	d.Logger.Info("key removed", "key", string(name), "by", string(by))
	return nil
}

// toldKeys passes the keys on after a change.
func (d *Deployer) toldKeys(ctx context.Context) {
	keys, err := d.Store.Keys(context.WithoutCancel(ctx))
	if err != nil {
		d.Logger.Warn("keys not read again", "err", err)
		return
	}
	d.OnKeys(keys)
}
