package command_test

import (
	"slices"
	"strings"
	"testing"

	"mesh"
)

// A link opens one stack to another, so the key needs deploy for both.
func TestLink(t *testing.T) {
	t.Parallel()
	limited := mesh.Key{Name: "ci", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}}
	reader := mesh.Key{Name: "eye", Role: mesh.RoleRead}
	for _, c := range []struct {
		line string
		key  *mesh.Key
		did  string
		says string
	}{
		{"stacks:link live -a blog", nil, "link blog to live as live", "linked to live: LIVE_URL=http://live:8080"},
		{"stacks:link live -a blog -p worker", nil, "link blog to live/worker as live-worker", "LIVE_WORKER_URL=http://live-worker:8080"},
		{"stacks:link live -a blog --service worker --as my-jobs", nil, "link blog to live/worker as my-jobs", "MY_JOBS_URL=http://my-jobs:8080"},
		{"stacks:unlink live -a blog", nil, "unlink blog from live web", "removed the link live"},
		{"stacks:link live -a blog", &limited, "", "live"},
		{"stacks:link live -a blog", &reader, "", "may not"},
		{"stacks:link live -a blog --as A.B", nil, "", `"A.B" is not a name for a link`},
		{"stacks:link Live -a blog", nil, "", `"Live" is not a stack name`},
		{"stacks:link live -a blog -p -", nil, "", `"-" is not a service name`},
		{"stacks:link -a blog", nil, "", "stacks:link"},
	} {
		f := stacks("blog", "live")
		var opts []option
		if c.key != nil {
			opts = append(opts, as(*c.key))
		}
		r := do(t, f, c.line, opts...)
		if said := r.out + r.err; !strings.Contains(said, c.says) || (r.status == 0) != (c.did != "") {
			t.Errorf("%s: %d %s", c.line, r.status, said)
		}
		linked := slices.IndexFunc(f.did, func(s string) bool { return strings.Contains(s, "link ") })
		if c.did != "" && !slices.Contains(f.did, c.did) || c.did == "" && linked >= 0 {
			t.Errorf("%s: did %q", c.line, f.did)
		}
	}
}
