package detect

import (
	"path"
	"regexp"
	"strings"

	"mesh"
)

// hugoDefault is the newest release that this package knows.
const hugoDefault = "0.154.4"

var (
	hugoConfigs = []string{"hugo.toml", "hugo.yaml", "hugo.yml", "hugo.json", "config/_default/hugo.toml", "config/_default/hugo.yaml"}
	hugoOld     = []string{"config.toml", "config.yaml", "config.yml", "config.json", "config/_default/config.toml", "config/_default/config.yaml"} // before 0.110
	hugoKeys    = regexp.MustCompile(`(?im)^\s*"?(baseURL|languageCode|defaultContentLanguage|publishDir)"?\s*[=:]`)
	hugoVersion = regexp.MustCompile(`(?m)HUGO_VERSION"?\s*[=:]\s*"?v?(\d+\.\d+\.\d+)`)
	publishDir  = regexp.MustCompile(`(?im)^\s*"?publishDir"?\s*[=:]\s*["']?([\w./-]+)`)
)

// hugoSign is the configuration of a site. Its old name says nothing alone: the keys
// are Hugo's, and there is content or a theme beside it.
func hugoSign(s *source) string {
	if s.isMain(".") || s.dir("cmd") && s.has("go.mod") { // a program whose documentation is made with Hugo
		return ""
	}
	if f := s.first(hugoConfigs...); f != "" {
		return f
	}
	f := s.first(hugoOld...)
	if f != "" && hugoKeys.MatchString(s.read(f)) && (s.dir("content") || s.dir("themes") || s.dir("archetypes") || s.dir("layouts")) {
		return f
	}
	return ""
}

// hugo builds a site with the extended edition.
func hugo(s *source, p *plan) error {
	config := hugoSign(s)
	v := firstSaid(p.want, said{s.line(".hugo-version"), ".hugo-version"}, s.tool("hugo", "hugo-extended", "gohugo"),
		said{group(hugoVersion, s.read("netlify.toml")), "HUGO_VERSION in netlify.toml"}, said{group(hugoVersion, s.read("vercel.json")), "HUGO_VERSION in vercel.json"}, said{group(hugoVersion, s.read("render.yaml")), "HUGO_VERSION in render.yaml"}, said{group(hugoVersion, s.workflows()), "HUGO_VERSION in .github/workflows"})
	version := strings.TrimPrefix(number.FindString(strings.TrimPrefix(v.text, "extended_")), "v")
	why := v.from
	switch strings.Count(version, ".") {
	case 0:
		version, why = hugoDefault, "the newest that mesh knows"
	case 1:
		version += ".0"
	}
	p.found("Hugo "+version+", extended", why)
	// Hugo's own images begin with 0.135; both are Alpine's, with Go, git and Node.
	p.buildImage = "ghcr.io/gohugoio/hugo:v" + version
	if !atLeast(version, "0.135.0") {
		p.buildImage = "hugomods/hugo:exts-" + version
	}
	p.build = []string{"USER root"} // the image's user may not write here
	if s.has("package.json") {
		install := "npm install"
		if s.has("package-lock.json") {
			install = "npm ci"
		}
		p.found(install, "package.json")
		p.build = append(p.build, append(copies(s.present("package.json", "package-lock.json")), "RUN "+cacheMounts("/root/.npm")+install)...)
	}
	p.build = append(p.build, "COPY . .", "ENV HUGO_CACHEDIR=/tmp/hugo_cache HUGO_ENVIRONMENT=production", s.siteRun(p, "hugo --gc --minify", config, "/tmp/hugo_cache"))
	out := path.Clean(group(publishDir, s.read(config)))
	if out == "." || strings.HasPrefix(out, "..") {
		out = "public"
	}
	return s.generated(p, out, config)
}

// workflows are the files of GitHub's actions, where many sites have the version.
func (s *source) workflows() (text string) {
	for _, f := range append(s.files(".github/workflows", "*.yml"), s.files(".github/workflows", "*.yaml")...) {
		text += s.read(f) + "\n"
	}
	return text
}

// generated serves what a generator has written to a folder of the build stage.
func (s *source) generated(p *plan, out, why string) error {
	if len(s.set.BuildPackages) > 0 && !p.debianBuild() {
		return s.noDebian(p)
	}
	out = path.Join("/app", out)
	if !plainPath.MatchString(out) {
		return mesh.Errorf(mesh.Invalid, "this site is built in %q, which is not a plain path", mesh.Clip(out, 60)).
			WithHint("use a folder with a simple name, such as public")
	}
	if err := s.site(p); err != nil {
		return err
	}
	p.found("serves "+strings.TrimPrefix(out, "/app/")+"/", why)
	// A build that writes nothing, or elsewhere, fails with a reason.
	p.build = append(p.build, "RUN test -f "+out+"/index.html || { echo 'error: the build wrote no "+strings.TrimPrefix(out, "/app/")+"/index.html'; exit 1; }")
	p.final = serveStatic("--from=build " + out)
	return s.start(p, staticCommand, staticServer, "a site")
}

// debianBuild reports whether the build stage has Debian packages.
func (p *plan) debianBuild() bool {
	return !strings.Contains(p.buildImage, "alpine") && !strings.HasPrefix(p.buildImage, "ghcr.io/gohugoio/") && !strings.HasPrefix(p.buildImage, "hugomods/")
}
