package logs

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"mesh"
)

// Outputs is what the Collector needs of the engine.
type Outputs interface {
	// Outputs calls found for each container whose output is kept, those that exist and
	// those that start later, until ctx ends. A container that starts again is found
	// again. After each complete list it calls listed with their IDs.
	Outputs(ctx context.Context, found func(mesh.OutputSource), listed func(ids map[string]bool)) error
	// Output calls fn with the last n lines of a container, all if n is negative, in the
	// engine's order, and with follow those that come until the container ends. The engine may
	// count pieces of long lines, and have only the end of its first one. The time is that of a
	// line's end. The text is valid until fn returns. It returns fn's error, and nil if the container is gone.
	// A followed output may end before its last line (Docker 20.10).
	Output(ctx context.Context, id string, n int, follow bool, fn func(at time.Time, stream byte, text []byte) error) error
	// Secrets returns the values that must not be kept of what a container prints; none
	// if it is gone.
	Secrets(ctx context.Context, src mesh.OutputSource) ([]string, error)
}

// Collector reads the output of containers into the logs, from where it was left.
type Collector struct {
	logs   *Logs
	engine Outputs // set by Use
	known  func(mesh.StackName) bool
	seeks  chan struct{} // limits how many logs are searched for their place at once

	mu      sync.Mutex
	reading map[string]*collected
	strange map[string]mesh.OutputSource // of stacks that are not known, or not yet
	wg      sync.WaitGroup
}

// collected is a container whose output is being read, or was read to its end.
type collected struct {
	src   mesh.OutputSource
	again bool // it was started again meanwhile
	done  chan struct{}
}

// NewCollector creates a Collector. known reports whether a stack exists: the output of
// others is not kept. Call Use before anything else.
func NewCollector(l *Logs, known func(mesh.StackName) bool) *Collector {
	return &Collector{logs: l, known: known, seeks: make(chan struct{}, 4), reading: map[string]*collected{}, strange: map[string]mesh.OutputSource{}}
}

// Use sets where the output comes from.
func (c *Collector) Use(engine Outputs) { c.engine = engine }

// Run reads until ctx ends, and writes what it has read. Call it once.
func (c *Collector) Run(ctx context.Context) error {
	defer c.logs.flush()
	defer c.wg.Wait()
	c.wg.Go(func() { c.lookAgain(ctx) })
	return c.engine.Outputs(ctx, func(src mesh.OutputSource) { c.start(ctx, src) }, c.forget)
}

// lookEvery is how often unknown stacks are looked for: the instances of a renamed stack
// start under its new name before that is recorded.
const lookEvery = time.Second

func (c *Collector) lookAgain(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.mu.Lock()
		strange := slices.Collect(maps.Values(c.strange))
		c.mu.Unlock()
		for _, src := range strange {
			c.start(ctx, src)
		}
	}
}

// forget drops what is remembered of containers that are gone.
func (c *Collector) forget(ids map[string]bool) {
	c.mu.Lock()
	maps.DeleteFunc(c.strange, func(id string, _ mesh.OutputSource) bool { return !ids[id] })
	for id, r := range c.reading {
		if !ids[id] && r.ended() {
			delete(c.reading, id)
		}
	}
	c.mu.Unlock()
	for _, s := range c.logs.all() {
		s.shelf[appShelf].keepOnly(ids)
	}
}

