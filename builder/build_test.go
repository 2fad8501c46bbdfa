package builder_test

import (
	"strings"
	"testing"
	"time"

	"mesh"
)

func TestBuild_GivesAnImage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	files := tree{
		"Dockerfile": from("WORKDIR /app", "COPY . .", "RUN cat a.txt a/b.txt && ls -l run link", "VOLUME /data", "EXPOSE 80", "HEALTHCHECK CMD true", `CMD ["/app/run"]`),
		"a.txt":      "one\n", "a/b.txt": "two\n", "run": "#!/bin/sh\n", "link": "-> a.txt", "left/out": "x", ".dockerignore": "left\n",
	}
	began := time.Now()
	img, out := b.must(b.req(files))
	first := time.Since(began)
	for _, want := range []string{"       #1 [1/4] FROM", "       two", "-rwxr-xr-x", "link -> a.txt"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	in, err := cli.ImageInspect(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(in.Config.Volumes) > 0 || len(in.Config.ExposedPorts) > 0 || in.Config.Healthcheck != nil {
		t.Errorf("VOLUME, EXPOSE or HEALTHCHECK is left: %+v", in.Config)
	}
	if in.Config.Labels["mesh.stack"] != string(b.stack) || in.Config.Labels[testLabel] != run {
		t.Errorf("labels %v", in.Config.Labels)
	}
	if img.Ref != "mesh/"+string(b.stack)+":0123456" || img.Size == 0 || !img.Shell || len(img.Cmd) != 1 || img.ID != in.ID {
		t.Errorf("image %+v", img)
	}

	began = time.Now()
	again, out := b.must(b.req(files))
	if again.ID != img.ID {
		t.Errorf("the same tree gave %s and %s", img.ID, again.ID)
	}
	if !strings.Contains(out, "[3/4] COPY . .   CACHED") {
		t.Error("the second build is not cached")
	}
	t.Logf("first %s, cached %s", first.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))

	files["a.txt"] = "ONE\n" // the size stays
	began = time.Now()
	changed, out := b.must(b.req(files))
	t.Logf("one file changed %s", time.Since(began).Round(time.Millisecond))
	if changed.ID == img.ID || !strings.Contains(out, "       ONE") {
		t.Error("built from the old content")
	}
}

var _ = mesh.Failed
