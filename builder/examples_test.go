//go:build !race

package builder_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"mesh"
	"mesh/builder"
)

// checkout reads a folder as a tree.
func checkout(t *testing.T, dir string) tree {
	t.Helper()
	files := tree{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		name, _ := filepath.Rel(dir, p)
		files[filepath.ToSlash(name)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Each example is a small application with real dependencies and no Dockerfile. It
// builds, runs without privileges, answers on $PORT and stops on SIGTERM; a rebuild
// after an edit installs nothing again; and docker build of the generated file gives
// the same image.
func TestBuild_Examples(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bases    string
		headline string
		facts    []string
		answer   string
		edit     string // a file with Hello in it
		cached   string // the step that must not run again
	}{
		"go": {
			"debian golang",
			"Go, because there is a go.mod",
			[]string{"Go 1.26  ", "package main in the root"},
			"Hello from Go, request ",
			"main.go",
			"RUN --mount=type=cache,target=/go/pkg/mod go mod download",
		},
		"node": {
			"debian node",
			"Node (Express), because there is a package.json",
			[]string{"Node 20  ", "engines.node", "npm ci --omit=dev  ", "package-lock.json"},
			"Hello from Node\n",
			"index.js",
			"npm ci",
		},
		"python": {
			"debian python",
			"Python (Flask), because there is a requirements.txt",
			[]string{"Python 3.11  ", ".python-version", "gunicorn"},
			"Hello from Python\n",
			"app.py",
			"pip install",
		},
		"ruby": {
			"debian ruby",
			"Ruby (Sinatra), because there is a Gemfile",
			[]string{"Ruby 3.1  ", ".ruby-version", "config.ru, with puma"},
			"Hello from Ruby\n",
			"app.rb",
			"bundle install",
		},
		"php": {
			"debian php",
			"PHP, because there is a composer.json",
			[]string{"PHP 8.2  ", "composer install", "serves public/ with Apache"},
			"Hello from PHP\n",
			"packages/greet/src/Greeter.php",
			"RUN useradd",
		},
		"static": {
			"nginx",
			"Static site, because there is a public/index.html",
			[]string{"serves public/"},
			"<!doctype html>\n<title>Hello</title>",
			"public/index.html",
			"RUN printf",
		},
		"deno": {
			"debian deno",
			"Deno, because there is a deno.json",
			[]string{"deno install --frozen  ", "tasks.start in deno.json"},
			"Hello from Deno\n",
			"main.ts",
			"RUN deno install --frozen",
		},
		"rust": {
			"debian rust",
			"Rust, because there is a Cargo.toml",
			[]string{"Rust 1  ", "cargo build --release --locked  ", "starts hello"},
			"Hello from Rust\n",
			"src/main.rs",
			"mkdir -p src && echo 'fn main() {}'",
		},
		"java": {
			"debian java",
			"Java, because there is a pom.xml",
			[]string{"Java 17  ", "mvn --batch-mode -DskipTests package  "},
			`{"message":"Hello from Java"}`,
			"src/main/java/hello/Main.java",
			"RUN useradd",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bases(t, strings.Fields(c.bases)...)
			b := newBench(t)
			files := checkout(t, "../examples/"+name)
			began := time.Now()
			img, out := b.must(b.req(files))
			t.Logf("first build %s, %d MB", time.Since(began).Round(10*time.Millisecond), img.Size/1e6)
			for _, want := range append([]string{"-----> Building without a Dockerfile: " + c.headline}, c.facts...) {
				if !strings.Contains(out, want) {
					t.Errorf("the output lacks %q", want)
				}
			}
			if user := userOf(t, img.ID); user == "" || user == "root" || user == "0" {
				t.Errorf("it runs as %q", user)
			}
			serves(t, img, c.answer)
			byHand(t, b, files, img)

			// The file keeps its size, and the time of a pushed file says nothing:
			// only the content does.
			hallo := strings.NewReplacer("Hello", "Hallo")
			files[c.edit] = hallo.Replace(files[c.edit])
			began = time.Now()
			img, out = b.must(b.req(files))
			serves(t, img, hallo.Replace(c.answer))
			t.Logf("after an edit %s", time.Since(began).Round(10*time.Millisecond))
			if !wasCached(out, c.cached) {
				t.Errorf("%q ran again", c.cached)
			}
		})
	}
}

// serves runs an image as mesh does and requests / and then the paths, which have
// the same answer.
func serves(t *testing.T, img mesh.Image, want string, paths ...string) {
	t.Helper()
	url, id, stop := launched(t, img)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	paths = append([]string{"/"}, paths...)
	for {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+paths[0], nil)
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || !strings.Contains(string(body), want) {
				t.Errorf("%s: answer %d %q, want %q", paths[0], resp.StatusCode, body, want)
			}
			if paths = paths[1:]; len(paths) == 0 {
				break
			}
			continue
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			logs, _ := exec.Command("docker", "logs", id).CombinedOutput()
			t.Fatalf("no answer: %v\n%s", err, logs)
		}
	}
	stop()
}

