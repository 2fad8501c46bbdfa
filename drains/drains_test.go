package drains_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collect "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"mesh"
	"mesh/drains"
)

var start = time.Date(2026, 1, 2, 15, 4, 5, 123456000, time.UTC)

// queue is a queue in memory.
type queue struct {
	mu    sync.Mutex
	lines []mesh.LogLine
	taken int
}

func (q *queue) add(texts ...string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, text := range texts {
		q.lines = append(q.lines, mesh.LogLine{At: start, Source: "app", Name: "web.1", Release: 3, Text: text, Level: mesh.LevelInfo})
	}
}

func (q *queue) Take() ([]mesh.LogLine, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken = min(len(q.lines), 500)
	return slices.Clone(q.lines[:q.taken]), nil
}

func (q *queue) Done() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lines, q.taken = q.lines[q.taken:], 0
	return nil
}

func (q *queue) Waiting() (int64, int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return int64(len(q.lines)), 0
}

func (q *queue) Wait(ctx context.Context) {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
	}
}

// run sends the lines of a queue to a drain until the test ends.
func run(t *testing.T, d mesh.Drain, q *queue) *drains.Sender {
	t.Helper()
	d.ID, d.Stack = "d1", "blog"
	shown, _, err := drains.Describe(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	d.Shown = shown
	s := drains.New(drains.Options{
		Drains:  func(context.Context) ([]mesh.Drain, error) { return []mesh.Drain{d}, nil },
		Stacks:  func(context.Context) ([]mesh.Stack, error) { return []mesh.Stack{{Name: "blog"}, {Name: "shop"}}, nil },
		Open:    func(mesh.StackName, string) (drains.Queue, error) { return q, nil },
		Close:   func(mesh.StackName, string) {},
		Version: "1.2", Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return s
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
	}
}

// receiver answers with each of some statuses in turn, then with 200, and keeps the bodies
// that it has accepted.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	statuses []int
	requests []*http.Request
	bodies   [][]byte
}

func receive(t *testing.T, tls bool, statuses ...int) *receiver {
	t.Helper()
	r := &receiver{statuses: statuses}
	h := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.requests = append(r.requests, q)
		if len(r.statuses) > 0 {
			code := r.statuses[0]
			r.statuses = r.statuses[1:]
			if code != 200 {
				w.WriteHeader(code)
				_, _ = io.WriteString(w, "no, token-4242 is wrong\x1b[2J")
				return
			}
		}
		r.bodies = append(r.bodies, body)
	})
	if tls {
		r.Server = httptest.NewTLSServer(h)
	} else {
		r.Server = httptest.NewServer(h)
	}
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) got() ([][]byte, []*http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.bodies), slices.Clone(r.requests)
}

func (r *receiver) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}))
}

func TestHTTPS_JSONInOrder(t *testing.T) {
	t.Parallel()
	r := receive(t, true, 503, 200, 500)
	q := &queue{}
	q.add(`{"a":1}`, "two\x00\xff", "<three>")
	s := run(t, mesh.Drain{URL: mesh.NewSecret(strings.Replace(r.URL, "https://", "https://me:pass-word@", 1) + "/in?key=token-4242"), CA: r.ca(), Headers: []mesh.Secret{mesh.NewSecret("X-Key: header-4242")}}, q)
	eventually(t, "the first lines are there", func() bool { return s.Status("d1").Lines == 3 })
	q.add("four")
	eventually(t, "all lines are there", func() bool { return s.Status("d1").Lines == 4 })
	bodies, requests := r.got()
	var texts []string
	for _, b := range bodies {
		for l := range bytes.Lines(b) {
			var got map[string]any
			if err := json.Unmarshal(l, &got); err != nil {
				t.Fatal(err)
			}
			texts = append(texts, got["text"].(string))
			if got["at"] != "2026-01-02T15:04:05.123456Z" || got["stack"] != "blog" || got["source"] != "app" || got["name"] != "web.1" || got["release"] != "v3" || got["level"] != "info" {
				t.Errorf("got %s", l)
			}
		}
	}
	if !slices.Equal(texts, []string{`{"a":1}`, "two\x00\uFFFD", "<three>", "four"}) {
		t.Errorf("got %q", texts)
	}
	user, password, _ := requests[0].BasicAuth()
	if user != "me" || password != "pass-word" || requests[0].Header.Get("X-Key") != "header-4242" || requests[0].URL.String() != "/in?key=token-4242" ||
		requests[0].Header.Get("Content-Type") != "application/x-ndjson" || requests[0].Header.Get("User-Agent") != "mesh/1.2" {
		t.Errorf("the request is %v %v", requests[0].URL, requests[0].Header)
	}
	st := s.Status("d1")
	if st.Waiting != 0 || !st.Failed.IsZero() || st.Failure != "" || st.Sent.IsZero() || st.Lost != 0 || !st.Behind.IsZero() {
		t.Errorf("the status is %+v", st)
	}
}

// A failure is told without secrets; lines that the receiver cannot read do not hold back
// the others for ever.
func TestHTTP_Refusals(t *testing.T) {
	t.Parallel()
	r := receive(t, false, 401)
	q := &queue{}
	q.add("one")
	s := run(t, mesh.Drain{URL: mesh.NewSecret(r.URL + "/?key=token-4242")}, q)
	eventually(t, "it fails", func() bool { return s.Status("d1").Failure != "" })
	if st := s.Status("d1"); st.Failure != `it answers 401 Unauthorized: "no, •••••• is wrong\\x1b[2J"` || st.Failed.IsZero() || st.Behind.IsZero() {
		t.Errorf("the status is %+v", st)
	}
	eventually(t, "it is tried again", func() bool { return s.Status("d1").Lines == 1 && s.Status("d1").Failed.IsZero() })
}

