package store_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
	"mesh/command"
	"mesh/deploy"
	"mesh/receiver"
	"mesh/store"
)

var (
	_ deploy.Store         = (*store.Store)(nil)
	_ command.Stacks       = (*store.Store)(nil)
	_ command.History      = (*store.Store)(nil)
	_ command.KeyList      = (*store.Store)(nil)
	_ command.RegistryList = (*store.Store)(nil)
	_ command.AuditReader  = (*store.Store)(nil)
	_ receiver.Keys        = (*store.Store)(nil)
)

// open opens a store in dir that is checked when the test ends.
func open(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Check(), s.Close()); err != nil {
			t.Errorf("the store is not consistent: %v", err)
		}
	})
	return s
}

// reopen closes s and opens the directory again.
func closed(t testing.TB, dir string, fill func(*store.Store)) {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	fill(s)
	if err := errors.Join(s.Check(), s.Close()); err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func create(t testing.TB, s *store.Store, st mesh.Stack) mesh.Stack {
	t.Helper()
	return must(s.CreateStack(t.Context(), st, nil))(t)
}

var at = time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)

func fullStack() mesh.Stack {
	return mesh.Stack{
		Name: "blog", Created: at, CreatedBy: "laptop",
		Config:    mesh.Config{"A": mesh.NewSecret("one"), "BYTES": mesh.NewSecret("\xff\xfe\n'")},
		Formation: mesh.Formation{"web": 2, "worker": 0},
		Settings: mesh.Settings{
			Branch: "main", Dockerfile: "d/Dockerfile", Health: "/up",
			CheckTimeout: time.Minute, Drain: time.Second, StopTimeout: 3 * time.Second,
		},
		Services: map[mesh.ServiceName]mesh.ServiceSettings{
			"web": {Command: "run me", Memory: 1 << 20, CPUs: 0.5}, "worker": {Config: mesh.Config{"A": mesh.NewSecret("own"), "B": mesh.NewSecret("\xff")}},
		},
		ReleaseCommand: []string{"rake", "db migrate"}, Stopped: true, Subnet: netip.MustParsePrefix("10.1.2.0/26"),
		Domains: []mesh.Host{"a.example", "b.example"}, Maintained: true,
		Alerts:    mesh.AlertRules{Deploy: mesh.RuleOff, Crash: 5, OOM: mesh.RuleOff, Missing: time.Minute, Errors: 0.1, Slow: time.Second, Requests: 9, For: time.Minute, Memory: 0.5, Cert: time.Hour},
		Links:     []mesh.Link{{To: "api", Service: "web", As: "api"}, {To: "api", Service: "worker", As: "jobs"}},
		Endpoints: []mesh.Endpoint{{Host: "a.example", Path: "/api", Service: "api", Strip: true}, {Host: "a.example", Path: "/", Service: "worker"}},
		Ports:     []mesh.TCPPort{{Number: 5432, Service: "db"}, {Number: 65535, Service: "db"}},
		Spared:    []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::1/128")},
	}
}

// plain makes secrets comparable for reflect.DeepEqual.
func plain(c mesh.Config) map[string]string {
	out := map[string]string{}
	for k, v := range c {
		out[k] = v.Reveal()
	}
	return out
}

// sameStack compares the records; a Revision only shows when one was read.
func sameStack(a, b mesh.Stack) bool {
	a.Revision, b.Revision = 0, 0
	ca, cb := plain(a.Config), plain(b.Config)
	a.Config, b.Config = nil, nil
	return maps.Equal(ca, cb) && reflect.DeepEqual(a, b)
}

func sameRelease(a, b mesh.Release) bool {
	ca, cb := plain(a.Config), plain(b.Config)
	a.Config, b.Config = nil, nil
	return maps.Equal(ca, cb) && reflect.DeepEqual(a, b)
}

func TestStack_ComesBackAsItWas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closed(t, dir, func(s *store.Store) { create(t, s, fullStack()) })
	s := open(t, dir)
	got := must(s.Stack(t.Context(), "blog"))(t)
	if !sameStack(got, fullStack()) {
		t.Errorf("got  %+v\nwant %+v", got, fullStack())
	}
	all := must(s.Stacks(t.Context()))(t)
	if len(all) != 1 || !sameStack(all[0], got) {
		t.Errorf("stacks are %+v", all)
	}
	for _, name := range []mesh.StackName{"", "shop", "blo", "blogs"} {
		if _, err := s.Stack(t.Context(), name); !errors.Is(err, mesh.NoStack) {
			t.Errorf("stack %q: %v", name, err)
		}
	}
}

