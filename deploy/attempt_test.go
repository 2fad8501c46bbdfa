package deploy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
)

type record struct {
	buf    bytes.Buffer
	fail   error
	closed bool
}

func (r *record) Write(b []byte) (int, error) {
	if r.fail != nil {
		return 0, r.fail
	}
	return r.buf.Write(b)
}

func (r *record) Close() error { r.closed = true; return nil }

func TestTranscript_MasksValues(t *testing.T) {
	t.Parallel()
	rec, out := &record{}, &bytes.Buffer{}
	tr := newTranscript(rec, out)
	secret := mesh.NewSecret
	tr.mask([]mesh.Config{{
		"PASSWORD": secret("hunter2hunter2"), "PREFIX": secret("hunter2hunter2-and-more"), "SHORT": secret("true"), "FIVE": secret("12345"), "SIX": secret("123456"),
		"KEY": secret("-----BEGIN KEY-----\nMIIEvQIBADANBg\n  indented-line  \nab\n-----END KEY-----\n"), "EMPTY": secret(""), "BLANK": secret("        "),
	}})
	for _, s := range []string{
		"user=hunter2hunter2 x", "longest first: hunter2hunter2-and-more.", "true 12345 stay", "123456 goes", "-----BEGIN KEY-----", "MIIEvQIBADANBg", "+ indented-line", "ab stays", "        blanks stay",
	} {
		tr.line(s)
	}
	// A value that is written in pieces is still one line.
	for _, s := range []string{"in pie", "ces: hunter2", "hunter2 end\nnext hun", "ter2hunter2"} {
		_, _ = io.WriteString(tr, s)
	}
	tr.say("unmasked: hunter2hunter2")
	if err := tr.Close(); err != nil || !rec.closed {
		t.Error(err)
	}
	const m = "••••••"
	want := "user=" + m + " x\nlongest first: " + m + ".\ntrue 12345 stay\n" + m + " goes\n" + m + "\n" + m + "\n+ " + m + "\nab stays\n        blanks stay\n" +
		"in pieces: " + m + " end\nunmasked: hunter2hunter2\nnext " + m + "\n"
	if out.String() != want || rec.buf.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
	if got := tr.clean("said hunter2hunter2"); got != "said "+m {
		t.Errorf("got %q", got)
	}
	tr.line("after the end")
	if out.String() != want {
		t.Error("something was said after the end")
	}
}

func TestTranscript_RecordThatFailsStopsNobody(t *testing.T) {
	t.Parallel()
	full := errors.New("disk full")
	out := &bytes.Buffer{}
	tr := newTranscript(&record{fail: full}, out)
	tr.line("one")
	tr.line("two")
	if err := tr.Close(); !errors.Is(err, full) || out.String() != "one\ntwo\n" {
		t.Errorf("got %v, %q", err, out.String())
	}
}

func TestTranscript_ManyWriters(t *testing.T) {
	t.Parallel()
	rec := &record{}
	tr := newTranscript(rec, nil)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				tr.line("0123456789")
			}
		})
	}
	all.Wait()
	if err := tr.Close(); err != nil || rec.buf.String() != strings.Repeat("0123456789\n", 400) {
		t.Errorf("%v, %d bytes", err, rec.buf.Len())
	}
}

func TestTranscript_Heartbeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out := &bytes.Buffer{}
		tr := newTranscript(&record{}, out)
		ctx, cancel := context.WithCancel(t.Context())
		var beating sync.WaitGroup
		beating.Go(func() { tr.beat(ctx, func() string { return "building" }) })
		after := func(d time.Duration) string {
			<-time.After(d)
			synctest.Wait()
			tr.mu.Lock()
			defer tr.mu.Unlock()
			s := out.String()
			out.Reset()
			return s
		}
		if s := after(29 * time.Second); s != "" {
			t.Errorf("a beat after 29 s: %q", s)
		}
		if s := after(2 * time.Second); s != "       … still working: building (30 s in all)\n" {
			t.Errorf("after 31 s: %q", s)
		}
		tr.line("something") // the next heartbeat counts from here
		if s := after(29 * time.Second); s != "something\n" {
			t.Errorf("29 s after a line: %q", s)
		}
		if s := after(2 * time.Second); !strings.Contains(s, "(61 s in all)") {
			t.Errorf("31 s after a line: %q", s)
		}
		cancel()
		beating.Wait()
		if s := after(time.Hour); s != "" {
			t.Errorf("after the end: %q", s)
		}
	})
}

