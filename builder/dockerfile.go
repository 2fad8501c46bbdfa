package builder

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"mesh"
)

// dockerfile is what mesh needs to know of a Dockerfile before it is built.
type dockerfile struct {
	path    string   // in the tree, as requested
	shown   string   // to people
	managed bool     // generated for a tree without one
	text    []byte   //
	args    []string // declared by ARG, in order
	stages  []string // their names, in lower case
	ignore  []byte   // of NAME.dockerignore, which overrides .dockerignore; nil: none
}

// readDockerfile finds and reads the Dockerfile of a tree. root is the folder of the
// pushed tree that it is.
func readDockerfile(f *files, name, root string, stack mesh.StackName) (*dockerfile, error) {
	if name == "" {
		name = mesh.DefaultDockerfile
	}
	name = strings.Trim(path.Clean("/"+name), "/")
	within := "the pushed tree"
	if root != "" {
		within = "the folder " + root
	}
	hint := fmt.Sprintf("if it has another name: ssh mesh build:set -a %s dockerfile=PATH", stack)
	bad := func(format string, args ...any) error {
		return mesh.Errorf(mesh.Invalid, format, args...).WithHint("%s", hint)
	}
	e, err := f.resolve(name)
	if errors.Is(err, fs.ErrNotExist) && name == mesh.DefaultDockerfile {
		if _, lower := f.index["dockerfile"]; lower { // as docker build does
			name = "dockerfile"
			e, err = f.resolve(name)
		}
	}
	at, there := f.index[name]
	link := there && f.entries[at].Mode&fs.ModeSymlink != 0
	switch {
	case errors.Is(err, mesh.ErrOutside) && link:
		return nil, bad("%s is a symbolic link to %s, which is outside %s", name, f.entries[at].Link, within)
	case errors.Is(err, mesh.ErrOutside):
		return nil, bad("%s leads out of %s", name, within)
	case err != nil && link:
		return nil, bad("%s is a symbolic link to %s, which does not exist in %s", name, f.entries[at].Link, within)
	case err != nil:
		return nil, bad("there is no %s in %s", name, within)
	case e.Module != "":
		return nil, bad("%s is a submodule", name)
	case e.Mode.IsDir():
		return nil, bad("%s is a folder", name)
	}
	text, err := f.content(e, maxDockerfile)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if err := mesh.CheckText(path.Join(root, name), text); err != nil {
		return nil, err
	}
	d, err := parseDockerfile(path.Join(root, name), text)
	if errors.Is(err, errEmpty) {
		return nil, bad("%s is empty", name)
	} else if err != nil {
		return nil, err
	}
	d.ignore, err = f.ignoreFile(name + ".dockerignore")
	return d, err
}

var errEmpty = errors.New("the Dockerfile has no instructions")

func parseDockerfile(name string, text []byte) (*dockerfile, error) {
	d := &dockerfile{path: name, shown: name, text: text}
	res, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		if strings.Contains(err.Error(), "file with no instructions") || strings.Contains(err.Error(), "cannot be empty") {
			return nil, errEmpty
		}
		return nil, d.syntaxError(err)
	}
	if n := len(res.AST.Children); n > maxInstructions {
		return nil, mesh.Errorf(mesh.Invalid, "%s has %d instructions, at most %d are allowed", name, n, maxInstructions).WithHint("combine several commands in one RUN: an image cannot have that many layers either")
	}
	d.args = declaredArgs(res.AST)
	for _, n := range res.AST.Children {
		if !strings.EqualFold(n.Value, "from") || n.Next == nil {
			continue
		}
		name := ""
		if as := n.Next.Next; as != nil && strings.EqualFold(as.Value, "as") && as.Next != nil {
			name = strings.ToLower(as.Next.Value)
		}
		d.stages = append(d.stages, name)
	}
	return d, nil
}

// checkTarget refuses a stage that does not exist before anything is built.
func (d *dockerfile) checkTarget(target string) error {
	if n, err := strconv.Atoi(target); target == "" || slices.Contains(d.stages, strings.ToLower(target)) || err == nil && n < len(d.stages) {
		return nil
	}
	named := slices.DeleteFunc(slices.Clone(d.stages), func(s string) bool { return s == "" })
	return mesh.Errorf(mesh.Invalid, "%s has no stage %q (set by target=)", d.shown, target).
		WithHint("its stages are %s", cmp.Or(strings.Join(named, ", "), "not named"))
}

