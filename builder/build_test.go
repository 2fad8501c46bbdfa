package builder_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"mesh"
	"mesh/builder"
	"mesh/engine"
)

func TestBuild_GivesAnImage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	files := tree{
		"Dockerfile": from("WORKDIR /app", "COPY . .", "RUN cat a.txt a/b.txt && ls -l run link && test ! -e left", "VOLUME /data", "EXPOSE 80", "HEALTHCHECK CMD true", `CMD ["/app/run"]`),
		"a.txt":      string(b.stack) + " one\n", "a/b.txt": "two\n", "run": "#!/bin/sh\n", "link": "-> a.txt", "left/out": "x", ".dockerignore": "left\n",
	}
	began := time.Now()
	img, out := b.must(b.req(files))
	first := time.Since(began)
	for _, want := range []string{"] FROM mesh-test/busybox", "       two", "-rwxr-xr-x", "link -> a.txt"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	in, err := cli.ImageInspect(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(in.Config.Volumes) > 0 || len(in.Config.ExposedPorts) > 0 || in.Config.Healthcheck != nil {
		t.Errorf("VOLUME, EXPOSE or HEALTHCHECK is left: %+v", in.Config)
	}
	if in.Config.Labels["mesh.stack"] != string(b.stack) || in.Config.Labels[testLabel] != run {
		t.Errorf("labels %v", in.Config.Labels)
	}
	if img.Ref != "mesh/"+string(b.stack)+":0123456" || img.Size == 0 || !img.Shell || len(img.Cmd) != 1 || img.ID != in.ID {
		t.Errorf("image %+v", img)
	}

	began = time.Now()
	again, out := b.must(b.req(files))
	if again.ID != img.ID {
		t.Errorf("the same tree gave %s and %s", img.ID, again.ID)
	}
	if !again.Work.Reused || strings.Contains(out, "COPY") {
		t.Error("the same tree is built again")
	}
	t.Logf("first %s, cached %s", first.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))

	files["a.txt"] = string(b.stack) + " ONE\n" // the size stays
	began = time.Now()
	changed, out := b.must(b.req(files))
	t.Logf("one file changed %s", time.Since(began).Round(time.Millisecond))
	if changed.ID == img.ID || !strings.Contains(out, " ONE") {
		t.Error("built from the old content")
	}
	if !strings.Contains(out, "[2/4] WORKDIR /app   CACHED") || changed.Work.Cached < 1 || changed.Work.Steps != 4 {
		t.Errorf("nothing is cached: %+v", changed.Work)
	}
}

