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
	Output        string   // the folder of a built site to serve, instead of the detected one
	Install       string   // the command that installs dependencies, instead of the detected one
	Args          []string // names of build arguments that the commands of the build get
}

// SettingsOf are those of a stack that matter for its Dockerfile.
func SettingsOf(set mesh.Settings) Settings {
	out := Settings{
		Packages: set.Packages, BuildPackages: set.BuildPackages, BaseImage: set.BaseImage, BuildCommand: set.BuildCommand, StartCommand: set.StartCommand,
		User: set.User, Version: set.Language, Output: set.Output, Install: set.Install,
	}
	for _, a := range set.BuildArgs {
		name, _, _ := strings.Cut(a, "=")
		out.Args = append(out.Args, name)
	}
	return out
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
	kind  kind
	files []string // if any of these is in the root, it is this language
	plan  func(*source, *plan) error

	// look finds the file that shows the language, where a name alone does not: then
	// files only says what is looked for.
	look func(*source) string
}

// kind is what languages are listed under.
type kind string

const (
	scripts  kind = "scripts"
	compiled kind = "compiled"
	sites    kind = "sites"
)

// sign is the file of a tree that shows the language, or empty.
func (l language) sign(s *source) string {
	if l.look != nil {
		return l.look(s)
	}
	return s.first(l.files...)
}

// languages in the order in which they are tried. Those that have a package.json
// beside their own file come before Node. A Python file that may just be a helper
// comes after it, and files that any tree may have come last. Hugo comes before Go,
// because its modules have a go.mod. C and C++ come after Python, because its extension
// modules also have a CMakeLists.txt or a Makefile.
var languages = []language{
	{name: "Elixir", kind: compiled, files: []string{"mix.exs"}, plan: elixir},
	{name: ".NET", kind: compiled, files: []string{"*.csproj", "*.fsproj", "*.vbproj", "*.sln", "*.slnx"}, look: dotnetSign, plan: dotnet},
	{name: "PHP", kind: scripts, files: []string{"composer.json", "index.php", "public/index.php", "web/index.php", "webroot/index.php", "htdocs/index.php"}, plan: php},
	{name: "Hugo", kind: sites, files: []string{"hugo.toml", "hugo.yaml", "config.toml with content/"}, look: hugoSign, plan: hugo},
	{name: "Go", kind: compiled, files: []string{"go.mod", "go.work"}, plan: golang},
	{name: "Jekyll", kind: sites, files: []string{"_config.yml"}, look: jekyllSign, plan: jekyll},
	{name: "Ruby", kind: scripts, files: []string{"Gemfile", "config.ru"}, plan: ruby},
	{name: "MkDocs", kind: sites, files: []string{"mkdocs.yml"}, look: mkdocsSign, plan: mkdocs},
	{name: "Pelican", kind: sites, files: []string{"pelicanconf.py"}, look: pelicanSign, plan: pelican},
	{name: "Sphinx", kind: sites, files: []string{"conf.py", "docs/conf.py"}, look: sphinxSign, plan: sphinx},
	{name: "Python", kind: scripts, files: []string{"requirements.txt", "pyproject.toml", "Pipfile", "uv.lock", "manage.py", "environment.yml", "environment.yaml"}, plan: python},
	{name: "Deno", kind: scripts, files: []string{"deno.json", "deno.jsonc"}, plan: deno},
	{name: "Rust", kind: compiled, files: []string{"Cargo.toml"}, plan: rust},
	{name: "Scala", kind: compiled, files: []string{"build.sbt"}, look: scalaSign, plan: scala},
	{name: "Java", kind: compiled, files: []string{"pom.xml", "build.gradle", "build.gradle.kts", "settings.gradle", "settings.gradle.kts"}, plan: java},
	{name: "Clojure", kind: compiled, files: []string{"project.clj", "deps.edn"}, look: clojureSign, plan: clojure},
	{name: "Gleam", kind: compiled, files: []string{"gleam.toml"}, plan: gleam},
	{name: "Swift", kind: compiled, files: []string{"Package.swift"}, plan: swift},
	{name: "Crystal", kind: compiled, files: []string{"shard.yml"}, plan: crystal},
	{name: "Dart", kind: compiled, files: []string{"pubspec.yaml"}, plan: dart},
	{name: "Haskell", kind: compiled, files: []string{"stack.yaml", "cabal.project", "*.cabal"}, look: haskellSign, plan: haskell},
	{name: "Zig", kind: compiled, files: []string{"build.zig"}, plan: zig},
	{name: "Zola", kind: sites, files: []string{"config.toml with base_url"}, look: zolaSign, plan: zola},
	{name: "mdBook", kind: sites, files: []string{"book.toml"}, plan: mdbook},
	{name: "Node", kind: scripts, files: []string{"package.json", "server.js"}, plan: node},
	{name: "Deno", kind: scripts, look: denoSign, plan: deno},
	{name: "Python", kind: scripts, files: []string{"setup.py", "main.py", "app.py", "server.py", "bot.py", "wsgi.py", "asgi.py"}, plan: python},
	{name: "Go", kind: compiled, files: []string{"*.go with package main"}, look: goLooseSign, plan: golang},
	{name: "C/C++", kind: compiled, files: []string{"CMakeLists.txt", "meson.build", "Makefile with *.c"}, look: nativeSign, plan: native},
	{name: ".NET", kind: compiled, files: []string{"*.csproj in a folder"}, look: dotnetBelow, plan: dotnet},
	{name: ".NET", kind: compiled, files: []string{"*.runtimeconfig.json"}, look: builtSign, plan: dotnetBuilt},
	{name: "COBOL", kind: compiled, files: []string{"*.cbl"}, look: cobolSign, plan: cobol},
	{name: "Static site", kind: sites, files: []string{"index.html", "public/index.html", "Staticfile", "static.json"}, look: siteSign, plan: static},
	{name: "Shell", kind: scripts, files: []string{"start.sh", "run.sh"}, plan: shell},
	{name: "Python", kind: scripts, look: pythonProcfile, plan: python},
	{name: "Procfile", kind: scripts, files: []string{"Procfile"}, look: procfileSign, plan: procfile},
	{name: "Static site", kind: sites, look: siteBelow, plan: static},
}

