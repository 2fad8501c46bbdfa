package detect

import (
	"cmp"
	"path"
	"regexp"
	"slices"
	"strings"

	"mesh"
)

var (
	cmakeExecutable = regexp.MustCompile(`(?im)^\s*add_executable\s*\(\s*([^\s)]+)(?:\s+(\w+))?`)
	cmakeProject    = regexp.MustCompile(`(?im)^\s*project\s*\(\s*([^\s)]+)`)
	mesonExecutable = regexp.MustCompile(`(?m)\bexecutable\s*\(\s*'([^'\n]+)'`)
	mesonProject    = regexp.MustCompile(`(?m)\bproject\s*\(\s*'([^'\n]+)'`)
	makeTarget      = regexp.MustCompile(`(?m)^\s*(?:TARGET|BIN|BINARY|PROG|PROGRAM|EXE|EXEC|EXECUTABLE|NAME|OUT|OUTPUT)\s*[:?]?=\s*([\w./-]+)\s*(?:#.*)?$`)
	makeOutput      = regexp.MustCompile(`(?m)^\t.*\s-o\s+([\w./-]+)`)
	cmakeFolder     = regexp.MustCompile(`(?im)^\s*add_subdirectory\s*\(\s*"?([\w./-]+)`)
	mesonFolder     = regexp.MustCompile(`(?m)^\s*subdir\s*\(\s*'([\w./-]+)'`)
	foreignFolder   = regexp.MustCompile(`(?i)(^|/)(tests?|examples?|bench(marks?)?|third_?party|external|extern|vendor|deps|lib|libs|submodules)(/|$)`)
	makeAll         = regexp.MustCompile(`(?m)^all\s*:\s*([\w./-]+)\s*(?:#.*)?$`)
	makeRecipe      = regexp.MustCompile(`(?m)^([\w./-]+)\s*:[^=\n]*\n(?:\t.*\n)*?\t.*-o \$@`)
	testName        = regexp.MustCompile(`(?i)(^|[_-])(tests?|bench(marks?)?|examples?)([_-]|$)`)
)

// nativeNeeds are libraries of C and C++ as build files call them: find_package and
// pkg_check_modules of CMake, dependency() of Meson, -l of a linker.
var nativeNeeds = map[string]needs{
	"openssl":       {build: "libssl-dev", run: "libssl3"},
	"ssl":           {build: "libssl-dev", run: "libssl3"},
	"curl":          {build: "libcurl4-openssl-dev", run: "libcurl4"},
	"libcurl":       {build: "libcurl4-openssl-dev", run: "libcurl4"},
	"zlib":          {build: "zlib1g-dev", run: "zlib1g"},
	"z":             {build: "zlib1g-dev", run: "zlib1g"},
	"sqlite3":       {build: "libsqlite3-dev", run: "libsqlite3-0"},
	"postgresql":    {build: "libpq-dev", run: "libpq5"},
	"libpq":         {build: "libpq-dev", run: "libpq5"},
	"pq":            {build: "libpq-dev", run: "libpq5"},
	"libpqxx":       {build: "libpqxx-dev", run: "libpqxx-6.4"},
	"boost":         {build: "libboost-all-dev", run: "libboost-program-options1.74.0 libboost-filesystem1.74.0 libboost-thread1.74.0 libboost-url1.81.0"},
	"protobuf":      {build: "libprotobuf-dev protobuf-compiler", run: "libprotobuf32"},
	"libuv":         {build: "libuv1-dev", run: "libuv1"},
	"uv":            {build: "libuv1-dev", run: "libuv1"},
	"libevent":      {build: "libevent-dev", run: "libevent-2.1-7"},
	"event":         {build: "libevent-dev", run: "libevent-2.1-7"},
	"libmicrohttpd": {build: "libmicrohttpd-dev", run: "libmicrohttpd12"},
	"microhttpd":    {build: "libmicrohttpd-dev", run: "libmicrohttpd12"},
	"fmt":           {build: "libfmt-dev", run: "libfmt9"},
	"spdlog":        {build: "libspdlog-dev", run: "libspdlog1.10"},
	"nlohmann_json": {build: "nlohmann-json3-dev"},
	"jsoncpp":       {build: "libjsoncpp-dev", run: "libjsoncpp25"},
	"asio":          {build: "libasio-dev"},
	"pistache":      {build: "libpistache-dev", run: "libpistache0"},
	"libpistache":   {build: "libpistache-dev", run: "libpistache0"},
}

