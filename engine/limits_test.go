package engine

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// Every path of the engine's API that mesh uses has the right limit.
func TestLimits(t *testing.T) {
	t.Parallel()
	l := limits{read: time.Second, change: time.Minute}
	for line, want := range map[string]struct {
		limit time.Duration
		whole bool
	}{
		"GET /v1.41/containers/json":                   {time.Second, true},
		"GET /v1.41/containers/abc/json":               {time.Second, true},
		"GET /v1.41/images/mesh/shop:v1/json":          {time.Second, true},
		"HEAD /_ping":                                  {time.Second, true},
		"POST /v1.41/containers/abc/exec":              {time.Second, true},
		"GET /v1.41/events":                            {time.Second, false},
		"GET /v1.41/containers/abc/logs":               {time.Second, false},
		"POST /v1.41/containers/abc/wait":              {time.Second, false},
		"POST /v1.41/containers/abc/start":             {time.Minute, true},
		"DELETE /v1.41/containers/abc":                 {time.Minute, true},
		"POST /v1.41/networks/create":                  {time.Minute, true},
		"POST /v1.41/build":                            {0, false},
		"POST /v1.41/build/prune":                      {0, false},
		"POST /v1.41/images/create":                    {0, false},
		"POST /v1.41/images/load":                      {0, false},
		"GET /v1.41/distribution/docker.io/redis/json": {0, false},
		"GET /v1.41/system/df":                         {0, false},
	} {
		var method, path string
		for i := range line {
			if line[i] == ' ' {
				method, path = line[:i], line[i+1:]
			}
		}
		r, err := http.NewRequestWithContext(t.Context(), method, "http://engine"+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if limit, whole := l.limit(r); limit != want.limit || whole != want.whole {
			t.Errorf("%s: %s, whole %v; want %+v", line, limit, whole, want)
		}
	}
}

// An answer that stops in the middle ends like a connection that was cut.
func TestLimits_HalfAnAnswer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "engine.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "[{")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	tr := limits{next: &http.Transport{Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", l.Addr().String()) }}, read: 50 * time.Millisecond}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://engine/containers/json", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}
