package detect

import (
	"fmt"
	"slices"
	"strings"

	"mesh"
)

// Static files and front ends are served by nginx, from its own small image (12 MB).
// busybox's httpd and lighttpd cannot serve precompressed files; an own server would
// have to be compiled in each build.
const (
	staticImage   = "nginx:stable-alpine-slim"
	nobody        = "1000:1000" // needs no entry in /etc/passwd
	staticCommand = "serve-site"
	staticServer  = "nginx, with /etc/nginx/site.conf"
)

func noPackages() error {
	return mesh.Errorf(mesh.Invalid, "packages= is set, but this site is served from %s, which has no Debian packages", staticImage).
		WithHint("clear it with: build:unset packages; the build itself gets build-packages=; or write a Dockerfile")
}

// siteConf is nginx's configuration. In each request the server section runs from the
// top: a precompressed file is served under a name of its own below /.coded, because
// only a location can be without ranges, which are of no use in a compressed file. It
// runs again for the page of an error, which may be precompressed as well.
//
// A Vary tells caches about FILE.br even if this client gets FILE. Names with a hash
// never change their content, and everything else is asked for again, which costs a 304:
// without Cache-Control, browsers would keep it for a tenth of its age (RFC 9111, section
// 4.2.2).
//
// A name has a hash if no person would choose it: a wrong guess would keep an old file in
// browsers for a year, a missed one costs a 304. The patterns are: the folders in which
// SvelteKit, Astro, Next and Nuxt have nothing else; hexadecimal digits with at least one
// letter and one digit (webpack, Parcel, Hugo, Trunk); and eight characters of base64url,
// base36 or base32 (Vite, Rollup, esbuild, Angular), but not words in CamelCase with or
// without a number (jquery-scrollTo.js), dates and the names that cameras give
// (IMG_1234.jpg). Beside Vite's scripts, words in CamelCase count as well.
const siteConf = `daemon off;
worker_processes 2;
pid /tmp/nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
  access_log off;
  log_not_found off;
  server_tokens off;
  absolute_redirect off;
  sendfile on;
  tcp_nopush on;
  client_body_temp_path /tmp/body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  default_type application/octet-stream;
  types {
    text/html html htm; text/css css; text/javascript js mjs cjs; text/csv csv; text/vcard vcf; text/calendar ics; text/x-component htc;
    "text/plain; charset=utf-8" txt log; "text/markdown; charset=utf-8" md; application/json json map; application/manifest+json webmanifest;
    application/xml xml xsl; application/xhtml+xml xhtml; application/rss+xml rss; application/atom+xml atom; application/ld+json jsonld;
    application/geo+json geojson; application/wasm wasm; application/pdf pdf; application/rtf rtf; application/epub+zip epub;
    application/zip zip; application/gzip gz tgz; application/x-bzip2 bz2; application/x-xz xz; application/zstd zst; application/x-tar tar;
    application/x-7z-compressed 7z; application/vnd.rar rar; application/java-archive jar; application/vnd.android.package-archive apk;
    image/svg+xml svg svgz; image/png png; image/apng apng; image/jpeg jpg jpeg; image/gif gif; image/webp webp; image/avif avif; image/jxl jxl;
    image/x-icon ico cur; image/bmp bmp; image/tiff tif tiff; font/woff woff; font/woff2 woff2; font/ttf ttf; font/otf otf;
    font/collection ttc; application/vnd.ms-fontobject eot; audio/mpeg mp3; audio/ogg ogg oga opus; audio/mp4 m4a; audio/wav wav; audio/flac flac;
    audio/aac aac; video/mp4 mp4 m4v; video/webm webm; video/ogg ogv; video/quicktime mov; video/mp2t ts; application/vnd.apple.mpegurl m3u8;
    text/vtt vtt; model/gltf+json gltf; model/gltf-binary glb; application/msword doc; application/vnd.ms-excel xls; application/vnd.ms-powerpoint ppt;
    application/vnd.openxmlformats-officedocument.wordprocessingml.document docx;
    application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx;
    application/vnd.openxmlformats-officedocument.presentationml.presentation pptx;
    application/vnd.oasis.opendocument.text odt; application/vnd.oasis.opendocument.spreadsheet ods;
  }
  # Where FILE.br and FILE.gz are looked for: nowhere, unless the client accepts them.
  map $http_accept_encoding $br { default /dev/null; "~*(?:^|,)\s*br\s*(?:;\s*q=(?:1|0?\.0*[1-9])|,|$)" /www; }
  map $http_accept_encoding $gz { default /dev/null; "~*(?:^|,)\s*(?:x-)?gzip\s*(?:;\s*q=(?:1|0?\.0*[1-9])|,|$)" /www; }
  map $status $caching { default no-cache; "~^(?:200|206|304)$" $lasts; }
  map $status $encoding { default ""; "~^(?:200|304|404)$" $coding; }
  server {
    include /tmp/listen.conf;
    rewrite "^((?s).*/)$" $1index.html;
    # /about is about.html, as other hosts of static sites have it.
    set $bare "$uri";
    if (-f /www$uri) { set $bare /.none; }
    if (-f /www$bare.html) { rewrite "^((?s).*)$" $1.html; }
    set $lasts no-cache;
    %PAGE
    # Names with a hash of the content, as bundlers make them.
    set $hashed "";
    if ($uri ~ "^/(?:_app/immutable|_astro|_next/static|_nuxt(?!/builds/latest\.json$))/") { set $hashed yes; }
    if ($uri ~ "[-._/](?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{8,64}(?:_bg)?(?:\.(?:min|chunk|bundle|module|worker))*\.(?:%TYPES)(?:\.map)?$") { set $hashed yes; }
    if ($uri ~ "^/assets/[^/]+-(?=\w{8}\.)\w+[A-Z]\w*\.(?:m?js|css)(?:\.map)?$") { set $hashed yes; }
    if ($uri ~ "-(?=\w{8}\.)(?![A-Za-z][a-z]+(?:[A-Z][a-z]+)*[0-9]*\.)(?:\w+[A-Z]|[A-Z]\w*[0-9][A-Za-z]|\w*[0-9][a-z]\w*[0-9][a-z])\w*\.(?:m?js|css|wasm)(?:\.map)?$") { set $hashed yes; }
    if ($uri ~ "[-.](?=[\w-]{8}\.)(?=[\w-]*[a-z])(?=[\w-]+[A-Z])[\w-]*[0-9][A-Za-z][\w-]*\.(?:%TYPES)(?:\.map)?$") { set $hashed yes; }
    if ($uri ~ "[-.](?=[A-Z0-9]{8}\.)[A-Z0-9]*[0-9][A-Z][A-Z0-9]*\.(?:%TYPES)(?:\.map)?$") { set $hashed yes; }
    if ($hashed) { set $lasts "public, max-age=31536000, immutable"; %NONE}
    set $coding "";
    set $suffix "";
    set $varies "";
    if (-f /www$uri.gz) { set $varies Accept-Encoding; }
    if (-f /www$uri.br) { set $varies Accept-Encoding; }
    if (-f $gz$uri.gz) { set $coding gzip; set $suffix .gz; }
    if (-f $br$uri.br) { set $coding br; set $suffix .br; }
    if ($coding) { rewrite "^((?s).*)$" /.coded$1; }
    add_header Cache-Control $caching always;
    add_header Content-Encoding $encoding always;
    add_header Vary $varies always;
    location ~ "^/\.coded(/(?s).*)$" { internal; max_ranges 0; alias /www$1$suffix; error_page 404 %MISSING; }
    location ~ "^((?s).*)$" { alias /www$1; error_page 404 %MISSING; }
  }
}`

