package builder_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"mesh"
	"mesh/builder"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain\r":                              "plain",
		"10%\r50%\r100%":                       "100%",
		"\x1b[32mgreen\x1b[0m":                 "\x1b[32mgreen\x1b[0m",
		"\x1b[31mbleeds":                       "\x1b[31mbleeds\x1b[0m",
		"\x1b[2K\x1b[1Aup":                     "up",
		"\x1b]0;title\x07text\x1b]8;;x\x1b\\.": "text.",
		"bell\x07\x08 tab\t\x7f":               "bell tab\t",
		"caf\xe9 ünï 日本":                       "caf� ünï 日本",
		"\x1b":                                 "",
		"\x1b[":                                "",
		"\x1b(Bx\x1b=":                         "x",
		"c1\u009b31m":                          "c131m",
	} {
		if got := builder.Clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"RUN  a\n b": "RUN a b", "RUN 日本日本日本": "RUN 日本日…"} {
		if got := builder.Shorten(in, 8); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// sim feeds the renderer.
type sim struct {
	ch  chan *bkclient.SolveStatus
	out *output
}

func (s *sim) send(st bkclient.SolveStatus) { s.ch <- &st }

func vertex(name string, change ...func(*bkclient.Vertex)) *bkclient.Vertex {
	now := time.Now()
	v := &bkclient.Vertex{Digest: digest.FromString(name), Name: name, Started: &now}
	for _, fn := range change {
		fn(v)
	}
	return v
}

func cached(v *bkclient.Vertex) { now := time.Now(); v.Cached, v.Completed = true, &now }

func done(d time.Duration) func(*bkclient.Vertex) {
	return func(v *bkclient.Vertex) {
		now := time.Now()
		began := now.Add(-d)
		v.Started, v.Completed = &began, &now
	}
}

func logged(name, text string) []*bkclient.VertexLog {
	return []*bkclient.VertexLog{{Vertex: digest.FromString(name), Data: []byte(text)}}
}

func render(t *testing.T, c mesh.Config, feed func(*sim)) string {
	t.Helper()
	var got string
	synctest.Test(t, func(t *testing.T) {
		s := &sim{ch: make(chan *bkclient.SolveStatus), out: &output{t: t}}
		ended := make(chan struct{})
		go func() { builder.Render(s.out, c, s.ch); close(ended) }()
		feed(s)
		close(s.ch)
		<-ended
		got = s.out.String()
	})
	return got
}

// A generated file is longer than anybody wants to read in each push.
func TestRender_CutsLongTitles(t *testing.T) {
	long := "[2/2] RUN printf '" + strings.Repeat("x", 265) + "planted-value-1' >file"
	got := render(t, mesh.Config{"TOKEN": mesh.NewSecret("planted-value-1")}, func(s *sim) {
		s.send(bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{vertex(long)}})
	})
	if strings.Contains(got, "plant") || len(got) > 330 || !strings.HasPrefix(got, "       #1 [2/2] RUN printf 'xxx") {
		t.Errorf("%q", got)
	}
}

func TestRender(t *testing.T) {
	const npm, gem = "[web 2/3] RUN npm ci", "[api 2/3] RUN bundle"
	for name, c := range map[string]struct {
		config mesh.Config
		feed   func(*sim)
		want   []string
	}{
		"a step, its lines, its end": {nil, func(s *sim) {
			s.send(bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{vertex("[internal] load build context"), vertex("[1/2] FROM docker.io/library/node:22", cached), vertex(npm)}})
			s.send(bkclient.SolveStatus{Logs: logged(npm, "half a ")})
			s.send(bkclient.SolveStatus{Logs: logged(npm, "line\nand\r\nno end")})
			s.send(bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{vertex(npm, done(6100*time.Millisecond))}})
		}, []string{"       #1 [1/2] FROM node:22   CACHED", "       #2 [web 2/3] RUN npm ci", "       half a line", "       and", "       no end", "       #2 DONE 6.1s"}},
		"stages that run together": {nil, func(s *sim) {
			s.send(bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{vertex(npm), vertex(gem)}})
			s.send(bkclient.SolveStatus{Logs: logged(npm, "one\n")})
			s.send(bkclient.SolveStatus{Logs: logged(gem, "two\n")})
			s.send(bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{vertex(npm, done(0))}})
			s.send(bkclient.SolveStatus{Logs: logged(gem, "alone\n")})
		}, []string{"       #1 [web 2/3] RUN npm ci", "       #2 [api 2/3] RUN bundle", "       [web] one", "       [api] two", "       alone"}},
		"progress drawn over itself": {nil, func(s *sim) {
			s.send(bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{vertex(npm)}})
			for range 3000 {
				s.send(bkclient.SolveStatus{Logs: logged(npm, "\r"+strings.Repeat("#", 50))})
			}
			s.send(bkclient.SolveStatus{Logs: logged(npm, "\rdone\n")})
		}, []string{"       #1 [web 2/3] RUN npm ci", "       done"}},
		"silence": {nil, func(s *sim) {
			s.send(bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{vertex(npm)}})
			<-time.After(15 * time.Second)
			s.send(bkclient.SolveStatus{Logs: logged(npm, "x\n")})
			<-time.After(61 * time.Second)
		}, []string{"       #1 [web 2/3] RUN npm ci", "       x", "       … still running: RUN npm ci (45s)", "       … still running: RUN npm ci (75s)"}},
		"a pull": {nil, func(s *sim) {
			from := "[1/2] FROM debian:12"
			s.send(bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{vertex(from)}})
			for i := range 50 { // 5 s
				s.send(bkclient.SolveStatus{Statuses: []*bkclient.VertexStatus{{ID: "sha256:a", Vertex: digest.FromString(from), Current: int64(i) * 1e6, Total: 50e6}, {ID: "sha256:b", Vertex: digest.FromString(from), Current: 1e6, Total: 2e6}}})
				<-time.After(100 * time.Millisecond)
			}
		}, []string{"       #1 [1/2] FROM debian:12", "       pulling the base image: 21.0 of 52.0 MB", "       pulling the base image: 41.0 of 52.0 MB"}},
		"secrets": {mesh.Config{"TOKEN": mesh.NewSecret("tok_1234"), "PEM": mesh.NewSecret("-----BEGIN\nabcdefgH1\n"), "env": mesh.NewSecret("test"), "RAILS_ENV": mesh.NewSecret("production"), "URL": mesh.NewSecret("postgres://u:p@h/d")}, func(s *sim) {
			copied := "[2/2] COPY test /tok_1234"
			s.send(bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{vertex(copied)}})
			s.send(bkclient.SolveStatus{Logs: logged(copied, "using tok_1234\nabcdefgH1\nrunning test in production\nat postgres://u:p@h/d\n")})
		}, []string{"       #1 [2/2] COPY •••••• /••••••", "       using ••••••", "       ••••••", "       running test in production", "       at ••••••"}},
		"a heredoc": {nil, func(s *sim) {
			s.send(bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{vertex("[2/2] RUN <<EOF\necho x\nEOF")}})
		}, []string{"       #1 [2/2] RUN <<EOF …"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := render(t, c.config, c.feed)
			if want := strings.Join(c.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}