func TestHTTP_TooLarge(t *testing.T) {
	t.Parallel()
	r := receive(t, false, 413, 413)
	q := &queue{}
	q.add("one", "two", "three", "four")
	s := run(t, mesh.Drain{URL: mesh.NewSecret(r.URL)}, q)
	eventually(t, "all lines are there", func() bool { return s.Status("d1").Lines == 4 })
	bodies, _ := r.got()
	if len(bodies) != 3 {
		t.Errorf("%d requests were accepted", len(bodies))
	}
}

func TestOTLP(t *testing.T) {
	t.Parallel()
	r := receive(t, true)
	q := &queue{}
	q.add("one", "two")
	s := run(t, mesh.Drain{URL: mesh.NewSecret("otlp+" + r.URL), CA: r.ca()}, q)
	eventually(t, "the lines are there", func() bool { return s.Status("d1").Lines == 2 })
	bodies, requests := r.got()
	var req collect.ExportLogsServiceRequest
	if err := proto.Unmarshal(bodies[0], &req); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(req.ResourceLogs[0])
	for _, want := range []string{`service.namespace`, `blog`, `blog.web.1`, `service.version`, `v3`, `SEVERITY_NUMBER_INFO`, `1767366245123456000`} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	if n := len(req.ResourceLogs[0].ScopeLogs[0].LogRecords); n != 2 || requests[0].URL.Path != "/v1/logs" || requests[0].Header.Get("Content-Type") != "application/x-protobuf" {
		t.Errorf("%d records at %s", n, requests[0].URL)
	}
}

func TestLoki(t *testing.T) {
	t.Parallel()
	r := receive(t, true)
	q := &queue{}
	q.add("one", "two")
	s := run(t, mesh.Drain{URL: mesh.NewSecret("loki+" + r.URL), CA: r.ca()}, q)
	eventually(t, "the lines are there", func() bool { return s.Status("d1").Lines == 2 })
	bodies, requests := r.got()
	const want = `{"streams":[{"stream":{"instance":"web.1","level":"info","service":"web","source":"app","stack":"blog"},"values":[["1767366245123456000","one"],["1767366245123456000","two"]]}]}`
	if string(bodies[0]) != want || requests[0].URL.Path != "/loki/api/v1/push" {
		t.Errorf("%s got %s", requests[0].URL, bodies[0])
	}
}

// A real rsyslog takes the lines over TLS. It is restarted in between: every line is there,
// in order, with none left out; some may be there twice.
func TestSyslog_RealRsyslog(t *testing.T) {
	t.Parallel()
	rsyslogd, err := exec.LookPath("rsyslogd")
	if err != nil {
		t.Fatal("rsyslogd is missing: apt-get install rsyslog rsyslog-gnutls, or run scripts/programs")
	}
	dir := t.TempDir()
	certs := receive(t, true) // for its certificate, which is for 127.0.0.1
	key, err := certKey(certs)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"cert.pem": certs.ca(), "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port := freePort(t)
	conf := fmt.Sprintf(`global(workDirectory=%[1]q defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="%[1]s/cert.pem"
       defaultNetstreamDriverCertFile="%[1]s/cert.pem" defaultNetstreamDriverKeyFile="%[1]s/key.pem")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
input(type="imtcp" port="%[2]s")
template(name="all" type="string" string="%%pri%%|%%timestamp:::date-rfc3339%%|%%app-name%%|%%procid%%|%%msgid%%|%%msg%%\n")
action(type="omfile" file="%[1]s/out" template="all")
`, dir, port)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	begin := func() (end func()) {
		ctx, cancel := context.WithCancel(context.Background())
		cmd := exec.CommandContext(ctx, rsyslogd, "-n", "-f", filepath.Join(dir, "conf"), "-i", filepath.Join(dir, "pid"))
		cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 5 * time.Second
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return sync.OnceFunc(func() {
			cancel()
			_ = cmd.Wait()
		})
	}
	end := begin()
	defer func() { end() }()
	q := &queue{}
	s := run(t, mesh.Drain{URL: mesh.NewSecret("syslog+tls://127.0.0.1:" + port), CA: certs.ca()}, q)
	long := strings.Repeat("é", 9000) // 18,000 bytes: three messages
	var want []string
	for i := range 1000 {
		want = append(want, fmt.Sprintf("line %d", i))
	}
	q.add(want[:500]...)
	eventually(t, "the first half is sent", func() bool { return s.Status("d1").Lines == 500 })
	end()
	q.add(want[500:]...)
	eventually(t, "it fails", func() bool { return s.Status("d1").Failure != "" })
	end = begin()
	q.add(long, "größe", "\x1b[31mred")
	eventually(t, "all is sent", func() bool { return s.Status("d1").Lines == 1003 })
	var got []string
	eventually(t, "all is written", func() bool {
		f, err := os.Open(filepath.Join(dir, "out"))
		if err != nil {
			return false
		}
		defer f.Close()
		got = nil
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			head, text, ok := strings.Cut(lines.Text(), "|app|")
			if !ok || head != "14|2026-01-02T15:04:05.123456Z|blog|web.1" && head != "14|2026-01-02T15:04:05.123456+00:00|blog|web.1" {
				t.Fatalf("got %q", lines.Text())
			}
			got = append(got, strings.TrimPrefix(text, " "))
		}
		return len(got) > 0 && strings.HasSuffix(got[len(got)-1], "red")
	})
	next := 0
	for _, text := range got {
		if next < len(want) && text == want[next] {
			next++
		}
	}
	if next != len(want) {
		t.Errorf("after %d lines, %q is missing", next, want[next])
	}
	if joined := strings.Join(got, ""); !strings.Contains(joined, long) {
		t.Error("the long line is not whole")
	}
}