func TestBuild_MakesNoAnonymousVolume(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	img, _ := b.must(b.req(tree{"Dockerfile": from("RUN echo kept > /tmp/kept", "VOLUME /tmp", `CMD ["cat", "/tmp/kept"]`)}))
	c, err := cli.ContainerCreate(t.Context(), &container.Config{Image: img.ID, Labels: map[string]string{testLabel: run}}, nil, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer cli.ContainerRemove(context.Background(), c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
	in, err := cli.ContainerInspect(t.Context(), c.ID)
	if err != nil || len(in.Mounts) > 0 {
		t.Errorf("mounts %v, %v", in.Mounts, err)
	}
}

func TestBuild_Distroless(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	img, _ := b.must(b.req(tree{"Dockerfile": "FROM scratch\nCOPY a /a\nENTRYPOINT [\"/a\"]\n", "a": "#!a"}))
	if img.Shell || len(img.Entrypoint) != 1 || img.Cmd != nil {
		t.Errorf("image %+v", img)
	}
}

func TestBuild_NewSyntaxOnAnyEngine(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, out := b.must(b.fresh(tree{"Dockerfile": "# syntax=docker/dockerfile:1\n" + from(
		"COPY --chmod=600 . /src/", "RUN --mount=type=cache,target=/cache <<EOF", "echo from-a-heredoc", "ls /src", "EOF",
	), "kept.txt": "x"}))
	if !strings.Contains(out, "       from-a-heredoc") || !strings.Contains(out, "       kept.txt") {
		t.Error("a heredoc does not work")
	}
}

func TestBuild_ArgsAndSecrets(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const secret = "hunter2-very-hidden"
	req := b.fresh(tree{"Dockerfile": from(
		"ARG GREETING", "ARG GIT_REV SOURCE_VERSION COMMIT_SHORT_HASH", "ARG API_TOKEN",
		`RUN echo "greeting=$GREETING rev=$COMMIT_SHORT_HASH/$SOURCE_VERSION undeclared=$DATABASE_URL."`,
		`RUN --mount=type=secret,id=DATABASE_URL,required=true test "$(cat /run/secrets/DATABASE_URL)" = '`+"hunter2-very-"+`'"hidden" && cat /run/secrets/DATABASE_URL`,
	)})
	req.Config = mesh.Config{
		"GREETING": mesh.NewSecret("hi"), "DATABASE_URL": mesh.NewSecret(secret),
		"API_TOKEN": mesh.NewSecret("tok_123456"), "GIT_REV": mesh.NewSecret("mine"),
	}
	img, out := b.must(req)
	if !strings.Contains(out, "greeting=hi rev=0123456/"+string(commit)+" undeclared=.") {
		t.Error("the declared ARGs did not arrive, or another one did")
	}
	if want := " !     ARG API_TOKEN: anyone can read its value from the image; use RUN --mount=type=secret,id=API_TOKEN"; !strings.Contains(out, want) {
		t.Errorf("no warning %q", want)
	}
	if strings.Contains(out, secret) || strings.Contains(out, "tok_123456") {
		t.Error("the output shows a secret")
	}
	history, err := cli.ImageHistory(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(fmt.Sprint(history), secret) {
		t.Error("the history shows a secret")
	}
}

func TestBuild_Failures(t *testing.T) {
	t.Parallel()
	registry := httptest.NewServer(http.NotFoundHandler())
	defer registry.Close()
	host := strings.TrimPrefix(registry.URL, "http://")
	off, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away := off.Addr().String()
	_ = off.Close()
	b := newBench(t)
	for _, c := range []struct {
		name       string
		files      tree
		kind       mesh.Kind
		text, hint string
		output     []string
	}{
		{
			"a step fails",
			tree{"Dockerfile": from("RUN echo before; seq 40; echo the reason; exit 3")},
			mesh.Failed,
			"'RUN echo before; seq 40; echo the reason; exit 3' exited 3", "Dockerfile:2",
			[]string{"40", "the reason"},
		},
		{
			"a long step fails",
			tree{"Dockerfile": from("RUN true \\\n && echo a very long command that nobody wants to read twice \\\n && exit 4")},
			mesh.Failed,
			"'RUN true && echo a very long command that nobody wants to r…' exited 4", "", nil,
		},
		{
			"no such command",
			tree{"Dockerfile": from("RUN npm ci")},
			mesh.Failed,
			"'RUN npm ci' exited 127", "does not have",
			[]string{"/bin/sh: npm: not found"},
		},
		{
			"a step fills the disk",
			tree{"Dockerfile": from("RUN dd if=/dev/zero of=/dev/full bs=1M count=1")},
			mesh.Failed,
			"'RUN dd if=/dev/zero of=/dev/full bs=1M count=1' exited 1", "the server's disk is full", nil,
		},
		{"unknown instruction", tree{"Dockerfile": from("", "RUNN true")}, mesh.Failed, "Dockerfile:3: unknown instruction: RUNN (did you mean RUN?)", "", nil},
		{"syntax", tree{"Dockerfile": from("COPY a")}, mesh.Failed, "Dockerfile:2: COPY requires at least two arguments, but only one was provided. Destination could not be determined", "", nil},
		{"unknown stage", tree{"Dockerfile": from("COPY --from=nope:x/y:z a b")}, mesh.Failed, "Dockerfile:2: ", "", nil},
		{"nothing fits", tree{"a": ""}, mesh.Invalid, "there is no Dockerfile, and mesh cannot detect the language", "add one of these files", nil},
		{"empty", tree{"Dockerfile": ""}, mesh.Invalid, "Dockerfile is empty", "", nil},
		{"comments only", tree{"Dockerfile": "# nothing\n"}, mesh.Invalid, "Dockerfile is empty", "", nil},
		{"a folder", tree{"Dockerfile/x": ""}, mesh.Invalid, "Dockerfile is a folder", "", nil},
		{"a submodule", tree{"Dockerfile/": ""}, mesh.Invalid, "Dockerfile is a submodule", "", nil},
		{"dangling", tree{"Dockerfile": "-> docker/File"}, mesh.Invalid, "Dockerfile is a symbolic link to docker/File, which does not exist in the pushed tree", "", nil},
		{"outside", tree{"Dockerfile": "-> ../File"}, mesh.Invalid, "Dockerfile is a symbolic link to ../File, which is outside the pushed tree", "", nil},
		{"a loop", tree{"Dockerfile": "-> Dockerfile"}, mesh.Invalid, "Dockerfile is a symbolic link to Dockerfile, which does not exist in the pushed tree", "", nil},
		{"no FROM", tree{"Dockerfile": "RUN true\n"}, mesh.Failed, "Dockerfile:1: no build stage in current context", "", nil},
		{"missing file", tree{"Dockerfile": from("RUN true", "COPY package.json ./")}, mesh.Failed, "Dockerfile:3: 'COPY package.json ./': there is no package.json in the pushed tree", "commit it", nil},
		{"ignored file", tree{"Dockerfile": from("COPY a.txt ./"), "a.txt": "x", ".dockerignore": "*.txt"}, mesh.Failed, "Dockerfile:2: 'COPY a.txt ./': a.txt is excluded by the ignore file", "!a.txt", nil},
		{
			"missing secret",
			tree{"Dockerfile": from("RUN --mount=type=secret,id=NPM,required=true true")},
			mesh.Failed,
			"Dockerfile:2: 'RUN true' needs the secret NPM, but no config var has that name", "config:set", nil,
		},
		{"a script with CR LF", tree{"Dockerfile": from("COPY . /src", "WORKDIR /src", "RUN ./build.sh"), "build.sh": "#!/bin/sh\r\ntrue\r\n"}, mesh.Failed, "'RUN ./build.sh' exited 127", "the lines of build.sh end in CR LF, so its interpreter is not found: save it with LF", nil},
		{"a script with CR LF in a shell", tree{"Dockerfile": from("COPY . /src", "RUN cd src/ci && /bin/sh make.sh"), "ci/make.sh": "set -e\r\ntrue\r\n"}, mesh.Failed, "'RUN cd src/ci && /bin/sh make.sh' exited ", "the lines of ci/make.sh end in CR LF", nil},
		{"a script with CR LF in exec form", tree{"Dockerfile": from("COPY . /src", "WORKDIR /src", `RUN ["./build.sh"]`), "build.sh": "#!/bin/sh\r\ntrue\r\n"}, mesh.Failed, `'RUN ["./build.sh"]' `, "the lines of build.sh end in CR LF", nil},
		{"a script without its interpreter", tree{"Dockerfile": from("COPY . /src", "RUN /src/build.sh"), "build.sh": "#!/bin/bash\ntrue\n"}, mesh.Failed, "'RUN /src/build.sh' exited 127", "build.sh exists, but its interpreter /bin/bash is most likely missing from the base image", nil},
		{"a script that is not executable", tree{"Dockerfile": from("COPY . /src", "RUN /src/build"), "build": "echo hi\n"}, mesh.Failed, "'RUN /src/build' exited 126", "build is not executable; fix it with: git update-index --chmod=+x build", nil},
		{"a heredoc with CR LF", tree{"Dockerfile": strings.ReplaceAll(from("RUN <<EOF", "set -e", "true", "EOF"), "\n", "\r\n")}, mesh.Failed, "'RUN <<EOF (set -e...)' exited ", "the lines of Dockerfile end in CR LF, and so do those of the heredoc at line 2", nil},
		{"a stage with a typo", tree{"Dockerfile": "FROM scratch AS build\nFROM build AS test\nCOPY --from=biuld /a /a\n"}, mesh.Failed, "Dockerfile:3: there is no stage or base image biuld", "there is a stage build; the stages are build, test", nil},
		{"no such stage", tree{"Dockerfile": "FROM scratch AS build\nFROM nothing-like-it\n"}, mesh.Failed, "Dockerfile:2: there is no stage or base image nothing-like-it", "no stage has that name either; the stages are build", nil},
		{"no such base image", tree{"Dockerfile": "\nFROM " + host + "/nope:1\n"}, mesh.Failed, "Dockerfile:2: there is no base image " + host + "/nope:1, or it is private", "registry:login", nil},
		{"no network", tree{"Dockerfile": "\nFROM " + away + "/nope:1\n"}, mesh.Unavailable, "Dockerfile:2: the base image " + away + "/nope:1 is not on the server, and its registry cannot be reached", "network", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := *b
			b.t = t
			_, _, err := b.build(b.req(c.files))
			var e *mesh.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v", err)
			}
			if e.Kind != c.kind || !strings.HasPrefix(e.Text, c.text) || c.text != e.Text && !strings.HasSuffix(c.text, " ") {
				t.Errorf("got %s %q\nwant %s %q", e.Kind, e.Text, c.kind, c.text)
			}
			if !strings.Contains(e.Hint, c.hint) {
				t.Errorf("hint %q, want %q", e.Hint, c.hint)
			}
			for _, l := range c.output {
				if !strings.Contains("\n"+strings.Join(e.Output, "\n")+"\n", "\n"+l+"\n") {
					t.Errorf("the output %q lacks %q", e.Output, l)
				}
			}
			if len(e.Output) > 30 {
				t.Errorf("%d lines of output", len(e.Output))
			}
		})
	}
}

func TestBuild_OtherDockerfiles(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, c := range map[string]struct {
		dockerfile string
		files      tree
	}{
		"in a folder":     {"deploy/Dockerfile.web", tree{"deploy/Dockerfile.web": from("COPY a /a"), "a": "x"}},
		"with ./":         {"./Dockerfile.web", tree{"Dockerfile.web": from("COPY a /a"), "a": "x"}},
		"lower case":      {"", tree{"dockerfile": from("COPY a /a"), "a": "x"}},
		"a link":          {"Dockerfile", tree{"Dockerfile": "-> deploy/file", "deploy/file": from("COPY a /a"), "a": "x"}},
		"a linked folder": {"now/Dockerfile", tree{"now": "-> v2", "v2/Dockerfile": from("COPY a /a"), "a": "x"}},
		"ignored":         {"", tree{"Dockerfile": from("COPY a /a"), "a": "x", ".dockerignore": "Dockerfile\n.dockerignore\n"}},
		"ignore file of its own": {"web.Dockerfile", tree{
			"web.Dockerfile": from("COPY . /src", "RUN test -e /src/a && test ! -e /src/b"), "a": "x", "b": "x",
			".dockerignore": "a", "web.Dockerfile.dockerignore": "b",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := *b
			b.t = t
			req := b.req(c.files)
			req.Settings.Dockerfile = c.dockerfile
			b.must(req)
		})
	}
}

func TestBuild_NamesThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, out := b.must(b.fresh(tree{
		"Dockerfile": from("COPY . /src", "RUN ls /src/a && cat /src/a/caf* && test -x /src/run && readlink /src/link && test ! -e /src/left"),
		"a/caf\xe9":  "latin one\n", "run": "#!/bin/sh", "link": "-> a", "left/x": "x", ".dockerignore": "left\nDockerfile\n",
	}))
	if !strings.Contains(out, "       latin one") {
		t.Error("the file is not there")
	}
}

