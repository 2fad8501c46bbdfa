package store

import (
	"testing"

	"mesh"
)

// A status that earlier versions spelled otherwise is read as what it is now.
func TestDeploymentForm_FormerDryRun(t *testing.T) {
	t.Parallel()
	f := deploymentForm{V: 1, Number: 3, Kind: string(mesh.DeployPush), Status: "dry run"}
	if err := f.check(number(3)); err != nil {
		t.Fatal(err)
	}
	if d := f.deployment("shop"); d.Status != mesh.StatusDryRun || string(d.Status) != "dry-run" {
		t.Errorf("got %q", d.Status)
	}
}
