package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	docker "github.com/docker/docker/client"

	"mesh/enginetest"
)

// TestImage runs the server as a container of the Dockerfile's image, with the host's
// engine: a push, a restart, and a new container on the old data.
func TestImage(t *testing.T) {
	t.Parallel()
	enginetest.Beside(t)
	c := testEngine.Client
	tag := "mesh-test/server:" + runID
	buildImage(t, tag)
	t.Cleanup(func() {
		_, err := c.ImageRemove(context.WithoutCancel(t.Context()), tag, image.RemoveOptions{Force: true, PruneChildren: true})
		if err != nil {
			t.Error(err)
		}
	})

	s := &contained{t: t, engine: c, image: tag, data: t.TempDir()}
	t.Cleanup(s.clean)
	s.create()
	s.start()
	work := t.TempDir()
	mustRun(t, work, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(work, "key"))
	pub, err := os.ReadFile(filepath.Join(work, "key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s.configure(work)
	s.mesh(pub, "ssh-keys:add", "laptop")

	app := filepath.Join(work, "shop")
	for name, data := range map[string][]byte{
		"app": []byte(fixture), "version": []byte("v1\n"), "Dockerfile": []byte("FROM scratch\nCOPY app version /\nCMD [\"/app\"]\n"),
	} {
		if err := os.MkdirAll(app, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(app, name), data, 0o755); err != nil { //nolint:gosec // one of them is a program
			t.Fatal(err)
		}
	}
	git := func(args ...string) string {
		t.Helper()
		return mustRun(t, app, []string{
			"HOME=" + work, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_SSH_COMMAND=ssh -F " + filepath.Join(work, "ssh_config"),
			"GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.test", "GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.test",
		}, "git", args...)
	}
	git("init", "-q", "-b", "main")
	git("add", "-A")
	git("commit", "-q", "-m", "Version v1")
	if out := git("push", "mesh:shop", "main"); !strings.Contains(out, "Traffic switched to v1") {
		t.Fatalf("the push printed:\n%s", out)
	}
	s.asks("shop.localhost", "hello from v1")

	// The same container again, perhaps with a new address.
	s.restart()
	s.asks("shop.localhost", "hello from v1")

	// A new container, as after an upgrade, must join the stack's network.
	s.remove()
	s.create()
	s.start()
	s.configure(work)
	s.asks("shop.localhost", "hello from v1")
	if err := os.WriteFile(filepath.Join(app, "version"), []byte("v2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	git("commit", "-q", "-a", "-m", "Version v2")
	git("push", "mesh:shop", "main")
	s.asks("shop.localhost", "hello from v2")

	// Its own presence in the network does not keep the stack from being destroyed.
	mustRun(t, work, nil, "ssh", "-F", filepath.Join(work, "ssh_config"), "mesh", "stacks:destroy -a shop --confirm shop")
	s.hasNothing()
}

// mustRun runs a program and returns its output.
func mustRun(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// buildImage builds the Dockerfile as "make image" does, in a folder with only the
// needed files.
func buildImage(t *testing.T, tag string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"Dockerfile", ".dockerignore"} {
		data, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mustRun(t, ".", []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-ldflags=-s -w -X main.version=image-test", "-o", filepath.Join(dir, "bin", "mesh"), ".")
	t.Log(mustRun(t, filepath.Join("..", ".."), nil, "scripts/base-images", "debian"))
	mustRun(t, dir, []string{"DOCKER_BUILDKIT=1"}, dockerCLI(t), "build", "-q", "--build-arg", "BINARY=prebuilt", "-t", tag, ".")
}

// dockerCLI finds a client that can build with BuildKit: with a plugin, or by itself,
// as before version 23.
func dockerCLI(t *testing.T) string {
	t.Helper()
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, "docker")
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if exec.CommandContext(t.Context(), path, "buildx", "version").Run() == nil {
			return path
		}
		out, err := exec.CommandContext(t.Context(), path, "version", "--format", "{{.Client.Version}}").Output()
		major, _, _ := strings.Cut(string(out), ".")
		if n, nerr := strconv.Atoi(major); err == nil && nerr == nil && n < 23 {
			return path
		}
	}
	t.Fatal("no docker command here can build with BuildKit: install docker.io or docker-buildx")
	return ""
}

// contained is the server in a container.
type contained struct {
	t      *testing.T
	engine *docker.Client
	image  string
	data   string
	id     string // of the container
	addr   string // of the container, in the engine's default network
}

func (s *contained) create() {
	s.t.Helper()
	made, err := s.engine.ContainerCreate(s.t.Context(), &container.Config{
		Image: s.image, Labels: testEngine.Labels(),
	}, &container.HostConfig{Mounts: []mount.Mount{
		{Type: mount.TypeBind, Source: "/var/run/docker.sock", Target: "/var/run/docker.sock"},
		{Type: mount.TypeBind, Source: s.data, Target: "/var/lib/mesh"},
	}}, nil, nil, "mesh-test-server-"+runID)
	if err != nil {
		s.t.Fatal(err)
	}
	s.id = made.ID
}

// start starts the container and waits until the server in it is ready.
func (s *contained) start() {
	s.t.Helper()
	if err := s.engine.ContainerStart(s.t.Context(), s.id, container.StartOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.ready()
}

func (s *contained) restart() {
	s.t.Helper()
	began := time.Now()
	grace := 60
	if err := s.engine.ContainerRestart(s.t.Context(), s.id, container.StopOptions{Timeout: &grace}); err != nil {
		s.t.Fatal(err)
	}
	if took := time.Since(began); took > 30*time.Second {
		s.t.Errorf("an idle server took %s to stop and start", took)
	}
	s.ready()
}

func (s *contained) ready() {
	s.t.Helper()
	err := poll(func() error {
		// A killed server may have left ready.json behind, so wait until the client
		// gets an answer.
		_, err := s.exec(nil, "mesh", "version")
		return err
	})
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.logs())
	}
	in, err := s.engine.ContainerInspect(s.t.Context(), s.id)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = in.NetworkSettings.Networks[network.NetworkBridge].IPAddress
}

func (s *contained) logs() string {
	out, _ := exec.Command("docker", "logs", s.id).CombinedOutput() //nolint:noctx // for a failed test
	return string(out)
}

// configure writes the ssh configuration for the server's address.
func (s *contained) configure(work string) {
	s.t.Helper()
	text := fmt.Sprintf(`Host mesh
  HostName %s
  Port 2222
  User mesh
  IdentityFile %s/key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile %s/known_hosts
  HostKeyAlias mesh
  StrictHostKeyChecking accept-new
  LogLevel ERROR
`, s.addr, work, work)
	if err := os.WriteFile(filepath.Join(work, "ssh_config"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// mesh runs the client in the container, over the local socket.
func (s *contained) mesh(stdin []byte, args ...string) {
	s.t.Helper()
	out, err := s.exec(stdin, append([]string{"mesh"}, args...)...)
	if err != nil {
		s.t.Fatalf("mesh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (s *contained) exec(stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(s.t.Context(), "docker", append([]string{"exec", "-i", s.id}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return string(out), err
}

// asks sends a request to the router in the container.
func (s *contained) asks(host, want string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.addr+":8080/", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Host = host
	client := http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.logs())
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || !strings.Contains(string(body), want) {
		s.t.Fatalf("%s answered %d %q (%v), want %q\n%s", host, res.StatusCode, body, err, want, s.logs())
	}
}

// hasNothing fails if the engine still has something of the server.
func (s *contained) hasNothing() {
	s.t.Helper()
	id, err := s.serverID()
	if err != nil {
		s.t.Fatal(err)
	}
	mine := filters.NewArgs(filters.Arg("label", "mesh.server="+id))
	containers, err := s.engine.ContainerList(s.t.Context(), container.ListOptions{All: true, Filters: mine})
	nets, nerr := s.engine.NetworkList(s.t.Context(), network.ListOptions{Filters: mine})
	images, ierr := s.engine.ImageList(s.t.Context(), image.ListOptions{Filters: mine})
	if err := errors.Join(err, nerr, ierr); err != nil {
		s.t.Fatal(err)
	}
	if len(containers)+len(nets)+len(images) > 0 {
		s.t.Errorf("the destroyed stack has left %d containers, %d networks, %d images", len(containers), len(nets), len(images))
	}
}

// serverID reads the data directory, which belongs to the container's root.
func (s *contained) serverID() (string, error) {
	if _, err := s.exec(nil, "chown", "-R", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()), "/var/lib/mesh"); err != nil {
		return "", err
	}
	return serverID(s.data)
}

func (s *contained) remove() {
	s.t.Helper()
	if err := s.engine.ContainerRemove(context.WithoutCancel(s.t.Context()), s.id, container.RemoveOptions{Force: true}); err != nil {
		s.t.Fatal(err)
	}
	s.id = ""
}

// clean removes the server first, so that it restarts nothing.
func (s *contained) clean() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), time.Minute)
	defer cancel()
	if s.id == "" {
		return
	}
	if s.t.Failed() {
		s.t.Log(s.logs())
	}
	out, err := exec.CommandContext(ctx, "docker", "exec", s.id, "chown", "-R", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()), "/var/lib/mesh").CombinedOutput()
	if err != nil {
		s.t.Logf("%v: %s", err, out)
	}
	if err := s.engine.ContainerRemove(ctx, s.id, container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
		s.t.Error(err)
	}
	if id, err := serverID(s.data); err == nil {
		if err := testEngine.RemoveServer(ctx, id); err != nil {
			s.t.Error(err)
		}
	}
}
