package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mesh"
)

// drained takes all lines of a queue.
func drained(t *testing.T, q *Queue) (all []string) {
	t.Helper()
	for {
		lines, err := q.Take()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			all = append(all, l.Text)
		}
		if err := q.Done(); err != nil {
			t.Fatal(err)
		}
		if n, _ := q.Waiting(); n == 0 {
			return all
		}
		if len(lines) == 0 {
			t.Fatal("lines wait, and none come")
		}
	}
}

// taken takes lines until none come: some may still wait.
func taken(t *testing.T, q *Queue) (all []string) {
	t.Helper()
	for none := 0; none < 2; { // the first time, a tail may be ended for the next
		lines, err := q.Take()
		if err != nil {
			t.Fatal(err)
		}
		if none++; len(lines) > 0 {
			none = 0
		}
		for _, l := range lines {
			all = append(all, l.Text)
		}
		if err := q.Done(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func queue(t *testing.T, l *Logs) *Queue {
	t.Helper()
	q, err := l.OpenQueue("blog", "d1")
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// A queue has each line once and in order, through compression, a restart and a kill; it
// begins with the next line.
func TestQueue_InOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, Options{})
	say(l, start, "before")
	l.flush()
	q := queue(t, l)
	equal(t, "at first", drained(t, q))
	var want, got []string
	add := func(n int) {
		for range n {
			text := fmt.Sprintf("line %d", len(want))
			want = append(want, text)
			say(l, start.Add(-time.Duration(len(want))*time.Second), text) // times do not count
		}
		l.flush()
	}
	add(10)
	got = append(got, drained(t, q)...)
	add(10)
	pack(t, l) // it has not passed these
	add(10)
	pack(t, l)
	add(5)
	got = append(got, drained(t, q)...)
	pack(t, l)
	add(5)
	if _, err := q.Take(); err != nil { // sent, but the process is killed before Done
		t.Fatal(err)
	}
	_ = l.Close()
	l = open(t, dir, Options{})
	q = queue(t, l)
	add(5)
	got = append(got, drained(t, q)...)
	equal(t, "all", got, want...)
	pack(t, l)
	l.tidy()
	left, _ := filepath.Glob(filepath.Join(dir, "blog", "*", "*"+queueSuffix))
	if len(left) > 0 {
		t.Errorf("nobody needs %q", left)
	}
	l.CloseQueue("blog", "d1")
	add(5)
	pack(t, l)
	if left, _ := filepath.Glob(filepath.Join(dir, "blog", "app", "*")); len(left) == 0 || slices.ContainsFunc(left, func(p string) bool { return !strings.HasSuffix(p, segmentSuffix) }) {
		t.Errorf("left: %q", left)
	}
}

// Both shelves are passed on, each in order, and large queues in parts.
func TestQueue_Parts(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	q := queue(t, l)
	long := strings.Repeat("x", 100_000)
	for i := range 30 {
		say(l, start, fmt.Sprint(i, " ", long))
		l.Add("blog", mesh.LogLine{At: start, Source: SourceRouter, Name: "web.1", Text: fmt.Sprint("status=500 ", i)})
		l.flush()
	}
	lines, err := q.Take()
	if err != nil || len(lines) >= 60 {
		t.Errorf("%d lines at once, %v", len(lines), err)
	}
	again, err := q.Take()
	if err != nil || len(again) != len(lines) {
		t.Errorf("without Done, %d lines instead of %d, %v", len(again), len(lines), err)
	}
	n := map[string]int{}
	for {
		for _, l := range lines {
			text, _, _ := strings.Cut(strings.TrimPrefix(l.Text, "status=500 "), " ")
			if text != fmt.Sprint(n[l.Source]) {
				t.Fatalf("%s: %.20q after %d", l.Source, l.Text, n[l.Source])
			}
			n[l.Source]++
			if l.Source == SourceRouter && l.Level != mesh.LevelError {
				t.Errorf("level %v", l.Level)
			}
		}
		if err := q.Done(); err != nil {
			t.Fatal(err)
		}
		if lines, err = q.Take(); err != nil {
			t.Fatal(err)
		} else if len(lines) == 0 {
			break
		}
	}
	if n[SourceApp] != 30 || n[SourceRouter] != 30 {
		t.Errorf("got %v", n)
	}
}

// What nobody fetches is bounded, and what is given up is counted.
func TestQueue_GivesUpTheOldest(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	q := queue(t, l)
	for i := range 5 {
		say(l, start, fmt.Sprint("one ", i), fmt.Sprint("two ", i))
		pack(t, l)
	}
	sh := l.stack("blog", false).shelf[appShelf]
	kept, err := listParts(sh.dir, queueSuffix)
	if err != nil || len(kept) != 5 {
		t.Fatalf("%d tails are kept, %v", len(kept), err)
	}
	if err := sh.trimQueues(2 * kept[0].size); err != nil {
		t.Fatal(err)
	}
	equal(t, "what is left", drained(t, q), "one 3", "two 3", "one 4", "two 4")
	if _, lost := q.Waiting(); lost != 6 {
		t.Errorf("%d lines were lost", lost)
	}
	// The lines are still in the log.
	if n := len(texts(t, l, mesh.LogQuery{})); n != 10 {
		t.Errorf("%d lines", n)
	}
}

// During an upgrade, the old process writes on: the queue waits for its end.
func TestQueue_TwoProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := open(t, dir, Options{})
	q := queue(t, old)
	say(old, start, "one")
	old.flush()
	equal(t, "before", drained(t, q), "one")
	old.Lead(false)
	now := open(t, dir, Options{})
	q = queue(t, now)
	say(now, start, "two")
	now.flush()
	equal(t, "what was collected before does not hold it up", drained(t, q), "two")
	say(old, start, "three") // as the last events of the old process
	old.flush()
	request := func(l *Logs, text string) {
		l.Add("blog", mesh.LogLine{At: start, Source: SourceRouter, Name: "web.1", Text: text})
		l.flush()
	}
	request(old, "one of the old")
	request(now, "one of the new")
	say(now, start, "four")
	now.flush()
	during := taken(t, q)
	slices.Sort(during)
	equal(t, "during", during, "four", "one of the old", "three")
	_ = old.Close()
	equal(t, "after", drained(t, q), "one of the new")
}

func TestQueue_Damage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, Options{})
	q := queue(t, l)
	say(l, start, "one")
	l.flush()
	tails, err := listParts(filepath.Join(dir, "blog", "app"), tailSuffix)
	if err != nil || len(tails) != 1 {
		t.Fatal(err)
	}
	f, err := os.OpenFile(tails[0].path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteAt([]byte("\x00\x00\x00\x00"), frameHead)
	_ = f.Close()
	pack(t, l)
	say(l, start, "two")
	l.flush()
	lines, err := q.Take()
	if err != nil || len(lines) != 1 || lines[0].Text != "two" {
		t.Errorf("got %v, %v", lines, err)
	}
	if _, err := l.OpenQueue("ghost", "d1"); err == nil {
		t.Error("a queue of no stack")
	}
}
