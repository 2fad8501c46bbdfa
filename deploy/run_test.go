package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
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
		// If the server was away when its time came, the next start removes it.
		stop()
		pass(2 * time.Hour)
		d, _ = w.Start()
		if got := names(); got != "" {
			t.Errorf("after the restart: %q", got)
		}
		if err := d.StopRun(t.Context(), "blog", first); !errors.Is(err, mesh.NotFound) {
			t.Errorf("got %v", err)
		}
		// Of the ended runs the newest stay, and no running one is removed.
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

func TestReleaseCommand_TimesOut(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Runner.OneOffFunc = func(ctx context.Context, o mesh.OneOff) (int, error) {
			_, _ = io.WriteString(o.Stdout, "migrating for ever\n")
			<-ctx.Done()
			return 0, context.Cause(ctx)
		}
		for _, limit := range []time.Duration{0, time.Minute} {
			if _, err := d.SetSettings(t.Context(), "blog", func(s *mesh.Settings) error { s.ReleaseTimeout = limit; return nil }); err != nil {
				t.Fatal(err)
			}
			want := limit
			if limit == 0 {
				want = time.Hour
			}
			began := time.Now()
			out, err := push(t, w, d, map[string]string{"Procfile": "web: ./serve\nrelease: ./migrate"})
			if took := time.Since(began); err == nil || took != want || !strings.Contains(out, "took longer than "+want.String()) || !strings.Contains(out, "migrating for ever") {
				t.Errorf("limit %s: after %s: %v\n%s", limit, took, err, out)
			}
			if stack(t, w).Current != 1 {
				t.Error("it is live")
			}
		}
	})
}

// Such a command was recorded for the first release of a stack, and then every push
// failed.
func TestUpdateService_RefusesACommandThatNothingCarries(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		if _, err := d.CreateStack(t.Context(), "blog", "laptop"); err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{"echo caf\xe9", "a\x00b", strings.Repeat("x", mesh.MaxCommand+1)} {
			err := d.UpdateService(t.Context(), "blog", "laptop", "worker", func(s *mesh.ServiceSettings) error { s.Command = command; return nil }, io.Discard)
			if !errors.Is(err, mesh.Invalid) {
				t.Errorf("%.20q: %v", command, err)
			}
		}
		if got := stack(t, w).Services; len(got) > 0 {
			t.Errorf("kept: %v", got)
		}
	})
}

func TestStopTimeout_IsTheServices(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		set := func(d2 time.Duration) {
			t.Helper()
			if err := d.UpdateService(t.Context(), "blog", "laptop", "web", func(s *mesh.ServiceSettings) error { s.StopTimeout = d2; return nil }, io.Discard); err != nil {
				t.Fatal(err)
			}
			pass(time.Minute)
		}
		set(2 * time.Minute) // ends the one that had none
		set(3 * time.Minute) // ends the one that had two minutes
		if got := w.Runner.Graces(); !slices.Equal(got, []time.Duration{30 * time.Second, 2 * time.Minute}) {
			t.Errorf("got %v", got)
		}
		if _, err := d.SetSettings(t.Context(), "blog", func(s *mesh.Settings) error { s.StopTimeout = 7 * time.Second; return nil }); err != nil {
			t.Fatal(err)
		}
		set(0)
		set(time.Minute)
		if got := w.Runner.Graces(); !slices.Equal(got[2:], []time.Duration{3 * time.Minute, 7 * time.Second}) {
			t.Errorf("got %v", got)
		}
	})
}

func TestSetConfig_ManyAndLarge(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		many := mesh.Config{}
		for i := range 1000 {
			many[fmt.Sprintf("VAR_%d", i)] = mesh.NewSecret(strings.Repeat("v", 900))
		}
		if _, err := d.SetConfig(t.Context(), "blog", "x", mesh.ConfigChange{Set: many}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if n := len(release(t, w, 2).Config); n != 1000 {
			t.Errorf("%d vars", n)
		}
		refused := func(c mesh.Config, text string) {
			t.Helper()
			_, err := d.SetConfig(t.Context(), "blog", "x", mesh.ConfigChange{Set: c}, io.Discard)
			if !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), text) {
				t.Errorf("got %v", err)
			}
			if n := len(stack(t, w).Config); n != 1000 {
				t.Errorf("%d vars are left", n)
			}
		}
		refused(mesh.Config{"LARGE": mesh.NewSecret(strings.Repeat("x", 128<<10))}, "LARGE would take 131079 bytes")
		refused(mesh.Config{"A": mesh.NewSecret(strings.Repeat("x", 100<<10)), "B": mesh.NewSecret(strings.Repeat("x", 100<<10))}, "the limit is 1048576")
	})
}
