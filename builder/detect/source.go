package detect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/tailscale/hujson"

	"mesh"
)

// maxFile limits how much of a file is read: the relevant files are small.
const maxFile = 4 << 20

// plainPath is a path that needs no quotes anywhere.
var plainPath = regexp.MustCompile(`^[\w./-]+$`)

var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

// source is the tree that is examined.
type source struct {
	tree fs.FS
	set  Settings

	whole  fs.FS   // the tree that contains the folder
	folder string  // the folder in it; empty: the whole tree
	top    *source // the folder above that it belongs to, or nil
	at     string  // its path below top
}

// below is a folder of the source.
func (s *source) below(dir string) *source {
	tree, err := fs.Sub(s.tree, dir)
	if err != nil {
		return s
	}
	return &source{tree: tree, set: s.set, whole: s.whole, folder: path.Join(s.folder, dir)}
}

// has reports whether a file of that name exists.
func (s *source) has(name string) bool {
	i, err := fs.Stat(s.tree, name)
	return err == nil && i.Mode().IsRegular()
}

func (s *source) dir(name string) bool {
	i, err := fs.Stat(s.tree, name)
	return err == nil && i.IsDir()
}

// first is the first of the names that exists, or empty.
func (s *source) first(names ...string) string {
	for _, n := range names {
		if s.has(n) {
			return n
		}
	}
	return ""
}

// present are the names that exist; a folder gets a slash.
func (s *source) present(names ...string) (list []string) {
	for _, n := range names {
		if s.has(n) {
			list = append(list, n)
		} else if s.dir(n) {
			list = append(list, n+"/")
		}
	}
	return list
}

// read is the text of a file, or empty.
func (s *source) read(name string) string {
	f, err := s.tree.Open(name)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(strings.TrimPrefix(string(b), "\ufeff"), "\r\n", "\n")
}

// line is the first line of a file that is not a comment.
func (s *source) line(name string) string {
	for l := range strings.SplitSeq(s.read(name), "\n") {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
			return l
		}
	}
	return ""
}

// json reads a file into v; a missing one leaves v unchanged.
func (s *source) json(name string, v any) error {
	if err := s.small(name); err != nil {
		return err
	}
	return readJSON(name, s.read(name), v)
}

// small refuses a file of which only a part would be read.
func (s *source) small(name string) error {
	if i, err := fs.Stat(s.tree, name); err == nil && i.Size() > maxFile {
		return mesh.Errorf(mesh.Invalid, "%s is %d MB; at most %d MB are allowed", name, i.Size()>>20, maxFile>>20).
			WithHint("move what is not about dependencies and scripts into files of its own")
	}
	return nil
}

// notObjectError is the error of a value that must be an object.
type notObjectError struct{ what, is string }

func (e *notObjectError) Error() string { return e.what + " is " + e.is + ", and must be an object" }

func readJSON(name, text string, v any) error {
	if text == "" {
		return nil
	}
	err := json.Unmarshal([]byte(text), v)
	var at *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var offset int64
	switch {
	case err == nil:
		return nil
	case errors.As(err, &at):
		offset = at.Offset
	case errors.As(err, &kind) && kind.Field == "":
		err, offset = &notObjectError{"it", "a JSON " + kind.Value}, kind.Offset
	case errors.As(err, &kind):
		err, offset = fmt.Errorf("%s is a JSON %s, and must be %s", kind.Field, kind.Value, jsonName(kind.Type)), kind.Offset
	default:
		return mesh.Errorf(mesh.Invalid, "%s: %w", name, err)
	}
	line := 1 + strings.Count(text[:min(len(text), int(offset))], "\n")
	return mesh.Errorf(mesh.Invalid, "%s:%d: %w", name, line, err)
}

// jsonName is what JSON calls the values of a type.
func jsonName(t reflect.Type) string {
	for name, kinds := range map[string][]reflect.Kind{
		"a string": {reflect.String}, "true or false": {reflect.Bool}, "an array": {reflect.Slice}, "an object": {reflect.Map, reflect.Struct},
	} {
		if slices.Contains(kinds, t.Kind()) {
			return name
		}
	}
	return "a number"
}

// jsonc reads a file with comments, and with commas before a closing bracket.
func (s *source) jsonc(name string, v any) error {
	if err := s.small(name); err != nil {
		return err
	}
	return readJSON(name, plainJSON(s.read(name)), v)
}

// plainJSON replaces comments, and commas before a closing bracket, by blanks; the rest
// stays on its line. A text that is not JSON in any other way is left as it is.
func plainJSON(text string) string {
	if b, err := hujson.Standardize([]byte(text)); err == nil {
		return string(b)
	}
	return text
}

