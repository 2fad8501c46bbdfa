package detect

import (
	"go/build/constraint"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"

	"mesh"
)

var packageMain = regexp.MustCompile(`(?m)^package main\b`)

// cgo are modules that need a C compiler, and further packages.
var cgo = map[string]needs{
	"github.com/mattn/go-sqlite3":                {},
	"github.com/confluentinc/confluent-kafka-go": {},
	"github.com/h2non/bimg":                      {build: "libvips-dev", run: "libvips42"},
	"github.com/davidbyttow/govips":              {build: "libvips-dev", run: "libvips42"},
	"gopkg.in/gographics/imagick.v2":             {build: "libmagickwand-dev", run: "libmagickwand-6.q16-6"},
	"gopkg.in/gographics/imagick.v3":             {}, // Debian 12 has no ImageMagick 7
}

// golang builds all commands of a module. The source also goes into the image, for
// templates and files that the program reads.
func golang(s *source, p *plan) error {
	if s.has("go.mod") || !s.has("go.work") {
		if s.top == nil {
			goPackage(s)
		}
		return goModule(s, s, p)
	}
	dir, err := goWorkProgram(s)
	if err != nil {
		return err
	}
	module := s.below(dir)
	module.top, module.at = s, dir
	p.found("builds "+dir+"/", "go.work lists it")
	return goModule(module, s, p)
}

// goModule builds a module, or a package of one. The start command and the files in the
// image come from another folder if the module was chosen by the root's go.work.
func goModule(s, from *source, p *plan) error {
	mod, err := goMod(s)
	if err != nil {
		return err
	}
	var work *modfile.WorkFile
	if from != s {
		work = s.top.goWork()
	} else {
		work = goAbove(s, p, mod)
	}
	bare := !s.has("go.mod") && s.top == nil
	if !s.has("go.mod") && !bare {
		if mod, err = goMod(s.above()); err != nil {
			return err
		}
	}
	var v said
	if mod.Go != nil {
		v = said{mod.Go.Version, "go in go.mod"}
	}
	if mod.Toolchain != nil && mod.Toolchain.Name != "default" {
		v = said{strings.TrimPrefix(mod.Toolchain.Name, "go"), "toolchain in go.mod"}
	}
	if work != nil && work.Go != nil {
		v = said{work.Go.Version, "go in go.work"} // no module needs a newer one
	}
	version := p.newest("Go", "1.26", v)
	p.buildImage, p.image = "golang:"+version+"-bookworm", "debian:bookworm-slim"

	target, start, why, err := goCommands(s, mod)
	if err != nil {
		return err
	}
	cgoEnabled := "0"
	required := func(m string) bool {
		return slices.ContainsFunc(mod.Require, func(r *modfile.Require) bool { return r.Mod.Path == m || strings.HasPrefix(r.Mod.Path, m+"/") })
	}
	for _, m := range slices.Sorted(maps.Keys(cgo)) {
		if required(m) {
			cgoEnabled = "1"
			p.found("builds with cgo", m+" in go.mod")
		}
	}
	if f := s.importsC(); f != "" && cgoEnabled == "0" {
		cgoEnabled = "1"
		p.found("builds with cgo", f+` imports "C"`)
	}
	p.add(cgo, required)
	p.build = []string{"ENV CGO_ENABLED=" + cgoEnabled, "RUN mkdir /out"}
	// Modules in the tree must be there before the others are fetched.
	if bare {
		p.found("go mod init && go mod tidy", "no go.mod: the newest version of everything that is imported")
		p.build = append(p.build, "COPY . .", "RUN --mount=type=cache,target=/go/pkg/mod go mod init app && go mod tidy")
	} else if work != nil || s.above().has("vendor/modules.txt") || replacesFolder(mod) {
		p.build = append(p.build, "COPY . .")
	} else {
		p.build = append(p.build, copies(s.above().present("go.mod", "go.sum"))...)
		p.build = append(p.build, "RUN --mount=type=cache,target=/go/pkg/mod go mod download", "COPY . .")
	}
	source := "COPY --chown=%OWNER . ."
	if s.top != nil {
		p.build = append(p.build, "WORKDIR /app/"+s.at)
	}
	if s.top != nil && from == s {
		source = "COPY --chown=%OWNER " + s.at + " ."
	}
	p.build = append(p.build, s.buildRun(p, "go build -trimpath -ldflags='-s -w' -tags=timetzdata -o /out/ "+target, why, "/go/pkg/mod", "/root/.cache/go-build"))
	p.final = []string{
		"COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/",
		source,
		"COPY --from=build /out/ /usr/local/bin/",
	}
	return from.start(p, start, why, "package main in the root or in cmd/")
}

// goWork is the folder's go.work, or nil.
func (s *source) goWork() *modfile.WorkFile {
	if !s.has("go.work") {
		return nil
	}
	work, err := modfile.ParseWork("go.work", []byte(s.read("go.work")), nil)
	if err != nil {
		return nil // go build reports it
	}
	return work
}

