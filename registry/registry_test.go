package registry_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	registrytypes "github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/client"
	oci "github.com/google/go-containerregistry/pkg/registry"

	"mesh"
	"mesh/engine"
	"mesh/enginetest"
	"mesh/registry"
)

var (
	run = enginetest.NewID("registry")
	cli *client.Client
	of  *enginetest.Run
)

func TestMain(m *testing.M) {
	enginetest.Main(m, run, func(_ context.Context, engine *enginetest.Run) ([]string, error) {
		cli, of = engine.Client, engine
		return nil, nil
	})
}

// open returns a registry, and the address of its door for other nodes.
func open(t *testing.T) (r *registry.Registry, dir, at string) {
	t.Helper()
	dir = t.TempDir()
	r, err := registry.Open(t.Context(), engine.Of(cli), registry.Options{Dir: filepath.Join(dir, "layers"), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { r.ServeConn(ctx, c) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		all.Wait()
		_ = r.Close()
	})
	return r, filepath.Join(dir, "layers"), l.Addr().String()
}

// An image goes to another engine unchanged: here, to the same one, which has forgotten it.
func TestOffer(t *testing.T) {
	t.Parallel()
	r, dir, at := open(t)
	id, err := of.Import(t.Context(), "mesh-test/"+run+":offer", enginetest.Files{"hello": "one " + run}, `CMD ["/hello"]`)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			name, err := r.Offer(t.Context(), id)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			names = append(names, name)
		})
	}
	all.Wait()
	if names = slices.Compact(names); len(names) != 1 || !strings.HasPrefix(names[0], registry.Repository+"@sha256:") {
		t.Fatalf("names %q", names)
	}
	// It has no other name now than before.
	if i, err := cli.ImageInspect(t.Context(), id); err != nil || len(i.RepoTags) != 1 {
		t.Errorf("tags %q, %v", i.RepoTags, err)
	}
	if _, err := cli.ImageRemove(t.Context(), id, image.RemoveOptions{Force: true, PruneChildren: true}); err != nil {
		t.Fatal(err)
	}
	ref := at + "/" + names[0]
	if err := registry.Pull(t.Context(), engine.Of(cli), ref, ""); err == nil {
		t.Error("pulled without a login")
	}
	if err := registry.Pull(t.Context(), engine.Of(cli), ref, r.Login("n1")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = cli.ImageRemove(context.Background(), ref, image.RemoveOptions{Force: true, PruneChildren: true})
	})
	i, err := cli.ImageInspect(t.Context(), ref)
	if err != nil || i.ID != id || !slices.Equal(i.Config.Cmd, []string{"/hello"}) {
		t.Errorf("%s, want %s, command %q, %v", i.ID, id, i.Config.Cmd, err)
	}

	// Layers that nobody has asked for are removed, and come again.
	if err := r.Clean(time.Now()); err != nil || files(t, dir) == 0 {
		t.Errorf("%d files, %v", files(t, dir), err)
	}
	if err := r.Clean(time.Now().Add(48 * time.Hour)); err != nil || files(t, dir) != 0 {
		t.Errorf("%d files are left, %v", files(t, dir), err)
	}
	if again, err := r.Offer(t.Context(), id); err != nil || again != names[0] || files(t, dir) == 0 {
		t.Errorf("%q, %v, %d files", again, err, files(t, dir))
	}
}

func files(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return n
}

func TestOffer_NoSuchImage(t *testing.T) {
	t.Parallel()
	r, _, _ := open(t)
	if _, err := r.Offer(t.Context(), "sha256:"+strings.Repeat("0", 64)); err == nil {
		t.Error("offered")
	}
}

// An image that another engine has made comes here, with its tags and no other names.
func TestFetch(t *testing.T) {
	t.Parallel()
	r, _, at := open(t)
	id, err := of.Import(t.Context(), "mesh-test/"+run+":fetch", enginetest.Files{"hello": "two " + run}, `CMD ["/hello"]`)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = cli.ImageRemove(context.Background(), id, image.RemoveOptions{Force: true, PruneChildren: true})
	})
	tag := "mesh-test/" + run + ":fetched"
	if got, err := r.Fetch(t.Context(), engine.Of(cli), at, id, []string{tag}); err != nil || got != id {
		t.Fatal(got, err)
	}
	i, err := cli.ImageInspect(t.Context(), tag)
	if err != nil || i.ID != id || len(i.RepoTags) != 2 {
		t.Errorf("%s, %q, %v", i.ID, i.RepoTags, err)
	}
}

