package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
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
	identity := fs.String("identity", "", "a `FILE` with the age or SSH key that decrypts the backup")
	const usage = "usage: mesh restore [--data DIR] [--identity FILE] FILE.tar | PLACE/ID | PLACE/latest"
	switch err := fs.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		_, _ = fmt.Fprintf(stdout, "%s\n\nTurns a backup into a data directory. With -, reads it from standard input.\n\n"+
			"PLACE is a folder, or s3://BUCKET/PREFIX, with ?endpoint=URL&region=REGION behind the ID unless it is Amazon's.\n"+
			"The credentials of S3 are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; AWS_ENDPOINT_URL and AWS_REGION count as well.\n\n%s", usage, fs.FlagUsages())
		return nil
	case err != nil:
		return mesh.Errorf(mesh.Invalid, "%w", err).WithHint(usage)
	case fs.NArg() != 1:
		return mesh.Errorf(mesh.Invalid, "restore takes one backup").WithHint(usage)
	}
	if *data == "" {
		*data = defaultData()
	}
	n, warnings, err := 0, []string(nil), error(nil)
	if place, id, ok := inPlace(fs.Arg(0)); ok {
		n, warnings, err = restorePlaced(place, id, *identity, *data)
	} else if *identity != "" {
		return mesh.Errorf(mesh.Invalid, "--identity is for backups in a place: PLACE/ID").WithHint("decrypt a file yourself: age -d -i KEY FILE.age")
	} else {
		n, warnings, err = restoreTar(fs.Arg(0), stdin, *data, usage)
	}
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

// restoreTar restores what mesh backup has printed.
func restoreTar(name string, stdin io.Reader, data, usage string) (files int, warnings []string, err error) {
	var src *os.File
	if name != "-" {
		if src, err = os.Open(name); err != nil {
			return 0, nil, mesh.Errorf(mesh.NotFound, "the backup cannot be opened: %w", err)
		}
	} else if isTerminal(stdin) {
		return 0, nil, mesh.Errorf(mesh.Invalid, "standard input is a terminal").WithHint("%s", usage)
	} else if src, err = spool(stdin, data); err != nil {
		return 0, nil, err
	}
	defer src.Close()
	return restore(src, data)
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

// lagging hashes what it reads, but for the last block.
type lagging struct {
	r    io.Reader
	sum  hash.Hash
	last []byte // at most a block of 512 bytes
}

func (l *lagging) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.last = append(l.last, p[:n]...)
	if more := len(l.last) - 512; more > 0 {
		_, _ = l.sum.Write(l.last[:more])
		l.last = append(l.last[:0], l.last[more:]...)
	}
	return n, err
}

