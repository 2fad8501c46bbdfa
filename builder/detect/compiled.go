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

// deno runs a tree's own task, or its main file.
func deno(s *source, p *plan) error {
	var j struct {
		Tasks   map[string]any
		Imports map[string]any
	}
	config := s.first("deno.json", "deno.jsonc")
	if err := s.jsonc(config, &j); err != nil {
		return err
	}
	v := firstSaid(said{s.line(".deno-version"), ".deno-version"}, said{s.line(".dvmrc"), ".dvmrc"}, s.tool("deno"))
	p.image, p.user, p.entrypoint = "denoland/deno:debian", "deno", true
	if n := number.FindString(v.text); strings.Count(n, ".") == 2 {
		p.found("Deno "+n, v.from)
		p.image += "-" + n
	} else { // images exist for exact versions, and for the newest
		why := "the default"
		if v.from != "" {
			why = v.from + " says " + flat(mesh.Clip(v.text, 40)) + "; images exist only for exact versions"
		}
		p.found("Deno, the newest", why)
	}
	// Dependencies are beside the program, where the image's user finds them.
	p.env = []string{"DENO_DIR=/app/.deno"}
	if len(j.Imports) > 0 || s.has("package.json") {
		install := "deno install"
		if s.has("deno.lock") {
			install += " --frozen"
		}
		p.found(install, cmp.Or(s.first("deno.lock"), config))
		p.build = append(copies(s.present("deno.json", "deno.jsonc", "deno.lock", "package.json", ".npmrc")), "RUN "+install)
	}
	p.build = append(p.build, "COPY . .")
	found, from := "", ""
	f := s.first("main.ts", "main.js", "server.ts", "mod.ts")
	if f != "" {
		found, from = "deno run --allow-all "+f, f
	}
	if start, ok := j.Tasks["start"]; ok {
		found, from = "deno task start", "tasks.start in "+config
		text, _ := start.(string)
		if m, is := start.(map[string]any); is { // {"command": …, "dependencies": […]}
			text, _ = m["command"].(string)
		}
		for _, w := range strings.Fields(text) {
			if denoModule.MatchString(w) && s.has(strings.TrimPrefix(w, "./")) {
				f = strings.TrimPrefix(w, "./")
			}
		}
	}
	if f != "" { // its imports by URL, which no deno.json lists
		p.build = append(p.build, "RUN deno cache "+f)
	}
	if command := s.buildCommand(p, "", ""); command != "" {
		mounts, exports := secretsIn(command)
		p.build = append(p.build, "RUN "+mounts+exports+command)
	}
	p.final = []string{"COPY --from=build --chown=%OWNER /app /app"}
	return s.start(p, found, from, "tasks.start in deno.json, main.ts or server.ts")
}

var denoModule = regexp.MustCompile(`^[\w./-]+\.([cm]?[jt]s|[jt]sx)$`)

type cargoBin struct{ Name, Path string }

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
	Workspace            *struct{ Members, Exclude []string }
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