// nativeSign is a build file. A Makefile alone is one if there is C beside it: other
// trees have one for their own commands.
func nativeSign(s *source) string {
	if f := s.first("CMakeLists.txt", "meson.build"); f != "" {
		return f
	}
	f := s.first("Makefile", "makefile", "GNUmakefile")
	for _, dir := range []string{".", "src"} {
		for _, pattern := range []string{"*.c", "*.cc", "*.cpp", "*.cxx"} {
			if f != "" && len(s.files(dir, pattern)) > 0 {
				return f
			}
		}
	}
	return ""
}

// native builds a program in C or C++ with Debian's compiler.
func native(s *source, p *plan) error {
	if f := s.first("vcpkg.json", "conanfile.txt", "conanfile.py"); f != "" {
		return recognised("C/C++ with "+map[bool]string{true: "vcpkg", false: "Conan"}[f == "vcpkg.json"], f, []string{
			"FROM debian:bookworm AS build", "RUN apt-get update && apt-get install -y build-essential cmake ninja-build git curl zip unzip tar pkg-config",
			"WORKDIR /app", "COPY . .", "RUN cmake -S . -B /build -G Ninja && cmake --build /build",
			"FROM debian:bookworm-slim", "COPY --from=build /build/NAME /usr/local/bin/app", "USER 1000", `CMD ["app"]`,
		})
	}
	p.buildImage, p.image = "debian:bookworm-slim", "debian:bookworm-slim"
	p.debianNeeds("ca-certificates libstdc++6", "build-essential ca-certificates git pkg-config")
	p.add(nativeNeeds, s.nativeUses())
	p.packages = slices.DeleteFunc(p.packages, func(n string) bool { return n == "libboost-url1.81.0" })
	file := nativeSign(s)
	switch file {
	case "CMakeLists.txt":
		return cmake(s, p)
	case "meson.build":
		return meson(s, p)
	}
	return makefile(s, p, file)
}

// nativeUses reports which libraries the build files name.
func (s *source) nativeUses() func(string) bool {
	text := ""
	for _, f := range slices.Concat(s.nativeFiles("CMakeLists.txt", cmakeFolder), s.nativeFiles("meson.build", mesonFolder), []string{"Makefile", "makefile", "GNUmakefile"}) {
		text += s.read(f) + "\n"
	}
	return func(name string) bool {
		n := regexp.QuoteMeta(name)
		return regexp.MustCompile(`(?i)(find_package|pkg_check_modules|pkg_search_module)\s*\([^)]*\b`+n+`\b|dependency\s*\(\s*'`+n+`'|pkg-config[^\n]*\s`+n+`\b`).MatchString(text) ||
			regexp.MustCompile(`\s-l`+n+`(\s|$)`).MatchString(text)
	}
}

