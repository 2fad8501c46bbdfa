package deploy

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"mesh"
	"mesh/deploy/fleet"
)

// A service with a volume that is not shared is rolled out with its old instance ended
// first. Everything else of the release is started and healthy by then, so that it takes no
// longer than it must.

// parkDrain is how long requests that an instance is serving may take before it ends to make
// room for the next one. New requests wait for that as well, and give up after 10 s.
const parkDrain = 3 * time.Second

// interval is a service's time without an instance.
type interval struct {
	parked []fleet.Parked
	began  time.Time
}

// park ends the instances that use volumes which new instances are to have for themselves.
func (d *Deployer) park(ctx context.Context, a *attempt, st mesh.Stack, alone map[string]mesh.VolumeName) (interval, error) {
	uses := func(s mesh.InstanceSpec) bool {
		return slices.ContainsFunc(s.Mounts, func(m mesh.Mount) bool { _, ok := alone[m.Engine]; return ok })
	}
	owners := []mesh.StackName{st.Name}
	if st.Was != "" {
		owners = append(owners, st.Was) // it is being renamed
	}
	members := func() (all []mesh.Instance) {
		for _, o := range owners {
			all = append(all, d.fleet.Members(o, uses)...)
		}
		return all
	}
	// Asked again each time: one that is being brought back may get another container.
	ours := func(id string) bool {
		return slices.ContainsFunc(members(), func(in mesh.Instance) bool { return in.ID == id })
	}
	if err := d.awaitFree(ctx, a, alone, ours); err != nil {
		return interval{}, err
	}
	var names []string
	for _, in := range members() {
		names = append(names, in.Name.String())
	}
	if len(names) > 0 {
		a.step("replacing "+joined(names), "Ending %s first: %s one writer; requests wait up to 10 s", joined(names), describeVolumes(alone))
	}
	out := interval{began: d.Now()}
	var err error
	out.parked, err = d.fleet.Park(ctx, owners, uses, func(in mesh.Instance) fleet.Exit {
		e := d.exit(st)(in)
		e.Drain, e.Upgraded = min(e.Drain, parkDrain), min(e.Upgraded, parkDrain)
		return e
	})
	if err == nil {
		err = d.awaitFree(ctx, a, alone, nobody)
	}
	return out, err
}

// awaitFree waits until only ours use the volumes.
func (d *Deployer) awaitFree(ctx context.Context, a *attempt, alone map[string]mesh.VolumeName, ours func(id string) bool) error {
	for engine, name := range alone {
		err := d.free(ctx, name, engine, ours, func(u mesh.VolumeUser) {
			a.step("waiting for the old "+u.Name, "Waiting for the old %s, which still uses the volume %s", u.Name, name)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// unpark starts the instances again that were ended for new ones which failed.
func (d *Deployer) unpark(ctx context.Context, a *attempt, st mesh.Stack, i interval) {
	if len(i.parked) == 0 {
		return
	}
	var names []string
	for _, p := range i.parked {
		names = append(names, p.Instance.Name.String())
	}
	a.step("starting the old instances", "Starting %s again, as before", joined(names))
	if d.fleet.Unpark(ctx, i.parked, cmp.Or(st.Effective().CheckTimeout, mesh.DefaultCheckTimeout)) {
		a.timed(i.began, "%s was away", joined(names))
	} else {
		a.detail("not healthy yet; mesh keeps trying: ssh mesh ps -a %s", st.Name)
	}
}

func joined(names []string) string { return strings.Join(names, ", ") }
