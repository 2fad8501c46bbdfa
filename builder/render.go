package builder

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	bkclient "github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"mesh"
	"mesh/builder/detect"
	"mesh/reasons"
)

const (
	indent    = "       "
	warnMark  = " !     "
	heartbeat = 30 * time.Second // of silence, before a line says what is still running
	pullEvery = 2 * time.Second
	longTitle = 300         // characters of a step; generated files are longer
	longStep  = time.Second // a step that takes at least this long gets a line at its end
	notable   = 50 * time.Millisecond
	evidence  = 30       // lines of a failing step
	maxPart   = 64 << 10 // of a line without an end
	argMasked = 3        // values of build args of at least this many bytes are masked in the names of steps
)

// printer writes whole lines and masks config values in them.
type printer struct {
	mu      sync.Mutex
	w       io.Writer
	secret  []string
	longest int               // of the values, minus one
	values  *strings.Replacer // in what programs print
	names   *strings.Replacer // in names of steps and texts of errors, where BuildKit expands ARGs
	wrote   chan struct{}     // gets a value after each line, if somebody listens
}

func newPrinter(w io.Writer, c mesh.Config) *printer {
	p := &printer{w: w, wrote: make(chan struct{}, 1)}
	p.secret = c.Hidden(isWord)
	for _, part := range p.secret {
		p.longest = max(p.longest, len(part)-1)
	}
	p.values = masker(p.secret)
	p.names = p.values
	return p
}

// declare adds the values of build args: every one of them is masked where BuildKit
// expands them in the name of a step.
func (p *printer) declare(args map[string]string) {
	all := slices.Clone(p.secret)
	for _, v := range args {
		if len(v) >= argMasked {
			all = append(all, v)
		}
	}
	p.names = masker(all)
}

// isWord reports whether a value is a plain word, "production" for example, which is
// not secret and appears everywhere.
func isWord(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz-_./") == "" || strings.Trim(s[1:], "abcdefghijklmnopqrstuvwxyz") == ""
}

// masker hides values, and mesh's own prefix, which is not part of the tree's build.
func masker(values []string) *strings.Replacer {
	return mesh.NewMasker(values, detect.ConfigPrefix)
}

// line writes one line of a program's output.
func (p *printer) line(prefix, s string) { p.write(prefix + p.values.Replace(s)) }

// title is the name of a step as it is printed. It is masked before it is cut: half a
// value is still a value.
func (p *printer) title(s string) string {
	if len(s) <= longTitle {
		return s
	}
	return shorten(p.names.Replace(s), longTitle)
}

// detail writes one line of mesh's own.
func (p *printer) detail(s string) { p.write(indent + p.names.Replace(s)) }

// warn writes one line about a fault that does not end the build.
func (p *printer) warn(s string) { p.write(warnMark + p.names.Replace(s)) }

func (p *printer) write(s string) {
	p.mu.Lock()
	_, _ = io.WriteString(p.w, strings.TrimRight(s, " ")+"\n")
	p.mu.Unlock()
	select {
	case p.wrote <- struct{}{}:
	default:
	}
}

// renderer writes BuildKit's status as lines, each as it arrives: a line when a step
// starts, and its output below. While several steps run, each line of output starts
// with the name of its stage. BuildKit's own plain rendering holds back the output
// of all steps but one, for seconds.
//
// Ask for the failed step only after the stream has ended: its last output arrives
// after the event that reports the failure.
type renderer struct {
	out     *printer
	steps   map[digest.Digest]*step
	order   []*step
	numbers int
}

// step is the state of one of BuildKit's vertices.
type step struct {
	digest  digest.Digest
	name    string // "RUN npm ci"
	title   string // "[build 2/4] RUN npm ci"
	stage   string
	quiet   bool // BuildKit's own, not from the Dockerfile
	number  int  // as shown; 0: not shown yet
	started time.Time
	took    time.Duration // once it has ended
	cached  bool
	done    bool
	err     string
	part    []byte // of a line
	reason  reasons.Finder
	last    []string // lines
	layers  map[string][2]int64
	pulled  time.Time // when progress was last shown
}

func newRenderer(out *printer) *renderer {
	return &renderer{out: out, steps: map[digest.Digest]*step{}}
}

// run renders until ch is closed.
func (r *renderer) run(ch <-chan *bkclient.SolveStatus) {
	silence := time.NewTimer(heartbeat)
	defer silence.Stop()
	for {
		select {
		case st, ok := <-ch:
			if !ok {
				for _, s := range r.order {
					r.flush(s)
				}
				return
			}
			r.status(st)
		case <-r.out.wrote:
			silence.Reset(heartbeat)
		case <-silence.C:
			r.beat()
			silence.Reset(heartbeat)
		}
	}
}

