package detect

import (
	"regexp"
	"strings"

	"mesh"
)

var (
	zigName    = regexp.MustCompile(`addExecutable\(\s*(?:\.\{[^}]*?\.name\s*=\s*)?"([^"\n]+)"`)
	zigMinimum = regexp.MustCompile(`\.minimum_zig_version\s*=\s*"([0-9.]+)`)
	zigRelease = regexp.MustCompile(`^\d+\.\d+\.\d+$`)
)

// zig installs a release of Zig, which has no official image, and builds what build.zig
// installs (https://ziglang.org/download/index.json: the names of the archives changed
// with 0.14.1).
func zig(s *source, p *plan) error {
	text := s.read("build.zig")
	v := firstSaid(said{s.line(".zigversion"), ".zigversion"}, said{s.line(".zig-version"), ".zig-version"}, s.tool("zig"), said{group(zigMinimum, s.read("build.zig.zon")), "minimum_zig_version in build.zig.zon"})
	version := p.version("Zig", v, 3, "0.14.1")
	switch {
	case strings.Count(version, ".") == 1:
		version += ".0"
	case !zigRelease.MatchString(version):
		return mesh.Errorf(mesh.Invalid, "%s says %q, which is not a release of Zig", v.from, flat(mesh.Clip(v.text, 40))).
			WithHint("name a release, such as 0.14.1")
	}
	names := plainOnly(all(zigName, text))
	name := program(names, "")
	if len(names) == 0 && s.set.BuildCommand == "" {
		return mesh.Errorf(mesh.Invalid, "this is Zig, but build.zig adds no executable").
			WithHint("use b.addExecutable and b.installArtifact, or set build-command= and start-command=")
	}
	if name == "" && len(names) > 0 {
		if err := s.severalPrograms(p, names, "build.zig"); err != nil {
			return err
		}
	}
	archive := "zig-$(uname -m)-linux-" + version
	if !atLeast(version, "0.14.1") {
		archive = "zig-linux-$(uname -m)-" + version
	}
	p.buildImage, p.image = "debian:bookworm-slim", "debian:bookworm-slim"
	p.debianNeeds("ca-certificates", "ca-certificates curl git xz-utils")
	p.build = append(p.build,
		"RUN mkdir /opt/zig && curl -fsSL https://ziglang.org/download/"+version+"/"+archive+".tar.xz | tar -xJ -C /opt/zig --strip-components=1",
		"ENV PATH=/opt/zig:$PATH")
	command := "zig build --prefix /out"
	switch {
	case strings.Contains(text, "preferred_optimize_mode"):
		command += " --release"
	case strings.Contains(text, "standardOptimizeOption"):
		command += " -Doptimize=ReleaseSafe"
	case strings.Contains(text, "standardReleaseOptions"): // before 0.11
		command += " -Drelease-safe=true"
	}
	if strings.Contains(s.read("build.zig.zon"), ".path") || !s.has("build.zig.zon") {
		p.build = append(p.build, "COPY . .")
	} else {
		p.build = append(p.build, "COPY build.zig build.zig.zon ./", "RUN "+cacheMounts("/root/.cache/zig")+"zig build --fetch", "COPY . .")
	}
	p.build = append(p.build, "RUN mkdir -p /out/bin", s.buildRun(p, command, "build.zig", "/root/.cache/zig"))
	p.final = []string{"COPY --chown=%OWNER . .", "COPY --from=build /out/bin/ /usr/local/bin/"}
	s.alsoIn(p, "/out/bin/", "zig-out/bin")
	return s.start(p, name, "addExecutable in build.zig", "executable")
}
