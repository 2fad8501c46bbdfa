package receiver

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gliderlabs/ssh"
	"github.com/pkg/sftp"

	"mesh"
)

// Files reads and changes files in running instances. Paths are absolute and clean.
type Files interface {
	StackNames(ctx context.Context) ([]mesh.StackName, error)
	Status(stack mesh.StackName) []mesh.InstanceStatus
	// Runs returns the detached runs of a stack, also those that have ended.
	Runs(ctx context.Context, stack mesh.StackName) ([]mesh.DetachedRun, error)
	StatFile(ctx context.Context, stack mesh.StackName, name mesh.InstanceName, file string) (mesh.File, error)
	ListFiles(ctx context.Context, stack mesh.StackName, name mesh.InstanceName, folder string) ([]mesh.File, error)
	CopyFrom(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.InstanceName, file string, w io.Writer) error
	CopyTo(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.InstanceName, to string, content io.Reader) error
	// ChangeFiles runs a program of the image, such as rm; NotFound: the image has none.
	ChangeFiles(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.InstanceName, words ...string) error
	// Audit records what was done.
	Audit(ctx context.Context, by mesh.KeyName, stack mesh.StackName, what string, result error)
}

// sftp serves files of instances: /STACK/INSTANCE/PATH, or /INSTANCE/PATH for an SSH user
// with the name of a stack.
func (r *Receiver) sftp(s ssh.Session) {
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	key, err := r.identify(s.Context())
	if err != nil {
		r.Commands.PrintError(s.Stderr(), err)
		_ = s.Exit(mesh.ExitStatus(err))
		return
	}
	if ch, _ := s.Context().Value(sessionKey{}).(*channelState); ch != nil && ch.part != nil {
		ch.part() // an upgrade does not wait for a client that is only connected
	}
	t := &tree{files: r.Files, key: key, ctx: ctx}
	if name, err := mesh.ParseStackName(s.User()); err == nil && key.May(mesh.AccessRead, name) {
		if all, err := r.Files.StackNames(ctx); err == nil {
			if slices.Contains(all, name) {
				t.stack = name
			}
		}
	}
	ctx, transfer := newWatch(ctx, r.Idle)
	defer transfer.done()
	server := sftp.NewRequestServer(struct {
		io.Reader
		io.Writer
		io.Closer
	}{transfer.reader(s), transfer.writer(s), io.NopCloser(nil)}, sftp.Handlers{FileGet: t, FilePut: t, FileCmd: t, FileList: t})
	// The library closes the connection when it ends, but the exit status comes after that.
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	err = server.Serve()
	_ = server.Close()
	status := 0
	if err != nil && !errors.Is(err, io.EOF) {
		status = 1
	}
	_ = s.Exit(status)
}

// tree is what a client sees: a folder of stacks, with a folder of instances each, which
// hold the files of their containers.
type tree struct {
	files Files
	key   mesh.Key
	ctx   context.Context //nolint:containedctx // of the session; the library passes none on
	stack mesh.StackName  // the only one; empty: all that the key may deploy to

	mu   sync.Mutex
	open map[spot]*upload // by where they go
}

// spot is what a path means: a folder of ours, or a file in a container.
type spot struct {
	stack mesh.StackName
	name  mesh.InstanceName
	file  string // in the container; empty: a folder of ours
}

func (t *tree) find(p string) (spot, error) {
	parts := strings.SplitN(strings.TrimPrefix(path.Clean("/"+p), "/"), "/", 3)
	if parts[0] == "" {
		parts = nil
	}
	at := spot{stack: t.stack}
	if t.stack == "" && len(parts) > 0 {
		at.stack, parts = mesh.StackName(parts[0]), parts[1:]
	} else if t.stack != "" && len(parts) == 3 {
		parts = []string{parts[0], parts[1] + "/" + parts[2]}
	}
	if at.stack != "" {
		if err := t.may(at.stack, p); err != nil {
			return at, err
		}
	}
	if len(parts) == 0 {
		return at, nil
	}
	name, err := mesh.ParseInstanceName(parts[0])
	if err != nil {
		return at, missing(p)
	}
	up, err := t.isUp(at.stack, name)
	if err != nil {
		return at, told(p, err)
	}
	if !up {
		return at, missing(p)
	}
	at.name, at.file = name, "/"
	if len(parts) > 1 {
		at.file = "/" + parts[1]
	}
	return at, nil
}