// goWorkProgram is the folder of the only module of a go.work that has a command.
func goWorkProgram(s *source) (string, error) {
	var all, programs []string
	if work := s.goWork(); work != nil {
		for _, u := range work.Use {
			dir := path.Clean(u.Path)
			if !plainPath.MatchString(dir) || !s.has(dir+"/go.mod") {
				continue
			}
			all = append(all, dir)
			if m := s.below(dir); m.isMain(".") || m.isMain("cmd") || len(m.goCmds()) > 0 {
				programs = append(programs, dir)
			}
		}
	}
	switch len(programs) {
	case 1:
		return programs[0], nil
	case 0:
		return "", mesh.Errorf(mesh.Invalid, "this is Go, but no module of go.work has a command: %s", strings.Join(all, ", ")).
			WithHint("list the module with the package main in go.work: go work use ./DIR")
	}
	if dir := preferred(programs); dir != "" {
		return dir, nil
	}
	return "", mesh.Errorf(mesh.Invalid, "this is Go, and go.work has several modules with commands: %s", strings.Join(programs, ", ")).
		WithHint("choose one with: ssh mesh build:set -a STACK root=%s", programs[0])
}

var importC = regexp.MustCompile(`(?m)^import\s+"C"|^\s+"C"\s*$`)

// importsC is a file of the module that calls C, or empty: without cgo, the build would
// leave it out.
func (s *source) importsC() (file string) {
	_ = fs.WalkDir(s.tree, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil
		case d.IsDir() && p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "vendor" || d.Name() == "testdata" || d.Name() == "node_modules" || strings.Count(p, "/") >= maxDepth || s.has(p+"/go.mod")):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, "_test.go") && importC.MatchString(s.read(p)):
			file = p
			return fs.SkipAll
		}
		return nil
	})
	return file
}

// preferred is the one among several folders with commands whose name says that it is
// the server, or empty.
func preferred(dirs []string) string {
	for _, want := range words("web server app api") {
		for _, d := range dirs {
			if path.Base(d) == want {
				return d
			}
		}
	}
	return ""
}

// goCmds are the commands in cmd/.
func (s *source) goCmds() (commands []string) {
	list, err := fs.ReadDir(s.tree, "cmd")
	if err != nil {
		return nil
	}
	for _, e := range list {
		if e.IsDir() && plainPath.MatchString(e.Name()) && s.isMain("cmd/"+e.Name()) {
			commands = append(commands, e.Name())
		}
	}
	return commands
}

// goElsewhere are the folders with a command in other places than cmd/, without those
// for examples and tools.
func (s *source) goElsewhere() (dirs []string) {
	_ = fs.WalkDir(s.tree, ".", func(p string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil || !d.IsDir() || p == ".":
			return nil
		case strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || strings.Count(p, "/") >= maxDepth || !plainPath.MatchString(p) ||
			slices.Contains(words("vendor testdata node_modules example examples _examples tools scripts hack test tests"), name) || s.has(p+"/go.mod"):
			return fs.SkipDir
		}
		if s.isMain(p) {
			dirs = append(dirs, p)
		}
		return nil
	})
	return dirs
}

// goMod is the folder's module, without a name if there is none.
func goMod(s *source) (*modfile.File, error) {
	text := []byte(s.read("go.mod"))
	mod, err := modfile.Parse("go.mod", text, nil)
	if err != nil { // for example something that a newer Go has added; this reads less
		mod, err = modfile.ParseLax("go.mod", text, nil)
	}
	if err != nil {
		return nil, mesh.Errorf(mesh.Invalid, "go.mod: %w", err)
	}
	return mod, nil
}

// replacesFolder reports whether a module is replaced by a folder of the tree.
func replacesFolder(mod *modfile.File) bool {
	return slices.ContainsFunc(mod.Replace, func(r *modfile.Replace) bool { return modfile.IsDirectoryPath(r.New.Path) })
}

// goPackage reports whether a folder without a go.mod has commands of the module
// above it.
func goPackage(s *source) bool {
	if s.folder == "" || s.has("go.mod") || !s.isMain(".") && !s.dir("cmd") {
		return false
	}
	return s.climb(func(top *source, _ string) bool { return top.has("go.mod") })
}

// goAbove looks for what a folder belongs to: the module that it is a package of, the
// go.work that uses it, which it returns, or the tree in which its go.mod replaces
// modules with folders that are not below it.
func goAbove(s *source, p *plan, mod *modfile.File) (work *modfile.WorkFile) {
	if s.top != nil {
		p.found("part of a module", path.Join(s.top.folder, "go.mod")+" above it")
		return nil
	}
	if s.climb(func(top *source, at string) bool {
		var err error
		work, err = modfile.ParseWork("go.work", []byte(top.read("go.work")), nil)
		return err == nil && slices.ContainsFunc(work.Use, func(u *modfile.Use) bool { return path.Clean(u.Path) == at })
	}) {
		p.found("module of a workspace", path.Join(s.top.folder, "go.work")+" above it")
		return work
	}
	var outside []string
	for _, r := range mod.Replace {
		if strings.HasPrefix(r.New.Path, "../") {
			outside = append(outside, r.New.Path)
		}
	}
	if len(outside) > 0 && s.climb(func(_ *source, at string) bool {
		return !slices.ContainsFunc(outside, func(o string) bool { return strings.HasPrefix(path.Join(at, o), "..") })
	}) {
		p.found("includes the folders above", "replace in go.mod")
	}
	return nil
}

