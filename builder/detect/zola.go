package detect

import (
	"path"
	"regexp"
	"strings"
)

// The newest releases that this package knows.
const (
	zolaDefault   = "0.21.0"
	mdbookDefault = "0.4.52"
)

var (
	zolaBase   = regexp.MustCompile(`(?m)^\s*base_url\s*=`)
	zolaOut    = regexp.MustCompile(`(?m)^\s*output_dir\s*=\s*"([\w./-]+)"`)
	mdbookOut  = regexp.MustCompile(`(?m)^\s*build-dir\s*=\s*"([\w./-]+)"`)
	mdbookHTML = regexp.MustCompile(`(?m)^\s*\[output\.(\w+)`)
)

// zolaSign is a config.toml with the one key that Zola requires.
func zolaSign(s *source) string {
	for _, f := range []string{"zola.toml", "config.toml"} {
		if zolaBase.MatchString(s.read(f)) && (s.dir("content") || s.dir("templates")) {
			return f
		}
	}
	return ""
}

// zola builds a site with the program of Zola's image, which has nothing else in it.
func zola(s *source, p *plan) error {
	config := zolaSign(s)
	version, why := exact(firstSaid(p.want, s.tool("zola"), said{group(regexp.MustCompile(`ZOLA_VERSION"?\s*[=:]\s*"?v?(\d+\.\d+\.\d+)`), s.read("netlify.toml")), "ZOLA_VERSION in netlify.toml"}), zolaDefault)
	p.found("Zola "+version, why)
	p.buildImage = "debian:bookworm-slim"
	p.debianNeeds("", "ca-certificates")
	p.build = []string{"COPY --from=ghcr.io/getzola/zola:v" + version + " /bin/zola /usr/local/bin/zola", "COPY . .", s.siteRun(p, "zola build", config)}
	out := group(zolaOut, s.read(config))
	if out == "" {
		out = "public"
	}
	return s.generated(p, path.Clean(out), config)
}

// mdbook builds a book with a release of mdBook, which has no image.
func mdbook(s *source, p *plan) error {
	text := s.read("book.toml")
	version, why := exact(firstSaid(p.want, s.tool("mdbook"), said{group(regexp.MustCompile(`MDBOOK_VERSION"?\s*[=:]\s*"?v?(\d+\.\d+\.\d+)`), s.workflows()), "MDBOOK_VERSION in .github/workflows"}), mdbookDefault)
	p.found("mdBook "+version, why)
	p.buildImage = "debian:bookworm-slim"
	p.debianNeeds("", "ca-certificates curl")
	p.build = []string{
		"RUN curl -fsSL https://github.com/rust-lang/mdBook/releases/download/v" + version + "/mdbook-v" + version + "-$(uname -m)-unknown-linux-musl.tar.gz | tar -xz -C /usr/local/bin",
		"COPY . .", s.siteRun(p, "mdbook build", "book.toml"),
	}
	out := group(mdbookOut, text)
	if out == "" {
		out = "book"
	}
	for _, m := range all(mdbookHTML, text) { // with several renderers, each has a folder
		if m != "html" {
			out = path.Join(strings.TrimSuffix(out, "/html"), "html")
			break
		}
	}
	return s.generated(p, path.Clean(out), "book.toml")
}

// exact is the version that something asks for, if it has all three numbers: releases
// and images exist for no others.
func exact(v said, known string) (version, why string) {
	n := number.FindString(v.text)
	switch {
	case v.from == "":
		return known, "the newest that mesh knows"
	case strings.Count(n, ".") == 2:
		return n, v.from
	case strings.Count(n, ".") == 1 && !strings.HasPrefix(known, n+"."):
		return n + ".0", v.from
	}
	return known, "the newest that mesh knows; " + v.from + " says " + v.text
}
