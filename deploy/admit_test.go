package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"mesh"
	"mesh/deploy/deploytest"
)

func TestAdmitPush(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		free := uint64(1 << 40)
		w.Options.DiskFree = func() (uint64, error) { return free, nil }
		d, _ := w.Start()
		mustPush(t, w, d, app)
		blog := []mesh.StackName{"blog"}
		for name, tc := range map[string]struct {
			key   mesh.Key
			stack mesh.StackName
			want  error
		}{
			"deploy":                   {mesh.Key{Role: mesh.RoleDeploy}, "blog", nil},
			"deploy, a new stack":      {mesh.Key{Role: mesh.RoleDeploy}, "shop", nil},
			"limited":                  {mesh.Key{Role: mesh.RoleDeploy, Stacks: blog}, "blog", nil},
			"limited, a new stack":     {mesh.Key{Role: mesh.RoleDeploy, Stacks: blog}, "shop", mesh.NoStack},
			"limited to another stack": {mesh.Key{Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"shop"}}, "blog", mesh.NoStack},
			"read":                     {mesh.Key{Role: mesh.RoleRead}, "blog", mesh.Denied},
			"read, a new stack":        {mesh.Key{Role: mesh.RoleRead}, "shop", mesh.NoStack},
		} {
			if err := d.AdmitPush(t.Context(), tc.key, tc.stack); !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
				t.Errorf("%s: %v, want %v", name, err, tc.want)
			}
		}
		free = 1 << 20
		if err := d.AdmitPush(t.Context(), mesh.Key{Role: mesh.RoleAdmin}, "blog"); !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "disk is full") {
			t.Errorf("a full disk: %v", err)
		}
	})
}

func TestAdmitRef(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		key := mesh.Key{Role: mesh.RoleDeploy}
		c := mesh.Commit(strings.Repeat("a", 40))
		for name, tc := range map[string]struct {
			stack mesh.StackName
			ref   mesh.RefUpdate
			want  error
			says  string
		}{
			"the deploy branch":           {"blog", mesh.RefUpdate{Ref: "refs/heads/main", New: c}, nil, ""},
			"any branch of a new stack":   {"shop", mesh.RefUpdate{Ref: "refs/heads/trunk", New: c}, nil, ""},
			"a tag":                       {"blog", mesh.RefUpdate{Ref: "refs/tags/v1", New: c}, nil, ""},
			"a tag that goes":             {"blog", mesh.RefUpdate{Ref: "refs/tags/v1", Old: c}, nil, ""},
			"another branch":              {"blog", mesh.RefUpdate{Ref: "refs/heads/feat", New: c}, mesh.Denied, "blog deploys main only: git push mesh feat:main"},
			"the deploy branch goes":      {"blog", mesh.RefUpdate{Ref: "refs/heads/main", Old: c}, mesh.Denied, "cannot be deleted"},
			"another branch goes":         {"blog", mesh.RefUpdate{Ref: "refs/heads/feat", Old: c}, mesh.NotFound, "no branch feat"},
			"notes":                       {"blog", mesh.RefUpdate{Ref: "refs/notes/x", New: c}, mesh.Invalid, "only branches and tags"},
			"what mesh keeps for itself":  {"blog", mesh.RefUpdate{Ref: "refs/mesh/kept/x", New: c}, mesh.Invalid, "only branches and tags"},
			"a branch without a name":     {"blog", mesh.RefUpdate{Ref: "refs/heads/", New: c}, mesh.Invalid, "only branches and tags"},
			"a branch of a new one, gone": {"shop", mesh.RefUpdate{Ref: "refs/heads/x"}, mesh.Denied, "cannot be deleted"},
		} {
			err := d.AdmitRef(t.Context(), key, tc.stack, tc.ref)
			if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: %v, want %v %q", name, err, tc.want, tc.says)
			}
		}
		if err := d.AdmitRef(t.Context(), mesh.Key{Role: mesh.RoleRead}, "blog", mesh.RefUpdate{Ref: "refs/tags/v1", New: c}); !errors.Is(err, mesh.Denied) {
			t.Errorf("a reader's tag: %v", err)
		}
	})
}

