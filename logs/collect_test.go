package logs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
)

// printed is a line as the fake engine has it.
type printed struct {
	at     time.Time
	stream byte
	text   string
}

// outputs is an engine with one container, c1. It cannot be had in this way from a real
// one: clocks that are set back, logs that are rotated between two requests.
type outputs struct {
	mu      sync.Mutex
	lines   []printed
	more    chan struct{} // closed when lines come; nil: the container has ended
	breaks  int           // after so many lines, once
	secrets []string
}

var web1 = mesh.OutputSource{ID: "c1", Stack: "blog", Name: "web.1", Release: 1}

func (o *outputs) Outputs(ctx context.Context, found func(mesh.OutputSource), listed func(map[string]bool)) error {
	found(web1)
	listed(map[string]bool{"c1": true})
	<-ctx.Done()
	return nil
}

func (o *outputs) Secrets(context.Context, mesh.OutputSource) ([]string, error) {
	return o.secrets, nil
}

var errAway = mesh.Errorf(mesh.Unavailable, "the engine does not answer")

func (o *outputs) Output(ctx context.Context, _ string, n int, follow bool, fn func(time.Time, byte, []byte) error) error {
	o.mu.Lock()
	at := 0
	if n >= 0 {
		at = max(0, len(o.lines)-n)
	}
	o.mu.Unlock()
	for {
		o.mu.Lock()
		if at < len(o.lines) {
			l := o.lines[at]
			if o.breaks > 0 {
				if o.breaks--; o.breaks == 0 {
					o.mu.Unlock()
					return errAway
				}
			}
			o.mu.Unlock()
			at++
			if err := fn(l.at, l.stream, []byte(l.text)); err != nil {
				return err
			}
			continue
		}
		more := o.more
		o.mu.Unlock()
		if !follow || more == nil {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

func (o *outputs) print(lines ...printed) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, lines...)
	if o.more != nil {
		close(o.more)
		o.more = make(chan struct{})
	}
}

func collector(l *Logs, o *outputs) *Collector {
	c := NewCollector(l, func(mesh.StackName) bool { return true })
	c.Use(o)
	return c
}

func numbered(from, n int, at time.Time, step time.Duration) (out []printed) {
	for i := range n {
		out = append(out, printed{at.Add(time.Duration(i) * step), byte(1 + i%2), fmt.Sprintf("line %d", from+i)})
	}
	return out
}

func plain(lines []printed) (out []string) {
	for _, l := range lines {
		out = append(out, l.text)
	}
	return out
}

// Each round reads what is there, and stops as a killed process does: what was not
// written is lost with it, and read again by the next.
func TestCollector_ResumesAtTheNextLine(t *testing.T) {
	t.Parallel()
	same := printed{start.Add(time.Hour), 1, "the same"}
	for name, rounds := range map[string][][]printed{
		"in order":                    {numbered(0, 10, start, time.Second), numbered(10, 500, start.Add(time.Minute), time.Second), numbered(510, 3, start.Add(time.Hour), time.Second)},
		"at one time":                 {numbered(0, 10, start, 0), numbered(10, 10, start, 0)},
		"equal lines":                 {{same, same}, {same}, {same, same, same}},
		"the clock is set back":       {numbered(0, 10, start, time.Second), numbered(10, 10, start.Add(-time.Hour), time.Second), numbered(20, 10, start.Add(-2*time.Hour), time.Second)},
		"the streams are not ordered": {{{start.Add(5), 2, "b"}, {start.Add(4), 1, "a"}}, {{start.Add(3), 1, "c"}, {start.Add(6), 2, "d"}}},
		"nothing":                     {nil, nil, numbered(0, 1, start, 0)},
		"many":                        {numbered(0, 300, start, time.Millisecond), numbered(300, 12_000, start.Add(time.Second), time.Millisecond)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			o := &outputs{}
			for _, lines := range rounds {
				o.print(lines...)
				l := open(t, dir, Options{})
				c := collector(l, o)
				if err := c.rest(t.Context(), web1); err != nil {
					t.Fatal(err)
				}
				l.flush()
				_ = l.Close()
				for range 2 { // starts without new lines, which compress what is left
					l = open(t, dir, Options{})
					l.tidy()
					_ = l.Close()
				}
			}
			l := open(t, dir, Options{})
			got, want := texts(t, l, mesh.LogQuery{}), plain(o.lines)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%d lines, want %d", len(got), len(want))
			}
		})
	}
}

