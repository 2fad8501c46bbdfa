package command_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/command"
)

func TestDeploy_Sources(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"deploy -a blog":                                    `upload blog "Upload" id=TAR dockerfile="" from={Ref: Archive:<nil> Local:false Public:false} no-cache=false dry-run=false`,
		"deploy blog --dockerfile":                          `upload blog "Upload" id=TAR dockerfile="Dockerfile" from={Ref: Archive:<nil> Local:false Public:false} no-cache=false dry-run=false`,
		"deploy --dockerfile docker/web.Dockerfile":         `upload blog "Upload" id=TAR dockerfile="docker/web.Dockerfile" from={Ref: Archive:<nil> Local:false Public:false} no-cache=false dry-run=false`,
		"deploy --dockerfile=a/b --no-cache":                `upload blog "Upload" id=TAR dockerfile="a/b" from={Ref: Archive:<nil> Local:false Public:false} no-cache=true dry-run=false`,
		"deploy --source 'blog at 1a2b3c4' --dry-run":       `upload blog "Upload: blog at 1a2b3c4" id=TAR dockerfile="" from={Ref: Archive:<nil> Local:false Public:false} no-cache=false dry-run=true`,
		"deploy --image redis:7":                            `upload blog "Image redis:7" id= dockerfile="" from={Ref:redis:7 Archive:<nil> Local:false Public:false} no-cache=false dry-run=false`,
		"deploy --image redis:7 --no-pull":                  `upload blog "Image redis:7" id= dockerfile="" from={Ref:redis:7 Archive:<nil> Local:true Public:false} no-cache=false dry-run=false`,
		"deploy --load app:1":                               `upload blog "Image app:1, loaded" id= dockerfile="" from={Ref:app:1 Archive:<nil> Local:false Public:false} no-cache=false dry-run=false`,
		"-a new deploy":                                     `upload new "Upload" id=TAR dockerfile="" from={Ref: Archive:<nil> Local:false Public:false} no-cache=false dry-run=false`,
		"deploy --source \"$(printf 'a\x1b[2Jb')\" -a blog": `upload blog "Upload: $(printf 'a\\x1b[2Jb')" id=TAR dockerfile="" from={Ref: Archive:<nil> Local:false Public:false} no-cache=false dry-run=false`,
	} {
		f := stacks("blog")
		r := do(t, f, line, stdin("TAR"))
		if r.status != 0 || !slices.Contains(f.did, want) {
			t.Errorf("%s: %d %s%q", line, r.status, r.err, f.did)
		}
		if strings.Contains(want, "id=TAR") && !slices.Contains(f.did, "released") {
			t.Errorf("%s: the tree is not released", line)
		}
		if strings.Contains(line, "--load") && !slices.Contains(f.did, `archive "TAR"`) {
			t.Errorf("%s: %q", line, f.did)
		}
		if f.did[0] != "admit laptop to "+strings.Fields(want)[1] {
			t.Errorf("%s: begins with %q", line, f.did[0])
		}
	}
}

func TestDeploy_Refusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line   string
		status int
		text   string
		opts   []option
	}{
		{"deploy --image a --load b", 2, "cannot be combined", nil},
		{"deploy --image", 2, "--image needs a value", nil},
		{"deploy --image=", 2, "needs the name of an image", nil},
		{"deploy --image a --dockerfile", 2, "do not apply to a prebuilt image", nil},
		{"deploy --no-pull", 2, "needs --image", nil},
		{"deploy blog x", 2, `does not take the argument "x"`, nil},
		{"deploy --dockerfile ../x", 2, "not a path inside", nil},
		{"deploy", 2, "which is a terminal", []option{terminal}},
		{"deploy -a Not_A_Name", 20, "no stack", nil},
		{"deploy -a new", 20, "no stack", []option{as(mesh.Key{Name: "ci", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}})}},
		{"deploy -a blog", 1, "may not use deploy", []option{as(mesh.Key{Name: "eye", Role: mesh.RoleRead})}},
	} {
		f := stacks("blog")
		r := do(t, f, c.line, append(c.opts, stdin("TAR"))...)
		if r.status != c.status || !strings.Contains(r.out+r.err, c.text) {
			t.Errorf("%s: %d %s", c.line, r.status, r.err)
		}
		if slices.ContainsFunc(f.did, func(s string) bool { return strings.HasPrefix(s, "upload") }) {
			t.Errorf("%s: %q", c.line, f.did)
		}
	}
	// A key that is limited to stacks cannot use another stack's image by its name.
	limited := as(mesh.Key{Name: "ci", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}})
	for line, status := range map[string]int{
		"deploy --image mesh/shop:v1":           1,
		"deploy --image docker.io/mesh/shop:v1": 1,
		"deploy --image mesh/shop@sha256:aa":    1,
		"deploy --image mesh/shop:v1 --no-pull": 1,
		"deploy --image somebody:1 --no-pull":   1,
		"deploy --image mesh/blog:v1 --no-pull": 0,
		"deploy --image ghcr.io/me/app:1":       0,
	} {
		f := stacks("blog", "shop")
		if r := do(t, f, line, limited); r.status != status || (status == 0) != slices.ContainsFunc(f.did, func(s string) bool { return strings.HasPrefix(s, "upload") }) {
			t.Errorf("%s: %d %s%q", line, r.status, r.err, f.did)
		}
	}
	// A push that would be refused is refused before anything is received.
	f := stacks("blog")
	f.admit = mesh.Errorf(mesh.Conflict, "blog is locked")
	if r := do(t, f, "deploy", stdin("TAR")); r.status != 1 || len(f.did) != 1 {
		t.Errorf("got %d %s%q", r.status, r.err, f.did)
	}
}

