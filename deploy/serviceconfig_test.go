package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// setService sets config vars of a service; an empty value removes one.
func setService(t *testing.T, d *deploy.Deployer, name mesh.ServiceName, vars map[string]string, out io.Writer) error {
	t.Helper()
	return d.UpdateService(t.Context(), "blog", "ci", name, func(s *mesh.ServiceSettings) error {
		s.Config = s.Config.Clone()
		for k, v := range vars {
			if s.Config[k] = mesh.NewSecret(v); v == "" {
				delete(s.Config, k)
			}
		}
		return nil
	}, out)
}

// has returns the values that the running instances have for a var.
func has(t *testing.T, w *deploytest.World, name string) string {
	t.Helper()
	sound(t, w)
	values := map[string]string{}
	for _, c := range w.Runner.Containers() {
		values[c.Name.String()] = c.Spec.Env[name].Reveal()
	}
	return fmt.Sprint(values)
}

// The config vars of a service win over the stack's, only there, and belong to the release.
func TestServiceConfig(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, map[string]string{"Procfile": "web: ./serve\nworker: ./work\nrelease: ./migrate"})
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("stack")}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := setService(t, d, "worker", map[string]string{"A": "value-of-worker"}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if got := has(t, w, "A"); got != "map[web.1:stack worker.1:value-of-worker]" {
			t.Errorf("got %s", got)
		}
		// A push keeps them, their values do not show, and the release command has the stack's.
		var commands []string
		w.Runner.OneOffFunc = func(_ context.Context, o mesh.OneOff) (int, error) {
			commands = append(commands, o.Env["A"].Reveal())
			_, _ = io.WriteString(o.Stdout, "it is value-of-worker\n")
			return 0, nil
		}
		out, err := push(t, w, d, map[string]string{"Procfile": "web: ./serve\nworker: ./work2\nrelease: ./migrate"})
		if err != nil || strings.Contains(out, "value-of-worker") || !strings.Contains(out, "it is "+mesh.Mask) {
			t.Errorf("%v\n%s", err, out)
		}
		if got := has(t, w, "A"); got != "map[web.1:stack worker.1:value-of-worker]" {
			t.Errorf("after a push %s", got)
		}
		// One-off commands have those of their service.
		for _, as := range []mesh.ServiceName{"", "web", "worker"} {
			if _, err := d.RunCommand(t.Context(), mesh.Run{Stack: "blog", Line: "x", Words: []string{"x"}, As: as, Stdout: io.Discard}); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprint(commands); got != "[stack stack stack value-of-worker]" {
			t.Errorf("commands had %s", got)
		}
		// A rollback brings back those of its release, for the next releases as well.
		if err := setService(t, d, "worker", map[string]string{"A": "newer", "B": "2"}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := setService(t, d, "web", map[string]string{"C": "3"}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := d.Rollback(t.Context(), "blog", "ci", 4, io.Discard); err != nil {
			t.Fatal(err)
		}
		if s := stack(t, w).Services; len(s) != 1 || len(s["worker"].Config) != 1 || has(t, w, "A") != "map[web.1:stack worker.1:value-of-worker]" {
			t.Errorf("after a rollback %v, %s", s, has(t, w, "A"))
		}
		if err := d.Rollback(t.Context(), "blog", "ci", 1, io.Discard); err != nil {
			t.Fatal(err)
		}
		if s := stack(t, w).Services; len(s) != 0 || has(t, w, "A") != "map[web.1: worker.1:]" {
			t.Errorf("after a rollback to v1 %v, %s", s, has(t, w, "A"))
		}
		if err := d.Rollback(t.Context(), "blog", "ci", 4, io.Discard); err != nil || has(t, w, "A") != "map[web.1:stack worker.1:value-of-worker]" {
			t.Errorf("and back %v, %s", err, has(t, w, "A"))
		}
		// A clone has them, unless it takes no config.
		for to, want := range map[mesh.StackName]int{"copy": 1, "bare": 0} {
			if err := d.Clone(t.Context(), "blog", to, "ci", to == "bare", io.Discard); err != nil {
				t.Fatal(err)
			}
			if r, err := w.Store.Release(t.Context(), to, 1); err != nil || len(r.Services["worker"].Config) != want {
				t.Errorf("%s: %+v, %v", to, r.Services, err)
			}
		}
		// svc:delete clears them.
		if err := d.DeleteService(t.Context(), "blog", "ci", "worker", io.Discard); err != nil || has(t, w, "A") != "map[web.1:stack worker.1:stack]" {
			t.Errorf("%v, %s", err, has(t, w, "A"))
		}
	})
}

func TestServiceConfig_Refusals(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		large := mesh.Config{}
		for i := range 9 {
			large[fmt.Sprint("V", i)] = mesh.NewSecret(strings.Repeat("x", 100<<10))
		}
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: large}, io.Discard); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"PORT": "1", "MESH_STACK": "1", "1A": "1", "NUL": "a\x00b", "LARGE": strings.Repeat("x", 130<<10)} {
			if err := setService(t, d, "web", map[string]string{name: value}, io.Discard); !errors.Is(err, mesh.Invalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// Together with the stack's they have the same limit.
		half := strings.Repeat("x", 100<<10)
		err := setService(t, d, "web", map[string]string{"A": half, "B": half}, io.Discard)
		if !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), "the config vars of web of blog would be 1126420 bytes long") {
			t.Errorf("got %v", err)
		}
		if err := setService(t, d, "web", map[string]string{"A": half}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"B": mesh.NewSecret(half)}}, io.Discard); !errors.Is(err, mesh.Invalid) {
			t.Errorf("got %v", err)
		}
		// A release that fails changes nothing.
		w.Runner.CheckFunc = func(context.Context, mesh.Instance) (string, error) { return "", errors.New("ill") }
		if err := setService(t, d, "web", map[string]string{"C": "1"}, io.Discard); err == nil {
			t.Error("it is live")
		}
		if n := len(stack(t, w).Services["web"].Config); n != 1 {
			t.Errorf("%d vars are recorded", n)
		}
	})
}

