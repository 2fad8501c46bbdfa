package deploy

import (
	"context"
	"time"

	"mesh"
	"mesh/deploy/manifest"
)

// skipped reports whether a push changes no watched file, compared with the deployed
// commit.
func (d *Deployer) skipped(ctx context.Context, st mesh.Stack, src source) (bool, error) {
	watch := st.Effective().Watch
	if len(watch) == 0 || src.tree == nil || src.commit == "" || src.noCache || src.force || st.Current == 0 {
		return false, nil
	}
	current, err := d.Store.Release(ctx, st.Name, st.Current)
	if err != nil || !current.Here() {
		return false, err
	}
	wait, cancel := context.WithTimeout(ctx, compareWait) // a second tree, which may have to wait for memory
	defer cancel()
	old, _, closeOld, err := d.Repos.Open(wait, st.Repository(), current.Commit)
	if err != nil {
		return false, nil //nolint:nilerr // build what cannot be compared
	}
	defer closeOld()
	return !manifest.Touches(watch, old, src.tree), nil
}

// compareWait limits how long to wait for a tree that is only needed for comparison.
const compareWait = 10 * time.Second
