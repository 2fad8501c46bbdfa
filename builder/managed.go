package builder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"mesh"
	"mesh/builder/detect"
)

// prepare finds what to build in the tree: the folder that COPY sees, and the
// Dockerfile, which is generated for a tree without one.
func (j *job) prepare() error {
	whole := newFiles(j.Tree)
	set := j.Settings
	root, err := whole.below(set.Root)
	if err != nil {
		return folderFault("root", set.Root, err)
	}
	j.files = whole
	if set.Context != "" {
		if j.files, err = whole.below(set.Context); err != nil {
			return folderFault("context", set.Context, err)
		}
	}
	if set.Dockerfile != "" || root.hasDockerfile() {
		if j.df, err = readDockerfile(root, set.Dockerfile, set.Root, j.Stack); err != nil {
			return err
		}
		if j.From.Ref == "" {
			j.out.write("-----> Building with ./" + j.df.path)
		}
		for name, given := range map[string]bool{
			"packages": len(set.Packages) > 0, "build-packages": len(set.BuildPackages) > 0, "base-image": set.BaseImage != "", "build-command": set.BuildCommand != "",
			"language-version": set.Language != "", "install-command": set.Install != "", "output": set.Output != "",
		} {
			if given {
				j.out.warn(name + "= has no effect: the repository has a Dockerfile")
			}
		}
		return j.df.checkTarget(set.Target)
	}
	// COPY sees the folder, or the workspace that it belongs to, within context=.
	scope, dir := j.files, strings.TrimPrefix(root.inside, j.files.inside)
	if j.files.inside != "" && dir != "" && dir[0] != '/' || !strings.HasPrefix(root.inside, j.files.inside) {
		scope, dir = root, ""
	}
	plan, err := detect.Folder(treeFS{scope}, dir, detect.SettingsOf(set))
	if err != nil {
		var e *mesh.Error
		if errors.As(err, &e) && strings.HasPrefix(e.Text, "there is no Dockerfile") {
			j.out.write("-----> Building without a Dockerfile")
			j.out.detail("looked for:")
			for _, l := range append([]string{fmt.Sprintf("%-12s %s", "Dockerfile", mesh.DefaultDockerfile)}, detect.LookedFor()...) {
				j.out.detail("  " + l)
			}
		}
		var u *detect.UnbuiltError
		if errors.As(err, &u) {
			j.out.write("-----> A Dockerfile to begin with; replace NAME and the command:")
			for _, l := range u.Dockerfile {
				j.out.detail("  " + l)
			}
		}
		return err
	}
	j.out.write("-----> Building without a Dockerfile: " + plan.Title() + ", because " + plan.Because)
	wide := 0
	for _, f := range plan.Facts {
		wide = max(wide, min(44, len([]rune(f.What))))
	}
	for _, f := range plan.Facts {
		what := []rune(shorten(f.What, 80))
		j.out.detail(string(what) + strings.Repeat(" ", max(2, wide+2-len(what))) + f.Why)
	}
	if j.files, err = scope.below(plan.Context); err != nil {
		return fmt.Errorf("open the context: %w", err)
	}
	if set.Context != "" && j.files.inside != strings.Trim(path.Clean("/"+set.Context), "/") {
		j.out.warn("context= has no effect without a Dockerfile: mesh builds " + orRoot(j.files.inside))
	}
	if set.Target != "" {
		j.out.warn("target= has no effect without a Dockerfile")
	}
	if err := checkLines(plan.Dockerfile); err != nil {
		return err
	}
	j.df, err = parseDockerfile(mesh.DefaultDockerfile, []byte(plan.Dockerfile))
	if err != nil {
		return fmt.Errorf("read the generated Dockerfile: %w", err)
	}
	j.df.shown, j.df.managed = "the generated Dockerfile", true
	if _, own := j.files.index[".dockerignore"]; !own {
		j.df.ignore = []byte(plan.Ignore)
	}
	return nil
}

// checkLines refuses a generated Dockerfile with a command from the tree that is
// longer than other commands may be: package.json, for example, may contain
// anything.
func checkLines(text string) error {
	for line := range strings.Lines(text) {
		if len(line) > mesh.MaxCommand {
			return mesh.Errorf(mesh.Invalid, "a command in the repository is %d bytes long, at most %d are allowed: %q", len(line), mesh.MaxCommand, mesh.Clip(strings.TrimSpace(line), 60)).
				WithHint("put it into a script in the repository and run that")
		}
	}
	return nil
}

func orRoot(dir string) string {
	if dir == "" {
		return "the repository"
	}
	return dir + "/"
}

