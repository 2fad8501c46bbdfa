package deploy_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// renamed creates a stack blog with a domain and two releases.
func renamed(t *testing.T, w *deploytest.World, d *deploy.Deployer) {
	t.Helper()
	mustPush(t, w, d, app)
	if err := d.AddDomain(t.Context(), "blog", "www.example.com", "", admin); err != nil {
		t.Fatal(err)
	}
	if err := d.AddKey(t.Context(), mesh.Key{Name: "ci", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}, Fingerprint: "f"}); err != nil {
		t.Fatal(err)
	}
	mustPush(t, w, d, map[string]string{"Procfile": "web: ./serve\nworker: ./work"})
}

// goneStack checks that nothing is left of a stack.
func goneStack(t *testing.T, w *deploytest.World, name mesh.StackName) {
	t.Helper()
	if _, err := w.Store.Stack(t.Context(), name); !errors.Is(err, mesh.NoStack) {
		t.Errorf("%s is there: %v", name, err)
	}
	if _, ok := w.Router.Route(name); ok {
		t.Errorf("%s is routed", name)
	}
	for _, c := range w.Runner.Containers() {
		if c.Stack == name {
			t.Errorf("%s of %s is there", c.Name, name)
		}
	}
	if h := w.Repos.Head(name); h != "" {
		t.Errorf("%s has a repository at %s", name, h)
	}
	if id := w.Builder.Tagged("mesh/" + string(name) + ":v1"); id != "" {
		t.Errorf("%s has an image", name)
	}
}

func TestRename_AllFollows(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		renamed(t, w, d)
		out, err := w.Store.Output("blog", 1)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(out, "the first output\n")
		_ = out.Close()
		var o deploytest.Output
		if err := d.RenameStack(t.Context(), "blog", "shop", "laptop", &o); err != nil {
			t.Fatalf("%v\n%s", err, o.String())
		}
		pass(time.Minute)
		soundStack(t, w, "shop")
		goneStack(t, w, "blog")
		st, err := w.Store.Stack(t.Context(), "shop")
		if err != nil || st.Current != 2 || st.Was != "" || !slices.Equal(st.Domains, []mesh.Host{"www.example.com"}) {
			t.Errorf("got %+v, %v", st, err)
		}
		r, err := w.Store.Release(t.Context(), "shop", 1)
		if err != nil || r.Stack != "shop" || !strings.HasPrefix(r.Image.Ref, "mesh/shop:") || w.Builder.Tagged("mesh/shop:v1") != r.Image.ID {
			t.Errorf("got %+v, %v", r, err)
		}
		keys, _ := w.Store.Keys(t.Context())
		if len(keys) != 1 || !slices.Equal(keys[0].Stacks, []mesh.StackName{"shop"}) {
			t.Errorf("got %+v", keys)
		}
		rec, err := w.Store.ReadOutput("shop", 1)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(rec)
		_ = rec.Close()
		if string(text) != "the first output\n" {
			t.Errorf("the record of deployment 1 is %q", text)
		}
		for _, c := range w.Runner.Containers() {
			if got := c.Spec.Env["MESH_STACK"].Reveal(); got != "shop" {
				t.Errorf("MESH_STACK is %q", got)
			}
		}
		// The old name is free, the new one works as any.
		if err := d.Rollback(t.Context(), "shop", "laptop", 1, io.Discard); err != nil {
			t.Error(err)
		}
		mustPush(t, w, d, app)
		sound(t, w)
		soundStack(t, w, "shop")
	})
}