func TestPromoteAndRename(t *testing.T) {
	t.Parallel()
	f := stacks("blog", "live")
	if r := do(t, f, "promote live -a blog"); r.status != 0 || !slices.Contains(f.did, "promote blog to live") {
		t.Errorf("got %d %s%q", r.status, r.err, f.did)
	}
	limited := mesh.Key{Name: "ci", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}}
	if r := do(t, f, "promote live -a blog", as(limited)); r.status != 20 {
		t.Errorf("got %d %s", r.status, r.err)
	}
	if r := do(t, f, "promote live -a blog", as(mesh.Key{Name: "eye", Role: mesh.RoleRead})); r.status != 1 || !strings.Contains(r.err, "may not deploy to live") {
		t.Errorf("got %d %s", r.status, r.err)
	}
	if r := do(t, f, "stacks rename -a blog shop"); r.status != 0 || r.out != "renamed blog to shop: http://shop.localhost:8080\n" {
		t.Errorf("got %d %s%s", r.status, r.out, r.err)
	}
	if r := do(t, f, "apps:rename blog Shop"); r.status != 2 {
		t.Errorf("got %d %s", r.status, r.err)
	}
	if r := do(t, f, "stacks:rename -a blog x", as(mesh.Key{Name: "ci", Role: mesh.RoleDeploy})); r.status != 1 {
		t.Errorf("a deploy key renames: %s", r.out)
	}
}

func TestRun_Detached(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	f.runs = []mesh.DetachedRun{
		{Name: "run.1000", Running: true, By: "ci", Command: "rake one", Started: now.Add(-time.Hour), Until: now.Add(23 * time.Hour)},
		{Name: "run.2000", ExitCode: 137, OOM: true, By: "ci", Command: "rake two", Started: now.Add(-time.Minute)},
	}
	if r := do(t, f, "run -d -- rake long -x 'a b'"); r.status != 0 || r.out != "run.4211\n" || f.did[0] != `detach blog "rake long -x 'a b'"` {
		t.Errorf("got %d %s%s%q", r.status, r.out, r.err, f.did)
	}
	golden(t, "run-list", do(t, f, "run:list", screen(80)).out)
	golden(t, "run-list.json", do(t, f, "run list --json").out)
	f.lines = []mesh.LogLine{{At: now, Source: "app", Name: "run.2000", Text: "hello"}}
	if r := do(t, f, "run:logs run.2000"); r.status != 0 || !strings.Contains(r.out, "app[run.2000]: hello") {
		t.Errorf("got %d %s%s", r.status, r.out, r.err)
	}
	if r := do(t, f, "run logs run.2000 -t"); r.status != 137 || !strings.Contains(r.err, "run.2000 ended with exit code 137") {
		t.Errorf("got %d %s%s", r.status, r.out, r.err)
	}
	if r := do(t, f, "run:logs run.1"); r.status != 1 || !strings.Contains(r.err, `no detached run "run.1"`) {
		t.Errorf("got %d %s", r.status, r.err)
	}
	if r := do(t, f, "run:stop -a blog run.1000"); r.status != 0 || f.did[len(f.did)-1] != "stop run blog run.1000" {
		t.Errorf("got %d %s%q", r.status, r.err, f.did)
	}
}

