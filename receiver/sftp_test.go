package receiver

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pkg/sftp"

	"mesh"
)

// instances is the stacks blog and shop, each with web.1, which has the file /app/log and
// the folder /tmp.
type instances struct {
	mu  sync.Mutex
	did []string
}

func (i *instances) note(format string, args ...any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.did = append(i.did, fmt.Sprintf(format, args...))
}

func (i *instances) done() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return strings.Join(i.did, "; ")
}

func (*instances) StackNames(context.Context) ([]mesh.StackName, error) {
	return []mesh.StackName{"blog", "shop"}, nil
}

func (*instances) Status(mesh.StackName) []mesh.InstanceStatus {
	return []mesh.InstanceStatus{{Name: mesh.InstanceName{Service: "web", Slot: 1}, State: mesh.Up}, {Name: mesh.InstanceName{Service: "web", Slot: 2}, State: mesh.Crashed}}
}

func (*instances) Runs(context.Context, mesh.StackName) ([]mesh.DetachedRun, error) {
	return []mesh.DetachedRun{{Name: "run.1", Running: true}, {Name: "run.2"}}, nil
}

func (*instances) StatFile(_ context.Context, _ mesh.StackName, _ mesh.InstanceName, file string) (mesh.File, error) {
	switch path.Clean(file) {
	case "/app/log":
		return mesh.File{Name: "log", Size: 3, Mode: 0o640}, nil
	case "/app/link":
		return mesh.File{Name: "link", Mode: os.ModeSymlink | 0o777, Link: "log"}, nil
	case "/app/loop":
		return mesh.File{Name: "loop", Mode: os.ModeSymlink | 0o777, Link: "loop"}, nil
	case "/", "/app", "/tmp":
		return mesh.File{Name: path.Base(file), Mode: os.ModeDir | 0o755}, nil
	}
	return mesh.File{}, mesh.Errorf(mesh.NotFound, "there is no %s", file)
}

func (i *instances) ListFiles(_ context.Context, stack mesh.StackName, name mesh.InstanceName, folder string) ([]mesh.File, error) {
	i.note("list %s %s %s", stack, name, folder)
	return []mesh.File{{Name: "log", Size: 3, Mode: 0o640}}, nil
}

func (i *instances) CopyFrom(_ context.Context, _ mesh.StackName, _ mesh.KeyName, _ mesh.InstanceName, file string, w io.Writer) error {
	i.note("get %s", file)
	out := tar.NewWriter(w)
	err := out.WriteHeader(&tar.Header{Name: path.Base(file), Size: 3, Mode: 0o640})
	_, werr := io.WriteString(out, "abc")
	return errors.Join(err, werr, out.Close())
}

func (i *instances) CopyTo(_ context.Context, stack mesh.StackName, _ mesh.KeyName, name mesh.InstanceName, to string, content io.Reader) error {
	in := tar.NewReader(content)
	h, err := in.Next()
	if err != nil {
		return err
	}
	b, err := io.ReadAll(in)
	i.note("put %s %s %s %q mode=%o", stack, name, to, b, h.Mode)
	return err
}

func (i *instances) ChangeFiles(_ context.Context, _ mesh.StackName, _ mesh.KeyName, _ mesh.InstanceName, words ...string) error {
	i.note("%s", strings.Join(words, " "))
	return nil
}

func (*instances) Audit(context.Context, mesh.KeyName, mesh.StackName, string, error) {}

// sftpClient is a client of a tree. cut ends the connection without a warning.
func sftpClient(t *testing.T, i *instances, key mesh.Key, stack mesh.StackName) (c *sftp.Client, cut func()) {
	t.Helper()
	ours, theirs := net.Pipe()
	tr := &tree{files: i, key: key, ctx: t.Context(), stack: stack}
	server := sftp.NewRequestServer(ours, sftp.Handlers{FileGet: tr, FilePut: tr, FileCmd: tr, FileList: tr})
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve() }()
	c, err := sftp.NewClientPipe(theirs, theirs)
	if err != nil {
		t.Fatal(err)
	}
	cut = sync.OnceFunc(func() { _ = theirs.Close(); _ = ours.Close(); <-done })
	t.Cleanup(cut)
	return c, cut
}

func listed(c *sftp.Client, folder string) string {
	files, err := c.ReadDir(folder)
	var out []string
	for _, f := range files {
		out = append(out, f.Name())
	}
	slices.Sort(out)
	return fmt.Sprint(out, err != nil)
}