// The ignore file applies to the Dockerfile and to itself on every path to the
// engine.
func TestBuild_TheIgnoreFileLeavesOutTheDockerfile(t *testing.T) {
	t.Parallel()
	_, old := newProxy(t, "/grpc")
	for way, c := range map[string]struct {
		cli  *client.Client
		name string
	}{"sync": {cli, "x"}, "tar": {cli, "caf\xe9"}, "the old builder": {old, "x"}} {
		for ignore, want := range map[string]string{
			"Dockerfile\n.dockerignore\n": "a", "Dockerfile\n": ".dockerignore a", "*\n!a\n": "a", "": ".dockerignore Dockerfile a",
			"Docker*\n.docker*\n!Dockerfile\n": "Dockerfile a",
		} {
			b := newBenchWith(t, c.cli)
			_, out := b.must(b.fresh(tree{
				"Dockerfile": from("COPY . /src", `RUN cd /src; echo "has" $(ls -A | grep -v '^x$\|caf')`), "a": "x", c.name: "x", ".dockerignore": ignore,
			}))
			if !strings.Contains(out+"\n", "       has "+want+"\n") {
				t.Errorf("%s, %q: want %q", way, ignore, want)
			}
		}
		b := newBenchWith(t, c.cli)
		req := b.fresh(tree{
			"deploy/Dockerfile": from("COPY . /src", `RUN cd /src; echo "has" $(ls -A . deploy 2>&1)`), "a": "x", c.name: "x",
			"deploy/Dockerfile.dockerignore": "deploy\n", "deploy/b": "x",
		})
		req.Settings.Dockerfile = "deploy/Dockerfile"
		if _, out := b.must(req); strings.Contains(out[strings.LastIndex(out, "       has "):], "Dockerfile") {
			t.Errorf("%s: the ignore file of its own is not followed", way)
		}
	}
}