// config:edit replaces all vars, if they are still those that it began with, and keeps what
// is recorded while its release rolls out.
func TestSetConfig_Replace(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: vars("A", "1", "B", "1", "C", "1")}, io.Discard); err != nil {
			t.Fatal(err)
		}
		edit := mesh.ConfigChange{Set: vars("A", "2", "C", "1", "D", "1"), Replace: true, If: stack(t, w).Config.Fingerprint()}
		var once sync.Once
		w.Runner.CheckFunc = func(context.Context, mesh.Instance) (string, error) {
			once.Do(func() {
				if _, err := d.SetConfig(t.Context(), "blog", "mate", mesh.ConfigChange{Set: vars("MEANWHILE", "1", "C", "2"), RecordOnly: true}, io.Discard); err != nil {
					t.Error(err)
				}
			})
			return "", nil
		}
		changed, err := d.SetConfig(t.Context(), "blog", "ci", edit, io.Discard)
		if err != nil || fmt.Sprint(changed) != "[A B D]" {
			t.Errorf("%v, %v", changed, err)
		}
		if got := release(t, w, 3).Config; !got.Equal(vars("A", "2", "C", "1", "D", "1")) {
			t.Errorf("the release has %v", got.Names())
		}
		if got := stack(t, w).Config; !got.Equal(vars("A", "2", "C", "2", "D", "1", "MEANWHILE", "1")) {
			t.Errorf("recorded are %v", got.Names())
		}
		for _, only := range []bool{true, false} {
			edit.RecordOnly = only
			if _, err := d.SetConfig(t.Context(), "blog", "ci", edit, io.Discard); !errors.Is(err, mesh.Conflict) {
				t.Errorf("got %v", err)
			}
		}
		if got := stack(t, w); len(got.Config) != 4 || got.Current != 3 {
			t.Errorf("%v, %s", got.Config.Names(), got.Current)
		}
	})
}
