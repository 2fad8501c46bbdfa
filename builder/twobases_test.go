//go:build !race

package builder_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/image"

	"mesh"
)

// The images of stacks that a key may not see are as private as their code,
// whichever instruction names them, under any name. A stack does not find what
// another leaves in a cache mount.
func TestBuild_StacksApart(t *testing.T) {
	t.Parallel()
	theirs, ours := newBench(t), newBench(t)
	named := "mesh/" + string(theirs.stack) + ":v1"
	req := theirs.req(tree{"secret": "planted-source", "Dockerfile": from("COPY secret /secret", "RUN --mount=type=cache,target=/cache echo theirs >/cache/left")})
	req.Tags = []string{named}
	img, _ := theirs.must(req)
	other := "mesh-test/another-name:" + string(theirs.stack)
	if err := cli.ImageTag(t.Context(), img.ID, other); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cli.ImageRemove(context.Background(), other, image.RemoveOptions{}) })
	for name, dockerfile := range map[string]string{
		"FROM":             "FROM " + named + "\nRUN cat /secret\n",
		"another name":     "FROM " + other + "\nRUN cat /secret\n",
		"a variable":       "ARG A=" + string(theirs.stack) + "\nFROM mesh/${A}:v1\nRUN cat /secret\n",
		"COPY --from":      from("COPY --from="+named+" /secret /s", "RUN cat /s"),
		"RUN --mount=from": from("RUN --mount=from=" + named + ",target=/t cat /t/secret"),
		"a frontend":       "# syntax=" + named + "\nFROM " + named + "\n",
	} {
		req := ours.req(tree{"Dockerfile": dockerfile})
		req.May = func(s mesh.StackName) bool { return s == ours.stack }
		_, out, err := ours.build(req)
		var e *mesh.Error
		if !errors.As(err, &e) || strings.Contains(out.String(), "planted-source") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		req.May = nil
		if name == "a frontend" {
			continue
		}
		if _, out, err := ours.build(req); err != nil {
			t.Errorf("%s, by one who may: %v\n%s", name, err, out)
		}
	}
	// A stack may build from its own images.
	req = theirs.req(tree{"Dockerfile": "FROM " + named + "\nRUN --mount=type=cache,target=/cache cat /cache/left /secret\n"})
	req.May = func(mesh.StackName) bool { return false }
	if _, out := theirs.must(req); !strings.Contains(out, "planted-source") || !strings.Contains(out, "theirs") {
		t.Error(out)
	}
	_, out := ours.must(ours.req(tree{"Dockerfile": from("RUN --mount=type=cache,target=/cache ls /cache; echo listed")}))
	if strings.Contains(out, "left") || !strings.Contains(out, "listed") {
		t.Errorf("the cache of another stack: %s", out)
	}
}

// A changed file also has a later time in the image, in whole seconds, however it
// got there; the others keep their time. Files that a step makes have the time of
// the step.
func TestBuild_TimesInTheImage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, dockerfile := range map[string]string{
		"copied":       from("COPY site /www", "COPY n /n", "RUN stat -c '%n %Y' /www/*"),
		"from a stage": "FROM scratch AS tree\nCOPY site /www\n" + from("COPY --from=tree /www /www", "COPY n /n", "RUN stat -c '%n %Y' /www/*"),
		"from a mount": from("COPY n /n", "RUN --mount=source=site,target=/www stat -c '%n %Y' /www/*"),
		"from a product": from("COPY site /src", "RUN mkdir /www; for f in a b; do cat /src/$f > /www/$f; done") +
			from("COPY --from=0 /www /www", "COPY n /n", "RUN stat -c '%n %Y' /www/*"),
	} {
		last := map[string]int64{}
		for i, a := range []string{"one", "two", "one"} {
			// A file that no other run has had: the first build of a stack may use a layer of
			// another one, with its times.
			_, out := b.must(b.req(tree{"Dockerfile": dockerfile, "site/a": run + a, "site/b": run, "n": name + fmt.Sprint(i)}))
			for _, f := range []string{"/www/a", "/www/b"} {
				_, rest, _ := strings.Cut(out, "       "+f+" ")
				var at int64
				if _, err := fmt.Sscan(rest, &at); err != nil {
					t.Fatalf("%s: no time of %s", name, f)
				}
				if i > 0 && f == "/www/a" && name != "from a product" && at <= last[f] || at < last[f] || i > 0 && f == "/www/b" && name != "from a product" && at != last[f] {
					t.Errorf("%s, step %d: %s was of %d, and is of %d", name, i, f, last[f], at)
				}
				last[f] = at
			}
		}
	}
}