func TestCreateStack_NameTakenOrRefused(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	create(t, s, mesh.Stack{Name: "blog", Domains: []mesh.Host{"a.example"}})
	if _, err := s.CreateStack(t.Context(), mesh.Stack{Name: "blog"}, nil); !errors.Is(err, mesh.Conflict) {
		t.Errorf("a second blog: %v", err)
	}
	refused := errors.New("no")
	_, err := s.CreateStack(t.Context(), mesh.Stack{Name: "shop"}, func(taken []mesh.Stack, _ mesh.Stack) (mesh.Stack, error) {
		if len(taken) != 1 || taken[0].Name != "blog" {
			t.Errorf("taken are %v", taken)
		}
		return mesh.Stack{}, refused
	})
	if !errors.Is(err, refused) {
		t.Errorf("choose's refusal became %v", err)
	}
	if _, err := s.CreateStack(t.Context(), mesh.Stack{Name: "shop", Domains: []mesh.Host{"b.example", "a.example"}}, nil); !errors.Is(err, mesh.Conflict) {
		t.Errorf("a domain that is taken: %v", err)
	}
	if all := must(s.Stacks(t.Context()))(t); len(all) != 1 {
		t.Errorf("a refused stack is there: %v", all)
	}
	// Nothing of the refused stack is left in the index of domains.
	create(t, s, mesh.Stack{Name: "third", Domains: []mesh.Host{"b.example"}})
}

// Of two records the later one has the larger Revision, however it was read.
func TestStack_Revision(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	made := must(s.CreateStack(t.Context(), mesh.Stack{Name: "blog"}, nil))(t)
	read := must(s.Stack(t.Context(), "blog"))(t)
	changed := must(s.UpdateStack(t.Context(), "blog", func(st *mesh.Stack) error { st.Stopped = true; return nil }))(t)
	d := must(s.BeginDeployment(t.Context(), mesh.Deployment{Stack: "blog", Kind: mesh.DeployPush, Status: mesh.StatusRunning}))(t)
	live := must(s.Commit(t.Context(), d, nil, nil))(t)
	last := must(s.Stacks(t.Context()))(t)[0]
	if made.Revision == 0 || read.Revision < made.Revision || changed.Revision <= read.Revision || live.Revision <= changed.Revision || last.Revision < live.Revision {
		t.Errorf("revisions %d, %d, %d, %d, %d", made.Revision, read.Revision, changed.Revision, live.Revision, last.Revision)
	}
}

func TestUpdateStack_KeepsWhatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	create(t, s, fullStack())
	got := must(s.UpdateStack(t.Context(), "blog", func(st *mesh.Stack) error {
		st.Name, st.Current, st.LastNumber = "other", 7, 8
		st.Stopped, st.ReleaseCommand, st.Config = false, nil, mesh.Config{"B": mesh.NewSecret("two")}
		return nil
	}))(t)
	want := fullStack()
	want.Stopped, want.ReleaseCommand, want.Config = false, nil, mesh.Config{"B": mesh.NewSecret("two")}
	if !sameStack(got, want) || !sameStack(must(s.Stack(t.Context(), "blog"))(t), want) {
		t.Errorf("got %+v", got)
	}
	failed := errors.New("no")
	if _, err := s.UpdateStack(t.Context(), "blog", func(st *mesh.Stack) error { st.Stopped = true; return failed }); !errors.Is(err, failed) {
		t.Errorf("fn's error became %v", err)
	}
	if st := must(s.Stack(t.Context(), "blog"))(t); st.Stopped {
		t.Error("a failed update changed the stack")
	}
	if _, err := s.UpdateStack(t.Context(), "shop", func(*mesh.Stack) error { return nil }); !errors.Is(err, mesh.NoStack) {
		t.Errorf("no such stack: %v", err)
	}
}