// Nodes read. Who does not know a password does nothing.
func TestRights(t *testing.T) {
	t.Parallel()
	r, _, at := open(t)
	var of struct{ Username, Password string }
	text, err := base64.URLEncoding.DecodeString(r.Login("n1"))
	if err = errors.Join(err, json.Unmarshal(text, &of)); err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, user, password string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+at+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(user, password)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	for _, c := range []struct {
		method, path, user, password string
		want                         int
	}{
		{http.MethodGet, "/v2/", of.Username, of.Password, http.StatusOK},
		{http.MethodGet, "/v2/", "n2", of.Password, http.StatusUnauthorized},
		{http.MethodGet, "/v2/", "n2", "", http.StatusUnauthorized},
		{http.MethodGet, "/v2/", "mesh", of.Password, http.StatusUnauthorized},
		{http.MethodGet, "/v2/", "mesh", "", http.StatusUnauthorized},
		{http.MethodPost, "/v2/mesh/image/blobs/uploads/", of.Username, of.Password, http.StatusMethodNotAllowed},
		{http.MethodPut, "/v2/mesh/image/manifests/x", of.Username, of.Password, http.StatusMethodNotAllowed},
		{http.MethodDelete, "/v2/mesh/image/manifests/x", of.Username, of.Password, http.StatusMethodNotAllowed},
	} {
		if got := ask(c.method, c.path, c.user, c.password); got != c.want {
			t.Errorf("%s %s as %s: %d, want %d", c.method, c.path, c.user, got, c.want)
		}
	}
}

// A registry that somebody else runs is filled, and read, with its own login.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	handler := oci.New(oci.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if user, password, _ := q.BasicAuth(); user != "ann" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mu.Lock()
		h := handler
		mu.Unlock()
		h.ServeHTTP(w, q)
	}))
	defer s.Close()
	id, err := of.Import(t.Context(), "mesh-test/"+run+":elsewhere", enginetest.Files{"hello": "three " + run}, `CMD ["/hello"]`)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = cli.ImageRemove(context.Background(), id, image.RemoveOptions{Force: true, PruneChildren: true})
	})
	password := "wrong"
	at := strings.TrimPrefix(s.URL, "http://") + "/team"
	e := registry.NewElsewhere(engine.Of(cli), at, func(_ context.Context, host string) (string, error) {
		if host != strings.TrimPrefix(s.URL, "http://") {
			t.Errorf("asked for the login of %s", host)
		}
		return registrytypes.EncodeAuthConfig(registrytypes.AuthConfig{Username: "ann", Password: password})
	}, slog.New(slog.DiscardHandler))
	if _, err := e.Offer(t.Context(), id); !errors.Is(err, mesh.Failed) || !strings.Contains(err.Error(), "cannot be pushed to "+at) {
		t.Error("with a wrong password:", err)
	}
	password = "secret"
	ref, err := e.Offer(t.Context(), id)
	if err != nil || !strings.HasPrefix(ref, at+"/mesh/image@sha256:") || e.Source(ref) != id {
		t.Fatal(ref, err)
	}
	auth, _ := e.Login(t.Context())
	if err := registry.Pull(t.Context(), engine.Of(cli), ref, auth); err != nil {
		t.Error(err)
	}
	has := func() int { // an engine remembers what it has pulled
		t.Helper()
		_, digest, _ := strings.Cut(ref, "@")
		q, err := http.NewRequestWithContext(t.Context(), http.MethodHead, s.URL+"/v2/team/mesh/image/manifests/"+digest, nil)
		if err != nil {
			t.Fatal(err)
		}
		q.SetBasicAuth("ann", "secret")
		a, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Body.Close()
		return a.StatusCode
	}
	// Somebody removes everything there: it is pushed again once it is missed.
	mu.Lock()
	handler = oci.New(oci.Logger(log.New(io.Discard, "", 0)))
	mu.Unlock()
	if again, err := e.Offer(t.Context(), id); err != nil || again != ref {
		t.Error(again, err)
	}
	if got := has(); got != http.StatusNotFound {
		t.Error("it is still there:", got)
	}
	e.Forget(id)
	if _, err := e.Offer(t.Context(), id); err != nil {
		t.Error(err)
	}
	if got := has(); got != http.StatusOK {
		t.Error("it is not there again:", got)
	}
	s.Close()
	e.Forget(id)
	if _, err := e.Offer(t.Context(), id); !errors.Is(err, mesh.Failed) || !strings.Contains(err.Error(), "cannot be pushed") {
		t.Error("without a registry:", err)
	}
}
