package receiver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"mesh"
)

// pkt-lines (gitprotocol-common(5)) have a length of four hex digits, which counts
// itself, then the payload. Lengths below four are delimiters without payload.

const (
	maxPkt   = 65520
	pktHead  = 4
	bandHead = pktHead + 1
	flushPkt = "0000"
)

// readPkt reads a whole pkt-line, including its length. payload is nil for a delimiter.
// buf is reused if it is large enough.
func readPkt(r io.Reader, buf []byte) (whole, payload []byte, err error) {
	buf = append(buf[:0], 0, 0, 0, 0)
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, nil, err
	}
	n, err := strconv.ParseUint(string(buf), 16, 32)
	if err != nil || n > maxPkt {
		return nil, nil, fmt.Errorf("read pkt-line: malformed length %q", buf)
	}
	if n <= pktHead {
		return buf, nil, nil
	}
	if cap(buf) < int(n) {
		buf = append(make([]byte, 0, maxPkt), buf...)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf[pktHead:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, nil, err
	}
	return buf, buf[pktHead:], nil
}

func appendPkt(b []byte, payload string) []byte {
	return fmt.Appendf(b, "%04x%s", len(payload)+pktHead, payload)
}

// capabilities are the capabilities that a client has chosen from git's.
type capabilities string

func (c capabilities) has(name string) bool {
	for w := range strings.FieldsSeq(string(c)) {
		if w == name {
			return true
		}
	}
	return false
}

// readCapabilities passes the client's first command on and returns the capabilities
// after its NUL. Shallow lines may come before it. ok is false if the client sends no
// command, because it has nothing to push.
func readCapabilities(w io.Writer, r io.Reader) (caps capabilities, ok bool, err error) {
	for {
		whole, payload, err := readPkt(r, nil)
		if err != nil {
			return "", false, err
		}
		if _, err := w.Write(whole); err != nil {
			return "", false, err
		}
		if payload == nil {
			return "", false, nil
		}
		if _, after, found := bytes.Cut(payload, []byte{0}); found {
			return capabilities(bytes.TrimSpace(after)), true, nil
		}
	}
}

// filter sits between git's output and the client. It adds the kept commits to the
// advertisement, inserts the deploy output between git's packets, and holds the report
// until git has ended.
type filter struct {
	w      io.Writer
	p      *push
	shown  advertised
	mu     sync.Mutex // one packet at a time
	report bytes.Buffer
	talk   []byte // the last of git's own messages to the pusher

	stateless bool // the refs were advertised before
}

// advertised is what a pusher sees of a repository's branches.
type advertised struct {
	state mesh.RepoState // what is deployed
	have  []mesh.Commit  // commits that clients need not send again
}

func newFilter(w io.Writer, p *push, shown advertised) *filter {
	return &filter{w: w, p: p, shown: shown}
}

func (f *filter) emit(b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.w.Write(b)
	return err
}

// bandSize is the largest payload of one side-band packet, so that it fits one SSH
// packet of 32 KiB.
const bandSize = 32768 - 9 - bandHead

func (f *filter) bandN(band byte, p []byte) error {
	for len(p) > 0 {
		k := min(len(p), bandSize)
		b := fmt.Appendf(make([]byte, 0, k+bandHead), "%04x%c", k+bandHead, band)
		if err := f.emit(append(b, p[:k]...)); err != nil {
			return err
		}
		p = p[k:]
	}
	return nil
}

// band2 shows p to the pusher: git prints it after "remote: ".
func (f *filter) band2(p []byte) error { return f.bandN(2, p) }

