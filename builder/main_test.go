package builder_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/client"

	"mesh"
	"mesh/builder"
	"mesh/engine"
	"mesh/enginetest"
)

// The run's own label, engine client and base image.
var (
	run  = enginetest.NewID("builder")
	cli  *client.Client
	base = "mesh-test/busybox-" + run + ":1"
)

const (
	testLabel = enginetest.Label
	commit    = mesh.Commit("0123456789abcdef0123456789abcdef01234567")
)

func TestMain(m *testing.M) {
	enginetest.Main(m, run, func(ctx context.Context, engine *enginetest.Run) (images []string, err error) {
		cli = engine.Client
		files, err := enginetest.Busybox("sh", "cat", "echo", "sleep", "ls", "grep", "date", "printf", "seq", "stat", "readlink", "test", "dd")
		if err != nil {
			return nil, err
		}
		// Each run has its own base: no step is cached from the last run.
		files["run"], files["tmp/"] = "-> "+run, ""
		if _, err := engine.Import(ctx, base, files, "ENV PATH=/bin", `CMD ["/bin/sh"]`); err != nil {
			return nil, err
		}
		return []string{base}, nil
	})
}

// tree is a mesh.Tree of literal files. A value that begins with "-> " is a
// symbolic link; one that begins with "#!" is executable; a path that ends in
// "/" is a submodule.
type tree map[string]string

func (t tree) Entries() []mesh.TreeEntry {
	all := map[string]mesh.TreeEntry{}
	for p, s := range t {
		h := sha1.Sum([]byte(s))
		e := mesh.TreeEntry{Path: strings.TrimSuffix(p, "/"), Mode: 0o644, Size: int64(len(s)), ID: hex.EncodeToString(h[:])}
		switch {
		case strings.HasSuffix(p, "/"):
			e.Mode, e.Size, e.Module = fs.ModeDir|0o755, 0, string(commit)
		case strings.HasPrefix(s, "-> "):
			e.Mode, e.Size, e.Link = fs.ModeSymlink|0o777, 0, s[3:]
		case strings.HasPrefix(s, "#!"):
			e.Mode = 0o755
		}
		all[e.Path] = e
		for d := path.Dir(e.Path); d != "."; d = path.Dir(d) {
			all[d] = mesh.TreeEntry{Path: d, Mode: fs.ModeDir | 0o755}
		}
	}
	var list []mesh.TreeEntry
	for _, e := range all {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b mesh.TreeEntry) int {
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
	return list
}

func (t tree) Open(e mesh.TreeEntry) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(t[e.Path])), nil
}

// output collects lines and the times at which they arrived.
type output struct {
	mu    sync.Mutex
	lines []string
	at    []time.Time
	on    func(line string)
	t     *testing.T
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	if !bytes.HasSuffix(p, []byte("\n")) || bytes.Count(p, []byte("\n")) != 1 {
		o.t.Errorf("not one whole line: %q", p)
	}
	line := strings.TrimSuffix(string(p), "\n")
	o.lines, o.at = append(o.lines, line), append(o.at, time.Now())
	on := o.on
	o.mu.Unlock()
	if on != nil {
		on(line)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.lines, "\n")
}

var stacks atomic.Int64

// bench is a Builder for its own server, with one stack.
type bench struct {
	*builder.Builder
	t      *testing.T
	stack  mesh.StackName
	server string
	times  *memory
}

// memory keeps the times of a stack's files.
type memory struct {
	mu   sync.Mutex
	kept mesh.FileTimes
}

func (m *memory) FileTimes(context.Context) (mesh.FileTimes, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kept, nil
}

func (m *memory) KeepFileTimes(_ context.Context, t mesh.FileTimes) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = t
	return nil
}

func newBench(t *testing.T) *bench { return newBenchWith(t, cli) }

func newBenchWith(t *testing.T, c *client.Client) *bench {
	t.Helper()
	enginetest.Beside(t)
	n := stacks.Add(1)
	b := &bench{t: t, stack: mesh.StackName(fmt.Sprintf("t%d-%s", n, run[len("builder-"):])), server: fmt.Sprintf("%s-%d", run, n), times: &memory{}}
	b.Builder = builder.New(engine.Of(c), builder.Options{Server: b.server, Key: []byte(run), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := builder.New(engine.Of(cli), builder.Options{Server: fmt.Sprintf("%s-%d", run, n), Key: []byte(run)}).Collect(ctx, b.stack, nil); err != nil {
			t.Errorf("collect: %v", err)
		}
	})
	return b
}

func (b *bench) req(files tree) mesh.Build {
	return mesh.Build{
		Stack: b.stack, Deployment: 1, Commit: commit, Tree: files,
		Tags: []string{"mesh/" + string(b.stack) + ":" + commit.Short()}, Labels: map[string]string{testLabel: run},
		Times: b.times,
	}
}

// fresh is a build whose steps all run, even if the tests run again.
func (b *bench) fresh(files tree) mesh.Build {
	req := b.req(files)
	req.NoCache = true
	return req
}

func (b *bench) build(req mesh.Build) (mesh.Image, *output, error) {
	b.t.Helper()
	out := &output{t: b.t}
	img, err := b.Build(b.t.Context(), req, out)
	b.t.Logf("%v\n%s", err, out)
	return img, out, err
}

// must builds something that has to succeed.
func (b *bench) must(req mesh.Build) (mesh.Image, string) {
	b.t.Helper()
	img, out, err := b.build(req)
	if err != nil {
		b.t.Fatalf("build: %v", err)
	}
	return img, out.String()
}

func from(lines ...string) string { return "FROM " + base + "\n" + strings.Join(lines, "\n") + "\n" }

// bases makes sure that base images exist, as people do.
func bases(t *testing.T, names ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../scripts/base-images", names...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("base images: %v\n%s", err, out)
	}
}

func userOf(t *testing.T, id string) string {
	t.Helper()
	in, err := cli.ImageInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return in.Config.User
}

func cloned(t tree) tree {
	out := tree{}
	for k, v := range t {
		out[k] = v
	}
	return out
}