// isUp reports whether an instance or a detached run is up. Only runs are asked of the
// engine: this is called for each file.
func (t *tree) isUp(stack mesh.StackName, name mesh.InstanceName) (bool, error) {
	for _, in := range t.files.Status(stack) {
		if in.Name == name {
			return in.State == mesh.Up, nil
		}
	}
	runs, err := t.files.Runs(t.ctx, stack)
	return slices.ContainsFunc(runs, func(r mesh.DetachedRun) bool { return r.Running && r.Name == name.String() }), err
}

// up returns the running instances and detached runs of a stack.
func (t *tree) up(stack mesh.StackName) (out []string, err error) {
	for _, in := range t.files.Status(stack) {
		if in.State == mesh.Up {
			out = append(out, in.Name.String())
		}
	}
	runs, err := t.files.Runs(t.ctx, stack)
	for _, r := range runs {
		if r.Running {
			out = append(out, r.Name)
		}
	}
	return out, err
}

// may does not tell a stack that the key may not see from none.
func (t *tree) may(stack mesh.StackName, p string) error {
	if !t.key.May(mesh.AccessRead, stack) {
		return missing(p)
	}
	if !t.key.May(mesh.AccessDeploy, stack) {
		return &fs.PathError{Op: "open", Path: p, Err: fs.ErrPermission}
	}
	all, err := t.files.StackNames(t.ctx)
	if err == nil && !slices.Contains(all, stack) {
		err = missing(p)
	}
	return err
}

func missing(p string) error { return &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist} }

// told turns an error into one that a client shows.
func told(p string, err error) error {
	var e *mesh.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, mesh.NotFound):
		return missing(p)
	case errors.Is(err, mesh.Denied):
		return &fs.PathError{Op: "open", Path: p, Err: fs.ErrPermission}
	case errors.As(err, &e):
		return errors.New(e.Text)
	}
	return errors.New("mesh itself failed; see the server's log")
}

// info describes a file to the library.
type info struct{ mesh.File }

// The methods of fs.FileInfo.
func (i info) Name() string       { return i.File.Name }
func (i info) Size() int64        { return i.File.Size }
func (i info) Mode() fs.FileMode  { return i.File.Mode }
func (i info) ModTime() time.Time { return i.Modified }
func (i info) IsDir() bool        { return i.File.Mode.IsDir() }
func (i info) Sys() any           { return nil }

func folder(name string) fs.FileInfo {
	return info{mesh.File{Name: name, Mode: fs.ModeDir | 0o755, Modified: time.Unix(0, 0)}}
}

type listing []fs.FileInfo

// ListAt implements sftp.ListerAt.
func (l listing) ListAt(out []fs.FileInfo, from int64) (int, error) {
	if from >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(out, l[from:])
	if n < len(out) {
		return n, io.EOF
	}
	return n, nil
}

// Filelist implements sftp.FileLister.
func (t *tree) Filelist(req *sftp.Request) (sftp.ListerAt, error) {
	switch req.Method {
	case "List":
		return t.list(req.Filepath)
	case "Stat":
		return t.stat(req.Filepath, true)
	}
	return nil, sftp.ErrSSHFxOpUnsupported
}

// Lstat implements sftp.LstatFileLister.
func (t *tree) Lstat(req *sftp.Request) (sftp.ListerAt, error) { return t.stat(req.Filepath, false) }

// Readlink implements sftp.ReadlinkFileLister.
func (t *tree) Readlink(p string) (string, error) {
	at, err := t.find(p)
	if err != nil || at.file == "" {
		return "", missing(p)
	}
	f, err := t.files.StatFile(t.ctx, at.stack, at.name, at.file)
	if err == nil && f.Link == "" {
		return "", errors.New(p + " is not a link")
	}
	return f.Link, told(p, err)
}

