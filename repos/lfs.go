package repos

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/charmbracelet/git-lfs-transfer/transfer"

	"mesh"
)

// TransferLFS receives or sends Git LFS objects, which come before the push that needs
// them. It speaks git-lfs-transfer with a client until that ends or a read fails. The
// objects are in the stack's repository, where git-lfs keeps them as well. The caller
// has entered the repository.
func (r *Repos) TransferLFS(ctx context.Context, stack mesh.StackName, upload bool, client io.Reader, out io.Writer) (err error) {
	op := transfer.DownloadOperation
	if upload {
		op = transfer.UploadOperation
	}
	in := &commandReader{Reader: client, left: maxLFSCommand}
	b := &lfsBackend{dir: r.lfs(stack), max: r.MaxInput, upload: upload, in: in}
	defer b.close()
	defer func() {
		// The library trusts the number of words in a line.
		if p := recover(); p != nil {
			r.Logger.WarnContext(ctx, "git-lfs-transfer ended by what its client sent", "stack", stack, "err", fmt.Sprint(p))
			err = mesh.Errorf(mesh.Invalid, "that is not Git LFS")
		}
	}()
	line := transfer.NewPktline(in, out)
	if err := line.WritePacketText("version=1"); err != nil {
		return err
	}
	if err := line.WriteFlush(); err != nil {
		return err
	}
	if err := transfer.NewProcessor(line, b).ProcessCommands(op); err != nil && ctx.Err() == nil {
		return mesh.Errorf(mesh.Failed, "the transfer of Git LFS objects has ended: %w", err)
	}
	return nil
}

// lfs returns the folder of a stack's objects.
func (r *Repos) lfs(stack mesh.StackName) string { return filepath.Join(r.path(stack), "lfs") }

// lfsBackend is a folder of objects, for one client.
type lfsBackend struct {
	dir    string
	max    int64 // bytes of one object
	total  int64 // bytes of all objects of the stack; 0: maxLFS
	upload bool
	in     *commandReader
	open   []io.Closer
}

// maxLFSCommand limits the bytes of a Git LFS client's command, without objects.
// Clients ask for 100 objects at a time (lfs.transfer.batchSize), in 8 KB. The library
// keeps the whole list, and uses four times its bytes.
const maxLFSCommand = 4 << 20

// commandReader limits how much is read between two calls of the backend. It is for one
// goroutine.
type commandReader struct {
	io.Reader
	left int64
}

func (c *commandReader) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("the limit for a command is %d MB", maxLFSCommand>>20)
	}
	n, err := c.Reader.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

func (b *lfsBackend) close() {
	for _, f := range b.open {
		_ = f.Close()
	}
}

// Batch reports which objects are present.
func (b *lfsBackend) Batch(_ transfer.Operation, list []transfer.OidWithSize) (items []transfer.BatchItem, err error) {
	b.in.left = maxLFSCommand
	for _, o := range list {
		if !o.Oid.Valid() {
			return nil, transfer.ErrInvalidOid
		}
		item := transfer.BatchItem{Oid: o.Oid, Size: o.Size}
		if st, err := o.Oid.Stat(b.dir); err == nil {
			item.Size, item.Present = st.Size(), true
		}
		items = append(items, item)
	}
	return items, nil
}

// StartUpload reads an object into a file beside the others. FinishUpload is called if
// its hash is right.
func (b *lfsBackend) StartUpload(oid transfer.Oid, r io.Reader, _ ...string) (any, error) {
	if !oid.Valid() || !b.upload {
		return nil, transfer.ErrNotAllowed
	}
	b.in.left = math.MaxInt64 // the object has its own limit
	defer func() { b.in.left = maxLFSCommand }()
	tmp := filepath.Join(b.dir, "tmp")
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return nil, full(err)
	}
	f, err := os.CreateTemp(tmp, "upload-*")
	if err != nil {
		return nil, full(err)
	}
	b.open = append(b.open, closer(func() error { return os.Remove(f.Name()) }))
	used, err := b.used()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	left := max(0, cmp.Or(b.total, maxLFS)-used)
	n, err := io.Copy(f, io.LimitReader(r, min(b.max, left)+1))
	switch {
	case err != nil:
	case n > left:
		err = fmt.Errorf("the objects of this stack have %d MB, and the limit is %d MB; keep older ones elsewhere", used>>20, cmp.Or(b.total, maxLFS)>>20)
	case n > b.max:
		err = fmt.Errorf("the limit for an object is %d MB", b.max>>20)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, full(err)
	}
	return [2]string{f.Name(), oid.ExpectedPath(b.dir)}, nil
}

// maxLFS limits the total bytes of a stack's objects. They are kept as long as the
// stack, because only the files of an old commit show which objects it needs.
const maxLFS = 32 << 30

