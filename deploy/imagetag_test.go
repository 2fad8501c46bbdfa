package deploy_test

import (
	"io"
	"maps"
	"testing"

	"mesh/deploy/deploytest"
)

// image-tag gives the image a name of its own beside those of mesh, which it cannot take.
func TestImageTag(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, with(app, "mesh.toml", `image-tag = "{branch}-edge-{deployment}"`))
		st, err := w.Store.Stack(t.Context(), "blog")
		if err != nil {
			t.Fatal(err)
		}
		r, err := w.Store.Release(t.Context(), "blog", st.Current)
		if err != nil || w.Builder.Tagged("mesh/blog:main-edge-1") != r.Image.ID || w.Builder.Tagged("mesh/blog:v1") != r.Image.ID {
			t.Errorf("the image is not tagged main-edge-1 and v1: %v", err)
		}
		mustPush(t, w, d, with(app, "mesh.toml", `image-tag = "v{deployment}"`)) // v2 is a release's
		if st, err = w.Store.Stack(t.Context(), "blog"); err != nil || st.Current != 2 {
			t.Fatalf("release %s, %v", st.Current, err)
		}
		p := w.Commit("blog", with(app, "mesh.toml", `image-tag = "of-{tag}"`))
		p.Branch, p.Tag = "", "1.4.0"
		if err := d.Push(t.Context(), p, io.Discard); err != nil || w.Builder.Tagged("mesh/blog:of-1.4.0") == "" {
			t.Errorf("a tag that is deployed: %v", err)
		}
	})
}

func with(files map[string]string, name, text string) map[string]string {
	out := maps.Clone(files)
	out[name] = text
	return out
}