// The stack's own domains lose no request: at every moment they lead somewhere.
func TestRename_DomainsAreAlwaysRouted(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		var d *deploy.Deployer
		w.Options.OnStep = func(s deploy.Step, _ string) {
			blog, _ := w.Router.Route("blog")
			shop, _ := w.Router.Route("shop")
			served := slices.Contains(blog.Hosts, "www.example.com") && len(blog.Targets) > 0 || slices.Contains(shop.Hosts, "www.example.com") && len(shop.Targets) > 0
			if s != deploy.StepBegun && len(w.Router.Switches()) > 4 && !served {
				t.Errorf("at %s nothing serves: %+v %+v", s, blog, shop)
			}
		}
		d, _ = w.Start()
		renamed(t, w, d)
		if err := d.RenameStack(t.Context(), "blog", "shop", "laptop", io.Discard); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRename_Refusals(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		renamed(t, w, d)
		if _, err := d.CreateStack(t.Context(), "other", "laptop"); err != nil {
			t.Fatal(err)
		}
		if err := d.AddDomain(t.Context(), "other", "shop.localhost", "", admin); err != nil {
			t.Fatal(err)
		}
		refused := func(to mesh.StackName, kind mesh.Kind) {
			t.Helper()
			if err := d.RenameStack(t.Context(), "blog", to, "laptop", io.Discard); !errors.Is(err, kind) {
				t.Errorf("rename to %s: %v", to, err)
			}
			sound(t, w)
		}
		refused("blog", mesh.Invalid)
		refused("other", mesh.Conflict)
		refused("shop", mesh.Conflict) // its host is a domain of other
		run, err := d.Detach(t.Context(), mesh.Run{Stack: "blog", Line: "sleep 1"})
		if err != nil {
			t.Fatal(err)
		}
		refused("new", mesh.Conflict)
		if err := d.StopRun(t.Context(), "blog", run.Name); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Lock(t.Context(), "blog", "laptop", ""); err != nil {
			t.Fatal(err)
		}
		refused("new", mesh.Conflict)
	})
}

func TestRename_FailedCheckChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		renamed(t, w, d)
		w.Runner.StartFunc = func(mesh.InstanceSpec) error { return failed(mesh.Failed, "no room") }
		if err := d.RenameStack(t.Context(), "blog", "shop", "laptop", io.Discard); !errors.Is(err, mesh.Failed) {
			t.Errorf("got %v", err)
		}
		w.Runner.StartFunc = nil
		sound(t, w)
		goneStack(t, w, "shop")
		mustPush(t, w, d, app)
	})
}

// Nothing begins under either name during the rename.
func TestRename_KeepsOthersOut(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		renamed(t, w, d)
		var tried atomic.Bool
		w.Runner.StartFunc = func(s mesh.InstanceSpec) error {
			if s.Stack == "shop" && tried.CompareAndSwap(false, true) {
				_, err := d.SetConfig(t.Context(), "blog", "x", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("b")}}, io.Discard)
				_, cerr := d.CreateStack(t.Context(), "shop", "x")
				perr := d.AdmitPush(t.Context(), mesh.Key{Role: mesh.RoleAdmin}, "blog")
				for _, err := range []error{err, cerr, perr} {
					if !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "being renamed") {
						t.Errorf("got %v", err)
					}
				}
			}
			return nil
		}
		if err := d.RenameStack(t.Context(), "blog", "shop", "laptop", io.Discard); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !tried.Load() {
			t.Error("nothing was tried")
		}
		soundStack(t, w, "shop")
	})
}

func TestRename_StoppedAndNeverDeployed(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		if _, err := d.CreateStack(t.Context(), "empty", "laptop"); err != nil {
			t.Fatal(err)
		}
		if err := d.RenameStack(t.Context(), "empty", "hollow", "laptop", io.Discard); err != nil {
			t.Fatal(err)
		}
		soundStack(t, w, "hollow")
		goneStack(t, w, "empty")
		renamed(t, w, d)
		if err := d.Stop(t.Context(), "blog", "laptop", io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := d.RenameStack(t.Context(), "blog", "shop", "laptop", io.Discard); err != nil {
			t.Fatal(err)
		}
		soundStack(t, w, "shop")
		if err := d.Start(t.Context(), "shop", "laptop", io.Discard); err != nil {
			t.Fatal(err)
		}
		soundStack(t, w, "shop")
		goneStack(t, w, "blog")
	})
}

