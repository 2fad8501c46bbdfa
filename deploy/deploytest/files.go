package deploytest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"slices"
	"strings"

	"mesh"
)

// stored is a file of a container. Every folder exists that has something in it, and so do
// / and /tmp.
type stored struct {
	header  tar.Header
	content []byte
}

func (r *Runner) isFolder(id, p string) bool {
	if p == "/" || p == "/tmp" {
		return true
	}
	for name, f := range r.files[id] {
		if strings.HasPrefix(name, p+"/") || name == p && f.header.Typeflag == tar.TypeDir {
			return true
		}
	}
	return false
}

// StatFile describes a file that CopyIn has made.
func (r *Runner) StatFile(_ context.Context, id, file string) (mesh.File, error) {
	if err := r.away(); err != nil {
		return mesh.File{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	clean := path.Clean(file)
	f, ok := r.files[id][clean]
	switch {
	case r.isFolder(id, clean):
		return mesh.File{Name: path.Base(clean), Mode: 0o755 | 1<<31}, nil
	case !ok:
		return mesh.File{}, mesh.Errorf(mesh.NotFound, "there is no %s in the container", file)
	}
	return mesh.File{Name: path.Base(clean), Size: f.header.Size, Mode: f.header.FileInfo().Mode(), Modified: f.header.ModTime, Link: f.header.Linkname}, nil
}

// ListFiles describes the files in a folder.
func (r *Runner) ListFiles(ctx context.Context, id, folder string) (out []mesh.File, err error) {
	r.mu.Lock()
	var names []string
	for name := range r.files[id] {
		if path.Dir(name) == path.Clean(folder) {
			names = append(names, name)
		}
	}
	r.mu.Unlock()
	slices.Sort(names)
	for _, n := range names {
		f, err := r.StatFile(ctx, id, n)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// CopyOut writes one file.
func (r *Runner) CopyOut(_ context.Context, id, file string, w io.Writer) error {
	r.mu.Lock()
	f, ok := r.files[id][path.Clean(file)]
	r.mu.Unlock()
	if !ok {
		return mesh.Errorf(mesh.NotFound, "there is no %s in the container", file)
	}
	out := tar.NewWriter(w)
	h := f.header
	h.Name = path.Base(file)
	if err := out.WriteHeader(&h); err != nil {
		return err
	}
	_, err := out.Write(f.content)
	return errors.Join(err, out.Close())
}

// CopyIn keeps the files of a tar stream.
func (r *Runner) CopyIn(_ context.Context, id, folder string, content io.Reader) error {
	in := tar.NewReader(content)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if _, err := io.Copy(&b, in); err != nil {
			return err
		}
		r.mu.Lock()
		if r.files == nil {
			r.files = map[string]map[string]stored{}
		}
		if r.files[id] == nil {
			r.files[id] = map[string]stored{}
		}
		r.files[id][path.Join(folder, h.Name)] = stored{*h, b.Bytes()}
		r.mu.Unlock()
	}
}