// Dockerfile returns the Dockerfile that a tree is built with, and whether it is
// generated because the tree has none.
func (b *Builder) Dockerfile(tree mesh.Tree, set mesh.Settings) (text string, managed bool, err error) {
	j := &job{Builder: b, Build: mesh.Build{Tree: tree, Settings: set}, out: newPrinter(io.Discard, nil)}
	if err := j.prepare(); err != nil {
		return "", false, err
	}
	return string(j.df.text), j.df.managed, nil
}

// Explain writes what a tree is built with, and which file decided it, as a build says
// it. It needs no engine.
func (b *Builder) Explain(tree mesh.Tree, set mesh.Settings, w io.Writer) error {
	j := &job{Builder: b, Build: mesh.Build{Tree: tree, Settings: set}, out: newPrinter(w, nil)}
	return j.prepare()
}

// hasDockerfile reports whether anything has that name, even if it cannot be built:
// that gives an error instead of being ignored.
func (f *files) hasDockerfile() bool {
	_, upper := f.index[mesh.DefaultDockerfile]
	_, lower := f.index["dockerfile"]
	return upper || lower
}

// below is the part of a tree in one of its folders.
func (f *files) below(dir string) (*files, error) {
	dir = strings.Trim(path.Clean("/"+dir), "/")
	if dir == "" {
		return f, nil
	}
	e, err := f.resolve(dir)
	switch {
	case err != nil:
		return nil, err
	case e.Module != "":
		return nil, errors.New("is a submodule")
	case !e.Mode.IsDir():
		return nil, errors.New("is not a folder")
	case e.Path == "":
		return f, nil // a link to the tree itself
	}
	out := &files{index: map[string]int{}, open: f.open, inside: path.Join(f.inside, e.Path)}
	prefix := e.Path + "/"
	for _, e := range f.entries {
		if p, ok := strings.CutPrefix(e.Path, prefix); ok {
			out.opened = append(out.opened, e)
			e.Path = p
			out.index[p] = len(out.entries)
			out.entries = append(out.entries, e)
		}
	}
	out.open = func(e mesh.TreeEntry) (io.ReadCloser, error) { return f.open(out.opened[out.index[e.Path]]) }
	return out, nil
}

func folderFault(setting, dir string, err error) error {
	why := err.Error()
	switch {
	case errors.Is(err, mesh.ErrOutside):
		why = "leads out of the pushed tree"
	case errors.Is(err, fs.ErrNotExist):
		why = "does not exist in the pushed tree"
	}
	return mesh.Errorf(mesh.Invalid, "%s=%s: %s %s", setting, dir, dir, why).WithHint("name a folder in the repository, or clear the setting: build:unset %s", setting)
}

// treeFS is a tree as an fs.FS that follows links inside it.
type treeFS struct{ files *files }

// Open opens a file or a folder.
func (t treeFS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	e, err := t.files.resolve(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f := &treeFile{info: treeInfo{e, path.Base(name)}}
	if e.Mode.IsDir() {
		f.list = t.files.list(e.Path)
		return f, nil
	}
	f.ReadCloser, err = t.files.open(e)
	return f, err
}

// list returns the names in a folder.
func (f *files) list(dir string) (list []fs.DirEntry) {
	f.once.Do(func() {
		f.kids = map[string][]int{}
		for i, e := range f.entries {
			d := path.Dir(e.Path)
			f.kids[d] = append(f.kids[d], i)
		}
	})
	if dir == "" {
		dir = "."
	}
	for _, i := range f.kids[dir] {
		e := f.entries[i]
		list = append(list, fs.FileInfoToDirEntry(treeInfo{e, path.Base(e.Path)}))
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list
}

type treeFile struct {
	io.ReadCloser
	info treeInfo
	list []fs.DirEntry
}

func (f *treeFile) Stat() (fs.FileInfo, error) { return f.info, nil }

func (f *treeFile) Read(b []byte) (int, error) {
	if f.ReadCloser == nil {
		return 0, &fs.PathError{Op: "read", Path: f.info.name, Err: fs.ErrInvalid}
	}
	return f.ReadCloser.Read(b)
}

func (f *treeFile) Close() error {
	if f.ReadCloser == nil {
		return nil
	}
	return f.ReadCloser.Close()
}

func (f *treeFile) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		list := f.list
		f.list = nil
		return list, nil
	}
	if len(f.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(f.list))
	list := f.list[:n]
	f.list = f.list[n:]
	return list, nil
}

type treeInfo struct {
	mesh.TreeEntry
	name string
}

func (i treeInfo) Name() string       { return i.name }
func (i treeInfo) Size() int64        { return i.TreeEntry.Size }
func (i treeInfo) Mode() fs.FileMode  { return i.TreeEntry.Mode }
func (i treeInfo) ModTime() time.Time { return modTime(i.TreeEntry) }
func (i treeInfo) IsDir() bool        { return i.TreeEntry.Mode.IsDir() }
func (i treeInfo) Sys() any           { return nil }
