package volumes

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"strings"

	"github.com/docker/docker/api/types/container"

	"mesh"
)

// imported reads the engine's answer to the end, and returns the error in it.
func imported(r io.Reader) error {
	d := json.NewDecoder(r)
	for {
		var m struct {
			Error string `json:"error"`
		}
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if m.Error != "" {
			return errors.New(m.Error)
		}
	}
}

// Export writes the files of a volume of the engine as tar, with their owners, modes and
// times. The names begin with "./". It is whole if the error is nil. What is written
// meanwhile may be in it or not.
func (s *Store) Export(ctx context.Context, engineName string, w io.Writer) error {
	id, remove, err := s.helper(ctx, engineName)
	if err != nil {
		return s.fault(ctx, "read a volume", err)
	}
	defer remove()
	rc, _, err := s.cli.API(ctx).CopyFromContainer(ctx, id, folder)
	if err != nil {
		return s.fault(ctx, "read a volume", err)
	}
	defer rc.Close()
	in, out := tar.NewReader(rc), tar.NewWriter(w)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s.fault(ctx, "read a volume", err)
		}
		if h.Name = below(h.Name); h.Typeflag == tar.TypeLink {
			h.Linkname = below(h.Linkname)
		}
		if err := out.WriteHeader(h); err != nil {
			return fmt.Errorf("write %s: %w", h.Name, err)
		}
		if _, err := io.Copy(out, in); err != nil {
			return s.fault(ctx, "read a volume", err)
		}
	}
	return out.Close()
}

// below is the name in a volume of what the engine calls volume/NAME.
func below(name string) string {
	_, rest, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	return "./" + rest
}

// Import writes the files of a tar, which may be compressed with gzip, into a volume of the
// engine. A tar that is cut off, damaged, or has names that lead out of the volume is
// refused; some of its files may be in the volume by then. It returns how many files and
// folders there were.
func (s *Store) Import(ctx context.Context, engineName string, r io.Reader) (entries int, err error) {
	plain, err := plainTar(r)
	if err != nil {
		return 0, err
	}
	id, remove, err := s.helper(ctx, engineName)
	if err != nil {
		return 0, s.fault(ctx, "write a volume", err)
	}
	defer remove()
	pr, pw := io.Pipe()
	checked := make(chan error, 1)
	go func() {
		var err error
		entries, err = pass(plain, pw)
		_ = pw.CloseWithError(err) // so that the engine does not take half a tar for a whole one
		checked <- err
	}()
	err = s.cli.API(ctx).CopyToContainer(ctx, id, "/", pr, container.CopyToContainerOptions{})
	_ = pr.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // it may have stopped reading early
	var bad *mesh.Error
	switch cerr := <-checked; {
	case ctx.Err() != nil:
		return entries, s.fault(ctx, "write a volume", context.Cause(ctx))
	case errors.As(cerr, &bad):
		return entries, cerr
	case err != nil:
		return entries, s.fault(ctx, "write a volume", err)
	default:
		return entries, cerr
	}
}

func badTar(format string, args ...any) error {
	return mesh.Errorf(mesh.Invalid, format, args...).WithHint("send a tar: tar c -C FOLDER . | ssh mesh volumes:import NAME")
}

// plainTar returns the tar in r, decompressed if it is in gzip.
func plainTar(r io.Reader) (io.Reader, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(2)
	switch {
	case len(head) == 0 && errors.Is(err, io.EOF):
		return nil, badTar("standard input is empty")
	case len(head) == 2 && head[0] == 0x1f && head[1] == 0x8b: // RFC 1952, 2.3.1
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, badTar("standard input is not gzip: %w", err)
		}
		return z, nil
	}
	return in, nil
}

// pass copies a tar, and checks it to its end.
func pass(r io.Reader, w io.Writer) (entries int, err error) {
	whole := &ending{r: r}
	in, out := tar.NewReader(whole), tar.NewWriter(w)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return entries, broken(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // of git archive: it describes no file
		}
		if err := entry(h); err != nil {
			return entries, err
		}
		if err := out.WriteHeader(h); err != nil {
			return entries, readable(err, h.Name)
		}
		if _, err := io.Copy(out, in); err != nil {
			return entries, broken(err)
		}
		entries++
	}
	if whole.reached {
		return entries, badTar("the tar on standard input is cut off: its end is missing")
	}
	if entries == 0 {
		return 0, badTar("the tar on standard input is empty")
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // the checksum of gzip is behind it
		return entries, broken(err)
	}
	return entries, out.Close()
}

// readable returns an error of the engine's side unchanged, and one of the tar's with its
// name.
func readable(err error, name string) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
		return badTar("the tar's entry %q cannot be read: %w", mesh.Clip(mesh.Visible(name), 80), err)
	}
	return err
}

func broken(err error) error {
	switch {
	case errors.Is(err, io.ErrClosedPipe):
		return err // the engine has stopped reading, and says why
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return badTar("the tar on standard input is cut off")
	case errors.Is(err, gzip.ErrChecksum), errors.Is(err, tar.ErrHeader):
		return badTar("standard input is not a whole tar: %w", err)
	}
	return fmt.Errorf("read the tar: %w", err)
}

// entry brings an entry of a tar into the form for the engine, or refuses it.
func entry(h *tar.Header) error {
	outside := func(name string) bool { return strings.HasPrefix(name, "/") || escapes(name) }
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo:
	case tar.TypeGNUSparse: // archive/tar reads these, holes and all, but does not write them
		h.Typeflag, h.Format = tar.TypeReg, tar.FormatUnknown
	case tar.TypeChar, tar.TypeBlock:
		return badTar("the tar's entry %q is a device", mesh.Clip(mesh.Visible(h.Name), 80))
	default:
		return badTar("the tar's entry %q has the unknown type %q", mesh.Clip(mesh.Visible(h.Name), 80), h.Typeflag)
	}
	maps.DeleteFunc(h.PAXRecords, func(k, _ string) bool { return strings.HasPrefix(k, "GNU.sparse.") })
	if outside(h.Name) || h.Typeflag == tar.TypeLink && outside(h.Linkname) {
		return badTar("the tar's entry %q leads out of the volume", mesh.Clip(mesh.Visible(h.Name), 80))
	}
	// The engine leaves out an entry for the folder itself that it unpacks into, with its
	// owner and mode: unpack into the one above.
	h.Name = inside(h.Name)
	if h.Typeflag == tar.TypeLink {
		h.Linkname = inside(h.Linkname)
	}
	return nil
}

// inside is the name in a helper of what a tar calls NAME, the opposite of below.
func inside(name string) string {
	clean := path.Join(folder, name)[1:]
	if strings.HasSuffix(name, "/") {
		clean += "/"
	}
	return clean
}

// escapes reports whether a relative name leads above its folder.
func escapes(name string) bool {
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// ending notices when a reader asks for more than there is. A whole tar ends with two empty
// blocks (POSIX, pax): its reader stops there.
type ending struct {
	r       io.Reader
	reached bool
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if n == 0 && errors.Is(err, io.EOF) {
		e.reached = true
	}
	return n, err
}
