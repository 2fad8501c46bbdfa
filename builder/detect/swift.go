package detect

import (
	"regexp"
	"slices"
	"strings"

	"mesh"
)

var (
	swiftTools   = regexp.MustCompile(`(?m)^//\s*swift-tools-version:\s*([0-9.]+)`)
	swiftTarget  = regexp.MustCompile(`\.executableTarget\(\s*name:\s*"([^"\n]+)"`)
	swiftOld     = regexp.MustCompile(`\.target\(\s*name:\s*"([^"\n]+)"`)
	swiftProduct = regexp.MustCompile(`\.executable\(\s*name:\s*"([^"\n]+)"`)
	swiftPath    = regexp.MustCompile(`\.package\((?:name:\s*"[^"]*",\s*)?path:`)
)

// swiftNeeds are packages that need a library.
var swiftNeeds = map[string]needs{
	"fluent-sqlite-driver": {build: "libsqlite3-dev", run: "libsqlite3-0"},
	"fluent-mysql-driver":  {},
	"GRDB.swift":           {build: "libsqlite3-dev", run: "libsqlite3-0"},
}

// swiftSystem is the Ubuntu in the images of a version: they have existed for all of
// them (https://hub.docker.com/_/swift).
func swiftSystem(version string) string {
	switch {
	case atLeast(version, "6.0"):
		return "noble"
	case atLeast(version, "5.7"):
		return "jammy"
	}
	return "focal"
}

// swift builds the executable targets of a package.
func swift(s *source, p *plan) error {
	text := s.read("Package.swift")
	v := firstSaid(said{s.line(".swift-version"), ".swift-version"}, s.tool("swift"))
	version := ""
	if v.from != "" || p.want.text != "" {
		version = p.version("Swift", numeric(v), 3, "6.2")
	} else {
		version = p.newest("Swift", "6.2", said{group(swiftTools, text), "swift-tools-version in Package.swift"})
	}
	if lines(version, 1) == version {
		version += ".0"
	}
	if strings.Count(version, ".") == 2 { // the first release of a line has no third number
		version = strings.TrimSuffix(version, ".0")
	}
	system := swiftSystem(version)
	p.buildImage, p.image = "swift:"+version+"-"+system, "swift:"+version+"-"+system+"-slim"
	if system == "noble" { // Ubuntu 24.04 has a user with the first free id
		p.user = "ubuntu"
	}
	p.add(swiftNeeds, func(n string) bool { return strings.Contains(text+s.read("Package.resolved"), n) })
	names := all(swiftTarget, text)
	if len(names) == 0 { // before tools 5.4, a target with a main.swift is a program
		for _, n := range all(swiftOld, text) {
			if plainPath.MatchString(n) && s.has("Sources/"+n+"/main.swift") {
				names = append(names, n)
			}
		}
	}
	for _, n := range all(swiftProduct, text) {
		if !slices.Contains(names, n) && len(names) == 0 {
			names = append(names, n)
		}
	}
	vapor, hummingbird := strings.Contains(text, "vapor/vapor"), strings.Contains(text, "hummingbird-project/hummingbird")
	switch {
	case vapor:
		p.Framework = "Vapor"
	case hummingbird:
		p.Framework = "Hummingbird"
	}
	if len(names) == 0 {
		return mesh.Errorf(mesh.Invalid, "this is %s, but Package.swift has no executable target", p.Title()).
			WithHint(`use .executableTarget(name: "App", …) for the program`)
	}
	name := program(names, group(regexp.MustCompile(`Package\(\s*name:\s*"([^"\n]+)"`), text))
	if name == "" && slices.Contains(names, "Run") { // as Vapor's template has it
		name = "Run"
	}
	if name == "" {
		if err := s.severalPrograms(p, names, "Package.swift"); err != nil {
			return err
		}
	}
	if swiftPath.MatchString(text) {
		p.found("copies everything before installing", "packages with a path in Package.swift")
		p.build = []string{"COPY . .", "RUN swift package resolve"}
	} else {
		p.build = append(copies(s.present("Package.swift", "Package.resolved")), "RUN swift package resolve", "COPY . .")
	}
	p.found("swift package resolve", s.first("Package.resolved", "Package.swift"))
	p.build = append(p.build, s.buildRun(p, "swift build --configuration release", "Package.swift"),
		// Programs, and the resources of their packages beside them.
		`RUN mkdir /out && cd "$(swift build --configuration release --show-bin-path)" && find . -maxdepth 1 \( -type f -executable -o -name '*.resources' \) -exec cp -r {} /out/ \;`)
	p.final = []string{"COPY --chown=%OWNER . .", "COPY --from=build /out/ /usr/local/bin/"}
	s.alsoIn(p, "/out/", ".build/release")
	start := word(name)
	switch {
	case name == "":
		start = ""
	case vapor:
		start += " serve --env production --hostname 0.0.0.0 --port $PORT"
	case hummingbird && strings.Contains(text, "swift-argument-parser"):
		start += " --hostname 0.0.0.0 --port $PORT"
	}
	return s.start(p, start, "an executable target of Package.swift", "executable target")
}