func TestRight(t *testing.T) {
	t.Parallel()
	if got := right("left", "r"); len(got) != 73 || got[72:] != "r" {
		t.Errorf("got %q", got)
	}
	if got := right(strings.Repeat("ä", 80), "r"); got != strings.Repeat("ä", 80)+"  r" {
		t.Errorf("got %q", got)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	tl := newTail(&out)
	for i := range 40 {
		_, _ = io.WriteString(tl, strings.Repeat("x", i)+"\r\n")
	}
	_, _ = io.WriteString(tl, "end")
	tl.flush()
	if len(tl.last) != 30 || tl.last[29] != "end" || !strings.HasSuffix(out.String(), "x\n       end\n") || strings.Contains(out.String(), "\r") {
		t.Errorf("%d lines, the last %q", len(tl.last), tl.last)
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	base := func() mesh.InstanceSpec {
		return mesh.InstanceSpec{
			Stack: "blog", Name: mesh.InstanceName{Service: "web", Slot: 1}, Release: 1, Deployment: 1, Image: "sha256:a",
			Process: mesh.Process{Entrypoint: []string{"a", "b"}}, Env: map[string]mesh.Secret{"A": mesh.NewSecret("1"), "MESH_RELEASE": mesh.NewSecret("v1")}, Memory: 1, CPUs: 1,
		}
	}
	seen := map[string]string{fingerprint(base()): "the first"}
	for what, bend := range map[string]func(*mesh.InstanceSpec){
		"slot": func(s *mesh.InstanceSpec) { s.Name.Slot = 2 }, "service": func(s *mesh.InstanceSpec) { s.Name.Service = "worker" }, "image": func(s *mesh.InstanceSpec) { s.Image = "sha256:b" },
		"entrypoint": func(s *mesh.InstanceSpec) { s.Process.Entrypoint = []string{"a b"} }, "cmd": func(s *mesh.InstanceSpec) { s.Process = mesh.Process{Cmd: []string{"a", "b"}} },
		"a value": func(s *mesh.InstanceSpec) { s.Env["A"] = mesh.NewSecret("2") }, "a name": func(s *mesh.InstanceSpec) { s.Env["B"] = mesh.NewSecret("") },
		"a value that is no text": func(s *mesh.InstanceSpec) { s.Env["A"] = mesh.NewSecret("\xff") }, "another such": func(s *mesh.InstanceSpec) { s.Env["A"] = mesh.NewSecret("\xfe") },
		"memory": func(s *mesh.InstanceSpec) { s.Memory = 2 }, "cpus": func(s *mesh.InstanceSpec) { s.CPUs = 2 },
	} {
		s := base()
		bend(&s)
		f := fingerprint(s)
		if other, twice := seen[f]; twice {
			t.Errorf("another %s looks as %s", what, other)
		}
		seen[f] = what
	}
	same := base()
	same.Release, same.Deployment, same.Subnet = 2, 7, netip.MustParsePrefix("10.0.0.0/26")
	same.Env["MESH_RELEASE"] = mesh.NewSecret("v2")
	if fingerprint(same) != fingerprint(base()) {
		t.Error("what a release is called changes the fingerprint")
	}
	// Instances of a mesh that did not set DYNO and SOURCE_VERSION yet run the same.
	older := base()
	older.Env["GIT_REV"] = mesh.NewSecret("1a2b3c")
	newer := base()
	newer.Env = env(mesh.Release{Commit: "1a2b3c", Config: mesh.Config{"A": mesh.NewSecret("1")}}, newer.Name, "")
	if newer.Env["DYNO"].Reveal() != "web.1" || newer.Env["SOURCE_VERSION"].Reveal() != "1a2b3c" {
		t.Errorf("env %v", newer.Env)
	}
	for name := range newer.Env {
		if strings.HasPrefix(name, "MESH_") || name == "PORT" {
			delete(newer.Env, name)
		}
	}
	newer.Env["MESH_RELEASE"] = mesh.NewSecret("v1")
	if fingerprint(newer) != fingerprint(older) {
		t.Error("instances would start anew because of DYNO or SOURCE_VERSION")
	}
	newer.Env["DYNO"] = mesh.NewSecret("own")
	if fingerprint(newer) == fingerprint(older) {
		t.Error("a config var named DYNO does not count")
	}
}

func TestSubnet(t *testing.T) {
	t.Parallel()
	d := New(Options{Pool: netip.MustParsePrefix("10.9.1.77/24")})
	var stacks []mesh.Stack
	for range 4 {
		p, err := d.subnet(stacks)
		if err != nil {
			t.Fatal(err)
		}
		if p.Bits() != subnetBits || p != p.Masked() || !netip.MustParsePrefix("10.9.1.0/24").Overlaps(p) {
			t.Errorf("got %s", p)
		}
		for _, o := range stacks {
			if o.Subnet.Overlaps(p) {
				t.Errorf("%s meets %s", p, o.Subnet)
			}
		}
		stacks = append(stacks, mesh.Stack{Subnet: p})
	}
	if p, err := d.subnet(stacks); !errors.Is(err, mesh.Unavailable) {
		t.Errorf("a fifth of four: %s, %v", p, err)
	}
	if p, err := d.subnet(append(stacks[1:], mesh.Stack{})); err != nil || p != stacks[0].Subnet {
		t.Errorf("the one that is free is %s: %s, %v", stacks[0].Subnet, p, err)
	}
	d.HostNetworks = func() []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix("10.9.1.0/25"), netip.MustParsePrefix("fe80::/10"), {}}
	}
	if p, err := d.subnet(nil); err != nil || p.Addr().As4()[3] < 128 {
		t.Errorf("beside a network of the host: %s, %v", p, err)
	}
}