func (r *renderer) status(st *bkclient.SolveStatus) {
	for _, v := range st.Vertexes {
		r.vertex(v)
	}
	for _, u := range st.Statuses {
		r.progress(u)
	}
	for _, l := range st.Logs {
		r.output(r.step(l.Vertex), l.Data)
	}
}

func (r *renderer) step(d digest.Digest) *step {
	s := r.steps[d]
	if s == nil {
		s = &step{digest: d, layers: map[string][2]int64{}}
		r.steps[d] = s
		r.order = append(r.order, s)
	}
	return s
}

func (r *renderer) vertex(v *bkclient.Vertex) {
	s := r.step(v.Digest)
	s.describe(v.Name)
	if v.Started != nil && s.started.IsZero() && !v.Cached {
		s.started = time.Now()
		r.title(s, "")
	}
	if v.Error != "" {
		s.err = v.Error
	}
	if v.Completed == nil || s.done {
		return
	}
	s.done, s.cached = true, v.Cached
	if v.Started != nil {
		s.took = v.Completed.Sub(*v.Started)
	}
	r.flush(s)
	switch {
	case s.quiet || v.Error != "":
	case v.Cached:
		r.title(s, "   CACHED")
	case v.Started != nil && v.Completed.Sub(*v.Started) > longStep:
		r.out.detail(fmt.Sprintf("#%d DONE %.1fs", s.number, v.Completed.Sub(*v.Started).Seconds()))
	}
}

// work summarizes the steps.
func (r *renderer) work() mesh.Work {
	var w mesh.Work
	for _, s := range r.order {
		if s.quiet || s.number == 0 {
			continue
		}
		w.Steps++
		if s.cached {
			w.Cached++
		} else if s.took > w.Took {
			w.Slowest, w.Took = shorten(r.out.names.Replace(s.name), 40), s.took
		}
	}
	if w.Took < notable {
		w.Slowest, w.Took = "", 0
	}
	return w
}

// title prints a step with its number.
func (r *renderer) title(s *step, suffix string) {
	if s.quiet {
		return
	}
	if s.number != 0 {
		r.out.detail(fmt.Sprintf("#%d%s", s.number, suffix))
		return
	}
	r.numbers++
	s.number = r.numbers
	r.out.detail(fmt.Sprintf("#%d %s%s", s.number, r.out.title(s.title), suffix))
}

// progress prints how far the layers of a base image have been pulled.
func (r *renderer) progress(u *bkclient.VertexStatus) {
	s := r.step(u.Vertex)
	if u.Total <= 0 || strings.HasPrefix(u.ID, "extracting") || strings.HasPrefix(u.Name, "extracting") {
		return
	}
	s.layers[u.ID] = [2]int64{u.Current, u.Total}
	if s.pulled.IsZero() {
		s.pulled = time.Now() // a step that takes no time needs no line
	}
	if time.Since(s.pulled) < pullEvery {
		return
	}
	s.pulled = time.Now()
	var have, all int64
	for _, l := range s.layers {
		have, all = have+l[0], all+l[1]
	}
	r.out.detail(fmt.Sprintf("pulling the base image: %.1f of %.1f MB", float64(have)/1e6, float64(all)/1e6))
}

func (r *renderer) output(s *step, data []byte) {
	s.part = append(s.part, data...)
	for {
		i := bytes.IndexByte(s.part, '\n')
		if i < 0 {
			break
		}
		r.line(s, s.part[:i])
		s.part = s.part[i+1:]
	}
	if len(s.part) > maxPart {
		if i := bytes.LastIndexByte(s.part, '\r'); i >= 0 {
			s.part = slices.Clone(s.part[i:])
		}
		if len(s.part) > maxPart {
			// The beginning of a value to mask waits for the rest of it.
			s.part = []byte(r.out.values.Replace(string(s.part)))
			keep := min(r.out.longest, len(s.part))
			rest := slices.Clone(s.part[len(s.part)-keep:])
			s.part = s.part[:len(s.part)-keep]
			r.flush(s)
			s.part = rest
		}
	}
}

func (r *renderer) flush(s *step) {
	if len(s.part) > 0 {
		r.line(s, s.part)
		s.part = nil
	}
}

func (r *renderer) line(s *step, b []byte) {
	text := clean(b)
	s.reason.Add(text)
	s.last = append(s.last, text)
	if len(s.last) > 2*evidence {
		s.last = slices.Clone(s.last[evidence:])
	}
	prefix := indent
	if s.stage != "" && r.running() > 1 {
		prefix += "[" + s.stage + "] "
	}
	r.out.line(prefix, text)
}

