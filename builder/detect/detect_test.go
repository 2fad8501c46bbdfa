package detect_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/rogpeppe/go-internal/txtar"

	"mesh"
	"mesh/builder/detect"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// tree makes a tree from the files of an archive.
func tree(files map[string]string) fs.FS {
	t := fstest.MapFS{}
	for n, s := range files {
		t[n] = &fstest.MapFile{Data: []byte(s), Mode: 0o644}
	}
	return t
}

// settings reads lines of NAME=VALUE.
func settings(text string) (s detect.Settings) {
	for l := range strings.SplitSeq(text, "\n") {
		name, v, _ := strings.Cut(strings.TrimSpace(l), "=")
		switch name {
		case "packages":
			s.Packages = strings.Split(v, ",")
		case "build-packages":
			s.BuildPackages = strings.Split(v, ",")
		case "base-image":
			s.BaseImage = v
		case "build-command":
			s.BuildCommand = v
		case "start-command":
			s.StartCommand = v
		case "user":
			s.User = v
		case "language-version":
			s.Version = v
		case "output":
			s.Output = v
		case "install-command":
			s.Install = v
		case "build-args":
			s.Args = strings.Split(v, ",")
		}
	}
	return s
}

// Each file of testdata is a tree, with NAME=VALUE settings at the top, and the
// expected plan.
func TestDetect_Golden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			in, want, at := map[string]string{}, "", -1
			for i, f := range a.Files {
				if f.Name == "WANT" {
					want, at = string(f.Data), i
					continue
				}
				in[f.Name] = string(f.Data)
			}
			root := ""
			for l := range strings.SplitSeq(string(a.Comment), "\n") {
				if v, ok := strings.CutPrefix(l, "root="); ok {
					root = v
				}
			}
			plan, err := detect.Folder(tree(in), root, settings(string(a.Comment)))
			got := ""
			var e *mesh.Error
			var begin *detect.UnbuiltError
			switch {
			case errors.As(err, &e):
				got = fmt.Sprintf("error: %s\nhint: %s\n", e.Text, e.Hint)
				if errors.As(err, &begin) {
					text := strings.Join(begin.Dockerfile, "\n") + "\n"
					parses(t, text)
					got += text
				}
			case err != nil:
				t.Fatal(err)
			default:
				got = plan.Dockerfile
				parses(t, got)
				if root != "" {
					got = "context: /" + plan.Context + "\n" + got
				}
			}
			if *update {
				f := txtar.File{Name: "WANT", Data: []byte(got)}
				if at < 0 {
					a.Files = append(a.Files, f)
				} else {
					a.Files[at] = f
				}
				if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// parses reports whether BuildKit and an engine of 2020 understand a Dockerfile: no
// heredocs, and CMD in exec form.
func parses(t *testing.T, text string) {
	t.Helper()
	res, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatalf("not a Dockerfile: %v\n%s", err, text)
	}
	stages, _, err := instructions.Parse(res.AST, nil)
	if err != nil {
		t.Fatalf("not a Dockerfile: %v\n%s", err, text)
	}
	user := false
	for _, c := range stages[len(stages)-1].Commands {
		switch c := c.(type) {
		case *instructions.CmdCommand:
			if c.PrependShell {
				t.Errorf("CMD is in shell form: %s", c)
			}
		case *instructions.UserCommand:
			user = c.User != "root" && c.User != "0"
		}
	}
	if !user {
		t.Error("it runs as root")
	}
	if strings.Contains(text, "<<") {
		t.Error("it has a heredoc")
	}
}

// Each language that is recognised and not built has a Dockerfile to begin with, which
// is as good as a generated one.
func TestDetect_Unbuilt(t *testing.T) {
	t.Parallel()
	for file, language := range map[string]string{
		"cpanfile": "Perl", "dune-project": "OCaml", "Project.toml": "Julia", "renv.lock": "R", "shop.nimble": "Nim", "rebar.config": "Erlang", "shop-1-1.rockspec": "Lua",
		"dub.json": "D", "haunt.scm": "Scheme", "shop.asd": "Common Lisp", "main.rkt": "Racket", "main.f90": "Fortran", "MODULE.bazel": "Bazel",
	} {
		_, err := detect.Detect(tree(map[string]string{file: ""}), detect.Settings{})
		var u *detect.UnbuiltError
		if !errors.Is(err, mesh.Invalid) || !errors.As(err, &u) || !strings.Contains(err.Error(), "this is "+language+" ("+file+")") {
			t.Errorf("%s: error %v", file, err)
			continue
		}
		parses(t, strings.Join(u.Dockerfile, "\n")+"\n")
	}
}