// run passes git's output on until it ends. It calls settle before the report, so that
// earlier output is sent first.
func (f *filter) run(r io.Reader, settle func()) error {
	br := bufio.NewReaderSize(r, 64<<10)
	if !f.stateless {
		if err := f.advertise(br); err != nil {
			return err
		}
	}
	var buf []byte
	for {
		whole, payload, err := readPkt(br, buf)
		f.p.mu.Lock()
		band := f.p.caps.has("side-band-64k")
		f.p.mu.Unlock()
		if err != nil {
			settle()
			if werr := f.last(band); werr != nil {
				return werr
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		buf = whole
		switch {
		case !band: // the report comes raw, before the deployment
			f.report.Write(whole)
		case payload == nil:
			settle()
			if f.report.Len() > 0 {
				if err := f.explain(); err != nil {
					return err
				}
				if err := f.bandN(1, f.p.rewrite(f.report.Bytes())); err != nil {
					return err
				}
				f.report.Reset()
			}
			if err := f.emit(whole); err != nil {
				return err
			}
		case payload[0] == 1 && len(payload) > 1:
			f.report.Write(payload[1:])
		default: // an empty band 1 is a keep-alive, band 2 is git's own message
			if payload[0] == 2 {
				f.talk = append(f.talk, payload[1:]...)
				f.talk = f.talk[max(0, len(f.talk)-maxTalk):]
			}
			if err := f.emit(whole); err != nil {
				return err
			}
		}
	}
}

// maxTalk is how much of git's messages is kept, to find the reason of a failure.
const maxTalk = 4 << 10

// explain describes in mesh's words why git could not take the pack, and what to do.
func (f *filter) explain() error {
	_, payload, err := readPkt(bytes.NewReader(f.report.Bytes()), nil)
	if err != nil || !bytes.HasPrefix(payload, []byte("unpack ")) || string(bytes.TrimSpace(payload)) == "unpack ok" {
		return nil //nolint:nilerr // there is no report to explain
	}
	fault := unpackFault(string(f.talk))
	if fault == nil {
		return nil
	}
	f.p.mu.Lock()
	f.p.unpack = fault.Text
	f.p.mu.Unlock()
	var b bytes.Buffer
	printRefusal(&b, fault)
	return f.band2(b.Bytes())
}

// last sends a report that is still held when git has ended: any report of a client
// without side band, and that of a killed git, whose side band must be closed.
func (f *filter) last(band bool) error {
	if f.report.Len() == 0 {
		return nil
	}
	report := f.p.rewrite(f.report.Bytes())
	if !band {
		return f.emit(report)
	}
	if err := f.bandN(1, report); err != nil {
		return err
	}
	return f.emit([]byte(flushPkt))
}

// advertise passes the ref advertisement on (gitprotocol-pack(5)). It shows the
// branches that the pusher should see. git's other branches, and the commits of failed
// pushes, become ".have" lines: their objects are not sent again.
func (f *filter) advertise(r io.Reader) error {
	var refs, have, after []string
	caps := ""
	seen := map[string]bool{}
	add := func(id string) {
		if !seen[id] && len(have) < maxHave {
			have = append(have, id+" .have")
		}
		seen[id] = true
	}
	heads := f.shown.state.Heads()
	for _, branch := range slices.Sorted(maps.Keys(heads)) {
		refs = append(refs, string(heads[branch])+" refs/heads/"+branch)
		seen[string(heads[branch])] = true
	}
	var buf []byte
	for {
		whole, payload, err := readPkt(r, buf)
		if err != nil {
			return err
		}
		buf = whole
		if payload == nil {
			break
		}
		line, c, found := strings.Cut(strings.TrimSuffix(string(payload), "\n"), "\x00")
		if found {
			caps = c
		}
		id, name, _ := strings.Cut(line, " ")
		switch {
		case id == "version":
			if err := f.emit(whole); err != nil {
				return err
			}
		case name == "capabilities^{}": // git has no refs to show
		case id == "shallow":
			after = append(after, line)
		case name == ".have", strings.HasPrefix(name, "refs/heads/"):
			add(id)
		default:
			refs = append(refs, line)
		}
	}
	for _, c := range f.shown.have {
		add(string(c))
	}
	lines := append(refs, have...)
	if len(lines) == 0 {
		lines = []string{zeroID + " capabilities^{}"}
	}
	lines[0] += "\x00" + caps
	for _, line := range append(lines, after...) {
		if err := f.emit(appendPkt(nil, line+"\n")); err != nil {
			return err
		}
	}
	return f.emit([]byte(flushPkt))
}

// maxHave limits the ".have" lines of an advertisement.
const maxHave = 100

const zeroID = "0000000000000000000000000000000000000000"

// rewrite puts the verdicts into git's report (report-status and report-status-v2 of
// gitprotocol-pack(5)).
func (p *push) rewrite(report []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []byte
	r := bytes.NewReader(report)
	skip := false // option lines belong to the ok line before them
	for {
		whole, payload, err := readPkt(r, nil)
		if err != nil {
			return out
		}
		if payload == nil {
			out = append(out, flushPkt...)
			continue
		}
		word, rest, _ := strings.Cut(strings.TrimSuffix(string(payload), "\n"), " ")
		ref, _, _ := strings.Cut(rest, " ")
		reason, decided := p.verdict[ref]
		switch word {
		case "ok":
			if !decided {
				reason = "not deployed (the deploy hook did not run)"
			}
			if skip = reason != ""; skip {
				out = appendPkt(out, "ng "+ref+" "+reason+"\n")
				continue
			}
		case "ng":
			skip = false
			if reason == "" {
				reason = p.unpack
			}
			if reason != "" {
				out = appendPkt(out, "ng "+ref+" "+reason+"\n")
				continue
			}
		case "option":
			if skip {
				continue
			}
		}
		out = append(out, whole...)
	}
}
