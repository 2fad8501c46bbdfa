package addons

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/container"

	"mesh"
)

// Form describes the dumps of a kind, for people: "PostgreSQL custom". note says what is
// not in them; it may be empty. It is an error if the kind has none.
func (s *Server) Form(a mesh.Addon) (form, note string, err error) {
	k, err := s.of(a)
	if err != nil {
		return "", "", err
	}
	if k.Dump == nil {
		return "", "", mesh.Errorf(mesh.Conflict, "%s cannot be backed up: %s has no data that lasts, or no way to write it", a.Name, k.name)
	}
	return k.Dump.Form, k.Dump.Note, nil
}

// Dump writes all data of an add-on, while it runs. The dump is whole if the error is nil.
func (s *Server) Dump(ctx context.Context, a mesh.Addon, w io.Writer) error {
	k, err := s.of(a)
	if err != nil {
		return err
	}
	if _, _, err := s.Form(a); err != nil {
		return err
	}
	c, there, err := s.find(ctx, a)
	if err != nil {
		return s.fault(ctx, "find add-on "+string(a.Name), err)
	}
	if !there || c.State != container.StateRunning {
		return mesh.Errorf(mesh.Conflict, "%s does not run, so its data cannot be read", a.Name).WithHint("start it: ssh mesh addons:start %s", a.Name)
	}
	if k.Dump.Volume {
		return s.dumpVolume(ctx, k, a, c.ID, w)
	}
	check := &ends{w: w}
	if err := s.program(ctx, k, a, c.ID, &k.Dump.program, nil, nil, check); err != nil {
		return err
	}
	if !check.like(k.Dump.Begins, k.Dump.Ends) {
		return mesh.Errorf(mesh.Failed, "the dump of %s is not complete", a.Name).WithHint("try again; if it fails again, see: ssh mesh addons:logs %s", a.Name)
	}
	return nil
}

// dumpVolume writes the files of a server that is paused meanwhile, so that they belong to
// one instant, as after a loss of power.
func (s *Server) dumpVolume(ctx context.Context, k *kind, a mesh.Addon, id string, w io.Writer) error {
	if err := s.cli.API(ctx).ContainerPause(ctx, id); err != nil {
		return s.fault(ctx, "pause add-on "+string(a.Name), err)
	}
	err := s.Inside.CopyOut(ctx, id, k.Volume, w)
	uctx := context.WithoutCancel(ctx)
	return errors.Join(err, s.fault(uctx, "let add-on "+string(a.Name)+" continue", s.cli.API(uctx).ContainerUnpause(uctx, id)))
}

// ends keeps the first and last bytes of what passes.
type ends struct {
	w           io.Writer
	first, last []byte
}

func (e *ends) Write(p []byte) (int, error) {
	if n := 64 - len(e.first); n > 0 {
		e.first = append(e.first, p[:min(n, len(p))]...)
	}
	e.last = append(e.last, p[max(0, len(p)-200):]...)
	e.last = e.last[max(0, len(e.last)-200):]
	return e.w.Write(p)
}

func (e *ends) like(first, last string) bool {
	return len(e.first) > 0 && bytes.HasPrefix(e.first, []byte(first)) && bytes.Contains(e.last, []byte(last))
}

// Fill makes a server run on a new volume with the data of a dump. No stack reaches it
// before Reach: its volume is not that of a record. If it fails, Remove removes what it has
// made.
func (s *Server) Fill(ctx context.Context, a mesh.Addon, r io.Reader) error {
	k, err := s.of(a)
	if err != nil {
		return err
	}
	if _, _, err := s.Form(a); err != nil {
		return err
	}
	in := newSourced(r)
	begin, err := in.r.Peek(dumpHead)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the dump: %w", err)
	}
	if len(begin) == 0 {
		return mesh.Errorf(mesh.Invalid, "the dump is empty").WithHint("ssh mesh addons:import %s < FILE", a.Name)
	}
	if err := s.fill(ctx, k, a, in, begin); err != nil {
		return errors.Join(in.err, err)
	}
	// The end of the dump proves what was read, and the program need not have read so far.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return fmt.Errorf("read the end of the dump: %w", err)
	}
	how, err := k.reads(a, begin)
	if err != nil || k.Dump.Volume {
		return nil //nolint:nilerr // a tar says itself where it ends
	}
	return how.cutOff(begin, in.tail)
}

// Programs put a line in front of a dump, and one behind it. dumpHead and dumpTail are where they are.
const (
	dumpHead = 1 << 10
	dumpTail = 1 << 10
)

// cutOff returns an error if a dump lacks the line that the program which made it puts behind it:
// psql and mysql take a text that ends anywhere for a whole one.
func (r *restore) cutOff(begin, tail []byte) error {
	for first, last := range r.Whole {
		if bytes.Contains(begin, []byte(first+"\n")) || bytes.Contains(begin, []byte(first+" ")) {
			if !bytes.Contains(tail, []byte(last)) {
				return mesh.Errorf(mesh.Invalid, "the dump is cut off: it does not end with %q", last).WithHint("make it again, and copy all of it; what you have added to it must be in front of that line")
			}
		}
	}
	return nil
}

