package deploy

import (
	"context"
	"errors"
	"fmt"

	"mesh"
)

// Findings returns the problems of the stacks, for people.
func (d *Deployer) Findings(ctx context.Context) []mesh.Finding {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return []mesh.Finding{{What: fmt.Sprintf("the stacks cannot be read: %v", err), Mend: "see the server's log"}}
	}
	var out []mesh.Finding
	for _, st := range stacks {
		for _, in := range d.Status(st.Name) {
			if in.State == mesh.Up {
				continue
			}
			what := fmt.Sprintf("%s: %s is %s", st.Name, in.Name, in.State)
			switch {
			case in.State == mesh.Crashed:
				what = fmt.Sprintf("%s: %s crashed %d times, the last time with exit code %d", st.Name, in.Name, in.Crashes, in.ExitCode)
			case in.Why != "":
				what += ": " + in.Why
			}
			out = append(out, mesh.Finding{What: what, Mend: fmt.Sprintf("mesh retries by itself; see the reason: ssh mesh logs -a %s", st.Name)})
		}
		if loss := d.Loss(st.Name); loss != "" {
			mend := fmt.Sprintf("rebuild it now: ssh mesh ps:rebuild -a %s", st.Name)
			if r, err := d.Store.Release(ctx, st.Name, st.Current); err == nil {
				mend = d.remedy(ctx, r)
			}
			out = append(out, mesh.Finding{What: fmt.Sprintf("%s: %s", st.Name, loss), Mend: mend})
		}
	}
	var unknown []mesh.StackName
	if seen := d.unknown.Load(); seen != nil {
		unknown = *seen
	}
	for _, name := range unknown {
		if _, err := d.Store.Stack(ctx, name); errors.Is(err, mesh.NoStack) {
			out = append(out, mesh.Finding{
				What: fmt.Sprintf("the engine has containers, networks or images of %s, which is not a known stack", name),
				Mend: fmt.Sprintf("restore a backup that contains it, or remove them: ssh mesh stacks:create %s; ssh mesh stacks:destroy -a %s --confirm %s", name, name, name),
			})
		}
	}
	if len(out) == 0 {
		out = append(out, mesh.Finding{OK: true, What: "every instance that should run is up"})
	}
	return out
}
