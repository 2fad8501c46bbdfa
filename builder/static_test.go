//go:build !race

package builder_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const forever = "public, max-age=31536000, immutable"

// hashedNames are names that bundlers make, and names that people do.
var hashedNames = map[string]bool{
	"/assets/index-DiwrgTd4.css": true, "/assets/index-BQL_bWcT.js": true, "/assets/index-a1b2c3z9.js": true, "/js/b-X1a2-zQ_.js": true, "/assets/index-DiwrgTda.css": true, // Vite
	"/assets/logo-Bq1aZx2y.png": true, "/assets/inter-C4x7Yz1q.woff2": true,
	"/static/js/main.3f2a1b4c.js": true, "/static/js/787.3f2a1b4c.chunk.js": true, "/static/media/logo.6ce24c58023cc2f8fd88fe9d219db6c6.svg": true, // webpack
	"/static/js/main.3f2a1b4c.js.map": true, "/3f2a1b4c9d8e7f605142.js": true,
	"/main-FFHMD2TL.js": true, "/polyfills-ABCDEFGH.js": true, "/media/logo-5INURTSO.svg": true, "/chunk-7QRLV3BQ.js": true, // Angular, esbuild
	"/_app/immutable/entry/start.js": true, "/_astro/hoisted.css": true, "/_next/static/abc/_buildManifest.js": true, "/_nuxt/entry.js": true,
	"/css/site.min.0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9.css": true, "/assets/application-0a1b2c3d.css": true, // Hugo, Propshaft
	"/assets/javascripts/bundle.d7c377c4.min.js": true, "/app-0123456789abcdef_bg.wasm": true, // MkDocs, Trunk

	"/": false, "/index.html": false, "/app.js": false, "/style.css": false, "/js/jquery-3.7.1.min.js": false, "/js/jquery.scrollTo.js": false,
	"/js/jquery-scrollTo.js": false, "/assets/js/jquery-scrollTo.js": false, "/assets/my-settings.js": false, "/js/jquery.DataTables.js": false, "/js/x-MyWidget.js": false, "/js/my-settings.js": false, "/js/chapter-section1.js": false,
	"/css/layout-3columns.css": false, "/img/report-20240131.png": false, "/img/photo-IMG_1234.jpg": false, "/img/IMG-20240131-WA0001.jpg": false,
	"/img/x-DSC01234.jpg": false, "/img/logo-Retina2x.png": false, "/img/a-deadbeef.png": false, "/img/Screenshot-2024-01-31T10.png": false, "/fonts/a-Regular.woff2": false,
	"/_nuxt/builds/latest.json": false, "/files/report-3f2a1b4c.pdf": false, "/page-3f2a1b4c.html": false, "/_astroid/x.js": false, "/js/app-v2beta10.js": false,
}

func zipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.String()
}

// site is what asks are about.
type site struct {
	t    *testing.T
	base string
}

func (s site) ask(method, path string, fields ...string) (*http.Response, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.base+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	tr := &http.Transport{DisableCompression: true}
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res, string(body)
}

// want asks, and compares what matters: the status, the fields Cache-Control,
// Content-Encoding and Vary, and the body.
func (s site) want(path, accept string, status int, caching, coding, vary, body string) *http.Response {
	s.t.Helper()
	res, got := s.ask(http.MethodGet, path, "Accept-Encoding", accept)
	fields := []string{strings.Join(res.Header["Cache-Control"], "|"), strings.Join(res.Header["Content-Encoding"], "|"), strings.Join(res.Header["Vary"], "|")}
	if res.StatusCode != status || !equal(fields, caching, coding, vary) || got != body {
		s.t.Errorf("%s, accepting %q: %d %q %q, want %d %q %q", path, accept, res.StatusCode, fields, got, status, []string{caching, coding, vary}, body)
	}
	return res
}

func equal(list []string, want ...string) bool {
	return strings.Join(list, "\n") == strings.Join(want, "\n")
}

// opened builds a tree and runs it, and returns when it answers.
func opened(t *testing.T, files tree, set ...string) site {
	t.Helper()
	b := newBench(t)
	req := b.req(files)
	for _, s := range set {
		name, v, _ := strings.Cut(s, "=")
		if err := req.Settings.Set(name, v); err != nil {
			t.Fatal(err)
		}
	}
	img, _ := b.must(req)
	url, id, _ := launched(t, img)
	for range time.Tick(20 * time.Millisecond) {
		if res, err := http.Get(url + "/"); err == nil { //nolint:noctx // it answers at once, or refuses
			res.Body.Close()
			break
		}
		if t.Context().Err() != nil {
			logs, _ := exec.Command("docker", "logs", id).CombinedOutput()
			t.Fatalf("no answer\n%s", logs)
		}
	}
	t.Cleanup(func() {
		if logs, _ := exec.Command("docker", "logs", id).CombinedOutput(); len(logs) > 0 {
			t.Errorf("the server printed:\n%s", logs)
		}
	})
	return site{t, url}
}

