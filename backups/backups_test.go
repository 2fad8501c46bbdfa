package backups_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"mesh"
	"mesh/backups"
	"mesh/deploy"
)

var _ deploy.BackupPlaces = (*backups.Backups)(nil)

// at is a clock that stands still until it is set.
type at struct{ time.Time }

func (a *at) now() time.Time { return a.Time }

func clock() *at { return &at{time.Date(2026, 11, 27, 3, 0, 0, 123, time.UTC)} }

// subject is what the tests back up.
var subject = mesh.Backup{Subject: mesh.BackupMesh, Server: "srv1", Kind: "mesh", Version: "v1", Mesh: "v1"}

// dumping writes data in small pieces.
func dumping(data []byte) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		for c := range slices.Chunk(data, 7001) {
			if _, err := w.Write(c); err != nil {
				return fmt.Errorf("dump: %w", err)
			}
		}
		return nil
	}
}

// noise is data that cannot be compressed.
func noise(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func key(t *testing.T) *age.X25519Identity {
	t.Helper()
	k, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type fixture struct {
	*testing.T
	b     *backups.Backups
	place mesh.BackupPlace
	clock *at
}

func inFolder(t *testing.T) *fixture {
	c := clock()
	return &fixture{t, backups.New(backups.Options{Now: c.now}), mesh.BackupPlace{URL: mesh.PlaceURL(filepath.Join(t.TempDir(), "place"))}, c}
}

func (f *fixture) dir() string { return string(f.place.URL) }

func (f *fixture) take(data []byte, recipients ...string) mesh.Backup {
	f.Helper()
	b, err := f.b.Take(f.Context(), f.place, subject, "tar", recipients, dumping(data))
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// read returns the content of a backup.
func (f *fixture) read(id string, identity string) ([]byte, error) {
	f.Helper()
	r, _, err := f.b.Open(f.Context(), f.place, mesh.BackupMesh, "", id, mesh.NewSecret(identity))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func (f *fixture) ids() (out []string) {
	f.Helper()
	all, err := f.b.List(f.Context(), f.place)
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range all {
		out = append(out, b.String())
	}
	return out
}

func (f *fixture) same(what string, got []string, want ...string) {
	f.Helper()
	if !slices.Equal(got, want) {
		f.Errorf("%s: %q, want %q", what, got, want)
	}
}

func (f *fixture) files() (out []string) {
	f.Helper()
	all, err := os.ReadDir(f.dir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.Fatal(err)
	}
	for _, e := range all {
		out = append(out, e.Name())
	}
	return out
}

func TestTake_Read(t *testing.T) {
	t.Parallel()
	f := inFolder(t)
	for i, data := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("all the same "), 100_000), noise(t, 3<<20)} {
		f.clock.Time = f.clock.Add(time.Hour)
		b := f.take(data)
		if b.Content != int64(len(data)) || b.Encrypted || b.Format != 1 || b.Created.Nanosecond() != 0 {
			t.Errorf("%d: %+v", i, b)
		}
		if i == 2 && b.Size > b.Content/20 {
			t.Errorf("%d bytes of %d are left", b.Size, b.Content)
		}
		got, err := f.read(backups.Latest, "")
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d: %d bytes, %v", i, len(got), err)
		}
		info, err := os.Stat(filepath.Join(f.dir(), b.File))
		if err != nil || info.Mode() != 0o600 || info.Size() != b.Size {
			t.Errorf("%v, %v", info, err)
		}
	}
	info, err := os.Stat(f.dir())
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info, err)
	}
	f.same("whole", f.ids(), "mesh-20261127T070000Z", "mesh-20261127T060000Z", "mesh-20261127T050000Z", "mesh-20261127T040000Z")
}

func TestTake_InTheSameSecond(t *testing.T) {
	t.Parallel()
	f := inFolder(t)
	f.take([]byte("1"))
	f.take([]byte("2"))
	f.same("ids", f.ids(), "mesh-20261127T030001Z", "mesh-20261127T030000Z")
}