// launched runs an image as mesh does, until the test ends. stop ends it before, and
// fails if it needs SIGKILL.
func launched(t *testing.T, img mesh.Image, env ...string) (url, id string, stop func()) {
	t.Helper()
	ctx := t.Context()
	init := true
	c, err := cli.ContainerCreate(ctx, &container.Config{Image: img.ID, Env: append(env, "PORT=8123"), StopSignal: "SIGTERM", Labels: map[string]string{testLabel: run}},
		&container.HostConfig{Init: &init, SecurityOpt: []string{"no-new-privileges"}}, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cli.ContainerRemove(context.WithoutCancel(ctx), c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
	})
	if err := cli.ContainerStart(ctx, c.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	in, err := cli.ContainerInspect(ctx, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + in.NetworkSettings.Networks["bridge"].IPAddress + ":8123", c.ID, func() {
		grace := 60
		if err := cli.ContainerStop(ctx, c.ID, container.StopOptions{Timeout: &grace}); err != nil {
			t.Error(err)
		}
		if in, err := cli.ContainerInspect(ctx, c.ID); err != nil || in.State.ExitCode == 128+int(syscall.SIGKILL) {
			t.Errorf("SIGTERM is not heeded: exit status %d, %v", in.State.ExitCode, err)
		}
	}
}

// byHand builds the generated Dockerfile with docker build in a checkout, and
// compares the images: same files, same config.
func byHand(t *testing.T, b *bench, files tree, img mesh.Image) {
	t.Helper()
	text, managed, err := b.Dockerfile(files, mesh.Settings{})
	if err != nil || !managed {
		t.Fatalf("generated: %v, %v", managed, err)
	}
	dir := t.TempDir()
	files = cloned(files)
	for name, s := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".dockerignore"), []byte(builder.Ignored+"Dockerfile\n.dockerignore\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tag := fmt.Sprintf("mesh-test/byhand-%s:%d", run, stacks.Add(1))
	// With mesh's own cache mounts: what is built in them is never the same to the
	// byte, such as jars and Composer's autoloader.
	cmd := exec.CommandContext(t.Context(), dockerCLI(), "build", "-q", "-t", tag, "--label", testLabel+"="+run,
		"--build-arg", fmt.Sprintf("BUILDKIT_CACHE_MOUNT_NS=%s/%s/%d", b.server, b.stack, b.times.kept.First.UnixNano()), dir)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docker build: %v\n%s\n%s", err, out, text)
	}
	defer exec.Command("docker", "rmi", "-f", tag).Run()
	ours, theirs := content(t, img.ID), content(t, tag)
	if ours != theirs {
		t.Errorf("docker build gives another image:\n%s", difference(theirs, ours))
	}
	a, _ := cli.ImageInspect(t.Context(), img.ID)
	h, _ := cli.ImageInspect(t.Context(), tag)
	x, y := a.Config, h.Config
	if fmt.Sprint(x.Cmd, x.Entrypoint, x.Env, x.User, x.WorkingDir) != fmt.Sprint(y.Cmd, y.Entrypoint, y.Env, y.User, y.WorkingDir) {
		t.Errorf("docker build gives another config:\n%v\n%v", x, y)
	}
}

// content lists the files of an image below /app and /usr/local with modes, owners
// and hashes, without those that tools write differently each time.
func content(t *testing.T, ref string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "docker", "run", "--rm", "--network=none", "--user=0", "--entrypoint=/bin/sh", "--label", testLabel+"="+run, ref, "-c",
		`for d in /app /www /venv /usr/local/bin /usr/local/bundle /etc/nginx/site.conf; do [ -e $d ] && find $d -type f ! -name '*.pyc' ! -name '.package-lock.json' -exec stat -c '%A %u %g %n' {} + && find $d -type f ! -name '*.pyc' ! -name RECORD -exec sha256sum {} +; done | sort`)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list %s: %v\n%s", ref, err, stderr.String())
	}
	return string(out)
}

func difference(a, b string) string {
	var out []string
	in := map[string]bool{}
	for l := range strings.SplitSeq(a, "\n") {
		in[l] = true
	}
	for l := range strings.SplitSeq(b, "\n") {
		if !in[l] {
			out = append(out, "mesh only: "+l)
		}
		delete(in, l)
	}
	for l := range in {
		out = append(out, "docker only: "+l)
	}
	slices.Sort(out)
	return strings.Join(out[:min(20, len(out))], "\n")
}

// dockerCLI is the client that came with the engine: another one may lack the build
// plugin.
func dockerCLI() string {
	if _, err := os.Stat("/usr/bin/docker"); err == nil {
		return "/usr/bin/docker"
	}
	return "docker"
}