// rust builds a package with one binary.
func rust(s *source, p *plan) error {
	var c cargoTOML
	if err := s.toml("Cargo.toml", &c); err != nil {
		return err
	}
	if c.Package.Name == "" || !plainPath.MatchString(c.Package.Name) {
		return mesh.Errorf(mesh.Invalid, "this is Rust, but Cargo.toml does not say which program to build").
			WithHint("write a Dockerfile, or set root=DIR to the folder of the package")
	}
	name, why := rustProgram(s, c)
	if all := rustPrograms(s, c); name == "" && len(all) > 1 && s.set.StartCommand == "" && !s.has("Procfile") {
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
	v := firstSaid(said{channel, "rust-toolchain"}, said{tool.Toolchain.Channel, "rust-toolchain.toml"})
	version := "1"
	switch oldest, _ := c.Package.RustVersion.(string); { // the oldest version that works
	case rustRelease.MatchString(v.text) && atLeast(v.text, "1.70"): // 1.70 is the first with images of this Debian
		version = v.text
		p.found("Rust "+version, v.from)
	case v.text != "" && v.text != "stable":
		p.found("Rust "+mesh.Clip(v.text, 40), v.from+"; fetched by rustup")
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
		source = "COPY --chown=%OWNER " + s.at + " ."
	}
	command := s.buildCommand(p, locked, top.first("Cargo.lock", "Cargo.toml"))
	mounts, exports := secretsIn(command)
	run := "RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/usr/local/cargo/git "
	// cargo's output is not in a cache mount: all stacks would share that folder and
	// find each other's programs in it, and cargo detects an edit by its time, which
	// a pushed file does not have. Instead, the dependencies are a separate step.
	if own := rustStubs(s, c); len(own) > 0 {
		stubs := "mkdir -p " + strings.Join(dirs(own), " ") + " && echo 'fn main() {}' | tee " + strings.Join(own, " ") + " > /dev/null"
		p.build = append(copies(s.present("Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "rust-toolchain", ".cargo")),
			run+stubs+" && "+locked, "COPY . .", run+mounts+exports+"touch "+strings.Join(own, " ")+" && "+command)
	} else {
		p.build = []string{"COPY . .", run + mounts + exports + command}
	}
	p.build = append(p.build, "RUN mkdir /out && find target/release -maxdepth 1 -type f -executable -exec cp {} /out/ \\;")
	p.final = []string{
		"COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/", source, "COPY --from=build /out/ /usr/local/bin/",
	}
	return s.start(p, name, why, "a binary in Cargo.toml")
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

var plainPath = regexp.MustCompile(`^[\w./-]+$`)

// dirs are the folders of files.
func dirs(files []string) (list []string) {
	for _, f := range files {
		if d := path.Dir(f); !slices.Contains(list, d) {
			list = append(list, d)
		}
	}
	return list
}

var javaRelease = regexp.MustCompile(`<(?:java\.version|maven\.compiler\.release|maven\.compiler\.target|release)>\s*(?:1\.)?(\d+)\s*<|languageVersion[^\n]*?\b(?:of\(\s*)?(\d+)\)|sourceCompatibility\s*=\s*['"]?(?:JavaVersion\.VERSION_)?(?:1\.)?(\d+)`)

// java builds one jar that starts on its own.
func java(s *source, p *plan) error {
	maven := s.has("pom.xml")
	file := s.first("pom.xml", "build.gradle", "build.gradle.kts")
	text := s.read(file)
	system := ""
	for l := range strings.SplitSeq(s.read("system.properties"), "\n") {
		if v, ok := strings.CutPrefix(strings.ReplaceAll(l, " ", ""), "java.runtime.version="); ok {
			system = strings.TrimPrefix(v, "1.")
		}
	}
	declared := ""
	for _, g := range javaRelease.FindStringSubmatch(text) {
		if number.MatchString(g) && !strings.ContainsAny(g, "<=(") {
			declared = g
		}
	}
	v := firstSaid(said{system, "system.properties"}, said{declared, file}, numeric(s.tool("java")), said{"21", "the default"})
	// Images exist for the releases with long-term support; a newer one builds for
	// an older one.
	version := choose(">="+lines(v.text, 1), "8", "11", "17", "21", "25")
	gradle := ""
	if !maven {
		var err error
		if gradle, version, err = gradleVersion(s, p, v, version); err != nil {
			return err
		}
		// A toolchain is exactly that release, unless Gradle may fetch it.
		if wanted := lines(v.text, 1); v.from == file && wanted != version && strings.Contains(text, "languageVersion") &&
			!strings.Contains(s.read("settings.gradle")+s.read("settings.gradle.kts"), "foojay") {
			return mesh.Errorf(mesh.Invalid, "%s asks for a toolchain of Java %s, and Gradle's image has Java %s", file, wanted, version).
				WithHint("ask for Java %s, or let Gradle fetch toolchains: org.gradle.toolchains.foojay-resolver-convention in settings.gradle", version)
		}
	}
	p.found("Java "+version, v.from)
	p.image, p.entrypoint = "eclipse-temurin:"+version+"-jre-jammy", true
	if strings.Contains(text, "spring-boot") || strings.Contains(text, "org.springframework.boot") {
		p.Framework = "Spring Boot"
	} else if strings.Contains(text, "quarkus") {
		return mesh.Errorf(mesh.Invalid, "this is Java with Quarkus, which mesh cannot package").WithHint("use a Dockerfile that Quarkus generates in src/main/docker: set dockerfile=PATH")
	}
	cache, command, out := "/root/.m2", "mvn --batch-mode -DskipTests package", "target"
	p.buildImage = "maven:3-eclipse-temurin-" + version
	if !maven {
		cache, command, out = "/home/gradle/.gradle", "gradle --no-daemon assemble", "build/libs"
		p.buildImage = "gradle:" + gradle + "-jdk" + version
	}
	command = s.buildCommand(p, command, file)
	mounts, exports := secretsIn(command)
	p.build = []string{
		"COPY . .",
		"RUN --mount=type=cache,target=" + cache + " " + mounts + exports + command,
		// Of several jars, the largest: it contains the dependencies.
		"RUN cp \"$(ls -S " + out + "/*.jar | grep -v -e -sources.jar -e -javadoc.jar -e -plain.jar -e original- | head -1)\" /app.jar",
	}
	p.final = []string{"COPY --from=build --chown=%OWNER /app.jar /app/app.jar"}
	if started := s.set.StartCommand + "\n" + s.read("Procfile"); strings.Contains(started, out+"/") || strings.Contains(started, "build/") {
		// Commands that name build output find it where the build put it.
		p.found("keeps all build output", "the start command uses it")
		p.final = append([]string{"COPY --from=build --chown=%OWNER /app /app"}, p.final...)
	}
	start := "java -XX:MaxRAMPercentage=75 -jar app.jar"
	if p.Framework == "Spring Boot" {
		start = "java -XX:MaxRAMPercentage=75 -Dserver.port=$PORT -jar app.jar"
	}
	return s.start(p, start, "the jar of the build", "jar")
}

var gradleDistribution = regexp.MustCompile(`(?m)^distributionUrl\s*=.*/gradle-(\d+(?:\.\d+){0,2})-`)

// gradleVersion is the version that the tree's wrapper fetches, as in an image's
// tag; otherwise one that runs on the requested release of Java. There are no images
// of a Gradle with a release of Java that it does not run on: if nothing asks for a
// release, or only for one too old for Gradle itself, another one is used.
func gradleVersion(s *source, p *plan, wanted said, java string) (gradle, runs string, err error) {
	const properties = "gradle/wrapper/gradle-wrapper.properties"
	m := gradleDistribution.FindStringSubmatch(s.read(properties))
	if m == nil {
		if java == "25" {
			return "9", java, nil // the first that runs on it
		}
		return "8", java, nil
	}
	gradle = lines(m[1], 2)
	newest, oldest := "25", "8"
	for _, g := range []struct{ below, java string }{{"9.1", "21"}, {"8.5", "17"}, {"7.3", "11"}} {
		if !atLeast(gradle, g.below) {
			newest = g.java
		}
	}
	if atLeast(gradle, "9.0") {
		oldest = "17"
	}
	switch {
	case !atLeast(java, oldest):
		java = oldest
	case !atLeast(newest, java) && wanted.from == "the default":
		java = newest
	case !atLeast(newest, java):
		return "", "", mesh.Errorf(mesh.Invalid, "%s asks for Java %s, and there is no image of Gradle %s with that", wanted.from, lines(wanted.text, 1), gradle).
			WithHint("use a newer Gradle: ./gradlew wrapper --gradle-version 9.1; or ask for Java %s", newest)
	}
	p.found("Gradle "+gradle, properties)
	return gradle, java, nil
}