func TestTake_Encrypted(t *testing.T) {
	t.Parallel()
	f := inFolder(t)
	one, two, other := key(t), key(t), key(t)
	data := noise(t, 200_000)
	b := f.take(data, one.Recipient().String(), two.Recipient().String())
	if !b.Encrypted || !strings.HasSuffix(b.File, ".tar.zst.age") {
		t.Errorf("%+v", b)
	}
	for _, k := range []*age.X25519Identity{one, two} {
		if got, err := f.read(b.ID, "# a comment\n"+k.String()+"\n"); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	if _, err := f.read(b.ID, other.String()); !errors.Is(err, mesh.Denied) || !strings.Contains(err.Error(), "encrypted for other keys") {
		t.Errorf("with another key: %v", err)
	}
	if _, err := f.read(b.ID, ""); !errors.Is(err, mesh.Denied) || !strings.Contains(err.Error(), "is encrypted") {
		t.Errorf("without a key: %v", err)
	}
	if _, err := f.read(b.ID, "Planted-nonsense"); !errors.Is(err, mesh.Invalid) || strings.Contains(err.Error(), "Planted") {
		t.Errorf("with nonsense: %v", err)
	}
	got, err := f.b.Verify(t.Context(), f.place, mesh.BackupMesh, "", backups.Latest, mesh.Secret{}, nil)
	if err != nil || got.Read {
		t.Errorf("verified without a key: %+v, %v", got, err)
	}
	got, err = f.b.Verify(t.Context(), f.place, mesh.BackupMesh, "", backups.Latest, mesh.NewSecret(one.String()), nil)
	if err != nil || !got.Read {
		t.Errorf("verified: %+v, %v", got, err)
	}
}

func TestPrepare_Recipients(t *testing.T) {
	t.Parallel()
	f := inFolder(t)
	good := key(t).Recipient().String()
	sshKey, _ := sshPair(t)
	if err := f.b.Prepare(t.Context(), f.place, []string{good, sshKey}); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]string{
		"":    "neither an age nor an SSH key",
		"ann": "neither an age nor an SSH key",
		strings.Replace(good, good[10:20], "qqqqqqqqqq", 1): "not a key that backups can be encrypted for",
		"ssh-ed25519 AAAA": "not a key that backups can be encrypted for",
		"ssh-dss AAAA":     "not a key that backups can be encrypted for",
		key(t).String():    "this is a secret key",
	} {
		err := f.b.Prepare(t.Context(), f.place, []string{good, text})
		var e *mesh.Error
		if !errors.As(err, &e) || e.Kind != mesh.Invalid || e.Hint == "" || !strings.Contains(e.Text, want) || strings.Contains(e.Text, "AGE-SECRET") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// sshPair returns the line of a public key, and the private key.
func sshPair(t *testing.T) (public, private string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "ann@laptop")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(p))) + " ann@laptop", string(pem.EncodeToMemory(block))
}

func TestTake_EncryptedForAnSSHKey(t *testing.T) {
	t.Parallel()
	f := inFolder(t)
	public, private := sshPair(t)
	b := f.take([]byte("content"), public)
	if got, err := f.read(b.ID, private); err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := f.read(b.ID, private[:len(private)/2]); !errors.Is(err, mesh.Invalid) {
		t.Errorf("half a key: %v", err)
	}
}

func TestFailure_LeavesNothing(t *testing.T) {
	t.Parallel()
	f := inFolder(t)
	f.take([]byte("good"))
	before := f.files()
	broken := errors.New("pg_dump: connection lost")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	stopped := errors.New("mesh was stopped")
	for what, c := range map[string]struct {
		dump func(context.Context, io.Writer) error
		want error
	}{
		"a dump that fails at once": {func(context.Context, io.Writer) error { return broken }, broken},
		"a dump that fails late": {func(ctx context.Context, w io.Writer) error {
			_ = dumping(noise(t, 1<<20))(ctx, w)
			return broken
		}, broken},
		"a stop": {func(context.Context, io.Writer) error { return nil }, nil},
	} {
		ctx := ctx
		if what == "a stop" {
			c.want, c.dump = stopped, func(dctx context.Context, w io.Writer) error {
				cancel(stopped)
				return dumping(noise(t, 1<<20))(dctx, w)
			}
		} else {
			ctx = t.Context()
		}
		if _, err := f.b.Take(ctx, f.place, subject, "tar", nil, c.dump); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
		f.same(what, f.files(), before...)
	}
}

func TestFolder_Refused(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(data, link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := backups.New(backups.Options{Data: data})
	for dir, want := range map[string]string{
		data:                                 "is in mesh's data directory",
		filepath.Join(data, "repos"):         "is in mesh's data directory",
		filepath.Join(link, "logs", "x"):     "is in mesh's data directory",
		filepath.Join(data, "backups2"):      "is in mesh's data directory",
		filepath.Join(data, "backups", "a"):  "",
		filepath.Join(link, "backups", "b"):  "",
		filepath.Join(t.TempDir(), "a", "b"): "does not exist",
		filepath.Join(t.TempDir(), "a"):      "",
		file:                                 "is not a folder",
	} {
		err := b.Prepare(t.Context(), mesh.BackupPlace{URL: mesh.PlaceURL(dir)}, nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", dir, err, want)
		}
	}
}

// On the disk of the data directory, mesh itself needs some room.
func TestTake_LeavesRoomForMesh(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	at := mesh.BackupPlace{URL: mesh.PlaceURL(filepath.Join(data, "backups", "shop-db"))}
	full := backups.New(backups.Options{Data: data, Reserve: 1 << 60})
	_, err := full.Take(t.Context(), at, subject, "tar", nil, dumping([]byte("x")))
	if !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "which is also that of the data directory, has only") {
		t.Error(err)
	}
	if left, err := os.ReadDir(string(at.URL)); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
	if _, err := backups.New(backups.Options{Data: data, Reserve: 1}).Take(t.Context(), at, subject, "tar", nil, dumping([]byte("x"))); err != nil {
		t.Error(err)
	}
}

