package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mesh"
	"mesh/mirror"
)

// source is files in memory.
type source struct {
	mu      sync.Mutex
	files   map[string]string
	times   map[string]int64
	version int
	fail    error
	sent    int               // bytes that were read
	open    map[string]string // the content of files that were replaced since they were listed
	broken  bool              // reading fails after three bytes
}

func newSource() *source { return &source{files: map[string]string{}, times: map[string]int64{}} }

func (s *source) set(path, content string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.files[path], s.times[path] = content, int64(1_700_000_000_000_000_000+s.version)
}

func (s *source) remove(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	delete(s.files, path)
}

func (s *source) Version(context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprint(s.version), s.fail
}

type content struct {
	*strings.Reader
	s *source
}

func (c content) Close() error { return nil }

func (c content) Read(p []byte) (int, error) {
	c.s.mu.Lock()
	broken := c.s.broken
	c.s.mu.Unlock()
	if broken {
		n, _ := c.Reader.Read(p[:min(3, len(p))])
		return n, errors.New("the disk is broken")
	}
	n, err := c.Reader.Read(p)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.sent += n
	return n, err
}

func (s *source) Round(context.Context) (files []mirror.File, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range slices.Sorted(maps.Keys(s.files)) {
		text := s.files[p]
		files = append(files, mirror.File{
			Path: p, Size: int64(len(text)), Time: s.times[p], Last: p == "state", Grows: strings.HasSuffix(p, ".seg"), Bulk: strings.HasPrefix(p, "bulk/"),
			Open: func() (io.ReadSeekCloser, error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				if now, is := s.open[p]; is {
					return content{strings.NewReader(now), s}, nil
				}
				return content{strings.NewReader(text), s}, nil
			},
		})
	}
	return files, func() {}, nil
}

// world is a source that is copied.
type world struct {
	t      *testing.T
	src    *source
	dir    string
	rounds chan int // the number of files of each round
	end    func()
	each   func() // called after each round, which then waits; nil: nothing
	sent   chan error
	got    chan error
}

func (w *world) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	answers, say := io.Pipe()
	in, out := io.Pipe()
	w.rounds, w.sent, w.got = make(chan int, 100), make(chan error, 1), make(chan error, 1)
	go func() {
		err := mirror.Send(ctx, w.src, answers, out)
		_ = out.CloseWithError(io.EOF)
		_ = answers.Close()
		w.sent <- err
	}()
	c := mirror.Copy{Dir: w.dir, Own: []string{"own"}}
	rounds := w.rounds
	go func() {
		err := c.Receive(in, say, func(files int, _ int64) {
			if w.each != nil {
				w.each()
			}
			rounds <- files
		})
		_ = say.Close()
		w.got <- err
	}()
	w.end = func() { cancel(); <-w.sent; <-w.got }
}

// like waits until the copy is like the source.
func (w *world) like() {
	w.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		have := w.have()
		w.src.mu.Lock()
		same := maps.Equal(have, w.src.files)
		w.src.mu.Unlock()
		if same {
			return
		}
		select {
		case <-w.rounds:
		case err := <-w.got:
			w.t.Fatal("the copy ended:", err)
		case <-limit:
			w.t.Fatalf("the copy has %d files", len(have))
		}
	}
}

func (w *world) have() map[string]string {
	w.t.Helper()
	out := map[string]string{}
	_ = filepath.WalkDir(w.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(w.dir, p)
		if text, err := os.ReadFile(p); err == nil && rel != "own" && !strings.HasSuffix(rel, ".half") {
			out[rel] = string(text)
		}
		return nil
	})
	return out
}

