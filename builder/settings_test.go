package builder_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"mesh"
	"mesh/builder"
)

func TestBuild_Settings(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, c := range map[string]struct {
		set   mesh.Settings
		files tree
		want  []string // in the output
	}{
		"root, the context stays the repository": {
			mesh.Settings{Root: "web"},
			tree{"web/Dockerfile": from("COPY web/a shared/b /", "RUN cat /a /b"), "web/a": "in web", "shared/b": "in shared"},
			[]string{"-----> Building with ./web/Dockerfile"},
		},
		"root with a context": {
			mesh.Settings{Root: "web", Context: "web"},
			tree{"web/Dockerfile": from("COPY . /src", "RUN test -e /src/a && test ! -e /src/left"), "web/a": "x", "web/left": "", "web/.dockerignore": "left"},
			nil,
		},
		"a Dockerfile below root": {
			mesh.Settings{Root: "web", Dockerfile: "docker/prod"},
			tree{"web/docker/prod": from("COPY web/a /"), "web/a": "x"},
			[]string{"-----> Building with ./web/docker/prod"},
		},
		"root is a link": {
			mesh.Settings{Root: "now"},
			tree{"v2/Dockerfile": from("COPY v2/a /"), "v2/a": "x", "now": "-> v2"},
			nil,
		},
		"the command": {
			mesh.Settings{ShowCommand: new(true), Root: "web", Target: "one", Context: "web"},
			tree{"web/Dockerfile": "FROM " + base + " AS one\nARG MODE\nARG GIT_REV\nRUN --mount=type=secret,id=TOKEN true\nFROM one\nRUN false\n"},
			[]string{"       docker build --file web/Dockerfile --target one --build-arg GIT_REV --build-arg MODE --secret id=TOKEN,env=TOKEN web"},
		},
		"build arguments": {
			mesh.Settings{BuildArgs: []string{"MODE=of the setting", "EDITION=lite", "ELSE=x"}},
			tree{"Dockerfile": from("ARG MODE", "ARG EDITION=full", "RUN test \"$MODE\" = 'of the setting' && test $EDITION = lite")},
			[]string{" !     build-args: Dockerfile has no ARG ELSE"},
		},
		"what only counts without a Dockerfile": {
			mesh.Settings{Packages: []string{"curl"}, BuildCommand: "make"},
			tree{"Dockerfile": from("RUN true")},
			[]string{" !     packages= has no effect: the repository has a Dockerfile", " !     build-command= has no effect: the repository has a Dockerfile"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := *b
			b.t = t
			req := b.req(c.files)
			req.Settings, req.Config = c.set, mesh.Config{"MODE": mesh.NewSecret("x")}
			_, out := b.must(req)
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("no line %q", want)
				}
			}
		})
	}
}

func TestBuild_UserOfTheImage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	req := b.req(tree{"Dockerfile": from("USER 5")})
	img, _ := b.must(req)
	if u := userOf(t, img.ID); u != "5" {
		t.Errorf("user %q", u)
	}
	req.Settings.User = "1000:1000"
	img, _ = b.must(req)
	if u := userOf(t, img.ID); u != "1000:1000" {
		t.Errorf("user %q", u)
	}
}

