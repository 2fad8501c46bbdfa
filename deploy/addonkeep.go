package deploy

import (
	"context"
	"errors"
	"time"

	"mesh"
	"mesh/deploy/fleet"
)

// keepEvery is how often mesh looks whether the servers of add-ons run. The engine itself
// starts those again that crash; what somebody has stopped or removed by hand, it does not.
const keepEvery = 10 * time.Second

// keepAddons brings back the servers of add-ons that are meant to run, until ctx ends. One
// that does not come back is tried again after a time that grows.
func (d *Deployer) keepAddons(ctx context.Context) {
	if d.AddonServer == nil {
		return
	}
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	tries := map[mesh.AddonName]int{}
	next := map[mesh.AddonName]time.Time{}
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		all, down, err := d.downAddons(ctx)
		if err != nil {
			if !errors.Is(err, mesh.Unavailable) {
				d.Logger.Warn("add-ons not looked after", "err", err)
			}
			continue
		}
		for _, a := range all {
			st, isDown := down[a.Name]
			switch {
			case !isDown || st.Runs:
				delete(tries, a.Name)
				continue
			case d.Now().Before(next[a.Name]):
				continue
			}
			a, release, ok := d.claimOwn(ctx, a.Name, "started")
			if !ok {
				continue
			}
			tries[a.Name]++
			next[a.Name] = d.Now().Add(fleet.Backoff(tries[a.Name]))
			d.Logger.Warn("an add-on does not run; starting it", "addon", a.Name, "state", st.State)
			d.background(func(ctx context.Context) {
				defer release()
				d.settleAddon(ctx, a)
			})
		}
	}
}
