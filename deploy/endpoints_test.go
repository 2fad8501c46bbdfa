package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

var twoServices = map[string]string{"Dockerfile": "FROM scratch\n", "Procfile": "web: ./serve\napi: ./api\nworker: ./work\n"}

func publish(t *testing.T, d *deploy.Deployer, stack mesh.StackName, service mesh.ServiceName, at string, out io.Writer) error {
	t.Helper()
	e, err := mesh.ParseEndpoint(at)
	if err != nil {
		t.Fatal(err)
	}
	e.Service = service
	return d.Publish(t.Context(), stack, admin, e, out)
}

// parts returns what the router got last: endpoints, and the services with traffic.
func parts(t *testing.T, w *deploytest.World, stack mesh.StackName) string {
	t.Helper()
	r, _ := w.Router.Route(stack)
	var out []string
	for _, e := range r.Endpoints {
		out = append(out, fmt.Sprintf("%s=%s", e, e.Service))
	}
	for _, at := range r.Targets {
		out = append(out, at.Name.String())
	}
	return strings.Join(out, " ")
}

// checks records how each instance was last checked.
type checks struct {
	mu   sync.Mutex
	http map[string]bool
}

func watchChecks(w *deploytest.World) *checks {
	c := &checks{http: map[string]bool{}}
	w.Runner.CheckedFunc = func(in mesh.Instance, how mesh.Check) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.http[in.Name.String()] = how.HTTP
	}
	return c
}

func (c *checks) byHTTP(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.http[name]
}

func TestPublish_StartsTheServiceAnewAndRoutesIt(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		how := watchChecks(w)
		mustPush(t, w, d, twoServices)
		if got := parts(t, w, "blog"); got != "web.1" || how.byHTTP("api.1") || !how.byHTTP("web.1") {
			t.Fatalf("before: %s, %v", got, how.http)
		}
		before := w.Runner.Names()
		var o deploytest.Output
		if err := publish(t, d, "blog", "api", "https://blog.localhost/api", &o); err != nil {
			t.Fatalf("%v\n%s", err, o.String())
		}
		pass(time.Minute)
		sound := func(when, want string) {
			t.Helper()
			if got := parts(t, w, "blog"); got != want {
				t.Errorf("%s: %s, want %s", when, got, want)
			}
			if !how.byHTTP("api.1") || how.byHTTP("worker.1") {
				t.Errorf("%s: checked by HTTP: %v", when, how.http)
			}
		}
		sound("published", "https://blog.localhost/api=api web.1 api.1")
		if now := w.Runner.Names(); now == before || !strings.Contains(o.String(), "Starting api×1") || !strings.Contains(o.String(), "api.1 healthy") {
			t.Errorf("instances %s, then %s\n%s", before, now, o.String())
		}
		if st := stack(t, w); st.Current != 1 {
			t.Errorf("publishing made release %s", st.Current)
		}
		// Another endpoint starts nothing, and adds its host.
		at := w.Runner.Names()
		if err := publish(t, d, "blog", "api", "https://api.example.com/", io.Discard); err != nil {
			t.Fatal(err)
		}
		both := "https://api.example.com/=api https://blog.localhost/api=api web.1 api.1"
		sound("published twice", both)
		if r, _ := w.Router.Route("blog"); w.Runner.Names() != at || len(r.Hosts) != 2 || r.Hosts[1] != "api.example.com" {
			t.Errorf("%s, then %s; hosts %v", at, w.Runner.Names(), r.Hosts)
		}
		// So does another way to pass on the path.
		strip := mesh.Endpoint{Host: "blog.localhost", Path: "/api", Service: "api", Strip: true}
		for _, want := range []bool{true, false} {
			strip.Strip = want
			if err := d.Publish(t.Context(), "blog", admin, strip, io.Discard); err != nil {
				t.Fatal(err)
			}
			if r, _ := w.Router.Route("blog"); w.Runner.Names() != at || len(r.Endpoints) != 2 || r.Endpoints[1] != strip {
				t.Errorf("%s, then %s; %+v", at, w.Runner.Names(), r.Endpoints)
			}
		}
		// Pushes, rollbacks and restarts of mesh keep them.
		mustPush(t, w, d, twoServices)
		sound("pushed", both)
		if err := d.Rollback(t.Context(), "blog", "ci", 1, io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		sound("rolled back", both)
		stop()
		d, _ = w.Start()
		pass(time.Minute)
		sound("restarted", both)
		// So does a crash, after which it is checked by HTTP again.
		how.mu.Lock()
		how.http = map[string]bool{}
		how.mu.Unlock()
		for _, c := range w.Runner.Containers() {
			if c.Name.Service == "api" {
				w.Runner.Crash(c.ID, 1)
			}
		}
		pass(100 * time.Millisecond)
		if got := parts(t, w, "blog"); !strings.HasSuffix(got, "api web.1") {
			t.Errorf("crashed: %s", got)
		}
		pass(time.Minute)
		sound("back", both)
		// With no instances, requests are told so; web is not affected.
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "api", To: 0}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if r, _ := w.Router.Route("blog"); r.Idle["api"] != mesh.StoppedStack || r.Down != mesh.NotDown {
			t.Errorf("scaled down: %+v", r)
		}
	})
}