func (t *tree) list(p string) (sftp.ListerAt, error) {
	at, err := t.find(p)
	if err != nil {
		return nil, err
	}
	var out listing
	switch {
	case at.stack == "":
		all, err := t.files.StackNames(t.ctx)
		if err != nil {
			return nil, told(p, err)
		}
		for _, n := range all {
			if t.key.May(mesh.AccessDeploy, n) {
				out = append(out, folder(string(n)))
			}
		}
	case at.file == "":
		up, err := t.up(at.stack)
		if err != nil {
			return nil, told(p, err)
		}
		for _, name := range up {
			out = append(out, folder(name))
		}
	default:
		files, err := t.files.ListFiles(t.ctx, at.stack, at.name, at.file)
		if err != nil {
			return nil, told(p, err)
		}
		for _, f := range files {
			out = append(out, info{f})
		}
	}
	return out, nil
}

// maxLinks limits the links of a path that are followed, as Linux does (path_resolution(7)).
const maxLinks = 40

func (t *tree) stat(p string, follow bool) (sftp.ListerAt, error) {
	at, err := t.find(p)
	if err != nil {
		return nil, err
	}
	if at.file == "" || at.file == "/" {
		return listing{folder(path.Base(p))}, nil
	}
	for range maxLinks {
		f, err := t.files.StatFile(t.ctx, at.stack, at.name, at.file)
		if err != nil {
			return nil, told(p, err)
		}
		if !follow || f.Link == "" {
			return listing{info{f}}, nil
		}
		at.file = led(at.file, f.Link)
	}
	return nil, errors.New(p + " has too many links")
}

// led returns where a link leads, from its own path.
func led(from, link string) string {
	if path.IsAbs(link) {
		return path.Clean(link)
	}
	return path.Join(path.Dir(from), link)
}

// Fileread implements sftp.FileReader: it reads the whole file first, because the engine
// knows no other way.
func (t *tree) Fileread(req *sftp.Request) (io.ReaderAt, error) {
	at, err := t.find(req.Filepath)
	if err != nil {
		return nil, err
	}
	if at.file == "" {
		return nil, errors.New(req.Filepath + " is a folder")
	}
	f, err := os.CreateTemp("", "mesh-sftp-")
	if err != nil {
		return nil, told(req.Filepath, mesh.TellNoRoom(err))
	}
	_ = os.Remove(f.Name()) // it lives as long as it is open
	err = t.fetch(at, f)
	t.files.Audit(context.WithoutCancel(t.ctx), t.key.Name, at.stack, fmt.Sprintf("sftp get %s:%s", at.name, at.file), err)
	if err != nil {
		_ = f.Close()
		return nil, told(req.Filepath, mesh.TellNoRoom(err))
	}
	return f, nil
}

// fetch writes one file of a container to w, through its links.
func (t *tree) fetch(at spot, w io.Writer) error {
	for range maxLinks {
		st, err := t.files.StatFile(t.ctx, at.stack, at.name, at.file)
		switch {
		case err != nil:
			return err
		case st.Link != "":
			at.file = led(at.file, st.Link)
			continue
		case !st.Mode.IsRegular():
			return mesh.Errorf(mesh.Invalid, "%s is not a file", at.file)
		}
		pr, pw := io.Pipe()
		copied := make(chan error, 1)
		go func() {
			err := t.files.CopyFrom(t.ctx, at.stack, t.key.Name, at.name, at.file, pw)
			_ = pw.CloseWithError(err)
			copied <- err
		}()
		in := tar.NewReader(pr)
		if _, err = in.Next(); err == nil {
			_, err = io.Copy(w, in)
		}
		_, _ = io.Copy(io.Discard, pr)
		_ = pr.Close()
		if cerr := <-copied; cerr != nil {
			return cerr
		}
		return err
	}
	return mesh.Errorf(mesh.Invalid, "%s has too many links", at.file)
}

// upload is a file on its way into a container: it is complete when it is closed.
type upload struct {
	*os.File
	t  *tree
	at spot

	mu   sync.Mutex
	end  int64
	mode fs.FileMode
	torn bool // the connection was lost: the file is not complete
}

var errTooLarge = errors.New("the file is larger than 1 GB, which is the limit")

