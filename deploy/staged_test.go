package deploy_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// stagedBlog stages v2 of blog beside v1.
func stagedBlog(t *testing.T, w *deploytest.World) (d *deploy.Deployer, stop func()) {
	t.Helper()
	w.Options.LinkKey = []byte("key")
	d, stop = w.Start()
	mustPush(t, w, d, twoServices)
	p := w.Commit("blog", twoServices)
	p.NoSwitch = true
	var out deploytest.Output
	if err := d.Push(t.Context(), p, &out); err != nil || !strings.Contains(out.String(), "=====> http://v2--blog.localhost/?mesh-pass=") {
		t.Fatalf("%v\n%s", err, &out)
	}
	pass(time.Second)
	w.Repos.Move("blog", mesh.RepoState{Branch: "main", Commit: release(t, w, 1).Commit})
	if got := trial(w); got != "v2 0% web.1" || stack(t, w).Current != 1 {
		t.Fatalf("staged: %q, current %s", got, stack(t, w).Current)
	}
	return d, stop
}

// webInstances returns the IDs of the instances of web, and of how many services others run.
func webInstances(w *deploytest.World) (ids []string, others int) {
	for _, c := range w.Runner.Containers() {
		if c.Name.Service == mesh.Web {
			ids = append(ids, c.ID)
		} else {
			others++
		}
	}
	return ids, others
}

// What the tree of a staged release adds stays after the switch, and so does what was recorded meanwhile.
// A start after a later release keeps the instances that the switch took.
func TestSwitch_KeepsWhatTheTreeAdds(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		w.Options.LinkKey = []byte("key")
		d, stop := w.Start()
		mustPush(t, w, d, map[string]string{"Procfile": "web: ./serve\nworker: ./work"})
		p := w.Commit("blog", map[string]string{
			"Procfile": "web: ./serve\nworker: ./work",
			"app.json": `{"env": {"SECRET": {"generator": "secret"}, "MODE": "live"}, "formation": {"worker": {"quantity": 3}}}`,
		})
		p.NoSwitch = true
		if err := d.Push(t.Context(), p, io.Discard); err != nil {
			t.Fatal(err)
		}
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"LATER": mesh.NewSecret("1")}, RecordOnly: true}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := d.Switch(t.Context(), "blog", 2, "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		st := stack(t, w)
		if got := strings.Join(st.Config.Names(), " "); got != "LATER MODE SECRET" || st.Formation["worker"] != 3 {
			t.Errorf("config vars %s, formation %v", got, st.Formation)
		}
		secret := st.Config["SECRET"].Reveal()
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "worker", To: 1}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if v := stack(t, w).Config["SECRET"].Reveal(); v != secret || secret == "" {
			t.Errorf("the secret has changed: %q, %q", secret, v)
		}
		ids, _ := webInstances(w)
		stop()
		w.Start()
		pass(time.Minute)
		if now, _ := webInstances(w); len(ids) != 1 || len(now) != 1 || now[0] != ids[0] {
			t.Errorf("web runs in %v after a start, was %v", now, ids)
		}
		sound(t, w)
	})
}

func TestSwitch_TakesTheInstancesThatRun(t *testing.T) {
	for name, restarted := range map[string]bool{"at once": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				d, stop := stagedBlog(t, w)
				if ids, others := webInstances(w); len(ids) != 2 || others != 2 {
					t.Errorf("%v of web run, and %d others", ids, others)
				}
				if restarted {
					stop()
					d, _ = w.Start()
					pass(time.Minute)
					if got := trial(w); got != "v2 0% web.1" {
						t.Errorf("after a restart: %q", got)
					}
				}
				r, _ := w.Router.Route("blog")
				id := r.Trial.Targets[0].ID
				if err := d.Switch(t.Context(), "blog", 2, "ci", io.Discard); err != nil {
					t.Fatal(err)
				}
				pass(time.Minute)
				if ids, _ := webInstances(w); len(ids) != 1 || ids[0] != id || stack(t, w).Staged != nil || release(t, w, 2).Staged {
					t.Errorf("web runs in %v, want %s; %+v", ids, id, stack(t, w).Staged)
				}
				sound(t, w)
				if err := d.Switch(t.Context(), "blog", 2, "ci", io.Discard); !errors.Is(err, mesh.NotFound) {
					t.Errorf("twice: %v", err)
				}
				// The next start knows that they are live, although an earlier deployment has started
				// them.
				stop()
				_, _ = w.Start()
				pass(time.Minute)
				if ids, _ := webInstances(w); len(ids) != 1 || ids[0] != id {
					t.Errorf("after the next start, web runs in %v, want %s", ids, id)
				}
				sound(t, w)
			})
		})
	}
}

func TestSwitch_StartsWhatHasEnded(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := stagedBlog(t, w)
		r, _ := w.Router.Route("blog")
		w.Runner.Crash(r.Trial.Targets[0].ID, 1)
		pass(time.Second)
		if err := d.Switch(t.Context(), "blog", 2, "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		sound(t, w)
	})
}

// A switch that fails leaves both releases as they were.
func TestSwitch_Fails(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := stagedBlog(t, w)
		w.Runner.CheckFunc = func(_ context.Context, in mesh.Instance) (string, error) {
			if in.Name.Service == "worker" {
				return "", failed(mesh.Failed, "worker.1 ended")
			}
			return "well", nil
		}
		if err := d.Switch(t.Context(), "blog", 2, "ci", io.Discard); err == nil || !strings.Contains(err.Error(), "worker.1 ended") {
			t.Errorf("%v", err)
		}
		pass(time.Minute)
		if got := trial(w); got != "v2 0% web.1" || stack(t, w).Current != 1 || stack(t, w).Staged == nil {
			t.Errorf("%q, %+v", got, stack(t, w))
		}
		w.Runner.CheckFunc = nil
		if err := d.Switch(t.Context(), "blog", 2, "ci", io.Discard); err != nil {
			t.Error(err)
		}
		pass(time.Minute)
		sound(t, w)
	})
}

func TestStaged_IsGone(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, w *deploytest.World, d *deploy.Deployer){
		"after a day": func(*testing.T, *deploytest.World, *deploy.Deployer) { pass(24*time.Hour + 2*time.Minute) },
		"discarded": func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) {
			if n, err := d.DiscardStaged(t.Context(), "blog"); err != nil || n != 2 {
				t.Errorf("%s, %v", n, err)
			}
		},
		"with another release": func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) {
			if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("b")}}, io.Discard); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				d, _ := stagedBlog(t, w)
				end(t, w, d)
				pass(time.Minute)
				if got := trial(w); got != "" || stack(t, w).Staged != nil || !release(t, w, 2).Staged {
					t.Errorf("left: %q, %+v", got, stack(t, w).Staged)
				}
				sound(t, w)
				if err := d.Rollback(t.Context(), "blog", "ci", 0, io.Discard); err != nil && !strings.Contains(err.Error(), "no release before") {
					t.Errorf("a rollback: %v", err)
				}
			})
		})
	}
}

// What ends nothing keeps it: a stop and a start, a restart.
func TestStaged_Stays(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := stagedBlog(t, w)
		if err := d.Restart(t.Context(), "blog", "ci", mesh.InstanceName{}, io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if got := trial(w); got != "v2 0% web.1" {
			t.Errorf("after a restart: %q", got)
		}
	})
}
