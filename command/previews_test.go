package command_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"mesh"
)

// fakePreviews are the previews of blog.
type fakePreviews struct {
	*fake
	all  []mesh.Stack
	said *[]string
}

func (f fakePreviews) Previews(_ context.Context, of mesh.StackName) (out []mesh.Stack, _ error) {
	for _, st := range f.all {
		if st.Preview.Of == of {
			out = append(out, st)
		}
	}
	return out, nil
}

func (f fakePreviews) note(format string, args ...any) {
	*f.said = append(*f.said, fmt.Sprintf(format, args...))
}

func (f fakePreviews) KeepPreview(_ context.Context, name mesh.StackName, keep bool) (mesh.Stack, error) {
	f.note("keep %s %t", name, keep)
	i := slices.IndexFunc(f.all, func(s mesh.Stack) bool { return s.Name == name })
	return f.all[i], nil
}

func (f fakePreviews) EndPreview(_ context.Context, of mesh.StackName, branch string, by mesh.KeyName, _ io.Writer) error {
	f.note("end %s of %s by %s", branch, of, by)
	return nil
}

func (f fakePreviews) SetPreviewConfig(_ context.Context, stack mesh.StackName, c mesh.ConfigChange) ([]string, error) {
	f.note("previews of %s: set %v unset %v", stack, c.Set.Names(), c.Unset)
	return append(c.Set.Names(), c.Unset...), nil
}

func (f fakePreviews) MarkProduction(_ context.Context, stack mesh.StackName, names []string, only bool) (func(context.Context), error) {
	f.note("%s: mark %v %t", stack, names, only)
	return func(context.Context) { f.note("undo") }, nil
}

func withPreviews() *fake {
	f := full()
	preview := func(name, branch string, kept bool) mesh.Stack {
		return mesh.Stack{Name: mesh.StackName(name), Created: now.Add(-time.Hour), Preview: &mesh.Preview{Of: "blog", Branch: branch, Pushed: now.Add(-time.Hour), Kept: kept}}
	}
	f.previews = fakePreviews{f, []mesh.Stack{preview("blog--feat-x", "feat/x", false), preview("blog--odd", "o\x1b[2Jdd", true)}, new([]string)}
	f.stacks = append(f.stacks, f.previews.all...)
	return f
}

func TestPreviews_List(t *testing.T) {
	t.Parallel()
	r := do(t, withPreviews(), "previews -a blog")
	for _, want := range []string{"BRANCH", "feat/x", "blog--feat-x", "not deployed", "2026-03-11T11:00:00Z", "kept", "http://blog--feat-x"} {
		if !strings.Contains(r.out+r.err, want) {
			t.Errorf("the list has no %q:\n%s%s", want, r.err, r.out)
		}
	}
	if strings.Contains(r.out, "\x1b") {
		t.Errorf("the name of a branch moves the cursor: %q", r.out)
	}
	if of := do(t, withPreviews(), "previews -a blog--feat-x"); of.out != r.out {
		t.Errorf("a preview lists %q, its stack %q", of.out, r.out)
	}
	if r := do(t, withPreviews(), "previews -a blog --json"); !strings.Contains(r.out, `"branch": "feat/x"`) || !strings.Contains(r.out, `"expires": "2026-03-11T11:00:00Z"`) || strings.Count(r.out, `"expires"`) != 1 {
		t.Errorf("as JSON: %s", r.out)
	}
	if r := do(t, full(), "previews -a blog"); !strings.Contains(r.err, "ssh mesh build:set -a blog previews=true") {
		t.Errorf("without previews: %q", r.err)
	}
}

func TestPreviews_Change(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, want, said string }{
		{"previews:keep feat/x -a blog", "blog--feat-x is kept until", "keep blog--feat-x true"},
		{"previews:keep blog--feat-x -a blog --off", "blog--feat-x expires 7d from now", "keep blog--feat-x false"},
		{"previews:destroy feat/x -a blog--odd", "destroyed blog--feat-x", "end feat/x of blog by laptop"},
		{"config:set -a blog --previews PAY=off", "blog: set PAY for previews that are created from now on", "previews of blog: set [PAY] unset []"},
		{"config:unset -a blog --previews PAY", "blog: unset PAY for previews", "previews of blog: set [] unset [PAY]"},
		{"config:set -a blog --production-only GREETING", "do not get GREETING", "blog: mark [GREETING] true"},
		{"config:set -a blog --production-only=false GREETING", "get GREETING", "blog: mark [GREETING] false"},
		{"config:set -a blog --production-only KEY=x", "set KEY", "blog: mark [KEY] true"},
	} {
		f := withPreviews()
		r := do(t, f, c.line)
		if said := strings.Join(*f.previews.said, "; "); r.status != 0 || !strings.Contains(r.out, c.want) || said != c.said {
			t.Errorf("%q: %d %q %q, did %q", c.line, r.status, r.out, r.err, said)
		}
	}
	for line, want := range map[string]string{
		"previews:keep nosuch -a blog":                        `blog has no preview of "nosuch"`,
		"config:set -a blog --previews --production-only A=1": "choose one",
		"config:set --global --previews A=1":                  "--global goes to all stacks",
		"config:set -a blog --production-only NOSUCH":         "blog has no config var NOSUCH",
	} {
		f := withPreviews()
		if r := do(t, f, line); r.fault == nil || !strings.Contains(r.fault.Text, want) || len(*f.previews.said) > 0 {
			t.Errorf("%q: %v, did %q", line, r.fault, *f.previews.said)
		}
	}
}

// A key that sees one stack and its previews need not say which.
func TestPreviews_AreNoChoice(t *testing.T) {
	t.Parallel()
	f := withPreviews()
	key := mesh.Key{Name: "ci", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}, Previews: []mesh.StackName{"blog--feat-x"}}
	if r := do(t, f, "stacks:info", as(key)); r.status != 0 || !strings.Contains(r.out, "blog") {
		t.Errorf("%d %q %q", r.status, r.out, r.err)
	}
	if r := do(t, f, "stacks:info -a blog--feat-x", as(key)); r.status != 0 || !strings.Contains(r.out, "Preview of: blog") {
		t.Errorf("its preview: %d %q %q", r.status, r.out, r.err)
	}
	if r := do(t, f, "stacks:info -a blog--odd", as(key)); r.status != 20 {
		t.Errorf("a preview of others: %d %q %q", r.status, r.out, r.err)
	}
}
