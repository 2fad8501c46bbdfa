package detect

import "mesh"

// UnbuiltError is the error for a language that mesh recognises and does not build. It wraps
// a *mesh.Error of kind Invalid.
type UnbuiltError struct {
	Err        *mesh.Error
	Dockerfile []string // the lines of one to begin with
}

// Error implements error.
func (u *UnbuiltError) Error() string { return u.Err.Error() }

// Unwrap is for errors.As and errors.Is.
func (u *UnbuiltError) Unwrap() error { return u.Err }

// recognised is the error for a language that a file shows.
func recognised(language, file string, dockerfile []string) error {
	return &UnbuiltError{
		mesh.Errorf(mesh.Invalid, "this is %s (%s), which mesh does not build without a Dockerfile", language, file).
			WithHint("commit a Dockerfile; a push prints one to begin with"),
		dockerfile,
	}
}

// other is a language that mesh names and does not build.
type other struct {
	name       string
	files      []string // patterns of path.Match in the root
	dockerfile []string // none: it cannot be built for a server with Linux
	hint       string   // then
}

// others are the languages that mesh recognises, each with what its own documentation
// begins with.
var others = []other{
	{"Perl", []string{"cpanfile", "Makefile.PL", "app.psgi", "*.psgi"}, []string{
		"FROM perl:5-slim", "WORKDIR /app", "COPY cpanfile ./", "RUN cpanm --notest --installdeps .", "COPY . .", "USER 1000",
		`CMD ["sh", "-c", "exec plackup --host 0.0.0.0 --port $PORT app.psgi"]`,
	}, ""},
	{"OCaml", []string{"dune-project", "*.opam"}, []string{
		"FROM ocaml/opam:debian-12-ocaml-5.2 AS build", "WORKDIR /home/opam/app", "COPY --chown=opam *.opam ./", "RUN opam install --deps-only --yes .", "COPY --chown=opam . .",
		"RUN opam exec -- dune build --release", "FROM debian:bookworm-slim", "COPY --from=build /home/opam/app/_build/default/bin/main.exe /usr/local/bin/app", "USER 1000", `CMD ["app"]`,
	}, ""},
	{"Julia", []string{"Project.toml", "Manifest.toml"}, []string{
		"FROM julia:1-bookworm", "ENV JULIA_DEPOT_PATH=/opt/julia", "WORKDIR /app", "COPY Project.toml Manifest.toml ./", `RUN julia --project -e 'using Pkg; Pkg.instantiate()'`, "COPY . .", "USER 1000", `CMD ["julia", "--project", "main.jl"]`,
	}, ""},
	{"R", []string{"renv.lock", "app.R", "plumber.R", "DESCRIPTION"}, []string{
		"FROM rocker/r-ver:4", "WORKDIR /app", "COPY renv.lock ./", `RUN R -e 'install.packages("renv"); renv::restore()'`, "COPY . .", "USER 1000",
		`CMD ["R", "-e", "shiny::runApp(host = '0.0.0.0', port = as.integer(Sys.getenv('PORT')))"]`,
	}, ""},
	{"Nim", []string{"*.nimble"}, []string{
		"FROM nimlang/nim:2.2.0 AS build", "WORKDIR /app", "COPY . .", "RUN nimble build -y -d:release", "FROM debian:bookworm-slim", "COPY --from=build /app/NAME /usr/local/bin/app", "USER 1000", `CMD ["app"]`,
	}, ""},
	{"Erlang", []string{"rebar.config"}, []string{
		"FROM erlang:27 AS build", "WORKDIR /app", "COPY rebar.config rebar.lock ./", "RUN rebar3 compile --deps_only", "COPY . .", "RUN rebar3 as prod release", "FROM erlang:27-slim", "COPY --from=build /app/_build/prod/rel/NAME /app", "USER 1000", `CMD ["/app/bin/NAME", "foreground"]`,
	}, ""},
	{"Lua", []string{"*.rockspec"}, []string{
		"FROM debian:bookworm-slim", "RUN apt-get update && apt-get install -y lua5.4 luarocks build-essential", "WORKDIR /app", "COPY . .", "RUN luarocks install --only-deps *.rockspec", "USER 1000", `CMD ["lua5.4", "main.lua"]`,
	}, ""},
	{"D", []string{"dub.json", "dub.sdl"}, []string{
		"FROM dlang2/ldc-ubuntu:1.40.0 AS build", "WORKDIR /app", "COPY . .", "RUN dub build --build=release", "FROM debian:bookworm-slim", "COPY --from=build /app/NAME /usr/local/bin/app", "USER 1000", `CMD ["app"]`,
	}, ""},
	{"Scheme", []string{"haunt.scm", "init.scm", "manifest.scm", "guix.scm", "main.scm", "*.scm"}, []string{
		"FROM debian:bookworm-slim", "RUN apt-get update && apt-get install -y guile-3.0", "WORKDIR /app", "COPY . .", "USER 1000", `CMD ["guile", "--no-auto-compile", "main.scm"]`,
	}, ""},
	{"Common Lisp", []string{"*.asd"}, []string{
		"FROM debian:bookworm-slim", "RUN apt-get update && apt-get install -y sbcl cl-quicklisp", "WORKDIR /app", "COPY . .", "USER 1000", `CMD ["sbcl", "--script", "main.lisp"]`,
	}, ""},
	{"Racket", []string{"info.rkt", "main.rkt", "*.rkt"}, []string{
		"FROM racket/racket:8.15-full", "WORKDIR /app", "COPY . .", "RUN raco make main.rkt", "USER 1000", `CMD ["racket", "main.rkt"]`,
	}, ""},
	{"Fortran", []string{"fpm.toml", "*.f90"}, []string{
		"FROM debian:bookworm-slim AS build", "RUN apt-get update && apt-get install -y gfortran", "WORKDIR /app", "COPY . .", "RUN gfortran -O2 -o /app/out *.f90", "FROM debian:bookworm-slim", "RUN apt-get update && apt-get install -y libgfortran5", "COPY --from=build /app/out /usr/local/bin/app", "USER 1000", `CMD ["app"]`,
	}, ""},
	{"Bazel", []string{"MODULE.bazel", "WORKSPACE", "WORKSPACE.bazel"}, []string{
		"FROM gcr.io/bazel-public/bazel:latest AS build", "WORKDIR /app", "COPY . .", "RUN bazel build //:app && cp -L bazel-bin/app /tmp/app", "FROM debian:bookworm-slim", "COPY --from=build /tmp/app /usr/local/bin/app", "USER 1000", `CMD ["app"]`,
	}, ""},
	{"Scala with Mill", []string{"build.mill", "build.sc"}, []string{
		"FROM eclipse-temurin:21-jdk AS build", "WORKDIR /app", "COPY . .", "RUN ./mill app.assembly", "FROM eclipse-temurin:21-jre", "COPY --from=build /app/out/app/assembly.dest/out.jar /app.jar", "USER 1000", `CMD ["java", "-jar", "/app.jar"]`,
	}, ""},
	{".NET Framework", []string{"*.csproj", "*.vbproj", "*.fsproj"}, nil, "port it to .NET 8 or newer: https://learn.microsoft.com/dotnet/core/porting"}, // the SDK's projects are built
	{"an iOS or macOS app", []string{"*.xcodeproj", "Podfile"}, nil, "set root=DIR to the folder of the part that serves"},
}

// unbuilt is the error for a tree in one of those languages, or nil.
func unbuilt(s *source) error {
	for _, o := range others {
		for _, pattern := range o.files {
			switch files := s.files(".", pattern); {
			case len(files) == 0:
			case o.dockerfile == nil:
				return mesh.Errorf(mesh.Invalid, "this is %s (%s), which does not run on a Linux server", o.name, files[0]).
					WithHint("%s", o.hint)
			default:
				return recognised(o.name, files[0], o.dockerfile)
			}
		}
	}
	return nil
}
