package deploy

import (
	"context"

	"mesh"
)

// SetServer changes the settings of the server with fn. They are in force at once.
func (d *Deployer) SetServer(ctx context.Context, by mesh.KeyName, fn func(*mesh.ServerSettings) error) (mesh.ServerSettings, error) {
	s, err := d.Store.UpdateServerSettings(ctx, fn)
	if err != nil {
		return s, err
	}
	d.Logger.Info("server settings changed", "key", string(by))
	d.tellDefault(ctx)
	return s, nil
}

// tellDefault passes on which host gets requests for unknown hosts.
func (d *Deployer) tellDefault(ctx context.Context) {
	s, err := d.Store.ServerSettings(context.WithoutCancel(ctx))
	if err != nil {
		d.Logger.Warn("settings of the server not read: requests for unknown hosts get 404", "err", err)
	}
	host := mesh.Host("")
	if s.DefaultStack != "" {
		host = d.host(s.DefaultStack)
	}
	d.OnDefault(host)
}

// mayCreate returns an error if a push by a key does not create stacks.
func (d *Deployer) mayCreate(ctx context.Context, key mesh.Key, stack mesh.StackName) error {
	s, err := d.Store.ServerSettings(ctx)
	if err != nil || s.AutoCreate.For(key) {
		return err
	}
	return mesh.Errorf(mesh.NoStack, "no stack is named %q, and pushes do not create stacks on this server", stack).
		WithHint("create it first: ssh mesh stacks:create %s", stack)
}
