package mesh_test

import (
	"slices"
	"testing"

	"mesh"
)

func TestFormation(t *testing.T) {
	t.Parallel()
	f := mesh.Formation{"worker": 1, "web": 2, "api": 0}
	if got := f.Services(); !slices.Equal(got, []mesh.ServiceName{"web", "api", "worker"}) {
		t.Errorf("services are %v", got)
	}
	if f.Total() != 3 || mesh.Formation(nil).Total() != 0 {
		t.Error("the total is wrong")
	}
	c := f.Clone()
	if c["web"] = 9; f["web"] != 2 || mesh.Formation(nil).Clone() == nil {
		t.Error("a clone is not a copy")
	}
}

func TestDeploymentStatus_Final(t *testing.T) {
	t.Parallel()
	for s, want := range map[mesh.DeploymentStatus]bool{
		mesh.StatusWaiting: false, mesh.StatusRunning: false, mesh.StatusLive: true,
		mesh.StatusFailed: true, mesh.StatusCancelled: true, mesh.StatusDryRun: true,
	} {
		if s.Final() != want {
			t.Errorf("%s: final is %v", s, s.Final())
		}
	}
}
