package detect

import (
	"regexp"
	"strings"

	"mesh"
)

var (
	leinRing  = regexp.MustCompile(`\blein-ring\b`)
	ringMain  = regexp.MustCompile(`:ring\s*\{`)
	leinMain  = regexp.MustCompile(`(?m)^[^;\n]*:main\b`)
	buildUber = regexp.MustCompile(`\(defn\s+(uber|uberjar|ci|all)\b`)
	toolAlias = regexp.MustCompile(`:(\S+)\s*\{[^{}]*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}[^{}]*)*:ns-default\s+build\b`)
	execUber  = regexp.MustCompile(`:(\S+)\s*\{[^:]*:(?:replace-deps|extra-deps|deps)\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}\s*:exec-fn\s+\S*uber\S*`)
)

// clojureSign leaves a front end in ClojureScript to Node.
func clojureSign(s *source) string {
	if s.has("project.clj") {
		return "project.clj"
	}
	if s.has("deps.edn") && (s.has("build.clj") || !s.has("shadow-cljs.edn")) {
		return "deps.edn"
	}
	return ""
}

// clojure builds one jar with everything: with Leiningen, or with the program of
// tools.build that is the tree's own build.clj.
func clojure(s *source, p *plan) error {
	version := s.javaWanted(p, "21", "8", "11", "17", "25")
	p.javaRuntime(version)
	const cache = "/root/.m2"
	if s.has("package.json") && s.has("shadow-cljs.edn") {
		p.found("does not build the front end", "shadow-cljs.edn; set build-command to build both")
	}
	if s.has("project.clj") {
		text := s.read("project.clj")
		p.buildImage = "clojure:temurin-" + version + "-lein-bookworm-slim"
		command, why := "lein uberjar", "project.clj"
		switch {
		case strings.Contains(text, "ring/") || strings.Contains(text, "luminus"):
			p.Framework = "Ring"
		case strings.Contains(text, "io.pedestal"):
			p.Framework = "Pedestal"
		}
		if leinRing.MatchString(text) && ringMain.MatchString(text) && !leinMain.MatchString(text) {
			command, why = "lein ring uberjar", ":ring in project.clj"
		} else if !leinMain.MatchString(text) && s.set.BuildCommand == "" {
			return mesh.Errorf(mesh.Invalid, "this is Clojure, but project.clj has no :main to start").
				WithHint("set :main NAMESPACE in project.clj, with (:gen-class) in that namespace")
		}
		p.build = append(copies(s.present("project.clj", "profiles.clj", "checkouts")), "RUN "+cacheMounts(cache)+"lein deps", "COPY . .", s.buildRun(p, command, why, cache), largestJar("target"))
		s.jarFinal(p, "target")
		return s.start(p, javaStart, "the jar of the build", ":main in project.clj")
	}
	p.buildImage = "clojure:temurin-" + version + "-tools-deps-bookworm-slim"
	command, why := "", "deps.edn"
	deps := s.read("deps.edn")
	if m := buildUber.FindStringSubmatch(s.read("build.clj")); m != nil {
		alias := group(toolAlias, deps)
		if alias == "" || !plainWord.MatchString(alias) {
			alias = "build"
		}
		command, why = "clojure -T:"+alias+" "+m[1], m[1]+" in build.clj"
		if !strings.Contains(deps, "tools.build") { // build.clj needs it from somewhere
			command = `clojure -Sdeps '{:aliases {:build {:deps {io.github.clojure/tools.build {:mvn/version "0.10.9"}} :ns-default build}}}' -T:build ` + m[1]
		}
	} else if alias := group(execUber, deps); alias != "" && plainWord.MatchString(alias) {
		command, why = "clojure -X:"+alias, ":"+alias+" in deps.edn"
	}
	if command == "" && s.set.BuildCommand == "" {
		return mesh.Errorf(mesh.Invalid, "this is Clojure with deps.edn, but nothing says how to build a jar: there is no uber in build.clj").
			WithHint("write one: https://clojure.org/guides/tools_build, or set build-command=COMMAND")
	}
	p.buildPackages = append(p.buildPackages, "git") // for dependencies from git, and versions from its history
	// A version that counts commits finds none here: there is no .git in a build.
	if strings.Contains(s.read("build.clj"), "git-count-revs") {
		p.found("makes an empty commit", "git-count-revs in build.clj")
		command = "git init -q && git -c user.name=mesh -c user.email=mesh@localhost commit -q --allow-empty -m build && " + command
	}
	p.build = append(copies(s.present("deps.edn", "build.clj")), "RUN "+cacheMounts(cache, "/root/.gitlibs")+"clojure -P", "COPY . .", s.buildRun(p, command, why, cache, "/root/.gitlibs"), largestJar("target"))
	s.jarFinal(p, "target")
	return s.start(p, javaStart, "the jar of the build", "build.clj")
}
