package deploy_test

import (
	"context"
	"io"
	"testing"
	"time"

	"mesh/deploy/deploytest"
)

// A server that was killed during stacks:destroy, after the containers and before the
// images, removes the rest at its next start.
func TestReconcile_RemovesImagesOfNoStack(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		mustPush(t, w, d, app)
		gone := w.Commit("gone", app)
		if err := d.Push(t.Context(), gone, io.Discard); err != nil {
			t.Fatal(err)
		}
		stop()
		if err := w.Store.DestroyStack(t.Context(), "gone"); err != nil {
			t.Fatal(err)
		}
		if err := w.Runner.RemoveStack(t.Context(), "gone"); err != nil {
			t.Fatal(err)
		}
		w.Router = deploytest.NewRouter()
		_, _ = w.Start()
		pass(time.Minute)
		if n := w.Builder.Images(); n != 1 || w.Builder.Tagged("mesh/gone:"+gone.Commit.Short()) != "" || w.Builder.Tagged("mesh/gone:v1") != "" {
			t.Errorf("%d images are left", n)
		}
		sound(t, w)
	})
}

func TestLife_EndsWithTheName(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		old := d.Life("blog")
		if err := d.RenameStack(t.Context(), "blog", "shop", "x", io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := context.Cause(old); err == nil || err.Error() != "blog was renamed to shop by x" {
			t.Errorf("got %v", err)
		}
		next := d.Life("shop")
		if next.Err() != nil {
			t.Error("the new name is over")
		}
		pass(time.Minute)
		if err := d.DestroyStack(t.Context(), "shop", "x"); err != nil {
			t.Fatal(err)
		}
		if err := context.Cause(next); err == nil || err.Error() != "shop was destroyed by x" {
			t.Errorf("got %v", err)
		}
	})
}
