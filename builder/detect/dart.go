package detect

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"mesh"
)

// localPath is a dependency in a folder, in the YAML of Dart and Crystal.
var localPath = regexp.MustCompile(`(?m)^\s+path:\s*["']?[./]`)

// dart compiles one program, which brings its runtime.
func dart(s *source, p *plan) error {
	var spec struct {
		Name            string
		Environment     map[string]string
		Dependencies    map[string]any
		DevDependencies map[string]any `yaml:"dev_dependencies"`
		Executables     map[string]any
	}
	if err := yaml.Unmarshal([]byte(s.read("pubspec.yaml")), &spec); err != nil {
		return mesh.Errorf(mesh.Invalid, "pubspec.yaml: %w", err)
	}
	if _, flutter := spec.Dependencies["flutter"]; flutter {
		return flutterFault()
	}
	v := firstSaid(p.want, said{s.line(".dart-version"), ".dart-version"}, s.tool("dart"))
	image := "dart:stable"
	sdk := spec.Environment["sdk"]
	switch n := number.FindString(v.text); {
	case n != "":
		p.found("Dart "+n, v.from)
		image = "dart:" + n
	case sdk == "":
		p.found("Dart, the newest", "the default")
	case !atLeast(sdk, "2.12"): // older packages have no null safety
		p.found("Dart 2.19", "sdk in pubspec.yaml says "+sdk)
		image = "dart:2.19"
	default: // Dart 3 builds those from 2.12 on, even if they say "<3.0.0"
		p.found("Dart, the newest", "sdk in pubspec.yaml says "+sdk)
	}
	p.buildImage, p.image = image, "debian:bookworm-slim"
	for _, f := range []struct{ dependency, name string }{{"dart_frog", "Dart Frog"}, {"serverpod", "Serverpod"}, {"shelf", "Shelf"}} {
		if _, ok := spec.Dependencies[f.dependency]; ok && p.Framework == "" {
			p.Framework = f.name
		}
	}
	const cache = "/root/.pub-cache"
	p.found("dart pub get", s.first("pubspec.lock", "pubspec.yaml"))
	if localPath.MatchString(s.read("pubspec.yaml")) {
		p.build = []string{"COPY . .", "RUN " + cacheMounts(cache) + "dart pub get"}
	} else {
		p.build = append(copies(s.present("pubspec.yaml", "pubspec.lock")), "RUN "+cacheMounts(cache)+"dart pub get", "COPY . .")
	}
	command, why := "", ""
	switch file := dartMain(s, spec.Name, slices.Sorted(maps.Keys(spec.Executables))); {
	case p.Framework == "Dart Frog":
		command = "dart pub global activate dart_frog_cli && dart pub global run dart_frog_cli:dart_frog build && cd build && dart pub get && dart compile exe bin/server.dart -o /out/server"
		why = "dart_frog in pubspec.yaml"
	case file == "" && s.set.BuildCommand == "":
		return mesh.Errorf(mesh.Invalid, "this is %s, but nothing says what to start: there is no bin/server.dart, bin/main.dart or bin/%s.dart", p.Title(), flat(mesh.Clip(spec.Name, 40))).
			WithHint("move the program there, or set build-command='dart compile exe FILE -o /out/server'")
	default:
		command, why = "dart compile exe "+file+" -o /out/server", file
	}
	if _, ok := spec.DevDependencies["build_runner"]; ok && p.Framework != "Dart Frog" {
		command = "dart run build_runner build --delete-conflicting-outputs && " + command
	}
	p.build = append(p.build, "RUN mkdir /out", s.buildRun(p, command, why, cache))
	p.debianNeeds("ca-certificates", "")
	p.final = []string{"COPY --chown=%OWNER . .", "COPY --from=build /out/ /usr/local/bin/"}
	s.alsoIn(p, "/out/", "bin", "build")
	return s.start(p, "server", why, "program in bin/")
}

// dartMain is the file to compile.
func dartMain(s *source, name string, executables []string) string {
	var files []string
	for _, f := range s.files("bin", "*.dart") {
		files = append(files, strings.TrimSuffix(path.Base(f), ".dart"))
	}
	if len(executables) == 1 && slices.Contains(files, executables[0]) {
		return "bin/" + executables[0] + ".dart"
	}
	if n := program(files, name); n != "" {
		return "bin/" + n + ".dart"
	}
	return s.first("lib/main.dart", "main.dart")
}

// flutterFault refuses an app of Flutter, with the Dockerfile of its web build.
func flutterFault() error {
	return recognised("Flutter", "pubspec.yaml", []string{
		"FROM ghcr.io/cirruslabs/flutter:stable AS build", "WORKDIR /app", "COPY . .", "RUN flutter pub get && flutter build web --release",
		"FROM nginxinc/nginx-unprivileged:stable-alpine-slim", "COPY --from=build /app/build/web /usr/share/nginx/html", "USER 101",
	})
}