// declaredArgs returns the names that a Dockerfile declares with ARG, before the
// first FROM or in any stage. It uses only the parser, not the checker of
// instructions, so that it also works for a newer frontend's Dockerfile.
func declaredArgs(ast *parser.Node) (names []string) {
	for _, n := range ast.Children {
		if !strings.EqualFold(n.Value, "arg") {
			continue
		}
		for a := n.Next; a != nil; a = a.Next {
			name, _, _ := strings.Cut(a.Value, "=")
			if name = strings.Trim(name, `"'`); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// pick returns the values of the declared ARGs that have one: mesh's own, and the
// config vars.
func (d *dockerfile) pick(c mesh.Config, commit mesh.Commit, set []string) map[string]string {
	own := map[string]string{"GIT_REV": string(commit), "SOURCE_VERSION": string(commit), "COMMIT_SHORT_HASH": commit.Short()}
	args := map[string]string{}
	for _, name := range d.args {
		if v, ok := c[name]; ok {
			args[name] = v.Reveal()
		}
		if v := own[name]; v != "" {
			args[name] = v
		}
	}
	for _, a := range set {
		if name, v, _ := strings.Cut(a, "="); slices.Contains(d.args, name) {
			args[name] = v
		}
	}
	return args
}

// syntax returns the reference in "# syntax=", and whether the built-in frontend
// serves it.
func (d *dockerfile) syntax() (ref string, stock bool) {
	ref, _, _, ok := parser.DetectSyntax(d.text)
	if !ok {
		return "", false
	}
	name := strings.TrimPrefix(ref, "docker.io/")
	return ref, name == "docker/dockerfile" || strings.HasPrefix(name, "docker/dockerfile:") && !strings.HasSuffix(name, "labs")
}

// mount is a tree with the Dockerfile beside the context: BuildKit finds it there
// even if a link or an ignore file hides it.
func (d *dockerfile) mount() *files {
	content := map[string][]byte{d.path: d.text}
	if d.ignore != nil {
		content[d.path+".dockerignore"] = d.ignore
	}
	ids := map[string]string{}
	for p, b := range content {
		h := sha256.Sum256(b)
		ids[p] = hex.EncodeToString(h[:])
	}
	return literal(content, ids)
}

// ignoreFile reads an ignore file, if there is one. In UTF-16 it would exclude
// nothing, and BuildKit's file sync would fail with a protocol error.
func (f *files) ignoreFile(name string) ([]byte, error) {
	b, err := f.optional(name, maxIgnore)
	if err != nil {
		return nil, err
	}
	return b, mesh.CheckNoUTF16(name, b)
}

// patterns are those of the ignore file for this Dockerfile.
func (d *dockerfile) patterns(f *files) ([]string, error) {
	b := d.ignore
	if b == nil {
		var err error
		if b, err = f.ignoreFile(".dockerignore"); err != nil {
			return nil, err
		}
	}
	p, err := ignorefile.ReadAll(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("read the ignore file: %w", err)
	}
	if len(p) > maxPatterns {
		return nil, mesh.Errorf(mesh.Invalid, "the ignore file has %d patterns, at most %d are allowed", len(p), maxPatterns).WithHint("use wildcards, such as **/*.log, or exclude whole folders")
	}
	return p, nil
}

// matcher matches the paths that the ignore file excludes.
func (d *dockerfile) matcher(f *files) (*patternmatcher.PatternMatcher, error) {
	patterns, err := d.patterns(f)
	if err != nil {
		return nil, err
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, &mesh.Error{Kind: mesh.Failed, Text: ".dockerignore: " + err.Error(), Err: err}
	}
	return m, nil
}

// sortPaths sorts in the order of the file sync: "a", "a/x", "a.b".
func sortPaths(paths []string) {
	key := func(p string) string { return strings.ReplaceAll(p, "/", "\x00") }
	slices.SortFunc(paths, func(a, b string) int { return strings.Compare(key(a), key(b)) })
}
