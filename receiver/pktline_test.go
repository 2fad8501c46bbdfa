package receiver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"mesh"
)

const (
	idA = mesh.Commit("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	idB = mesh.Commit("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
	idC = mesh.Commit("cccccccccccccccccccccccccccccccccccccccc")
)

// pkts builds pkt-lines; an empty one is a flush.
func pkts(lines ...string) string {
	var b []byte
	for _, l := range lines {
		if l == "" {
			b = append(b, flushPkt...)
		} else {
			b = appendPkt(b, l)
		}
	}
	return string(b)
}

// unpkt is the inverse of pkts.
func unpkt(t *testing.T, s string) (lines []string) {
	t.Helper()
	r := strings.NewReader(s)
	for {
		_, payload, err := readPkt(r, nil)
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		lines = append(lines, string(payload))
	}
}

func TestReadPkt(t *testing.T) {
	t.Parallel()
	r := strings.NewReader("0006a\n000bhello \x000000" + "0001" + "0002" + "0004" + fmt.Sprintf("%04x", maxPkt) + strings.Repeat("x", maxPkt-4))
	var buf []byte
	for _, want := range []string{"a\n", "hello \x00", "", "", "", "", strings.Repeat("x", maxPkt-4)} {
		whole, payload, err := readPkt(r, buf)
		if err != nil || string(payload) != want || len(whole) < 4 || string(whole[4:]) != want || (payload == nil) != (want == "") {
			t.Errorf("got %q of %q, %v, want %q", payload, whole, err, want)
		}
		buf = whole
	}
	if _, _, err := readPkt(r, buf); !errors.Is(err, io.EOF) {
		t.Errorf("the end is %v", err)
	}
	for _, s := range []string{"000", "0", "0009ab", "zzzz", "-001", "fff1" + strings.Repeat("x", 70000), "+00a123456"} {
		if _, p, err := readPkt(strings.NewReader(s), nil); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%.10q is read as %.10q, %v", s, p, err)
		}
	}
}

func FuzzReadPkt(f *testing.F) {
	f.Add([]byte("0006a\n0000"))
	f.Add([]byte("fff0"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		var buf []byte
		for at := 0; ; {
			whole, payload, err := readPkt(r, buf)
			if err != nil {
				return
			}
			if !bytes.Equal(whole, data[at:at+len(whole)]) {
				t.Fatalf("%q is not what came at %d", whole, at)
			}
			if payload != nil && string(appendPkt(nil, string(payload))[4:]) != string(payload) {
				t.Fatalf("%q is written otherwise", payload)
			}
			at += len(whole)
			buf = whole
		}
	})
}

func TestReadCapabilities(t *testing.T) {
	t.Parallel()
	cmd := "0 1 refs/heads/main\x00 report-status-v2 side-band-64k object-format=sha1\n"
	for in, want := range map[string]struct {
		caps capabilities
		ok   bool
	}{
		pkts(cmd, "") + "PACK":                     {"report-status-v2 side-band-64k object-format=sha1", true},
		pkts("shallow "+string(idA)+"\n", cmd, ""): {"report-status-v2 side-band-64k object-format=sha1", true},
		pkts(""): {"", false},
	} {
		var passed bytes.Buffer
		r := strings.NewReader(in)
		caps, ok, err := readCapabilities(&passed, r)
		rest, _ := io.ReadAll(r)
		if err != nil || caps != want.caps || ok != want.ok || passed.String()+string(rest) != in {
			t.Errorf("%q: %q, %v, %v; passed on %q", in, caps, ok, err, passed.String())
		}
	}
	if !capabilities("a side-band-64k").has("side-band-64k") || capabilities("side-band-64kx").has("side-band-64k") || capabilities("").has("") {
		t.Error("a capability is a whole word")
	}
	if _, ok, err := readCapabilities(io.Discard, strings.NewReader("")); ok || err == nil {
		t.Errorf("a client that hangs up: %v, %v", ok, err)
	}
}

func testPush(t *testing.T, caps capabilities, verdict map[string]string) *push {
	return &push{r: &Receiver{Options: Options{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}}, caps: caps, verdict: verdict}
}

