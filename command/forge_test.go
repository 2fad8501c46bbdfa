package command_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"mesh"
)

// fakeForges notes what it is asked for.
type fakeForges struct{ *fake }

func (f fakeForges) FollowForge(_ context.Context, stack mesh.StackName, url, branch string) (mesh.Stack, error) {
	f.do("%s follows %s %q", stack, url, branch)
	return f.stacks[0], nil
}

func (f fakeForges) UnfollowForge(_ context.Context, stack mesh.StackName) error {
	f.do("%s follows nothing", stack)
	return nil
}

func (f fakeForges) SetForgeToken(_ context.Context, stack mesh.StackName, token mesh.Secret) error {
	f.do("token of %s: %d", stack, len(token.Reveal()))
	return nil
}

func (f fakeForges) RotateForgeSecret(context.Context, mesh.StackName) (mesh.Stack, error) {
	f.do("rotate")
	st := f.stacks[0]
	st.Forge = &mesh.Forge{Secret: mesh.NewSecret("n3w")}
	return st, nil
}

func (f fakeForges) SyncForge(_ context.Context, stack mesh.StackName, branch string, _ io.Writer) error {
	f.do("sync %s %q", stack, branch)
	return nil
}

func TestForge(t *testing.T) {
	t.Parallel()
	f := full()
	for _, line := range []string{"git:follow -a blog", "webhooks -a blog"} {
		if r := do(t, f, line); r.fault == nil || r.fault.Text != "blog follows no repository" {
			t.Errorf("%q: %v", line, r.fault)
		}
	}
	f.stacks[0].Forge = &mesh.Forge{URL: "https://github.com/acme/blog", Secret: mesh.NewSecret("s3cret"), Token: mesh.NewSecret("t0ken"), Pending: []string{"main"}, Event: now, Fault: mesh.ForgeFault{At: now, Why: "it is away"}}
	for _, c := range []struct{ line, in, out, did string }{
		{"git:follow -a blog", "", "github", ""},
		{"git:follow -a blog --json", "", `"token": true`, ""},
		{"git:follow -a blog https://github.com/acme/blog --branch trunk", "", "blog follows https://github.com/acme/blog", `blog follows https://github.com/acme/blog "trunk"`},
		{"git:follow -a blog --off", "", "follows no repository any more", "blog follows nothing"},
		{"git:sync -a blog", "", "", `sync blog ""`},
		{"git:sync -a blog feat/x", "", "", `sync blog "feat/x"`},
		{"git:sync -a blog https://github.com/acme/blog trunk", "", "", `blog follows https://github.com/acme/blog "trunk"; sync blog "trunk"`},
		{"git:token -a blog", "ghp_abc\n", "blog: set the token", "token of blog: 7"},
		{"git:token -a blog --off", "", "blog: removed the token", "token of blog: 0"},
		{"webhooks -a blog", "", "URL:     https://mesh.example.com/hooks/blog\nSecret:  s3cret\n", ""},
		{"webhooks -a blog --rotate --json", "", `"secret": "n3w"`, "rotate"},
	} {
		f.did = nil
		r := do(t, f, c.line, stdin(c.in))
		if did := strings.Join(f.did, "; "); r.status != 0 || !strings.Contains(r.out, c.out) || did != c.did && !strings.HasPrefix(did, c.did+";") {
			t.Errorf("%q: %d %q %q, did %q", c.line, r.status, r.out, r.err, did)
		}
		if strings.Contains(r.out+r.err, "t0ken") {
			t.Errorf("%q shows the token", c.line)
		}
	}
	for _, nothing := range []string{"", "\n", " \t\r\n"} {
		f.did = nil
		if r := do(t, f, "git:token -a blog", stdin(nothing)); r.fault == nil || !strings.Contains(r.fault.Text, "there is no token") || !strings.Contains(r.fault.Hint, "--off") || len(f.did) > 0 {
			t.Errorf("%q: %v, did %q", nothing, r.fault, f.did)
		}
	}
	if r := do(t, f, "git:token -a blog", stdin("two words\n")); r.fault == nil || !strings.Contains(r.fault.Text, "blanks") {
		t.Errorf("a token with a blank: %v", r.fault)
	}
	if r := do(t, f, "webhooks -a blog", as(mesh.Key{Name: "r", Role: mesh.RoleRead})); r.fault == nil || r.fault.Kind != mesh.Denied {
		t.Errorf("the secret, with the role read: %v", r.fault)
	}
}