func TestBuild_WarnsOfWhatIsNotFetched(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
	_, out := b.must(b.req(tree{
		"Dockerfile": from("COPY . /src"), "vendor/x/": "", ".gitattributes": "*.png filter=lfs diff=lfs merge=lfs -text\n",
		"a.png": pointer, "b.png": pointer, "c.png": pointer, "d.png": pointer, "e.txt": "x",
	}))
	for _, want := range []string{" !     submodule vendor/x was not fetched", " !     4 files are Git LFS pointers without their content: a.png, b.png, c.png, …"} {
		if !strings.Contains(out, want) {
			t.Errorf("no line %q", want)
		}
	}
}

// A step continues when the test has seen its line, and the test sees it only while
// the step runs: a line held back until the end of its step would never arrive.
func TestBuild_LinesComeAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	mark := fmt.Sprintf("98%d", time.Now().UnixNano()%1e9)
	var seen int
	out := &output{t: t, on: func(line string) {
		if !strings.HasPrefix(line, "       tick ") {
			return
		}
		seen++
		for ctx.Err() == nil && signal(mark, syscall.SIGKILL) == 0 { // it prints first, and begins to wait then
			runtime.Gosched()
		}
	}}
	_, err := b.Build(ctx, b.fresh(tree{"Dockerfile": from("RUN for i in 1 2 3 4 5; do echo tick $i; sleep " + mark + " || true; done")}), out)
	if err != nil || seen != 5 {
		t.Errorf("%d lines came: %v\n%s", seen, err, out)
	}
}

