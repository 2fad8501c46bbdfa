package repos

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha1" //nolint:gosec // the names of git's blobs
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"

	"mesh"
)

// unpacked is a tree that came as a tar. All contents are in one unlinked file; at
// holds where each begins.
type unpacked struct {
	entries []mesh.TreeEntry
	at      []int64 // of entries: the offset in spool
	spool   *os.File
	index   map[string]int    // of entries, by path, while they are read
	links   map[string]string // targets, shared: a thousand links to one place hold it once
}

// Unpack reads a tar, or a gzip of one, into a tree, and returns a hex ID of its
// content. Files have the IDs that git would give them, so that a build reuses the
// cache of a push with the same files. Call release when nothing reads the tree any
// more. If the process dies, nothing is left on disk.
//
// Modes are git's: executable or not. Hard links become copies. A .git folder and
// global headers, as git archive writes them, are skipped. Devices, pipes, and names
// that lead out of the tree are refused.
func (r *Repos) Unpack(ctx context.Context, src io.Reader) (_ mesh.Tree, id string, release func(), err error) {
	spool, err := os.CreateTemp(r.dir, "upload-*.new") // the next start removes it after a kill
	if err != nil {
		return nil, "", nil, full(err)
	}
	defer func() {
		if err != nil {
			_ = spool.Close()
		}
	}()
	if err := os.Remove(spool.Name()); err != nil {
		return nil, "", nil, err
	}
	u := &unpacked{spool: spool, index: map[string]int{}, links: map[string]string{}}
	large := false
	leave := func() {
		if large {
			r.uploads.Release(1)
		}
	}
	defer func() {
		if err != nil {
			leave()
		}
	}()
	err = u.read(ctx, src, r.MaxInput, func() error {
		if err := r.uploads.Acquire(ctx, 1); err != nil {
			return context.Cause(ctx)
		}
		large = true
		return nil
	})
	if err != nil {
		return nil, "", nil, full(err)
	}
	return u, u.id(), sync.OnceFunc(func() { _ = spool.Close(); u.entries, u.at = nil, nil; leave(); freed(large) }), nil
}

// full returns an error for people if the cause of err is a full disk.
func full(err error) error {
	return mesh.TellNoRoom(err)
}

func badTar(format string, args ...any) error {
	return mesh.Errorf(mesh.Invalid, format, args...).WithHint("send the tree as a tar: tar cz . | ssh mesh deploy -a STACK")
}

// read reads the tar. It calls many once if the tree turns out to have many files; many
// may block.
func (u *unpacked) read(ctx context.Context, src io.Reader, limit int64, many func() error) error {
	in, err := plainTar(src)
	if err != nil {
		return err
	}
	r := &tarReader{unpacked: u, limit: limit, out: bufio.NewWriterSize(u.spool, 256<<10)}
	whole := &ending{Reader: in}
	r.tar = tar.NewReader(whole)
	for asked := false; ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := r.tar.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return broken(ctx, err)
		}
		if err := r.take(ctx, h); err != nil {
			return err
		}
		if len(u.entries) == largeUpload && !asked {
			asked = true
			if err := many(); err != nil {
				return err
			}
		}
		if err := r.total.check(leaveOutOfUpload); err != nil {
			return err
		}
	}
	if err := r.out.Flush(); err != nil {
		return err
	}
	switch {
	case whole.reached && len(u.entries) > 0:
		return badTar("the tar on standard input is cut off: its end is missing")
	case len(u.entries) == 0:
		return badTar("the tar on standard input is empty")
	}
	return u.list(r.total)
}

// plainTar returns the tar in src, decompressed if it is in gzip. It refuses other
// formats.
func plainTar(src io.Reader) (*bufio.Reader, error) {
	in := bufio.NewReaderSize(src, 64<<10)
	magic, err := in.Peek(2)
	if len(magic) == 0 {
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return nil, badTar("there is nothing on standard input")
	}
	if len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, badTar("standard input is not a gzip file: %w", err)
		}
		in = bufio.NewReaderSize(z, 64<<10)
	}
	if kind := otherFormat(in); kind != "" {
		return nil, badTar("standard input is %s: mesh reads a tar, plain or with gzip", kind)
	}
	return in, nil
}

// tarReader reads the entries of a tar into a tree.
type tarReader struct {
	*unpacked
	tar    *tar.Reader
	limit  int64 // bytes of all files
	out    *bufio.Writer
	total  size
	offset int64 // bytes of files so far: the offset of the next one in the spool
	linked int64 // bytes of hard links, which become copies
}