func TestBuild_StaticSite(t *testing.T) {
	t.Parallel()
	bases(t, "nginx")
	script := strings.Repeat("console.log('hello')\n", 100)
	files := tree{
		"public/index.html": "home", "public/404.html": "no such page", "public/404.html.gz": zipped("no such page"),
		"public/docs/index.html": "docs", "public/docs/index.html.br": "docs in brotli", "public/sp ace.txt": "ü",
		"public/app.js": script, "public/app.js.gz": zipped(script), "public/app.js.br": "script in brotli", "public/only.css": "a{}", "public/only.css.gz": zipped("a{}"),
		"public/x.mjs": "1", "public/x.wasm": "1", "public/x.unknown": "1", "public/x.webmanifest": "{}", "public/x.tar.gz": "1", "public/empty/deep/x.txt": "1",
		"public/guide.html": "guide", "public/guide.html.br": "guide in brotli", "public/guide/part.html": "part", "public/both": "file", "public/both.html": "page",
	}
	for name := range hashedNames {
		if p := "public" + name; files[p] == "" && !strings.HasSuffix(name, "/") {
			files[p] = "content of " + name
		}
	}
	s := opened(t, files)

	const ae = "Accept-Encoding"
	s.want("/", "br, gzip", 200, "no-cache", "", "", "home")
	s.want("/docs/", "", 200, "no-cache", "", ae, "docs")
	s.want("/docs/", "gzip, deflate, br", 200, "no-cache", "br", ae, "docs in brotli")
	s.want("/app.js", "", 200, "no-cache", "", ae, script)
	s.want("/app.js", "identity", 200, "no-cache", "", ae, script)
	s.want("/app.js", "gzip, deflate, br, zstd", 200, "no-cache", "br", ae, "script in brotli")
	s.want("/app.js", "BR;q=0.5,gzip", 200, "no-cache", "br", ae, "script in brotli")
	s.want("/app.js", "gzip;q=1.0, br;q=0", 200, "no-cache", "gzip", ae, zipped(script))
	s.want("/app.js", "x-gzip ; q=0.001, br;q=0.000", 200, "no-cache", "gzip", ae, zipped(script))
	s.want("/app.js", "gzip;q=0, br;q=0.0, *", 200, "no-cache", "", ae, script)
	s.want("/app.js", "brotli, notgzip, gzipped", 200, "no-cache", "", ae, script)
	s.want("/only.css", "br", 200, "no-cache", "", ae, "a{}")
	s.want("/only.css", "br, gzip", 200, "no-cache", "gzip", ae, zipped("a{}"))
	for path, kind := range map[string]string{
		"/": "text/html", "/app.js": "text/javascript", "/only.css": "text/css", "/x.mjs": "text/javascript", "/x.wasm": "application/wasm", "/x.unknown": "application/octet-stream",
		"/x.webmanifest": "application/manifest+json", "/sp%20ace.txt": "text/plain; charset=utf-8", "/x.tar.gz": "application/gzip", "/nothing": "text/html",
	} {
		if res, _ := s.ask("GET", path, ae, "gzip, br"); res.Header.Get("Content-Type") != kind {
			t.Errorf("%s is %s", path, res.Header.Get("Content-Type"))
		}
	}
	s.want("/guide", "", 200, "no-cache", "", ae, "guide")
	s.want("/guide?x=1", "br", 200, "no-cache", "br", ae, "guide in brotli")
	s.want("/guide/part", "", 200, "no-cache", "", "", "part")
	s.want("/both", "", 200, "no-cache", "", "", "file")

	// Unknown paths.
	for _, path := range []string{"/nothing", "/docs/nothing.html", "/empty/", "/empty/deep/", "/app.js/x", "/gone-3f2a1b4c.js", "/a%0d%0aX:y", "/.coded/nothing"} {
		s.want(path, "", 404, "no-cache", "", ae, "no such page")
	}
	s.want("/nothing", "gzip", 404, "no-cache", "gzip", ae, zipped("no such page"))
	for path, to := range map[string]string{"/docs": "/docs/", "/docs?x=1": "/docs/?x=1", "/empty/deep": "/empty/deep/"} {
		if res, _ := s.ask("GET", path); res.StatusCode != 301 || res.Header.Get("Location") != to || res.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d %v", path, res.StatusCode, res.Header)
		}
	}
	if res, body := s.ask("POST", "/app.js", ae, "br"); res.StatusCode != 405 || res.Header.Get("Content-Encoding") != "" || !strings.Contains(body, "Not Allowed") {
		t.Errorf("POST: %d %v %q", res.StatusCode, res.Header, body)
	}
	if res, body := s.ask("GET", "/.coded/app.js"); res.StatusCode != 404 {
		t.Errorf("an inner name: %d %q", res.StatusCode, body)
	}

	// A copy that a client has is not sent again, and each coding has its own tag.
	tags := map[string]string{}
	for _, accept := range []string{"", "gzip", "br"} {
		res, whole := s.ask("HEAD", "/app.js", ae, accept)
		tag := res.Header.Get("Etag")
		if tag == "" || tags[tag] != "" || whole != "" || res.Header.Get("Last-Modified") == "" {
			t.Errorf("accepting %q: %v, %q", accept, res.Header, whole)
		}
		tags[tag] = accept + "!"
		if res, body := s.ask("GET", "/app.js", ae, accept, "If-None-Match", tag); res.StatusCode != 304 || body != "" || res.Header.Get("Etag") != tag || res.Header.Get("Cache-Control") != "no-cache" || res.Header.Get("Vary") != ae {
			t.Errorf("accepting %q, with its tag: %d %v", accept, res.StatusCode, res.Header)
		}
		if res, _ := s.ask("GET", "/app.js", ae, accept, "If-None-Match", `"other"`); res.StatusCode != 200 {
			t.Errorf("accepting %q, with another tag: %d", accept, res.StatusCode)
		}
	}
	if res, _ := s.ask("GET", "/assets/index-DiwrgTd4.css", "If-Modified-Since", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)); res.StatusCode == 200 && res.Header.Get("Cache-Control") != forever {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}

	// Ranges, of files as they are.
	res, body := s.ask("GET", "/app.js", "Range", "bytes=8-10")
	if res.StatusCode != 206 || body != "log" || res.Header.Get("Content-Range") != "bytes 8-10/2100" || res.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("a range: %d %q %v", res.StatusCode, body, res.Header)
	}
	if res, body := s.ask("GET", "/app.js", "Range", "bytes=8-10", "If-Range", `"other"`); res.StatusCode != 200 || body != script {
		t.Errorf("a range of another version: %d %v", res.StatusCode, res.Header)
	}
	if res, _ := s.ask("GET", "/app.js", "Range", "bytes=9999-"); res.StatusCode != 416 || res.Header.Get("Content-Range") != "bytes */2100" {
		t.Errorf("a range behind the end: %d %v", res.StatusCode, res.Header)
	}
	if res, body := s.ask("GET", "/app.js", ae, "br", "Range", "bytes=9999-"); res.StatusCode != 200 || body != "script in brotli" {
		t.Errorf("a range of a compressed file: %d %v", res.StatusCode, res.Header)
	}

	for name, hashed := range hashedNames {
		want := map[bool]string{true: forever, false: "no-cache"}[hashed]
		if res, _ := s.ask("GET", name); res.StatusCode != 200 || strings.Join(res.Header["Cache-Control"], "|") != want {
			t.Errorf("%s: %d %q, want %q", name, res.StatusCode, res.Header["Cache-Control"], want)
		}
	}
}