func TestBuild_CancelKillsTheStep(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	mark := fmt.Sprintf("99%d", time.Now().UnixNano()%1e9)
	out := &output{t: t}
	var began time.Time
	out.on = func(line string) {
		if strings.Contains(line, "       started") && processes(mark) > 0 {
			began = time.Now()
			cancel()
		}
	}
	_, err := b.Build(ctx, b.req(tree{"Dockerfile": from("RUN sleep " + mark + " & while :; do echo started; sleep 0.05; done")}), out)
	if !errors.Is(err, mesh.Cancelled) {
		t.Errorf("got %v", err)
	}
	if n := processes(mark); n > 0 {
		t.Errorf("%d processes are left", n)
	}
	t.Logf("returned %s after the cancel", time.Since(began).Round(time.Millisecond))
}

// processes counts the processes whose command line is "sleep MARK".
func processes(mark string) int { return signal(mark, 0) }

// signal sends them a signal, or none, and counts them.
func signal(mark string, sig syscall.Signal) (n int) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range lines {
		b, err := os.ReadFile(p)
		if err != nil || !bytes.Equal(b, []byte("sleep\x00"+mark+"\x00")) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		if syscall.Kill(pid, sig) == nil {
			n++
		}
	}
	return n
}

func TestBuild_ParallelStagesAreTagged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	// The steps meet twice, in a cache mount: before and after their lines.
	step := func(mine, other string) string {
		meet := func(where string) string {
			return fmt.Sprintf("touch /met/%s-%s; until [ -e /met/%s-%s ]; do sleep 0.05; done", mine, where, other, where)
		}
		return "RUN --mount=type=cache,target=/met " + meet("begun") + "; echo from-" + mine + "; " + meet("said") + "; echo >/" + mine
	}
	out := &output{t: t}
	// Only one FROM of an image: BuildKit v0.31.2 resolves several with a data race
	// (resolvecache.go sets CacheError in each), which is harmless but reported.
	_, err := b.Build(ctx, b.fresh(tree{"Dockerfile": "FROM " + base + " AS common\n" + strings.Join([]string{
		"FROM scratch AS none", "FROM common AS one", step("one", "two"), "FROM common AS two", step("two", "one"),
		"FROM none", "COPY --from=one /one /", "COPY --from=two /two /",
	}, "\n")}), out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"       [one] from-one", "       [two] from-two"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no line %q, though the steps ran together:\n%s", want, out)
		}
	}
}