func (r *renderer) running() (n int) {
	for _, s := range r.order {
		if !s.quiet && !s.started.IsZero() && !s.done {
			n++
		}
	}
	return n
}

// beat says which step is taking so long.
func (r *renderer) beat() {
	var longest *step
	for _, s := range r.order {
		if s.started.IsZero() || s.done {
			continue
		}
		if longest == nil || longest.quiet && !s.quiet || longest.quiet == s.quiet && s.started.Before(longest.started) {
			longest = s
		}
	}
	if longest == nil {
		r.out.detail("… still building")
		return
	}
	r.out.detail(fmt.Sprintf("… still running: %s (%.0fs)", r.out.title(longest.name), time.Since(longest.started).Seconds()))
}

// culprit is the step that failed: the one named, or the first with an error other
// than being stopped because of another step.
func (r *renderer) culprit(d digest.Digest) *step {
	if s := r.steps[d]; s != nil && d != "" {
		return s
	}
	for _, s := range r.order {
		if s.err != "" && !strings.Contains(s.err, "context canceled") {
			return s
		}
	}
	return nil
}

// evidence is the last output of the step, with the reason of its failure at the end,
// and what to do about that. Both are masked.
func (j *job) evidence(s *step) (lines []string, hint string) {
	reason := s.reason.Reason()
	for _, l := range reason.Last(s.last, evidence) {
		lines = append(lines, j.out.values.Replace(l))
	}
	return lines, j.out.values.Replace(reason.HintFor(string(j.Stack)))
}

// describe splits "[build 3/6] RUN npm ci".
func (s *step) describe(name string) {
	title, _, more := strings.Cut(name, "\n")
	if more {
		title += " …"
	}
	s.title, s.name = title, title
	s.quiet = !strings.HasPrefix(name, "[") || strings.HasPrefix(name, "[internal]") || strings.HasPrefix(name, "[auth]")
	in, rest, ok := strings.Cut(strings.TrimPrefix(title, "["), "] ")
	if !ok || !strings.HasPrefix(title, "[") {
		return
	}
	if image, ok := strings.CutPrefix(rest, "FROM "); ok {
		rest = "FROM " + familiar(image)
		s.title = "[" + in + "] " + rest
	}
	s.name = rest
	if stage, _, ok := strings.Cut(in, " "); ok {
		s.stage = stage
	}
}

// clean turns what a program wrote to a terminal into one line. It keeps the last
// state of progress drawn over itself with carriage returns, and colours, but no
// other control characters. Colours end with the line.
func clean(b []byte) string {
	b = bytes.TrimRight(b, "\r\n")
	if i := bytes.LastIndexByte(b, '\r'); i >= 0 {
		b = b[i+1:]
	}
	var out strings.Builder
	coloured := false
	for len(b) > 0 {
		if b[0] == 0x1b {
			n, sgr := escape(b)
			if sgr {
				out.Write(b[:n])
				coloured = string(b[:n]) != "\x1b[0m" && string(b[:n]) != "\x1b[m"
			}
			b = b[n:]
			continue
		}
		c, n := utf8.DecodeRune(b)
		switch {
		case c == '\t':
			out.WriteByte('\t')
		case c < 0x20, c >= 0x7f && c < 0xa0:
		default:
			out.WriteRune(c) // also U+FFFD for invalid UTF-8
		}
		b = b[n:]
	}
	if coloured {
		out.WriteString("\x1b[0m")
	}
	return out.String()
}

// escape measures the control sequence at the beginning of b (ECMA-48) and reports
// whether it sets colours (SGR).
func escape(b []byte) (n int, sgr bool) {
	if len(b) == 1 {
		return 1, false
	}
	switch b[1] {
	case '[':
		i := 2
		for i < len(b) && b[i] >= 0x20 && b[i] <= 0x3f {
			i++
		}
		if i == len(b) {
			return i, false
		}
		return i + 1, b[i] == 'm' && !bytes.ContainsAny(b[2:i], "<=>?")
	case ']', 'P', 'X', '^', '_': // strings, until BEL or ST
		for i := 2; i < len(b); i++ {
			if b[i] == 0x07 {
				return i + 1, false
			}
			if b[i] == 0x1b && i+1 < len(b) && b[i+1] == '\\' {
				return i + 2, false
			}
		}
		return len(b), false
	case '(', ')', '*', '+', '#', '%', ' ':
		return min(3, len(b)), false
	}
	return 2, false
}