// used returns the bytes of the stack's objects.
func (b *lfsBackend) used() (sum int64, err error) {
	err = filepath.WalkDir(filepath.Join(b.dir, "objects"), func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}

type closer func() error

func (c closer) Close() error { return c() }

// FinishUpload moves an object to its place.
func (b *lfsBackend) FinishUpload(state any, _ ...string) error {
	names, ok := state.([2]string)
	if !ok {
		return errors.New("no upload was started")
	}
	if err := os.MkdirAll(filepath.Dir(names[1]), 0o700); err != nil {
		return full(err)
	}
	return full(os.Rename(names[0], names[1]))
}

// Verify reports whether an object is present.
func (b *lfsBackend) Verify(oid transfer.Oid, args map[string]string) (transfer.Status, error) {
	b.in.left = maxLFSCommand
	if !oid.Valid() {
		return nil, transfer.ErrInvalidOid
	}
	st, err := oid.Stat(b.dir)
	if err != nil {
		return transfer.NewFailureStatus(transfer.StatusNotFound, "not found"), nil //nolint:nilerr // that is the answer
	}
	if size, err := strconv.ParseInt(args["size"], 10, 64); err == nil && size != st.Size() {
		return transfer.NewFailureStatus(transfer.StatusConflict, "size mismatch"), nil
	}
	return transfer.SuccessStatus(), nil
}

// Download opens an object.
func (b *lfsBackend) Download(oid transfer.Oid, _ ...string) (fs.File, error) {
	b.in.left = maxLFSCommand
	if !oid.Valid() {
		return nil, transfer.ErrInvalidOid
	}
	f, err := os.Open(oid.ExpectedPath(b.dir))
	if err == nil {
		b.open = append(b.open, f)
	}
	return f, err
}

// LockBackend returns no locks: nobody edits files on a deploy target.
func (b *lfsBackend) LockBackend() transfer.LockBackend { return noLocks{} }

type noLocks struct{}

func (noLocks) Create(string) (transfer.Lock, error) { return nil, transfer.ErrNotAllowed }

func (noLocks) Unlock(transfer.Lock) error { return transfer.ErrNotAllowed }

func (noLocks) FromPath(string) (transfer.Lock, error) { return nil, nil }

func (noLocks) FromID(string) (transfer.Lock, error) { return nil, transfer.ErrNotAllowed }

func (noLocks) Range(func(transfer.Lock) error) error { return nil }

var (
	lfsOid  = regexp.MustCompile(`(?m)^oid sha256:([0-9a-f]{64})$`)
	lfsSize = regexp.MustCompile(`(?m)^size (\d+)$`)
)

// maxAttributes limits the bytes of a .gitattributes.
const maxAttributes = 1 << 20

// smudge replaces the Git LFS pointers in a tree with their files, if those are
// present. It looks for pointers only where .gitattributes has the filter: reading
// every small file would be slow.
func (t *tree) smudge(dir string, total size) error {
	uses := false
	for _, e := range t.entries {
		if path.Base(e.Path) == ".gitattributes" && e.Mode.IsRegular() {
			if e.Size > maxAttributes {
				return mesh.Errorf(mesh.Invalid, "%s is larger than %d MB", quote(e.Path), maxAttributes>>20).WithHint("shorten it: a pattern may have wildcards")
			}
			text, err := t.small(e)
			if err != nil {
				return err
			}
			uses = uses || bytes.Contains(text, []byte("filter=lfs"))
		}
	}
	if !uses {
		return nil
	}
	grown := int64(0) // bytes of all files, with pointers counted as their files
	for i, e := range t.entries {
		if !e.Mode.IsRegular() || e.Size < 100 || e.Size > 1024 { // the format's own limit
			continue
		}
		text, err := t.small(e)
		if err != nil {
			return err
		}
		oid, size := lfsOid.FindSubmatch(text), lfsSize.FindSubmatch(text)
		if !bytes.HasPrefix(text, []byte("version https://git-lfs.github.com/spec/")) || oid == nil || size == nil {
			continue
		}
		file := transfer.Oid(oid[1]).ExpectedPath(dir)
		st, err := os.Stat(file)
		if err != nil {
			continue // the builder warns
		}
		if t.large == nil {
			t.large = map[string]string{}
		}
		t.large[string(oid[1])] = file
		t.entries[i].ID, t.entries[i].Size = string(oid[1]), st.Size()
		grown += st.Size() - e.Size
	}
	return (size{bytes: total.bytes + grown}).check(leaveOutOfGit)
}

func (t *tree) small(e mesh.TreeEntry) ([]byte, error) {
	r, err := t.Open(e)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	return io.ReadAll(io.LimitReader(r, maxAttributes))
}

// checked reads a Git LFS object and returns an error at its end if the content does
// not match its name: disks can lose data.
type checked struct {
	*os.File
	want string
	sum  interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func openChecked(file, oid string) (io.ReadCloser, error) {
	f, err := os.Open(file) //nolint:gosec // a path made of hex digits
	if err != nil {
		return nil, err
	}
	return &checked{File: f, want: oid, sum: sha256.New()}, nil
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.File.Read(p)
	_, _ = c.sum.Write(p[:n])
	if errors.Is(err, io.EOF) && hex.EncodeToString(c.sum.Sum(nil)) != c.want {
		return n, fmt.Errorf("the Git LFS object %s is damaged", strings.ToLower(c.want[:12]))
	}
	return n, err
}
