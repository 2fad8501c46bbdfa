package detect

import (
	"regexp"
	"strings"

	"mesh"
)

// deno runs a tree's own task, or its main file.
func deno(s *source, p *plan) error {
	var j struct{ Tasks map[string]any }
	if err := s.json("deno.json", &j); err != nil {
		return err
	}
	version := p.version("Deno", firstSaid(said{s.tool("deno"), ".tool-versions"}, said{s.line(".dvmrc"), ".dvmrc"}), 3, "2")
	p.image, p.user = "denoland/deno:debian-"+version, "deno"
	p.env = []string{"DENO_DIR=/app/.deno"}
	found, from := "", ""
	if f := s.first("main.ts", "main.js", "server.ts", "mod.ts"); f != "" {
		found, from = "deno run --allow-all "+f, f
		p.final = []string{"COPY --chown=%OWNER . .", "RUN deno cache " + f + " && chown -R %OWNER .deno"}
	} else {
		p.final = []string{"COPY --chown=%OWNER . ."}
	}
	if _, ok := j.Tasks["start"]; ok {
		found, from = "deno task start", "tasks.start in deno.json"
	}
	if command := s.buildCommand(p, "", ""); command != "" {
		p.final = append(p.final, "RUN "+command)
	}
	return s.start(p, found, from, "tasks.start in deno.json, main.ts or server.ts")
}

type cargoTOML struct {
	Package struct {
		Name        string
		RustVersion string `toml:"rust-version"`
	}
	Bin          []struct{ Name string }
	Workspace    map[string]any
	Dependencies map[string]any
}

var rustNeeds = map[string]needs{
	"openssl":     {build: "pkg-config libssl-dev", run: "libssl3"},
	"openssl-sys": {build: "pkg-config libssl-dev", run: "libssl3"},
	"native-tls":  {build: "pkg-config libssl-dev", run: "libssl3"},
	"diesel":      {build: "libpq-dev", run: "libpq5"},
}

// rust builds a package with one binary.
func rust(s *source, p *plan) error {
	var c cargoTOML
	if err := s.toml("Cargo.toml", &c); err != nil {
		return err
	}
	name := c.Package.Name
	if len(c.Bin) == 1 && c.Bin[0].Name != "" {
		name = c.Bin[0].Name
	}
	if name == "" || len(c.Bin) > 1 && s.set.StartCommand == "" && !s.has("Procfile") {
		return mesh.Errorf(mesh.Invalid, "this is Rust, but Cargo.toml does not say which of its programs to build").
			WithHint("write a Dockerfile, or give the folder of the package with root=DIR")
	}
	var tool struct{ Toolchain struct{ Channel string } }
	if err := s.toml("rust-toolchain.toml", &tool); err != nil {
		return err
	}
	v := firstSaid(said{tool.Toolchain.Channel, "rust-toolchain.toml"}, said{s.line("rust-toolchain"), "rust-toolchain"}, said{c.Package.RustVersion, "rust-version in Cargo.toml"})
	if !number.MatchString(v.text) {
		v = said{} // "stable"
	}
	version := p.version("Rust", v, 3, "1")
	p.buildImage, p.image = "rust:"+version+"-bookworm", "debian:bookworm-slim"
	p.add(rustNeeds, func(n string) bool {
		_, ok := c.Dependencies[n]
		return ok || strings.Contains(s.read("Cargo.lock"), "name = \""+n+"\"\n")
	})
	command := "cargo build --release --locked"
	if !s.has("Cargo.lock") {
		command = "cargo build --release"
	}
	command = s.buildCommand(p, command, s.first("Cargo.lock", "Cargo.toml"))
	p.build = []string{
		"COPY . .",
		"RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/app/target " + command + " && mkdir /out && find target/release -maxdepth 1 -type f -executable -exec cp {} /out/ \\;",
	}
	p.final = []string{
		"COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/", "COPY --chown=%OWNER . .", "COPY --from=build /out/ /usr/local/bin/",
	}
	return s.start(p, name, "Cargo.toml", "a binary in Cargo.toml")
}

var javaRelease = regexp.MustCompile(`<(?:java\.version|maven\.compiler\.release|maven\.compiler\.target|release)>\s*(?:1\.)?(\d+)\s*<|languageVersion[^\n]*?\b(?:of\(\s*)?(\d+)\)|sourceCompatibility\s*=\s*['"]?(?:JavaVersion\.VERSION_)?(?:1\.)?(\d+)`)

// java builds one jar that starts by itself.
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
	v := firstSaid(said{system, "system.properties"}, said{declared, file}, said{number.FindString(s.tool("java")), ".tool-versions"}, said{"21", "the default"})
	// Images exist for the releases with long support; a newer one builds for an older.
	version := choose(">="+lines(v.text, 1), "8", "11", "17", "21", "25")
	p.found("Java "+version, v.from)
	p.image = "eclipse-temurin:" + version + "-jre-jammy"
	if strings.Contains(text, "spring-boot") || strings.Contains(text, "org.springframework.boot") {
		p.Framework = "Spring Boot"
	} else if strings.Contains(text, "quarkus") {
		return mesh.Errorf(mesh.Invalid, "this is Java with Quarkus, whose packaging mesh does not know").WithHint("Quarkus writes a Dockerfile: see src/main/docker, and set dockerfile=PATH")
	}
	cache, command, out := "/root/.m2", "mvn --batch-mode -DskipTests package", "target"
	p.buildImage = "maven:3-eclipse-temurin-" + version
	if !maven {
		cache, command, out = "/home/gradle/.gradle", "gradle --no-daemon assemble", "build/libs"
		p.buildImage = "gradle:8-jdk" + version
	}
	command = s.buildCommand(p, command, file)
	p.build = []string{
		"COPY . .",
		"RUN --mount=type=cache,target=" + cache + " " + command,
		// Of several jars the largest: that with the dependencies in it.
		"RUN cp \"$(ls -S " + out + "/*.jar | grep -v -e -sources.jar -e -javadoc.jar -e -plain.jar -e original- | head -1)\" /app.jar",
	}
	p.final = []string{"COPY --from=build --chown=%OWNER /app.jar /app/app.jar"}
	start := "java -XX:MaxRAMPercentage=75 -jar app.jar"
	if p.Framework == "Spring Boot" {
		start = "java -XX:MaxRAMPercentage=75 -Dserver.port=$PORT -jar app.jar"
	}
	return s.start(p, start, "the jar that the build makes", "jar")
}