// Every language is in the list of what was looked for, in lines that fit a terminal.
func TestDetect_LookedFor(t *testing.T) {
	t.Parallel()
	lines := detect.LookedFor()
	if len(lines) > 15 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if len(l) > 115 {
			t.Errorf("a line of %d characters: %s", len(l), l)
		}
	}
	text := strings.Join(lines, "\n")
	for _, want := range []string{"Elixir (mix.exs)", ".NET (*.csproj", "Scala (build.sbt)", "Zig (build.zig)", "Hugo (hugo.toml", "Shell (start.sh, run.sh)", "Python (requirements.txt, pyproject.toml, "} {
		if !strings.Contains(text, want) {
			t.Errorf("the list lacks %q:\n%s", want, text)
		}
	}
}

// What people set takes the place of what was detected, in every language, and the web
// process of a Procfile takes the place of the start command.
func TestDetect_SettingsWinInEveryLanguage(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{
		"Elixir":       {"mix.exs": "app: :shop,\n"},
		".NET":         {"shop.csproj": `<Project Sdk="Microsoft.NET.Sdk.Web"><PropertyGroup><TargetFramework>net8.0</TargetFramework></PropertyGroup></Project>`},
		"Scala":        {"build.sbt": "", "project/plugins.sbt": `addSbtPlugin("com.github.sbt" % "sbt-native-packager" % "1.11.1")`},
		"Scala, plain": {"build.sbt": ""},
		"Clojure":      {"project.clj": "(defproject shop \"1\" :main shop.core)"},
		"Clojure deps": {"deps.edn": "{}"},
		"Gleam":        {"gleam.toml": "name = \"shop\"\n", "src/shop.gleam": "pub fn main() {}\n"},
		"Swift":        {"Package.swift": `.executableTarget(name: "App")`},
		"Crystal":      {"shard.yml": "name: shop\ntargets: {shop: {main: src/shop.cr}}\n"},
		"Dart":         {"pubspec.yaml": "name: shop\n"},
		"Haskell":      {"shop.cabal": "name: shop\nexecutable shop\n"},
		"Stack":        {"stack.yaml": "resolver: lts-22.13\n", "package.yaml": "name: shop\nexecutables:\n  shop:\n    main: Main.hs\n"},
		"Zig":          {"build.zig": `b.addExecutable(.{ .name = "shop" })`},
		"CMake":        {"CMakeLists.txt": "add_executable(shop main.c)\n"},
		"Meson":        {"meson.build": "executable('shop', 'main.c')\n"},
		"make":         {"Makefile": "all:\n", "main.c": ""},
		"COBOL":        {"shop.cbl": ""},
		"Go":           {"main.go": "package main\n"},
		"Shell":        {"start.sh": ""},
		"Procfile":     {"Procfile": "web: old\n"},
		"Hugo":         {"hugo.toml": ""},
		"Zola":         {"config.toml": "base_url = \"/\"\n", "content/a.md": ""},
		"mdBook":       {"book.toml": ""},
		"Jekyll":       {"_config.yml": "", "index.md": ""},
		"MkDocs":       {"mkdocs.yml": ""},
		"Pelican":      {"pelicanconf.py": ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan, err := detect.Detect(tree(files), detect.Settings{BuildCommand: "make all-of-it", StartCommand: "serve-it --now"})
			if err != nil {
				t.Fatal(err)
			}
			parses(t, plan.Dockerfile)
			if !strings.Contains(plan.Dockerfile, "mesh-config; fi && make all-of-it\n") || !strings.Contains(plan.Dockerfile, `CMD ["serve-it", "--now"]`) {
				t.Errorf("a command that was set is missing:\n%s", plan.Dockerfile)
			}
			files := maps.Clone(files)
			files["Procfile"] = "web: from-the-procfile --now\n"
			plan, err = detect.Detect(tree(files), detect.Settings{BuildCommand: "make all-of-it"})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(plan.Dockerfile, `CMD ["from-the-procfile", "--now"]`) {
				t.Errorf("the Procfile's command is missing:\n%s", plan.Dockerfile)
			}
		})
	}
}