// verify reads a backup to its end and reports whether each byte is what was written.
// Backups of format 1 have no checksum.
func verify(src io.Reader) (files int, sound bool, err error) {
	// A tar reader reads blocks and no further, so that when it returns a header, the last
	// block is that header.
	in := &lagging{r: src, sum: sha256.New()}
	var m backupHeader
	seen := map[string]bool{}
	for t := tar.NewReader(in); ; files++ {
		h, err := t.Next()
		var told *mesh.Error
		switch {
		case errors.As(err, &told): // of the place that it comes from
			return 0, false, told
		case errors.Is(err, io.EOF) && files == 0:
			return 0, false, badBackup("this is not a mesh backup: it is empty")
		case errors.Is(err, io.EOF):
			return 0, false, badBackup("the backup is cut off after %d files", files-1)
		case err != nil:
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
			sum, end := in.sum.Sum(nil), bytes.Clone(in.last)
			text, err := io.ReadAll(io.LimitReader(t, 1<<10))
			if err != nil {
				return 0, false, badBackup("the backup is cut off: %w", err)
			}
			return files - 1, m.Format > 1, verifyEnd(src, end, sum, m.Format, files-1, string(text))
		}
		if err := entry(h, m.Format, seen); err != nil {
			return 0, false, err
		}
		if h.Typeflag == tar.TypeDir {
			files-- // the first and last file are not counted
		} else if _, err := io.Copy(io.Discard, t); errors.As(err, &told) {
			return 0, false, told
		} else if err != nil {
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

// verifyEnd compares the last file with the archive before it, whose hash is sum. head is the
// header of the last file and text its content. Nothing may follow it in src.
func verifyEnd(src io.Reader, head, sum []byte, format, files int, text string) error {
	var n int
	if _, err := fmt.Sscan(text, &n); err != nil || n != files {
		return badBackup("the backup is damaged: it has %d files instead of %.20q", files, text)
	}
	if format == 1 && !strings.Contains(text, "sha256") {
		return nil
	}
	rest, err := io.ReadAll(io.LimitReader(src, 1<<20))
	if err != nil {
		return err
	}
	rest = slices.Concat(head, []byte(text), rest)
	want, err := lastBytes(files, sum)
	switch {
	case err != nil:
		return err
	case text != ending(files, sum):
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

// restore is restoreFrom for a file that can be read again.
func restore(src io.ReadSeeker, dir string) (files int, warnings []string, err error) {
	return restoreFrom(func() (io.ReadCloser, error) {
		_, err := src.Seek(0, io.SeekStart)
		return io.NopCloser(src), err
	}, dir)
}

// restoreFrom unpacks a backup into a directory, which must be empty or missing, and opens
// its state once. It reads the backup twice: it checks all of it before it writes anything,
// and removes what it has written if it fails.
func restoreFrom(open func() (io.ReadCloser, error), dir string) (files int, warnings []string, err error) {
	if left, err := os.ReadDir(dir); err == nil && len(left) > 0 {
		return 0, nil, mesh.Errorf(mesh.Conflict, "%s is not empty", dir).WithHint("stop the server, move the directory away, and try again: mv %s %s.old", dir, dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, mesh.Errorf(mesh.Unavailable, "%s cannot be used: %w", dir, err)
	}
	files, sound, err := verifyFrom(open)
	if err != nil {
		return 0, nil, err
	}
	if !sound {
		warnings = append(warnings, "this backup is from an earlier mesh and has no checksum: it may be incomplete")
	}
	src, err := open()
	if err != nil {
		return 0, nil, err
	}
	defer src.Close()
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
	for t := tar.NewReader(unseekable{src}); ; {
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
	if _, err := io.Copy(io.Discard, src); err != nil { // a place checks what it has read at its end
		return 0, nil, err
	}
	st, err := store.Open(dir)
	if err != nil {
		return 0, nil, err
	}
	for _, d := range st.Damaged() {
		warnings = append(warnings, fmt.Sprintf("%s was damaged when the backup was made: %s", d.What, d.Why))
	}
	more, err := keepCreated(st)
	return files, append(warnings, more...), errors.Join(err, st.Close())
}

// keepCreated takes add-ons for created that were being created when the backup was made, and forgets
// which volumes were being filled. A start would discard them, but on the same machine they may have
// all the data of an app by now.
func keepCreated(st *store.Store) (warnings []string, err error) {
	ctx := context.Background() // it does not wait
	all, err := st.Addons(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if a.State != mesh.AddonCreating && a.Pending == "" {
			continue
		}
		if _, err := st.UpdateAddon(ctx, a.Name, func(r *mesh.Addon) error {
			if r.Pending = ""; r.State == mesh.AddonCreating {
				r.State = mesh.AddonReady
			}
			return nil
		}); err != nil {
			return warnings, err
		}
		if a.State == mesh.AddonCreating {
			warnings = append(warnings, fmt.Sprintf("the add-on %s was being created when the backup was made: check its data, or destroy it", a.Name))
		} else {
			warnings = append(warnings, fmt.Sprintf("the add-on %s was getting other data when the backup was made: on the same machine, that is in the volume %s", a.Name, a.Pending))
		}
	}
	volumes, err := st.Volumes(ctx)
	if err != nil {
		return warnings, err
	}
	for _, v := range volumes {
		if v.Pending == "" || v.Pending == v.Engine { // half filled: that is finished
			continue
		}
		if _, err := st.UpdateVolume(ctx, v.Name, func(r *mesh.Volume) error { r.Pending = ""; return nil }); err != nil {
			return warnings, err
		}
		warnings = append(warnings, fmt.Sprintf("the volume %s was being imported when the backup was made: on the same machine, the files are in the engine's volume %s", v.Name, v.Pending))
	}
	return warnings, nil
}

// verifyFrom is verify for a backup that is opened for that.
func verifyFrom(open func() (io.ReadCloser, error)) (files int, sound bool, err error) {
	src, err := open()
	if err != nil {
		return 0, false, err
	}
	defer src.Close()
	if files, sound, err = verify(src); err != nil {
		return files, sound, err
	}
	_, err = io.Copy(io.Discard, src) // as in restoreFrom
	return files, sound, err
}

// unseekable hides Seek from a tar reader, which would skip with it.
type unseekable struct{ io.Reader }

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