func TestPublish_UnhealthyServiceChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, twoServices)
		before := w.Runner.Names()
		w.Runner.CheckFunc = func(_ context.Context, in mesh.Instance) (string, error) {
			return "", failed(mesh.Failed, in.Name.String()+" does not speak HTTP")
		}
		var o deploytest.Output
		err := publish(t, d, "blog", "worker", "https://work.example.com/", &o)
		if err == nil || !strings.Contains(err.Error(), "does not speak HTTP") {
			t.Errorf("%v\n%s", err, o.String())
		}
		pass(time.Minute)
		if st := stack(t, w); len(st.Endpoints) != 0 || len(st.Domains) != 0 || parts(t, w, "blog") != "web.1" || w.Runner.Names() != before {
			t.Errorf("%+v, %s, %s", st, parts(t, w, "blog"), w.Runner.Names())
		}
		sound(t, w)
	})
}

func TestPublish_Refusals(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, twoServices)
		if _, err := d.CreateStack(t.Context(), "shop", "ci"); err != nil {
			t.Fatal(err)
		}
		for _, h := range []mesh.Host{"www.example.com", "old.example.com"} {
			to := mesh.Host("")
			if h == "old.example.com" {
				to = "www.example.com"
			}
			if err := d.AddDomain(t.Context(), "blog", h, to, admin); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.AddDomain(t.Context(), "shop", "shop.example.com", "", admin); err != nil {
			t.Fatal(err)
		}
		if err := publish(t, d, "blog", "api", "https://www.example.com/api", io.Discard); err != nil {
			t.Fatal(err)
		}
		was := parts(t, w, "blog")
		for _, tc := range []struct {
			service mesh.ServiceName
			at      string
			want    error
			text    string
		}{
			{"gone", "https://www.example.com/x", mesh.NotFound, `no service "gone"`},
			{"web", "https://www.example.com/x", mesh.Invalid, "web cannot be published"},
			{"worker", "https://shop.example.com/x", mesh.Conflict, "belongs to another stack"},
			{"worker", "https://shop.localhost/x", mesh.Conflict, "is the name of the stack shop"},
			{"worker", "https://old.example.com/x", mesh.Conflict, "is redirected to www.example.com"},
			{"worker", "https://www.example.com/api/", mesh.Conflict, "is the endpoint of api"},
			{"api", "https://www.example.com/api", mesh.Conflict, "api is already published at https://www.example.com/api"},
		} {
			if err := publish(t, d, "blog", tc.service, tc.at, io.Discard); !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s at %s: %v", tc.service, tc.at, err)
			}
		}
		// A key that may not add a host cannot publish there either.
		limited := mesh.Key{Name: "ci", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}}
		for host, text := range map[mesh.Host]string{
			"nobody.localhost": "belongs to the server", "mesh.localhost": "is reserved", "shop.localhost": "belongs to another stack",
		} {
			e := mesh.Endpoint{Host: host, Path: "/", Service: "worker"}
			if err := d.Publish(t.Context(), "blog", limited, e, io.Discard); err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s by a limited key: %v", host, err)
			}
		}
		if now := parts(t, w, "blog"); now != was {
			t.Errorf("%s, then %s", was, now)
		}
		if err := d.RemoveDomain(t.Context(), "blog", "www.example.com"); !errors.Is(err, mesh.Conflict) {
			t.Errorf("the host of an endpoint was removed: %v", err)
		}
		if _, _, err := d.Unpublish(t.Context(), "blog", "worker", nil); !errors.Is(err, mesh.NotFound) {
			t.Errorf("worker unpublished: %v", err)
		}
		other := mesh.Endpoint{Host: "www.example.com", Path: "/"}
		if _, _, err := d.Unpublish(t.Context(), "blog", "api", &other); !errors.Is(err, mesh.NotFound) {
			t.Errorf("unpublished elsewhere: %v", err)
		}
		taken, _, err := d.Unpublish(t.Context(), "blog", "api", nil)
		if err != nil || len(taken) != 1 || taken[0].Path != "/api" || parts(t, w, "blog") != "web.1" {
			t.Errorf("%v, %v, %s", taken, err, parts(t, w, "blog"))
		}
		if err := d.RemoveDomain(t.Context(), "blog", "old.example.com"); err != nil {
			t.Error(err)
		}
		if err := d.RemoveDomain(t.Context(), "blog", "www.example.com"); err != nil {
			t.Error(err)
		}
		sound(t, w)
	})
}

