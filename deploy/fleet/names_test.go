package fleet_test

import (
	"fmt"
	"testing"

	"mesh"
	"mesh/deploy/fleet"
)

var services = map[mesh.ServiceName]mesh.Service{"web": {}, "worker": {}}

// run starts instances of a stack's release and installs them.
func (w *world) run(t *testing.T, st mesh.Stack, n mesh.ReleaseNumber, instances ...mesh.InstanceName) []mesh.Instance {
	t.Helper()
	var specs []mesh.InstanceSpec
	form := mesh.Formation{}
	for _, name := range instances {
		form[name.Service]++
		specs = append(specs, mesh.InstanceSpec{Stack: st.Name, Name: name, Release: n, Fingerprint: fmt.Sprint(st.Name, n), Image: "sha256:a"})
	}
	started, err := w.StartAll(t.Context(), st, specs, fleet.Progress{Healthy: func(mesh.InstanceName, string) {}, Detail: func(string) {}})
	if err != nil {
		t.Fatal(err)
	}
	st.Current = n
	w.Install(st, mesh.Release{Stack: st.Name, Number: n, Formation: form, Services: services}, specs, nil, started)
	return started
}

func (w *world) names(stack mesh.StackName, name string) string {
	r, known := w.Resolve(stack, name)
	switch {
	case !known:
		return "unknown"
	case r.Link:
		return "link"
	}
	return fmt.Sprint(r.Addrs)
}

var (
	web1    = mesh.InstanceName{Service: "web", Slot: 1}
	web2    = mesh.InstanceName{Service: "web", Slot: 2}
	worker1 = mesh.InstanceName{Service: "worker", Slot: 1}
)

// Names lead to the healthy instances of the current release.
func TestResolve(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		st := mesh.Stack{Name: "blog", Revision: 1, Links: []mesh.Link{{To: "api", Service: "web", As: "api"}, {To: "api", Service: "web", As: "worker"}}}
		w.Create(st)
		if got := w.names("blog", "web"); got != "unknown" {
			t.Errorf("before the first release: %s", got)
		}
		first := w.run(t, st, 1, web1, web2, worker1)
		at := func(all []mesh.Instance, names ...mesh.InstanceName) string {
			var out []string
			for _, n := range names {
				for _, in := range all {
					if in.Name == n {
						out = append(out, in.Addr.Addr().String())
					}
				}
			}
			return fmt.Sprint(out)
		}
		for name, want := range map[string]string{
			"web": at(first, web1, web2), "blog-web": at(first, web1, web2), "blog": at(first, web1, web2),
			"worker": at(first, worker1), "blog-worker": at(first, worker1),
			"api": "link", "api-web": "unknown", "other": "unknown", "blog-": "unknown", "": "unknown", "Web": "unknown",
		} {
			if got := w.names("blog", name); got != want {
				t.Errorf("%q: %s, want %s", name, got, want)
			}
			if got := w.names("api", name); got != "unknown" {
				t.Errorf("%q in a stack that does not exist: %s", name, got)
			}
		}
		second := w.run(t, st, 2, web1, worker1)
		if got, want := w.names("blog", "web"), at(second, web1); got != want {
			t.Errorf("after a release: %s, want %s", got, want)
		}
		w.Event(mesh.InstanceEvent{Died: true, Instance: second[0]})
		if got := w.names("blog", string(second[0].Name.Service)); got != "[]" {
			t.Errorf("after a crash: %s", got)
		}
		w.Drop("blog")
		if got := w.names("blog", "worker"); got != "unknown" {
			t.Errorf("of a dropped stack: %s", got)
		}
	})
}

// doors are the links that lead to a stack, as the router has them.
func (w *world) doors(stack mesh.StackName) string {
	r, _ := w.router.Route(stack)
	return fmt.Sprint(r.Doors)
}

// A link is part of the route of the stack that it leads to, in whatever order the two
// change.
func TestLinks_AreInTheRouteOfTheirTarget(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		link := mesh.Link{To: "blog", Service: "worker", As: "jobs"}
		api := mesh.Stack{Name: "api", Revision: 1, Links: []mesh.Link{link}}
		w.Create(api)
		w.Create(mesh.Stack{Name: "blog"})
		if got := w.doors("blog"); got != "[{api jobs worker}]" {
			t.Errorf("created: %s", got)
		}
		w.run(t, mesh.Stack{Name: "blog", Revision: 2}, 1, web1, worker1)
		if r, _ := w.router.Route("blog"); len(r.Targets) != 2 {
			t.Errorf("worker gets no requests: %v", r.Targets)
		}
		api.Revision, api.Links = 3, nil
		w.Update(api)
		if r, _ := w.router.Route("blog"); len(r.Doors) != 0 || len(r.Targets) != 1 {
			t.Errorf("unlinked: %v, %v", r.Doors, r.Targets)
		}
		back := w.Lend("api", link)
		if got := w.doors("blog"); got != "[{api jobs worker}]" || w.names("api", "jobs") != "link" {
			t.Errorf("lent: %s", got)
		}
		// The release that it was lent for is installed before it is given back.
		api.Revision, api.Links = 4, []mesh.Link{link}
		w.run(t, api, 1, web1)
		back()
		if got := w.doors("blog"); got != "[{api jobs worker}]" {
			t.Errorf("given back after it was recorded: %s", got)
		}
		w.Drop("api")
		if got := w.doors("blog"); got != "[]" {
			t.Errorf("dropped: %s", got)
		}
		w.Lend("nosuch", link)()
	})
}
