package volumes_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"

	"mesh"
	"mesh/deploy"
	"mesh/engine"
	"mesh/enginetest"
	"mesh/volumes"
)

var _ deploy.VolumeServer = (*volumes.Store)(nil)

var (
	run   = enginetest.NewID("volumes")
	cli   *client.Client
	shell string // ID of an image with busybox
)

func TestMain(m *testing.M) {
	enginetest.Main(m, run, func(ctx context.Context, engine *enginetest.Run) (images []string, err error) {
		cli = engine.Client
		files, err := enginetest.Busybox("sh", "sleep")
		if err != nil {
			return nil, err
		}
		if shell, err = engine.Import(ctx, "mesh-test/"+run+":shell", files, `CMD ["/bin/sh"]`); err != nil {
			return nil, err
		}
		return []string{shell}, nil
	})
}

// newStore returns a Store with a new server ID. What the test leaves in the engine
// fails the run.
func newStore(t *testing.T) (s *volumes.Store, ours filters.Args) {
	t.Helper()
	id := fmt.Sprintf("%08x", rand.Uint32()) + run
	s = volumes.New(engine.Of(cli), volumes.Options{Server: id, Labels: map[string]string{enginetest.Label: run}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	return s, filters.NewArgs(filters.Arg("label", "mesh.server="+id))
}

// create creates a volume, which is removed when the test ends.
func create(t *testing.T, s *volumes.Store, name mesh.VolumeName) string {
	t.Helper()
	v := s.Plan(name)
	if err := s.Create(t.Context(), name, v); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(context.WithoutCancel(t.Context()), v); err != nil {
			t.Errorf("remove %s: %v", v, err)
		}
	})
	return v
}

// file is an entry of a tar.
type file struct {
	name, text, link string
	kind             byte
	uid              int
}

