package detect

import (
	"cmp"
	"path"
	"regexp"
	"strings"

	"mesh"
)

var (
	cabalName       = regexp.MustCompile(`(?im)^name:\s*(\S+)`)
	cabalExecutable = regexp.MustCompile(`(?im)^executable\s+(\S+)`)
	cabalBase       = regexp.MustCompile(`(?m)\bbase\s*(?:\^>=|==|>=)\s*(4\.\d+)`)
	cabalTight      = regexp.MustCompile(`(?m)\bbase\s*(?:\^>=\s*4\.\d+|==\s*4\.\d+|>=?\s*4\.\d+[\d.]*\s*&&\s*<\s*4\.\d+)`)
	hpackName       = regexp.MustCompile(`(?m)^name:\s*(\S+)`)
	hpackExecutable = regexp.MustCompile(`(?m)^  ([A-Za-z0-9_-]+):\s*$`)
	withGHC         = regexp.MustCompile(`(?m)^\s*with-compiler:\s*ghc-([0-9.]+)`)
)

// haskellBases is GHC for the version of base that it brings
// (https://wiki.haskell.org/Base_package).
var haskellBases = map[string]string{"4.22": "9.14", "4.21": "9.12", "4.20": "9.10", "4.19": "9.8", "4.18": "9.6", "4.17": "9.4", "4.16": "9.2", "4.15": "9.0"}

// haskellNeeds are packages that need a library.
var haskellNeeds = map[string]needs{
	"postgresql-libpq":  {build: "libpq-dev", run: "libpq5"},
	"postgresql-simple": {build: "libpq-dev", run: "libpq5"},
	"hasql":             {build: "libpq-dev", run: "libpq5"},
	"mysql":             {build: "default-libmysqlclient-dev", run: "libmariadb3"},
	"HsOpenSSL":         {build: "libssl-dev", run: "libssl3"},
}

// haskellSign leaves a package.yaml alone, which pnpm reads as well.
func haskellSign(s *source) string {
	if f := s.first("stack.yaml", "cabal.project"); f != "" {
		return f
	}
	for _, f := range s.files(".", "*.cabal") {
		return f
	}
	return ""
}

