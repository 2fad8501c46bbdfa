package deploy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"mesh"
)

// addonFigures are the figures of add-ons that were asked for last. The zero value is ready.
type addonFigures struct {
	mu sync.Mutex
	by map[mesh.AddonName]addonFigure
}

type addonFigure struct {
	status mesh.AddonStatus
	at     time.Time
}

// figuresAge is how old figures may be: asking for them runs programs in the container.
const figuresAge = 5 * time.Minute

// fullShare is the share of its connections above which an add-on is nearly used up.
const fullShare = 0.9

// AddonFaults returns what is wrong with the add-ons that are meant to run. It renews the
// figures of one of them at a time.
func (d *Deployer) AddonFaults(ctx context.Context) (out []mesh.AddonFault, err error) {
	all, down, err := d.downAddons(ctx)
	if err != nil {
		return nil, err
	}
	renew := true
	for _, a := range all {
		if d.changing(a.Name) {
			continue
		}
		st, isDown := down[a.Name]
		if isDown {
			out = append(out, mesh.AddonFault{Name: a.Name, Text: fmt.Sprintf("%s does not run: it is %s", a.Name, st.State)})
			continue
		}
		if st, renew = d.figures(ctx, a, renew); st.Limit > 0 && float64(st.Connections) > fullShare*float64(st.Limit) {
			out = append(out, mesh.AddonFault{Name: a.Name, Text: fmt.Sprintf("%d of the %d connections of %s are in use", st.Connections, st.Limit, a.Name)})
		}
	}
	return out, nil
}

// downAddons returns the add-ons that are meant to run, and what those do that do not.
func (d *Deployer) downAddons(ctx context.Context) (all []mesh.Addon, down map[mesh.AddonName]mesh.AddonStatus, err error) {
	if all, err = d.Store.Addons(ctx); err != nil {
		return nil, nil, err
	}
	all = slices.DeleteFunc(all, func(a mesh.Addon) bool { return a.State != mesh.AddonReady })
	if len(all) == 0 {
		return nil, nil, nil // the engine need not be asked
	}
	down, err = d.AddonServer.Down(ctx, all)
	return all, down, err
}

// changing reports whether somebody changes an add-on.
func (d *Deployer) changing(name mesh.AddonName) bool {
	d.addons.mu.Lock()
	defer d.addons.mu.Unlock()
	_, busy := d.addons.busy[name]
	return busy
}

// figures returns the figures of an add-on: those of before unless they are old and renew is
// set. It returns whether the next one may be renewed.
func (d *Deployer) figures(ctx context.Context, a mesh.Addon, renew bool) (mesh.AddonStatus, bool) {
	f := &d.addonFigures
	f.mu.Lock()
	was := f.by[a.Name]
	f.mu.Unlock()
	if !renew || d.Now().Sub(was.at) < figuresAge {
		return was.status, renew
	}
	now, err := d.AddonServer.Figures(ctx, a, mesh.AddonStatus{State: "up", Connections: -1})
	if err != nil {
		d.Logger.Debug("figures of an add-on not read", "addon", a.Name, "err", err)
		return was.status, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.by == nil {
		f.by = map[mesh.AddonName]addonFigure{}
	}
	f.by[a.Name] = addonFigure{now, d.Now()}
	return now, false
}