// The engine has thrown away where the reader was: all that it still has is new.
func TestCollector_AfterRotation(t *testing.T) {
	t.Parallel()
	for name, later := range map[string]time.Duration{"later": time.Hour, "the clock is set back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := open(t, t.TempDir(), Options{})
			o := &outputs{lines: numbered(0, 10, start, time.Second)}
			c := collector(l, o)
			if err := c.rest(t.Context(), web1); err != nil {
				t.Fatal(err)
			}
			o.lines = numbered(100, 10, start.Add(later), time.Second)
			if err := c.rest(t.Context(), web1); err != nil {
				t.Fatal(err)
			}
			if err := c.rest(t.Context(), web1); err != nil {
				t.Fatal(err)
			}
			l.flush()
			if got := texts(t, l, mesh.LogQuery{Sources: []string{SourceApp}}); len(got) != 20 {
				t.Errorf("%d lines", len(got))
			}
			var said []string
			if later > 0 {
				said = []string{"lines of web.1 may be missing here: the engine threw its oldest ones away before mesh read them"}
			}
			equal(t, "mesh says", texts(t, l, mesh.LogQuery{Sources: []string{SourceMesh}}), said...)
		})
	}
}

// The engine keeps a long line in pieces, and throws the first ones away: what is left of it was
// read, and nothing is missing.
func TestCollector_EndOfALongLine(t *testing.T) {
	t.Parallel()
	for name, more := range map[string][]printed{"nothing more": nil, "more": numbered(1, 300, start.Add(time.Hour), time.Second)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := open(t, t.TempDir(), Options{})
			long := printed{start.Add(time.Minute), 1, strings.Repeat("x", 1<<20)}
			o := &outputs{lines: append(numbered(0, 10, start, time.Second), printed{start.Add(30 * time.Second), 2, "another stream"}, long)}
			c := collector(l, o)
			if err := c.rest(t.Context(), web1); err != nil {
				t.Fatal(err)
			}
			long.text = long.text[:5000]
			o.lines = append([]printed{long}, more...)
			if err := c.rest(t.Context(), web1); err != nil {
				t.Fatal(err)
			}
			l.flush()
			if got := texts(t, l, mesh.LogQuery{}); len(got) != 12+len(more) {
				t.Errorf("%d lines instead of %d", len(got), 12+len(more))
			}
			equal(t, "mesh says", texts(t, l, mesh.LogQuery{Sources: []string{SourceMesh}}))
		})
	}
}

func TestCollector_Follows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := open(t, t.TempDir(), Options{})
		o := &outputs{more: make(chan struct{}), breaks: 15, secrets: []string{"planted-secret"}}
		o.print(numbered(0, 10, start, time.Second)...)
		c := collector(l, o)
		for range 2 { // the second time, after the engine was away
			ctx, cancel := context.WithCancel(t.Context())
			ran := make(chan error)
			go func() { ran <- c.Run(ctx) }()
			synctest.Wait()
			o.print(numbered(len(o.lines), 10, start.Add(time.Duration(len(o.lines))*time.Second), time.Second)...)
			synctest.Wait()
			cancel()
			if err := <-ran; err != nil {
				t.Error(err)
			}
		}
		o.print(printed{start.Add(time.Minute), 1, "password planted-secret, twice: planted-secret"})
		o.mu.Lock()
		o.more = nil
		o.mu.Unlock()
		c.Finish(t.Context(), web1)
		c.Finish(t.Context(), web1)
		l.flush()
		want := append(plain(o.lines[:30]), "password ••••••, twice: ••••••")
		equal(t, "all", texts(t, l, mesh.LogQuery{}), want...)
	})
}

