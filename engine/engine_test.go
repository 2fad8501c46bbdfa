package engine_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	docker "github.com/docker/docker/client"

	"mesh/engine"
)

// An engine that is away at the start, and is updated later, is asked in its version, by
// all goroutines. The race detector watches.
func TestClient_FollowsTheVersion(t *testing.T) {
	t.Parallel()
	sock := filepath.Join(t.TempDir(), "docker.sock")
	c, err := engine.New("unix://"+sock, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	list := func() error {
		_, err := c.API(t.Context()).ContainerList(t.Context(), container.ListOptions{})
		return err
	}
	if err := list(); !docker.IsErrConnectionFailed(err) {
		t.Fatalf("without an engine: %v", err)
	}

	stop := make(chan struct{})
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = list()
				}
			}
		})
	}
	var version atomic.Value
	version.Store("1.41")
	asked := make(chan string) // in which version
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", version.Load().(string))
		if in, ok := strings.CutSuffix(r.URL.Path, "/containers/json"); ok {
			select {
			case asked <- in:
			case <-stop:
			}
			_, _ = w.Write([]byte("[]"))
		}
	})}}
	srv.Start()
	defer srv.Close()
	for _, v := range []string{"1.41", "1.44", "1.41"} {
		version.Store(v)
		for in := ""; in != "/v"+v; in = <-asked {
			t.Logf("asked in version %s, until it is /v%s", in, v)
		}
	}
	close(stop)
	asking.Wait()
	if err := list(); err != nil {
		t.Error(err)
	}
}