// A server that is killed at any step of a rename leaves one stack, whole, under
// one of the names.
func TestRename_KilledAtEachStep(t *testing.T) {
	for _, step := range []deploy.Step{deploy.StepBegun, deploy.StepStarted, deploy.StepCommitted, deploy.StepSwitched, deploy.StepRetiring, "repos"} {
		t.Run(string(step), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				armed := false
				w.Options.OnStep = func(s deploy.Step, _ string) {
					if armed && s == step {
						panic(killed{})
					}
				}
				w.Builder.RenameFunc = func() error {
					if armed && step == "repos" {
						panic(killed{})
					}
					return nil
				}
				d, stop := w.Start()
				renamed(t, w, d)
				armed = true
				func() {
					defer func() {
						if r := recover(); r == nil {
							t.Error("the step was not reached")
						} else if _, ok := r.(killed); !ok {
							panic(r)
						}
					}()
					_ = d.RenameStack(t.Context(), "blog", "shop", "laptop", io.Discard)
				}()
				stop()
				armed = false
				w.Router = deploytest.NewRouter()
				d, _ = w.Start()
				pass(time.Minute)
				is, was := mesh.StackName("shop"), mesh.StackName("blog")
				if step == deploy.StepBegun || step == deploy.StepStarted {
					is, was = was, is
				}
				soundStack(t, w, is)
				goneStack(t, w, was)
				st, err := w.Store.Stack(t.Context(), is)
				if err != nil || st.Was != "" || st.Current != 2 || len(st.Domains) != 1 {
					t.Errorf("got %+v, %v", st, err)
				}
				if err := d.Rollback(t.Context(), is, "laptop", 1, io.Discard); err != nil {
					t.Error(err)
				}
				soundStack(t, w, is)
			})
		})
	}
}

// An engine that does not answer in time leaves the rest to the next start.
func TestRename_UnfinishedIsFinishedLater(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		w.Builder.RenameFunc = func() error { return errors.New("the engine is busy") }
		d, stop := w.Start()
		renamed(t, w, d)
		if err := d.RenameStack(t.Context(), "blog", "shop", "laptop", io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if _, err := d.CreateStack(t.Context(), "blog", "laptop"); !errors.Is(err, mesh.Conflict) {
			t.Errorf("the old name can be taken: %v", err)
		}
		stop()
		w.Builder.RenameFunc = nil
		w.Router = deploytest.NewRouter()
		d, _ = w.Start()
		soundStack(t, w, "shop")
		goneStack(t, w, "blog")
		if _, err := d.CreateStack(t.Context(), "blog", "laptop"); err != nil {
			t.Error(err)
		}
	})
}

// A rename starts the release that is current when it has its turn.
func TestRename_TakesWhatIsCurrentInItsTurn(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		renamed(t, w, d)
		w.Runner.DetachedFunc = func() {
			w.Runner.DetachedFunc = nil
			if _, err := d.SetConfig(t.Context(), "blog", "x", mesh.ConfigChange{Set: mesh.Config{"NEW": mesh.NewSecret("value")}}, io.Discard); err != nil {
				t.Error(err)
			}
		}
		if err := d.RenameStack(t.Context(), "blog", "shop", "laptop", io.Discard); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		soundStack(t, w, "shop")
		for _, c := range w.Runner.Containers() {
			if c.Spec.Env["NEW"].Reveal() != "value" || c.Release != 3 {
				t.Errorf("%s runs release %s without the new value", c.Name, c.Release)
			}
		}
	})
}

// An unfinished rename is finished later, whatever has happened to the new name since.
func TestRename_IsFinishedAfterADeployment(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		w.Builder.RenameFunc = func() error { return errors.New("the engine is busy") }
		d, stop := w.Start()
		renamed(t, w, d)
		if err := d.RenameStack(t.Context(), "blog", "shop", "laptop", io.Discard); err != nil {
			t.Fatal(err)
		}
		if _, err := d.SetConfig(t.Context(), "shop", "x", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("b")}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		stop()
		w.Builder.RenameFunc = nil
		w.Router = deploytest.NewRouter()
		_, _ = w.Start()
		st, err := w.Store.Stack(t.Context(), "shop")
		if err != nil || st.Was != "" {
			t.Errorf("got %+v, %v", st, err)
		}
		for n := range st.LastNumber {
			rec, err := w.Store.ReadOutput("shop", n+1)
			if err != nil {
				t.Fatal(err)
			}
			if text, _ := io.ReadAll(rec); len(text) == 0 {
				t.Errorf("the output of %s is gone", n+1)
			}
			_ = rec.Close()
		}
	})
}

// A client that reads nothing holds up neither this deployment nor the next one.
func TestAttempt_DoesNotWaitForItsClient(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		r, stuck := io.Pipe()
		defer r.Close()
		began := time.Now()
		if err := d.Push(t.Context(), w.Commit("blog", app), stuck); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %s", took)
		}
		mustPush(t, w, d, app)
		sound(t, w)
	})
}
