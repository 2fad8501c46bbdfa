package main

import (
	"context"
	"io"
	"path/filepath"

	"mesh"
	"mesh/addons"
	"mesh/cluster"
	"mesh/runner"
)

// wireRunner connects what runs containers: instances and add-ons, which share networks.
func (c *control) wireRunner() {
	c.addons = addons.New(c.engine, addons.Options{
		Server: c.store.Server(), Labels: c.labels, Kinds: filepath.Join(c.settings.Data, "kinds"), Logger: c.log,
		Attached: func(stack mesh.StackName) []mesh.Addon { return c.deployer.Attached(stack) },
		SignIn:   c.signIn, OnNetwork: func(ctx context.Context) error { return c.runner.Attach(ctx) },
	})
	c.machines = newMachines(c)
	c.runner = runner.New(c.engine, runner.Options{
		Server: c.store.Server(), Logger: c.log, Labels: c.labels, Names: c.names, Collector: c.collector, Guests: c.addons, Shared: c.machines.shared,
	})
	c.cluster = cluster.New(cluster.Options{Local: c.runner, Nodes: c.machines.swarm, Reach: c.machines, On: c.machines.isOn, Alone: c.machines.retire.Load, Arch: arch(), Logger: c.log})
	c.addons.Inside = c.runner
	c.collector.Use(c.cluster)
}

// signIn returns the login for a registry, if there is one.
func (c *control) signIn(ctx context.Context, host string) (mesh.Registry, bool) {
	all, err := c.store.Registries(ctx)
	if err != nil {
		c.log.Warn("the logins for registries are not known", "err", err)
	}
	for _, r := range all {
		if r.Host == host {
			return r, true
		}
	}
	return mesh.Registry{}, false
}

// addonSource backs up add-ons.
type addonSource struct{ *control }

func (s addonSource) Content(ctx context.Context, subject mesh.BackupSubject) (mesh.BackupContent, error) {
	a, err := s.store.Addon(ctx, mesh.AddonName(subject))
	if err == nil {
		_, _, err = s.addons.Form(a)
	}
	return mesh.BackupContent{Kind: string(a.Kind), Version: a.Version, Ext: "dump"}, err
}

func (s addonSource) Dump(ctx context.Context, subject mesh.BackupSubject, w io.Writer) error {
	a, err := s.store.Addon(ctx, mesh.AddonName(subject))
	if err != nil {
		return err
	}
	return s.addons.Dump(ctx, a, w)
}

// Inspect reads the dump to its end: only its own server can say more of it.
func (s addonSource) Inspect(ctx context.Context, b mesh.Backup, r io.Reader) (string, error) {
	a, err := s.store.Addon(ctx, mesh.AddonName(b.Subject))
	if err != nil {
		return "", err
	}
	form, _, err := s.addons.Form(a)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, r)
	return "a dump of " + b.Kind + " " + b.Version + ": " + form, err
}
