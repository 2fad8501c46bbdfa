// Package mirror keeps a copy of files on another machine a few seconds behind: both ends of the
// wire. One end sends what has changed, the other applies it in an order in which the copy is
// usable at any moment.
//
// What the files are, and what they mean, is for others to know.
package mirror

import (
	"bufio"
	"cmp"
	"context"
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
	"time"

	"golang.org/x/sys/unix"

	"mesh"
)

// Limits of the wire.
const (
	maxLine  = 64 << 10
	maxFiles = 5_000_000
)

// format is the version of the wire.
const format = 1

// File is a file of a round.
type File struct {
	Path string // relative, with slashes
	Size int64
	Time int64 // its modification, in nanoseconds: with the size, it tells whether the file has changed
	Open func() (io.ReadSeekCloser, error)
	// Last files come after all others: they refer to them.
	Last bool
	// Grows means that a file only ever gets longer: what a copy has of it is not sent again.
	Grows bool
	// Bulk files come after the last ones, a piece a round, so that they hold nothing up. They
	// are of a kind that does no harm while it is cut off.
	Bulk bool
}

// Source is what is copied. Its methods are called one at a time.
type Source interface {
	// Version returns something else whenever Round may have something new.
	Version(ctx context.Context) (string, error)
	// Round returns all files as they are now. done is called when they were sent.
	Round(ctx context.Context) (files []File, done func(), err error)
}

// piece is how much of the bulk a round sends, in bytes.
const piece = 8 << 20

// stamp tells whether a file has changed.
type stamp struct {
	Size int64 `json:"s"`
	Time int64 `json:"t"`
}

// frame is a line of the wire. A file's content follows its frame.
type frame struct {
	Format int    `json:"format,omitempty"` // of the first line, which the copy sends
	Path   string `json:"p,omitempty"`
	stamp         // the size is that of the content that follows
	At     int64  `json:"at,omitempty"`   // where in the file the content belongs
	Last   bool   `json:"last,omitempty"` // after what came before is on the disk
	Have   int    `json:"have,omitempty"` // how many frames follow that say what the copy has
	Gone   bool   `json:"gone,omitempty"`
	End    bool   `json:"end,omitempty"` // of a round; the copy answers with a line
	Err    string `json:"err,omitempty"`
}

// lookEvery is how often a sender looks for changes, and beatEvery how often it says that there
// are none.
const (
	lookEvery = time.Second
	beatEvery = 2 * time.Second
)