// take reads one entry. An entry with the name of an earlier one replaces it.
func (r *tarReader) take(ctx context.Context, h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := inTree(h.Name)
	if err != nil {
		return err
	}
	if name == "" || name == ".git" || strings.HasPrefix(name, ".git/") {
		return nil
	}
	e, from, err := r.entry(ctx, h, name)
	if err != nil {
		return err
	}
	if i, again := r.index[name]; again {
		r.total.entries--
		r.total.names -= int64(len(name) + len(r.entries[i].Link))
		r.entries[i], r.at[i] = e, from
	} else {
		r.add(e, from)
	}
	r.total.count(e)
	return nil
}

// entry reads an entry and its content; from is its offset in the spool.
func (r *tarReader) entry(ctx context.Context, h *tar.Header, name string) (e mesh.TreeEntry, from int64, err error) {
	e.Path = name
	switch h.Typeflag {
	case tar.TypeDir:
		e.Mode = fs.ModeDir | 0o755
		return e, 0, nil
	case tar.TypeSymlink:
		if len(h.Linkname) > maxPath {
			return e, 0, badTar("the link %s points to a name longer than %d bytes", quote(name), maxPath)
		}
		if _, ok := r.links[h.Linkname]; !ok {
			r.links[h.Linkname] = h.Linkname
		}
		e.Mode, e.Link, e.ID = fs.ModeSymlink|0o777, r.links[h.Linkname], hexSum(blobSum(int64(len(h.Linkname))), h.Linkname)
		return e, 0, nil
	case tar.TypeLink:
		return r.hardLink(h, name)
	case tar.TypeReg, tar.TypeGNUSparse:
		return r.file(ctx, h, name)
	}
	return e, 0, badTar("%s is a device, a pipe or something else that is not a file, folder or link", quote(name))
}

// hardLink copies an earlier file, without using more of the spool.
func (r *tarReader) hardLink(h *tar.Header, name string) (e mesh.TreeEntry, from int64, err error) {
	to, err := inTree(h.Linkname)
	if err != nil {
		return e, 0, err
	}
	i, ok := r.index[to]
	if !ok || r.entries[i].Mode.IsDir() {
		return e, 0, badTar("%s is a link to %s, which does not come before it", quote(name), quote(to))
	}
	e = r.entries[i]
	if r.linked += e.Size; r.offset+r.linked > r.limit {
		return e, 0, mesh.Errorf(mesh.Invalid, "the tree is larger than %d MB, its hard links counted", r.limit>>20).WithHint(leaveOutOfUpload)
	}
	e.Path = name
	return e, r.at[i], nil
}

// file copies a file into the spool.
func (r *tarReader) file(ctx context.Context, h *tar.Header, name string) (e mesh.TreeEntry, from int64, err error) {
	if h.Size > r.limit-r.offset-r.linked {
		return e, 0, mesh.Errorf(mesh.Invalid, "the tree is larger than %d MB", r.limit>>20).WithHint(leaveOutOfUpload)
	}
	e = mesh.TreeEntry{Path: name, Mode: 0o644, Size: h.Size}
	if h.Mode&0o111 != 0 {
		e.Mode = 0o755
	}
	sum := blobSum(h.Size)
	n, err := io.Copy(io.MultiWriter(r.out, sum), r.tar)
	if err != nil {
		return e, 0, broken(ctx, err)
	}
	if n != h.Size {
		return e, 0, broken(ctx, io.ErrUnexpectedEOF)
	}
	e.ID, from = hex.EncodeToString(sum.Sum(nil)), r.offset
	r.offset += n
	return e, from, nil
}

func (u *unpacked) add(e mesh.TreeEntry, from int64) {
	u.index[e.Path] = len(u.entries)
	u.entries, u.at = append(u.entries, e), append(u.at, from)
}

// ending notes that a reader has reached its end. A tar ends with two blocks of zeros
// (POSIX.1 pax, "ustar Interchange Format"), and archive/tar reads nothing after them,
// but it also accepts an end without them. A tar that was cut between two files would
// be deployed without the rest.
type ending struct {
	io.Reader
	reached bool
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	e.reached = e.reached || errors.Is(err, io.EOF)
	return n, err
}

