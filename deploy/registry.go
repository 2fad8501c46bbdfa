package deploy

import (
	"context"

	"mesh"
)

// SignIn signs in to a registry, so that private images can be pulled and built from,
// and records the sign-in. If the registry refuses, nothing is recorded.
func (d *Deployer) SignIn(ctx context.Context, r mesh.Registry) error {
	if err := d.Builder.SignIn(ctx, r); err != nil {
		return err
	}
	r.Added = d.Now().UTC()
	if err := d.Store.PutRegistry(ctx, r); err != nil {
		return err
	}
	d.Logger.Info("signed in to registry", "registry", r.Host, "key", string(r.AddedBy))
	return nil
}

// SignOut removes the sign-in of a registry.
func (d *Deployer) SignOut(ctx context.Context, host string, by mesh.KeyName) error {
	if err := d.Store.RemoveRegistry(ctx, host); err != nil {
		return err
	}
	d.Logger.Info("signed out of registry", "registry", host, "key", string(by))
	return nil
}