// Trees that no build can use: each has its error.
func TestBuild_BadInput(t *testing.T) {
	t.Parallel()
	b := limited(t, builder.Options{MaxContext: 1 << 20})
	ok := from("COPY . /src")
	for name, c := range map[string]struct {
		set  mesh.Settings
		tree tree
		text string
		hint string
	}{
		"a Dockerfile outside root":           {mesh.Settings{Root: "web"}, tree{"web/Dockerfile": "-> ../Dockerfile", "Dockerfile": ok}, "Dockerfile is a symbolic link to ../Dockerfile, which is outside the folder web", "dockerfile=PATH"},
		"a Dockerfile that is /etc/passwd":    {mesh.Settings{}, tree{"Dockerfile": "-> /etc/passwd"}, "Dockerfile is a symbolic link to /etc/passwd, which is outside the pushed tree", ""},
		"a Dockerfile above root":             {mesh.Settings{Root: "web", Dockerfile: "../Dockerfile"}, tree{"web/a": "", "Dockerfile": ok}, "there is no Dockerfile in the folder web", ""},
		"a named Dockerfile that is missing":  {mesh.Settings{Dockerfile: "docker/web"}, tree{"package.json": "{}"}, "there is no docker/web in the pushed tree", "build:set"},
		"root is missing":                     {mesh.Settings{Root: "web"}, tree{"Dockerfile": ok}, "root=web: web does not exist in the pushed tree", "build:unset root"},
		"root is a file":                      {mesh.Settings{Root: "web"}, tree{"Dockerfile": ok, "web": "x"}, "root=web: web is not a folder", ""},
		"root is a submodule":                 {mesh.Settings{Root: "web"}, tree{"Dockerfile": ok, "web/": ""}, "root=web: web is a submodule", ""},
		"root is a link to /etc":              {mesh.Settings{Root: "web"}, tree{"Dockerfile": ok, "web": "-> /etc"}, "root=web: web leads out of the pushed tree", ""},
		"context is missing":                  {mesh.Settings{Context: "a/b"}, tree{"Dockerfile": ok}, "context=a/b: a/b does not exist in the pushed tree", "build:unset context"},
		"a stage that is not there":           {mesh.Settings{Target: "prod"}, tree{"Dockerfile": "FROM " + base + " AS Dev\n"}, `Dockerfile has no stage "prod" (set by target=)`, "its stages are dev"},
		"a path that climbs out":              {mesh.Settings{}, tree{"Dockerfile": ok, "../evil": "x"}, `the tree has a path that leads out of it: `, ""},
		"a context over the limit":            {mesh.Settings{}, tree{"Dockerfile": ok, "large": strings.Repeat("x", 2<<20)}, "the tree is too large to build: 2 MB, at most 1 MB are allowed", "its largest file is large with 2 MB"},
		"a package.json that is /etc/passwd":  {mesh.Settings{}, tree{"package.json": "-> /etc/passwd"}, "there is no Dockerfile, and mesh cannot detect the language", ""},
		"a .dockerignore that cannot be read": {mesh.Settings{}, tree{"Dockerfile": ok, ".dockerignore": "[a-"}, ".dockerignore: ", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := *b
			b.t = t
			req := b.req(c.tree)
			req.Settings = c.set
			_, _, err := b.build(req)
			var e *mesh.Error
			if !errors.As(err, &e) || !strings.HasPrefix(e.Text, c.text) || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("got %v\nwant %s", err, c.text)
			}
		})
	}
	t.Run("ignored files do not count", func(t *testing.T) {
		b := *b
		b.t = t
		b.must(b.req(tree{"Dockerfile": ok, "large": strings.Repeat("x", 2<<20), ".dockerignore": "large"}))
	})
}

// A link to /etc is a link in the image, never the server's own /etc.
func TestBuild_OddNamesAndLinks(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, out := b.must(b.fresh(tree{
		"Dockerfile":   from("COPY . /src", "RUN cd /src && cat 'two words' new*line etc/passwd 2>&1; readlink etc"),
		"two words":    "spaced\n",
		"new\nline":    "broken\n",
		"etc":          "-> /etc",
		"quote\"'here": "x",
	}))
	for _, want := range []string{"       spaced", "       /etc"} {
		if !strings.Contains(out, want) {
			t.Errorf("no line %q", want)
		}
	}
	if strings.Contains(out, "root:") {
		t.Error("the server's /etc/passwd")
	}
}

func TestBuild_Prints100MB(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, out, err := b.build(b.fresh(tree{"Dockerfile": from("RUN seq 12000000; echo the reason; exit 3")}))
	var e *mesh.Error
	if !errors.As(err, &e) || !strings.Contains(e.Text, "exited 3") || len(e.Output) == 0 || e.Output[len(e.Output)-1] != "the reason" {
		t.Errorf("got %v", err)
	}
	if n := len(out.String()); n > 64<<20 {
		t.Errorf("%d bytes of output", n)
	}
}