// Before the first release, and while the stack is stopped, an endpoint is only
// recorded; the first rollout checks by HTTP.
func TestPublish_BeforeTheFirstReleaseAndWhileStopped(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		how := watchChecks(w)
		if _, err := d.CreateStack(t.Context(), "blog", "ci"); err != nil {
			t.Fatal(err)
		}
		if err := publish(t, d, "blog", "api", "https://blog.localhost/api", io.Discard); err != nil {
			t.Fatal(err)
		}
		if r, _ := w.Router.Route("blog"); r.Idle["api"] != mesh.NotDeployed {
			t.Errorf("%+v", r)
		}
		mustPush(t, w, d, twoServices)
		if got := parts(t, w, "blog"); got != "https://blog.localhost/api=api web.1 api.1" || !how.byHTTP("api.1") {
			t.Errorf("%s, %v", got, how.http)
		}
		if err := d.Stop(t.Context(), "blog", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := publish(t, d, "blog", "worker", "https://blog.localhost/work", io.Discard); err != nil {
			t.Fatal(err)
		}
		if r, _ := w.Router.Route("blog"); r.Idle["worker"] != mesh.StoppedStack || r.Idle["api"] != mesh.StoppedStack || len(r.Targets) != 0 {
			t.Errorf("%+v", r)
		}
		if err := d.Start(t.Context(), "blog", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		if got := parts(t, w, "blog"); !strings.HasSuffix(got, " web.1 api.1 worker.1") || !how.byHTTP("worker.1") {
			t.Errorf("%s, %v", got, how.http)
		}
	})
}

// Endpoints on the stack's own host follow its name; the others stay.
func TestPublish_Rename(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		mustPush(t, w, d, twoServices)
		for _, at := range []string{"https://blog.localhost/api", "https://www.example.com/api"} {
			if err := publish(t, d, "blog", "api", at, io.Discard); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.RenameStack(t.Context(), "blog", "shop", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		const want = "https://shop.localhost/api=api https://www.example.com/api=api web.1 api.1"
		if got := parts(t, w, "shop"); got != want {
			t.Errorf("renamed: %s", got)
		}
		stop()
		w.Start()
		pass(time.Minute)
		if got := parts(t, w, "shop"); got != want {
			t.Errorf("restarted: %s", got)
		}
		soundStack(t, w, "shop")
	})
}
