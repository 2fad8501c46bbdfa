package receiver

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"mesh"
)

// webReceiver accepts git over HTTP until the test ends, for the tokens "good", "old" and
// "gone".
func webReceiver(t *testing.T) (r *Receiver, stop context.CancelFunc, done <-chan error) {
	t.Helper()
	now := time.Now()
	keys := &keyList{list: []mesh.Key{
		{Name: "plain", Role: mesh.RoleAdmin, Fingerprint: "SHA256:x"},
		{Name: "ci", Role: mesh.RoleDeploy, Token: mesh.HashToken("good"), Expires: now.Add(time.Hour)},
		{Name: "old", Role: mesh.RoleDeploy, Token: mesh.HashToken("late"), Expires: now.Add(-time.Second)},
	}}
	r = New(Options{Keys: keys, HostKey: signer(t), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.ServeWeb(ctx) }()
	for r.web.Load() == nil {
		runtime.Gosched()
	}
	t.Cleanup(cancel)
	return r, cancel, ended
}

func ask(r http.Handler, method, url, token string, change func(*http.Request)) *http.Response {
	req := httptest.NewRequest(method, url, http.NoBody)
	if token != "" {
		req.SetBasicAuth("anyone", token)
	}
	if change != nil {
		change(req)
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	return w.Result()
}

func TestWeb_Refusals(t *testing.T) {
	t.Parallel()
	r, _, _ := webReceiver(t)
	body := func(enc, content string) func(*http.Request) {
		return func(req *http.Request) {
			req.Header.Set("Content-Type", "application/x-git-receive-pack-request")
			req.Header.Set("Content-Encoding", enc)
			req.Body = io.NopCloser(strings.NewReader(content))
		}
	}
	for _, c := range []struct {
		method, url, token string
		change             func(*http.Request)
		status             int
		want               string
	}{
		{"GET", "/blog/info/refs?service=git-receive-pack", "", nil, 401, "an access token is needed"},
		{"GET", "/blog/info/refs?service=git-receive-pack", "bad", nil, 401, "the access token is not known here"},
		{"GET", "/blog/info/refs?service=git-receive-pack", "late", nil, 401, "the access token old expired at"},
		{"GET", "/blog/info/refs?service=git-receive-pack", mesh.HashToken("good"), nil, 401, "the access token is not known here"},
		{"GET", "/blog/info/refs", "good", nil, 403, "only clients with git's smart protocol"},
		{"GET", "/blog/info/refs?service=git-shell", "good", nil, 403, "only clients with git's smart protocol"},
		{"POST", "/blog/info/refs?service=git-receive-pack", "good", nil, 405, "POST is not possible here"},
		{"GET", "/blog/git-receive-pack", "good", nil, 405, "GET is not possible here"},
		{"POST", "/blog/git-receive-pack", "good", nil, 415, "not a request of git's"},
		{"POST", "/blog/git-receive-pack", "good", body("br", ""), 415, `the encoding "br" is not known`},
		{"POST", "/blog/git-receive-pack", "good", body("gzip", "plain"), 415, "not compressed with gzip"},
		{"GET", "/mesh/info/refs?service=git-receive-pack", "good", nil, 404, "reserved"},
		{"GET", "/../blog/info/refs?service=git-receive-pack", "good", nil, 404, "nothing here but git repositories"},
		{"GET", "/blog/objects/info/packs", "good", nil, 404, "nothing here but git repositories"},
		{"GET", "/", "", nil, 404, "nothing here but git repositories"},
		{"POST", "/blog.git/info/lfs/objects/batch", "good", nil, 501, "only over SSH"},
		{"GET", "/blog/info/refs?service=git-receive-pack", "", func(q *http.Request) { q.Header.Set("Authorization", "Bearer bad") }, 401, "the access token is not known here"},
	} {
		res := ask(r, c.method, c.url, c.token, c.change)
		text, _ := io.ReadAll(res.Body)
		if res.StatusCode != c.status || !strings.Contains(string(text), c.want) {
			t.Errorf("%s %s with %q: %d %s", c.method, c.url, c.token, res.StatusCode, text)
		}
		if res.StatusCode == 401 && !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%s: a client does not know how to sign in: %v", c.url, res.Header)
		}
	}
}

// A request that comes while another process takes over waits, and is sent there.
func TestWeb_Retire(t *testing.T) {
	t.Parallel()
	r, _, done := webReceiver(t)
	end, _, ok := r.web.Load().open.begin(false) // a push in progress
	if !ok {
		t.Fatal("no session may begin")
	}
	retired := make(chan error, 1)
	go func() { retired <- r.Retire(t.Context()) }()
	for s := r.web.Load().open; !s.retiring(); {
		runtime.Gosched()
	}
	const url = "/blog/info/refs?service=git-receive-pack"
	answered := make(chan *http.Response, 1)
	go func() { answered <- ask(r, "GET", url, "good", nil) }()
	end()
	if err := within(t, retired, "Retire"); err != nil {
		t.Error(err)
	}
	if err := within(t, done, "ServeWeb"); err != nil {
		t.Error(err)
	}
	res := within(t, answered, "an answer")
	if res.StatusCode != http.StatusTemporaryRedirect || res.Header.Get("Location") != url || res.Header.Get("Connection") != "close" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
}

func TestPlainBody(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write([]byte("0000"))
	_ = z.Close()
	for enc, body := range map[string]string{"": "0000", "identity": "0000", "gzip": packed.String(), "x-gzip": packed.String()} {
		req := httptest.NewRequest("POST", "/", strings.NewReader(body))
		req.Header.Set("Content-Encoding", enc)
		r, err := plainBody(req)
		if err != nil {
			t.Fatalf("%q: %v", enc, err)
		}
		if b, err := io.ReadAll(r); string(b) != "0000" || err != nil {
			t.Errorf("%q: %q, %v", enc, b, err)
		}
	}
}