func TestBuild_WaitsForASlot(t *testing.T) {
	t.Parallel()
	bench := newBench(t)
	b := builder.New(engine.Of(cli), builder.Options{Server: run, Key: []byte(run), Slots: 1})
	running, wait := make(chan struct{}), make(chan struct{})
	var once sync.Once
	first := &output{t: t, on: func(l string) {
		if strings.HasSuffix(l, "started") {
			once.Do(func() { close(running) })
			<-wait
		}
	}}
	done := make(chan error, 1)
	go func() {
		req := bench.fresh(tree{"Dockerfile": from("RUN echo started", "RUN true")})
		req.Tags = nil
		_, err := b.Build(t.Context(), req, first)
		done <- err
	}()
	<-running
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	second := &output{t: t, on: func(l string) {
		if strings.HasPrefix(l, "       ") {
			cancel()
		}
	}}
	_, err := b.Build(ctx, bench.req(tree{"Dockerfile": from("RUN true")}), second)
	if !errors.Is(err, mesh.Cancelled) || second.String() != "-----> Building with ./Dockerfile\n       waiting for a build slot" {
		t.Errorf("got %v, %q", err, second)
	}
	close(wait)
	if err := <-done; err != nil {
		t.Error(err)
	}
	imgs := leftoverImages(t, run)
	for _, id := range imgs {
		if err := builder.New(engine.Of(cli), builder.Options{Server: run, Key: []byte(run)}).Collect(t.Context(), bench.stack, nil); err != nil {
			t.Error(id, err)
		}
	}
}