// Above the rate, lines are dropped, counted and said; what waited in the engine is not
// too fast because it comes at once.
func TestCollector_Rate(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{Limits: func(mesh.StackName) Limits { return Limits{Rate: 100} }})
	o := &outputs{lines: numbered(0, 5000, start, 20*time.Millisecond)} // 50 a second, for 100 s
	c := collector(l, o)
	if err := c.rest(t.Context(), web1); err != nil {
		t.Fatal(err)
	}
	l.flush()
	if n := len(texts(t, l, mesh.LogQuery{})); n != 5000 {
		t.Errorf("%d lines of 5000", n)
	}
	o.print(numbered(5000, 30_000, start.Add(time.Hour), time.Millisecond)...) // 1000 a second, for 30 s
	if err := c.rest(t.Context(), web1); err != nil {
		t.Fatal(err)
	}
	l.flush()
	kept := len(texts(t, l, mesh.LogQuery{Since: start.Add(time.Hour)}))
	if kept < 3900 || kept > 4100 { // ten seconds' worth, and 30 s
		t.Errorf("%d lines were kept", kept)
	}
	dropped := 0
	for _, text := range texts(t, l, mesh.LogQuery{Sources: []string{SourceMesh}}) {
		n := 0
		if _, err := fmt.Sscanf(text, "%d lines of web.1 were not kept: it prints more than 100 a second (log-rate)", &n); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		dropped += n
	}
	if kept+dropped != 30_000 {
		t.Errorf("%d kept and %d dropped of 30000", kept, dropped)
	}
	// A long line counts for each KB.
	limit := &limiter{rate: 100}
	for i := range 30 {
		if ok, _ := limit.allow(start.UnixNano()+int64(i), 100<<10); ok != (i < 9) {
			t.Errorf("long line %d: %v", i, ok)
		}
	}
}

// The instances of a renamed stack start before the new name is recorded. The sleeps are of
// the bubble's clock.
func TestCollector_NameThatIsRecordedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := open(t, t.TempDir(), Options{})
		var known atomic.Bool
		c := NewCollector(l, func(mesh.StackName) bool { return known.Load() })
		c.Use(&outputs{lines: numbered(0, 3, start, time.Second)})
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error)
		go func() { ran <- c.Run(ctx) }()
		time.Sleep(10 * time.Second)
		l.flush()
		equal(t, "before", texts(t, l, mesh.LogQuery{}))
		known.Store(true)
		time.Sleep(2 * time.Second)
		l.flush()
		equal(t, "after", texts(t, l, mesh.LogQuery{}), "line 0", "line 1", "line 2")
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
}

// The old instances of a renamed stack print until they have drained: their lines are those of
// the new name, each once, whenever the rename comes.
func TestCollector_RenamedStack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := open(t, t.TempDir(), Options{})
		l.Keep("blog")
		o := &outputs{more: make(chan struct{})}
		var known atomic.Bool
		known.Store(true)
		c := NewCollector(l, func(name mesh.StackName) bool { return name == "site" || known.Load() })
		c.Use(o)
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error)
		go func() { ran <- c.Run(ctx) }()
		o.print(numbered(0, 3, start, time.Second)...)
		time.Sleep(time.Second)
		known.Store(false)
		l.Rename("blog", "site")
		o.print(numbered(3, 3, start.Add(time.Minute), time.Second)...)
		time.Sleep(time.Second)
		l.Rename("blog", "site") // again, as the end of a rename does
		o.print(numbered(6, 1, start.Add(2*time.Minute), time.Second)...)
		o.mu.Lock()
		close(o.more) // it ends
		o.more = nil
		o.mu.Unlock()
		c.Finish(ctx, web1)
		l.flush()
		var got []string
		err := l.Logs(t.Context(), mesh.LogQuery{Stack: "site", Lines: -1}, func(line mesh.LogLine) error { got = append(got, line.Text); return nil })
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "the new name", got, plain(numbered(0, 7, start, 0))...)
		equal(t, "the old name", texts(t, l, mesh.LogQuery{}))
		// Another stack with the old name is another one.
		known.Store(true)
		l.Keep("blog")
		l.Add("blog", mesh.LogLine{At: start, Source: SourceApp, Name: "web.1", Text: "anew"})
		l.flush()
		equal(t, "another stack", texts(t, l, mesh.LogQuery{}), "anew")
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
}

func TestCollector_UnknownStacks(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	o := &outputs{lines: numbered(0, 3, start, time.Second)}
	c := NewCollector(l, func(mesh.StackName) bool { return false })
	c.Use(o)
	ghost := web1
	ghost.Stack = "ghost"
	c.start(t.Context(), ghost)
	c.Finish(t.Context(), ghost)
	if l.stack("ghost", false) != nil {
		t.Error("the output of no stack is kept")
	}
	l.Forget("blog")
	if err := c.rest(t.Context(), web1); !errors.Is(err, errForgotten) {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(errForgotten.Error(), "gone") {
		t.Error(errForgotten)
	}
}
