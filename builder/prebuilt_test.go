package builder_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/image"
	dockerregistry "github.com/docker/docker/api/types/registry"
	"github.com/google/go-containerregistry/pkg/registry"

	"mesh"
	"mesh/builder"
	"mesh/engine"
)

// published pushes an image to a registry of the test, which needs no TLS because it
// is on a loopback address, and removes its local name.
func published(t *testing.T, b *bench, tag string, dockerfile ...string) (ref string) {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	ref = strings.TrimPrefix(srv.URL, "http://") + "/team/app:" + tag
	publish(t, b, ref, "e30=", dockerfile...) // {}
	return ref
}

// publish pushes an image to a registry and removes its local name.
func publish(t *testing.T, b *bench, ref, auth string, dockerfile ...string) {
	t.Helper()
	req := b.fresh(tree{"Dockerfile": from(dockerfile...)})
	req.Tags = []string{ref}
	b.must(req)
	body, err := cli.ImagePush(t.Context(), ref, image.PushOptions{RegistryAuth: auth})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(body)
	_ = body.Close()
	if strings.Contains(string(text), `"error"`) {
		t.Fatalf("push: %s", text)
	}
	in, err := cli.ImageInspect(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Concat(in.RepoTags, in.RepoDigests) {
		if _, err := cli.ImageRemove(t.Context(), name, image.RemoveOptions{}); err != nil && !strings.Contains(err.Error(), "No such image") {
			t.Fatal(err)
		}
	}
}

// private adds a password to a registry.
func private(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "robot" || password != "planted-5e1f" {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`, http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// Only a server with a login can pull a private image and build from it; the
// password appears nowhere.
func TestPrivateImages(t *testing.T) {
	srv := httptest.NewServer(private(registry.New(registry.Logger(log.New(io.Discard, "", 0)))))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	ref := host + "/team/app:1"
	r := mesh.Registry{Host: host, User: "robot", Password: mesh.NewSecret("planted-5e1f")}
	signedIn := false
	creds := func(_ context.Context, h string) (mesh.Registry, error) {
		if signedIn && h == host {
			return r, nil
		}
		return mesh.Registry{}, nil
	}
	b := newBench(t)
	b.Builder = builder.New(engine.Of(cli), builder.Options{Server: b.server, Key: []byte(run), Credentials: creds, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})

	bad := r
	bad.Password = mesh.NewSecret("other")
	if err := b.SignIn(t.Context(), bad); !errors.Is(err, mesh.Denied) {
		t.Errorf("got %v", err)
	}
	if err := b.SignIn(t.Context(), mesh.Registry{Host: "127.0.0.1:1", User: "x", Password: r.Password}); !errors.Is(err, mesh.Unavailable) {
		t.Errorf("got %v", err)
	}
	if err := b.SignIn(t.Context(), r); err != nil {
		t.Fatal(err)
	}

	auth, err := dockerregistry.EncodeAuthConfig(dockerregistry.AuthConfig{Username: r.User, Password: r.Password.Reveal(), ServerAddress: host})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, ref, auth, "ENV WHO=private")

	builds := map[string]func() mesh.Build{
		"pulled":     func() mesh.Build { return b.prebuilt(mesh.From{Ref: ref}) },
		"built from": func() mesh.Build { return b.fresh(tree{"Dockerfile": "FROM " + ref + "\nENV MORE=1\n"}) },
	}
	for name, build := range builds {
		_, _, err := b.build(build())
		var e *mesh.Error
		if !errors.As(err, &e) || e.Kind != mesh.Failed || !strings.Contains(e.Text, "or it is private") || !strings.Contains(e.Hint, "registry:login") {
			t.Errorf("%s without a password: %v", name, err)
		}
	}
	signedIn = true
	for name, build := range builds {
		img, out := b.must(build())
		in, err := cli.ImageInspect(t.Context(), img.ID)
		if err != nil || !slices.Contains(in.Config.Env, "WHO=private") {
			t.Errorf("%s: %v, %v", name, in.Config, err)
		}
		if strings.Contains(out, "planted") {
			t.Errorf("%s: the password shows:\n%s", name, out)
		}
	}
	nobody(t, ref)
}

// prebuilt is a build from a prebuilt image.
func (b *bench) prebuilt(f mesh.From) mesh.Build {
	req := b.req(nil)
	req.Tree, req.Commit, req.From = nil, "", f
	return req
}

// nobody checks that the engine has only mesh's name for what was brought in.
func nobody(t *testing.T, ref string) {
	t.Helper()
	list, err := cli.ImageList(t.Context(), image.ListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	repo := ref[:strings.LastIndex(ref, ":")]
	for _, i := range list {
		for _, name := range slices.Concat(i.RepoTags, i.RepoDigests) {
			if strings.HasPrefix(name, repo) || strings.Contains(name, ":from-") {
				t.Errorf("%s is left", name)
			}
		}
	}
}

func TestPrebuilt_PullsByDigest(t *testing.T) {
	b := newBench(t)
	ref := published(t, b, "1", "ENV WHO=registry", "VOLUME /data", "EXPOSE 9999", `CMD ["sleep", "9"]`)
	img, _ := b.must(b.prebuilt(mesh.From{Ref: ref}))
	in, err := cli.ImageInspect(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(in.Config.Env, "WHO=registry") || len(in.Config.Volumes) > 0 || len(in.Config.ExposedPorts) > 0 || in.Config.Labels["mesh.stack"] != string(b.stack) {
		t.Errorf("got %+v", in.Config)
	}
	if !slices.Equal(img.Cmd, []string{"sleep", "9"}) || !img.Shell || img.Ref != "mesh/"+string(b.stack)+":"+commit.Short() {
		t.Errorf("got %+v", img)
	}
	repo := ref[:strings.LastIndex(ref, ":")]
	if !strings.HasPrefix(img.Digest, repo+"@sha256:") {
		t.Errorf("digest %q", img.Digest)
	}
	nobody(t, ref)
	// The same digest, named: it may be pulled again, and is the same image.
	again, _ := b.must(b.prebuilt(mesh.From{Ref: img.Digest}))
	if again.Digest != img.Digest {
		t.Errorf("got %q, want %q", again.Digest, img.Digest)
	}
	nobody(t, ref)
}

// A name in the engine does not move, whatever the registry says.
func TestPrebuilt_LeavesTheEnginesNamesAlone(t *testing.T) {
	b := newBench(t)
	ref := published(t, b, "1", "ENV WHO=registry")
	own := b.fresh(tree{"Dockerfile": from("ENV WHO=engine")})
	own.Tags = []string{ref}
	mine, _ := b.must(own)
	t.Cleanup(func() { _, _ = cli.ImageRemove(context.Background(), ref, image.RemoveOptions{}) })

	img, _ := b.must(b.prebuilt(mesh.From{Ref: ref}))
	env := func(id string) []string {
		in, err := cli.ImageInspect(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return in.Config.Env
	}
	if !slices.Contains(env(img.ID), "WHO=registry") {
		t.Errorf("got %v", env(img.ID))
	}
	if in, err := cli.ImageInspect(t.Context(), ref); err != nil || in.ID != mine.ID {
		t.Errorf("the engine's %s is %v, was %s", ref, in.ID, mine.ID)
	}
	local, out := b.must(b.prebuilt(mesh.From{Ref: ref, Local: true}))
	if !slices.Contains(env(local.ID), "WHO=engine") || !strings.Contains(out, "already has it") {
		t.Errorf("got %v\n%s", env(local.ID), out)
	}
	// An image that no registry has is taken from the engine, with a warning.
	missing := ref[:strings.LastIndex(ref, ":")] + ":only-here"
	if err := cli.ImageTag(t.Context(), mine.ID, missing); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cli.ImageRemove(context.Background(), missing, image.RemoveOptions{}) })
	if _, out := b.must(b.prebuilt(mesh.From{Ref: missing})); !strings.Contains(out, "no registry has it") {
		t.Errorf("got %s", out)
	}
}

func TestPrebuilt_Faults(t *testing.T) {
	b := newBench(t)
	ref := published(t, b, "1")
	repo := ref[:strings.LastIndex(ref, ":")]
	for _, c := range []struct {
		name       string
		from       mesh.From
		kind       mesh.Kind
		text, hint string
	}{
		{"not a name", mesh.From{Ref: "Not A Name"}, mesh.Invalid, `"Not A Name" is not the name of an image`, "redis:7"},
		{"no such tag", mesh.From{Ref: repo + ":2"}, mesh.Failed, "there is no image " + repo + ":2, or it is private", "registry:login"},
		{"registry away", mesh.From{Ref: "127.0.0.1:1/app:1"}, mesh.Unavailable, "the registry 127.0.0.1:1 cannot be reached", "network"},
		{"not in the engine", mesh.From{Ref: "mesh-test/none:1", Local: true}, mesh.NotFound, "the engine has no image mesh-test/none:1", "docker save"},
	} {
		_, _, err := b.build(b.prebuilt(c.from))
		var e *mesh.Error
		if !errors.As(err, &e) || e.Kind != c.kind || e.Text != c.text || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: got %#v", c.name, err)
		}
	}
	nobody(t, ref)
}

// saved is the output of docker save.
func saved(t *testing.T, names ...string) []byte {
	t.Helper()
	r, err := cli.ImageSave(t.Context(), names)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPrebuilt_Load(t *testing.T) {
	b := newBench(t)
	tag := func(name, who string) string {
		ref := "mesh-test/" + name + "-" + run + ":1"
		req := b.fresh(tree{"Dockerfile": from("ENV WHO=" + who)})
		req.Tags = []string{ref}
		b.must(req)
		return ref
	}
	one, two := tag("one", "first"), tag("two", "second")
	archive := saved(t, one, two)
	for _, ref := range []string{one, two} {
		if _, err := cli.ImageRemove(t.Context(), ref, image.RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	other := tag("two", "third") // what the server calls so by now
	t.Cleanup(func() { _, _ = cli.ImageRemove(context.Background(), other, image.RemoveOptions{}) })

	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(archive)
	_ = z.Close()
	for what, data := range map[string][]byte{"plain": archive, "gzip": zipped.Bytes()} {
		img, _ := b.must(b.prebuilt(mesh.From{Ref: two, Archive: bytes.NewReader(data)}))
		in, err := cli.ImageInspect(t.Context(), img.ID)
		if err != nil || !slices.Contains(in.Config.Env, "WHO=second") {
			t.Errorf("%s: got %v, %v", what, in.Config, err)
		}
		if in, err := cli.ImageInspect(t.Context(), other); err != nil || !slices.Contains(in.Config.Env, "WHO=third") {
			t.Errorf("%s: the engine's own image of that name was replaced: %v", what, err)
		}
		if _, err := cli.ImageInspect(t.Context(), one); err == nil {
			t.Errorf("%s: %s came along", what, one)
		}
	}
	nobody(t, one)

	var empty bytes.Buffer
	w := tar.NewWriter(&empty)
	_ = w.WriteHeader(&tar.Header{Name: "a", Mode: 0o644})
	_ = w.Close()
	withEntry := func(name string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 2})
		_, _ = w.Write([]byte("[]"))
		_ = w.Flush()
		return append(b.Bytes(), archive...)
	}
	for _, c := range []struct {
		name, ref string
		data      []byte
		text      string
	}{
		{"nothing", one, nil, "stdin is empty"},
		{"text", one, []byte(strings.Repeat("hello world\n", 100)), "stdin is not an archive of images"},
		{"a tar of something else", one, empty.Bytes(), "it has no manifest.json"},
		{"not in it", "mesh-test/three:1", archive, "the archive has no image mesh-test/three:1"},
		{"cut off", two, archive[:len(archive)/2], "cut off"},
		{"a second list", two, withEntry("/manifest.json"), "which does not belong to an image"},
		{"a list by a detour", two, withEntry("d/manifest.json"), "which does not belong to an image"},
		{"climbs out", two, withEntry("../x"), "which does not belong to an image"},
	} {
		_, _, err := b.build(b.prebuilt(mesh.From{Ref: c.ref, Archive: bytes.NewReader(c.data)}))
		var e *mesh.Error
		if !errors.As(err, &e) || !strings.Contains(e.Text, c.text) || e.Hint == "" {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	nobody(t, one)
}

// A client that leaves in mid-upload leaves nothing behind.
func TestPrebuilt_LoadIsCancelled(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	pr, pw := io.Pipe()
	go func() {
		w := tar.NewWriter(pw)
		_ = w.WriteHeader(&tar.Header{Name: "layer.tar", Mode: 0o644, Size: 1 << 20})
		_, _ = w.Write(make([]byte, 1<<19))
		cancel(errors.New("gone"))
		_ = pw.CloseWithError(io.ErrUnexpectedEOF)
	}()
	_, err := b.Build(ctx, b.prebuilt(mesh.From{Ref: "app:1", Archive: pr}), &output{t: t})
	if !errors.Is(err, mesh.Cancelled) && !errors.Is(err, mesh.Invalid) {
		t.Errorf("got %v", err)
	}
	nobody(t, "app:1")
}

func TestRename(t *testing.T) {
	b := newBench(t)
	img, _ := b.must(b.req(tree{"Dockerfile": from("ENV A=1")}))
	to := mesh.StackName("r" + string(b.stack))
	t.Cleanup(func() {
		if err := b.Collect(context.Background(), to, nil); err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		if err := b.Rename(t.Context(), b.stack, to); err != nil {
			t.Fatal(err)
		}
		in, err := cli.ImageInspect(t.Context(), img.ID)
		if err != nil || !slices.Equal(in.RepoTags, []string{"mesh/" + string(to) + ":" + commit.Short()}) {
			t.Errorf("got %v, %v", in.RepoTags, err)
		}
	}
}
