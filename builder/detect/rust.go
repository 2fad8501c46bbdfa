package detect

import (
	"cmp"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"mesh"
)

type cargoBin struct{ Name, Path string }

type cargoWorkspace struct {
	Members, Exclude []string
	DefaultMembers   []string `toml:"default-members"`
}

type cargoTOML struct {
	Package struct {
		Name        string
		RustVersion any `toml:"rust-version"` // or {workspace = true}
		Build       any
		DefaultRun  string `toml:"default-run"`
	}
	Lib                  struct{ Path string }
	Bin                  []cargoBin
	Test, Bench, Example []map[string]any
	Workspace            *cargoWorkspace
	Dependencies         map[string]any
	BuildDependencies    map[string]any `toml:"build-dependencies"`
}

var rustNeeds = map[string]needs{
	"openssl":     {build: "pkg-config libssl-dev", run: "libssl3"},
	"openssl-sys": {build: "pkg-config libssl-dev", run: "libssl3"},
	"native-tls":  {build: "pkg-config libssl-dev", run: "libssl3"},
	"diesel":      {build: "libpq-dev", run: "libpq5"},
}

var rustRelease = regexp.MustCompile(`^\d+\.\d+(\.\d+)?$`)

// rust builds a package with one binary: the tree's, or the only one of a workspace.
func rust(s *source, p *plan) error {
	var c cargoTOML
	if err := s.toml("Cargo.toml", &c); err != nil {
		return err
	}
	if c.Workspace == nil || c.Package.Name != "" {
		return rustPackage(s, s, p, c)
	}
	dir, err := rustMember(s, *c.Workspace)
	if err != nil {
		return err
	}
	p.found("builds "+dir+"/", "the only member of the workspace with a program")
	member := s.below(dir)
	if err := member.toml("Cargo.toml", &c); err != nil {
		return err
	}
	return rustPackage(member, s, p, c)
}

// rustMember is the folder of the only member of a workspace with a program. A workspace
// may name default-members, which cargo builds and runs.
func rustMember(s *source, w cargoWorkspace) (string, error) {
	var programs, all []string
	_ = fs.WalkDir(s.tree, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir() || p == ".":
			return nil
		case strings.HasPrefix(d.Name(), ".") || d.Name() == "target" || strings.Count(p, "/") >= maxDepth:
			return fs.SkipDir
		}
		var c cargoTOML
		if !plainPath.MatchString(p) || !s.has(p+"/Cargo.toml") || !member(w.Members, p) || member(w.Exclude, p) || s.below(p).toml("Cargo.toml", &c) != nil {
			return nil
		}
		all = append(all, p)
		if len(rustPrograms(s.below(p), c)) > 0 && (len(w.DefaultMembers) == 0 || member(w.DefaultMembers, p)) {
			programs = append(programs, p)
		}
		return nil
	})
	switch len(programs) {
	case 1:
		return programs[0], nil
	case 0:
		return "", mesh.Errorf(mesh.Invalid, "this is Rust, but no member of the workspace in Cargo.toml has a program: %s", strings.Join(all, ", ")).
			WithHint("add src/main.rs to the member to start")
	}
	return "", mesh.Errorf(mesh.Invalid, "this is Rust, and several members of the workspace have programs: %s", strings.Join(programs, ", ")).
		WithHint("choose one with: ssh mesh build:set -a STACK root=%s; or set default-members in Cargo.toml", programs[0])
}

