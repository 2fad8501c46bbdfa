package deploy_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"mesh"
	"mesh/deploy/deploytest"
)

// The images of the current release and of the five before it stay: every offered
// rollback works without a build.
func TestCollect_KeepsWhatRollbacksNeed(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		for i := range 8 {
			mustPush(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "n": fmt.Sprint(i)})
		}
		if n := w.Builder.Images(); n != 6 {
			t.Errorf("%d images are left after 8 pushes", n)
		}
		gone, _, err := d.Collect(t.Context(), false)
		if err != nil || len(gone) > 0 {
			t.Errorf("gone %v, %v", gone, err)
		}
		if err := d.Rollback(t.Context(), "blog", "laptop", 3, io.Discard); err != nil { // the oldest one offered
			t.Error(err)
		}
	})
}

func TestCollect_DryRunRemovesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Builder.CacheSize = 5e6
		// A build that did not become a release leaves its image.
		w.Runner.CheckFunc = func(context.Context, mesh.Instance) (string, error) { return "", failed(mesh.Failed, "ill") }
		if _, err := push(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "b": ""}); err == nil {
			t.Fatal("a failed check went through")
		}
		if w.Builder.Images() != 2 {
			t.Fatalf("%d images", w.Builder.Images())
		}
		gone, cache, err := d.Collect(t.Context(), true)
		if err != nil || len(gone) != 1 || cache != 4e6 || w.Builder.Images() != 2 {
			t.Errorf("gone %v, cache %d, %v; %d images left", gone, cache, err, w.Builder.Images())
		}
		gone, cache, err = d.Collect(t.Context(), false)
		if err != nil || len(gone) != 1 || cache != 4e6 || w.Builder.Images() != 1 {
			t.Errorf("gone %v, cache %d, %v; %d images left", gone, cache, err, w.Builder.Images())
		}
	})
}

func TestRoom_IsMadeBeforeABuildIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Builder.Need, w.Builder.Free, w.Builder.CacheSize = 10e6, 1e6, 20e6
		out, err := push(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "b": ""})
		if err != nil || !strings.Contains(out, "only 1.0 MB free on the engine's disk: removing old images and the build cache") {
			t.Errorf("%v\n%s", err, out)
		}
		w.Builder.Free, w.Builder.CacheSize = 1e6, 2e6
		builds := len(w.Builder.Builds())
		_, err = push(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "c": ""})
		if err == nil || !strings.Contains(err.Error(), "build failed: the server's disk is full: ") || !strings.Contains(err.Error(), "a build needs 10 MB") || len(w.Builder.Builds()) != builds {
			t.Errorf("got %v", err)
		}
	})
}

func TestRebuild(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		if err := d.Rebuild(t.Context(), "blog", "laptop", false, io.Discard); err == nil {
			t.Error("a stack that is not there was rebuilt")
		}
		mustPush(t, w, d, app)
		var out deploytest.Output
		if err := d.Rebuild(t.Context(), "blog", "laptop", true, &out); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		b := w.Builder.Builds()
		if r := release(t, w, 2); len(b) != 2 || !b[1].NoCache || !b[1].Fresh || b[1].Commit != b[0].Commit || r.Commit != b[0].Commit || !strings.HasPrefix(r.Description, "Rebuild ") {
			t.Errorf("built %+v, released %+v", b, r)
		}
	})
}
