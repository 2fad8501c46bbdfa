package alerts

import (
	"fmt"

	"mesh"
)

// Deployed notes the end of a deployment.
func (w *Watcher) Deployed(d mesh.Deployment) {
	key := mesh.AlertCause{Kind: mesh.AlertDeploy, Stack: d.Stack}
	switch {
	case d.Status == mesh.StatusFailed:
		text := fmt.Sprintf("deployment %s by %s failed", d.Number, d.By)
		if d.Reason != "" {
			text += ": " + mesh.Clip(mesh.Visible(d.Reason), 200)
		}
		w.happened(finding{AlertCause: key, text: text})
	case d.Status == mesh.StatusLive && d.Kind == mesh.DeployRollback:
		w.happened(finding{AlertCause: key, text: fmt.Sprintf("%s rolled back, and %s is live", d.By, d.Release), once: true})
	case d.Status == mesh.StatusLive:
		w.poke()
	}
}

// Crashed notes that an instance has crashed.
func (w *Watcher) Crashed(stack mesh.StackName, in mesh.InstanceStatus) {
	if !in.OOM {
		w.poke() // the next look counts the crashes
		return
	}
	w.happened(finding{
		AlertCause: mesh.AlertCause{Kind: mesh.AlertOOM, Stack: stack, About: string(in.Name.Service)},
		text:       fmt.Sprintf("%s was killed because memory ran out (exit code %d)", in.Name, in.ExitCode),
	})
}

// BackedUp notes the end of a backup.
func (w *Watcher) BackedUp(err error) {
	key := mesh.AlertCause{Kind: mesh.AlertBackup}
	if err == nil {
		w.happened(finding{AlertCause: key, over: "a backup succeeded"})
		return
	}
	w.happened(finding{AlertCause: key, text: "the backup failed: " + mesh.Clip(mesh.Visible(err.Error()), 200)})
}

// BackupsChanged notes that Options.Backups may return something else.
func (w *Watcher) BackupsChanged() { w.poke() }

// JobsChanged notes that Options.Jobs may return something else.
func (w *Watcher) JobsChanged() { w.poke() }

// poke makes the next look come at once.
func (w *Watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