// What paths mean, with the stack as the user and without, and who may see what.
func TestSFTP_Paths(t *testing.T) {
	t.Parallel()
	deploys := mesh.Key{Name: "dev", Role: mesh.RoleDeploy}
	limited := mesh.Key{Name: "ci", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}}
	for _, c := range []struct {
		key          mesh.Key
		stack        mesh.StackName
		folder, want string
	}{
		{deploys, "", "/", "[blog shop] false"},
		{deploys, "", "/blog", "[run.1 web.1] false"},
		{deploys, "", "/blog/web.1", "[log] false"},
		{deploys, "", "/blog/web.1/app", "[log] false"},
		{deploys, "", "/blog/run.1/app", "[log] false"},
		{deploys, "", "/blog/run.2", "[] true"}, // it has ended
		{deploys, "", "/blog/web.2", "[] true"}, // it is not up
		{deploys, "", "/blog/web", "[] true"},
		{deploys, "", "/nosuch", "[] true"},
		{deploys, "", "/blog/../shop", "[run.1 web.1] false"},
		{deploys, "blog", "/", "[run.1 web.1] false"},
		{deploys, "blog", "/web.1/app", "[log] false"},
		{deploys, "blog", "/../../shop", "[] true"},
		{limited, "", "/", "[blog] false"},
		{limited, "", "/shop", "[] true"},
		{limited, "", "/shop/web.1", "[] true"},
		{mesh.Key{Name: "eye", Role: mesh.RoleRead}, "", "/", "[] false"},
		{mesh.Key{Name: "eye", Role: mesh.RoleRead}, "", "/blog", "[] true"},
	} {
		i := &instances{}
		client, cut := sftpClient(t, i, c.key, c.stack)
		if got := listed(client, c.folder); got != c.want {
			t.Errorf("%s, stack %q: %s: %s, want %s", c.key.Name, c.stack, c.folder, got, c.want)
		}
		cut()
	}
}

// A file is copied into the container when it is complete, and not if the connection is
// lost before.
func TestSFTP_Write(t *testing.T) {
	t.Parallel()
	i := &instances{}
	c, cut := sftpClient(t, i, mesh.Key{Name: "dev", Role: mesh.RoleDeploy}, "blog")
	put := func(name string, flags int, content string) error {
		f, err := c.OpenFile(name, flags)
		if err != nil {
			return err
		}
		_, err = f.Write([]byte(content))
		return errors.Join(err, f.Close())
	}
	const make = os.O_WRONLY | os.O_CREATE
	for name, err := range map[string]error{
		"new": put("/web.1/tmp/new", make|os.O_TRUNC, "12345"), "whole": put("/web.1/app/log", make|os.O_TRUNC, "z"), "a part": put("/web.1/app/log", make, "X"),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	f, err := c.OpenFile("/web.1/app/log", make)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(2), f.Chmod(0o600), f.Close()); err != nil {
		t.Error(err)
	}
	for name, flags := range map[string]int{"/web.1/app/log": make | os.O_EXCL, "/web.1/app": make, "/web.1": make, "/": make, "/web.1/nosuch/file": make} {
		if err := put(name, flags, "x"); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if err := errors.Join(c.Mkdir("/web.1/tmp/d"), c.Rename("/web.1/app/log", "/web.1/tmp/l"), c.Remove("/web.1/app/log"), c.Chmod("/web.1/app/log", 0o600), c.Symlink("log", "/web.1/app/new")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(c.Chown("/web.1/app/log", 1, 1)); err == nil {
		t.Error("the owner was changed")
	}
	if f, err := c.OpenFile("/web.1/tmp/torn", make); err != nil {
		t.Fatal(err)
	} else if _, err := f.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	cut()
	const want = `put blog web.1 /tmp/new "12345" mode=644`
	got := i.done()
	for _, w := range []string{
		want, `put blog web.1 /app/log "z" mode=640`, `put blog web.1 /app/log "Xbc" mode=640`, `put blog web.1 /app/log "ab" mode=600`,
		`put blog web.1 /tmp/d "" mode=755`, "mv -f -- /app/log /tmp/l", "rm -f -- /app/log", "chmod 0600 -- /app/log",
	} {
		if !strings.Contains(got, w) {
			t.Errorf("%q is missing: %s", w, got)
		}
	}
	if strings.Contains(got, "torn") {
		t.Errorf("half a file was copied: %s", got)
	}
}

func TestSFTP_Read(t *testing.T) {
	t.Parallel()
	i := &instances{}
	c, _ := sftpClient(t, i, mesh.Key{Name: "dev", Role: mesh.RoleDeploy}, "blog")
	for name, want := range map[string]string{"/web.1/app/log": "abc", "/web.1/app/link": "abc", "/web.1/app/loop": "", "/web.1/app": "", "/web.1/nosuch": "", "/web.1": ""} {
		f, err := c.Open(name)
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		b, err := io.ReadAll(f)
		if string(b) != want || want == "" || err != nil {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		_ = f.Close()
	}
	if to, err := c.ReadLink("/web.1/app/link"); to != "log" || err != nil {
		t.Errorf("%q, %v", to, err)
	}
	if st, err := c.Stat("/web.1/app/link"); err != nil || st.Size() != 3 || !st.Mode().IsRegular() {
		t.Errorf("%v, %v", st, err)
	}
	if st, err := c.Lstat("/web.1/app/link"); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("%v, %v", st, err)
	}
}
