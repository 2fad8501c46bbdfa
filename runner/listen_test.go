package runner_test

import (
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/runner"
)

func TestParseListeners(t *testing.T) {
	t.Parallel()
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	for _, c := range []struct{ name, in, want string }{
		{"empty", head, "nothing"},
		{"any address", head + "   0: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000\n", "0.0.0.0:3000"},
		{"loopback", head + "   0: 0100007F:1F90 00000000:0000 0A 0\n", "127.0.0.1:8080"},
		{"a connection is no listener", head + "   0: 0100007F:1F90 0100007F:1234 01 0\n", "nothing"},
		{"IPv6", head + "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0\n", "[::1]:8080"},
		{"IPv6 any is shown as IPv4's", head + "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0\n   1: 00000000:1F90 00000000:0000 0A 0\n", "0.0.0.0:8080"},
		{"IPv4 in IPv6", head + "   0: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 0\n", "127.0.0.1:8080"},
		{"many", head + "   0: 00000000:0004 0:0 0A 0\n   0: 00000000:0003 0:0 0A 0\n   0: 00000000:0001 0:0 0A 0\n   0: 00000000:0002 0:0 0A 0\n", "0.0.0.0:1, 0.0.0.0:2, 0.0.0.0:3, 1 more"},
		{"rubbish", head + "x\n   0: zz:1F90 0:0 0A 0\n   0: 00000000 0:0 0A 0\n   0: 000000:1F90 0:0 0A\n", "nothing"},
	} {
		if got := runner.Describe(runner.ParseListeners([]byte(c.in))); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzParseListeners(f *testing.F) {
	f.Add([]byte("   0: 0100007F:1F90 00000000:0000 0A 0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, a := range runner.ParseListeners(b) {
			if !a.IsValid() {
				t.Errorf("%v", a)
			}
		}
	})
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		300 * time.Millisecond: "0.3s", time.Second: "1s", 15400 * time.Millisecond: "15s", time.Minute: "1m", 90 * time.Second: "1m30s", time.Hour: "1h", 0: "0s",
	} {
		if got := runner.Span(d); got != want {
			t.Errorf("%s: got %q, want %q", d, got, want)
		}
	}
}

func TestListeners_FromInside(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := b.spec("web")
	s.Image, s.Process = shell, mesh.Process{Entrypoint: []string{"/app"}, Cmd: []string{"serve", "127.0.0.1:3000", "200"}}
	in := b.start(s)
	eventually(t, "it listens", func() bool {
		found, ok := runner.ExecListeners(t.Context(), b.Runner, in.ID)
		return ok && strings.Contains(runner.Describe(found), "127.0.0.1:3000")
	})
	bare := b.start(b.spec("worker", "wait"))
	if _, ok := runner.ExecListeners(t.Context(), b.Runner, bare.ID); ok {
		t.Error("there is no cat in there")
	}
}