// admin is a key with the role admin.
var admin = mesh.Key{Name: "admin", Role: mesh.RoleAdmin}

// Hosts at or below the base domain belong to the server, except those below a stack's
// own name; and nobody takes a host out of another stack's wildcard.
func TestDomains_BelowTheBaseDomain(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		if _, err := d.CreateStack(t.Context(), "shop", "ci"); err != nil {
			t.Fatal(err)
		}
		if err := d.AddDomain(t.Context(), "shop", "*.shop.example", "", admin); err != nil {
			t.Fatal(err)
		}
		limited := mesh.Key{Name: "lim", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}}
		limitedAdmin := mesh.Key{Name: "lima", Role: mesh.RoleAdmin, Stacks: []mesh.StackName{"blog"}}
		deployer := mesh.Key{Name: "dep", Role: mesh.RoleDeploy}
		for host, want := range map[mesh.Host]map[string]error{
			"localhost":             {"lim": mesh.Denied, "lima": mesh.Denied, "dep": mesh.Denied, "admin": nil},
			"*.localhost":           {"lim": mesh.Denied, "lima": mesh.Denied, "dep": mesh.Denied, "admin": nil},
			"later.localhost":       {"lim": mesh.Denied, "lima": mesh.Denied, "dep": mesh.Denied, "admin": nil},
			"a.later.localhost":     {"lim": mesh.Denied, "lima": mesh.Denied, "dep": mesh.Denied, "admin": nil},
			"*.shop.localhost":      {"lim": mesh.Denied, "lima": mesh.Denied, "dep": mesh.Denied, "admin": nil},
			"mesh.localhost":        {"lim": mesh.Denied, "lima": mesh.Denied, "dep": mesh.Denied, "admin": mesh.Denied},
			"a.mesh.localhost":      {"lim": mesh.Denied, "lima": mesh.Denied, "dep": mesh.Denied, "admin": mesh.Denied},
			"a.blog.localhost":      {"lim": nil, "lima": nil, "dep": nil, "admin": nil},
			"*.blog.localhost":      {"lim": nil, "lima": nil, "dep": nil, "admin": nil},
			"shop.localhost":        {"lim": mesh.Denied, "lima": mesh.Denied, "dep": mesh.Conflict, "admin": mesh.Conflict},
			"notlocalhost":          {"lim": nil, "lima": nil, "dep": nil, "admin": nil},
			"www.example.com":       {"lim": nil, "lima": nil, "dep": nil, "admin": nil},
			"www.shop.example":      {"lim": mesh.Conflict, "lima": mesh.Conflict, "dep": nil, "admin": nil},
			"a.b.shop.example":      {"lim": mesh.Conflict, "lima": mesh.Conflict, "dep": nil, "admin": nil},
			"*.deeper.shop.example": {"lim": mesh.Conflict, "lima": mesh.Conflict, "dep": nil, "admin": nil},
		} {
			for _, key := range []mesh.Key{limited, limitedAdmin, deployer, admin} {
				err := d.AddDomain(t.Context(), "blog", host, "", key)
				if want := want[string(key.Name)]; !errors.Is(err, want) || (err == nil) != (want == nil) {
					t.Errorf("%s adds %s: %v, want %v", key.Name, host, err, want)
				}
				if err == nil {
					if err := d.RemoveDomain(t.Context(), "blog", host); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		sound(t, w)
	})
}

