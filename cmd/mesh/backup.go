package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
	"mesh/store"
)

// manifest is the first file of a backup, by which restore knows it.
type manifest struct {
	Format  int       `json:"format"`
	Version string    `json:"mesh"`
	Created time.Time `json:"created"`
}

const (
	manifestName = "mesh-backup.json"
	endName      = "mesh-backup.end" // the last file: how many there were between
	backupFormat = 1
)

// left out of a backup: what belongs to the running process, what is made anew at
// every start, the data file, of which a snapshot is taken, and the times of files,
// which describe the engine's build cache.
func leftOut(name string) bool {
	base := path.Base(name)
	switch name {
	case "mesh.db", "mesh.sock", "ready.json", "instances.json", "hooks", "repos", "times":
		return true
	}
	return strings.HasSuffix(base, ".new") || strings.HasSuffix(base, ".lock") || strings.HasPrefix(base, ".mesh.db-")
}

// Backup writes all that the server owns, as a tar. The state is a snapshot of one
// instant, and is taken first: repositories and recorded output, which are added
// to only, have at least what it speaks of.
func (h *host) Backup(ctx context.Context, w io.Writer) (files int, err error) {
	b := backup{ctx: ctx, t: tar.NewWriter(w)}
	about, err := json.Marshal(manifest{Format: backupFormat, Version: h.info.Version, Created: time.Now().UTC()})
	if err != nil {
		return 0, err
	}
	if err := b.bytes(manifestName, about); err != nil {
		return 0, err
	}
	var db *os.File
	frozen, thaw, err := h.repos.Freeze(ctx, func() (err error) {
		db, err = h.store.Snapshot(ctx)
		return err
	})
	if err != nil {
		return 0, err
	}
	defer thaw()
	defer db.Close()
	if err := b.add("mesh.db", db); err != nil {
		return b.files, err
	}
	if err := b.walk(frozen, "repos/", func(string) bool { return false }); err != nil {
		return b.files, err
	}
	if err := b.walk(h.info.Data, "", leftOut); err != nil {
		return b.files, err
	}
	// An archive that breaks off between two files looks as if it had ended.
	if err := b.bytes(endName, []byte(strconv.Itoa(b.files))); err != nil {
		return b.files, err
	}
	return b.files, b.t.Close()
}

type backup struct {
	ctx   context.Context
	t     *tar.Writer
	files int
}

func (b *backup) bytes(name string, data []byte) error {
	if err := b.t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := b.t.Write(data)
	return err
}

// add adds an open file, as long as it is now.
func (b *backup) add(name string, f *os.File) error {
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	err = b.t.WriteHeader(&tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime(), Typeflag: tar.TypeReg})
	if err != nil {
		return err
	}
	b.files++
	n, err := io.Copy(b.t, io.LimitReader(f, info.Size()))
	if err == nil && n < info.Size() {
		err = fmt.Errorf("back up %s: it has become shorter meanwhile", name)
	}
	return err
}

// walk adds what lies below a folder. What vanishes meanwhile is left out.
func (b *backup) walk(root, prefix string, skip func(string) bool) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil || rel == "." {
			return err
		}
		name := filepath.ToSlash(rel)
		if skip(name) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return b.t.WriteHeader(&tar.Header{Name: prefix + name + "/", Mode: 0o700, Typeflag: tar.TypeDir})
		}
		if !d.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		defer f.Close()
		return b.add(prefix+name, f)
	})
}

