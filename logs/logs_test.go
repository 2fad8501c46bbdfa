package logs

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
)

// The encoder makes its channel when it is first used. That must not be in the bubble of one test:
// others use it as well.
func init() { _ = encoder.EncodeAll([]byte("x"), nil) }

var start = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// everything are all sources.
var everything = []string{SourceApp, SourceRouter, SourceMesh}

// diskSize returns the bytes on the disk of a stack's log.
func diskSize(l *Logs, name mesh.StackName) (n int64, err error) {
	err = filepath.WalkDir(filepath.Join(l.dir, string(name)), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			info, ierr := d.Info()
			if err = ierr; err == nil {
				n += info.Size()
			}
		}
		return err
	})
	return n, err
}

// open opens logs that lead, in a folder that other calls of a test may share.
func open(t testing.TB, dir string, o Options) *Logs {
	t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	l.Keep("blog")
	l.Lead(true)
	return l
}

// say adds lines of web.1, a second apart.
func say(l *Logs, at time.Time, texts ...string) {
	for i, text := range texts {
		l.Add("blog", mesh.LogLine{At: at.Add(time.Duration(i) * time.Second), Source: SourceApp, Name: "web.1", Release: 1, Text: text})
	}
}

// texts returns the texts that a query gives. It asks blog for all lines unless q says
// otherwise.
func texts(t testing.TB, l *Logs, q mesh.LogQuery) []string {
	t.Helper()
	q.Stack = "blog"
	if q.Lines == 0 {
		q.Lines = -1
	}
	var all []string
	if err := l.Logs(t.Context(), q, func(line mesh.LogLine) error { all = append(all, line.Text); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func equal(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// pack makes blocks of all lines.
func pack(t testing.TB, l *Logs) {
	t.Helper()
	l.flush()
	for _, s := range l.all() {
		for _, sh := range s.shelf {
			sh.turn()
			if err := sh.compress(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestLogs_Queries(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	add := func(minute int, source, name string, release mesh.ReleaseNumber, text string) {
		l.Add("blog", mesh.LogLine{At: start.Add(time.Duration(minute) * time.Minute), Source: source, Name: name, Release: release, Text: text})
	}
	add(0, SourceMesh, "deploy", 0, "#1 is live as v1")
	add(1, SourceApp, "web.1", 1, `{"level":"error","msg":"no \"db\"","db":{"host":"pg"}}`)
	add(2, SourceRouter, "web.1", 1, "method=GET path=/a status=500")
	add(3, SourceApp, "web.2", 1, "2026 [warn] slow query")
	add(4, SourceApp, "worker.1", 2, "ERROR no queue")
	add(6, SourceApp, "web.1", 2, `{"level":30,"msg":"fine"}`)
	add(5, SourceApp, "run.4211", 0, "migrated") // it came later
	add(7, SourceRouter, "mesh", 0, "method=GET path=/b status=404")
	add(8, SourceApp, "web.10", 2, "level=debug x")
	both := []string{SourceApp, SourceMesh}
	for _, packed := range []bool{false, true} {
		if packed {
			pack(t, l)
		} else {
			l.flush()
		}
		for name, c := range map[string]struct {
			q    mesh.LogQuery
			want string
		}{
			"all":          {mesh.LogQuery{Sources: everything}, `#1 is live as v1|{"level":"error","msg":"no \"db\"","db":{"host":"pg"}}|method=GET path=/a status=500|2026 [warn] slow query|ERROR no queue|migrated|{"level":30,"msg":"fine"}|method=GET path=/b status=404|level=debug x`},
			"last 2":       {mesh.LogQuery{Lines: 2}, `{"level":30,"msg":"fine"}|level=debug x`},
			"last 4":       {mesh.LogQuery{Sources: both, Lines: 4}, `ERROR no queue|migrated|{"level":30,"msg":"fine"}|level=debug x`},
			"mesh":         {mesh.LogQuery{Sources: []string{SourceMesh}}, "#1 is live as v1"},
			"router":       {mesh.LogQuery{Sources: []string{SourceRouter}, Lines: 1}, "method=GET path=/b status=404"},
			"service":      {mesh.LogQuery{Service: "worker"}, "ERROR no queue"},
			"instance":     {mesh.LogQuery{Service: "web", Instance: mesh.InstanceName{Service: "web", Slot: 1}, Lines: 1}, `{"level":30,"msg":"fine"}`},
			"run":          {mesh.LogQuery{Service: "run"}, "migrated"},
			"release":      {mesh.LogQuery{Release: 2, Lines: 2}, `{"level":30,"msg":"fine"}|level=debug x`},
			"since":        {mesh.LogQuery{Since: start.Add(6 * time.Minute)}, `{"level":30,"msg":"fine"}|level=debug x`},
			"until":        {mesh.LogQuery{Sources: both, Until: start.Add(time.Minute)}, `#1 is live as v1|{"level":"error","msg":"no \"db\"","db":{"host":"pg"}}`},
			"errors":       {mesh.LogQuery{Sources: everything, Level: mesh.LevelError}, `{"level":"error","msg":"no \"db\"","db":{"host":"pg"}}|method=GET path=/a status=500|ERROR no queue`},
			"warnings":     {mesh.LogQuery{Level: mesh.LevelWarn, Lines: 2}, "2026 [warn] slow query|ERROR no queue"},
			"debug":        {mesh.LogQuery{Level: mesh.LevelDebug, Lines: 1}, "level=debug x"},
			"grep":         {mesh.LogQuery{Grep: regexp.MustCompile("slow q")}, "2026 [warn] slow query"},
			"grep, any":    {mesh.LogQuery{Grep: regexp.MustCompile("(?i)error")}, `{"level":"error","msg":"no \"db\"","db":{"host":"pg"}}|ERROR no queue`},
			"grep a field": {mesh.LogQuery{Grep: regexp.MustCompile("^db.host=pg$")}, `{"level":"error","msg":"no \"db\"","db":{"host":"pg"}}`},
			"grep a quote": {mesh.LogQuery{Grep: regexp.MustCompile(`msg=no "db"`)}, `{"level":"error","msg":"no \"db\"","db":{"host":"pg"}}`},
			"grep nothing": {mesh.LogQuery{Grep: regexp.MustCompile("nowhere")}, ""},
		} {
			if got := strings.Join(texts(t, l, c.q), "|"); got != c.want {
				t.Errorf("%s, packed %v: got %s, want %s", name, packed, got, c.want)
			}
		}
	}
	if got := texts(t, l, mesh.LogQuery{Lines: 1}); len(got) != 1 {
		t.Errorf("got %q", got)
	}
	l.Add("ghost", mesh.LogLine{At: start, Source: SourceApp, Text: "nobody's"})
	l.flush()
	if _, err := os.Stat(filepath.Join(l.dir, "ghost")); err == nil {
		t.Error("a line of an unknown stack was kept")
	}
}

// Lines that come late, such as those that waited in the engine, are given back by their
// time, from wherever they are.
func TestLogs_ByTime(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{Block: 300})
	var want []string
	for i := range 200 {
		want = append(want, fmt.Sprintf("line %03d", i))
	}
	say(l, start.Add(100*time.Second), want[100:]...)
	pack(t, l)
	say(l, start, want[:50]...)
	pack(t, l)
	say(l, start.Add(50*time.Second), want[50:100]...)
	l.flush()
	equal(t, "all", texts(t, l, mesh.LogQuery{}), want...)
	equal(t, "the last", texts(t, l, mesh.LogQuery{Lines: 120}), want[80:]...)
	equal(t, "a part", texts(t, l, mesh.LogQuery{Since: start.Add(90 * time.Second), Until: start.Add(109 * time.Second)}), want[90:110]...)
	equal(t, "the last of a part", texts(t, l, mesh.LogQuery{Until: start.Add(109 * time.Second), Lines: 3}), want[107:110]...)
}

func TestLogs_AnyBytes(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	want := []string{"", "\x00\xff\xfe", "\x1b[31mred\x1b[0m", "50%\r100%", strings.Repeat("long ", 200_000), "größe 世界", "a\nb"}
	say(l, start, want...)
	l.flush()
	equal(t, "as added", texts(t, l, mesh.LogQuery{}), want...)
	pack(t, l)
	equal(t, "packed", texts(t, l, mesh.LogQuery{}), want...)
}

func TestLogs_LimitsOfSizeAndAge(t *testing.T) {
	t.Parallel()
	now := start
	limits := Limits{Size: 1 << 20, Age: 48 * time.Hour}
	l := open(t, t.TempDir(), Options{Now: func() time.Time { return now }, Limits: func(mesh.StackName) Limits { return limits }})
	noise := func(seed int) string { // it does not compress
		b := make([]byte, 50_000)
		for i := range b {
			seed = seed*1103515245 + 12345
			b[i] = byte(seed >> 16)
		}
		return string(b)
	}
	for i := range 60 {
		say(l, start.Add(time.Duration(i)*time.Minute), noise(i))
		pack(t, l)
	}
	l.tidy()
	if n, err := diskSize(l, "blog"); err != nil || n > 1<<20 || n < 1<<19 {
		t.Errorf("%d bytes are kept, %v", n, err)
	}
	if got := texts(t, l, mesh.LogQuery{Lines: 1}); len(got) != 1 || got[0] != noise(59) {
		t.Error("the newest line is gone")
	}
	// The modification times of files are real ones.
	now = time.Now().Add(49 * time.Hour)
	l.tidy()
	if got := texts(t, l, mesh.LogQuery{}); len(got) != 0 {
		t.Errorf("%d lines are older than the limit", len(got))
	}
}

// When the disk has little room left, the oldest lines of all stacks make room.
func TestLogs_MakesRoom(t *testing.T) {
	t.Parallel()
	free := uint64(2 * roomy)
	l := open(t, t.TempDir(), Options{Free: func() (uint64, error) { return free, nil }, Limits: func(mesh.StackName) Limits { return Limits{Size: 1 << 20} }})
	l.Keep("shop")
	for i := range 4 {
		for _, name := range []mesh.StackName{"blog", "shop"} {
			l.Add(name, mesh.LogLine{At: start.Add(time.Duration(i) * time.Minute), Source: SourceApp, Name: "web.1", Text: fmt.Sprint(name, " ", i)})
			l.flush()
			for _, sh := range l.stack(name, false).shelf {
				sh.packer.path = "" // each line in a segment of its own
			}
			pack(t, l)
		}
	}
	l.tidy()
	equal(t, "with room", texts(t, l, mesh.LogQuery{}), "blog 0", "blog 1", "blog 2", "blog 3")
	free = roomy - 1
	l.tidy() // one segment is enough
	equal(t, "with little less than enough", texts(t, l, mesh.LogQuery{}), "blog 1", "blog 2", "blog 3")
	free = 0
	l.tidy()
	equal(t, "with none", texts(t, l, mesh.LogQuery{}), "blog 3")
}

func TestLogs_RenameAndForget(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	say(l, start, "one")
	pack(t, l)
	say(l, start.Add(time.Minute), "two")
	l.Keep("site")
	l.Add("site", mesh.LogLine{At: start.Add(2 * time.Minute), Source: SourceApp, Name: "web.1", Text: "three"})
	l.Rename("blog", "site")
	l.Rename("blog", "site")
	var got []string
	err := l.Logs(t.Context(), mesh.LogQuery{Stack: "site", Lines: -1}, func(line mesh.LogLine) error { got = append(got, line.Text); return nil })
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "renamed", got, "one", "two", "three")
	equal(t, "the old name", texts(t, l, mesh.LogQuery{}))
	l.Forget("site")
	l.Add("site", mesh.LogLine{At: start, Source: SourceApp, Text: "late"})
	l.flush()
	if _, err := os.Stat(filepath.Join(l.dir, "site")); err == nil {
		t.Error("a forgotten log is still there")
	}
}

// A process that is killed leaves a torn frame, a tail whose blocks are half written, or
// one whose removal is missing.
func TestLogs_AfterAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, Options{Block: 100})
	var want []string
	for i := range 30 {
		want = append(want, fmt.Sprintf("line %02d of the log", i))
	}
	say(l, start, want...)
	l.flush()
	tails, err := listParts(filepath.Join(dir, "blog", "app"), tailSuffix)
	if err != nil || len(tails) != 1 {
		t.Fatalf("%v, %v", tails, err)
	}
	before, err := os.ReadFile(tails[0].path)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // the process is dead
	again := func(what string) *Logs {
		l := open(t, dir, Options{Block: 100})
		equal(t, what, texts(t, l, mesh.LogQuery{}), want...)
		pack(t, l)
		equal(t, what+", packed", texts(t, l, mesh.LogQuery{}), want...)
		_ = l.Close()
		return l
	}
	restore := func(extra string) {
		if err := os.WriteFile(tails[0].path, append(slices.Clone(before), extra...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	restore("\x31\x6c\x73\x6d\xff\x00\x00\x00torn")
	again("a torn frame")
	restore("")
	again("blocks and their tail")
	segments, _ := listParts(filepath.Join(dir, "blog", "app"), segmentSuffix)
	if len(segments) != 1 {
		t.Fatalf("%d segments", len(segments))
	}
	for _, size := range []int64{segments[0].size - 1, segments[0].size / 2, 10} {
		restore("")
		if err := os.Truncate(segments[0].path, size); err != nil {
			t.Fatal(err)
		}
		again(fmt.Sprintf("%d bytes of blocks, and their tail", size))
		segments, _ = listParts(filepath.Join(dir, "blog", "app"), segmentSuffix)
		for _, g := range segments[1:] { // the next round begins with the first one whole
			if err := os.Rename(g.path, segments[0].path); err != nil {
				t.Fatal(err)
			}
		}
		segments, _ = listParts(filepath.Join(dir, "blog", "app"), segmentSuffix)
	}
}

// Damage costs the lines that it hits, and no others.
func TestLogs_Damage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, Options{Block: 100})
	for i := range 30 {
		say(l, start.Add(time.Duration(i)*time.Second), fmt.Sprintf("line %02d of the log", i))
	}
	pack(t, l)
	segments, err := listParts(filepath.Join(dir, "blog", "app"), segmentSuffix)
	if err != nil || len(segments) != 1 {
		t.Fatalf("%v, %v", segments, err)
	}
	whole, err := os.ReadFile(segments[0].path)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	for at := range whole {
		b := slices.Clone(whole)
		b[at] ^= 0x10
		if err := os.WriteFile(segments[0].path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, dir, Options{})
		for _, text := range texts(t, l, mesh.LogQuery{}) {
			if !regexp.MustCompile(`^line \d\d of the log$`).MatchString(text) {
				t.Fatalf("byte %d: a line became %q", at, text)
			}
		}
		_ = l.Close()
	}
}

// A full disk costs no line that waits in the engine; others are dropped at a limit, not
// kept in memory.
func TestLogs_FullDisk(t *testing.T) {
	t.Parallel()
	free := uint64(0)
	l := open(t, t.TempDir(), Options{Room: 1000, Free: func() (uint64, error) { return free, nil }})
	for i := range 200 {
		say(l, start.Add(time.Duration(i)*time.Second), fmt.Sprintf("line %03d of a log", i))
	}
	l.flush()
	equal(t, "nothing is written", texts(t, l, mesh.LogQuery{}))
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	go func() {
		waited <- l.stack("blog", false).shelf[appShelf].put(ctx, "c1", func(_ *batch, c cursor) cursor { return c })
	}()
	cancel()
	if err := <-waited; err == nil {
		t.Error("a line of a container did not wait")
	}
	free = 1 << 40
	l.flush()
	if n := len(texts(t, l, mesh.LogQuery{})); n < 20 || n > 60 {
		t.Errorf("%d lines were kept in 1000 bytes", n)
	}
}

// Two processes add lines during an upgrade, and both can be followed.
func TestLogs_TwoProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := open(t, dir, Options{})
	say(old, start, "one")
	old.flush()
	old.Lead(false)
	now := open(t, dir, Options{})
	say(old, start.Add(time.Minute), "two")
	say(now, start.Add(2*time.Minute), "three")
	old.flush()
	now.flush()
	equal(t, "the new process", texts(t, now, mesh.LogQuery{}), "one", "two", "three")
	equal(t, "the old process", texts(t, old, mesh.LogQuery{}), "one", "two", "three")
	pack(t, now) // not the tail that the other writes
	say(old, start.Add(3*time.Minute), "four")
	old.flush()
	equal(t, "after packing", texts(t, now, mesh.LogQuery{}), "one", "two", "three", "four")
	_ = old.Close()
	pack(t, now)
	equal(t, "after its end", texts(t, now, mesh.LogQuery{}), "one", "two", "three", "four")
	if tails, err := listParts(filepath.Join(dir, "blog", "app"), tailSuffix); err != nil || len(tails) != 0 {
		t.Errorf("%d tails are left, %v", len(tails), err)
	}
}

// A followed log has every line once, whatever is compressed meanwhile. The sleeps are of
// the bubble's clock: they give the writer and the follower their turns.
func TestLogs_Follow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := open(t, t.TempDir(), Options{Tail: 64 << 10})
		run, stop := context.WithCancel(t.Context())
		ran := make(chan struct{})
		go func() { _ = l.Run(run); close(ran) }()
		say(l, start, "old 1", "old 2", "old 3")
		time.Sleep(time.Second)
		ctx, end := context.WithCancel(t.Context())
		var got []string
		caught := 0
		followed := make(chan error)
		go func() {
			followed <- l.Logs(ctx, mesh.LogQuery{Stack: "blog", Lines: 2, Follow: true, Caught: func() { caught = len(got) }}, func(line mesh.LogLine) error {
				got = append(got, line.Text)
				return nil
			})
		}()
		time.Sleep(time.Second)
		want := []string{"old 2", "old 3"}
		for i := range 300 {
			text := fmt.Sprintf("new %d %s", i, strings.Repeat("x", 1000))
			want = append(want, text)
			say(l, start.Add(time.Duration(i)*time.Minute), text)
			if i%50 == 49 {
				time.Sleep(time.Second)
			}
			if i == 149 {
				pack(t, l)
			}
		}
		for i := range 5 { // tails that come and go between two looks
			text := fmt.Sprintf("quick %d", i)
			want = append(want, text)
			say(l, start.Add(time.Hour), text)
			pack(t, l)
		}
		time.Sleep(time.Second)
		end()
		if err := <-followed; err != nil {
			t.Error(err)
		}
		if caught != 2 || !slices.Equal(got, want) {
			t.Errorf("caught after %d; %d lines, want %d", caught, len(got), len(want))
			for i := range min(len(got), len(want)) {
				if got[i] != want[i] {
					t.Errorf("line %d is %.20q, want %.20q", i, got[i], want[i])
					break
				}
			}
		}
		stop()
		<-ran
	})
}

func TestLogs_Import(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := filepath.Join(dir, "events")
	if err := os.MkdirAll(old, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"blog.log.1": "2026-01-02T15:04:05.000000Z deploy one\n", "blog.log": "2026-01-02T15:04:06.000000Z deploy two words\nnonsense\n", "ghost.log": "2026-01-02T15:04:06.000000Z deploy x\n",
	} {
		if err := os.WriteFile(filepath.Join(old, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := open(t, filepath.Join(dir, "lines"), Options{})
	for range 2 {
		if err := l.Import(old, SourceMesh); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "imported", texts(t, l, mesh.LogQuery{Sources: []string{SourceMesh}}), "one", "two words")
	if left, _ := filepath.Glob(filepath.Join(old, "*")); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
}