const advert = string(idC) + " refs/heads/main\x00report-status side-band-64k\n"

var deployedC = advertised{state: mesh.RepoState{Branch: "main", Commit: idC}}

// filtered runs a filter over git's output and returns what the client gets.
func filtered(t *testing.T, p *push, shown advertised, git string) (client string, settled int) {
	t.Helper()
	var out bytes.Buffer
	f := newFilter(&out, p, shown)
	err := f.run(strings.NewReader(git), func() {
		if settled++; settled == 1 && strings.Contains(out.String(), "unpack") {
			t.Error("the report was out before the deployment had settled")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), settled
}

func TestFilter_HoldsTheReportAndPutsTheVerdictIn(t *testing.T) {
	t.Parallel()
	p := testPush(t, "report-status side-band-64k", map[string]string{"refs/heads/main": "build failed: 'RUN false' exited 1", "refs/tags/v1": ""})
	report := pkts("unpack ok\n", "ok refs/heads/main\n", "ok refs/tags/v1\n", "")
	git := pkts(advert, "") + pkts("\x02Resolving\n", "\x01"+report[:20]) + "0005\x01" + pkts("\x01"+report[20:], "\x02more\n", "")
	got, settled := filtered(t, p, deployedC, git)
	lines := unpkt(t, got)
	want := []string{
		advert, "", "\x02Resolving\n", "\x01", "\x02more\n",
		"\x01" + pkts("unpack ok\n", "ng refs/heads/main build failed: 'RUN false' exited 1\n", "ok refs/tags/v1\n", ""), "",
	}
	if fmt.Sprintf("%q", lines) != fmt.Sprintf("%q", want) || settled == 0 {
		t.Errorf("got  %q\nwant %q", lines, want)
	}
}

func TestFilter_WithoutSideBand(t *testing.T) {
	t.Parallel()
	p := testPush(t, "report-status", map[string]string{"refs/heads/main": ""})
	got, settled := filtered(t, p, deployedC, pkts(advert, "")+pkts("unpack ok\n", "ok refs/heads/main\n", ""))
	if want := pkts(advert, "", "unpack ok\n", "ok refs/heads/main\n", ""); got != want || settled == 0 {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A git that is killed between its report and the end of the side band must neither
// look like success nor break the client's reading.
func TestFilter_GitDiesBeforeTheEnd(t *testing.T) {
	t.Parallel()
	p := testPush(t, "report-status side-band-64k", map[string]string{})
	got, _ := filtered(t, p, deployedC, pkts(advert, "")+pkts("\x01"+pkts("unpack ok\n", "ok refs/heads/main\n", "")))
	lines := unpkt(t, got)
	want := []string{advert, "", "\x01" + pkts("unpack ok\n", "ng refs/heads/main not deployed (the deploy hook did not run)\n", ""), ""}
	if fmt.Sprintf("%q", lines) != fmt.Sprintf("%q", want) {
		t.Errorf("got  %q\nwant %q", lines, want)
	}
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		verdict  map[string]string
		in, want []string
	}{
		"accepted": {
			map[string]string{"refs/heads/main": ""},
			[]string{"unpack ok\n", "ok refs/heads/main\n", ""},
			[]string{"unpack ok\n", "ok refs/heads/main\n", ""},
		},
		"refused loses its options": {
			map[string]string{"refs/heads/a": "no", "refs/heads/b": ""},
			[]string{"unpack ok\n", "ok refs/heads/a\n", "option refname refs/x\n", "option old-oid 0\n", "ok refs/heads/b\n", "option new-oid 1\n", ""},
			[]string{"unpack ok\n", "ng refs/heads/a no\n", "ok refs/heads/b\n", "option new-oid 1\n", ""},
		},
		"the hook did not run": {
			nil,
			[]string{"unpack ok\n", "ok refs/heads/main\n", "option forced-update\n", ""},
			[]string{"unpack ok\n", "ng refs/heads/main not deployed (the deploy hook did not run)\n", ""},
		},
		"refused by the update hook": {
			map[string]string{"refs/heads/x": "blog deploys main only"},
			[]string{"unpack ok\n", "ng refs/heads/x hook declined\n", ""},
			[]string{"unpack ok\n", "ng refs/heads/x blog deploys main only\n", ""},
		},
		"git's own refusal": {
			map[string]string{"refs/heads/main": ""},
			[]string{"unpack ok\n", "ng refs/heads/other non-fast-forward\n", ""},
			[]string{"unpack ok\n", "ng refs/heads/other non-fast-forward\n", ""},
		},
		"no unpack": {
			nil,
			[]string{"unpack index-pack abnormal exit\n", "ng refs/heads/main unpacker error\n", ""},
			[]string{"unpack index-pack abnormal exit\n", "ng refs/heads/main unpacker error\n", ""},
		},
		"no line ends": {
			map[string]string{"refs/heads/main": "no"},
			[]string{"unpack ok", "ok refs/heads/main", ""},
			[]string{"unpack ok", "ng refs/heads/main no\n", ""},
		},
	} {
		p := testPush(t, "", tc.verdict)
		if got := string(p.rewrite([]byte(pkts(tc.in...)))); got != pkts(tc.want...) {
			t.Errorf("%s:\ngot  %q\nwant %q", name, got, pkts(tc.want...))
		}
	}
}

func TestAdvertise_WhatIsDeployedAndWhatIsThere(t *testing.T) {
	t.Parallel()
	const caps = "\x00report-status side-band-64k\n"
	main := mesh.RepoState{Branch: "main", Commit: idC}
	for name, tc := range map[string]struct {
		shown    advertised
		in, want []string
	}{
		"nothing else": {advertised{main, nil}, []string{advert, ""}, []string{advert, ""}},
		"kept commits": {
			advertised{main, []mesh.Commit{idA, idB}},
			[]string{advert, string(idB) + " refs/tags/v1\n", ""},
			[]string{advert, string(idB) + " refs/tags/v1\n", string(idA) + " .have\n", string(idB) + " .have\n", ""},
		},
		"version line first, shallow lines last": {
			advertised{main, []mesh.Commit{idA}},
			[]string{"version 1\n", advert, "shallow " + string(idB) + "\n", ""},
			[]string{"version 1\n", advert, string(idA) + " .have\n", "shallow " + string(idB) + "\n", ""},
		},
		"an empty repository": {
			advertised{have: []mesh.Commit{idA, idB}},
			[]string{zeroID + " capabilities^{}\x00report-status delete-refs\n", ""},
			[]string{string(idA) + " .have\x00report-status delete-refs\n", string(idB) + " .have\n", ""},
		},
		"nothing at all": {
			advertised{},
			[]string{zeroID + " capabilities^{}\x00report-status delete-refs\n", ""},
			[]string{zeroID + " capabilities^{}\x00report-status delete-refs\n", ""},
		},
		"a push under way": {
			advertised{mesh.RepoState{Branch: "main", Commit: idA}, nil},
			[]string{advert, string(idB) + " refs/heads/other\n", ""},
			[]string{string(idA) + " refs/heads/main" + caps, string(idC) + " .have\n", string(idB) + " .have\n", ""},
		},
		"what runs is not from here": {
			advertised{mesh.RepoState{Branch: "main"}, nil},
			[]string{advert, ""},
			[]string{string(idC) + " .have" + caps, ""},
		},
	} {
		got, _ := filtered(t, testPush(t, "", nil), tc.shown, pkts(tc.in...))
		if got != pkts(tc.want...) {
			t.Errorf("%s:\ngot  %q\nwant %q", name, got, pkts(tc.want...))
		}
	}
}

func TestBand_IsCutToPackets(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	text := strings.Repeat("0123456789", 10_000)
	if err := newFilter(&out, testPush(t, "", nil), advertised{}).band2([]byte(text)); err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, l := range unpkt(t, out.String()) {
		if l[0] != 2 || len(l) > 32768 {
			t.Errorf("a packet of %d bytes in band %d", len(l), l[0])
		}
		got += l[1:]
	}
	if got != text {
		t.Error("the text came out otherwise")
	}
}
