package journal_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/journal"
)

func open(t *testing.T, o journal.Options) (*journal.Journal, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "router")
	j, err := journal.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return j, dir
}

// add adds the given lines of web.1.
func add(j *journal.Journal, stack mesh.StackName, texts ...string) {
	for _, s := range texts {
		j.Add(stack, func(b []byte) []byte { return append(journal.AppendStart(b, time.Now(), "web.1"), s...) })
	}
}

// flush writes the waiting lines.
func flush(t *testing.T, j *journal.Journal) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = j.Run(ctx)
}

func texts(t *testing.T, j *journal.Journal, q mesh.LogQuery) string {
	t.Helper()
	var all []string
	if err := j.Logs(t.Context(), q, func(l mesh.LogLine) error { all = append(all, l.Text); return nil }); err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

func TestJournal_GivesBackWhatWasAdded(t *testing.T) {
	t.Parallel()
	j, _ := open(t, journal.Options{})
	j.Keep("blog")
	j.Keep("shop")
	add(j, "blog", "one", "two", "three")
	add(j, "shop", "other")
	add(j, "ghost", "nobody's")
	j.Add("blog", func(b []byte) []byte { return append(journal.AppendStart(b, time.Now(), "api.2"), "four"...) })
	flush(t, j)
	for _, c := range []struct {
		q    mesh.LogQuery
		want string
	}{
		{mesh.LogQuery{Stack: "blog", Lines: -1}, "one two three four"},
		{mesh.LogQuery{Stack: "blog", Lines: 2}, "three four"},
		{mesh.LogQuery{Stack: "blog"}, ""},
		{mesh.LogQuery{Stack: "blog", Lines: -1, Service: "api"}, "four"},
		{mesh.LogQuery{Stack: "blog", Lines: -1, Instance: mesh.InstanceName{Service: "web", Slot: 1}}, "one two three"},
		{mesh.LogQuery{Stack: "blog", Lines: -1, Since: time.Now().Add(time.Hour)}, ""},
		{mesh.LogQuery{Stack: "shop", Lines: -1}, "other"},
		{mesh.LogQuery{Stack: "ghost", Lines: -1}, ""},
	} {
		if got := texts(t, j, c.q); got != c.want {
			t.Errorf("%+v gives %q, want %q", c.q, got, c.want)
		}
	}
	// The lines move to a new name, including those that have already been added to
	// it.
	add(j, "blog", "five")
	j.Rename("blog", "site")
	j.Rename("blog", "site")
	if got := texts(t, j, mesh.LogQuery{Stack: "site", Lines: -1}) + texts(t, j, mesh.LogQuery{Stack: "blog", Lines: -1}); got != "one two three four five" {
		t.Errorf("after Rename: %q", got)
	}
	j.Keep("old")
	add(j, "old", "early")
	flush(t, j)
	j.Keep("new")
	add(j, "new", "late")
	flush(t, j)
	j.Rename("old", "new")
	if got := texts(t, j, mesh.LogQuery{Stack: "new", Lines: -1}); got != "early late" {
		t.Errorf("after Rename: %q", got)
	}
	j.Forget("blog")
	add(j, "blog", "late")
	flush(t, j)
	if got := texts(t, j, mesh.LogQuery{Stack: "blog", Lines: -1}); got != "" {
		t.Errorf("after Forget: %q", got)
	}
}

func TestJournal_FilesAreBounded(t *testing.T) {
	t.Parallel()
	const size = 10_000
	j, dir := open(t, journal.Options{Size: size})
	j.Keep("blog")
	for n := range 100 {
		add(j, "blog", fmt.Sprintf("%d %s", n, strings.Repeat("x", 900)))
		flush(t, j)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 2 {
		t.Errorf("%v, %v", entries, err)
	}
	total := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 2*size+1000 {
		t.Errorf("%d bytes are kept", total)
	}
	if got := texts(t, j, mesh.LogQuery{Stack: "blog", Lines: 1}); !strings.HasPrefix(got, "99 ") {
		t.Errorf("the last line is %.20q", got)
	}
}

func TestJournal_DropsRatherThanWaits(t *testing.T) {
	t.Parallel()
	j, _ := open(t, journal.Options{Room: 1000})
	j.Keep("blog")
	for range 1000 {
		add(j, "blog", "line")
	}
	flush(t, j)
	if got := strings.Count(texts(t, j, mesh.LogQuery{Stack: "blog", Lines: -1}), "line"); got == 0 || got > 40 {
		t.Errorf("%d lines are kept", got)
	}
}

func TestJournal_Follows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j, _ := open(t, journal.Options{Size: 500})
		j.Keep("blog")
		run, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = j.Run(run) })
		follow, end := context.WithCancel(t.Context())
		lines := make(chan string, 1000)
		wg.Go(func() {
			err := j.Logs(follow, mesh.LogQuery{Stack: "blog", Follow: true}, func(l mesh.LogLine) error { lines <- l.Text; return nil })
			if err != nil {
				t.Errorf("Logs: %v", err)
			}
		})
		for n := range 100 { // over several changes of the file
			add(j, "blog", fmt.Sprint(n))
			if got := <-lines; got != fmt.Sprint(n) {
				t.Fatalf("got line %s, want %d", got, n)
			}
		}
		end()
		stop()
		wg.Wait()
	})
}

func BenchmarkJournal_Add(b *testing.B) {
	j, err := journal.Open(b.TempDir(), journal.Options{})
	if err != nil {
		b.Fatal(err)
	}
	j.Keep("blog")
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = j.Run(ctx) })
	now := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			j.Add("blog", func(b []byte) []byte {
				return append(journal.AppendStart(b, now, "web.1"), `at=info method=GET path="/" host=blog.test status=200`...)
			})
		}
	})
	cancel()
	wg.Wait()
}
