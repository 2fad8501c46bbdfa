package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"mesh"
	"mesh/store"
)

// restoreMain creates a data directory from a backup. It needs no server, and none may
// run on the directory.
func restoreMain(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	fs := pflag.NewFlagSet("restore", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	data := fs.String("data", os.Getenv("MESH_DATA"), "the data `DIR` to create")
	const usage = "usage: mesh restore [--data DIR] FILE.tar"
	switch err := fs.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		_, _ = fmt.Fprintf(stdout, "%s\n\nTurns a backup into a data directory. With -, reads it from standard input.\n\n%s", usage, fs.FlagUsages())
		return nil
	case err != nil:
		return mesh.Errorf(mesh.Invalid, "%w", err).WithHint(usage)
	case fs.NArg() != 1:
		return mesh.Errorf(mesh.Invalid, "restore takes one file").WithHint(usage)
	}
	if *data == "" {
		*data = defaultData()
	}
	var src *os.File
	var err error
	if name := fs.Arg(0); name != "-" {
		if src, err = os.Open(name); err != nil {
			return mesh.Errorf(mesh.NotFound, "the backup cannot be opened: %w", err)
		}
	} else if isTerminal(stdin) {
		return mesh.Errorf(mesh.Invalid, "standard input is a terminal").WithHint(usage)
	} else if src, err = spool(stdin, *data); err != nil {
		return err
	}
	defer src.Close()
	n, warnings, err := restore(src, *data)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		_, _ = fmt.Fprintf(stderr, "warning: %s\n", w)
	}
	_, _ = fmt.Fprintf(stdout, "restored %d files to %s; start the server with: mesh serve --data %s\n", n, *data, *data)
	_, _ = fmt.Fprintf(stderr, "A backup does not contain images. The server rebuilds missing ones from the repositories, one at a time;\n"+
		"follow it with: mesh stacks; mesh doctor. Deploy uploads (mesh deploy) again yourself.\n")
	return nil
}

// spool copies a backup to an unlinked file beside the data directory: a stream can be
// read only once, and the whole backup is checked before anything is restored.
func spool(r io.Reader, dir string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(filepath.Clean(dir)), ".mesh-restore-*")
	if err != nil {
		f, err = os.CreateTemp("", "mesh-restore-*")
	}
	if err != nil {
		return nil, mesh.Errorf(mesh.Unavailable, "the backup cannot be stored while it is checked: %w", err).WithHint("name its file instead of -")
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := io.Copy(f, r); err != nil {
		return nil, errors.Join(mesh.Errorf(mesh.Unavailable, "the backup cannot be stored while it is checked: %w", err).WithHint("name its file instead of -"), f.Close())
	}
	return f, nil
}

func badBackup(format string, args ...any) error {
	return mesh.Errorf(mesh.Invalid, format, args...).WithHint("use a file written by: ssh mesh backup > FILE.tar")
}

// counting is a reader without Seek, so that a tar reader reads every byte.
type counting struct {
	r io.Reader
	n int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// verify reads a backup to its end and reports whether each byte is what was written.
// Backups of format 1 have no checksum.
func verify(src io.ReadSeeker) (files int, sound bool, err error) {
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return 0, false, err
	}
	in := &counting{r: src}
	var m backupHeader
	seen := map[string]bool{}
	for t := tar.NewReader(in); ; files++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			if files == 0 {
				return 0, false, badBackup("this is not a mesh backup: it is empty")
			}
			return 0, false, badBackup("the backup is cut off after %d files", files-1)
		}
		if err != nil {
			return 0, false, badBackup("this is not a backup, or it is cut off: %w", err)
		}
		if files == 0 {
			if h.Name != manifestName || json.NewDecoder(io.LimitReader(t, 1<<16)).Decode(&m) != nil || m.Format < 1 {
				return 0, false, badBackup("this is not a mesh backup")
			}
			if m.Format > backupFormat {
				return 0, false, mesh.Errorf(mesh.Conflict, "the backup was written by a later mesh (%s)", m.Version).WithHint("restore it with that version")
			}
			continue
		}
		if h.Name == endName {
			at := in.n - 512 // where its header begins
			text, err := io.ReadAll(io.LimitReader(t, 1<<10))
			if err != nil {
				return 0, false, badBackup("the backup is cut off: %w", err)
			}
			return files - 1, m.Format > 1, verifyEnd(src, m.Format, files-1, at, string(text))
		}
		if err := entry(h, m.Format, seen); err != nil {
			return 0, false, err
		}
		if h.Typeflag == tar.TypeDir {
			files-- // the first and last file are not counted
		} else if _, err := io.Copy(io.Discard, t); err != nil {
			return 0, false, badBackup("%q cannot be restored: the backup is cut off: %w", mesh.Clip(h.Name, 100), err)
		}
	}
}

