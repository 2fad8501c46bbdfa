package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"mesh"
	"mesh/command"
)

// copying returns the two ends of "ps:copy SOURCE TARGET", and their places in words. ok is
// false for other commands, and for a stream that the server handles alone.
func copying(words []string) (from, to string, places [2]int, ok bool) {
	rest, ok := behind(afterStack(words), "ps", "copy")
	if !ok {
		return "", "", places, false
	}
	var plain []int
	for i := len(words) - len(rest); i < len(words); {
		if _, n := command.StackOption(words[i:]); n > 0 {
			i += n
			continue
		}
		if !strings.HasPrefix(words[i], "-") || words[i] == "-" {
			plain = append(plain, i)
		}
		i++
	}
	if len(plain) != 2 || words[plain[0]] == "-" {
		return "", "", places, false
	}
	return words[plain[0]], words[plain[1]], [2]int{plain[0], plain[1]}, true
}

// inInstance reports whether a path is INSTANCE:PATH. One that begins with a dot or a slash
// is a file here, whatever its name.
func inInstance(s string) bool {
	name, _, ok := strings.Cut(s, ":")
	_, serr := mesh.ParseServiceName(name)
	_, ierr := mesh.ParseInstanceName(name)
	return ok && (serr == nil || ierr == nil)
}

// copyFiles copies files between this machine and an instance.
func (o clientFlags) copyFiles(words []string, from, to string, places [2]int, stderr io.Writer) error {
	switch out, in := inInstance(from), inInstance(to); {
	case out == in:
		return mesh.Errorf(mesh.Invalid, "one of %q and %q must be a file in an instance, and the other one here", mesh.Clip(from, 60), mesh.Clip(to, 60)).
			WithHint("mesh ps:copy web.1:/app/log.txt . or mesh ps:copy ./data web.1:/tmp/")
	case out:
		pr, pw := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := unpackTo(to, pr)
			done <- err
			if err == nil {
				_, err = io.Copy(io.Discard, pr) // the padding after the last entry
			}
			_ = pr.CloseWithError(err)
		}()
		rest := slices.Delete(slices.Clone(words), places[1], places[1]+1)
		err := o.run(rest, strings.NewReader(""), pw, stderr)
		if err == nil {
			_ = pw.Close()
		} else {
			_ = pw.CloseWithError(errNoStream)
		}
		if uerr := <-done; uerr != nil && (err == nil || !errors.Is(uerr, errNoStream)) {
			return uerr
		}
		return err
	}
	if _, err := os.Lstat(from); err != nil {
		return mesh.Errorf(mesh.NotFound, "%s cannot be read: %w", from, err)
	}
	pr, pw := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := pack(pw, from)
		packed <- err
		_ = pw.CloseWithError(err)
	}()
	words = slices.Clone(words)
	words[places[0]] = "-"
	err := o.run(words, pr, io.Discard, stderr)
	_ = pr.CloseWithError(io.ErrClosedPipe)
	if perr := <-packed; perr != nil && !errors.Is(perr, io.ErrClosedPipe) {
		return perr
	}
	return err
}

// errNoStream says that the server sent no files: its own error is the reason.
var errNoStream = errors.New("no files came")

// pack writes a file or folder as a tar stream, under its last name.
func pack(w io.Writer, file string) error {
	abs, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	err = filepath.WalkDir(abs, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(p); err != nil {
				return err
			}
		}
		if !info.Mode().IsRegular() && !info.IsDir() && link == "" {
			return mesh.Errorf(mesh.Invalid, "%s is not a file, folder or link", p)
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(abs, p)
		if err != nil {
			return err
		}
		h.Name, h.Uid, h.Gid, h.Uname, h.Gname = path.Join(filepath.Base(abs), filepath.ToSlash(rel)), 0, 0, "", ""
		if info.IsDir() {
			h.Name += "/"
		}
		if err := out.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(out, f)
		return err
	})
	if err != nil {
		return fmt.Errorf("send %s: %w", file, err)
	}
	return out.Close()
}

// unpackTo writes a tar stream into the folder to, or as to itself if there is none. What
// it says cannot lead out of there.
func unpackTo(to string, r io.Reader) error {
	dir, as := to, ""
	if st, err := os.Stat(to); err != nil || !st.IsDir() {
		if strings.HasSuffix(to, "/") {
			return mesh.Errorf(mesh.NotFound, "there is no folder %s here", to)
		}
		dir, as = filepath.Dir(to), filepath.Base(to)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return mesh.Errorf(mesh.NotFound, "there is no folder %s here: %w", dir, err)
	}
	defer func() { _ = root.Close() }()
	in := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) && n > 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the copy: %w", err)
		}
		name := placed(h.Name, as)
		if name == "" {
			continue
		}
		if err := unpackEntry(root, name, h, in, as); err != nil {
			return fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
		}
	}
}

// placed returns where an entry of a tar stream goes below the folder; as is the name that
// the one file or folder in it gets, or empty.
func placed(entry, as string) string {
	name := strings.TrimPrefix(path.Clean("/"+entry), "/")
	if as != "" {
		_, rest, _ := strings.Cut(name, "/")
		name = path.Join(as, rest)
	}
	return filepath.FromSlash(name)
}

func unpackEntry(root *os.Root, name string, h *tar.Header, content io.Reader, as string) error {
	switch h.Typeflag {
	case tar.TypeDir:
		err := root.MkdirAll(name, 0o755)
		if err != nil {
			return err
		}
		return root.Chmod(name, h.FileInfo().Mode().Perm()|0o700)
	case tar.TypeReg:
		if st, err := root.Lstat(name); err == nil && !st.IsDir() {
			if err := root.Remove(name); err != nil { // a link must not be followed
				return err
			}
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, h.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close(), root.Chtimes(name, h.ModTime, h.ModTime))
	case tar.TypeSymlink:
		_ = root.Remove(name)
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		_ = root.Remove(name)
		return root.Link(placed(h.Linkname, as), name)
	}
	return nil // a device or pipe has no copy
}
