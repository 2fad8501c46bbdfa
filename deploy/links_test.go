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

// linkedWorld has blog, which runs, and api, which runs web and worker.
func linkedWorld(t *testing.T, w *deploytest.World) (*deploy.Deployer, func()) {
	t.Helper()
	d, stop := w.Start()
	mustPush(t, w, d, twoServices)
	if err := d.Push(t.Context(), w.Commit("api", twoServices), io.Discard); err != nil {
		t.Fatal(err)
	}
	return d, stop
}

// doors are the links that lead to a stack, as the router has them.
func doors(w *deploytest.World, stack mesh.StackName) string {
	r, _ := w.Router.Route(stack)
	return fmt.Sprint(r.Doors)
}

func current(t *testing.T, w *deploytest.World, name mesh.StackName) (mesh.Stack, mesh.Release) {
	t.Helper()
	st, err := w.Store.Stack(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.Store.Release(t.Context(), name, st.Current)
	if err != nil {
		t.Fatal(err)
	}
	return st, r
}

// A link is a release, with a config var. The new instances can use it from their start,
// and a rename of either stack takes it along.
func TestLink(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := linkedWorld(t, w)
		var mu sync.Mutex
		atCheck := ""
		w.Runner.CheckFunc = func(context.Context, mesh.Instance) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			atCheck = doors(w, "blog")
			return "GET / 200", nil
		}
		if err := d.Link(t.Context(), "api", "ci", mesh.NewLink("blog", "web"), io.Discard); err != nil {
			t.Fatal(err)
		}
		w.Runner.CheckFunc = nil
		if atCheck != "[{api blog web}]" {
			t.Errorf("while the new instances were checked, the links were %s", atCheck)
		}
		st, r := current(t, w, "api")
		if len(st.Links) != 1 || r.Number != 2 || r.Description != "Link blog" || r.Config["BLOG_URL"].Reveal() != "http://blog:8080" || st.Config["BLOG_URL"].Reveal() != "http://blog:8080" {
			t.Errorf("%+v, %+v", st.Links, r)
		}
		if got, known := d.Resolve("api", "blog"); !known || !got.Link || doors(w, "blog") != "[{api blog web}]" {
			t.Errorf("%v, %s", got, doors(w, "blog"))
		}
		l := mesh.NewLink("blog", "api")
		l.As = "other"
		if err := d.Link(t.Context(), "api", "ci", l, io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := d.RenameStack(t.Context(), "blog", "journal", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := d.RenameStack(t.Context(), "api", "front", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		const want = "[{front blog web} {front other api}]"
		if got := doors(w, "journal"); got != want {
			t.Errorf("renamed: %s", got)
		}
		stop()
		d, _ = w.Start()
		pass(time.Minute)
		if got := doors(w, "journal"); got != want {
			t.Errorf("restarted: %s", got)
		}
		if err := d.DestroyStack(t.Context(), "journal", "ci"); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "another stack is linked to journal") {
			t.Errorf("destroyed: %v", err)
		}
		if err := d.Clone(t.Context(), "front", "copy", "ci", false, io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := d.Clone(t.Context(), "front", "bare", "ci", true, io.Discard); err != nil {
			t.Fatal(err)
		}
		if got := doors(w, "journal"); got != "[{copy blog web} {copy other api} {front blog web} {front other api}]" {
			t.Errorf("cloned: %s", got)
		}
		if err := d.DestroyStack(t.Context(), "copy", "ci"); err != nil {
			t.Fatal(err)
		}
		gone, err := d.Unlink(t.Context(), "front", "ci", "journal", "web", io.Discard)
		if st, r := current(t, w, "front"); err != nil || len(gone) != 1 || len(st.Links) != 1 || r.Config["BLOG_URL"] != (mesh.Secret{}) || r.Config["OTHER_URL"].Reveal() != "http://other:8080" {
			t.Errorf("%v, %v, %+v, %v", gone, err, st.Links, r.Config)
		}
		// A var that somebody has changed is theirs.
		if _, err := d.SetConfig(t.Context(), "front", "ci", mesh.ConfigChange{Set: mesh.Config{"OTHER_URL": mesh.NewSecret("mine")}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if _, err = d.Unlink(t.Context(), "front", "ci", "journal", "api", io.Discard); err != nil {
			t.Fatal(err)
		}
		if st, _ := current(t, w, "front"); st.Config["OTHER_URL"].Reveal() != "mine" || doors(w, "journal") != "[]" {
			t.Errorf("%v, %s", st.Config, doors(w, "journal"))
		}
		if err := d.DestroyStack(t.Context(), "journal", "ci"); err != nil {
			t.Errorf("not linked any more: %v", err)
		}
		soundStack(t, w, "front")
	})
}

func TestLink_UnhealthyReleaseChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := linkedWorld(t, w)
		w.Runner.CheckFunc = func(_ context.Context, in mesh.Instance) (string, error) {
			return "", failed(mesh.Failed, in.Name.String()+" does not answer")
		}
		if err := d.Link(t.Context(), "api", "ci", mesh.NewLink("blog", "web"), io.Discard); err == nil {
			t.Error("it succeeded")
		}
		pass(time.Minute)
		st, r := current(t, w, "api")
		if _, had := st.Config["BLOG_URL"]; had || len(st.Links) != 0 || r.Number != 1 || doors(w, "blog") != "[]" {
			t.Errorf("%+v, %+v, %s", st, r, doors(w, "blog"))
		}
		if _, known := d.Resolve("api", "blog"); known {
			t.Error("the name is known")
		}
		soundStack(t, w, "api")
	})
}

