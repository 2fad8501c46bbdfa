package builder_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/image"

	"mesh"
)

// The images of stacks that a key may not see are as private as their code, whichever
// instruction names them, under whatever name; what one stack leaves in a cache mount,
// another does not find.
//
// Where a Dockerfile has two base images, BuildKit has a race: see TestBuild_Examples.
func TestBuild_StacksApart(t *testing.T) {
	if raceDetector {
		withoutRace(t)
		return
	}
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
	// Its own images are a stack's to build from.
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

// Who may take only what registries give does not get the engine's own copy.
func TestPrebuilt_PublicOnly(t *testing.T) {
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path != "/v2/" {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`))
		}
	}))
	defer registry.Close()
	ref := strings.TrimPrefix(registry.URL, "http://") + "/private/app:1"
	if err := cli.ImageTag(t.Context(), base, ref); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cli.ImageRemove(context.Background(), ref, image.RemoveOptions{}) })
	b := newBench(t)
	for _, public := range []bool{false, true} {
		_, out, err := b.build(b.prebuilt(mesh.From{Ref: ref, Public: public}))
		if (err != nil) != public {
			t.Errorf("public %v: %v\n%s", public, err, out)
		}
	}
}
