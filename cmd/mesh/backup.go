package main

import (
	"archive/tar"
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
	"time"

	"mesh"
	"mesh/backups"
)

// backupHeader is the first file of a backup. restore recognizes a backup by it.
type backupHeader struct {
	Format  int       `json:"format"`
	Version string    `json:"mesh"`
	Created time.Time `json:"created"`
}

const (
	manifestName = "mesh-backup.json"
	endName      = "mesh-backup.end" // the last file: see ending
	backupFormat = 3                 // 1 had no checksum, 2 nothing of add-ons
)

// ending returns the text of the last file: the number of files between the first and
// the last, and the SHA-256 of all bytes of the archive before the last file's header.
func ending(files int, sum []byte) string { return fmt.Sprintf("%d\nsha256 %x\n", files, sum) }

// backedUp lists everything in a backup: files, and folders with all their content.
var backedUp = []string{"mesh.db", "secret.key", "ssh_host_ed25519_key", "repos", "logs", "events", "router", "certs", "kinds", backups.Folder}

// leftOut reports whether a file is not copied as it is: repositories and the data
// file, because there is a snapshot of them, and files being written. Anything not in
// backedUp belongs to the running process, is created at every start, describes the
// engine's build cache (times), or is not mesh's. Of the backups of add-ons, Backup adds
// those that it is told to.
func leftOut(name string) bool {
	base, top := path.Base(name), name
	if i := strings.IndexByte(name, '/'); i > 0 {
		top = name[:i]
	}
	return !slices.Contains(backedUp, top) || top == "repos" || top == "mesh.db" || top == backups.Folder || strings.HasSuffix(base, ".new") || strings.HasSuffix(base, ".lock")
}

// Backup writes everything that the server owns, as a tar. It first takes a snapshot of
// the state at one instant. Repositories and recorded output only grow, so they contain
// at least what the state refers to. dumps are backups of add-ons, in the folder of this
// server, that are added.
func (h *serverInfo) Backup(ctx context.Context, w io.Writer, dumps ...mesh.Backup) (files int, err error) {
	sum := sha256.New()
	to := &hashing{w: w, sum: sum}
	b := backup{ctx: ctx, t: tar.NewWriter(to)}
	defer func() {
		// The reader has disconnected, or cannot save it. Half a backup must not look
		// like a whole one.
		if err != nil && to.err != nil && ctx.Err() == nil {
			err = mesh.Errorf(mesh.Cancelled, "the backup was cut off after %d files and cannot be used: %w", files, to.err).
				WithHint("free space where it is written, and try again: ssh mesh backup > FILE.tar")
		}
	}()
	format := backupFormat
	if _, err := os.Stat(filepath.Join(h.info.Data, "kinds")); err != nil && len(dumps) == 0 {
		format = 2 // an earlier mesh can restore it
	}
	about, err := json.Marshal(backupHeader{Format: format, Version: h.info.Version, Created: time.Now().UTC()})
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
	for _, d := range dumps {
		for _, name := range backups.Files(d) {
			if err := b.copy(h.info.Data, path.Join(backups.Folder, string(d.Subject), name)); err != nil {
				return b.files, err
			}
		}
	}
	// An archive that is cut between two files looks complete.
	if err := b.t.Flush(); err != nil {
		return b.files, err
	}
	if err := b.bytes(endName, []byte(ending(b.files, sum.Sum(nil)))); err != nil {
		return b.files, err
	}
	return b.files, b.t.Close()
}

// hashing hashes what it writes, and keeps the first write error.
type hashing struct {
	w   io.Writer
	sum hash.Hash
	err error
}

func (h *hashing) Write(p []byte) (int, error) {
	n, err := h.w.Write(p)
	_, _ = h.sum.Write(p[:n])
	if err != nil {
		h.err = err
	}
	return n, err
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

// add adds an open file, up to its current length.
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

// copy adds a file below a folder, which must exist.
func (b *backup) copy(root, name string) error {
	f, err := os.Open(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		return fmt.Errorf("back up %s: %w", name, err)
	}
	defer f.Close()
	return b.add(name, f)
}

// walk adds the content of a folder. It skips files that vanish meanwhile.
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
