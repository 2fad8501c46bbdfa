package deploy

import (
	"context"
	"time"

	"mesh"
	"mesh/deploy/manifest"
)

// skipped tells whether a push touches nothing that the stack watches, compared
// with what is deployed.
func (d *Deployer) skipped(ctx context.Context, st mesh.Stack, src source) (bool, error) {
	watch := st.Effective().Watch
	if len(watch) == 0 || src.tree == nil || src.commit == "" || src.noCache || src.force || st.Current == 0 {
		return false, nil
	}
	current, err := d.Store.Release(ctx, st.Name, st.Current)
	if err != nil || !current.Here() {
		return false, err
	}
	wait, cancel := context.WithTimeout(ctx, compareWait) // a second tree, for which there may be no room
	defer cancel()
	old, _, closeOld, err := d.Repos.Open(wait, st.Name, current.Commit)
	if err != nil {
		return false, nil //nolint:nilerr // what cannot be compared is built
	}
	defer closeOld()
	return !manifest.Touches(watch, old, src.tree), nil
}

// compareWait is how long a tree may take to open that is only compared with.
const compareWait = 10 * time.Second
