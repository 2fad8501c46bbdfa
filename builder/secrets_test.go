package builder_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"

	"mesh"
)

// A step that mounts a secret runs again when the secret's value changes, and the
// values are in no label, layer, history or key.
func TestBuild_ASecretWithANewValueIsANewBuild(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, step := range map[string]string{
		"an id":      "RUN --mount=type=secret,id=API_URL echo url=$(cat /run/secrets/API_URL | tr a-z n-za-m)",
		"a target":   "RUN --mount=type=secret,target=/x/API_URL echo url=$(cat /x/API_URL | tr a-z n-za-m)",
		"required":   "RUN --mount=type=secret,required=true,mode=0444,id=API_URL echo url=$(cat /run/secrets/API_URL | tr a-z n-za-m)",
		"everything": "RUN --mount=type=secret,id=mesh-config . /run/secrets/mesh-config; echo url=$(echo $API_URL | tr a-z n-za-m)",
	} {
		step = strings.ReplaceAll(step, "tr a-z n-za-m", "/bin/busybox tr a-z n-za-m") // no output is masked
		files := tree{"Dockerfile": from(step), "n": name}
		for i, c := range []struct{ value, want string }{{"planted-one", "url=cynagrq-bar"}, {"planted-two", "url=cynagrq-gjb"}, {"planted-two", ""}, {"planted-one", "url=cynagrq-bar"}} {
			req := b.req(files)
			req.Config = mesh.Config{"API_URL": mesh.NewSecret(c.value), "OTHER": mesh.NewSecret(fmt.Sprint(name != "everything", i))}
			if name == "everything" {
				req.Config["OTHER"] = mesh.NewSecret("a 'quoted'\nvalue")
			}
			img, out := b.must(req)
			ran := strings.Contains(out, "url=cyn")
			switch {
			case i < 2 && !strings.Contains(out, c.want):
				t.Errorf("%s, build %d: not built with the value of now", name, i)
			case i == 2 && (!img.Work.Reused || ran):
				t.Errorf("%s: the same value is built again", name)
			case i == 3 && ran && !strings.Contains(out, c.want):
				t.Errorf("%s: built with another value", name)
			}
			history, err := cli.ImageHistory(t.Context(), img.ID)
			if err != nil {
				t.Fatal(err)
			}
			in, err := cli.ImageInspect(t.Context(), img.ID)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(fmt.Sprint(history, in.Config), "planted-") {
				t.Errorf("%s: a value is in the image", name)
			}
			// As ps:rebuild does.
			req.Fresh = true
			if img, _ := b.must(req); img.Work.Reused {
				t.Errorf("%s: not built anew", name)
			}
		}
	}
}

// ONBUILD in a base image declares ARGs and mounts secrets like the Dockerfile.
func TestBuild_OnbuildOfTheBaseImage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	parent := b.req(tree{"Dockerfile": from("ONBUILD ARG MODE=default", "ONBUILD RUN echo mode=$MODE", "ONBUILD RUN --mount=type=secret,id=KEY echo size=$(/bin/busybox wc -c < /run/secrets/KEY)")})
	parent.Tags = []string{"mesh/" + string(b.stack) + ":base"}
	b.must(parent)
	for _, key := range []string{"one", "seven"} {
		req := b.req(tree{"Dockerfile": "FROM " + parent.Tags[0] + "\n"})
		req.Config = mesh.Config{"MODE": mesh.NewSecret("x1"), "KEY": mesh.NewSecret(key)}
		if _, out := b.must(req); !strings.Contains(out, "mode=x1") && key == "one" || !strings.Contains(out, fmt.Sprintf("size=%d", len(key))) {
			t.Errorf("%s: the config vars did not arrive", key)
		}
	}
}