// Send sends what has changed to a copy, again and again, until ctx ends or the copy leaves.
func Send(ctx context.Context, src Source, r io.Reader, w io.Writer) error {
	in, out := bufio.NewReaderSize(r, maxLine), bufio.NewWriterSize(w, 256<<10)
	has, err := readHave(in)
	if err != nil {
		return err
	}
	version, beat, more := "", time.Time{}, false
	for {
		now, err := src.Version(ctx)
		if err != nil {
			return tell(out, err)
		}
		if now != version || more || time.Since(beat) > beatEvery {
			if now != version || more {
				if more, err = sendRound(ctx, src, out, has); err != nil {
					return tell(out, err)
				}
				version = now
			}
			beat = time.Now()
			if err := errors.Join(write(out, frame{End: true}), out.Flush()); err != nil {
				return err
			}
			if _, err := in.ReadString('\n'); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
		}
		if more {
			continue
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// torn is an error in the middle of a file's content, where no frame can follow.
type torn struct{ error }

func (t torn) Unwrap() error { return t.error }

// tell passes an error on if the wire is between two frames, and returns it.
func tell(out *bufio.Writer, err error) error {
	if _, is := errors.AsType[torn](err); is {
		return err
	}
	var e *mesh.Error
	text := "internal error"
	if errors.As(err, &e) {
		text = e.Text
	}
	_ = write(out, frame{Err: text})
	_ = out.Flush()
	return err
}

// readHave reads what a copy has.
func readHave(in *bufio.Reader) (map[string]stamp, error) {
	first, err := read(in)
	switch {
	case err != nil:
		return nil, mesh.Errorf(mesh.Invalid, "this is for: mesh standby").WithHint("run it on the other machine: mesh standby --from ssh://…")
	case first.Format != format || first.Have < 0 || first.Have > maxFiles:
		return nil, mesh.Errorf(mesh.Conflict, "the copy has another version of mesh").WithHint("install the same version on both machines")
	}
	has := make(map[string]stamp, first.Have)
	for range first.Have {
		f, err := read(in)
		if err != nil {
			return nil, err
		}
		has[f.Path] = f.stamp
	}
	return has, nil
}

// sendRound sends what a copy does not have: files, then the last ones, then a piece of the bulk,
// then which are gone. more says that some of the bulk is left.
func sendRound(ctx context.Context, src Source, out *bufio.Writer, has map[string]stamp) (more bool, err error) {
	files, done, err := src.Round(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	slices.SortStableFunc(files, func(a, b File) int {
		return cmp.Or(cmp.Compare(number(a.Bulk), number(b.Bulk)), cmp.Compare(number(a.Last), number(b.Last)))
	})
	there, room := make(map[string]bool, len(files)), int64(piece)
	for _, f := range files {
		there[f.Path] = true
		had, want := has[f.Path], stamp{f.Size, f.Time}
		if had == want {
			continue
		}
		from, size := int64(0), f.Size
		if (f.Grows || f.Bulk) && had.Size < f.Size {
			from, size = had.Size, f.Size-had.Size
		}
		if f.Bulk {
			if size = min(size, room); size == 0 && f.Size > 0 {
				more = true
				continue
			}
			room -= size
		}
		sent, err := sendFile(ctx, out, f, from, size)
		if err != nil {
			return more, err
		}
		if sent {
			has[f.Path] = stamp{from + size, f.Time}
			more = more || from+size < f.Size
		}
	}
	for p := range has {
		if there[p] {
			continue
		}
		if err := write(out, frame{Path: p, Gone: true}); err != nil {
			return more, err
		}
		delete(has, p)
	}
	return more, nil
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// sendFile sends a part of a file. One that has gone or was replaced meanwhile is left out: the
// next round has what is there then.
func sendFile(ctx context.Context, out *bufio.Writer, f File, from, size int64) (sent bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	content, err := f.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, mesh.Errorf(mesh.Unavailable, "read %s: %w", f.Path, err)
	}
	defer func() { _ = content.Close() }()
	end, err := content.Seek(0, io.SeekEnd)
	if err == nil && (end == f.Size || f.Grows && end > f.Size) {
		_, err = content.Seek(from, io.SeekStart)
	} else if err == nil {
		return false, nil
	}
	if err != nil {
		return false, mesh.Errorf(mesh.Unavailable, "read %s: %w", f.Path, err)
	}
	if err := write(out, frame{Path: f.Path, stamp: stamp{size, f.Time}, At: from, Last: f.Last}); err != nil {
		return false, err
	}
	n, err := io.Copy(out, io.LimitReader(content, size))
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return false, torn{fmt.Errorf("send %s: %w", f.Path, err)}
	}
	return true, nil
}

func write(out *bufio.Writer, f frame) error {
	line, err := json.Marshal(f)
	if err != nil {
		return err
	}
	_, err = out.Write(append(line, '\n'))
	return err
}

func read(in *bufio.Reader) (f frame, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal(line, &f)
}

// Copy is a folder that is kept like a source.
type Copy struct {
	Dir string
	// Own are the names at the top of the folder that belong to the copy itself: they are neither
	// sent nor removed.
	Own []string
}

// Receive applies what a sender sends until the stream ends. round is called after each round, when
// the copy is like the source was a moment ago, with how much has come.
func (c *Copy) Receive(r io.Reader, w io.Writer, round func(files int, bytes int64)) error {
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	in, out := bufio.NewReaderSize(r, 256<<10), bufio.NewWriterSize(w, maxLine)
	if err := c.sayHave(out); err != nil {
		return err
	}
	files, bytes := 0, int64(0)
	for {
		f, err := read(in)
		switch {
		case err != nil:
			return err
		case f.Err != "":
			return mesh.Errorf(mesh.Unavailable, "the server says: %s", mesh.Visible(mesh.Clip(f.Err, 300)))
		case f.End:
			if files > 0 {
				if err := settle(root); err != nil {
					return err
				}
			}
			round(files, bytes)
			files, bytes = 0, 0
			if _, err := out.WriteString("\n"); err != nil {
				return err
			}
			if err := out.Flush(); err != nil {
				return err
			}
			continue
		}
		if !filepath.IsLocal(f.Path) || path.Clean(f.Path) != f.Path || c.isOwn(f.Path) || f.Size < 0 || f.At < 0 {
			return mesh.Errorf(mesh.Invalid, "the server sends %q, which no server has", mesh.Clip(mesh.Visible(f.Path), 100))
		}
		if f.Gone {
			if err := remove(root, f.Path); err != nil {
				return fmt.Errorf("remove %s: %w", f.Path, err)
			}
			continue
		}
		if f.Last {
			if err := settle(root); err != nil {
				return err
			}
		}
		if err := apply(root, f, in); err != nil {
			return fmt.Errorf("copy %s: %w", f.Path, err)
		}
		files, bytes = files+1, bytes+f.Size
	}
}

func (c *Copy) isOwn(p string) bool {
	top, _, _ := strings.Cut(p, "/")
	return slices.Contains(c.Own, top)
}

// sayHave says what the copy has.
func (c *Copy) sayHave(out *bufio.Writer) error {
	var all []frame
	err := filepath.WalkDir(c.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(c.Dir, p)
		if rel = filepath.ToSlash(rel); err != nil || rel == "." {
			return err
		}
		if c.isOwn(rel) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err == nil {
			all = append(all, frame{Path: rel, stamp: stamp{info.Size(), info.ModTime().UnixNano()}})
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := write(out, frame{Format: format, Have: len(all)}); err != nil {
		return err
	}
	for _, f := range all {
		if err := write(out, f); err != nil {
			return err
		}
	}
	return out.Flush()
}

// half is what the name of a file ends with that is being received.
const half = ".half"

// settle returns when everything is on the disk that was written so far.
func settle(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close()) //nolint:gosec // a descriptor
}

// remove removes a file, and the folders that are empty without it. A folder with its name stays:
// files of the same round are in it.
func remove(root *os.Root, p string) error {
	if info, err := root.Lstat(p); err != nil || info.IsDir() {
		return nil //nolint:nilerr // it is not there, as it should be
	}
	if err := root.Remove(p); err != nil {
		return err
	}
	for dir := path.Dir(p); dir != "." && root.Remove(dir) == nil; dir = path.Dir(dir) {
	}
	return nil
}

// makeRoom removes files where the file needs folders, and a folder where it is to be: in git,
// the branch x may follow the branch x/y, and the other way round.
func makeRoom(root *os.Root, p string) error {
	for i, c := range p {
		if c != '/' {
			continue
		}
		info, err := root.Lstat(p[:i])
		if err != nil {
			return root.MkdirAll(path.Dir(p), 0o700)
		}
		if !info.IsDir() {
			return errors.Join(root.Remove(p[:i]), root.MkdirAll(path.Dir(p), 0o700))
		}
	}
	if info, err := root.Lstat(p); err == nil && info.IsDir() {
		return root.RemoveAll(p)
	}
	return nil
}

// apply puts a file in its place at once, or lengthens one.
func apply(root *os.Root, f frame, in io.Reader) error {
	at := time.Unix(0, f.Time)
	if f.At > 0 {
		to, err := root.OpenFile(f.Path, os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		info, err := to.Stat()
		if err == nil && info.Size() != f.At {
			err = fmt.Errorf("it has %d bytes instead of %d", info.Size(), f.At)
		}
		if err == nil {
			_, err = io.CopyN(io.NewOffsetWriter(to, f.At), in, f.Size)
		}
		if err = errors.Join(err, to.Close()); err != nil {
			return err
		}
		return root.Chtimes(f.Path, at, at)
	}
	if err := makeRoom(root, f.Path); err != nil {
		return err
	}
	tmp := f.Path + half
	to, err := root.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(to, in, f.Size)
	if f.Last && err == nil {
		err = to.Sync()
	}
	if err = errors.Join(err, to.Close()); err == nil {
		err = root.Chtimes(tmp, at, at)
	}
	if err == nil {
		err = root.Rename(tmp, f.Path)
	}
	if err != nil {
		_ = root.Remove(tmp)
	}
	return err
}
