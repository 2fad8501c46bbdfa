package registry_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

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

func pull(t *testing.T, ref string) {
	t.Helper()
	body, err := cli.ImagePull(t.Context(), ref, image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	for d := json.NewDecoder(body); ; {
		var m struct {
			Error string `json:"error"`
		}
		if err := d.Decode(&m); err == io.EOF { //nolint:errorlint // unwrapped
			return
		} else if err != nil || m.Error != "" {
			t.Fatal(err, m.Error)
		}
	}
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
	pull(t, ref)
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

// Other nodes read. Who is on this machine and does not know the password does nothing.
func TestRights(t *testing.T) {
	t.Parallel()
	_, _, at := open(t)
	ask := func(method, url string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/v2/", http.StatusOK},
		{http.MethodPost, "/v2/mesh/image/blobs/uploads/", http.StatusMethodNotAllowed},
		{http.MethodPut, "/v2/mesh/image/manifests/x", http.StatusMethodNotAllowed},
		{http.MethodDelete, "/v2/mesh/image/manifests/x", http.StatusMethodNotAllowed},
	} {
		if got := ask(c.method, "http://"+at+c.path); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, got, c.want)
		}
	}
}
