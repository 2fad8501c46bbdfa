// Package detect generates the Dockerfile of a source tree that has none.
//
// It looks at file names and at a few small files, determines the language and
// framework, their version, how to install the dependencies and what to start, and
// generates a Dockerfile that a person can read, keep and change. It runs nothing
// and writes nothing: the caller prints the plan or builds it.
//
//	plan, err := detect.Detect(os.DirFS("."), detect.Settings{})
//	fmt.Print(plan.Dockerfile)
package detect

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode"

	"mesh"
)

// Settings are what people have set for the build. Zero fields are unset.
type Settings struct {
	Packages      []string // Debian packages that the program needs at run time
	BuildPackages []string // Debian packages that only the build needs
	BaseImage     string   // instead of the language's own
	BuildCommand  string   // instead of the detected one
	StartCommand  string   // instead of the detected one
	User          string   // the user that runs the program; empty: one without privileges
	Version       string   // of the language, instead of the one in the tree's files
}

// Plan describes how a tree is built.
type Plan struct {
	Language   string // "Node"
	Framework  string // "Express", or empty
	Because    string // the reason: "there is a package.json"
	Facts      []Fact // what else was found, in the order of the Dockerfile
	Dockerfile string
	Ignore     string // the .dockerignore for it, for a tree without one
	Context    string // the folder of the tree that COPY sees; empty: the whole tree
}

// Fact is something that was found, and where.
type Fact struct{ What, Why string }

// Title is the language with its framework: "Node (Express)".
func (p Plan) Title() string {
	if p.Framework != "" {
		return p.Language + " (" + p.Framework + ")"
	}
	return p.Language
}

// Ignored is what the context of a managed build leaves out if the tree has no
// .dockerignore: files that no image needs, and that a checkout has but a pushed
// tree does not. .env files are not in the list: a committed one is meant to be
// used, and builds of front ends and Symfony read it.
const Ignored = `.git
**/node_modules
.venv
venv
**/__pycache__
.pytest_cache
.bundle
.DS_Store
`

// hidden is also left out if the server would serve it.
const hidden = `**/.env
**/.env.*
`

// language is one that can be detected.
type language struct {
	name  string
	files []string // if any of these is in the root, it is this language
	plan  func(*source, *plan) error
}

// languages in the order in which they are tried. Those that have a package.json
// beside their own file come before Node. A Python file that may just be a helper
// comes after it, and files that any tree may have come last.
var languages = []language{
	{"PHP", []string{"composer.json", "index.php", "public/index.php", "web/index.php", "webroot/index.php", "htdocs/index.php"}, php},
	{"Go", []string{"go.mod", "go.work"}, golang},
	{"Ruby", []string{"Gemfile", "config.ru"}, ruby},
	{"Python", []string{"requirements.txt", "pyproject.toml", "Pipfile", "uv.lock", "manage.py", "environment.yml", "environment.yaml"}, python},
	{"Deno", []string{"deno.json", "deno.jsonc"}, deno},
	{"Rust", []string{"Cargo.toml"}, rust},
	{"Java", []string{"pom.xml", "build.gradle", "build.gradle.kts", "settings.gradle", "settings.gradle.kts"}, java},
	{"Node", []string{"package.json", "server.js"}, node},
	{"Python", []string{"setup.py", "main.py", "app.py", "server.py", "bot.py", "wsgi.py", "asgi.py"}, python},
	{"Go", []string{"main.go"}, golang},
	{"Static site", []string{"index.html", "public/index.html"}, static},
}

// LookedFor lists the files that detection looks for in the root of a tree, one line
// per language.
func LookedFor() (lines []string) {
	for _, l := range languages {
		lines = append(lines, fmt.Sprintf("%-12s %s", l.name, strings.Join(l.files, ", ")))
	}
	return lines
}

// Detect makes the plan for a tree. If no language fits, or it is not clear what to
// start, the error is a *mesh.Error of kind Invalid with a hint.
func Detect(tree fs.FS, set Settings) (*Plan, error) { return Folder(tree, "", set) }

// Folder makes the plan for a folder of a tree, like Detect. The folder is built
// alone, as the plan's Context, unless it belongs to something above it: a workspace
// of npm, pnpm, yarn, bun, Go or Cargo that lists it, or a Go module whose package
// it is. In that case the Context is the root of the workspace or module:
// dependencies are installed there, and then the folder is built and started.
func Folder(tree fs.FS, dir string, set Settings) (*Plan, error) {
	whole := tree
	if dir = strings.Trim(path.Clean("/"+dir), "/"); dir != "" {
		var err error
		if tree, err = fs.Sub(whole, dir); err != nil {
			return nil, mesh.Errorf(mesh.Invalid, "%s: %w", dir, err)
		}
	}
	for _, p := range slices.Concat(set.Packages, set.BuildPackages) {
		if !packageName.MatchString(p) {
			return nil, mesh.Errorf(mesh.Invalid, "%q is not the name of a Debian package", mesh.Clip(p, 60))
		}
	}
	for name, v := range map[string]string{"base-image": set.BaseImage, "user": set.User} {
		if strings.ContainsFunc(v, unicode.IsSpace) {
			return nil, mesh.Errorf(mesh.Invalid, "%s=%q contains a blank", name, mesh.Clip(v, 60))
		}
	}
	if strings.ContainsAny(set.BuildCommand, "\r\n") {
		return nil, mesh.Errorf(mesh.Invalid, "build-command has several lines").WithHint("join them with &&, or call a script in the repository")
	}
	src := &source{tree: tree, set: set, whole: whole, folder: dir}
	write := func(l language, because string) (*Plan, error) {
		p := &plan{Plan: Plan{Language: l.name, Because: because}, want: said{set.Version, "language-version"}, packages: set.Packages, buildPackages: set.BuildPackages}
		if err := l.plan(src, p); err != nil {
			return nil, err
		}
		p.Plan.Dockerfile, p.Plan.Ignore, p.Plan.Context = p.text(set), Ignored, src.above().folder
		if p.open {
			p.Plan.Ignore += hidden
		}
		return &p.Plan, nil
	}
	for _, l := range languages {
		if file := src.first(l.files...); file != "" {
			return write(l, "there is "+article(file))
		}
	}
	if goPackage(src) {
		return write(language{name: "Go", plan: golang}, "it is a package of the module above it")
	}
	if f := pythonProcfile(src); f != "" {
		return write(language{name: "Python", plan: python}, "the Procfile runs "+f+" with it")
	}
	if src.isMain(".") {
		return write(language{name: "Go", plan: golang}, "there is a package main")
	}
	err := mesh.Errorf(mesh.Invalid, "there is no Dockerfile, and mesh cannot detect the language")
	for _, dir := range src.folders() {
		for _, l := range languages[:len(languages)-1] { // not static: any folder may have an index.html
			for _, f := range append([]string{"Dockerfile"}, l.files...) {
				if src.has(dir + "/" + f) {
					return nil, err.WithHint("there is %s in %s/; build that folder with root=%s", article(f), dir, dir)
				}
			}
		}
	}
	return nil, err.WithHint("add one of these files or a Dockerfile; put a static site in public/")
}

func article(file string) string {
	if strings.ContainsRune("aeio", rune(file[0])) {
		return "an " + file
	}
	return "a " + file
}