// restoreMain makes a data directory out of a backup. It needs no server, and none
// may run on it.
func restoreMain(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	fs := pflag.NewFlagSet("restore", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	data := fs.String("data", os.Getenv("MESH_DATA"), "the data `DIR` to make")
	const usage = "usage: mesh restore [--data DIR] FILE.tar"
	switch err := fs.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		_, _ = fmt.Fprintf(stdout, "%s\n\nMake a data directory out of a backup; - reads it from standard input.\n\n%s", usage, fs.FlagUsages())
		return nil
	case err != nil:
		return mesh.Errorf(mesh.Invalid, "%w", err).WithHint(usage)
	case fs.NArg() != 1:
		return mesh.Errorf(mesh.Invalid, "restore takes one file").WithHint(usage)
	}
	if *data == "" {
		*data = defaultData()
	}
	src := stdin
	if name := fs.Arg(0); name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return mesh.Errorf(mesh.NotFound, "the backup cannot be opened: %w", err)
		}
		defer f.Close()
		src = f
	} else if isTerminal(stdin) {
		return mesh.Errorf(mesh.Invalid, "standard input is a terminal").WithHint(usage)
	}
	n, err := restore(src, *data)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(stdout, "%d files are restored to %s; start the server with: mesh serve --data %s\n", n, *data, *data)
	_, _ = fmt.Fprintf(stderr, "Images are not in a backup. The server builds those that this machine does not have from the repositories, one after the other;\n"+
		"see how far it is with: mesh stacks; mesh doctor. What came from mesh deploy has to be deployed again.\n")
	return nil
}

// restore unpacks a backup into a directory, which has to be empty or missing, and
// opens its state once. What it has written is gone again when it fails.
func restore(src io.Reader, dir string) (files int, err error) {
	if left, err := os.ReadDir(dir); err == nil && len(left) > 0 {
		return 0, mesh.Errorf(mesh.Conflict, "%s is not empty", dir).WithHint("stop the server, move the directory away, and try again: mv %s %s.old", dir, dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, mesh.Errorf(mesh.Unavailable, "%s cannot be used: %w", dir, err)
	}
	_, serr := os.Stat(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, mesh.Errorf(mesh.Unavailable, "%s cannot be made: %w", dir, err)
	}
	root, err := os.OpenRoot(dir) // no name in an archive leads out of it
	if err != nil {
		return 0, err
	}
	defer func() { _ = root.Close() }()
	defer func() {
		if err == nil {
			return
		}
		left, _ := os.ReadDir(dir)
		for _, e := range left {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
		if errors.Is(serr, fs.ErrNotExist) {
			_ = os.Remove(dir)
		}
	}()
	bad := func(format string, args ...any) error {
		return mesh.Errorf(mesh.Invalid, format, args...).WithHint("give what ssh mesh backup > FILE.tar has written")
	}
	ended := false
	for t := tar.NewReader(src); !ended; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, bad("this is no backup, or cut off: %w", err)
		}
		if files == 0 {
			var m manifest
			if h.Name != manifestName || json.NewDecoder(io.LimitReader(t, 1<<16)).Decode(&m) != nil {
				return 0, bad("this is no backup of mesh")
			}
			if m.Format > backupFormat {
				return 0, mesh.Errorf(mesh.Conflict, "the backup was written by a later mesh (%s)", m.Version).WithHint("restore it with that version")
			}
			files++
			continue
		}
		if h.Name == endName {
			var n int
			if _, err := fmt.Fscan(io.LimitReader(t, 32), &n); err != nil || n != files-1 {
				return 0, bad("the backup is damaged: it has %d files, and should have %d", files-1, n)
			}
			ended = true
			break
		}
		if h.Typeflag == tar.TypeDir {
			if err := root.MkdirAll(path.Clean(h.Name), 0o700); err != nil {
				return 0, bad("%q cannot be made: %w", mesh.Clip(h.Name, 100), err)
			}
			continue
		}
		if err := restoreFile(root, h, t); err != nil {
			return 0, bad("%q cannot be restored: %w", mesh.Clip(h.Name, 100), err)
		}
		files++
	}
	switch {
	case files == 0:
		return 0, bad("this is no backup of mesh: it is empty")
	case !ended:
		return 0, bad("the backup is cut off behind %d files", files-1)
	}
	st, err := store.Open(dir)
	if err != nil {
		return 0, err
	}
	_, err = st.Stacks(context.Background())
	return files, errors.Join(err, st.Close())
}

func restoreFile(root *os.Root, h *tar.Header, r io.Reader) error {
	name := path.Clean(h.Name)
	if h.Typeflag != tar.TypeReg {
		return errors.New("it is no file")
	}
	if d := path.Dir(name); d != "." {
		if err := root.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(h.Mode).Perm()&0o700) //nolint:gosec // nine bits are left of it
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}