func (r *collected) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// start reads a container in a goroutine, unless one already does.
func (c *Collector) start(ctx context.Context, src mesh.OutputSource) {
	known := c.known(src.Stack)
	if known {
		c.logs.Keep(src.Stack)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !known {
		c.strange[src.ID] = src
		return
	}
	delete(c.strange, src.ID)
	if r := c.reading[src.ID]; r != nil && !r.ended() {
		r.again = true
		return
	}
	r := &collected{src: src, done: make(chan struct{})}
	c.reading[src.ID] = r
	c.wg.Go(func() {
		defer close(r.done)
		for {
			err := c.resume(ctx, r.src, true)
			if err == nil {
				err = c.rest(ctx, r.src)
			}
			switch {
			case err == nil, ctx.Err() != nil:
			case errors.Is(err, errForgotten):
				if c.logs.renamed(src.Stack) {
					continue // its lines go on under the new name
				}
			case errors.Is(err, mesh.Unavailable):
				return // it is found again when the engine is back
			default:
				c.logs.Logger.Warn("output not kept", "stack", src.Stack, "instance", src.Name, "err", err)
			}
			c.mu.Lock()
			more := r.again && err == nil
			r.again = false
			c.mu.Unlock()
			if !more {
				return
			}
		}
	})
}

// finishTime is how long a container that has ended is kept for the rest of its output.
const finishTime = 10 * time.Second

// Finish waits until the output of a container that has ended was read. Call it before
// the container is removed.
func (c *Collector) Finish(ctx context.Context, src mesh.OutputSource) {
	ctx, cancel := context.WithTimeout(ctx, finishTime)
	defer cancel()
	c.mu.Lock()
	delete(c.strange, src.ID)
	r := c.reading[src.ID]
	c.mu.Unlock()
	if r != nil {
		select {
		case <-r.done:
		case <-ctx.Done():
			c.logs.Logger.Warn("the last lines of an instance may be missing from the log", "stack", src.Stack, "instance", src.Name)
			return
		}
	}
	// It may have printed more since: started again for a moment, or never found. What
	// was read is passed over.
	if err := c.rest(ctx, src); err != nil && !errors.Is(err, errForgotten) {
		c.logs.Logger.Warn("the last lines of an instance may be missing from the log", "stack", src.Stack, "instance", src.Name, "err", err)
	}
}

// The numbers of last lines among which a reader looks for its place, and then all.
var windows = []int{200, 5_000, -1}

// rest passes on what a container has printed since its cursor.
func (c *Collector) rest(ctx context.Context, src mesh.OutputSource) error {
	return c.resume(ctx, src, false)
}

// resume is rest, and with follow it goes on until the container ends.
func (c *Collector) resume(ctx context.Context, src mesh.OutputSource, follow bool) error {
	s := c.logs.receiving(src.Stack)
	if s == nil {
		return errForgotten
	}
	shelf := s.shelf[appShelf]
	for {
		at, has := shelf.cursor(src.ID)
		p := &place{cursor: at, found: !has}
		n := -1
		if has {
			var err error
			if n, err = c.seek(ctx, src, p); err != nil || p.last && !follow {
				return err
			}
		}
		err := c.pass(ctx, src, shelf, p, n, follow)
		if errors.Is(err, errLost) {
			continue
		}
		return err
	}
}

// place finds the line after a cursor in lines as they come.
type place struct {
	cursor cursor
	at     cursor // of the lines so far
	last   bool   // nothing came after it when it was looked for
	found  bool   // the next line is new
	newer  bool   // the cursor's line is gone: what is later than it is new
	gap    bool   // and nothing of it is left: so may be lines after it
	passed int    // lines before the place
	most   int    // of them
}

// errLost is for a place that is not where it was: read from the beginning.
var errLost = errors.New("the place in the output is lost")

// old reports whether a line comes before the place, or at it.
func (p *place) old(at int64, stream byte, text []byte) (bool, error) {
	if p.found {
		return false, nil
	}
	if p.newer {
		p.found = at > p.cursor.at
		return !p.found, nil
	}
	p.at = p.at.next(at, stream, text)
	p.found = p.at == p.cursor
	if p.passed++; p.passed > p.most && !p.found {
		return true, errLost
	}
	return true, nil
}

// seek returns how many of the last lines must be read to find the place.
func (c *Collector) seek(ctx context.Context, src mesh.OutputSource, p *place) (int, error) {
	select {
	case c.seeks <- struct{}{}:
		defer func() { <-c.seeks }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	later, part := false, false
	for _, n := range windows {
		var last cursor
		found, lines := 0, 0 // the number of the cursor's line, and of all
		later, part = false, false
		err := c.engine.Output(ctx, src.ID, n, false, func(at time.Time, stream byte, text []byte) error {
			last = last.next(at.UnixNano(), stream, text)
			lines++
			if found == 0 && last == p.cursor {
				found = lines
			}
			later = later || at.UnixNano() > p.cursor.at
			part = part || at.UnixNano() == p.cursor.at && stream == p.cursor.stream
			return nil
		})
		if err != nil {
			return 0, err
		}
		if found > 0 {
			p.last = found == lines
			p.most = 2*lines + 10_000
			if n > 0 {
				n = 2*n + 1000
			}
			return n, nil
		}
	}
	// The engine has thrown it away, with what was before it; of a long line, perhaps not its
	// end. If nothing is later, the clock was set back.
	p.newer, p.gap = later || part, !part
	p.found = !p.newer
	return -1, nil
}

// pass passes on the lines after a place.
func (c *Collector) pass(ctx context.Context, src mesh.OutputSource, shelf *shelf, p *place, n int, follow bool) error {
	secrets, err := c.engine.Secrets(ctx, src)
	if err != nil {
		return err
	}
	hide := newMask(secrets)
	limit := &limiter{rate: float64(c.logs.rate(src.Stack))}
	of := [3]origin{}
	for i := range of {
		of[i] = origin{source: SourceApp, name: src.Name, release: src.Release, stream: byte(i)} //nolint:gosec // 0 to 2
	}
	err = c.engine.Output(ctx, src.ID, n, follow, func(t time.Time, stream byte, text []byte) error {
		at := t.UnixNano()
		old, err := p.old(at, stream, text)
		if old || err != nil {
			return err
		}
		gap := p.newer && p.gap
		p.gap = false
		allowed, said := limit.allow(at, len(text))
		return shelf.put(ctx, src.ID, func(b *batch, cur cursor) cursor {
			if gap {
				b.addGap(src, at)
			}
			if said > 0 {
				b.addDropped(src, at, said, int(limit.rate))
			}
			if allowed {
				b.add(of[stream], at, func(dst []byte) []byte { return hide.append(dst, text) })
			}
			return cur.next(at, stream, text)
		})
	})
	if limit.dropped > 0 {
		_ = shelf.put(context.WithoutCancel(ctx), src.ID, func(b *batch, cur cursor) cursor {
			b.addDropped(src, limit.now, limit.dropped, int(limit.rate))
			return cur
		})
	}
	return err
}

// mask replaces values in lines.
type mask struct {
	values [][]byte
	with   *strings.Replacer
}

func newMask(values []string) mask {
	m := mask{with: mesh.NewMasker(values)}
	for _, v := range values {
		m.values = append(m.values, []byte(v))
	}
	return m
}

// append appends a line to dst. Most lines have nothing to replace.
func (m mask) append(dst, text []byte) []byte {
	for _, v := range m.values {
		if bytes.Contains(text, v) {
			return append(dst, m.with.Replace(string(text))...)
		}
	}
	return append(dst, text...)
}

// limiter drops lines above a rate, by the lines' own times: what waited in the engine
// while mesh was away is not too fast. It is a token bucket of ten seconds.
type limiter struct {
	rate    float64 // lines a second
	tokens  float64
	now     int64
	dropped int // since it was last said
	since   int64
}

const (
	burst    = 10        // seconds of the rate
	lineUnit = 1 << 10   // bytes that count as a line
	sayEvery = int64(10) // seconds
)

// allow reports whether a line is kept. said is how many lines were dropped, if it is time
// to say so.
func (l *limiter) allow(at int64, size int) (ok bool, said int) {
	switch gap := float64(at-l.now) / 1e9; {
	case l.now == 0 || gap < -1: // the first line, or the clock was set back
		l.tokens = burst * l.rate
		l.now = at
	case gap > 0:
		l.tokens = math.Min(l.tokens+gap*l.rate, burst*l.rate)
		l.now = at
	}
	if cost := 1 + float64(size/lineUnit); l.tokens >= cost {
		l.tokens -= cost
		ok = true
	} else {
		if l.dropped == 0 {
			l.since = at
		}
		l.dropped++
	}
	if l.dropped > 0 && (at-l.since > sayEvery*1e9 || at < l.since) {
		said, l.dropped = l.dropped, 0
	}
	return ok, said
}