// A wildcard above the base domain would cover the base domain.
func TestDomains_AboveTheBaseDomain(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		w.Options.Domain = "apps.example.com"
		d, _ := w.Start()
		mustPush(t, w, d, app)
		limited := mesh.Key{Name: "lim", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}}
		for host, want := range map[mesh.Host]error{"*.example.com": mesh.Denied, "*.com": mesh.Denied, "example.com": nil, "www.example.com": nil, "*.other.com": nil} {
			if err := d.AddDomain(t.Context(), "blog", host, "", limited); !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Errorf("%s: %v, want %v", host, err, want)
			}
		}
		if err := d.AddDomain(t.Context(), "blog", "*.example.com", "", admin); err != nil {
			t.Error(err)
		}
	})
}

func TestDomains(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		if _, err := d.CreateStack(t.Context(), "shop", "ci"); err != nil {
			t.Fatal(err)
		}
		hosts := func() string {
			r, _ := w.Router.Route("blog")
			var out []string
			for _, h := range r.Hosts {
				out = append(out, string(h))
			}
			return strings.Join(out, " ")
		}
		add := func(stack mesh.StackName, h mesh.Host, want error) {
			t.Helper()
			if err := d.AddDomain(t.Context(), stack, h, "", admin); !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Errorf("%s to %s: %v, want %v", h, stack, err, want)
			}
		}
		add("blog", "b.example", nil)
		add("blog", "a.example", nil)
		add("blog", "a.example", mesh.Conflict)
		add("shop", "a.example", mesh.Conflict)
		add("blog", "shop.localhost", mesh.Conflict)
		add("gone", "c.example", mesh.NoStack)
		if got := hosts(); got != "blog.localhost a.example b.example" || w.Router.Targets("blog") != "c1" {
			t.Errorf("hosts are %q", got)
		}
		for h, want := range map[mesh.Host]error{"blog.localhost": mesh.Conflict, "c.example": mesh.NotFound} {
			if err := d.RemoveDomain(t.Context(), "blog", h); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", h, err, want)
			}
		}
		if err := d.RemoveDomain(t.Context(), "blog", "a.example"); err != nil || hosts() != "blog.localhost b.example" {
			t.Errorf("%v, hosts are %q", err, hosts())
		}
		add("shop", "new.localhost", nil)
		if _, err := d.CreateStack(t.Context(), "new", "ci"); !errors.Is(err, mesh.Conflict) {
			t.Errorf("a stack whose own name is a domain of another: %v", err)
		}
		mustPush(t, w, d, app) // a rollout keeps the domains
		if got := hosts(); got != "blog.localhost b.example" {
			t.Errorf("hosts are %q", got)
		}
		sound(t, w)
	})
}

func TestTagImage(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		c := release(t, w, 1).Commit
		if line := strings.Join(d.TagImages(t.Context(), "blog", []mesh.Tag{{Name: "v1.0", Commit: c}}), "\n"); !strings.Contains(line, "mesh/blog:v1.0") || w.Builder.Tagged("mesh/blog:v1.0") != release(t, w, 1).Image.ID {
			t.Errorf("said %q", line)
		}
		for tag, says := range map[string]string{"latest": "is not a valid image name", "a/b": "is not a valid image name", "-x": "is not a valid image name", strings.Repeat("a", 129): "is not a valid image name"} {
			if line := strings.Join(d.TagImages(t.Context(), "blog", []mesh.Tag{{Name: tag, Commit: c}}), "\n"); !strings.Contains(line, says) {
				t.Errorf("%s: %q", tag, line)
			}
		}
		if line := strings.Join(d.TagImages(t.Context(), "blog", []mesh.Tag{{Name: "v2.0", Commit: mesh.Commit(strings.Repeat("b", 40))}}), "\n"); !strings.Contains(line, "has not been deployed. Deploy it with: git push -f mesh bbbbbbb:refs/heads/main") {
			t.Errorf("said %q", line)
		}
	})
}