// sourced remembers the error of its source, since a program that reads it only sees its end, and
// what came last.
type sourced struct {
	r    *bufio.Reader
	err  error
	tail []byte
}

func newSourced(r io.Reader) *sourced { return &sourced{r: bufio.NewReaderSize(r, 64<<10)} }

func (r *sourced) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.tail = append(r.tail, p[max(0, n-dumpTail):n]...)
	r.tail = r.tail[max(0, len(r.tail)-dumpTail):]
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func (s *Server) fill(ctx context.Context, k *kind, a mesh.Addon, in io.Reader, begin []byte) error {
	if k.Dump.Volume {
		return s.fillVolume(ctx, k, a, in)
	}
	how, err := k.reads(a, begin)
	if err != nil {
		return err
	}
	if how.File != "" {
		return s.fillFile(ctx, k, a, how, in)
	}
	if err := s.Run(ctx, a); err != nil {
		return err
	}
	c, _, err := s.find(ctx, a)
	if err != nil {
		return s.fault(ctx, "find add-on "+string(a.Name), err)
	}
	if err := s.program(ctx, k, a, c.ID, how.Before, nil, nil, nil); err != nil {
		return err
	}
	if err := s.program(ctx, k, a, c.ID, &how.program, nil, in, nil); err != nil {
		return notRestored(err)
	}
	if err := s.program(ctx, k, a, c.ID, how.Then, nil, nil, nil); err != nil {
		return err
	}
	return s.program(ctx, k, a, c.ID, k.Setup, nil, nil, nil) // the dump may have had grants of its own
}

func notRestored(err error) error {
	var e *mesh.Error
	if !errors.As(err, &e) || e.Kind != mesh.Failed {
		return err
	}
	f := *e
	f.Text = "the dump cannot be restored: " + e.Text
	f.Hint = "check that it is complete, of this kind, and not of a later version"
	return &f
}

// reads returns how a dump that begins so is restored.
func (k *kind) reads(a mesh.Addon, begin []byte) (*restore, error) {
	for i, r := range k.Restore {
		if r.Begins != "" && bytes.HasPrefix(begin, []byte(r.Begins)) || r.Begins == "" && !foreign(begin, k) {
			return &k.Restore[i], nil
		}
	}
	what := "not a dump of " + string(k.name)
	for _, m := range magics {
		if bytes.HasPrefix(begin, []byte(m.begins)) {
			what = "it looks like " + m.what
		}
	}
	return nil, mesh.Errorf(mesh.Invalid, "the file cannot be restored into %s: %s", a.Name, what).WithHint("use a dump of %s: %s", k.name, k.Dump.Form)
}

// magics are how files begin that people mistake for dumps.
var magics = []struct{ begins, what string }{
	{"PGDMP", "a dump of PostgreSQL (pg_dump -Fc)"},
	{"REDIS", "a dump of Redis (RDB)"},
	{"VALKEY", "a dump of Valkey (RDB)"},
	{"\x1f\x8b", "a gzip file: unpack it first (gunzip)"},
	{"\x28\xb5\x2f\xfd", "a Zstandard file: unpack it first (unzstd)"},
	{"BZh", "a bzip2 file: unpack it first (bunzip2)"},
	{"PK\x03\x04", "a zip file: unpack it first"},
	{"age-encryption.org", "a file that age has encrypted: decrypt it first (age -d)"},
	{"\x6d\xe2\x99\x81", "an archive of mongodump"},
	{"<!DOCTYPE", "a web page"},
	{"<html", "a web page"},
	{"<?xml", "an XML file"},
}

// foreign reports whether a file begins like one that the kind certainly cannot read.
func foreign(begin []byte, k *kind) bool {
	for _, m := range magics {
		if bytes.HasPrefix(begin, []byte(m.begins)) && (k.name != "mongodb" || !strings.Contains(m.what, "mongodump")) {
			return true
		}
	}
	return false
}

// asleep is a program that only waits to be ended.
var asleep = []string{"/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 1; done"}

// besides runs fn while a container has the volume of an add-on but not its server, and
// removes it.
func (s *Server) besides(ctx context.Context, k *kind, a mesh.Addon, fn func(id string) error) (err error) {
	id, err := s.create(ctx, k, a, asleep)
	if err != nil {
		return s.fault(ctx, "prepare the volume of "+string(a.Name), err)
	}
	defer func() {
		cctx := context.WithoutCancel(ctx)
		err = errors.Join(err, s.fault(cctx, "prepare the volume of "+string(a.Name), s.remove(cctx, id)))
	}()
	if err := s.cli.API(ctx).ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		return s.fault(ctx, "prepare the volume of "+string(a.Name), err)
	}
	return fn(id)
}