// hashable are the types of files that bundlers name after their content.
const hashable = `m?js|css|json|wasm|woff2?|ttf|otf|eot|svg|png|jpe?g|gif|webp|avif|ico|mp[34]|webm|og[gv]`

// siteServer starts nginx on $PORT, which its configuration cannot read.
var siteServer = []string{"#!/bin/sh", "set -e", `printf "listen %s;\n" "$PORT" >/tmp/listen.conf`, "exec nginx -e stderr -c /etc/nginx/site.conf"}

// serveStatic copies the files and configures the server. A path without a file gets
// 404 and the site's 404.html, if there is one.
func serveStatic(from string) []string {
	return serveSite(from, strings.NewReplacer("    %PAGE\n", "", "%NONE", "", "%MISSING", "/404.html"))
}

// serveApp copies a front end and configures the server: any path without a file belongs
// to the front end and gets index.html with status 200. A name with a hash does not: a
// browser that runs the previous version would take the page for a script.
func serveApp(from string) []string {
	return serveSite(from, strings.NewReplacer("%PAGE", "set $page /index.html;", "%NONE", "set $page /.none; ", "%MISSING", "= $page"))
}

func serveSite(from string, r *strings.Replacer) []string {
	conf := r.Replace(strings.ReplaceAll(siteConf, "%TYPES", hashable))
	return []string{
		"RUN printf '%s\\n' \\\n    '" + strings.ReplaceAll(conf, "\n", "' \\\n    '") + "' >/etc/nginx/site.conf \\\n" +
			" && printf '%s\\n' '" + strings.Join(siteServer, "' '") + "' >/usr/local/bin/serve-site && chmod 755 /usr/local/bin/serve-site",
		fmt.Sprintf("COPY %s /www", from),
	}
}