// nativeFiles are a build file and those in the folders that it includes, without those
// of tests, examples and libraries from elsewhere.
func (s *source) nativeFiles(name string, folder *regexp.Regexp) []string {
	files := []string{name}
	for i := 0; i < len(files) && len(files) < 50; i++ {
		for _, d := range all(folder, s.read(files[i])) {
			f := path.Join(path.Dir(files[i]), d, name)
			if !foreignFolder.MatchString(d) && s.has(f) && !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	return files
}

// cmake builds out of the tree, and copies the program and the libraries that were
// built with it.
func cmake(s *source, p *plan) error {
	text := s.read("CMakeLists.txt")
	names := []string{}
	for _, f := range s.nativeFiles("CMakeLists.txt", cmakeFolder) {
		for _, m := range cmakeExecutable.FindAllStringSubmatch(s.read(f), -1) {
			n := strings.ReplaceAll(m[1], "${PROJECT_NAME}", group(cmakeProject, text))
			n = strings.ReplaceAll(n, "${CMAKE_PROJECT_NAME}", group(cmakeProject, text))
			if v, ok := strings.CutPrefix(n, "${"); ok { // set(TARGET name)
				n = group(regexp.MustCompile(`(?im)^\s*set\s*\(\s*`+regexp.QuoteMeta(strings.TrimSuffix(v, "}"))+`\s+"?([\w.-]+)`), text)
			}
			if m[2] != "IMPORTED" && m[2] != "ALIAS" && plainWord.MatchString(n) && !testName.MatchString(n) {
				names = append(names, n)
			}
		}
	}
	p.debianNeeds("", "cmake ninja-build")
	command := "cmake -S . -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release && cmake --build /build"
	return nativeOut(s, p, names, group(cmakeProject, text), "CMakeLists.txt", "add_executable", command)
}

func meson(s *source, p *plan) error {
	names := []string{}
	for _, f := range s.nativeFiles("meson.build", mesonFolder) {
		for _, n := range all(mesonExecutable, s.read(f)) {
			if plainWord.MatchString(n) && !testName.MatchString(n) {
				names = append(names, n)
			}
		}
	}
	p.debianNeeds("", "meson ninja-build")
	if strings.Contains(s.read("meson.build"), "'cmake'") {
		p.debianNeeds("", "cmake")
	}
	return nativeOut(s, p, names, group(mesonProject, s.read("meson.build")), "meson.build", "executable()", "meson setup /build --buildtype=release && meson compile -C /build")
}

// nativeOut is the rest of a build in /build.
func nativeOut(s *source, p *plan, names []string, project, file, what, command string) error {
	slices.Sort(names)
	names = slices.Compact(names)
	name := program(names, project)
	switch {
	case len(names) == 0 && s.set.StartCommand == "" && !s.has("Procfile"):
		return mesh.Errorf(mesh.Invalid, "this is C/C++, but %s names no program: there is no %s", file, what).
			WithHint("add one, or set build-command= and start-command=")
	case name == "" && len(names) > 0:
		if err := s.severalPrograms(p, names, file); err != nil {
			return err
		}
	}
	p.build = append(p.build, "COPY . .", s.buildRun(p, command, file),
		`RUN mkdir /out && find /build \( -name CMakeFiles -o -name meson-private \) -prune -o \( -type f -o -type l \) \( -executable -o -name '*.so*' \) -exec cp -P {} /out/ \;`)
	p.env = append(p.env, "LD_LIBRARY_PATH=/usr/local/bin")
	p.final = []string{"COPY --chown=%OWNER . .", "COPY --from=build /out/ /usr/local/bin/"}
	s.alsoIn(p, "/out/", "build", "bin", "builddir")
	return s.start(p, name, what+" in "+file, "program")
}

// makefile runs make in the tree, where the program then is.
func makefile(s *source, p *plan, file string) error {
	text := s.read(file)
	names := plainOnly(all(makeTarget, text))
	if len(names) != 1 {
		names = nil
		for _, n := range plainOnly(all(makeOutput, text)) {
			if !strings.HasSuffix(n, ".o") && !testName.MatchString(n) {
				names = append(names, n)
			}
		}
	}
	if len(names) == 0 { // "all: server", or the rule that links with -o $@
		names = plainOnly(all(makeAll, text))
	}
	if len(names) == 0 {
		names = slices.DeleteFunc(plainOnly(all(makeRecipe, text)), func(n string) bool { return strings.HasSuffix(n, ".o") || testName.MatchString(n) })
	}
	start := ""
	if n := program(names, ""); n != "" {
		start = "./" + strings.TrimPrefix(n, "./")
	}
	p.build = append(p.build, "COPY . .", s.buildRun(p, "make", file))
	p.final = []string{"COPY --from=build --chown=%OWNER /app /app"}
	return s.start(p, start, file, cmp.Or(strings.Join(names, ", "), "TARGET")+" in "+file+" that is clearly the program")
}