// fillFile writes the dump where the server finds it when it starts.
func (s *Server) fillFile(ctx context.Context, k *kind, a mesh.Addon, how *restore, in io.Reader) error {
	err := s.besides(ctx, k, a, func(id string) error {
		write := program{Run: []string{"/bin/sh", "-c", "cat >" + how.File + " && chmod 644 " + how.File}, User: "root"}
		return s.program(ctx, k, a, id, &write, nil, in, nil)
	})
	if err != nil {
		return err
	}
	without := *k
	without.Files = how.Without
	id, began, err := s.start(ctx, &without, a)
	if err != nil {
		return s.fault(ctx, "start add-on "+string(a.Name), startFault(a, err))
	}
	if err := s.await(ctx, k, a, id, began); err != nil {
		return notRestored(err)
	}
	if err := s.program(ctx, k, a, id, how.Then, nil, nil, nil); err != nil {
		return err
	}
	if err := s.retire(ctx, id, true); err != nil {
		return s.fault(ctx, "start add-on "+string(a.Name), err)
	}
	return s.Run(ctx, a)
}

// fillVolume unpacks the tar of a volume.
func (s *Server) fillVolume(ctx context.Context, k *kind, a mesh.Addon, in io.Reader) error {
	err := s.besides(ctx, k, a, func(id string) error {
		checked, fault := below(strings.TrimPrefix(k.Volume, parent(k.Volume)+"/"), in)
		err := s.Inside.CopyIn(ctx, id, parent(k.Volume), checked)
		_ = checked.CloseWithError(io.ErrClosedPipe)
		return cmp.Or(fault(), err)
	})
	if err != nil {
		return notRestored(err)
	}
	return s.Run(ctx, a)
}

// below passes on a tar that has nothing but a folder and what is in it: anything else would be
// unpacked beside the volume, and the add-on would begin empty. fault returns what was wrong with the
// tar, once it was read or closed.
func below(folder string, r io.Reader) (_ *io.PipeReader, fault func() error) {
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := copyBelow(folder, tar.NewReader(r), tar.NewWriter(in))
		_ = in.CloseWithError(err) // nil: the end
		if errors.Is(err, io.ErrClosedPipe) {
			err = nil // its reader has gone, and says why
		}
		ended <- err
	}()
	return out, sync.OnceValue(func() error { return <-ended })
}

func copyBelow(folder string, r *tar.Reader, w *tar.Writer) error {
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) && n > 0 {
			return w.Close()
		}
		if errors.Is(err, io.EOF) || errors.Is(err, tar.ErrHeader) {
			return mesh.Errorf(mesh.Invalid, "the file is not a tar with the folder %s", folder).WithHint("it is what addons:export writes")
		}
		if err != nil {
			return err
		}
		if name := path.Clean(h.Name); name != folder && !strings.HasPrefix(name, folder+"/") {
			return mesh.Errorf(mesh.Invalid, "the tar has %q, which is not in the folder %s", mesh.Clip(mesh.Visible(h.Name), 60), folder).
				WithHint("make it so that all names begin with %s/, as in what addons:export writes", folder)
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil { //nolint:gosec // it goes to the disk of the volume
			return err
		}
	}
}

// parent is the folder that a tar of a folder is unpacked into.
func parent(folder string) string {
	i := strings.LastIndexByte(strings.TrimSuffix(folder, "/"), '/')
	return folder[:max(i, 1)]
}

// Check returns what must be the same of the data before it is dumped and after it is
// restored: the rows of each table. ok is false if the kind has no such check.
func (s *Server) Check(ctx context.Context, a mesh.Addon) (rows string, ok bool, err error) {
	k, err := s.of(a)
	if err != nil || k.Check == nil {
		return "", false, err
	}
	var b bytes.Buffer
	err = s.ask(ctx, k, a, k.Check, &b)
	return b.String(), true, err
}

// ask runs a program in the container of an add-on and collects its output.
func (s *Server) ask(ctx context.Context, k *kind, a mesh.Addon, p *program, b *bytes.Buffer) error {
	c, there, err := s.find(ctx, a)
	if err != nil {
		return s.fault(ctx, "find add-on "+string(a.Name), err)
	}
	if !there || c.State != container.StateRunning {
		return mesh.Errorf(mesh.Conflict, "%s does not run", a.Name).WithHint("start it: ssh mesh addons:start %s", a.Name)
	}
	return s.program(ctx, k, a, c.ID, p, nil, nil, &capped{b})
}

// capped keeps the first megabyte.
type capped struct{ b *bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	if n := 1<<20 - c.b.Len(); n > 0 {
		c.b.Write(p[:min(n, len(p))])
	}
	return len(p), nil
}
