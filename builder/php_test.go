//go:build !race

package builder_test

import (
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// phpSite answers every path with what PHP sees of the request.
var phpSite = tree{
	".php-version": "8.2\n",
	"public/index.php": `<?php
ob_start();
echo "front controller ", $_SERVER['REQUEST_URI'], "\n",
  "https ", $_SERVER['HTTPS'] ?? 'off', "\n",
  "client ", $_SERVER['REMOTE_ADDR'], "\n",
  "greeting ", $_SERVER['GREETING'] ?? '', getenv('GREETING'), "\n",
  "limits ", ini_get('upload_max_filesize'), " ", ini_get('memory_limit'), " ", ini_get('display_errors'), "\n",
  "opcache ", extension_loaded('Zend OPcache') ? 'on' : 'off', "\n",
  "uploaded ", $_FILES['file']['size'] ?? 0, "\n";
error_log("logged by PHP");
if (isset($_GET['slow'])) { ob_flush(); flush(); usleep(1500000); echo "done\n"; }
`,
	"public/.user.ini":                    "memory_limit = 77M\n",
	"public/.env":                         "SECRET=1\n",
	"public/.git/config":                  "secret\n",
	"public/.well-known/security.txt":     "Contact: me\n",
	"public/style.css":                    "body {}\n",
	"public/build/assets/app-BqX81kd2.js": "console.log(1)\n",
	"public/docs/index.html":              "<h1>Docs</h1>\n",
	"public/empty/.keep":                  "",
	"public/old/.htaccess":                "RewriteEngine On\nRewriteRule ^here$ /style.css [L]\n",
}

func TestBuild_PHPServer(t *testing.T) {
	t.Parallel()
	bases(t, "debian", "php")
	b := newBench(t)
	img, out := b.must(b.req(phpSite))
	if !strings.Contains(out, "serves public/ with Apache") {
		t.Errorf("the output lacks the server:\n%s", out)
	}
	url, id, stop := launched(t, img, "GREETING=hello")
	get := func(path string, header ...string) (*http.Response, string) {
		t.Helper()
		return answers(t, url+path, header...)
	}
	for name, c := range map[string]struct {
		path   string
		header []string
		status int
		body   []string
	}{
		"the front controller":     {"/", nil, 200, []string{"front controller /\n", "https off", "greeting hellohello", "limits 100M 77M \n", "opcache on"}},
		"a path with a dot":        {"/sitemap.xml", nil, 200, []string{"front controller /sitemap.xml\n"}},
		"a path with a type":       {"/livewire/livewire.js?id=1", nil, 200, []string{"front controller /livewire/livewire.js?id=1\n"}},
		"a folder without a page":  {"/empty/", nil, 200, []string{"front controller /empty/\n"}},
		"a program that is absent": {"/nope.php", nil, 404, nil},
		"behind https":             {"/", []string{"X-Forwarded-Proto", "https", "X-Forwarded-For", "203.0.113.9"}, 200, []string{"https on", "client 203.0.113.9"}},
		".env":                     {"/.env", nil, 404, nil},
		".git":                     {"/.git/config", nil, 404, nil},
		".htaccess":                {"/old/.htaccess", nil, 404, nil},
		".well-known":              {"/.well-known/security.txt", nil, 200, []string{"Contact: me"}},
		"rules of .htaccess":       {"/old/here", nil, 200, []string{"body {}"}},
		"a page in a folder":       {"/docs/", nil, 200, []string{"Docs"}},
	} {
		resp, body := get(c.path, c.header...)
		if resp.StatusCode != c.status {
			t.Errorf("%s: status %d, want %d", name, resp.StatusCode, c.status)
		}
		for _, want := range c.body {
			if !strings.Contains(body, want) {
				t.Errorf("%s: %q lacks %q", name, body, want)
			}
		}
	}
	for path, want := range map[string]string{"/style.css": "no-cache", "/build/assets/app-BqX81kd2.js": "public, max-age=31536000, immutable", "/build/assets/gone-BqX81kd2.js": ""} {
		if resp, _ := get(path); resp.Header.Get("Cache-Control") != want {
			t.Errorf("%s: Cache-Control %q, want %q", path, resp.Header.Get("Cache-Control"), want)
		}
	}
	if resp, _ := get("/docs", "X-Forwarded-Proto", "https", "Host", "app.example.test"); resp.Header.Get("Location") != "https://app.example.test/docs/" {
		t.Errorf("/docs leads to %q", resp.Header.Get("Location"))
	}
	upload := strings.NewReader("--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n" + strings.Repeat("a", 99<<20) + "\r\n--x--\r\n")
	if resp, err := http.Post(url+"/", "multipart/form-data; boundary=x", upload); err != nil {
		t.Error(err)
	} else {
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.Contains(string(body), "uploaded 103809024") {
			t.Errorf("an upload of 99 MB: %d %q", resp.StatusCode, body)
		}
	}
	logs, _ := exec.Command("docker", "logs", id).CombinedOutput()
	if !strings.Contains(string(logs), "logged by PHP") {
		t.Errorf("the log lacks PHP's line:\n%s", logs)
	}
	// A request that runs when the signal comes is answered.
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/?slow=1", nil)
	req.Header.Set("Accept-Encoding", "identity") // compression would hold back the beginning
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stop()
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.HasSuffix(string(body), "done\n") {
		t.Errorf("a request during the stop: %q, %v", body, err)
	}
}

// answers requests a URL with header fields, as soon as the server listens, and returns
// the answer itself, not what a redirect leads to.
func answers(t *testing.T, url string, header ...string) (*http.Response, string) {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	deadline := time.After(30 * time.Second)
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		resp, err := client.Do(req)
		if err == nil {
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return resp, string(body)
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}