func tarOf(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Linkname: f.link, Typeflag: f.kind, Size: int64(len(f.text)), Mode: 0o640, Uid: f.uid, Gid: f.uid, ModTime: time.Unix(1e9, 0)}
		if f.kind == tar.TypeDir {
			h.Mode = 0o750
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// listed returns what a tar has, an entry a line, in order of the names.
func listed(t *testing.T, data []byte) string {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	var out []string
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %c %o %d %s%s", h.Name, h.Typeflag, h.Mode&0o777, h.Uid, text, h.Linkname)))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

var whole = []file{
	{name: "./", kind: tar.TypeDir, uid: 7},
	{name: "./a", kind: tar.TypeReg, text: "one", uid: 1000},
	{name: "./sub/", kind: tar.TypeDir, uid: 1000},
	{name: "./sub/" + strings.Repeat("long", 40), kind: tar.TypeReg, text: strings.Repeat("x", 3000)},
	{name: "./hard", kind: tar.TypeLink, link: "./a", uid: 1000},
	{name: "./soft", kind: tar.TypeSymlink, link: "/etc/passwd"},
}

func TestExport_GivesBackWhatImportTook(t *testing.T) {
	t.Parallel()
	s, ours := newStore(t)
	v := create(t, s, "uploads")
	n, err := s.Import(t.Context(), v, bytes.NewReader(tarOf(t, whole...)))
	if err != nil || n != len(whole) {
		t.Fatal(n, err)
	}
	var first, second bytes.Buffer
	if err := s.Export(t.Context(), v, &first); err != nil {
		t.Fatal(err)
	}
	got := listed(t, first.Bytes())
	for _, want := range []string{"./ 5 750 7", "./a 0 640 1000 one", "./sub/ 5 750 1000", "/etc/passwd", strings.Repeat("x", 3000)} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	if _, err := zw.Write(first.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	again := create(t, s, "again")
	if _, err := s.Import(t.Context(), again, &z); err != nil {
		t.Fatal(err)
	}
	if err := s.Export(t.Context(), again, &second); err != nil || listed(t, second.Bytes()) != got {
		t.Errorf("%v\n%s\nwant\n%s", err, listed(t, second.Bytes()), got)
	}
	if left, err := cli.ContainerList(t.Context(), container.ListOptions{All: true, Filters: ours}); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if left, err := cli.ImageList(t.Context(), image.ListOptions{Filters: ours}); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 2 || list[v] != "uploads" || list[again] != "again" {
		t.Errorf("%v, %v", list, err)
	}
}

func TestImport_Refuses(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	good := tarOf(t, whole...)
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	_, _ = zw.Write(good)
	_ = zw.Close()
	flipped := bytes.Clone(z.Bytes())
	flipped[len(flipped)-6] ^= 1 // its checksum
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":               {nil, "standard input is empty"},
		"no tar":                {[]byte("hello, this is no tar\n"), "cut off"},
		"zeros":                 {make([]byte, 1024), "is empty"},
		"cut in a file":         {good[:1700], "cut off"},
		"cut in a header":       {good[:700], "cut off"},
		"cut between files":     {good[:1536], "cut off: its end is missing"},
		"gzip, cut":             {z.Bytes()[:z.Len()/2], "cut off"},
		"gzip, a flipped bit":   {flipped, "not a whole tar"},
		"a header is damaged":   {append(bytes.Repeat([]byte("x"), 512), good...), "not a whole tar"},
		"above":                 {tarOf(t, file{name: "../a", kind: tar.TypeReg}), `"../a" leads out of the volume`},
		"above, later":          {tarOf(t, file{name: "./a/../../b", kind: tar.TypeReg}), "leads out"},
		"absolute":              {tarOf(t, file{name: "/etc/passwd", kind: tar.TypeReg}), "leads out"},
		"a hard link to above":  {tarOf(t, file{name: "a", kind: tar.TypeLink, link: "../../etc/passwd"}), "leads out"},
		"a device":              {tarOf(t, file{name: "null", kind: tar.TypeChar}), "is a device"},
		"a name that is hidden": {tarOf(t, file{name: "../\x1b[2J", kind: tar.TypeReg}), "leads out"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := create(t, s, "v")
			_, err := s.Import(t.Context(), v, bytes.NewReader(c.data))
			var e *mesh.Error
			if !errors.As(err, &e) || e.Kind != mesh.Invalid || !strings.Contains(e.Text, c.want) || strings.Contains(e.Text, "\x1b") {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// A symbolic link in a tar does not lead what follows it out of the volume.
func TestImport_StaysInside(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	v := create(t, s, "v")
	name := "mesh-escaped-" + run
	_, err := s.Import(t.Context(), v, bytes.NewReader(tarOf(t,
		file{name: "out", kind: tar.TypeSymlink, link: os.TempDir()}, file{name: "out/" + name, kind: tar.TypeReg, text: "x"})))
	if _, serr := os.Stat(os.TempDir() + "/" + name); serr == nil {
		t.Errorf("written outside: %v", err)
	}
}

// stopped is a reader whose client goes away.
type stopped struct {
	io.Reader
	stop func()
}

func (s stopped) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		s.stop()
	}
	return n, err
}

func TestImport_EndsWithItsClient(t *testing.T) {
	t.Parallel()
	s, ours := newStore(t)
	v := create(t, s, "v")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := s.Import(ctx, v, stopped{bytes.NewReader(tarOf(t, whole...)[:1600]), cancel}); !errors.Is(err, mesh.Cancelled) && !errors.Is(err, mesh.Invalid) {
		t.Errorf("%v", err)
	}
	if left, err := cli.ContainerList(t.Context(), container.ListOptions{All: true, Filters: ours}); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A volume that no container uses outlives pruning, and one that a container uses is not
// removed.
func TestCreate_IsNotPruned(t *testing.T) {
	t.Parallel()
	s, ours := newStore(t)
	v := create(t, s, "uploads")
	if err := s.Create(t.Context(), "uploads", v); err != nil {
		t.Errorf("again: %v", err)
	}
	if _, err := s.Import(t.Context(), v, bytes.NewReader(tarOf(t, whole...))); err != nil {
		t.Fatal(err)
	}
	pruned, err := cli.VolumesPrune(t.Context(), ours)
	if err != nil || len(pruned.VolumesDeleted) > 0 {
		t.Fatalf("pruned: %v, %v", pruned, err)
	}
	made, err := cli.ContainerCreate(t.Context(), &container.Config{
		Image: shell, Cmd: []string{"/bin/sleep", "600"}, Labels: map[string]string{enginetest.Label: run},
	}, &container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: v, Target: "/data"}}}, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	remove := func() {
		if err := cli.ContainerRemove(context.WithoutCancel(t.Context()), made.ID, container.RemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
	if users, err := s.Users(t.Context(), v); err != nil || len(users) > 0 {
		t.Errorf("before it runs: %v, %v", users, err)
	}
	if err := cli.ContainerStart(t.Context(), made.ID, container.StartOptions{}); err != nil {
		t.Error(err)
	}
	if users, err := s.Users(t.Context(), v); err != nil || len(users) != 1 || users[0].ID != made.ID || users[0].Kind != "" {
		t.Errorf("running: %v, %v", users, err)
	}
	if err := s.Remove(t.Context(), v); !errors.Is(err, mesh.Conflict) {
		t.Errorf("removed: %v", err)
	}
	if sizes, err := s.Sizes(t.Context()); err != nil {
		t.Error(err)
	} else if n, known := sizes[v]; known && n < 3000 {
		t.Errorf("%d bytes", n)
	}
	remove()
	if err := s.Export(t.Context(), v, io.Discard); err != nil {
		t.Error(err)
	}
}

func TestExport_OfWhatIsGone(t *testing.T) {
	t.Parallel()
	s, ours := newStore(t)
	var b bytes.Buffer
	v := s.Plan("uploads")
	if err := s.Export(t.Context(), v, &b); !errors.Is(err, mesh.Failed) || !strings.Contains(err.Error(), "somebody has removed it") || b.Len() > 0 {
		t.Errorf("%v, %d bytes", err, b.Len())
	}
	if left, err := cli.VolumeList(t.Context(), volume.ListOptions{Filters: ours}); err != nil || len(left.Volumes) > 0 {
		t.Errorf("made: %v, %v", left, err)
	}
	if err := s.Remove(t.Context(), v); err != nil {
		t.Error(err)
	}
	if err := s.Tidy(t.Context()); err != nil {
		t.Error(err)
	}
}