func TestEnter(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"enter web.1":                   `enter blog web.1 "" []`,
		"enter -a blog web.1":           `enter blog web.1 "" []`,
		"enter blog web.1 -- ls -l":     `enter blog web.1 "ls -l" ["ls" "-l"]`,
		"enter web.2 ls '-l  x' | wc":   `enter blog web.2 "ls '-l  x' | wc" ["ls" "-l  x" "|" "wc"]`,
		`enter web.1 -- "echo $A | wc"`: `enter blog web.1 "echo $A | wc" ["echo" "$A" "|" "wc"]`,
		"enter worker.1 --app x":        `enter blog worker.1 "--app x" ["--app" "x"]`,
	} {
		f := stacks("blog")
		if r := do(t, f, line); r.status != 4 || len(f.did) != 1 || f.did[0] != want {
			t.Errorf("%s: %d %s%q", line, r.status, r.err, f.did)
		}
	}
	// A service is its first instance that is up; nothing is web.1.
	for line, want := range map[string]string{
		"enter web": `enter blog web.2 "" []`, "enter blog web -- ls": `enter blog web.2 "ls" ["ls"]`,
		"enter": `enter blog web.1 "" []`, "enter -a blog -- ls -l": `enter blog web.1 "ls -l" ["ls" "-l"]`,
	} {
		f := stacks("blog")
		f.status = []mesh.InstanceStatus{{Name: mesh.InstanceName{Service: "web", Slot: 1}, State: mesh.Crashed}, {Name: mesh.InstanceName{Service: "web", Slot: 2}, State: mesh.Up}}
		if r := do(t, f, line); r.status != 4 || len(f.did) != 1 || f.did[0] != want {
			t.Errorf("%s: %d %s%q", line, r.status, r.err, f.did)
		}
	}
	for _, line := range []string{"enter web", "enter worker"} {
		if r := do(t, stacks("blog"), line); r.status != 1 || !strings.Contains(r.err, "that is up") {
			t.Errorf("%s: %d %s", line, r.status, r.err)
		}
	}
}

func screen(width int) option {
	return func(r *mesh.Request) { r.TTY, r.Size = true, mesh.WindowSize{Width: width} }
}

func TestConfig_Show(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	f.stacks[0].Config = mesh.Config{"A": mesh.NewSecret("plain"), "B": mesh.NewSecret("two\nlines, 'quoted'"), "C": mesh.NewSecret("")}
	if r := do(t, f, "config --show"); r.out != "A=plain\nB='two\nlines, '\\''quoted'\\'''\nC=''\n" {
		t.Errorf("got %q %s", r.out, r.err)
	}
	if r := do(t, f, "config --show --json"); !strings.Contains(r.out, `"B": "two\nlines, 'quoted'"`) {
		t.Errorf("got %s", r.out)
	}
	if r := do(t, f, "config --show", as(mesh.Key{Name: "eye", Role: mesh.RoleRead})); r.status != 1 || strings.Contains(r.out, "plain") {
		t.Errorf("got %d %s", r.status, r.out)
	}
	f.stacks[0].Config["D"] = mesh.NewSecret("\xff")
	for _, line := range []string{"config --show --json", "config:get D --json", "config:export --format json"} {
		if r := do(t, f, line); r.status != 2 || !strings.Contains(r.err, "not valid UTF-8") {
			t.Errorf("%s: %d %s", line, r.status, r.err)
		}
	}
}

func at(minute int, source, name, text string) mesh.LogLine {
	return mesh.LogLine{At: now.Add(time.Duration(minute) * time.Minute), Source: source, Name: name, Text: text}
}