// Filewrite implements sftp.FileWriter.
func (t *tree) Filewrite(req *sftp.Request) (io.WriterAt, error) {
	at, err := t.find(req.Filepath)
	if err != nil {
		return nil, err
	}
	if at.file == "" || at.file == "/" {
		return nil, errors.New("only files in an instance can be written: /web.1/tmp/FILE")
	}
	flags := req.Pflags()
	st, serr := t.files.StatFile(t.ctx, at.stack, at.name, at.file)
	switch there := serr == nil; {
	case serr != nil && !errors.Is(serr, mesh.NotFound):
		return nil, told(req.Filepath, serr)
	case there && flags.Excl:
		return nil, &fs.PathError{Op: "open", Path: req.Filepath, Err: fs.ErrExist}
	case there && st.Mode.IsDir():
		return nil, errors.New(req.Filepath + " is a folder")
	}
	keep := serr == nil && !flags.Trunc && st.Size > 0
	if up, err := t.files.StatFile(t.ctx, at.stack, at.name, path.Dir(at.file)+"/."); err != nil || !up.Mode.IsDir() {
		return nil, missing(path.Dir(req.Filepath))
	}
	f, err := os.CreateTemp("", "mesh-sftp-")
	if err != nil {
		return nil, told(req.Filepath, mesh.TellNoRoom(err))
	}
	_ = os.Remove(f.Name())
	u := &upload{File: f, t: t, at: at, mode: 0o644}
	if serr == nil && st.Mode.IsRegular() {
		u.mode = st.Mode.Perm()
	}
	if keep { // a part of it is written anew, or it is cut afterwards, as scp does
		if err := t.fetch(at, f); err != nil {
			_ = f.Close()
			return nil, told(req.Filepath, err)
		}
		u.end, _ = f.Seek(0, io.SeekCurrent)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = map[spot]*upload{}
	}
	t.open[at] = u
	if a := req.AttrFlags(); a.Permissions {
		u.mode = req.Attributes().FileMode().Perm()
	}
	return u, nil
}

// WriteAt implements io.WriterAt.
func (u *upload) WriteAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > mesh.MaxCopy {
		return 0, errTooLarge
	}
	n, err := u.File.WriteAt(b, off)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.end = max(u.end, off+int64(n))
	return n, mesh.TellNoRoom(err)
}

// TransferError implements sftp.TransferError: the connection was lost while the file was
// open.
func (u *upload) TransferError(error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.torn = true
}

// set applies attributes to a file that is not in the container yet.
func (u *upload) set(flags sftp.FileAttrFlags, a *sftp.FileStat) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if flags.Permissions {
		u.mode = a.FileMode().Perm()
	}
	if flags.Size && a.Size < uint64(u.end) { //nolint:gosec // not negative
		u.end = int64(a.Size) //nolint:gosec // smaller than end
		return u.Truncate(u.end)
	}
	return nil
}

// Close copies the file into the container.
func (u *upload) Close() error {
	defer u.File.Close()
	u.t.mu.Lock()
	if u.t.open[u.at] == u {
		delete(u.t.open, u.at)
	}
	u.t.mu.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.torn {
		return nil
	}
	return u.t.add("put", u.at, tar.Header{Typeflag: tar.TypeReg, Size: u.end, Mode: int64(u.mode)}, io.NewSectionReader(u.File, 0, u.end))
}