// otherFormat returns the name of a format other than tar, by its first bytes, or "" if
// the input may be a tar.
func otherFormat(in *bufio.Reader) string {
	if header, _ := in.Peek(262); len(header) == 262 && string(header[257:]) == "ustar" {
		return "" // its first file may be called BZhistory
	}
	for _, f := range []struct{ magic, name string }{
		{"\xfd7zXZ\x00", "compressed with xz"},
		{"BZh", "compressed with bzip2"},
		{"\x28\xb5\x2f\xfd", "compressed with zstd"},
		{"\x04\x22\x4d\x18", "compressed with lz4"},
		{"\x1f\x9d", "compressed with compress"},
		{"\x1f\x8b", "compressed with gzip twice"},
		{"PK\x03\x04", "a zip archive"},
		{"7z\xbc\xaf\x27\x1c", "a 7z archive"},
	} {
		if start, _ := in.Peek(len(f.magic)); string(start) == f.magic {
			return f.name
		}
	}
	return ""
}

// count adds an entry with its whole path.
func (s *size) count(e mesh.TreeEntry) {
	s.entries++
	s.names += int64(len(e.Path) + len(e.Link))
	s.longest = max(s.longest, len(e.Path))
	s.depth = max(s.depth, 1+strings.Count(e.Path, "/"))
}

// broken returns the error for a failed read: the input may have ended early, or not be
// a tar.
func broken(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case mesh.NoRoom(err):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return badTar("the tar on standard input is cut off")
	}
	return badTar("standard input is not a tar: %w", err)
}

func blobSum(size int64) hash.Hash {
	h := sha1.New() //nolint:gosec // see above
	_, _ = fmt.Fprintf(h, "blob %d\x00", size)
	return h
}

func hexSum(h hash.Hash, text string) string {
	_, _ = io.WriteString(h, text)
	return hex.EncodeToString(h.Sum(nil))
}

// inTree returns the path of a tar's entry below the tree; empty for the tree itself.
func inTree(name string) (string, error) {
	switch {
	case len(name) > maxPath:
		return "", badTar("the name %s is longer than %d bytes", quote(name), maxPath)
	case strings.HasPrefix(name, "/"), slices.Contains(strings.Split(name, "/"), ".."):
		return "", badTar("%s points outside the tree", quote(name))
	case strings.ContainsRune(name, 0):
		return "", badTar("%s contains a NUL byte", quote(name))
	}
	name = path.Clean(name)
	if name == "." {
		return "", nil
	}
	return name, nil
}

func quote(name string) string { return fmt.Sprintf("%q", mesh.Clip(name, 100)) }

// list adds the folders that the tar does not name, and sorts the entries as mesh.Tree
// promises.
func (u *unpacked) list(total size) error {
	for i := range len(u.entries) { // added folders have an index already
		name := u.entries[i].Path
		for d := path.Dir(name); d != "."; d = path.Dir(d) {
			if at, ok := u.index[d]; ok && !u.entries[at].Mode.IsDir() {
				return badTar("%s is below %s, which is not a folder", quote(name), quote(d))
			} else if ok {
				break
			}
			folder := mesh.TreeEntry{Path: d, Mode: fs.ModeDir | 0o755}
			u.add(folder, 0)
			total.count(folder)
			if err := total.check(leaveOutOfUpload); err != nil {
				return err
			}
		}
	}
	u.index, u.links = nil, nil
	sort.Sort(byPath{u})
	return nil
}

// byPath sorts entries: a folder's content comes right after the folder, before longer
// names: "a", "a/x", "a.b".
type byPath struct{ *unpacked }

func (u byPath) Len() int           { return len(u.entries) }
func (u byPath) Less(i, j int) bool { return comparePaths(u.entries[i].Path, u.entries[j].Path) < 0 }
func (u byPath) Swap(i, j int) {
	u.entries[i], u.entries[j] = u.entries[j], u.entries[i]
	u.at[i], u.at[j] = u.at[j], u.at[i]
}

// comparePaths compares names folder by folder: '/' sorts before any other byte.
func comparePaths(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] == b[i] {
			continue
		}
		switch {
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		}
		return 1
	}
	return len(a) - len(b)
}

func (u *unpacked) id() string {
	h := sha256.New()
	for _, e := range u.entries {
		_, _ = fmt.Fprintf(h, "%s %o %s\x00", e.ID, e.Mode, e.Path)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Entries lists the tree.
func (u *unpacked) Entries() []mesh.TreeEntry { return u.entries }

// Open reads a file of the tree.
func (u *unpacked) Open(e mesh.TreeEntry) (io.ReadCloser, error) {
	i, ok := slices.BinarySearchFunc(u.entries, e.Path, func(e mesh.TreeEntry, p string) int { return comparePaths(e.Path, p) })
	if !ok || !u.entries[i].Mode.IsRegular() {
		return nil, fmt.Errorf("open %s: %w", e.Path, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(u.spool, u.at[i], e.Size)), nil
}