func begin(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, src: newSource(), dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(w.dir, "own"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestMirror_FollowsItsSource(t *testing.T) {
	t.Parallel()
	w := begin(t)
	w.src.set("a/b/c", "one")
	w.src.set("state", "1")
	w.src.set("empty", "")
	w.start()
	w.like()
	w.src.set("a/b/c", "two")
	w.src.set("a/d", "new")
	w.src.remove("empty")
	w.src.set("state", "2")
	w.like()
	w.end()
	w.src.set("own2", "x")
	w.src.mu.Lock()
	w.src.sent = 0
	w.src.mu.Unlock()
	if err := os.WriteFile(filepath.Join(w.dir, "torn.half"), []byte("left by a kill"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.like()
	w.end()
	if w.src.sent != 1 {
		t.Errorf("another connection sent %d bytes; 1 was missing", w.src.sent)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "torn.half")); err == nil {
		t.Error("half a file is still there")
	}
	if text, _ := os.ReadFile(filepath.Join(w.dir, "own")); string(text) != "mine" {
		t.Error("the copy's own file was touched")
	}
}

func TestMirror_SendsWhatWasAppended(t *testing.T) {
	t.Parallel()
	w := begin(t)
	long := strings.Repeat("line\n", 100_000)
	w.src.set("log.seg", long)
	w.start()
	w.like()
	w.src.mu.Lock()
	w.src.sent = 0
	w.src.mu.Unlock()
	w.src.set("log.seg", long+"more\n")
	w.like()
	if w.src.sent != 5 {
		t.Errorf("%d bytes were sent of 5 that are new", w.src.sent)
	}
	w.src.set("log.seg", "shorter\n") // another one with the same name
	w.like()
	w.end()
}

// In git, the branch x may follow the branch x/y, and the other way round.
func TestMirror_AFileInPlaceOfAFolder(t *testing.T) {
	t.Parallel()
	w := begin(t)
	w.src.set("refs/one/a/b", "1")
	w.src.set("refs/two", "1")
	w.start()
	w.like()
	w.src.mu.Lock()
	for _, p := range []string{"refs/one/a/b", "refs/two"} {
		delete(w.src.files, p)
	}
	w.src.mu.Unlock()
	w.src.set("refs/one", "2")
	w.src.set("refs/two/a/b", "2")
	w.like()
	w.src.remove("refs/two/a/b")
	w.like()
	if _, err := os.Stat(filepath.Join(w.dir, "refs", "two")); err == nil {
		t.Error("an empty folder is left")
	}
	w.end()
	w.start() // it begins with what the copy really has
	w.like()
	w.end()
}

// A file that another one has replaced since it was listed is left to the next round.
func TestMirror_ReplacedMeanwhile(t *testing.T) {
	t.Parallel()
	for _, now := range []string{"a longer one", "short"} {
		w := begin(t)
		w.src.set("a", "the first")
		w.src.set("state", "1")
		w.src.set("log.seg", "a line\n")
		w.src.open = map[string]string{"a": now, "log.seg": "a line\nanother\n"}
		w.start()
		for w.have()["state"] != "1" {
			<-w.rounds
		}
		if have := w.have(); len(have) != 2 || have["log.seg"] != "a line\n" {
			t.Errorf("in the copy: %q", have)
		}
		w.src.mu.Lock()
		w.src.open = nil
		w.src.mu.Unlock()
		w.src.set("a", now)
		w.like()
		w.end()
	}
}

// What breaks off in the middle of a file leaves nothing in the copy that is not of the file.
func TestMirror_BreaksOffInAFile(t *testing.T) {
	t.Parallel()
	w := begin(t)
	w.src.set("log.seg", "a line\n")
	w.start()
	w.like()
	w.src.mu.Lock()
	w.src.broken = true
	w.src.mu.Unlock()
	w.src.set("log.seg", "a line\nanother\n")
	if err := <-w.got; !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if err := <-w.sent; err == nil {
		t.Error("sent")
	}
	if text := w.have()["log.seg"]; !strings.HasPrefix("a line\nanother\n", text) {
		t.Errorf("in the copy: %q", text)
	}
	w.src.mu.Lock()
	w.src.broken = false
	w.src.mu.Unlock()
	w.start()
	w.like()
	w.end()
}

// The bulk never holds up the rest: a piece of it a round.
func TestMirror_BulkComesInPieces(t *testing.T) {
	t.Parallel()
	w := begin(t)
	w.src.set("bulk/x", strings.Repeat("x", 30<<20))
	w.src.set("bulk/y", strings.Repeat("y", 1<<20))
	w.src.set("state", "1")
	w.each = sync.OnceFunc(func() {
		if have := w.have(); have["state"] != "1" || len(have["bulk/x"]) >= 30<<20 {
			t.Errorf("after the first round: state %q, %d bytes of the bulk", have["state"], len(have["bulk/x"]))
		}
	})
	w.start()
	<-w.rounds
	w.end() // cut off in the middle, it goes on there
	w.src.mu.Lock()
	w.src.sent = 0
	w.src.mu.Unlock()
	w.start()
	w.like()
	w.end()
	if w.src.sent >= 30<<20 {
		t.Errorf("%d bytes were sent again", w.src.sent)
	}
}

func TestMirror_StateComesLast(t *testing.T) {
	t.Parallel()
	src := newSource()
	src.set("state", "1")
	src.set("z", "refers to nothing")
	src.set("bulk/x", "slow")
	var out bytes.Buffer
	err := mirror.Send(t.Context(), src, strings.NewReader(`{"format":1}`+"\n"), &out)
	if err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if z, s, b, end := strings.Index(text, `"z"`), strings.Index(text, `"state"`), strings.Index(text, "bulk/x"), strings.Index(text, `"end"`); z < 0 || z > s || s > b || b > end {
		t.Errorf("sent in the order %d, %d, %d, %d", z, s, b, end)
	}
}

func TestReceive_RefusesWhatNoServerSends(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"outside": `{"p":"../x","s":1}`, "absolute": `{"p":"/etc/x","s":1}`, "own": `{"p":"own","s":1}`, "unclean": `{"p":"a//b","s":1}`,
		"negative": `{"p":"a","s":-1}`, "removed outside": `{"p":"../x","gone":true}`, "no JSON": `hello`, "too long": strings.Repeat("x", 1<<20),
		"in a file that is not there": `{"p":"a","s":1,"at":5}`,
	} {
		dir := t.TempDir()
		c := mirror.Copy{Dir: filepath.Join(dir, "copy"), Own: []string{"own"}}
		if err := os.Mkdir(c.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := c.Receive(strings.NewReader(line+"\nx"), io.Discard, func(int, int64) {}); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		if found, _ := filepath.Glob(filepath.Join(dir, "copy", "*")); len(found) > 0 {
			t.Errorf("%s: it has written %q", name, found)
		}
	}
}

// A link that somebody has put into the copy leads nowhere.
func TestReceive_FollowsNoLinkOut(t *testing.T) {
	t.Parallel()
	w := begin(t)
	out := t.TempDir()
	if err := os.Symlink(out, filepath.Join(w.dir, "a")); err != nil {
		t.Fatal(err)
	}
	c := mirror.Copy{Dir: w.dir}
	if err := c.Receive(strings.NewReader(`{"p":"a/x","s":1}`+"\nx"), io.Discard, func(int, int64) {}); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if text := w.have()["a/x"]; text != "x" {
		t.Errorf("in the copy: %q", text)
	}
	if found, _ := filepath.Glob(filepath.Join(out, "*")); len(found) > 0 {
		t.Errorf("outside: %q", found)
	}
}

func TestSend_Refuses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": "this is for: mesh standby", "hello\n": "this is for: mesh standby", `{"format":2}` + "\n": "another version of mesh", `{"format":1,"have":-1}` + "\n": "another version"} {
		if err := mirror.Send(t.Context(), newSource(), strings.NewReader(in), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// What is wrong at the server is said at the copy, but nothing that is not for people.
func TestMirror_PassesErrorsOn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{
		{mesh.Errorf(mesh.Unavailable, "the disk of the server is full"), "the server says: the disk of the server is full"},
		{errors.New("open /secret"), "the server says: internal error"},
	} {
		w := begin(t)
		w.src.fail = c.err
		w.start()
		if err := <-w.got; err == nil || err.Error() != c.want {
			t.Errorf("%v", err)
		}
		<-w.sent
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte(`{"p":"a","s":3,"t":5}` + "\nabc" + `{"end":true}` + "\n"))
	f.Add([]byte(`{"p":"a/b","s":1,"t":5}` + "\nx" + `{"p":"a/b","s":1,"at":1}` + "\ny" + `{"p":"a/b","gone":true}` + "\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		dir := t.TempDir()
		c := mirror.Copy{Dir: filepath.Join(dir, "copy")}
		_ = os.Mkdir(c.Dir, 0o700)
		_ = c.Receive(bytes.NewReader(in), io.Discard, func(int, int64) {})
		if found, _ := os.ReadDir(dir); len(found) != 1 {
			t.Errorf("%q has written beside the copy", in)
		}
	})
}
