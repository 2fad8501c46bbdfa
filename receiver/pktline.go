package receiver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"mesh"
)

// pkt-lines (gitprotocol-common(5)): four hex digits of length, which counts
// itself, then the payload. Lengths below four are delimiters without payload.

const (
	maxPkt   = 65520
	pktHead  = 4
	bandHead = pktHead + 1
	flushPkt = "0000"
)

// readPkt reads one pkt-line whole, head included. payload is nil for a
// delimiter. buf is reused when it is large enough.
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

// capabilities are what a client has chosen of what git offered.
type capabilities string

func (c capabilities) has(name string) bool {
	for w := range strings.FieldsSeq(string(c)) {
		if w == name {
			return true
		}
	}
	return false
}

// readCapabilities passes the client's first command on and returns the
// capabilities after its NUL. Shallow lines may come before it. ok is false when
// the client sends no command: it has nothing to push.
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

// filter stands between git's output and the client. It adds the kept commits to
// the advertisement, puts the deploy output between git's packets, and holds the
// report until git has ended.
type filter struct {
	w      io.Writer
	p      *push
	kept   []mesh.Commit
	mu     sync.Mutex // one packet at a time
	report bytes.Buffer
}

func newFilter(w io.Writer, p *push, kept []mesh.Commit) *filter {
	return &filter{w: w, p: p, kept: kept}
}

func (f *filter) emit(b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.w.Write(b)
	return err
}

// bandSize is the most that one side-band packet carries, so that it fits one SSH
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

// band2 shows p to the pusher: git prints it behind "remote: ".
func (f *filter) band2(p []byte) error { return f.bandN(2, p) }

// run passes git's output on until it ends. settle is called before the report,
// to let what was said before it get out.
func (f *filter) run(r io.Reader, settle func()) error {
	br := bufio.NewReaderSize(r, 64<<10)
	if err := f.advertise(br); err != nil {
		return err
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
		case !band: // the report comes raw, and the deployment is still to come
			f.report.Write(whole)
		case payload == nil:
			settle()
			if f.report.Len() > 0 {
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
		default: // an empty band 1 is a keep-alive, band 2 is git's own talk
			if err := f.emit(whole); err != nil {
				return err
			}
		}
	}
}

// last lets a report out that is still held when git has ended: every report of a
// client without side band, and that of a git which was killed, whose side band
// has to be ended for it.
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

// advertise passes the ref advertisement on, with the kept commits as ".have"
// lines (gitprotocol-pack(5)): objects of a push that failed are not sent again.
func (f *filter) advertise(r io.Reader) error {
	first := true
	var buf []byte
	for {
		whole, payload, err := readPkt(r, buf)
		if err != nil {
			return err
		}
		buf = whole
		if payload == nil {
			return f.emit(whole)
		}
		if !first || len(f.kept) == 0 || bytes.HasPrefix(payload, []byte("version ")) {
			if err := f.emit(whole); err != nil {
				return err
			}
			continue
		}
		first = false
		var out []byte
		kept := f.kept
		if _, caps, empty := bytes.Cut(payload, []byte(" capabilities^{}\x00")); empty {
			// Nothing else to carry the capabilities: the first .have does, as git has
			// it with alternates.
			out = appendPkt(out, string(kept[0])+" .have\x00"+string(caps))
			kept = kept[1:]
		} else {
			out = append(out, whole...)
		}
		for _, c := range kept {
			out = appendPkt(out, string(c)+" .have\n")
		}
		if err := f.emit(out); err != nil {
			return err
		}
	}
}

// rewrite puts the verdicts into git's report (report-status and
// report-status-v2 of gitprotocol-pack(5)).
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