func TestLink_Refusals(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := linkedWorld(t, w)
		if _, err := d.SetConfig(t.Context(), "api", "ci", mesh.ConfigChange{Set: mesh.Config{"MINE_URL": mesh.NewSecret("https://elsewhere.example")}, RecordOnly: true}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := d.Link(t.Context(), "api", "ci", mesh.NewLink("blog", "web"), io.Discard); err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			link mesh.Link
			want error
			text string
		}{
			{mesh.Link{To: "nosuch", Service: "web", As: "x"}, mesh.NoStack, "nosuch"},
			{mesh.Link{To: "api", Service: "worker", As: "x"}, mesh.Invalid, "cannot be linked to itself"},
			{mesh.Link{To: "blog", Service: "nosuch", As: "x"}, mesh.NotFound, `no service "nosuch"`},
			{mesh.Link{To: "blog", Service: "web", As: "blog"}, mesh.Conflict, "already linked to blog"},
			{mesh.Link{To: "blog", Service: "worker", As: "blog"}, mesh.Conflict, "already has a link named blog, to blog"},
			{mesh.Link{To: "blog", Service: "web", As: "worker"}, mesh.Conflict, "worker is the name of a service of api"},
			{mesh.Link{To: "blog", Service: "web", As: "api-worker"}, mesh.Conflict, "api-worker is the name of a service of api"},
			{mesh.Link{To: "blog", Service: "web", As: "api"}, mesh.Conflict, "api is the name of"},
			{mesh.Link{To: "blog", Service: "web", As: "mine"}, mesh.Conflict, "already has a config var MINE_URL"},
			{mesh.Link{To: "blog", Service: "web", As: "a.b"}, mesh.Invalid, `"a.b" is not a name for a link`},
			{mesh.Link{To: "blog", Service: "web", As: strings.Repeat("a", 64)}, mesh.Invalid, "is not a name for a link"},
		} {
			if err := d.Link(t.Context(), "api", "ci", tc.link, io.Discard); !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%+v: %v", tc.link, err)
			}
		}
		if _, err := d.Unlink(t.Context(), "api", "ci", "blog", "worker", io.Discard); !errors.Is(err, mesh.NotFound) || !strings.Contains(err.Error(), "api is not linked to blog/worker") {
			t.Errorf("unlinked: %v", err)
		}
		if st, r := current(t, w, "api"); len(st.Links) != 1 || r.Number != 2 {
			t.Errorf("%+v, %s", st.Links, r.Number)
		}
	})
}

// A stack that was never deployed gets its links with its first release; the other one may
// come later.
func TestLink_BeforeTheFirstRelease(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		for _, name := range []mesh.StackName{"api", "blog"} {
			if _, err := d.CreateStack(t.Context(), name, "ci"); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Link(t.Context(), "blog", "ci", mesh.NewLink("api", "worker"), io.Discard); err != nil {
			t.Fatal(err)
		}
		if r, _ := w.Router.Route("api"); r.Idle["worker"] != mesh.NotDeployed || len(r.Doors) != 1 {
			t.Errorf("%+v", r)
		}
		mustPush(t, w, d, twoServices)
		if st, r := current(t, w, "blog"); r.Config["API_WORKER_URL"].Reveal() != "http://api-worker:8080" || st.Links[0].As != "api-worker" {
			t.Errorf("%+v, %+v", st, r)
		}
		if gone, err := d.Unlink(t.Context(), "blog", "ci", "api", "worker", io.Discard); err != nil || len(gone) != 1 {
			t.Errorf("%v, %v", gone, err)
		}
	})
}
