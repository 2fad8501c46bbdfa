package deploy_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/deploy/deploytest"
)

func TestDetach_ExpiresAfterADay(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		mustPush(t, w, d, app)
		run := func() string {
			t.Helper()
			r, err := d.Detach(t.Context(), mesh.Run{Stack: "blog", By: "laptop", Line: "rake long"})
			if err != nil {
				t.Fatal(err)
			}
			return r.Name
		}
		names := func() string {
			t.Helper()
			runs, err := d.Runs(t.Context(), "blog")
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, r := range runs {
				out = append(out, r.Name)
			}
			return strings.Join(out, " ")
		}
		first := run()
		pass(time.Hour)
		second := run()
		w.Runner.EndRun(second, 3)
		pass(23*time.Hour - time.Second)
		if got := names(); got != first+" "+second {
			t.Errorf("after a day less a second: %q", got)
		}
		pass(2 * time.Second)
		if got := names(); got != second {
			t.Errorf("after a day: %q", got)
		}
		// A server that was away when its time came removes it at the start.
		stop()
		pass(2 * time.Hour)
		d, _ = w.Start()
		if got := names(); got != "" {
			t.Errorf("after the restart: %q", got)
		}
		if err := d.StopRun(t.Context(), "blog", first); !errors.Is(err, mesh.NotFound) {
			t.Errorf("got %v", err)
		}
		// Of the ended ones the newest stay, and none that runs is lost.
		running := run()
		var ended []string
		for range 25 {
			ended = append(ended, run())
			w.Runner.EndRun(ended[len(ended)-1], 0)
			pass(time.Second)
		}
		run()
		pass(time.Second)
		got := strings.Fields(names())
		if len(got) != 22 || got[0] != running || got[1] != ended[5] {
			t.Errorf("%d are left: %q", len(got), got)
		}
	})
}

func TestEnter(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		var got mesh.Exec
		w.Runner.ExecFunc = func(_ context.Context, e mesh.Exec) (int, error) { got = e; return 7, nil }
		web1 := mesh.InstanceName{Service: "web", Slot: 1}
		if code, err := d.Enter(t.Context(), web1, mesh.Run{Stack: "blog", Line: "ls | wc", Words: []string{"ls", "|", "wc"}}); code != 7 || err != nil {
			t.Errorf("got %d, %v", code, err)
		}
		if id := w.Runner.Containers()[0].ID; got.ID != id || !slices.Equal(got.Words, []string{"/bin/sh", "-c", "ls | wc"}) {
			t.Errorf("got %+v", got)
		}
		if _, err := d.Enter(t.Context(), web1, mesh.Run{Stack: "blog"}); err != nil || !strings.Contains(got.Words[2], "bash") {
			t.Errorf("got %+v, %v", got, err)
		}
		if _, err := d.Enter(t.Context(), mesh.InstanceName{Service: "web", Slot: 2}, mesh.Run{Stack: "blog"}); !errors.Is(err, mesh.NotFound) {
			t.Errorf("got %v", err)
		}
		w.Builder.Shape = func(i *mesh.Image) { i.Shell = false }
		mustPush(t, w, d, map[string]string{"a": "b"})
		if _, err := d.Enter(t.Context(), web1, mesh.Run{Stack: "blog"}); !errors.Is(err, mesh.Invalid) {
			t.Errorf("got %v", err)
		}
		if _, err := d.Enter(t.Context(), web1, mesh.Run{Stack: "blog", Line: "/app -v", Words: []string{"/app", "-v"}}); err != nil || !slices.Equal(got.Words, []string{"/app", "-v"}) {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}