func TestDetect_NothingFits(t *testing.T) {
	t.Parallel()
	_, err := detect.Detect(tree(map[string]string{"README.md": "", "docs/x.md": ""}), detect.Settings{})
	if !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), "there is no Dockerfile") {
		t.Errorf("error %v", err)
	}
	looked := strings.Join(detect.LookedFor(), "\n")
	for _, want := range []string{"go.mod", "package.json", "requirements.txt", "Gemfile", "composer.json", "index.html", "Cargo.toml", "pom.xml", "deno.json"} {
		if !strings.Contains(looked, want) {
			t.Errorf("what was looked for lacks %s:\n%s", want, looked)
		}
	}
}

func TestDetect_NamesTheFolderThatFits(t *testing.T) {
	t.Parallel()
	_, err := detect.Detect(tree(map[string]string{"README.md": "", "web/package.json": "{}"}), detect.Settings{})
	var e *mesh.Error
	if !errors.As(err, &e) || e.Hint != "there is a package.json in web/; build that folder with root=web" {
		t.Errorf("error %v, hint %q", err, e.Hint)
	}
}

func TestDetect_BrokenFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"package.json":    {map[string]string{"package.json": "{\n  \"main\": ,\n}"}, "package.json:2: "},
		"10 MB":           {map[string]string{"package.json": "{" + strings.Repeat(" ", 10<<20) + "}"}, "package.json is 10 MB; at most 4 MB are allowed"},
		"a wrong type":    {map[string]string{"package.json": `{"scripts": 3}`}, "package.json: "},
		"composer.json":   {map[string]string{"composer.json": "nope"}, "composer.json:1: "},
		"pyproject.toml":  {map[string]string{"pyproject.toml": "[project]\nname = \n"}, "pyproject.toml:2: "},
		"go.mod":          {map[string]string{"go.mod": "module x\nrequire (\n"}, "go.mod: "},
		"a package name":  {map[string]string{"package.json": "{}"}, `"vim; rm -rf /" is not the name of a Debian package`},
		"nothing to run":  {map[string]string{"package.json": "{}"}, "this is Node, but nothing says what to start"},
		"no package main": {map[string]string{"go.mod": "module x\n", "x.go": "package x\n"}, "this is Go, but there is no package main"},
		"two commands":    {map[string]string{"go.mod": "module x\n", "cmd/a/a.go": "package main\n", "cmd/b/b.go": "package main\n"}, "several commands: a, b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var set detect.Settings
			if name == "a package name" {
				set.Packages = []string{"vim; rm -rf /"}
			}
			_, err := detect.Detect(tree(c.files), set)
			if !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// A workspace of 300 packages has few instructions, and installs again only if one of
// its manifests changes.
func TestDetect_ManyMembers(t *testing.T) {
	t.Parallel()
	files := map[string]string{"package.json": `{"workspaces": ["packages/*"]}`, "package-lock.json": "{}"}
	for i := range 300 {
		files[fmt.Sprintf("packages/p%03d/package.json", i)] = `{"name": "p", "scripts": {"start": "node a.js"}}`
	}
	plan, err := detect.Folder(tree(files), "packages/p007", detect.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	parses(t, plan.Dockerfile)
	if n := strings.Count(plan.Dockerfile, "\n"); n > 40 || !strings.Contains(plan.Dockerfile, "COPY --from=manifests /app /app\nRUN ") {
		t.Errorf("%d lines:\n%s", n, plan.Dockerfile)
	}
}

// A committed .env reaches the build, but no server serves it.
func TestDetect_EnvIsNotHandedOut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files   []string
		ignored bool
	}{
		"a site that is the whole tree": {[]string{"index.html"}, true},
		"PHP in the root":               {[]string{"index.php"}, true},
		"PHP in public":                 {[]string{"composer.json", "public/index.php"}, false},
		"Node":                          {[]string{"server.js"}, false},
	} {
		files := map[string]string{}
		for _, f := range c.files {
			files[f] = ""
		}
		plan, err := detect.Detect(tree(files), detect.Settings{})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(plan.Ignore, "**/.env\n"); got != c.ignored {
			t.Errorf("%s: .env is ignored: %t", name, got)
		}
	}
}

