package detect

import (
	"cmp"
	"path"
	"regexp"
	"strings"
)

var (
	jekyllGem = regexp.MustCompile(`(?m)^\s*gem\s*\(?\s*["'](jekyll|github-pages)["']|^\s*gemspec\b`)
	jekyllOut = regexp.MustCompile(`(?m)^destination:\s*["']?([\w./-]+)`)
)

// jekyllSign is the configuration of a site whose Gemfile has Jekyll, or that has none:
// GitHub also builds such a site.
func jekyllSign(s *source) string {
	f := s.first("_config.yml", "_config.yaml", "_config.toml")
	switch {
	case f == "" || s.has("config.ru") || s.has("package.json") && !s.has("Gemfile"): // Hexo's is called the same
		return ""
	case s.has("Gemfile") && jekyllGem.MatchString(s.read("Gemfile")), !s.has("Gemfile") && s.first("index.md", "index.html", "README.md", "_posts") != "":
		return f
	}
	return ""
}

// jekyll builds a site with the gems of its Gemfile, or with those that GitHub has.
func jekyll(s *source, p *plan) error {
	config := jekyllSign(s)
	declared := group(gemfileRuby, s.read("Gemfile"))
	version := p.version("Ruby", firstSaid(said{strings.TrimPrefix(s.line(".ruby-version"), "ruby-"), ".ruby-version"}, said{declared, "ruby in Gemfile"}, s.tool("ruby")), 2, "3.3", "3.4", "3.2", "3.1")
	release, err := debian(s, "Ruby", version)
	if err != nil {
		return err
	}
	p.buildImage, p.release = "ruby:"+version+"-slim-"+release, release
	p.debianNeeds("", "build-essential git libyaml-dev pkg-config")
	p.build = []string{"ENV JEKYLL_ENV=production LANG=C.UTF-8"}
	const cache = "/usr/local/bundle/cache"
	command := "bundle exec jekyll build"
	if !s.has("Gemfile") {
		p.found("installs github-pages", "no Gemfile")
		p.build = append(p.build, "RUN "+cacheMounts(cache)+"gem install github-pages webrick", "COPY . .")
		command = "jekyll build"
	} else {
		p.found("bundle install", s.first("Gemfile.lock", "Gemfile"))
		if gemPath.MatchString(s.read("Gemfile")) {
			p.build = append(p.build, "COPY . .")
		} else {
			p.build = append(p.build, copies(s.present("Gemfile", "Gemfile.lock", ".ruby-version"))...)
		}
		// A lock file that a Mac wrote names no other platform.
		p.build = append(p.build, "RUN "+cacheMounts(cache)+"{ [ ! -f Gemfile.lock ] || bundle lock --add-platform ruby; } && bundle install")
		p.copyAll()
	}
	p.build = append(p.build, s.siteRun(p, command, config))
	return s.generated(p, path.Clean(cmp.Or(group(jekyllOut, s.read(config)), "_site")), config)
}
