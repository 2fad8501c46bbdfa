package builder_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"

	"mesh/enginetest"
)

// The start of a run removes what a run left that was killed long ago. An image of a run
// that goes on may be older than that: all its layers may come from the cache.
func TestStart_GoesByTheAgeOfTheRun(t *testing.T) {
	ago := time.Now().Add(-48 * time.Hour)
	killed := "builder-1-" + strconv.FormatInt(ago.UnixNano(), 36)
	ours, left := emptyImage(t, run, ago), emptyImage(t, killed, time.Now())
	if _, err := enginetest.Start(t.Context(), enginetest.NewID("other")); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.ImageInspect(t.Context(), ours); err != nil {
		t.Errorf("an image of this run is gone: %v", err)
	}
	if _, err := cli.ImageInspect(t.Context(), left); !errdefs.IsNotFound(err) {
		t.Errorf("an image of a run that was killed two days ago is still there: %v", err)
	}
	if _, err := cli.ImageRemove(t.Context(), ours, image.RemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
}

// emptyImage loads an image without layers that has the label of a run.
func emptyImage(t *testing.T, run string, created time.Time) (ref string) {
	t.Helper()
	ref = fmt.Sprintf("mesh-test/%s:%d", run, stacks.Add(1))
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "created": created,
		"config": map[string]any{"Labels": map[string]string{enginetest.Label: run}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{ref}, "Layers": []string{}}})
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, b := range map[string][]byte{"config.json": config, "manifest.json": manifest} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	resp, err := cli.ImageLoad(t.Context(), &buf)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if out, err := io.ReadAll(resp.Body); err != nil || bytes.Contains(out, []byte("errorDetail")) {
		t.Fatalf("%v\n%s", err, out)
	}
	return ref
}