// Text from files stays where it is put: in one line of a comment, in one word of a
// command.
func TestDetect_FilesBeginNoInstruction(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{
		"a dependency":        {"package.json": `{"dependencies": {"a\nRUN evil": "file:a"}, "main": "a.js"}`, "a.js": ""},
		"a package manager":   {"package.json": `{"packageManager": "yarn@1.0\nRUN evil", "main": "a.js"}`, "a.js": "", "yarn.lock": ""},
		"main":                {"package.json": `{"main": "a\nRUN evil"}`, "a\nRUN evil": ""},
		"a version":           {".nvmrc": "20 \u2028RUN evil\rRUN evil", "server.js": ""},
		"a version of Ruby":   {"Gemfile": "ruby file: \"x\"\nruby '3.3.0 \rRUN evil'", "config.ru": ""},
		"a build folder":      {"package.json": `{"devDependencies": {"vite": "6"}, "scripts": {"build": "vite build --outDir a;\nRUN evil"}}`},
		"Angular's folder":    {"package.json": `{"devDependencies": {"@angular/cli": "20"}, "scripts": {"build": "ng build"}}`, "angular.json": `{"projects": {"a\nRUN evil": {}}}`},
		"a crate":             {"Cargo.toml": "[package]\nname = \"a\\nRUN evil\"\n", "src/main.rs": ""},
		"a file of a crate":   {"Cargo.toml": "[package]\nname = \"a\"\n", "src/main.rs": "", "src/bin/b\nRUN evil.rs": ""},
		"default-run":         {"Cargo.toml": "[package]\nname = \"a\"\ndefault-run = \"a\\nRUN evil\"\n", "src/main.rs": ""},
		"a toolchain":         {"Cargo.toml": "[package]\nname = \"a\"\n", "src/main.rs": "", "rust-toolchain.toml": "[toolchain]\nchannel = \"a\\nRUN evil\"\n"},
		"a command of Go":     {"go.mod": "module x\n", "cmd/a\nRUN evil/a.go": "package main", "cmd/b/b.go": "package main"},
		"a script of Python":  {"pyproject.toml": "[project]\nname = \"a\"\n[project.scripts]\n\"a\\nRUN evil\" = \"b\"\n"},
		"a folder of Python":  {"requirements.txt": "fastapi", "a\nRUN evil/app.py": "app = FastAPI()\n", "main.py": ""},
		"an extension of PHP": {"composer.json": `{"require": {"ext-a\nRUN evil": "*"}}`, "index.php": ""},
		"a project of .NET":   {"a\nRUN evil.csproj": `<Project Sdk="Microsoft.NET.Sdk.Web"/>`, "a.sln": "Project(\"{1}\") = \"a\", \"b\\a\nRUN evil.csproj\", \"{2}\"", "b.csproj": "<Project Sdk=\"Microsoft.NET.Sdk.Web\"><PropertyGroup><AssemblyName>a\nRUN evil</AssemblyName><TargetFramework>net8.0\nRUN evil</TargetFramework></PropertyGroup><ItemGroup><ProjectReference Include=\"c\nRUN evil.csproj\"/></ItemGroup></Project>"},
		"an SDK":              {"a.csproj": `<Project Sdk="Microsoft.NET.Sdk.Web"/>`, "global.json": `{"sdk": {"version": "9.0.1\nRUN evil", "rollForward": "x\nRUN evil"}}`},
		"a release of Elixir": {"mix.exs": "app: :a\nreleases: [\n  \"b\nRUN evil\": [\n", "elixir_buildpack.config": "erlang_version=26\nRUN evil", ".tool-versions": "elixir 1.17-otp-26\rRUN evil"},
		"a shard":             {"shard.yml": "name: \"a\\nRUN evil\"\ntargets: {\"a\\nRUN evil\": {main: a.cr}}\ncrystal: \"1\\nRUN evil\"\n"},
		"a pubspec":           {"pubspec.yaml": "name: \"a\\nRUN evil\"\nenvironment: {sdk: \"3\\nRUN evil\"}\nexecutables: {\"a\\nRUN evil\": x}\n", "bin/a\nRUN evil.dart": "", "bin/b.dart": ""},
		"a Gleam":             {"gleam.toml": "name = \"a\"\ngleam = \"1.2.3\\nRUN evil\"\n", ".tool-versions": "gleam 1.9.1\rRUN evil"},
		"a target of Swift":   {"Package.swift": ".executableTarget(name: \"a\rRUN evil\"", ".swift-version": "5.9\rRUN evil"},
		"a cabal file":        {"a.cabal": "name: a\nexecutable a\rRUN evil\n", "b\nRUN evil.cabal": ""},
		"a Zig":               {"build.zig": "addExecutable(.{ .name = \"a\rRUN evil\"", ".zigversion": "0.13.0\rRUN evil"},
		"a program of CMake":  {"CMakeLists.txt": "project(a\rRUN evil)\nadd_executable(a\rRUN evil a.c)\nadd_executable(\"b;RUN evil\" a.c)"},
		"a program of Meson":  {"meson.build": "executable('a\rRUN evil', 'a.c')"},
		"a COBOL program":     {"a\nRUN evil.cbl": "", "b.cbl": ""},
		"an Aptfile":          {"start.sh": "", "Aptfile": "a\rRUN evil\n"},
		"a Hugo":              {"hugo.toml": "publishDir = \"a\rRUN evil\"", ".tool-versions": "hugo 0.145.0\rRUN evil"},
		"a book":              {"book.toml": "build-dir = \"a\rRUN evil\""},
		"a site of MkDocs":    {"mkdocs.yml": "site_dir: \"a\\nRUN evil\""},
		"a project":           {"settings.gradle": "include 'a\r\nRUN evil'", "a\nRUN evil/build.gradle": "apply plugin: 'application'"},
		"a Maven module":      {"pom.xml": "<module>a\nRUN evil</module><module>b\u2028RUN evil</module>", "b\u2028RUN evil/pom.xml": "<mainClass>"},
		"a member of Cargo":   {"Cargo.toml": "[workspace]\nmembers = [\"*\"]", "a\nRUN evil/Cargo.toml": "[package]\nname = \"a\"\n", "a\nRUN evil/src/main.rs": ""},
		"a module of Go":      {"go.work": "go 1.26\nuse \"./a\\nRUN evil\"\n", "a\nRUN evil/go.mod": "module a\n", "a\nRUN evil/main.go": "package main"},
		"a member of uv":      {"pyproject.toml": "[project]\ndependencies = [\"a\\nRUN evil\"]\n", "main.py": ""},
		"a version of conda":  {"environment.yml": "dependencies:\n  - \"a\\nRUN evil\"\n", "main.py": ""},
		"a script of Django":  {"requirements.txt": "django", "manage.py": "", "a\nRUN evil/settings.py": "STATIC_ROOT = 1\nSECRET_KEY = os.environ['A\rRUN evil']\n"},
		"Heroku's PHP":        {"Procfile": "web: heroku-php-apache2 -C 'a\rRUN evil' -i b\rRUN evil c\rRUN evil/\n", "index.php": ""},
		"settings of PHP":     {"index.php": "", ".php.ini.d/a\nRUN evil.ini": "extension=a\rRUN evil\n"},
		"a database of PHP":   {"index.php": "", ".env": "DATABASE_URL=\"mysql\rRUN evil://\"\n"},
		"PHP's packages":      {"index.php": "", "composer.json": "{}", "composer.lock": `{"packages": [{"name": "a\nRUN evil", "require": {"ext-zip": "*", "php": "8\nRUN evil"}}]}`},
		"Bundler's version":   {"Gemfile": "gem 'puma'\nruby '2.6.10'\n", "Gemfile.lock": "PLATFORMS\n  x86\r\nRUN evil\n\nBUNDLED WITH\n   2.3\rRUN evil\n", "config.ru": ""},
		"mise's Rust":         {"Cargo.toml": "[package]\nname = \"a\"\n", "src/main.rs": "", "mise.toml": "[tools]\nrust = \"a\\nRUN evil\"\n"},
		"a Gradle":            {"build.gradle": "", "gradle/wrapper/gradle-wrapper.properties": "distributionUrl=x/gradle-8.1\rRUN evil-bin.zip"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan, err := detect.Detect(tree(files), detect.Settings{})
			if err != nil {
				t.Logf("refused: %v", err)
				return
			}
			parses(t, plan.Dockerfile)
			for l := range strings.SplitSeq(strings.ReplaceAll(plan.Dockerfile, "\r", "\n"), "\n") {
				if strings.HasPrefix(strings.TrimSpace(l), "RUN evil") {
					t.Errorf("an instruction was smuggled in:\n%s", plan.Dockerfile)
				}
			}
			for _, f := range plan.Facts {
				if strings.ContainsAny(f.What+f.Why, "\r\n") {
					t.Errorf("a fact of several lines: %q", f)
				}
			}
		})
	}
}