// rustPackage builds a package. The start command and the files in the image come from
// another folder if the package was chosen by the root's workspace.
func rustPackage(s, from *source, p *plan, c cargoTOML) error {
	if c.Package.Name == "" || !plainPath.MatchString(c.Package.Name) {
		return mesh.Errorf(mesh.Invalid, "this is Rust, but Cargo.toml does not say which program to build").
			WithHint("write a Dockerfile, or set root=DIR to the folder of the package")
	}
	name, why := rustProgram(s, c)
	if all := rustPrograms(s, c); name == "" && len(all) > 1 && s.set.StartCommand == "" && !from.has("Procfile") {
		return mesh.Errorf(mesh.Invalid, "this is Rust with several programs, but nothing says which one to start: %s", strings.Join(all, ", ")).
			WithHint("set default-run in Cargo.toml, write web: NAME in a Procfile, or set start-command=NAME")
	}
	if s.climb(func(top *source, at string) bool {
		var w cargoTOML
		return top.toml("Cargo.toml", &w) == nil && w.Workspace != nil && member(w.Workspace.Members, at) && !member(w.Workspace.Exclude, at)
	}) {
		p.found("member of a workspace", path.Join(s.top.folder, "Cargo.toml")+" above it")
	}
	top := s.above()
	var tool struct{ Toolchain struct{ Channel string } }
	if err := top.toml("rust-toolchain.toml", &tool); err != nil {
		return err
	}
	channel := top.line("rust-toolchain")
	if strings.HasPrefix(channel, "[") { // both files may have either format
		if err := top.toml("rust-toolchain", &tool); err != nil {
			return err
		}
		channel = tool.Toolchain.Channel
	}
	v := firstSaid(p.want, said{channel, "rust-toolchain"}, said{tool.Toolchain.Channel, "rust-toolchain.toml"}, s.tool("rust"))
	version := "1"
	switch oldest, _ := c.Package.RustVersion.(string); { // the oldest version that works
	case rustRelease.MatchString(v.text) && atLeast(v.text, "1.70"): // 1.70 is the first with images of this Debian
		version = v.text
		p.found("Rust "+version, v.from)
	case v.text != "" && v.text != "stable" && v.text != "latest" && v.text != "1":
		p.found("Rust "+mesh.Clip(v.text, 40), v.from+"; fetched by rustup")
		if !strings.HasPrefix(v.from, "rust-toolchain") && plainWord.MatchString(v.text) { // which rustup reads itself
			p.build = append(p.build, "ENV RUSTUP_TOOLCHAIN="+v.text)
		}
	case oldest != "":
		p.found("Rust "+version, "the newest; rust-version in Cargo.toml says "+mesh.Clip(oldest, 40))
	default:
		p.found("Rust "+version, cmp.Or(v.from, "the default"))
	}
	p.buildImage, p.image = "rust:"+version+"-bookworm", "debian:bookworm-slim"
	p.add(rustNeeds, func(n string) bool {
		_, ok := c.Dependencies[n]
		return ok || strings.Contains(top.read("Cargo.lock"), "name = \""+n+"\"\n")
	})
	locked := "cargo build --release --locked"
	if !top.has("Cargo.lock") {
		locked = "cargo build --release"
	}
	source := "COPY --chown=%OWNER . ."
	if s.top != nil {
		locked += " --package " + c.Package.Name
	}
	if s.top != nil && from == s {
		source = "COPY --chown=%OWNER " + s.at + " ."
	}
	command := s.buildCommand(p, locked, top.first("Cargo.lock", "Cargo.toml"))
	mounts, exports := s.secrets(command)
	run := "RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/usr/local/cargo/git "
	// cargo's output is not in a cache mount: all stacks would share that folder and
	// find each other's programs in it, and cargo detects an edit by its time, which
	// a pushed file does not have. Instead, the dependencies are a separate step.
	if own := rustStubs(s, c); len(own) > 0 {
		stubs := "mkdir -p " + strings.Join(dirs(own), " ") + " && echo 'fn main() {}' | tee " + strings.Join(own, " ") + " > /dev/null"
		p.build = append(append(p.build, copies(s.present("Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "rust-toolchain", ".cargo"))...),
			run+stubs+" && "+locked, "COPY . .", run+mounts+exports+"touch "+strings.Join(own, " ")+" && "+command)
	} else {
		p.build = append(p.build, "COPY . .", run+mounts+exports+command)
	}
	p.build = append(p.build, "RUN mkdir /out && find target/release -maxdepth 1 -type f -executable -exec cp {} /out/ \\;")
	p.final = []string{
		"COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/", source, "COPY --from=build /out/ /usr/local/bin/",
	}
	if _, ok := c.Dependencies["rocket"]; ok { // it reads no other variables (https://rocket.rs/guide/v0.5/configuration/)
		p.Framework = "Rocket"
		p.env = append(p.env, "ROCKET_ADDRESS=0.0.0.0")
		if name != "" {
			name = "env ROCKET_PORT=$PORT " + name
		}
	}
	return from.start(p, name, why, "a binary in Cargo.toml")
}

// rustPrograms are the programs that cargo builds from a package.
func rustPrograms(s *source, c cargoTOML) (names []string) {
	if s.has("src/main.rs") && !slices.ContainsFunc(c.Bin, func(b cargoBin) bool { return b.Path == "src/main.rs" }) {
		names = append(names, c.Package.Name)
	}
	for _, b := range c.Bin {
		names = append(names, cmp.Or(b.Name, c.Package.Name))
	}
	for _, f := range rustBins(s) {
		n := strings.TrimSuffix(path.Base(f), ".rs")
		if n == "main" {
			n = path.Base(path.Dir(f))
		}
		if !slices.ContainsFunc(c.Bin, func(b cargoBin) bool { return b.Path == f }) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// rustBins are the files of programs that Cargo.toml need not name.
func rustBins(s *source) (files []string) {
	list, err := fs.ReadDir(s.tree, "src/bin")
	if err != nil {
		return nil
	}
	for _, e := range list {
		f := "src/bin/" + e.Name()
		if e.IsDir() {
			f += "/main.rs"
		}
		if strings.HasSuffix(f, ".rs") && s.has(f) && plainPath.MatchString(f) {
			files = append(files, f)
		}
	}
	return files
}

// rustProgram is the program to start, empty if that is not clear.
func rustProgram(s *source, c cargoTOML) (name, why string) {
	if c.Package.DefaultRun != "" {
		return word(c.Package.DefaultRun), "default-run in Cargo.toml"
	}
	all := rustPrograms(s, c)
	if len(all) == 1 {
		return word(all[0]), "the only program of the package"
	}
	for _, want := range []string{c.Package.Name, "web", "server", "app", "api"} {
		if slices.Contains(all, want) {
			return want, "Cargo.toml, and the programs of the package"
		}
	}
	return "", ""
}

// rustStubs are the files of a package's own code that are empty while its
// dependencies are built. It returns none if the package is too complex for that;
// then everything is built in one step.
func rustStubs(s *source, c cargoTOML) (files []string) {
	if s.top != nil || c.Workspace != nil || c.Package.Build != nil || s.has("build.rs") || len(c.Test)+len(c.Bench)+len(c.Example) > 0 {
		return nil
	}
	for _, list := range []map[string]any{c.Dependencies, c.BuildDependencies} {
		for _, d := range list {
			if t, ok := d.(map[string]any); ok && t["path"] != nil {
				return nil
			}
		}
	}
	add := func(f string) {
		if s.has(f) && !slices.Contains(files, f) && plainPath.MatchString(f) {
			files = append(files, f)
		}
	}
	add("src/main.rs")
	add(cmp.Or(c.Lib.Path, "src/lib.rs"))
	for _, f := range rustBins(s) {
		add(f)
	}
	for _, b := range c.Bin {
		add(cmp.Or(b.Path, "src/bin/"+b.Name+".rs"))
		if b.Path != "" && !slices.Contains(files, b.Path) {
			return nil
		}
	}
	return files
}

// dirs are the folders of files.
func dirs(files []string) (list []string) {
	for _, f := range files {
		if d := path.Dir(f); !slices.Contains(list, d) {
			list = append(list, d)
		}
	}
	return list
}