// The labels of an image count only if this server has sealed them, and only for
// their own stack.
func TestBuild_MadeUpLabelsAreNotBelieved(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	files := tree{"Dockerfile": from("COPY a /a"), "a": "1"}
	built, _ := b.must(b.req(files))
	in, err := cli.ImageInspect(t.Context(), built.ID)
	if err != nil {
		t.Fatal(err)
	}
	labels := in.Config.Labels
	if labels["mesh.source"] == "" || labels["mesh.seal"] == "" {
		t.Fatalf("labels %v", labels)
	}
	if err := b.Collect(t.Context(), b.stack, nil); err != nil {
		t.Fatal(err)
	}
	// Somebody else's image copies the labels of the real one.
	labels["mesh.seal"] = strings.Repeat("0", 64)
	c, err := cli.ContainerCreate(t.Context(), &container.Config{Image: base, Labels: map[string]string{testLabel: run}}, nil, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer cli.ContainerRemove(context.Background(), c.ID, container.RemoveOptions{Force: true})
	commit := func(ref string) string {
		t.Helper()
		made, err := cli.ContainerCommit(t.Context(), c.ID, container.CommitOptions{Reference: ref, Config: &container.Config{Labels: labels, Env: []string{"N=" + ref}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = cli.ImageRemove(context.Background(), made.ID, image.RemoveOptions{Force: true}) })
		return made.ID
	}
	forged := fmt.Sprintf("mesh-test/forged-%s:1", b.stack)
	commit(forged)
	nameless := commit("")
	if img, _ := b.must(b.req(files)); img.Work.Reused {
		t.Error("an image that says it is the right one is used")
	}
	if err := b.Collect(t.Context(), b.stack, nil); err != nil {
		t.Fatal(err)
	}
	gone, err := b.Sweep(t.Context(), func(mesh.StackName, string) bool { return false }, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{forged, nameless} {
		if _, err := cli.ImageInspect(t.Context(), ref); err != nil {
			t.Errorf("%s is collected, which is nobody's here: %v (%v)", ref, err, gone)
		}
	}
	// What is built from it has only this server's labels.
	other := newBenchWith(t, cli)
	up := other.req(nil)
	up.Tree, up.Times, up.From = nil, nil, mesh.From{Ref: forged, Local: true}
	img, _ := other.must(up)
	if in, err = cli.ImageInspect(t.Context(), img.ID); err != nil {
		t.Fatal(err)
	}
	if got := in.Config.Labels; got["mesh.stack"] != string(other.stack) || got["mesh.source"] != "" || got["mesh.seal"] == labels["mesh.seal"] {
		t.Errorf("the labels of the image that it was made from are left: %v", got)
	}
}

// The build of a front end gets the stack's config vars, and runs again when they
// change.
func TestBuild_AGeneratedBuildGetsTheConfigVars(t *testing.T) {
	t.Parallel()
	bases(t, "debian", "node")
	b := newBench(t)
	files := tree{
		"package.json": `{"name": "shop", "engines": {"node": "20"}, "scripts": {"build": "node build.js", "start": "node server.js"}}`,
		"build.js":     `console.log("api is " + Buffer.from(process.env.VITE_API_URL || "").toString("hex") + ".")`, "server.js": "",
	}
	for _, value := range []string{"https://one.example", "it's \"two\" $HOME"} {
		req := b.req(files)
		req.Config = mesh.Config{"VITE_API_URL": mesh.NewSecret(value), "PATH": mesh.NewSecret("/nowhere")}
		_, out := b.must(req)
		if want := fmt.Sprintf("api is %x.", value); !strings.Contains(out, want) {
			t.Errorf("no line %q", want)
		}
		if !strings.Contains(out, "] RUN npm run build") {
			t.Error("the step is not shown by what it runs")
		}
		if img, _ := b.must(req); !img.Work.Reused {
			t.Error("the same config is built again")
		}
	}
	files["build.js"] = "process.exit(3)"
	_, _, err := b.build(b.req(files))
	if err == nil || err.Error() != "'RUN npm run build' exited 3" {
		t.Errorf("got %v", err)
	}
}