// common is how many languages, from the first, have files that say enough to be
// looked for in the folders of a tree: any folder may have an index.html or a run.sh.
var common = slices.IndexFunc(languages, func(l language) bool { return l.name == "Static site" })

// maxListed is how many files of a language LookedFor names.
const maxListed = 5

// LookedFor lists the files that detection looks for in the root of a tree, in lines
// that fit a terminal: one entry per language, grouped.
func LookedFor() (lines []string) {
	for _, k := range []kind{scripts, compiled, sites} {
		files := map[string][]string{} // a language may be in the table twice
		var names []string
		for _, l := range languages {
			if l.kind == k {
				if files[l.name] == nil {
					names = append(names, l.name)
				}
				files[l.name] = append(files[l.name], l.files...)
			}
		}
		label, line := string(k), ""
		for i, n := range names {
			all := files[n]
			if len(all) > maxListed {
				all = append(slices.Clone(all[:maxListed]), "…")
			}
			entry := n + " (" + strings.Join(all, ", ") + ")"
			if i < len(names)-1 {
				entry += ", "
			}
			if line != "" && len(line)+len(entry) > 100 {
				lines = append(lines, fmt.Sprintf("%-12s %s", label, strings.TrimSpace(line)))
				label, line = "", ""
			}
			line += entry
		}
		lines = append(lines, fmt.Sprintf("%-12s %s", label, line))
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
	for name, v := range map[string]string{"build-command": set.BuildCommand, "install-command": set.Install} {
		if strings.ContainsAny(v, "\r\n") {
			return nil, mesh.Errorf(mesh.Invalid, "%s has several lines", name).WithHint("join them with &&, or call a script in the repository")
		}
	}
	src := &source{tree: tree, set: set, whole: whole, folder: dir}
	write := func(l language, because string) (*Plan, error) {
		p := &plan{Plan: Plan{Language: l.name, Because: because}, want: said{set.Version, "language-version"}, install: said{set.Install, "install-command"}, packages: set.Packages, buildPackages: set.BuildPackages}
		if err := l.plan(src, p); err != nil {
			return nil, err
		}
		if err := src.aptfile(p); err != nil {
			return nil, err
		}
		if p.install.text != "" && !p.installed {
			p.found("ignores install-command", l.name+" installs nothing in a step of its own: use build-command")
		}
		p.Plan.Dockerfile, p.Plan.Ignore, p.Plan.Context = p.text(set), Ignored, src.above().folder
		if p.open {
			p.Plan.Ignore += hidden
		}
		return &p.Plan, nil
	}
	for _, l := range languages {
		if file := l.sign(src); file != "" {
			return write(l, "there is "+article(file))
		}
	}
	if goPackage(src) {
		return write(language{name: "Go", plan: golang}, "it is a package of the module above it")
	}
	if err := unbuilt(src); err != nil {
		return nil, err
	}
	err := mesh.Errorf(mesh.Invalid, "there is no Dockerfile, and mesh cannot detect the language")
	if hint := src.folderThatFits(); hint != "" {
		return nil, err.WithHint("%s", hint)
	}
	return nil, err.WithHint("add one of these files or a Dockerfile; put a static site in public/")
}

// folderThatFits is a hint to the first folder of the tree that could be built alone.
func (s *source) folderThatFits() string {
	for _, dir := range s.folders() {
		sub, err := fs.Sub(s.tree, dir)
		if err != nil {
			continue
		}
		in := &source{tree: sub, set: s.set}
		file := in.first("Dockerfile")
		for _, l := range languages[:common] {
			if file == "" {
				file = l.sign(in)
			}
		}
		if file != "" && plainPath.MatchString(dir) {
			return fmt.Sprintf("there is %s in %s/; build that folder with root=%s", article(file), dir, dir)
		}
	}
	return ""
}

func article(file string) string {
	if strings.ContainsRune("aeioAEIO", rune(file[0])) {
		return "an " + file
	}
	return "a " + file
}
