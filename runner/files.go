package runner

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"mesh"
)

// Files of a container are read and written as tar streams (docker cp): that needs no
// program in the image, and the engine resolves links inside the container's own root, so
// that none leads out of it.

// StatFile describes a file in a container, without following a final link.
func (r *Runner) StatFile(ctx context.Context, id, file string) (mesh.File, error) {
	st, err := r.cli.API(ctx).ContainerStatPath(ctx, id, strings.TrimSuffix(file, "/"))
	if err != nil {
		return mesh.File{}, r.fileFault(ctx, id, file, err)
	}
	return mesh.File{Name: st.Name, Size: st.Size, Mode: st.Mode, Modified: st.Mtime, Link: st.LinkTarget}, nil
}

// CopyOut writes a file, or a folder with all that is in it, as a tar stream whose first
// entry has the name of the file.
func (r *Runner) CopyOut(ctx context.Context, id, file string, w io.Writer) error {
	rc, _, err := r.cli.API(ctx).CopyFromContainer(ctx, id, file)
	if err != nil {
		return r.fileFault(ctx, id, file, err)
	}
	defer rc.Close()
	if _, err := io.Copy(w, rc); err != nil {
		return fmt.Errorf("copy %s: %w", file, err)
	}
	return nil
}

// CopyIn unpacks a tar stream into a folder of a container. The entries have the owners
// that the stream names.
func (r *Runner) CopyIn(ctx context.Context, id, folder string, content io.Reader) error {
	err := r.cli.API(ctx).CopyToContainer(ctx, id, folder, content, container.CopyToContainerOptions{CopyUIDGID: false})
	if err != nil {
		return r.fileFault(ctx, id, folder, err)
	}
	return nil
}

// fileFault says in words why the engine cannot reach a file.
func (r *Runner) fileFault(ctx context.Context, id, file string, err error) error {
	text := err.Error()
	if errdefs.IsNotFound(err) { // the same status for a container and for a path
		if _, ierr := r.cli.API(ctx).ContainerInspect(ctx, id); errdefs.IsNotFound(ierr) {
			return &mesh.Error{Kind: mesh.Conflict, Text: "the instance has just ended", Hint: "list the running instances with: ssh mesh ps", Err: err}
		}
	}
	switch {
	case errdefs.IsNotFound(err), strings.Contains(text, "no such file or directory"), strings.Contains(text, "Could not find the file"):
		return &mesh.Error{Kind: mesh.NotFound, Text: fmt.Sprintf("there is no %s in the container", file), Err: err}
	case strings.Contains(text, "not a directory"), strings.Contains(text, "extraction point is not a directory"):
		return &mesh.Error{Kind: mesh.Invalid, Text: file + " is not a folder", Err: err}
	case strings.Contains(text, "read-only"):
		return &mesh.Error{Kind: mesh.Denied, Text: file + " is read-only", Err: err}
	case strings.Contains(text, "no space left on device"):
		return &mesh.Error{Kind: mesh.Unavailable, Text: "the disk is full", Err: err}
	case strings.Contains(text, "cannot overwrite"), strings.Contains(text, "file exists"):
		return &mesh.Error{Kind: mesh.Conflict, Text: file + " exists, and is of another kind", Err: err}
	}
	return r.fault(ctx, "reach "+file, err)
}

// listNames prints the names in a folder, each with a NUL behind it. It needs a shell with
// a printf, which is in dash, bash and busybox.
const listNames = `cd -- "$1" || exit 3
for f in * .[!.]* ..?*; do if [ -e "$f" ] || [ -L "$f" ]; then printf '%s\0' "$f"; fi; done`

// maxListed limits the names of a folder, in bytes.
const maxListed = 4 << 20

// ListFiles describes what is in a folder, by name. In an image without a shell it must
// read the whole folder: one with more than listLimit bytes is an error.
func (r *Runner) ListFiles(ctx context.Context, id, folder string) ([]mesh.File, error) {
	st, err := r.StatFile(ctx, id, folder+"/.")
	if err != nil {
		return nil, err
	}
	if !st.Mode.IsDir() {
		return nil, &mesh.Error{Kind: mesh.Invalid, Text: folder + " is not a folder"}
	}
	var out bytes.Buffer
	code, err := r.Exec(ctx, mesh.Exec{
		ID: id, Name: "the instance", Root: true, Words: []string{"/bin/sh", "-c", listNames, "sh", folder},
		Stdout: &limitedBuffer{&out, maxListed}, Stderr: io.Discard,
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil || code != 0 {
		return r.listByTar(ctx, id, folder)
	}
	names := strings.Split(strings.TrimSuffix(out.String(), "\x00"), "\x00")
	if out.Len() == 0 {
		names = nil
	}
	files := make([]mesh.File, len(names))
	slots := make(chan struct{}, 8)
	var all sync.WaitGroup
	for i, n := range names {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if f, err := r.StatFile(ctx, id, path.Join(folder, n)); err == nil {
				files[i] = f
			} // else it is gone
		})
	}
	all.Wait()
	files = slices.DeleteFunc(files, func(f mesh.File) bool { return f.Name == "" })
	slices.SortFunc(files, func(a, b mesh.File) int { return strings.Compare(a.Name, b.Name) })
	return files, ctx.Err()
}

type limitedBuffer struct {
	b    *bytes.Buffer
	left int
}

// Write implements io.Writer.
func (l *limitedBuffer) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, io.ErrShortWrite
	}
	return l.b.Write(p)
}

// listLimit is how much of a folder is read to list it without a shell.
const listLimit = 256 << 20

// listByTar lists a folder from a tar stream of it.
func (r *Runner) listByTar(ctx context.Context, id, folder string) ([]mesh.File, error) {
	rc, _, err := r.cli.API(ctx).CopyFromContainer(ctx, id, path.Join(folder, "."))
	if err != nil {
		return nil, r.fileFault(ctx, id, folder, err)
	}
	defer rc.Close()
	limited := &io.LimitedReader{R: rc, N: listLimit}
	in := tar.NewReader(limited)
	var files []mesh.File
	for {
		h, err := in.Next()
		if err != nil && limited.N == 0 {
			return nil, &mesh.Error{
				Kind: mesh.Unavailable, Text: fmt.Sprintf("%s has more than %d MB and cannot be listed, because the image has no shell", folder, listLimit>>20),
				Hint: "list a folder below it, or name the file",
			}
		}
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", folder, err)
		}
		_, name, below := strings.Cut(strings.Trim(h.Name, "/"), "/")
		if !below || strings.Contains(name, "/") {
			continue // the folder itself, or deeper
		}
		f := mesh.File{Name: name, Size: h.Size, Mode: h.FileInfo().Mode(), Modified: h.ModTime}
		if h.Typeflag == tar.TypeSymlink {
			f.Link = h.Linkname
		}
		files = append(files, f)
	}
}