// site fills the plan for a site that staticCommand serves.
func (s *source) site(p *plan) error {
	if len(s.set.Packages) > 0 && s.set.BaseImage == "" {
		return noPackages()
	}
	p.image, p.user, p.entrypoint = staticImage, nobody, true
	return nil
}

// siteFolders are where the files of a site may be, if not at the top.
var siteFolders = []string{"public", "www", "htdocs", "html", "site", "_site", "dist", "build", "out"}

// siteSign returns the file that marks a tree as a static site.
func siteSign(s *source) string {
	return s.first("Staticfile", "static.json", "index.html", "public/index.html")
}

// siteBelow is the first index.html in another folder that usually has a site. A program
// may have such a folder as well, so it is looked for last.
func siteBelow(s *source) string {
	for _, d := range siteFolders {
		if f := d + "/index.html"; s.has(f) {
			return f
		}
	}
	return ""
}

// static is for files that are served unchanged.
func static(s *source, p *plan) error {
	declared, err := staticFile(s)
	if err != nil {
		return err
	}
	dir, why := ".", "index.html"
	for _, d := range siteFolders {
		if s.has(d + "/index.html") {
			dir, why = d, d+"/index.html"
			break
		}
	}
	switch {
	case s.set.Output != "":
		dir, why = strings.Trim(s.set.Output, "/"), "output"
	case declared.root != "":
		dir, why = declared.root, declared.from
	case s.has("index.html") && dir != "public":
		dir, why = ".", "index.html"
	}
	where := dir + "/"
	if dir == "." {
		where, p.open = "the whole repository", true
	} else if !s.dir(dir) {
		return mesh.Errorf(mesh.Invalid, "%s names the folder %s, which the repository does not have", why, dir).
			WithHint("commit it, or correct the name; if a build makes it, add a package.json with that build, or a Dockerfile")
	}
	if err := s.site(p); err != nil {
		return err
	}
	p.found("serves "+where, why)
	p.ignores(declared.ignored, declared.from)
	p.ignores(s.present("nginx.conf", "httpd.conf", "Caddyfile", ".htaccess", dir+"/.htaccess"), "of another web server")
	p.final = serveStatic(dir)
	if declared.fallback {
		p.found("serves index.html for any other path", declared.from)
		p.final = serveApp(dir)
	}
	return s.start(p, staticCommand, staticServer, "index.html")
}

// ignores records what has no effect, which somebody may count on.
func (p *plan) ignores(what []string, why string) {
	if len(what) > 0 {
		slices.Sort(what)
		p.found("ignores "+strings.Join(slices.Compact(what), ", "), why+"; a Dockerfile can serve the site in another way")
	}
}
