package detect_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
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
			switch {
			case errors.As(err, &e):
				got = fmt.Sprintf("error: %s\nhint: %s\n", e.Text, e.Hint)
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