// goCommands finds the commands of a module: what to build, and which one to start.
func goCommands(s *source, mod *modfile.File) (target, start, why string, err error) {
	name := "app"
	if mod.Module != nil {
		name = path.Base(strings.TrimSuffix(mod.Module.Mod.Path, "/"))
		if regexp.MustCompile(`^v\d+$`).MatchString(name) { // the name that go build would use
			name = path.Base(path.Dir(mod.Module.Mod.Path))
		}
	}
	if s.top != nil && !s.has("go.mod") {
		name = path.Base(s.at)
	}
	if s.isMain(".") {
		return ".", word(name), "package main in the root", nil
	}
	commands := s.goCmds()
	switch {
	case len(commands) == 1:
		return "./cmd/" + commands[0], commands[0], "package main in cmd/" + commands[0], nil
	case len(commands) == 0 && s.isMain("cmd"):
		return "./cmd", "cmd", "package main in cmd", nil
	case len(commands) == 0:
		switch dirs := s.goElsewhere(); len(dirs) {
		case 0:
		case 1:
			return "./" + dirs[0], path.Base(dirs[0]), "package main in " + dirs[0], nil
		default:
			if dir := preferred(dirs); dir != "" {
				return "./" + dir, path.Base(dir), "package main in " + dir, nil
			}
			return "", "", "", mesh.Errorf(mesh.Invalid, "this is Go, and it has several commands: %s", strings.Join(dirs, ", ")).
				WithHint("choose one with: ssh mesh build:set -a STACK root=%s", dirs[0])
		}
		return "", "", "", mesh.Errorf(mesh.Invalid, "this is Go, but there is no package main in the root or in cmd/").
			WithHint("move it there, or set build-command= and start-command=")
	}
	if slices.Contains(commands, name) {
		return "./cmd/...", name, "package main in cmd/" + name, nil
	}
	if c := preferred(commands); c != "" {
		return "./cmd/...", c, "package main in cmd/" + c, nil
	}
	if s.set.StartCommand == "" && !s.has("Procfile") {
		return "", "", "", mesh.Errorf(mesh.Invalid, "this is Go, and cmd/ has several commands: %s", strings.Join(commands, ", ")).
			WithHint("name the one to start in a Procfile: web: %s, or set start-command=%s", commands[0], commands[0])
	}
	return "./cmd/...", "", "the commands in cmd/", nil
}

// isMain reports whether a folder has a command.
func (s *source) isMain(dir string) bool {
	list, err := fs.ReadDir(s.tree, dir)
	if err != nil {
		return false
	}
	for _, e := range list {
		if n := e.Name(); strings.HasSuffix(n, ".go") && !strings.HasSuffix(n, "_test.go") {
			if text := s.read(path.Join(dir, n)); packageMain.MatchString(text) && goBuilt(n, text) {
				return true
			}
		}
	}
	return false
}

var (
	goSystems = words("aix android darwin dragonfly freebsd illumos ios js netbsd openbsd plan9 solaris wasip1 windows")
	goChips   = words("386 arm loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm")
	goTags    = words("linux unix cgo gc timetzdata")
)

// goBuilt reports whether a file's name and build constraint include it in a build
// for Linux, on either architecture that servers have.
func goBuilt(name, text string) bool {
	parts := strings.Split(strings.TrimSuffix(name, ".go"), "_")
	for _, p := range parts[max(1, len(parts)-2):] {
		if slices.Contains(goSystems, p) || slices.Contains(goChips, p) {
			return false
		}
	}
	head := text[:packageMain.FindStringIndex(text)[0]]
	for l := range strings.SplitSeq(head, "\n") {
		l = strings.TrimSpace(l)
		if !constraint.IsGoBuild(l) {
			continue
		}
		x, err := constraint.Parse(l)
		return err != nil || x.Eval(goTag("amd64")) || x.Eval(goTag("arm64")) // go build reports what is wrong with it
	}
	return true
}

// goTag reports which tags are set for an architecture.
func goTag(chip string) func(string) bool {
	return func(tag string) bool {
		return tag == chip || slices.Contains(goTags, tag) || strings.HasPrefix(tag, "go1.")
	}
}

// goLooseSign is a program in Go without a module. One that is started with go run needs
// the compiler in the image: it is left to the Procfile.
func goLooseSign(s *source) string {
	if !s.isMain(".") || goPackage(s) || strings.Contains(s.started(), "go run") {
		return ""
	}
	files := s.files(".", "*.go")
	if slices.Contains(files, "main.go") || len(files) == 0 {
		return "main.go"
	}
	return files[0]
}
