package builder_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/image"

	"mesh"
)

// A key that may only use what registries provide does not get the engine's own
// copy.
func TestPrebuilt_PublicOnly(t *testing.T) {
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path != "/v2/" {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`))
		}
	}))
	defer registry.Close()
	ref := strings.TrimPrefix(registry.URL, "http://") + "/private/app:1"
	if err := cli.ImageTag(t.Context(), base, ref); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cli.ImageRemove(context.Background(), ref, image.RemoveOptions{}) })
	b := newBench(t)
	for _, public := range []bool{false, true} {
		_, out, err := b.build(b.prebuilt(mesh.From{Ref: ref, Public: public}))
		if (err != nil) != public {
			t.Errorf("public %v: %v\n%s", public, err, out)
		}
	}
}