func TestLogs_Forms(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	f.lines = []mesh.LogLine{at(-5, "app", "web.1", "one"), {At: now, Source: "app", Name: "web.1", Release: 3, Text: "<two>"}}
	f.events = []mesh.LogLine{at(-10, "mesh", "deploy", "#1 is live as v1"), at(-4, "router", "web.1", "GET /")}
	for line, want := range map[string]string{
		"logs --source app":        "2026-03-04T11:55:00.000000+00:00 app[web.1]: one\n2026-03-04T12:00:00.000000+00:00 app[web.1]: <two>\n",
		"logs -q --source app":     "one\n<two>\n",
		"logs -q":                  "#1 is live as v1\none\n<two>\n",
		"logs --source router":     "2026-03-04T11:56:00.000000+00:00 router[web.1]: GET /\n",
		"logs --source app --json": `{"at":"2026-03-04T11:55:00Z","source":"app","name":"web.1","text":"one"}` + "\n" + `{"at":"2026-03-04T12:00:00Z","source":"app","name":"web.1","release":"v3","text":"<two>"}` + "\n",
	} {
		if r := do(t, f, line); r.status != 0 || r.out != want {
			t.Errorf("%s: %d\n%s%s\nwant\n%s", line, r.status, r.out, r.err, want)
		}
	}
	f.follow = func(context.Context, mesh.LogQuery, func(mesh.LogLine) error) error {
		return mesh.Errorf(mesh.Unavailable, "the disk does not answer")
	}
	if r := do(t, f, "logs"); r.status != 1 || !strings.Contains(r.err, "does not answer") {
		t.Errorf("got %d %s%s", r.status, r.out, r.err)
	}
}

// A service that the current release does not have may have printed something in an
// earlier one; only if it has not, the name is an error.
func TestLogs_ServiceOfAnEarlierRelease(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	f.stacks[0].Current = 1
	f.releases = []mesh.Release{{Stack: "blog", Number: 1, Services: map[mesh.ServiceName]mesh.Service{"web": {}}, Formation: mesh.Formation{"web": 1}}}
	if r := do(t, f, "logs -p worker"); r.status == 0 || !strings.Contains(r.err, `has no service "worker"`) {
		t.Errorf("got %d %s", r.status, r.err)
	}
	f.lines = []mesh.LogLine{at(-5, "app", "worker.1", "one")}
	if r := do(t, f, "logs -p worker -q"); r.status != 0 || r.out != "one\n" {
		t.Errorf("got %d %s%s", r.status, r.out, r.err)
	}
	if r := do(t, f, "logs -p worker -t"); r.status == 0 || !strings.Contains(r.err, `has no service "worker"`) {
		t.Errorf("got %d %s", r.status, r.err)
	}
}

// A followed log says why it ends.
func TestLogs_EndOfAFollowedLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := stacks("blog")
		ctx, cancel := context.WithCancelCause(t.Context())
		f.follow = func(ctx context.Context, _ mesh.LogQuery, fn func(mesh.LogLine) error) error {
			_ = fn(at(-20, "app", "x", "old"))
			<-time.After(time.Second)
			_ = fn(at(0, "app", "x", "new"))
			cancel(mesh.Errorf(mesh.Cancelled, "mesh is being stopped"))
			<-ctx.Done()
			return nil
		}
		r := doCtx(ctx, t, f, "logs -t -q")
		if r.status != 130 || r.out != "old\nnew\n" || !strings.Contains(r.err, "mesh is being stopped") {
			t.Errorf("got %d %q %s", r.status, r.out, r.err)
		}
	})
}

// A client whose output breaks ends everything that was read for it.
func TestLogs_ClientGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := stacks("blog")
		f.follow = func(_ context.Context, _ mesh.LogQuery, fn func(mesh.LogLine) error) error {
			for {
				if err := fn(at(1, "app", "x", "line")); err != nil {
					return err
				}
			}
		}
		r, w := io.Pipe()
		_ = r.CloseWithError(errors.New("gone"))
		if got := doCtx(t.Context(), t, f, "logs -t", func(r *mesh.Request) { r.Stdout = w }); got.status == 0 {
			t.Error("no error")
		}
	})
}

func TestTerminal_CtrlCEndsACommand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := stacks("blog")
		r, w := io.Pipe()
		f.follow = func(ctx context.Context, _ mesh.LogQuery, _ func(mesh.LogLine) error) error {
			_, _ = w.Write([]byte("x\x03"))
			<-ctx.Done()
			return nil
		}
		got := doCtx(t.Context(), t, f, "logs -t", terminal, func(q *mesh.Request) { q.Stdin = r })
		if got.status != 130 {
			t.Errorf("got %d %s", got.status, got.err)
		}
		_ = w.Close()
	})
}