// Every byte of a stored file counts, and every byte of its description that says something
// about it.
func TestOpen_NoFlippedBitIsBelieved(t *testing.T) {
	t.Parallel()
	f := inFolder(t)
	k := key(t)
	for _, recipients := range [][]string{nil, {k.Recipient().String()}} {
		f.clock.Time = f.clock.Add(time.Hour)
		data := append(noise(t, 3000), bytes.Repeat([]byte("again "), 2000)...)
		b := f.take(data, recipients...)
		path := filepath.Join(f.dir(), b.File)
		stored, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		try := func(what string, changed []byte) {
			t.Helper()
			if err := os.WriteFile(path, changed, 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := f.read(b.ID, k.String()); err == nil {
				t.Errorf("%s: read %d bytes", what, len(got))
			}
			if _, err := f.b.Verify(t.Context(), f.place, mesh.BackupMesh, "", b.ID, mesh.Secret{}, nil); err == nil {
				t.Errorf("%s: verified", what)
			}
		}
		for i := 0; i < len(stored); i += 1 + len(stored)/300 {
			c := bytes.Clone(stored)
			c[i] ^= 1 << (i % 8)
			try(fmt.Sprintf("a bit of byte %d of %d", i, len(stored)), c)
		}
		try("cut", stored[:len(stored)-1])
		try("longer", append(bytes.Clone(stored), 0))
		try("empty", nil)
		if err := os.WriteFile(path, stored, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := f.read(b.ID, k.String()); err != nil || !bytes.Equal(got, data) {
			t.Errorf("as it was: %v", err)
		}
	}
}

func TestList_WhatIsNotWhole(t *testing.T) {
	t.Parallel()
	f := inFolder(t)
	f.same("no folder", f.ids())
	b := f.take([]byte("good"))
	about, err := os.ReadFile(filepath.Join(f.dir(), b.File+".json"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(f.dir(), name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("mesh-20261127T040000Z.tar.zst", []byte("half"))
	put("mesh-20261127T050000Z.tar.zst.json", bytes.ReplaceAll(about, []byte("T03:00"), []byte("T05:00")))
	put("mesh-20261127T060000Z.tar.zst.json", about)
	put("mesh-20261127T060000Z.tar.zst", nil)
	put("mesh-20261127T070000Z.tar.zst.json", []byte("{"))
	put("mesh-20261127T080000Z.tar.zst.json", []byte(`{"format":2,"mesh":"v9"}`))
	put(".mesh-20261127T090000Z.tar.zst-123", []byte("half"))
	put("notes.txt", nil)
	put("mesh.tar.zst", nil)
	if err := os.Mkdir(filepath.Join(f.dir(), "mesh-20261127T100000Z.tar.zst"), 0o700); err != nil {
		t.Fatal(err)
	}
	f.same("listed", f.ids(),
		"mesh-20261127T080000Z (it was made by a later mesh (v9))",
		"mesh-20261127T070000Z (its description cannot be used: unexpected EOF)",
		"mesh-20261127T060000Z (its description cannot be used: it belongs to another one)",
		"mesh-20261127T050000Z (its file is missing)",
		"mesh-20261127T040000Z (unfinished)",
		"mesh-20261127T030000Z")
	if got, err := f.read(backups.Latest, ""); err != nil || string(got) != "good" {
		t.Errorf("the latest: %q, %v", got, err)
	}
	if _, err := f.read("mesh-20261127T040000Z", ""); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "is not whole: unfinished") {
		t.Errorf("an unfinished one: %v", err)
	}
	if _, err := f.read("mesh-20261127T110000Z", ""); !errors.Is(err, mesh.NotFound) {
		t.Errorf("none: %v", err)
	}

	// The next backup removes what is old and was never finished, and nothing else.
	old := f.clock.Add(-25 * time.Hour)
	for _, name := range []string{"mesh-20261127T040000Z.tar.zst", ".mesh-20261127T090000Z.tar.zst-123", "notes.txt", "mesh.tar.zst", b.File, b.File + ".json"} {
		if err := os.Chtimes(filepath.Join(f.dir(), name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	put(".mesh-20261127T093000Z.tar.zst-124", []byte("being written"))
	put("shop-db-20261127T040000Z.dump.zst", []byte("of something else"))
	if err := os.Chtimes(filepath.Join(f.dir(), "shop-db-20261127T040000Z.dump.zst"), old, old); err != nil {
		t.Fatal(err)
	}
	before := f.files()
	f.clock.Time = f.clock.Add(10 * time.Hour)
	now := f.take([]byte("new"))
	want := slices.DeleteFunc(append(before, now.File, now.File+".json"), func(s string) bool {
		return s == "mesh-20261127T040000Z.tar.zst" || s == ".mesh-20261127T090000Z.tar.zst-123"
	})
	slices.Sort(want)
	f.same("after the next backup", f.files(), want...)
}

func TestKeep(t *testing.T) {
	t.Parallel()
	f := inFolder(t)
	other := subject
	var last mesh.Backup
	for i := range 6 {
		f.clock.Time = f.clock.Add(time.Hour)
		last = f.take(fmt.Append(nil, i))
		if i == 2 {
			other.Server = "srv2"
			if _, err := f.b.Take(t.Context(), f.place, other, "tar", nil, dumping(nil)); err != nil {
				t.Fatal(err)
			}
			other.Server, other.Subject, other.Kind = "srv1", "shop-db", "postgres"
			if _, err := f.b.Take(t.Context(), f.place, other, "dump", nil, dumping(nil)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(f.dir(), "mesh-20261127T103000Z.tar.zst"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	removed, err := f.b.Keep(t.Context(), f.place, last, 2)
	if err != nil {
		t.Fatal(err)
	}
	f.same("removed", removed, "mesh-20261127T070000Z", "mesh-20261127T060000Z", "mesh-20261127T050000Z", "mesh-20261127T040000Z")
	left := []string{"mesh-20261127T103000Z (unfinished)", "mesh-20261127T090000Z", "mesh-20261127T080000Z", "mesh-20261127T060001Z", "shop-db-20261127T060000Z"}
	f.same("left", f.ids(), left...)
	// The clock was set back by a day: what was made just now stays, whatever it looks like.
	f.clock.Time = f.clock.Add(-24 * time.Hour)
	last = f.take(nil)
	removed, err = f.b.Keep(t.Context(), f.place, last, 1)
	if err != nil {
		t.Fatal(err)
	}
	f.same("removed after the clock was set back", removed, "mesh-20261127T090000Z", "mesh-20261127T080000Z")
	// Which one latest is depends on whose it may be.
	if _, err := f.read(backups.Latest, ""); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "two servers") {
		t.Errorf("the latest of two servers: %v", err)
	}
	b, err := f.b.Find(t.Context(), f.place, mesh.BackupMesh, "srv2", backups.Latest)
	if err != nil || b.ID != "mesh-20261127T060001Z" {
		t.Errorf("the latest of srv2: %+v, %v", b, err)
	}
}

func TestVerify_Inspects(t *testing.T) {
	t.Parallel()
	f := inFolder(t)
	f.take([]byte("content and more"))
	verify := func(inspect func(mesh.Backup, io.Reader) (string, error)) (mesh.BackupCheck, error) {
		return f.b.Verify(t.Context(), f.place, mesh.BackupMesh, "", backups.Latest, mesh.Secret{}, inspect)
	}
	got, err := verify(func(b mesh.Backup, r io.Reader) (string, error) {
		data, err := io.ReadAll(r)
		return b.Kind + ": " + string(data), err
	})
	if err != nil || got.Content != "mesh: content and more" || !got.Read {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := verify(func(_ mesh.Backup, r io.Reader) (string, error) {
		_, err := io.ReadFull(r, make([]byte, 7))
		return "", err
	}); !errors.Is(err, mesh.Damaged) || !strings.Contains(err.Error(), "9 bytes follow") {
		t.Errorf("not all of it was read: %v", err)
	}
	no := errors.New("no such thing")
	if got, err := verify(func(mesh.Backup, io.Reader) (string, error) { return "", no }); !errors.Is(err, no) || got.Read {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"mesh-20261127T030000Z.tar.zst", "shop-db-20261127T030000Z.dump.zst.age", ".mesh-20261127T030000Z.tar.zst-12"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := backups.IDOf(s)
		if !ok {
			return
		}
		subject, created, err := mesh.ParseBackupID(id)
		if err != nil || mesh.BackupID(subject, created) != id || !strings.HasPrefix(s, id+".") || filepath.Base(s) != s {
			t.Fatalf("%q has the ID %q: %v", s, id, err)
		}
	})
}

// flip changes a bit of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := file.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}