func (s *source) toml(name string, v any) error {
	if err := s.small(name); err != nil {
		return err
	}
	text := s.read(name)
	if text == "" {
		return nil
	}
	err := toml.Unmarshal([]byte(text), v)
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, _ := at.Position()
		return mesh.Errorf(mesh.Invalid, "%s:%d: %s", name, line, strings.TrimPrefix(at.Error(), "toml: "))
	}
	if err != nil {
		return mesh.Errorf(mesh.Invalid, "%s: %w", name, err)
	}
	return nil
}

// folders are those in the root, without hidden ones.
func (s *source) folders() []string { return s.foldersOf(".") }

// foldersOf are those in a folder.
func (s *source) foldersOf(dir string) (names []string) {
	list, err := fs.ReadDir(s.tree, dir)
	if err != nil {
		return nil
	}
	for _, e := range list {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && e.Name() != "node_modules" && e.Name() != "vendor" {
			names = append(names, e.Name())
		}
	}
	return names
}

// in are the paths of the files in a folder.
func (s *source) in(dir string) (paths []string) {
	list, err := fs.ReadDir(s.tree, dir)
	if err != nil {
		return nil
	}
	for _, e := range list {
		if p := path.Join(dir, e.Name()); s.has(p) {
			paths = append(paths, p)
		}
	}
	return paths
}

// glob are the files of that name in the root's folders.
func (s *source) glob(name string) (paths []string) {
	for _, d := range s.folders() {
		if p := path.Join(d, name); s.has(p) && plainPath.MatchString(p) {
			paths = append(paths, p)
		}
	}
	return paths
}

// web is the command of web in the Procfile, or in the file of another builder.
func (s *source) web() said {
	var nixpacks struct{ Start struct{ Cmd string } }
	var railpack struct{ Deploy struct{ StartCommand string } }
	_ = toml.Unmarshal([]byte(s.read("nixpacks.toml")), &nixpacks) // deploy/manifest reports what is wrong with them
	_ = json.Unmarshal([]byte(plainJSON(s.read("railpack.json"))), &railpack)
	return firstSaid(
		said{s.process("web"), "web in the Procfile"}, said{railpack.Deploy.StartCommand, "deploy.startCommand in railpack.json"}, said{nixpacks.Start.Cmd, "start.cmd in nixpacks.toml"},
	)
}

// process is a line of the Procfile.
func (s *source) process(name string) string {
	for l := range strings.SplitSeq(s.read("Procfile"), "\n") {
		if n, c, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(n) == name {
			return strings.TrimSpace(c)
		}
	}
	return ""
}

// start chooses the start command: the one that was set, then the Procfile's, then
// the detected one. If there is none, the plan has no CMD if the Procfile names
// other processes; otherwise the tree is refused.
func (s *source) start(p *plan, found, why string, lookedFor string) error {
	web := s.web()
	switch {
	case s.set.StartCommand != "":
		found, why = s.set.StartCommand, "start-command"
	case web.text != "":
		found, why = flat(web.text), web.from
	case found == "" && s.has("Procfile"):
		return nil
	case found == "":
		return mesh.Errorf(mesh.Invalid, "this is %s, but nothing says what to start: there is no %s", p.Title(), lookedFor).
			WithHint("write web: COMMAND in a Procfile, or set start-command=COMMAND")
	}
	p.cmd = found
	p.found("starts "+found, why)
	return nil
}

// buildCommand is the command that was set, or the detected one.
func (s *source) buildCommand(p *plan, found, why string) string {
	if s.set.BuildCommand != "" {
		found, why = s.set.BuildCommand, "build-command"
	}
	if found != "" {
		p.found("builds with "+found, why)
	}
	return found
}

// installs records how dependencies are installed, and returns the command: the one that
// was set, or the detected one.
func (p *plan) installs(command, why string) string {
	if p.install.text != "" {
		command, why, p.installed = p.install.text, p.install.from, true
	}
	p.found(strings.TrimPrefix(command, "NODE_ENV=development "), why)
	return command
}

// found records a fact, on one line whatever file it comes from.
func (p *plan) found(what, why string) {
	if f := (Fact{flat(what), flat(why)}); !slices.Contains(p.Facts, f) {
		p.Facts = append(p.Facts, f)
	}
}

// fact is a fact that was found.
func (p *plan) fact(what string) *Fact {
	i := slices.IndexFunc(p.Facts, func(f Fact) bool { return f.What == what })
	return &p.Facts[i]
}

// version chooses the version that v asks for, or known[0] if it asks for none, and
// records why. It is cut to n numbers: an image's patch level is the newest, with
// all fixes, and not every patch level has an image for each release of Debian.
func (p *plan) version(language string, v said, n int, known ...string) string {
	version, why := known[0], "the default"
	v = firstSaid(p.want, v)
	if v.from != "" {
		version, why = lines(choose(v.text, known...), n), v.from
		if v.text != version {
			why += fmt.Sprintf(" says %s", flat(mesh.Clip(v.text, 40)))
		}
	}
	p.found(language+" "+version, why)
	p.ended(language, version)
	return version
}