func TestScreen_FitsColoursAndTimes(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	f.status = []mesh.InstanceStatus{
		{Name: mesh.InstanceName{Service: "web", Slot: 1}, Release: 12, State: "up", Since: now.Add(-time.Hour), Command: strings.Repeat("very-long-command ", 10)},
		{Name: mesh.InstanceName{Service: "worker", Slot: 1}, Release: 12, State: "crashed", ExitCode: 1, Crashes: 2, Since: now},
	}
	for _, width := range []int{70, 80, 200} {
		for l := range strings.Lines(do(t, f, "ps", screen(width), noColor).out) {
			if n := len([]rune(strings.TrimRight(l, "\r\n"))); n > width {
				t.Errorf("%d characters on a screen of %d: %q", n, width, l)
			}
		}
	}
	golden(t, "ps-70", do(t, f, "ps", screen(70), noColor).out)
	if got := do(t, f, "ps", screen(0)).out; !strings.Contains(got, "\x1b[32mup\x1b[0m ") || !strings.Contains(got, "\x1b[31mcrashed (exit 1) 2×\x1b[0m") {
		t.Errorf("got %q", got)
	}
	for what, opts := range map[string][]option{"no terminal": nil, "NO_COLOR": {terminal, noColor}} {
		if got := do(t, f, "ps", opts...).out; strings.Contains(got, "\x1b") {
			t.Errorf("%s: got %q", what, got)
		}
	}
	// A client's screen without a terminal: as with one, but with its own line ends.
	on := func(r *mesh.Request) { r.Env = map[string]string{mesh.EnvScreen: "60", mesh.EnvNoColor: "1"} }
	if got := do(t, f, "ps", on).out; !strings.Contains(got, "1h ago") || strings.Contains(got, "\r") {
		t.Errorf("got %q", got)
	}
}

// The answers and messages of a command keep their order on a client's screen, which
// the server cannot see: before stdout continues, stderr has arrived.
func TestOrder_StdoutWaitsForStderr(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	var seen []string
	note := func(name string) io.Writer {
		return writerFunc(func(p []byte) { seen = append(seen, name) })
	}
	do(t, f, "stacks", func(r *mesh.Request) {
		r.Stdout, r.Stderr = note("stdout"), note("stderr")
		r.Flush = func(context.Context) { seen = append(seen, "flush") }
	})
	if !slices.Equal(seen, []string{"stderr", "flush", "stdout"}) {
		t.Errorf("got %q", seen)
	}
}

type writerFunc func([]byte)

func (w writerFunc) Write(p []byte) (int, error) { w(p); return len(p), nil }

func noColor(r *mesh.Request) { r.Env = map[string]string{mesh.EnvNoColor: "1"} }

func TestComplete(t *testing.T) {
	t.Parallel()
	complete := func(words ...string) string {
		var b strings.Builder
		command.Complete(&b, words)
		var out []string
		for l := range strings.Lines(b.String()) {
			word, _, _ := strings.Cut(l, "\t")
			out = append(out, strings.TrimSpace(word))
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ words, want string }{
		{"conf", "config config:history config:diff config:export config:import config:edit config:get config:set config:unset"},
		{"config:s", "config:set"},
		{"config|s", "set"},
		{"ser", "server:set server:info serve"},
		{"ssh-keys:add|me|--ro", "--role"},
		{"keys|add|me|--role|", "admin deploy read"},
		{"build:set|dr", "drain="},
		{"build unset|dr", ""},
		{"completion|", "bash zsh fish"},
		{"-a|blog|rollb", "rollback"},
		{"-a|blog|logs|--so", "--source"},
		{"logs|--source|m", "mesh"},
		{"nonsense|x", ""},
		{"ps|--js", "--json"},
	} {
		if got := complete(strings.Split(c.words, "|")...); got != c.want {
			t.Errorf("%s: %q, want %q", c.words, got, c.want)
		}
	}
	if complete() == "" {
		t.Error("nothing for nothing")
	}
}

func TestPS_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	f.status = []mesh.InstanceStatus{
		{Name: mesh.InstanceName{Service: "web", Slot: 1}, State: mesh.Unknown, Why: "the Docker Engine does not answer"},
		{Name: mesh.InstanceName{Service: "web", Slot: 2}, State: mesh.Paused, Why: "its container was paused"},
		{Name: mesh.InstanceName{Service: "web", Slot: 3}, State: mesh.Crashed, ExitCode: 3, Crashes: 2},
	}
	f.loss = "the image is missing; mesh is rebuilding it"
	got := do(t, f, "ps")
	for _, want := range []string{"unknown: the Docker Engine does not answer", "paused: its container was paused", "crashed (exit 3) 2×"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("no %q in %s", want, got.out)
		}
	}
	if strings.Contains(got.out, "exit 0") || !strings.Contains(got.err, f.loss) {
		t.Errorf("got %s%s", got.out, got.err)
	}
}