// Text from a tree ends up in a Dockerfile: no name may begin its own line.
func FuzzDetect(f *testing.F) {
	f.Add("package.json", `{"scripts":{"start":"node a.js\nRUN evil"},"engines":{"node":"20\nRUN evil"}}`)
	f.Add("requirements.txt", "flask\n")
	f.Add("go.mod", "module x\ngo 1.26\n")
	f.Add("Procfile", "web: a\r\n")
	f.Add("mix.exs", "app: :shop,\nelixir: \"~> 1.18\"\nreleases: [\n  web: [\n")
	f.Add("shop.csproj", `<Project Sdk="Microsoft.NET.Sdk.Web"><PropertyGroup><TargetFramework>net8.0</TargetFramework><AssemblyName>a</AssemblyName></PropertyGroup></Project>`)
	f.Add("shard.yml", "name: shop\ntargets:\n  shop:\n    main: src/shop.cr\n")
	f.Add("pubspec.yaml", "name: shop\ndependencies:\n  dart_frog: 1\n")
	f.Add("build.zig", `b.addExecutable(.{ .name = "shop" })`)
	f.Add("CMakeLists.txt", "project(shop)\nadd_executable(${PROJECT_NAME} main.c)\n")
	f.Add("gleam.toml", "name = \"shop\"\ngleam = \">= 1.0.0\"\n")
	f.Add("shop.cabal", "name: shop\nexecutable shop\n")
	f.Add("hugo.toml", "publishDir = \"out\"\n")
	f.Add("Aptfile", "ffmpeg\n")
	f.Fuzz(func(t *testing.T, name, text string) {
		if !fs.ValidPath(name) || name == "." || strings.Contains(name, "/") {
			return
		}
		plan, err := detect.Detect(tree(map[string]string{name: text, "server.js": ""}), detect.Settings{})
		if err != nil {
			return
		}
		res, err := parser.Parse(strings.NewReader(plan.Dockerfile))
		if err != nil {
			t.Fatalf("%v\n%s", err, plan.Dockerfile)
		}
		for _, n := range res.AST.Children {
			if strings.Contains(n.Original, "RUN evil") && !strings.HasPrefix(n.Original, "CMD") && !strings.HasPrefix(n.Original, "RUN --mount") {
				t.Fatalf("an instruction was smuggled in:\n%s", plan.Dockerfile)
			}
		}
	})
}

func BenchmarkDetect(b *testing.B) {
	t := tree(map[string]string{"package.json": `{"dependencies":{"express":"4"},"main":"index.js"}`, "index.js": "", "package-lock.json": "{}"})
	for b.Loop() {
		if _, err := detect.Detect(t, detect.Settings{}); err != nil {
			b.Fatal(err)
		}
	}
}