// proxy is between a client and the engine, and can be cut.
type proxy struct {
	l     net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func newProxy(t *testing.T, refuse string) (*proxy, *client.Client) {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "p.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l}
	t.Cleanup(p.cut)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.pass(c, refuse)
		}
	}()
	pc, err := client.NewClientWithOpts(client.WithHost("unix://"+sock), client.WithVersion(cli.ClientVersion()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	return p, pc
}

func (p *proxy) pass(c net.Conn, refuse string) {
	defer c.Close()
	up, err := net.Dial("unix", "/var/run/docker.sock")
	if err != nil {
		return
	}
	defer up.Close()
	p.mu.Lock()
	p.conns = append(p.conns, c, up)
	p.mu.Unlock()
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		return
	}
	if refuse != "" && bytes.HasPrefix(buf[:n], []byte("POST "+refuse)) || refuse != "" && bytes.HasPrefix(buf[:n], []byte("PRI ")) {
		_, _ = io.WriteString(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	_, _ = up.Write(buf[:n])
	go func() {
		_, _ = io.Copy(up, c)
		_ = up.(*net.UnixConn).CloseWrite()
	}()
	_, _ = io.Copy(c, up)
}

func (p *proxy) cut() {
	_ = p.l.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

func TestBuild_EngineDies(t *testing.T) {
	t.Parallel()
	p, pc := newProxy(t, "")
	b := newBenchWith(t, pc)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out := &output{t: t, on: func(l string) {
		if strings.HasSuffix(l, "       started") {
			p.cut()
		}
	}}
	_, err := b.Build(ctx, b.req(tree{"Dockerfile": from("RUN echo started; sleep 3600")}), out)
	if !errors.Is(err, mesh.Unavailable) || err.Error() != "the Docker Engine stopped during the build" {
		t.Errorf("got %v", err)
	}
	_, err = b.Build(ctx, b.req(tree{"Dockerfile": from("RUN true")}), out)
	if !errors.Is(err, mesh.Unavailable) || !strings.HasPrefix(err.Error(), "the Docker Engine does not answer at unix:///") {
		t.Errorf("got %v", err)
	}
}

func TestBuild_ClassicBuilder(t *testing.T) {
	t.Parallel()
	_, pc := newProxy(t, "/grpc")
	b := newBenchWith(t, pc)
	files := tree{
		"Dockerfile": from("ARG GREETING", "COPY . /src", "RUN ls /src && echo said $GREETING", "CMD [\"x\"]"),
		"a":          "x", "left": "x", ".dockerignore": "left\n",
	}
	req := b.fresh(files)
	req.Config = mesh.Config{"GREETING": mesh.NewSecret("hi")}
	img, out := b.must(req)
	if !img.Shell || img.ID == "" || !strings.Contains(out, "       said hi") || strings.Contains(out, "       left") {
		t.Errorf("image %+v", img)
	}
	files["Dockerfile"] = from("RUN echo the reason; exit 3")
	_, _, err := b.build(b.req(files))
	var e *mesh.Error
	if !errors.As(err, &e) || e.Text != "'RUN echo the reason; exit 3' exited 3" || len(e.Output) == 0 {
		t.Errorf("got %v", err)
	}
}

func TestBuild_ReusesTheImageOfTheSameSource(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	files := tree{"Dockerfile": from("ARG MODE", "COPY a /a", "RUN --mount=type=secret,id=KEY true"), "a": "1", "b": "1"}
	req := b.req(files)
	req.Config = mesh.Config{"MODE": mesh.NewSecret("x"), "OTHER": mesh.NewSecret("y"), "KEY": mesh.NewSecret("one")}
	first, _ := b.must(req)
	if first.Work.Reused || first.Work.Steps == 0 {
		t.Errorf("the first build: %+v", first.Work)
	}

	// Another commit with the same tree, and a config var that is not declared.
	again := b.req(files)
	again.Commit, again.Deployment, again.Tags = "fedcba9876543210fedcba9876543210fedcba98", 2, []string{"mesh/" + string(b.stack) + ":fedcba9"}
	again.Config = mesh.Config{"MODE": mesh.NewSecret("x"), "OTHER": mesh.NewSecret("z"), "KEY": mesh.NewSecret("one")}
	img, out := b.must(again)
	if img.ID != first.ID || !img.Work.Reused || img.Ref != again.Tags[0] || img.Shell != first.Shell || img.Size != first.Size {
		t.Errorf("got %+v, want %+v", img, first)
	}
	if want := "       the same tree, args and base images were built before: using mesh/" + string(b.stack) + ":0123456"; !strings.Contains(out, want) {
		t.Errorf("no line %q", want)
	}
	if in, err := cli.ImageInspect(t.Context(), again.Tags[0]); err != nil || in.ID != first.ID {
		t.Errorf("not tagged: %v", err)
	}

	for name, change := range map[string]func(*mesh.Build){
		"no-cache":            func(r *mesh.Build) { r.NoCache = true },
		"a file":              func(r *mesh.Build) { r.Tree = tree{"Dockerfile": files["Dockerfile"], "a": "2", "b": "1"} },
		"a file is a program": func(r *mesh.Build) { r.Tree = tree{"Dockerfile": files["Dockerfile"], "a": "1", "b": "#!"} },
		"a secret":            func(r *mesh.Build) { r.Config = mesh.Config{"MODE": mesh.NewSecret("x"), "KEY": mesh.NewSecret("two")} },
		"a secret is gone":    func(r *mesh.Build) { r.Config = mesh.Config{"MODE": mesh.NewSecret("x")} },
		"a declared arg":      func(r *mesh.Build) { r.Config = mesh.Config{"MODE": mesh.NewSecret("y")} },
		"the user":            func(r *mesh.Build) { r.Settings.User = "7" },
		"the Dockerfile": func(r *mesh.Build) {
			r.Tree = tree{"Dockerfile": files["Dockerfile"] + "RUN true\n", "a": "1", "b": "1"}
		},
	} {
		r := again
		change(&r)
		if img, _ := b.must(r); img.Work.Reused {
			t.Errorf("%s has changed, and the old image was used", name)
		}
	}
}

// A base image with a moved tag is a changed base image.
func TestBuild_NewBaseImageIsBuiltFrom(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	moving := fmt.Sprintf("mesh-test/moving-%s:%d", run, stacks.Add(1))
	tag := func(files tree) {
		req := b.req(files)
		req.Tags = []string{moving}
		b.must(req)
	}
	defer cli.ImageRemove(context.Background(), moving, image.RemoveOptions{Force: true, PruneChildren: true})
	tag(tree{"Dockerfile": from("RUN echo old > /which")})
	app := tree{"Dockerfile": "FROM " + moving + "\nRUN cat /which\n"}
	old, _ := b.must(b.req(app))
	if same, _ := b.must(b.req(app)); same.ID != old.ID || !same.Work.Reused {
		t.Errorf("not reused: %+v", same)
	}
	tag(tree{"Dockerfile": from("RUN echo new > /which")})
	img, out := b.must(b.req(app))
	if img.Work.Reused || img.ID == old.ID || !strings.Contains(out, "       new") {
		t.Errorf("built from the old base: %+v\n%s", img, out)
	}
}