func TestRunCommand(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		if _, err := d.CreateStack(t.Context(), "blog", "ci"); err != nil {
			t.Fatal(err)
		}
		run := mesh.Run{Stack: "blog", By: "ci", Line: "echo $A | cat", Words: []string{"echo", "$A", "|", "cat"}, Env: map[string]mesh.Secret{"B": mesh.NewSecret("2")}, Stdout: io.Discard, Stderr: io.Discard}
		if _, err := d.RunCommand(t.Context(), run); !errors.Is(err, mesh.Conflict) {
			t.Errorf("before the first push: %v", err)
		}
		mustPush(t, w, d, app)
		var got mesh.OneOff
		w.Runner.OneOffFunc = func(_ context.Context, o mesh.OneOff) (int, error) { got = o; return 5, nil }
		if code, err := d.RunCommand(t.Context(), run); code != 5 || err != nil || got.Process.Entrypoint[0] != "/bin/sh" || got.Process.Cmd[len(got.Process.Cmd)-1] != run.Line {
			t.Errorf("%d, %v, %+v", code, err, got.Process)
		}
		if got.Env["B"].Reveal() != "2" || got.Env["MESH_STACK"].Reveal() != "blog" || got.Subnet != stack(t, w).Subnet || got.Image != release(t, w, 1).Image.ID {
			t.Errorf("got %+v", got)
		}
		// With the limits of a service.
		if err := d.UpdateService(t.Context(), "blog", "ci", "web", func(s *mesh.ServiceSettings) error { s.Memory, s.CPUs = 64<<20, 0.5; return nil }, io.Discard); err != nil {
			t.Fatal(err)
		}
		run.As = "web"
		if _, err := d.RunCommand(t.Context(), run); err != nil || got.Memory != 64<<20 || got.CPUs != 0.5 {
			t.Errorf("%v, %+v", err, got)
		}
		run.As = "nosuch"
		if _, err := d.RunCommand(t.Context(), run); !errors.Is(err, mesh.NotFound) {
			t.Errorf("of an unknown service: %v", err)
		}
	})
}

// domains:set replaces all hosts at once, or none.
func TestSetDomains(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		for _, name := range []mesh.StackName{"blog", "shop"} {
			if _, err := d.CreateStack(t.Context(), name, "ci"); err != nil {
				t.Fatal(err)
			}
		}
		hosts := func() string { return fmt.Sprint(stack(t, w).Domains, stack(t, w).Redirects) }
		for _, h := range []mesh.Host{"www.example", "old.example"} {
			to := mesh.Host("")
			if h == "old.example" {
				to = "www.example"
			}
			if err := d.AddDomain(t.Context(), "blog", h, to, admin); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.AddDomain(t.Context(), "shop", "shop.example", "", admin); err != nil {
			t.Fatal(err)
		}
		before := hosts()
		for _, c := range []struct {
			hosts []mesh.Host
			want  error
		}{
			{[]mesh.Host{"new.example", "shop.example"}, mesh.Conflict},
			{[]mesh.Host{"new.example", "shop.localhost"}, mesh.Conflict},
			{[]mesh.Host{"new.example", "mesh.localhost"}, mesh.Denied},
			{[]mesh.Host{"old.example"}, mesh.Conflict}, // it would be redirected to nowhere
		} {
			if _, _, err := d.SetDomains(t.Context(), "blog", c.hosts, admin); !errors.Is(err, c.want) {
				t.Errorf("%v: %v", c.hosts, err)
			}
			if got := hosts(); got != before {
				t.Errorf("%v: %s, was %s", c.hosts, got, before)
			}
		}
		added, removed, err := d.SetDomains(t.Context(), "blog", []mesh.Host{"z.example", "www.example", "a.example", "blog.localhost", "a.example"}, admin)
		if r, _ := w.Router.Route("blog"); err != nil || fmt.Sprint(added, removed) != "[a.example z.example] [old.example]" || hosts() != "[a.example www.example z.example] map[]" || len(r.Hosts) != 4 {
			t.Errorf("%v %v %v %s %v", added, removed, err, hosts(), r.Hosts)
		}
		if _, _, err := d.SetDomains(t.Context(), "shop", []mesh.Host{"old.example"}, admin); err != nil {
			t.Errorf("a removed host: %v", err)
		}
	})
}