// A front end gets every path that has no file, except names with a hash: those are of
// another version.
func TestBuild_StaticApp(t *testing.T) {
	t.Parallel()
	bases(t, "nginx", "node")
	s := opened(t, tree{
		"package.json":      `{"name":"front","private":true,"engines":{"node":"20"},"scripts":{"build":"cp -r src dist"},"devDependencies":{"vite":"file:vite"}}`,
		"vite/package.json": `{"name":"vite","version":"5.0.0"}`,
		"src/index.html":    "the app", "src/index.html.br": "the app in brotli", "src/assets/index-DiwrgTd4.js": "script", "src/logo.svg": "<svg/>", "src/404.html": "not used",
	})
	const ae = "Accept-Encoding"
	s.want("/", "", 200, "no-cache", "", ae, "the app")
	s.want("/orders/7/edit", "", 200, "no-cache", "", ae, "the app")
	s.want("/orders/7/edit?x=1", "gzip, br", 200, "no-cache", "br", ae, "the app in brotli")
	s.want("/assets/", "", 200, "no-cache", "", ae, "the app")
	s.want("/assets/index-DiwrgTd4.js", "br", 200, forever, "", "", "script")
	s.want("/logo.svg", "br", 200, "no-cache", "", "", "<svg/>")
	for _, gone := range []string{"/assets/index-AbcdEf12.js", "/main.0a1b2c3d.js"} {
		if res, body := s.ask("GET", gone); res.StatusCode != 404 || strings.Contains(body, "the app") || res.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d %v %q", gone, res.StatusCode, res.Header, body)
		}
	}
	if res, body := s.ask("GET", "/.none"); res.StatusCode != 200 || body != "the app" {
		t.Errorf("/.none: %d %q", res.StatusCode, body)
	}
}
