package deploy_test

import (
	"context"
	"io"
	"maps"
	"reflect"
	"strings"
	"sync"
	"testing"

	"mesh"
	"mesh/deploy/deploytest"
)

func TestManifest_FolderFirst(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		if _, err := d.SetSettings(t.Context(), "blog", func(s *mesh.Settings) error { s.Root = "web"; return nil }); err != nil {
			t.Fatal(err)
		}
		mustPush(t, w, d, map[string]string{
			"Dockerfile": "FROM scratch", "web/Dockerfile": "FROM scratch", "mesh.toml": "health = \"/top\"", "web/mesh.toml": "health = \"/web\"", "Procfile": "web: ./top",
		})
		st := stack(t, w)
		if st.Effective().Health != "/web" || st.Effective().Root != "web" {
			t.Errorf("in force %+v", st.Effective())
		}
		if r := release(t, w, st.Current); r.Services["web"].Command != "./top" {
			t.Errorf("services %+v", r.Services)
		}
		if b := w.Builder.Builds(); b[len(b)-1].Settings.Root != "web" {
			t.Errorf("built with %+v", b[len(b)-1].Settings)
		}
	})
}

func TestManifest_FailedPushDeclaresNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Builder.BuildFunc = func(context.Context, mesh.Build, io.Writer) error { return failed(mesh.Failed, "no") }
		_, err := push(t, w, d, map[string]string{
			"Dockerfile": "FROM scratch", "mesh.toml": "health = \"/top\"", "app.json": `{"env": {"A": "x", "S": {"generator": "secret"}}, "formation": {"web": {"quantity": 3}}}`,
		})
		if st := stack(t, w); err == nil || st.Declared.Health != "" || len(st.Config) > 0 || st.Formation["web"] > 1 {
			t.Errorf("something has changed: %+v, %v", st, err)
		}
	})
}

func TestManifest_FailedPostdeployStaysLive(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		w.Runner.OneOffFunc = func(_ context.Context, o mesh.OneOff) (int, error) {
			if strings.Contains(strings.Join(o.Process.Cmd, " "), "after") {
				_, _ = io.WriteString(o.Stdout, "it says why\n")
				return 3, nil
			}
			return 0, nil
		}
		out, err := push(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "app.json": `{"scripts": {"predeploy": "./before", "postdeploy": "./after"}}`})
		if err != nil || stack(t, w).Current != 1 {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, want := range []string{"Predeploy: ./before", "it says why", `postdeploy failed: "./after" exited 3`, "v1 is live anyway"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	})
}

// A tree's declarations belong to its release: a rollback checks the old code as the
// old tree says, a promotion copies them, and svc shows which file a command is from.
func TestManifest_GoesWithTheRelease(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		var mu sync.Mutex
		path := ""
		w.Runner.CheckedFunc = func(_ mesh.Instance, how mesh.Check) {
			mu.Lock()
			defer mu.Unlock()
			path = how.Path
		}
		checked := func(want string) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if path != want {
				t.Errorf("checked at %q, want %q", path, want)
			}
		}
		mustPush(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "mesh.toml": "health = \"/old\"", "heroku.yml": "run:\n  web: ./old\n"})
		checked("/old")
		mustPush(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "mesh.toml": "health = \"/new\"", "Procfile": "web: ./new\n"})
		checked("/new")
		for n, want := range map[mesh.ReleaseNumber]mesh.Service{1: {Command: "./old", From: "heroku.yml"}, 2: {Command: "./new", From: "Procfile"}} {
			if got := release(t, w, n).Services["web"]; !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %+v, want %+v", n, got, want)
			}
		}
		if err := d.Rollback(t.Context(), "blog", "ci", 1, io.Discard); err != nil {
			t.Fatal(err)
		}
		checked("/old")
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("b")}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if got := stack(t, w).Effective().Health; got != "/old" {
			t.Errorf("the health check is at %q", got)
		}
		if _, err := d.CreateStack(t.Context(), "shop", "ci"); err != nil {
			t.Fatal(err)
		}
		if err := d.Promote(t.Context(), "blog", "shop", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		checked("/old")
	})
}

func TestManifest_StartCommandWinsOverTheProcfile(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "Procfile": "web: ./theirs\nworker: ./w", "mesh.toml": "start-command = \"./mine\""})
		if r := release(t, w, 1); !reflect.DeepEqual(r.Services["web"], mesh.Service{Command: "./mine", From: "start-command"}) || r.Services["worker"].Command != "./w" {
			t.Errorf("services %+v", r.Services)
		}
	})
}

func TestWatch_SkipsAndComparesWithWhatIsDeployed(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "web/a": "1", "docs": "1", "mesh.toml": "watch = [\"web/**\", \"Dockerfile\"]"})
		files := map[string]string{"Dockerfile": "FROM scratch", "web/a": "1", "docs": "2", "mesh.toml": "watch = [\"web/**\", \"Dockerfile\"]"}
		out, err := push(t, w, d, files)
		if err != nil || !strings.Contains(out, "Skipped: no file that watch=web/**,Dockerfile names has changed since v1") || last(t, w).Status != mesh.StatusSkipped || stack(t, w).Current != 1 {
			t.Errorf("%v, %s\n%s", err, last(t, w).Status, out)
		}
		files["web/b"] = "new" // added
		mustPush(t, w, d, files)
		if stack(t, w).Current != 2 {
			t.Error("a new file was skipped")
		}
		files = maps.Clone(files)
		delete(files, "web/b") // removed
		mustPush(t, w, d, files)
		if stack(t, w).Current != 3 {
			t.Error("a removed file was skipped")
		}
	})
}