// The workspace of a folder is searched above it, as far as context= lets COPY see.
func TestDockerfile_LooksAboveRootAsFarAsTheContext(t *testing.T) {
	t.Parallel()
	files := tree{
		"sub/package.json":          `{"workspaces": ["apps/*"]}`,
		"sub/package-lock.json":     "{}",
		"sub/apps/web/package.json": `{"main": "index.js"}`,
		"sub/apps/web/index.js":     "",
		"now":                       "-> sub/apps/web",
	}
	for name, c := range map[string]struct {
		set    mesh.Settings
		member bool
	}{
		"no context":                   {mesh.Settings{Root: "sub/apps/web"}, true},
		"root is a link":               {mesh.Settings{Root: "now"}, true},
		"the workspace":                {mesh.Settings{Root: "sub/apps/web", Context: "sub"}, true},
		"a folder below the workspace": {mesh.Settings{Root: "sub/apps/web", Context: "sub/apps"}, false},
		"the folder alone":             {mesh.Settings{Root: "sub/apps/web", Context: "sub/apps/web"}, false},
		"a name that begins the same":  {mesh.Settings{Root: "sub/apps/web", Context: "sub/app"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := cloned(files)
			all["sub/app/readme"] = ""
			text, managed, err := newBench(t).Dockerfile(all, c.set)
			if err != nil || !managed {
				t.Fatalf("managed %v, %v", managed, err)
			}
			if member := strings.Contains(text, "member of a workspace: "); member != c.member {
				t.Errorf("a member: %v\n%s", member, text)
			}
			if alone := strings.Contains(text, "COPY --chown=node . .\nENV"); alone == c.member {
				t.Errorf("alone: %v\n%s", alone, text)
			}
		})
	}
}

// Commands in files that may contain anything are limited like all commands, and so
// are files that are read whole.
func TestDockerfile_Bounds(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, c := range map[string]struct {
		tree tree
		want string
	}{
		"a start script":  {tree{"package.json": `{"scripts":{"start":"node ` + strings.Repeat("x", 100_000) + `"}}`, "index.js": ""}, "16384 are allowed"},
		"a Dockerfile":    {tree{"Dockerfile": "FROM scratch\n" + strings.Repeat("# a comment\n", 100_000)}, "Dockerfile is larger than 1 MB"},
		"in UTF-16":       {tree{"Dockerfile": "\xff\xfeF\x00R\x00"}, "Dockerfile is UTF-16"},
		"in Latin-1":      {tree{"Dockerfile": "FROM scratch\nENV A=caf\xe9\n"}, `Dockerfile:2: "ENV A=caf\xe9" is not valid UTF-8`},
		"ignored UTF-16":  {tree{"Dockerfile": "FROM scratch\nCOPY . /\n", ".dockerignore": "\xff\xfe.\x00e\x00"}, ".dockerignore is UTF-16"},
		"its own UTF-16":  {tree{"Dockerfile": "FROM scratch\nCOPY . /\n", "Dockerfile.dockerignore": ".\x00e\x00"}, "Dockerfile.dockerignore:1 contains a NUL byte"},
		"an ignore file":  {tree{"Dockerfile": "FROM scratch\nCOPY . /\n", ".dockerignore": strings.Repeat("a/b/c/d\n", 200_000)}, ".dockerignore is larger than 1 MB"},
		"one of its own":  {tree{"Dockerfile": "FROM scratch\nCOPY . /\n", "Dockerfile.dockerignore": strings.Repeat("a/b/c/d\n", 200_000)}, "Dockerfile.dockerignore is larger than 1 MB"},
		"an ignored link": {tree{"Dockerfile": "FROM scratch\nCOPY . /\n", ".dockerignore": "-> gone"}, ".dockerignore is a link to a file that is not in the repository"},
	} {
		_, err := b.Build(t.Context(), mesh.Build{Stack: "bounds", Tree: c.tree}, io.Discard)
		var e *mesh.Error
		if !errors.As(err, &e) || !strings.Contains(e.Text, c.want) || e.Hint == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
