package detect

import (
	"fmt"
	"strings"

	"mesh"
)

const (
	appCommand    = "lighttpd -D -f /etc/lighttpd/lighttpd.conf"
	staticImage   = "busybox:1.36"
	nobody        = "1000:1000" // busybox has no unprivileged user, and needs none
	staticCommand = "httpd -f -p $PORT -h /www -c /etc/httpd.conf"
)

func noPackages() error {
	return mesh.Errorf(mesh.Invalid, "packages= is set, but a static site is served from %s, which has no packages", staticImage).
		WithHint("clear it with: build:unset packages; or write a Dockerfile")
}

// serveStatic copies the files and configures the server. The listed types are those
// that it lacks.
func serveStatic(from string, notFound bool) []string {
	conf := `.mjs:text/javascript\n.wasm:application/wasm\n.webp:image/webp\n.avif:image/avif\n.woff:font/woff\n.woff2:font/woff2\n.json:application/json\n.webmanifest:application/manifest+json\n`
	if notFound {
		conf += `E404:/www/404.html\n`
	}
	return []string{
		fmt.Sprintf("RUN printf '%s' > /etc/httpd.conf", conf),
		fmt.Sprintf("COPY %s /www", from),
	}
}

// serveApp copies a front end and configures the server, lighttpd: any path without
// a file belongs to the front end and gets index.html with status 200. busybox's
// httpd cannot do that: it answers with 404, which search engines and proxies take
// literally.
func serveApp(from string) []string {
	conf := []string{
		`server.document-root = "/www"`, `server.port = env.PORT`, `server.error-handler-404 = "/index.html"`, `index-file.names = ("index.html")`,
		`include_shell "/usr/share/lighttpd/create-mime.conf.pl"`,
	}
	return []string{
		`RUN printf '%s\n' '` + strings.Join(conf, "' '") + `' > /etc/lighttpd/lighttpd.conf`,
		fmt.Sprintf("COPY %s /www", from),
	}
}

// static is for files that are served unchanged.
func static(s *source, p *plan) error {
	dir, where := "public", "public/"
	if !s.has("public/index.html") {
		dir, where, p.open = ".", "the whole repository", true
	}
	p.image = staticImage
	if len(s.set.Packages) > 0 && s.set.BaseImage == "" {
		return noPackages()
	}
	p.user = nobody
	p.found("serves "+where, map[string]string{"public": "public/index.html", ".": "index.html"}[dir])
	p.final = serveStatic(dir, s.has(dir+"/404.html") || dir == "." && s.has("404.html"))
	return s.start(p, staticCommand, "busybox's httpd", "index.html")
}
