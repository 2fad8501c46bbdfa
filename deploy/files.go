package deploy

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"mesh"
)

// inside returns the container of a running instance, or of a detached run.
func (d *Deployer) inside(ctx context.Context, stack mesh.StackName, name mesh.InstanceName) (id string, err error) {
	in, _, up := d.fleet.Find(stack, name)
	if !up && name.Service == runName {
		runs, err := d.Runner.Detached(ctx, stack)
		if err != nil {
			return "", err
		}
		for _, r := range runs {
			if r.Name == name.String() && r.Running {
				return r.ID, nil
			}
		}
	}
	if !up {
		return "", mesh.Errorf(mesh.NotFound, "%s of %s is not running", name, stack).WithHint("see what runs with: ssh mesh ps -a %s", stack)
	}
	return in.ID, nil
}

// StatFile describes a file in a running instance.
func (d *Deployer) StatFile(ctx context.Context, stack mesh.StackName, name mesh.InstanceName, file string) (mesh.File, error) {
	id, err := d.inside(ctx, stack, name)
	if err != nil {
		return mesh.File{}, err
	}
	return d.Runner.StatFile(ctx, id, file)
}

// ListFiles describes what is in a folder of a running instance, by name.
func (d *Deployer) ListFiles(ctx context.Context, stack mesh.StackName, name mesh.InstanceName, folder string) ([]mesh.File, error) {
	id, err := d.inside(ctx, stack, name)
	if err != nil {
		return nil, err
	}
	return d.Runner.ListFiles(ctx, id, folder)
}

// CopyFrom writes a file of a running instance, or a folder with all that is in it, to w as
// a tar stream.
func (d *Deployer) CopyFrom(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.InstanceName, file string, w io.Writer) error {
	id, err := d.inside(ctx, stack, name)
	if err != nil {
		return err
	}
	d.Logger.Info("files copied out", "stack", stack, "instance", name.String(), "key", string(by))
	return d.Runner.CopyOut(ctx, id, file, w)
}

// CopyTo unpacks a tar stream into a running instance: into the folder to, or, if that is
// none, as to itself. Files belong to root. They are gone with the container.
func (d *Deployer) CopyTo(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.InstanceName, to string, content io.Reader) error {
	id, err := d.inside(ctx, stack, name)
	if err != nil {
		return err
	}
	folder, as := to, ""
	if st, err := d.Runner.StatFile(ctx, id, path.Join(to)+"/."); err != nil || !st.Mode.IsDir() {
		if err != nil && !errors.Is(err, mesh.NotFound) && !errors.Is(err, mesh.Invalid) {
			return err
		}
		if strings.HasSuffix(to, "/") {
			return mesh.Errorf(mesh.NotFound, "there is no folder %s in %s", to, name).WithHint("without the slash at its end, the copy itself gets this name")
		}
		folder, as = path.Split(to)
		if _, err := d.Runner.StatFile(ctx, id, path.Join(folder)+"/."); err != nil {
			return mesh.Errorf(mesh.NotFound, "there is no folder %s in %s", path.Join(folder), name)
		}
	}
	d.Logger.Info("files copied in", "stack", stack, "instance", name.String(), "key", string(by))
	pr, pw := io.Pipe()
	checked := make(chan error, 1)
	go func() {
		err := repack(pw, content, as)
		checked <- err
		_ = pw.CloseWithError(err)
	}()
	err = d.Runner.CopyIn(ctx, id, path.Join(folder), pr)
	_ = pr.CloseWithError(io.ErrClosedPipe)
	if cerr := <-checked; cerr != nil && !errors.Is(cerr, io.ErrClosedPipe) {
		return cerr // the reason why the engine got no more
	}
	return err
}

// repack copies a tar stream with clean names and files that belong to root. If as is not
// empty, the one file or folder in it gets this name.
func repack(w io.Writer, r io.Reader, as string) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	top, total := "", int64(0)
	named := func(name string) (string, error) {
		clean := strings.TrimPrefix(path.Clean("/"+name), "/")
		if as == "" || clean == "" {
			return clean, nil
		}
		first, rest, below := strings.Cut(clean, "/")
		if top == "" {
			top = first
		}
		if first != top {
			return "", mesh.Errorf(mesh.Invalid, "%s and %s cannot both become %s", mesh.Clip(top, 60), mesh.Clip(first, 60), as).WithHint("copy them into a folder that exists")
		}
		if below {
			return as + "/" + rest, nil
		}
		return as, nil
	}
	for n := 0; ; n++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return mesh.Errorf(mesh.Invalid, "there is nothing to copy: the input is empty")
			}
			return out.Close()
		}
		if err != nil {
			return mesh.Errorf(mesh.Invalid, "the input is not a tar file: %w", err).WithHint("use the client: mesh ps:copy FILE web.1:/path; or: tar c FILE | ssh mesh ps:copy - web.1:/path")
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink:
		case tar.TypeXGlobalHeader:
			continue
		default:
			return mesh.Errorf(mesh.Invalid, "%s is not a file, folder or link", mesh.Clip(mesh.Visible(h.Name), 100))
		}
		if total += h.Size; total > mesh.MaxCopy {
			return mesh.Errorf(mesh.Invalid, "the files are larger than %d MB, which is the limit", mesh.MaxCopy>>20)
		}
		next := tar.Header{Typeflag: h.Typeflag, Size: h.Size, Mode: h.Mode & 0o7777, ModTime: h.ModTime, Linkname: h.Linkname, Format: tar.FormatPAX}
		if next.Name, err = named(h.Name); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeLink {
			if next.Linkname, err = named(h.Linkname); err != nil {
				return err
			}
		}
		if next.Name == "" {
			continue // "./"
		}
		if h.Typeflag == tar.TypeDir {
			next.Name += "/"
		}
		if err := out.WriteHeader(&next); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return mesh.Errorf(mesh.Invalid, "the input ended early: %w", err)
		}
	}
}

// ChangeFiles runs one of a few programs in a running instance, as root, to change files:
// the engine itself can only add some. A program that the image lacks is
// NotFound.
func (d *Deployer) ChangeFiles(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.InstanceName, words ...string) error {
	id, err := d.inside(ctx, stack, name)
	if err != nil {
		return err
	}
	d.Logger.Info("files changed", "stack", stack, "instance", name.String(), "key", string(by), "program", words[0])
	var said bytes.Buffer
	code, err := d.Runner.Exec(ctx, mesh.Exec{ID: id, Name: name.String(), Root: true, Words: words, Stdout: io.Discard, Stderr: &said})
	switch {
	case err != nil && errors.Is(err, mesh.Failed), code == 126, code == 127:
		return mesh.Errorf(mesh.NotFound, "the image has no program %s", words[0])
	case err != nil:
		return fmt.Errorf("change files in %s: %w", name, err)
	case code != 0:
		line, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		return mesh.Errorf(mesh.Invalid, "%s", mesh.Clip(mesh.Visible(line), 200))
	}
	return nil
}

// StackNames returns the names of all stacks, in order.
func (d *Deployer) StackNames(ctx context.Context) (out []mesh.StackName, err error) {
	all, err := d.Store.Stacks(ctx)
	for _, s := range all {
		out = append(out, s.Name)
	}
	return out, err
}