// haskell builds the executables of a package, with Stack if it has a stack.yaml.
func haskell(s *source, p *plan) error {
	text, stack := "", s.has("stack.yaml")
	var names []string
	for _, f := range append(s.files(".", "*.cabal"), s.haskellMembers()...) {
		text += s.read(f)
	}
	project := group(cabalName, text)
	names = all(cabalExecutable, text)
	if hpack := s.read("package.yaml"); len(names) == 0 && hpack != "" {
		text += hpack
		project = group(hpackName, hpack)
		if _, rest, ok := strings.Cut("\n"+hpack, "\nexecutables:"); ok {
			rest, _, _ = strings.Cut(rest, "\ntests:")
			names = all(hpackExecutable, rest)
		} else if strings.Contains(hpack, "\nexecutable:") {
			names = []string{project}
		}
	}
	names = plainOnly(names)
	for _, f := range []struct{ dependency, name string }{{"yesod", "Yesod"}, {"servant-server", "Servant"}, {"scotty", "Scotty"}, {"ihp", "IHP"}} {
		if strings.Contains(text, f.dependency) && p.Framework == "" {
			p.Framework = f.name
		}
	}
	if len(names) == 0 && s.set.BuildCommand == "" {
		return mesh.Errorf(mesh.Invalid, "this is %s, but no package has an executable", p.Title()).
			WithHint("add one to the .cabal file: executable NAME, with main-is: Main.hs")
	}
	name := program(names, project)
	for _, n := range names { // as stack new calls them
		if name == "" && (n == project+"-exe" || n == project+"-server") {
			name = n
		}
	}
	if name == "" && len(names) > 0 {
		if err := s.severalPrograms(p, names, "the project"); err != nil {
			return err
		}
	}
	p.haskellImage(s, text, stack)
	p.image = "debian:bookworm-slim"
	p.debianNeeds("ca-certificates libgmp10 netbase zlib1g", "")
	p.add(haskellNeeds, func(n string) bool { return regexp.MustCompile(`(^|[\s,"-])` + n + `([\s,"]|$)`).MatchString(text) })
	if stack {
		command := "stack build --no-system-ghc --install-ghc --copy-bins --local-bin-path /out"
		files := s.present("stack.yaml", "stack.yaml.lock", "package.yaml")
		p.build = append(copies(append(files, s.files(".", "*.cabal")...)), "RUN "+cacheMounts("/root/.stack")+"stack build --no-system-ghc --install-ghc --only-dependencies", "COPY . .")
		if len(s.haskellMembers()) > 0 {
			p.build = []string{"COPY . ."}
		}
		p.build = append(p.build, s.buildRun(p, command, "stack.yaml", "/root/.stack"))
	} else {
		files := append(s.present("cabal.project", "cabal.project.freeze"), s.files(".", "*.cabal")...)
		const cache = "/root/.cabal/packages"
		p.build = append(copies(files), "RUN "+cacheMounts(cache)+"cabal update && cabal build --only-dependencies all", "COPY . .")
		if len(s.haskellMembers()) > 0 {
			p.build = []string{"COPY . .", "RUN " + cacheMounts(cache) + "cabal update"}
		}
		build := "cabal build"
		for _, n := range names {
			build += " exe:" + n
		}
		for _, n := range names {
			build += ` && cp "$(cabal list-bin exe:` + n + `)" /out/`
		}
		p.build = append(p.build, "RUN mkdir -p /out", s.buildRun(p, build, cmp.Or(s.first("cabal.project"), strings.Join(s.files(".", "*.cabal"), " ")), cache))
	}
	p.final = []string{"COPY --chown=%OWNER . .", "COPY --from=build /out/ /usr/local/bin/"}
	s.alsoIn(p, "/out/", "bin", ".local/bin")
	return s.start(p, name, "an executable of the project", "executable")
}

// haskellImage chooses GHC: what a file says, or what comes with the base that the
// package allows. Stack fetches the one of its resolver.
func (p *plan) haskellImage(s *source, text string, stack bool) {
	if stack && p.want.text == "" {
		resolver := group(regexp.MustCompile(`(?m)^(?:resolver|snapshot):[ \t]*(\S+)`), s.read("stack.yaml"))
		if resolver == "" {
			resolver = group(regexp.MustCompile(`(?m)^\s+url:\s*(\S+)`), s.read("stack.yaml"))
		}
		p.found("GHC of "+path.Base(resolver), "stack.yaml; fetched by stack")
		p.buildImage = "haskell:9-slim"
		return
	}
	v := firstSaid(s.tool("ghc", "haskell"), said{group(withGHC, s.read("cabal.project")), "with-compiler in cabal.project"})
	if base := group(cabalBase, text); v.from == "" && cabalTight.MatchString(text) && haskellBases[base] != "" {
		v = said{haskellBases[base], "base " + base + " in the .cabal file"}
	}
	version := p.version("GHC", v, 3, "9.10")
	p.buildImage = "haskell:" + version + "-slim"
	if atLeast(version, "9.10") { // from then on there are several Debians
		p.buildImage += "-bookworm"
	}
}

// haskellMembers are the packages in folders, of a project with several.
func (s *source) haskellMembers() (files []string) {
	for _, d := range s.folders() {
		files = append(files, s.files(d, "*.cabal")...)
		if s.has(d+"/package.yaml") && s.has("stack.yaml") && plainPath.MatchString(d) {
			files = append(files, d+"/package.yaml")
		}
	}
	return files
}

// plainOnly drops names that would need quoting.
func plainOnly(names []string) (list []string) {
	for _, n := range names {
		if plainWord.MatchString(n) {
			list = append(list, n)
		}
	}
	return list
}