// Filecmd implements sftp.FileCmder. The engine can only add files, so all but Mkdir and
// Symlink need a program of the image.
func (t *tree) Filecmd(req *sftp.Request) error {
	if req.Method == "Symlink" {
		return t.symlink(req)
	}
	at, err := t.find(req.Filepath)
	if err != nil {
		return err
	}
	if at.file == "" || at.file == "/" {
		return &fs.PathError{Op: req.Method, Path: req.Filepath, Err: fs.ErrPermission}
	}
	var words []string
	switch req.Method {
	case "Setstat":
		return t.setstat(req, at)
	case "Mkdir":
		if _, err := t.files.StatFile(t.ctx, at.stack, at.name, at.file); err == nil {
			return &fs.PathError{Op: "mkdir", Path: req.Filepath, Err: fs.ErrExist}
		}
		return t.add("add", at, tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}, strings.NewReader(""))
	case "Rename", "PosixRename":
		to, err := t.find(req.Target)
		if err != nil {
			return err
		}
		if to.stack != at.stack || to.name != at.name || to.file == "" {
			return errors.New("a file cannot be moved to another instance; copy it")
		}
		words = []string{"mv", "-f", "--", at.file, to.file}
		if req.Method == "Rename" {
			if _, err := t.files.StatFile(t.ctx, to.stack, to.name, to.file); err == nil {
				return &fs.PathError{Op: "rename", Path: req.Target, Err: fs.ErrExist}
			}
		}
	case "Remove":
		words = []string{"rm", "-f", "--", at.file}
	case "Rmdir":
		words = []string{"rmdir", "--", at.file}
	default:
		return sftp.ErrSSHFxOpUnsupported
	}
	if _, err := t.files.StatFile(t.ctx, at.stack, at.name, at.file); err != nil {
		return told(req.Filepath, err)
	}
	err = t.files.ChangeFiles(t.ctx, at.stack, t.key.Name, at.name, words...)
	t.files.Audit(context.WithoutCancel(t.ctx), t.key.Name, at.stack, fmt.Sprintf("sftp %s %s:%s", strings.ToLower(req.Method), at.name, at.file), err)
	return unlessMissing(req.Filepath, err)
}

// unlessMissing is told for a program that the image may lack. OpenSSH's client shows the
// text of no error, only its number.
func unlessMissing(p string, err error) error {
	if errors.Is(err, mesh.NotFound) {
		return sftp.ErrSSHFxOpUnsupported
	}
	return told(p, err)
}

// symlink makes Target a link to Filepath (the library's names), which may be relative.
func (t *tree) symlink(req *sftp.Request) error {
	link, err := t.find(req.Target)
	if err != nil || link.file == "" {
		return missing(req.Target)
	}
	to := req.Filepath
	if path.IsAbs(to) {
		at, err := t.find(to)
		if err != nil {
			return err
		}
		if at.stack != link.stack || at.name != link.name || at.file == "" {
			return errors.New("a link cannot lead to another instance")
		}
		to = at.file
	}
	return t.add("add", link, tar.Header{Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}, strings.NewReader(""))
}

// PosixRename implements sftp.PosixRenameFileCmder.
func (t *tree) PosixRename(req *sftp.Request) error {
	req.Method = "PosixRename"
	return t.Filecmd(req)
}

// setstat changes the mode; owners and times stay as they are.
func (t *tree) setstat(req *sftp.Request, at spot) error {
	flags := req.AttrFlags()
	if flags.UidGid {
		return errors.New("the owner of a file in an instance cannot be changed")
	}
	t.mu.Lock()
	u := t.open[at]
	t.mu.Unlock()
	switch attrs := req.Attributes(); {
	case u != nil:
		return u.set(flags, attrs)
	case flags.Size:
		return errors.New("a file in an instance cannot be cut")
	}
	if !flags.Permissions {
		return nil // times: the engine has set that of the copy
	}
	mode := fmt.Sprintf("%04o", req.Attributes().FileMode().Perm())
	if st, err := t.files.StatFile(t.ctx, at.stack, at.name, at.file); err == nil && fmt.Sprintf("%04o", st.Mode.Perm()) == mode {
		return nil
	}
	return unlessMissing(req.Filepath, t.files.ChangeFiles(t.ctx, at.stack, t.key.Name, at.name, "chmod", mode, "--", at.file))
}

// add puts one entry into a container; verb names it in the audit log.
func (t *tree) add(verb string, at spot, h tar.Header, content io.Reader) error {
	h.Name, h.ModTime = path.Base(at.file), time.Now()
	pr, pw := io.Pipe()
	go func() {
		out := tar.NewWriter(pw)
		err := out.WriteHeader(&h)
		if err == nil {
			_, err = io.Copy(out, content)
		}
		if err == nil {
			err = out.Close()
		}
		_ = pw.CloseWithError(err)
	}()
	err := t.files.CopyTo(t.ctx, at.stack, t.key.Name, at.name, at.file, pr)
	_ = pr.Close()
	t.files.Audit(context.WithoutCancel(t.ctx), t.key.Name, at.stack, fmt.Sprintf("sftp %s %s:%s", verb, at.name, at.file), err)
	return told(at.file, err)
}