func TestUpdateStack_Domains(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	create(t, s, mesh.Stack{Name: "blog"})
	create(t, s, mesh.Stack{Name: "shop"})
	set := func(name mesh.StackName, hosts ...mesh.Host) error {
		_, err := s.UpdateStack(t.Context(), name, func(st *mesh.Stack) error { st.Domains = hosts; return nil })
		return err
	}
	if err := set("blog", "a.example", "b.example"); err != nil {
		t.Fatal(err)
	}
	if err := set("shop", "c.example", "b.example"); !errors.Is(err, mesh.Conflict) {
		t.Errorf("a domain of two stacks: %v", err)
	}
	if st := must(s.Stack(t.Context(), "shop"))(t); len(st.Domains) != 0 {
		t.Errorf("half an update: %v", st.Domains)
	}
	if err := errors.Join(set("blog", "a.example"), set("shop", "b.example", "c.example")); err != nil {
		t.Errorf("a domain that was let go: %v", err)
	}
	if err := s.DestroyStack(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if err := set("blog", "a.example", "c.example"); err != nil {
		t.Errorf("a domain of a destroyed stack: %v", err)
	}
}

func TestUpdateStack_FromManyGoroutines(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	create(t, s, mesh.Stack{Name: "blog"})
	const writers, each = 4, 10
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for range each {
				_, err := s.UpdateStack(t.Context(), "blog", func(st *mesh.Stack) error {
					st.Formation = st.Formation.Clone()
					st.Formation["web"]++
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if _, err := s.Stacks(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if st := must(s.Stack(t.Context(), "blog"))(t); st.Formation["web"] != writers*each {
		t.Errorf("%d of %d updates are there", st.Formation["web"], writers*each)
	}
}

func TestContext_EndedDoesNothing(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.CreateStack(ctx, mesh.Stack{Name: "blog"}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("create: %v", err)
	}
	if _, err := s.Stacks(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("stacks: %v", err)
	}
}

func release(n mesh.ReleaseNumber) mesh.Release {
	return mesh.Release{
		Stack: "blog", Number: n, Created: at, By: "laptop", Description: "Deploy", Deployment: mesh.DeploymentNumber(n), Commit: mesh.Commit(strings.Repeat("a", 40)),
		Image:  mesh.Image{ID: fmt.Sprintf("sha256:%d", n), Ref: "mesh/blog:x", Size: 5, Entrypoint: []string{"/e"}, Cmd: []string{"c"}, Shell: true},
		Config: mesh.Config{"N": mesh.NewSecret(n.String())}, Global: mesh.Config{"G": mesh.NewSecret("all"), "N": mesh.NewSecret("")}, Formation: mesh.Formation{"web": int(n), "worker": 0},
		Services: map[mesh.ServiceName]mesh.Service{
			"web":    {Command: "x", From: "Procfile", Memory: 4, CPUs: 0.25, StopTimeout: time.Minute},
			"worker": {Config: mesh.Config{"N": mesh.NewSecret(fmt.Sprint("own-", n))}},
		},
	}
}

// commit records a deployment with a release.
func commit(t testing.TB, s *store.Store, n mesh.ReleaseNumber) mesh.Stack {
	t.Helper()
	d := must(s.BeginDeployment(t.Context(), mesh.Deployment{Stack: "blog", Kind: mesh.DeployPush, Created: at, Status: mesh.StatusRunning}))(t)
	r := release(n)
	return must(s.Commit(t.Context(), d, &r, nil))(t)
}

func TestCommit_RecordsAllAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closed(t, dir, func(s *store.Store) {
		create(t, s, mesh.Stack{Name: "blog"})
		for n := range mesh.ReleaseNumber(3) {
			if st := commit(t, s, n+1); st.Current != n+1 || int(st.LastNumber) != int(n)+1 {
				t.Errorf("after v%d: %+v", n+1, st)
			}
		}
	})
	s := open(t, dir)
	for n := range mesh.ReleaseNumber(3) {
		if r := must(s.Release(t.Context(), "blog", n+1))(t); !sameRelease(r, release(n+1)) {
			t.Errorf("got  %+v\nwant %+v", r, release(n+1))
		}
	}
	if rs := must(s.Releases(t.Context(), "blog", 2))(t); len(rs) != 2 || rs[0].Number != 3 || rs[1].Number != 2 {
		t.Errorf("the newest two are %v", rs)
	}
	if rs := must(s.Releases(t.Context(), "blog", 0))(t); len(rs) != 3 {
		t.Errorf("all are %v", rs)
	}
	ds := must(s.Deployments(t.Context(), "blog", 0))(t)
	if len(ds) != 3 || ds[0].Number != 3 || ds[0].Status != mesh.StatusLive || ds[0].Release != 3 {
		t.Errorf("deployments are %+v", ds)
	}
	for _, n := range []mesh.ReleaseNumber{0, 4, -1} {
		if _, err := s.Release(t.Context(), "blog", n); !errors.Is(err, mesh.NotFound) {
			t.Errorf("release %d: %v", n, err)
		}
	}
	if _, err := s.Releases(t.Context(), "shop", 0); !errors.Is(err, mesh.NoStack) {
		t.Errorf("releases of no stack: %v", err)
	}
}

func TestCommit_WhollyOrNotAtAll(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	create(t, s, mesh.Stack{Name: "shop", Domains: []mesh.Host{"taken.example"}})
	create(t, s, mesh.Stack{Name: "blog"})
	commit(t, s, 1)
	before := must(s.Stack(t.Context(), "blog"))(t)
	d := must(s.BeginDeployment(t.Context(), mesh.Deployment{Stack: "blog", Status: mesh.StatusRunning}))(t)
	before.LastNumber = d.Number
	same := func(what string, status mesh.DeploymentStatus) {
		t.Helper()
		if st := must(s.Stack(t.Context(), "blog"))(t); !sameStack(st, before) {
			t.Errorf("%s changed the stack: %+v", what, st)
		}
		if rs := must(s.Releases(t.Context(), "blog", 0))(t); len(rs) != 1 || !sameRelease(rs[0], release(1)) {
			t.Errorf("%s changed the releases: %+v", what, rs)
		}
		if got := must(s.Deployment(t.Context(), "blog", d.Number))(t); got.Status != status || got.Release != 0 {
			t.Errorf("%s changed the deployment: %+v", what, got)
		}
	}
	failed := errors.New("no")
	r2, r3, r1 := release(2), release(3), release(1)
	for what, try := range map[string]func() error{
		"a change that fails": func() error {
			_, err := s.Commit(t.Context(), d, &r2, func(st *mesh.Stack) error { st.Stopped = true; return failed })
			return err
		},
		"a gap in the numbers":    func() error { _, err := s.Commit(t.Context(), d, &r3, nil); return err },
		"a number that was given": func() error { _, err := s.Commit(t.Context(), d, &r1, nil); return err },
		"a domain that is taken": func() error {
			_, err := s.Commit(t.Context(), d, &r2, func(st *mesh.Stack) error { st.Domains = []mesh.Host{"taken.example"}; return nil })
			return err
		},
		"a deployment that is not there": func() error {
			_, err := s.Commit(t.Context(), mesh.Deployment{Stack: "blog", Number: 99}, &r2, nil)
			return err
		},
		"a stack that is not there": func() error {
			_, err := s.Commit(t.Context(), mesh.Deployment{Stack: "gone", Number: 1}, &r2, nil)
			return err
		},
	} {
		if err := try(); err == nil {
			t.Errorf("%s was recorded", what)
		}
		same(what, mesh.StatusRunning)
	}
	// A deployment that was recorded as failed does not come back to life.
	d.Status, d.Reason = mesh.StatusFailed, "cancelled"
	if err := s.UpdateDeployment(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), d, &r2, nil); !errors.Is(err, mesh.Conflict) {
		t.Errorf("a final deployment became live: %v", err)
	}
	same("a final deployment", mesh.StatusFailed)
}

func TestCommit_WithoutARelease(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	create(t, s, mesh.Stack{Name: "blog"})
	commit(t, s, 1)
	d := must(s.BeginDeployment(t.Context(), mesh.Deployment{Stack: "blog", Kind: mesh.DeployStop, Status: mesh.StatusRunning}))(t)
	st := must(s.Commit(t.Context(), d, nil, func(st *mesh.Stack) error { st.Stopped = true; return nil }))(t)
	if !st.Stopped || st.Current != 1 || len(must(s.Releases(t.Context(), "blog", 0))(t)) != 1 {
		t.Errorf("got %+v", st)
	}
	if got := must(s.Deployment(t.Context(), "blog", d.Number))(t); got.Status != mesh.StatusLive || got.Release != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestDeployment(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	create(t, s, mesh.Stack{Name: "blog"})
	d := mesh.Deployment{
		Stack: "blog", Kind: mesh.DeployConfig, By: "ci", Commit: mesh.Commit(strings.Repeat("b", 40)), Subject: "Set A", Created: at, Status: mesh.StatusWaiting,
	}
	begun := must(s.BeginDeployment(t.Context(), d))(t)
	if d.Number = 1; !reflect.DeepEqual(begun, d) || !reflect.DeepEqual(must(s.Deployment(t.Context(), "blog", 1))(t), d) {
		t.Errorf("got %+v", begun)
	}
	d.Status, d.Reason, d.Ended = mesh.StatusCancelled, "by hand", at.Add(time.Second)
	if err := s.UpdateDeployment(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if got := must(s.Deployment(t.Context(), "blog", 1))(t); !reflect.DeepEqual(got, d) {
		t.Errorf("got %+v", got)
	}
	if err := s.UpdateDeployment(t.Context(), d); !errors.Is(err, mesh.Conflict) {
		t.Errorf("a final deployment was changed: %v", err)
	}
	d.Number = 2
	if err := s.UpdateDeployment(t.Context(), d); !errors.Is(err, mesh.NotFound) {
		t.Errorf("a deployment that was not begun: %v", err)
	}
	if _, err := s.Deployment(t.Context(), "blog", 2); !errors.Is(err, mesh.NotFound) {
		t.Errorf("a deployment that was not begun: %v", err)
	}
	if d.Stack = "gone"; !errors.Is(s.UpdateDeployment(t.Context(), d), mesh.NoStack) {
		t.Error("a deployment of no stack was recorded")
	}
	if _, err := s.BeginDeployment(t.Context(), d); !errors.Is(err, mesh.NoStack) {
		t.Errorf("a deployment of no stack was begun: %v", err)
	}
	for range 11 { // numbers sort as numbers
		must(s.BeginDeployment(t.Context(), mesh.Deployment{Stack: "blog"}))(t)
	}
	if ds := must(s.Deployments(t.Context(), "blog", 1))(t); ds[0].Number != 12 {
		t.Errorf("the newest is %s", ds[0].Number)
	}
}

func TestDestroyStack_LeavesNothing(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	create(t, s, fullStack())
	commit(t, s, 1)
	w := must(s.Output("blog", 1))(t)
	if _, err := io.WriteString(w, "line\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.DestroyStack(t.Context(), "blog"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stack(t.Context(), "blog"); !errors.Is(err, mesh.NoStack) {
		t.Errorf("the stack is there: %v", err)
	}
	if err := s.DestroyStack(t.Context(), "blog"); !errors.Is(err, mesh.NoStack) {
		t.Errorf("destroyed twice: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(s.Dir(), "logs", "[^.]*")); err != nil || len(left) != 0 {
		t.Errorf("output is left: %v, %v", left, err)
	}
	// A stack of the same name starts empty.
	st := create(t, s, mesh.Stack{Name: "blog", Domains: []mesh.Host{"a.example"}})
	if rs := must(s.Releases(t.Context(), "blog", 0))(t); st.Current != 0 || len(rs) != 0 {
		t.Errorf("the new stack has %v", rs)
	}
	if d := must(s.BeginDeployment(t.Context(), mesh.Deployment{Stack: "blog"}))(t); d.Number != 1 {
		t.Errorf("its first deployment is %s", d.Number)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := mesh.Key{Name: "laptop", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}, Public: "ssh-ed25519 AAAA", Fingerprint: "SHA256:a", Added: at, AddedBy: "local"}
	closed(t, dir, func(s *store.Store) {
		if err := s.AddKey(t.Context(), k); err != nil {
			t.Error(err)
		}
	})
	s := open(t, dir)
	if keys := must(s.Keys(t.Context()))(t); len(keys) != 1 || !reflect.DeepEqual(keys[0], k) {
		t.Errorf("got %+v", keys)
	}
	if err := s.AddKey(t.Context(), mesh.Key{Name: "laptop", Fingerprint: "SHA256:b"}); !errors.Is(err, mesh.Conflict) {
		t.Errorf("a name twice: %v", err)
	}
	if err := s.AddKey(t.Context(), mesh.Key{Name: "ci", Fingerprint: "SHA256:a"}); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "laptop") {
		t.Errorf("a key twice: %v", err)
	}
	if err := s.AddKey(t.Context(), mesh.Key{Name: "ci", Fingerprint: "SHA256:b"}); err != nil {
		t.Error(err)
	}
	if err := s.RemoveKey(t.Context(), "laptop"); err != nil {
		t.Error(err)
	}
	if err := s.RemoveKey(t.Context(), "laptop"); !errors.Is(err, mesh.NotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if keys := must(s.Keys(t.Context()))(t); len(keys) != 1 || keys[0].Name != "ci" {
		t.Errorf("got %+v", keys)
	}
}

func TestOutput(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	read := func(n mesh.DeploymentNumber) string {
		r := must(s.ReadOutput("blog", n))(t)
		defer func() { _ = r.Close() }()
		return string(must(io.ReadAll(r))(t))
	}
	if got := read(1); got != "" {
		t.Errorf("no output is %q", got)
	}
	for _, line := range []string{"one\n", "two\n"} {
		w := must(s.Output("blog", 1))(t)
		must(io.WriteString(w, line))(t)
		if got := read(1); !strings.HasSuffix(got, line) {
			t.Errorf("%q cannot be read at once: %q", line, got)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	// A number is used once; anything there belonged to an earlier stack of that
	// name.
	if got := read(1); got != "two\n" || read(2) != "" {
		t.Errorf("got %q", got)
	}
	info, err := os.Stat(filepath.Join(s.Dir(), "logs", "blog", "deployment-1.log"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestOpen_SecondServerIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir)
	began := time.Now()
	_, err := store.Open(dir)
	if !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "another mesh server") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("that took %s", took)
	}
}

func TestOpen_ServerIdentityStays(t *testing.T) {
	t.Parallel()
	a, b := t.TempDir(), t.TempDir()
	var first string
	closed(t, a, func(s *store.Store) { first = s.Server() })
	if s := open(t, a); s.Server() != first || len(first) != 16 || s.Dir() != a {
		t.Errorf("%q became %q", first, s.Server())
	}
	if s := open(t, b); s.Server() == first {
		t.Error("two servers are the same")
	}
	for _, name := range []string{"mesh.db", "secret.key"} {
		if info, err := os.Stat(filepath.Join(a, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestOpen_LaterFormatIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closed(t, dir, func(s *store.Store) { create(t, s, fullStack()) })
	path := filepath.Join(dir, "mesh.db")
	db := must(bbolt.Open(path, 0o600, nil))(t)
	err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("version"), binary.BigEndian.AppendUint64(nil, 2))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	before := must(os.ReadFile(path))(t)
	_, err = store.Open(dir)
	if !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "later mesh") {
		t.Errorf("got %v", err)
	}
	if after := must(os.ReadFile(path))(t); string(after) != string(before) {
		t.Error("the file was changed")
	}
}

// fill makes a file of some pages.
func fill(t *testing.T, dir string) {
	closed(t, dir, func(s *store.Store) {
		create(t, s, fullStack())
		for n := range mesh.ReleaseNumber(20) {
			commit(t, s, n+1)
		}
	})
}

func TestOpen_DamagedFileIsToldNotDied(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir)
	path := filepath.Join(dir, "mesh.db")
	whole := must(os.ReadFile(path))(t)
	page := os.Getpagesize()
	broken := map[string][]byte{
		"no database":   []byte(strings.Repeat("not a database\n", 2000)),
		"a few bytes":   []byte("x"),
		"zeros":         make([]byte, len(whole)),
		"no meta pages": append(make([]byte, 2*page), whole[2*page:]...),
	}
	for n := 1; n*page < len(whole) && n < 24; n++ {
		broken[fmt.Sprintf("cut to %d pages", n)] = whole[:n*page]
	}
	for _, fillWith := range []byte{0, 0xff, 0x5a} {
		for n := 2; n*page < len(whole) && n < 24; n++ {
			b := append([]byte(nil), whole...)
			for i := range page {
				b[n*page+i] = fillWith
			}
			broken[fmt.Sprintf("page %d full of %#x", n, fillWith)] = b
		}
	}
	for what, data := range broken {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(dir)
		if err == nil { // the page was free, or beyond what is used
			if err := s.Check(); err != nil {
				t.Errorf("%s: opened, and damaged: %v", what, err)
			}
			if st, err := s.Stack(t.Context(), "blog"); err != nil || st.Current != 20 {
				t.Errorf("%s: opened, and reads %v, %v", what, st.Current, err)
			}
			_ = s.Close()
			continue
		}
		if !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "mesh.db") {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Nothing holds the file after a refusal: a backup can replace it.
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if st := must(open(t, dir).Stack(t.Context(), "blog"))(t); st.Current != 20 {
		t.Errorf("the backup reads %v", st.Current)
	}
}

func TestOpen_SecretKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir)
	path := filepath.Join(dir, "secret.key")
	key := must(os.ReadFile(path))(t)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(dir); !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "secret.key is missing") {
		t.Errorf("without a key: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("another key was made beside sealed vars")
	}
	for _, bad := range []string{"", "xyz", strings.Repeat("0", 62), strings.Repeat("0", 66), strings.Repeat("g", 64)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(dir); !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("with the key %q: %v", bad, err)
		}
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("0", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(dir); !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "is not the key") {
		t.Errorf("with another key: %v", err)
	}
	if err := os.WriteFile(path, key, 0o600); err != nil {
		t.Fatal(err)
	}
	if st := must(open(t, dir).Stack(t.Context(), "blog"))(t); st.Config["A"].Reveal() != "one" {
		t.Error("the right key does not read")
	}
}

// A server that is killed between creating the database and creating the key starts.
func TestOpen_KilledBeforeTheKeyWasMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := must(bbolt.Open(filepath.Join(dir, "mesh.db"), 0o600, nil))(t)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	create(t, open(t, dir), fullStack())
}

func TestConfig_IsSealed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const hush = "correct-horse-battery"
	var blobs int
	closed(t, dir, func(s *store.Store) {
		st := fullStack()
		st.Config = mesh.Config{"VERY_SPECIAL_NAME": mesh.NewSecret(hush)}
		st.Services = map[mesh.ServiceName]mesh.ServiceSettings{"worker": {Config: st.Config}}
		create(t, s, st)
		for n := range mesh.ReleaseNumber(3) {
			d := must(s.BeginDeployment(t.Context(), mesh.Deployment{Stack: "blog", Status: mesh.StatusRunning}))(t)
			r := release(n + 1)
			r.Config, r.Global = st.Config, st.Config
			r.Services = map[mesh.ServiceName]mesh.Service{"worker": {Config: st.Config}}
			must(s.Commit(t.Context(), d, &r, nil))(t)
		}
	})
	data := string(must(os.ReadFile(filepath.Join(dir, "mesh.db")))(t))
	for _, s := range []string{hush, "VERY_SPECIAL_NAME", "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"} {
		if strings.Contains(data, s) {
			t.Errorf("%q stands in the file", s)
		}
	}
	db := must(bbolt.Open(filepath.Join(dir, "mesh.db"), 0o600, nil))(t)
	err := db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("stacks")).Bucket([]byte("blog")).Bucket([]byte("configs")).ForEach(func(_, _ []byte) error {
			blobs++
			return nil
		})
	})
	if err := errors.Join(err, db.Close()); err != nil || blobs != 1 {
		t.Errorf("one config of four records is stored %d times, %v", blobs, err)
	}
}

func TestRegistries_AreSealed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := mesh.Registry{Host: "ghcr.io", User: "robot", Password: mesh.NewSecret("planted-91c2"), Added: time.Unix(1e9, 0).UTC(), AddedBy: "laptop"}
	other := mesh.Registry{Host: "docker.io", User: "me", Password: mesh.NewSecret("x"), Added: r.Added}
	first := r
	first.User = "old"
	for _, x := range []mesh.Registry{first, r, other} {
		if err := s.PutRegistry(t.Context(), x); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "mesh.db"))
	if err != nil || bytes.Contains(data, []byte("planted")) {
		t.Errorf("the password can be read in the file: %v", err)
	}
	if s, err = store.Open(dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all, err := s.Registries(t.Context())
	if err != nil || len(all) != 2 || all[0].Host != "docker.io" || all[1].User != "robot" || !all[1].Password.Equal(r.Password) || all[1].AddedBy != "laptop" || !all[1].Added.Equal(r.Added) {
		t.Errorf("got %+v, %v", all, err)
	}
	if err := s.RemoveRegistry(t.Context(), "ghcr.io"); err != nil {
		t.Error(err)
	}
	if err := s.RemoveRegistry(t.Context(), "ghcr.io"); !errors.Is(err, mesh.NotFound) {
		t.Errorf("got %v", err)
	}
}