// entry returns an error for an entry that no backup has.
func entry(h *tar.Header, format int, seen map[string]bool) error {
	name := strings.TrimSuffix(h.Name, "/")
	clipped := mesh.Clip(h.Name, 100)
	top, _, _ := strings.Cut(name, "/")
	switch {
	case h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir:
		return badBackup("the backup is invalid: %q is neither a file nor a folder", clipped)
	case !filepath.IsLocal(name) || path.Clean(name) != name:
		return badBackup("the backup is invalid: the name %q points outside the data directory", clipped)
	case format > 1 && !slices.Contains(backedUp, top):
		return badBackup("the backup is invalid: %q does not belong to mesh", clipped)
	case seen[name]:
		return badBackup("the backup is invalid: %q is in it twice", clipped)
	}
	seen[name] = true
	return nil
}

// verifyEnd compares the last file with the archive before it. Nothing may follow it.
func verifyEnd(src io.ReadSeeker, format, files int, at int64, text string) error {
	var n int
	if _, err := fmt.Sscan(text, &n); err != nil || n != files {
		return badBackup("the backup is damaged: it has %d files instead of %.20q", files, text)
	}
	if format == 1 && !strings.Contains(text, "sha256") {
		return nil
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, src, at); err != nil {
		return err
	}
	rest, err := io.ReadAll(io.LimitReader(src, 1<<20))
	if err != nil {
		return err
	}
	want, err := lastBytes(files, sum.Sum(nil))
	switch {
	case err != nil:
		return err
	case text != ending(files, sum.Sum(nil)):
		return badBackup("the backup is damaged: its checksum does not match")
	case len(rest) < len(want):
		return badBackup("the backup is cut off at its end")
	case !bytes.Equal(rest, want):
		return badBackup("the backup is damaged at its end, or has trailing data")
	}
	return nil
}

// lastBytes returns the end of a backup, from the header of its last file on.
func lastBytes(files int, sum []byte) ([]byte, error) {
	var b bytes.Buffer
	w := backup{t: tar.NewWriter(&b)}
	err := w.bytes(endName, []byte(ending(files, sum)))
	err = errors.Join(err, w.t.Close())
	return b.Bytes(), err
}

// restore unpacks a backup into a directory, which must be empty or missing, and opens
// its state once. It checks the whole backup before it writes anything, and removes
// what it has written if it fails.
func restore(src io.ReadSeeker, dir string) (files int, warnings []string, err error) {
	if left, err := os.ReadDir(dir); err == nil && len(left) > 0 {
		return 0, nil, mesh.Errorf(mesh.Conflict, "%s is not empty", dir).WithHint("stop the server, move the directory away, and try again: mv %s %s.old", dir, dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, mesh.Errorf(mesh.Unavailable, "%s cannot be used: %w", dir, err)
	}
	files, sound, err := verify(src)
	if err != nil {
		return 0, nil, err
	}
	if !sound {
		warnings = append(warnings, "this backup is from an earlier mesh and has no checksum: it may be incomplete")
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return 0, nil, err
	}
	_, serr := os.Stat(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, nil, mesh.Errorf(mesh.Unavailable, "%s cannot be created: %w", dir, err)
	}
	root, err := os.OpenRoot(dir) // no name in an archive leads out of it
	if err != nil {
		return 0, nil, err
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
	for t := tar.NewReader(src); ; {
		h, err := t.Next()
		if err != nil {
			return 0, nil, badBackup("the backup changed while it was read: %w", err)
		}
		if h.Name == endName {
			break
		}
		switch {
		case h.Name == manifestName:
		case h.Typeflag == tar.TypeDir:
			err = root.MkdirAll(path.Clean(h.Name), 0o700)
		default:
			err = restoreFile(root, h, t)
		}
		if mesh.NoRoom(err) {
			return 0, nil, mesh.TellNoRoom(err)
		} else if err != nil {
			return 0, nil, badBackup("%q cannot be restored: %w", mesh.Clip(h.Name, 100), err)
		}
	}
	st, err := store.Open(dir)
	if err != nil {
		return 0, nil, err
	}
	for _, d := range st.Damaged() {
		warnings = append(warnings, fmt.Sprintf("%s was damaged when the backup was made: %s", d.What, d.Why))
	}
	return files, warnings, st.Close()
}

func restoreFile(root *os.Root, h *tar.Header, r io.Reader) error {
	name := path.Clean(h.Name)
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
