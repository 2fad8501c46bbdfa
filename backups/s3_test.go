package backups_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mesh"
	"mesh/backups"
	"mesh/backups/s3test"
)

// partSize is the smallest that S3 allows.
const partSize = 5 << 20

// inS3 is a place in a real S3 server.
func inS3(t *testing.T) (*fixture, *s3test.Server) {
	t.Helper()
	s, err := s3test.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	f := &fixture{T: t, clock: clock()}
	f.b = backups.New(backups.Options{Now: f.clock.now, PartSize: partSize, Temp: t.TempDir(), Patience: 20 * time.Second})
	f.place = s3Place(t, s, "s3://"+s3test.Bucket+"/mesh/prod")
	return f, s
}

func s3Place(t *testing.T, s *s3test.Server, url string) mesh.BackupPlace {
	t.Helper()
	u, err := mesh.ParsePlaceURL(url, s.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	return mesh.BackupPlace{URL: u, AccessKey: mesh.NewSecret(s3test.AccessKey), SecretKey: mesh.NewSecret(s3test.SecretKey)}
}

// stored returns what the server has, uploads that have not ended included.
func (f *fixture) stored(s *s3test.Server) []string {
	f.Helper()
	all, err := s.Files()
	if err != nil {
		f.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func TestS3_TakeReadKeep(t *testing.T) {
	t.Parallel()
	f, s := inS3(t)
	if err := f.b.Prepare(t.Context(), f.place, nil); err != nil {
		t.Fatal(err)
	}
	f.same("an empty place", f.ids())
	k := key(t)
	// Less than a part, less than what is in memory, exactly a part of noise or a bit more,
	// and several parts.
	var last mesh.Backup
	for i, n := range []int{0, 1000, 4<<20 + 5, partSize - 1500, partSize, 3*partSize + 12345} {
		f.clock.Time = f.clock.Add(time.Hour)
		data := noise(t, n)
		b := f.take(data, k.Recipient().String())
		last = b
		got, err := f.read(b.ID, k.String())
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d: %d of %d bytes, %v", i, len(got), n, err)
		}
	}
	removed, err := f.b.Keep(t.Context(), f.place, last, 2)
	if err != nil || len(removed) != 4 {
		t.Fatalf("%q, %v", removed, err)
	}
	f.same("whole", f.ids(), "mesh-20261127T090000Z", "mesh-20261127T080000Z")
	f.same("stored", f.stored(s),
		"mesh/prod/mesh-20261127T080000Z.tar.zst.age", "mesh/prod/mesh-20261127T080000Z.tar.zst.age.json",
		"mesh/prod/mesh-20261127T090000Z.tar.zst.age", "mesh/prod/mesh-20261127T090000Z.tar.zst.age.json")
	// The bucket itself is a place as well, and other people's files in it are not touched.
	f.place = s3Place(t, s, "s3://"+s3test.Bucket)
	f.take([]byte("at the top"))
	f.same("at the top", f.ids(), "mesh-20261127T090000Z")
}

// Two servers that share a place begin their nightly backups in the same second.
func TestS3_TwoServersAtOnce(t *testing.T) {
	t.Parallel()
	f, s := inS3(t)
	const servers = 4
	var all sync.WaitGroup
	made := make([]mesh.Backup, servers)
	for i := range servers {
		all.Go(func() {
			about := subject
			about.Server = fmt.Sprint("server", i)
			var err error
			if made[i], err = f.b.Take(t.Context(), f.place, about, "tar", nil, dumping([]byte(about.Server))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := len(f.stored(s)); n != 2*servers {
		t.Errorf("%q", f.stored(s))
	}
	for i, b := range made {
		if got, err := f.read(b.ID, ""); err != nil || string(got) != fmt.Sprint("server", i) {
			t.Errorf("%s: %q, %v", b.ID, got, err)
		}
	}
}

func TestS3_Refused(t *testing.T) {
	t.Parallel()
	f, s := inS3(t)
	wrong, unknown := f.place, f.place
	wrong.SecretKey = mesh.NewSecret("Planted-wrong")
	unknown.AccessKey = mesh.NewSecret("Planted-nobody")
	for what, c := range map[string]struct {
		place mesh.BackupPlace
		kind  mesh.Kind
		want  string
	}{
		"a wrong secret": {wrong, mesh.Denied, "refuses the access key or the secret key"},
		"an unknown key": {unknown, mesh.Denied, "refuses the access key or the secret key"},
		"no bucket":      {s3Place(t, s, "s3://nowhere/x"), mesh.NotFound, `has no bucket "nowhere"`},
		"no credentials": {mesh.BackupPlace{URL: f.place.URL}, mesh.Invalid, "needs an access key"},
		"a server that's off": {func() mesh.BackupPlace {
			p := f.place
			p.URL = "s3://b-1/x?endpoint=http%3A%2F%2F127.0.0.1%3A1&region=x"
			return p
		}(), mesh.Unavailable, "does not answer"},
	} {
		for i, err := range []error{
			f.b.Prepare(t.Context(), c.place, nil),
			func() error { _, err := f.b.List(t.Context(), c.place); return err }(),
			func() error { _, err := f.b.Take(t.Context(), c.place, subject, "tar", nil, dumping(nil)); return err }(),
		} {
			var e *mesh.Error
			if !errors.As(err, &e) || e.Kind != c.kind || e.Hint == "" || !strings.Contains(e.Text, c.want) || strings.Contains(e.Text+e.Hint, "Planted") {
				t.Errorf("%s, %d: %v", what, i, err)
			}
		}
	}
	f.same("stored", f.stored(s))
}

// An upload that fails or is stopped leaves nothing: no object, and no parts that nobody sees.
func TestS3_FailureLeavesNothing(t *testing.T) {
	t.Parallel()
	f, s := inS3(t)
	f.take([]byte("good"))
	before := f.stored(s)
	broken := errors.New("pg_dump: connection lost")
	if _, err := f.b.Take(t.Context(), f.place, subject, "tar", nil, func(ctx context.Context, w io.Writer) error {
		_ = dumping(noise(t, 3*partSize))(ctx, w)
		if len(f.stored(s)) <= len(before) {
			t.Error("nothing was uploaded before the dump failed: the test proves nothing")
		}
		return broken
	}); !errors.Is(err, broken) {
		t.Error(err)
	}
	f.same("after a failed dump", f.stored(s), before...)
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("mesh was stopped")
	if _, err := f.b.Take(ctx, f.place, subject, "tar", nil, func(ctx context.Context, w io.Writer) error {
		_ = dumping(noise(t, 2*partSize))(ctx, w)
		cancel(stopped)
		return dumping(noise(t, 2*partSize))(ctx, w)
	}); !errors.Is(err, stopped) {
		t.Error(err)
	}
	f.same("after a stop", f.stored(s), before...)
}

// A server that is away for a while delays the backup. One that stays away fails it.
func TestS3_AwayInTheMiddle(t *testing.T) {
	t.Parallel()
	f, s := inS3(t)
	data := noise(t, 4*partSize)
	s.AwayAfter(partSize + partSize/2)
	var back atomic.Bool
	go func() {
		for range 2 { // the client tries again, in vain, and once more
			select {
			case <-s.Refused():
			case <-t.Context().Done():
				return
			}
		}
		back.Store(true)
		s.Away(false)
	}()
	b := f.take(data)
	if !back.Load() {
		t.Error("the server was never away: the test proves nothing")
	}
	if got, err := f.read(b.ID, ""); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	before := f.stored(s)

	impatient := backups.New(backups.Options{Now: f.clock.now, PartSize: partSize, Patience: time.Millisecond})
	s.AwayAfter(partSize + partSize/2)
	if _, err := impatient.Take(t.Context(), f.place, subject, "tar", nil, dumping(data)); !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
	s.Away(false)
	f.same("listed", f.ids(), b.ID)
	// What it could not take back, because the server was away, goes a day later.
	if after := f.stored(s); len(after) <= len(before) {
		t.Errorf("no upload was left: the test proves nothing: %q", after)
	}
	f.clock.Time = time.Now().Add(25 * time.Hour)
	c := f.take([]byte("small"))
	f.same("a day later", f.stored(s), append(before, "mesh/prod/"+c.File, "mesh/prod/"+c.File+".json")...)
}

// Verify and Open report a file that was changed at the server, and one that ends early.
func TestS3_Damaged(t *testing.T) {
	t.Parallel()
	f, s := inS3(t)
	data := noise(t, 300_000)
	b := f.take(data)
	client := backups.New(backups.Options{Now: f.clock.now})
	if got, err := client.Verify(t.Context(), f.place, mesh.BackupMesh, "", b.ID, mesh.Secret{}, nil); err != nil || !got.Read {
		t.Errorf("%+v, %v", got, err)
	}
	flip(t, s.Dir+"/data/"+s3test.Bucket+"/mesh/prod/"+b.File, 150_000)
	if _, err := client.Verify(t.Context(), f.place, mesh.BackupMesh, "", b.ID, mesh.Secret{}, nil); !errors.Is(err, mesh.Damaged) {
		t.Error(err)
	}
	if _, err := f.read(b.ID, ""); !errors.Is(err, mesh.Damaged) {
		t.Error(err)
	}
}

// A server that stops sending in the middle ends the read.
func TestS3_Stalls(t *testing.T) {
	t.Parallel()
	f, s := inS3(t)
	b := f.take(noise(t, 20<<20))
	hasty := backups.New(backups.Options{Patience: 500 * time.Millisecond})
	r, _, err := hasty.Open(t.Context(), f.place, mesh.BackupMesh, "", b.ID, mesh.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	s.Hold(true)
	defer s.Hold(false)
	if n, err := io.Copy(io.Discard, r); !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "it stopped sending") {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// The use of memory does not grow with the size: it stays below 32 MB.
func TestS3_Memory(t *testing.T) { // not parallel: it measures the process
	f, _ := inS3(t)
	f.b = backups.New(backups.Options{Now: f.clock.now, Temp: t.TempDir()}) // with the size of parts that mesh uses
	k := key(t)
	piece := noise(t, 1<<20)
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	most := uint64(0)
	b, err := f.b.Take(t.Context(), f.place, subject, "tar", []string{k.Recipient().String()}, func(_ context.Context, w io.Writer) error {
		for i := range 130 { // more than a part
			piece[i]++
			if _, err := w.Write(piece); err != nil {
				return err
			}
			if i%10 == 0 {
				runtime.GC()
				runtime.ReadMemStats(&now)
				most = max(most, now.HeapAlloc-min(before.HeapAlloc, now.HeapAlloc))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MB stored with at most %.1f MB of memory", b.Size>>20, float64(most)/(1<<20))
	if most > 32<<20 {
		t.Errorf("%d bytes", most)
	}
	if b.Size < 130<<20 {
		t.Error(fmt.Errorf("only %d bytes", b.Size))
	}
}
