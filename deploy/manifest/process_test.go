package manifest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mesh"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]commandKind{
		"./serve":                         simple,
		"./serve --port $PORT":            simple,
		`node server.js "a b" 'c'`:        simple,
		`"$HOME/bin/x" y`:                 simple,
		"$CMD x":                          simple,
		"a\\ b":                           simple,
		"# not a comment? it is\n./serve": simple,
		"exec ./serve":                    replaced,
		"exec $CMD":                       replaced,
		"exec":                            compound,
		"VAR=1 ./serve":                   compound,
		"VAR=1":                           compound,
		"a && b":                          compound,
		"a || b":                          compound,
		"a | b":                           compound,
		"a; b":                            compound,
		"a\nb":                            compound,
		"a &":                             compound,
		"! a":                             compound,
		"a > file":                        compound,
		"a 2>&1":                          compound,
		"(a)":                             compound,
		"{ a; }":                          compound,
		"if a; then b; fi":                compound,
		"while :; do a; done":             compound,
		"cd /app":                         compound,
		". ./env":                         compound,
		"echo $(id)":                      compound,
		"echo `id`":                       compound,
		"./serve $(nproc)":                compound,
		"$(which node) x":                 compound,
		"./serve --threads \"$(nproc)\"":  compound,
		"trap x TERM":                     compound,
		"f() { a; }":                      compound,
		"[ -f x ]":                        compound,
		"[[ -f x ]]":                      simple, // a word for sh, which [[ is not to
	} {
		got, err := classify(command)
		if err != nil || got != want {
			t.Errorf("classify(%q) = %d, %v, want %d", command, got, err, want)
		}
	}
	for _, command := range []string{"", "  ", "# only a comment", "'open", `"open`, "a &&", "$(", "a\x00b", "if a"} {
		if got, err := classify(command); err == nil {
			t.Errorf("classify(%q) = %d", command, got)
		}
	}
}

func TestProcess(t *testing.T) {
	t.Parallel()
	env := map[string]mesh.Secret{"PORT": mesh.NewSecret("8080"), "MSG": mesh.NewSecret("two words"), "EMPTY": mesh.NewSecret("")}
	shell := mesh.Image{Shell: true, Cmd: []string{"/app"}}
	bare := mesh.Image{Cmd: []string{"/app"}}
	entry := mesh.Image{Shell: true, Entrypoint: []string{"/entry", "-x"}, Cmd: []string{"serve"}}
	form := func(sh string) mesh.Image {
		return mesh.Image{Shell: true, Cmd: []string{sh, "-c", "./serve --port $PORT"}}
	}
	for name, tc := range map[string]struct {
		command string
		img     mesh.Image
		want    mesh.Process
	}{
		"the image's own":               {"", shell, mesh.Process{}},
		"the image's own, no shell":     {"", bare, mesh.Process{}},
		"the image's own, entrypoint":   {"", entry, mesh.Process{}},
		"shell form CMD":                {"", form("/bin/sh"), mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"exec ./serve --port $PORT"}}},
		"shell form CMD of bash":        {"", form("/usr/bin/bash"), mesh.Process{Entrypoint: []string{"/usr/bin/bash", "-c"}, Cmd: []string{"exec ./serve --port $PORT"}}},
		"shell form of something else":  {"", form("/usr/bin/python"), mesh.Process{}},
		"shell form without a shell":    {"", mesh.Image{Cmd: []string{"/bin/sh", "-c", "x"}}, mesh.Process{}},
		"shell form below ENTRYPOINT":   {"", mesh.Image{Shell: true, Entrypoint: []string{"/e"}, Cmd: []string{"/bin/sh", "-c", "x"}}, mesh.Process{}},
		"shell form that is broken":     {"", mesh.Image{Shell: true, Cmd: []string{"/bin/sh", "-c", "'"}}, mesh.Process{}},
		"shell form, compound":          {"", mesh.Image{Shell: true, Cmd: []string{"/bin/sh", "-c", "a && b"}}, mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{forwarder, "sh", "a && b"}}},
		"simple":                        {"./serve --port $PORT", shell, mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"exec ./serve --port $PORT"}}},
		"exec":                          {"exec ./serve", shell, mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"exec ./serve"}}},
		"compound":                      {"a && b", shell, mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{forwarder, "sh", "a && b"}}},
		"VAR=1":                         {"A=1 ./serve", shell, mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{forwarder, "sh", "A=1 ./serve"}}},
		"entrypoint, split and expand":  {`serve --port $PORT "$MSG" '$MSG' $MSG x${EMPTY}y`, entry, mesh.Process{Entrypoint: []string{"/entry", "-x"}, Cmd: []string{"serve", "--port", "8080", "two words", "$MSG", "two", "words", "xy"}}},
		"no shell, split and expand":    {`/app -p ${PORT:-1} -q ${NONE:-2} $NONE`, bare, mesh.Process{Entrypoint: []string{"/app", "-p", "8080", "-q", "2"}}},
		"entrypoint in a bare image":    {"serve", mesh.Image{Entrypoint: []string{"/e"}}, mesh.Process{Entrypoint: []string{"/e"}, Cmd: []string{"serve"}}},
		"no file is looked for":         {"/app *.go", bare, mesh.Process{Entrypoint: []string{"/app", "*.go"}}},
		"quotes keep an empty argument": {`/app "" ''`, bare, mesh.Process{Entrypoint: []string{"/app", "", ""}}},
	} {
		got, err := Process(tc.command, tc.img, env)
		if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, tc.want)
		}
	}
	for name, tc := range map[string]struct {
		command string
		img     mesh.Image
		says    string
	}{
		"compound, no shell":   {"a && b", bare, "needs a shell, but the image has no /bin/sh"},
		"compound, ENTRYPOINT": {"a | b", entry, "needs a shell, but the image has an ENTRYPOINT"},
		"exec, no shell":       {"exec /app", bare, "needs a shell"},
		"nothing is left":      {"$NONE", bare, "cannot be expanded without a shell"},
		"open quote":           {"'a", shell, "cannot be read"},
		"NUL":                  {"a\x00", shell, "contains a NUL byte"},
		"blank":                {"   ", shell, "cannot be read"},
	} {
		got, err := Process(tc.command, tc.img, env)
		if !errors.Is(err, mesh.Failed) && !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, tc.says)
		}
	}
}

// A shell with a script is recognized in any spelling, in CMD, in ENTRYPOINT and below
// an init.
func TestProcess_ShellForms(t *testing.T) {
	t.Parallel()
	for _, shell := range [][]string{
		{"/bin/sh", "-ec"},
		{"/bin/sh", "-exc"},
		{"/bin/bash", "-o", "pipefail", "-c"},
		{"bash", "-eo", "pipefail", "-c"},
		{"/bin/ash", "-eo", "pipefail", "-c"},
		{"/bin/bash", "-lc"},
		{"bash", "-c", "-e"},
		{"bash", "--login", "-c"},
		{"bash", "--rcfile", "/x", "-c"},
		{"bash", "-euxo", "pipefail", "-c"},
		{"bash", "-ceo", "pipefail"},
		{"/usr/bin/env", "bash", "-c"},
		{"env", "-i", "A=1", "bash", "-ec"},
		{"busybox", "sh", "-c"},
		{"/bin/zsh", "-ec"},
		{"sh", "+x", "-c"},
		{"sh", "-c", "--"},
	} {
		with := func(words ...string) []string { return append(slices.Clone(shell), words...) }
		for form, img := range map[string]mesh.Image{
			"CMD": {Shell: true, Cmd: with("./serve $PORT")}, "ENTRYPOINT": {Shell: true, Entrypoint: with("./serve $PORT")},
			"an init":        {Shell: true, Entrypoint: []string{"/sbin/tini", "-g", "--"}, Cmd: with("./serve $PORT")},
			"one in a piece": {Shell: true, Entrypoint: append([]string{"dumb-init"}, with("./serve $PORT")...)},
		} {
			got, err := Process("", img, nil)
			words := append(slices.Clone(got.Entrypoint), got.Cmd...)
			want := append(slices.Concat(img.Entrypoint, img.Cmd)[:len(img.Entrypoint)+len(img.Cmd)-1:len(img.Entrypoint)+len(img.Cmd)-1], "exec ./serve $PORT")
			if err != nil || !slices.Equal(words, want) {
				t.Errorf("%s %q: got %q, %v, want %q", form, shell, words, err, want)
			}
		}
		got, err := Process("", mesh.Image{Shell: true, Cmd: with("a; b", "name", "$1")}, nil)
		want := mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: append(append([]string{forwardTo, "sh"}, shell...), heeding+"a; b", "name", "$1")}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %q, %v", shell, got, err)
		}
	}
	for _, words := range [][]string{
		{"/bin/sh", "script.sh"},
		{"/bin/sh", "-e", "script.sh"},
		{"sh"},
		{"sh", "-c"},
		{"sh", "-o", "c"},
		{"python", "-c", "a; b"},
		{"node", "-e", "x"},
		{"/bin/shell", "-c", "a; b"},
		{"bash", "--norc", "x"},
		{"env", "node"},
		{"busybox", "httpd"},
		{"sh", "-ec", "'"},
	} {
		for _, img := range []mesh.Image{{Shell: true, Cmd: words}, {Shell: true, Entrypoint: words}, {Shell: true, Entrypoint: []string{"tini", "--"}, Cmd: words}} {
			if got, err := Process("", img, nil); err != nil || got.Entrypoint != nil {
				t.Errorf("%q is taken for a script: %q, %v", words, got, err)
			}
		}
	}
	// A command that is such a shell itself.
	got, err := Process(`bash -ec 'a; b'`, mesh.Image{Shell: true}, nil)
	if want := []string{forwardTo, "sh", "bash", "-ec", heeding + "a; b"}; err != nil || !slices.Equal(got.Cmd, want) {
		t.Errorf("got %q, %v, want %q", got.Cmd, err, want)
	}
	got, err = Process(`bash -ec "a; $B"`, mesh.Image{Shell: true}, nil)
	if want := []string{`exec bash -ec "a; $B"`}; err != nil || !slices.Equal(got.Cmd, want) {
		t.Errorf("got %q, %v, want %q", got.Cmd, err, want)
	}
}

// start runs a process as a container does, with the real /bin/sh.
func start(t *testing.T, command string) *exec.Cmd {
	t.Helper()
	return startImage(t, command, mesh.Image{Shell: true})
}

func startImage(t *testing.T, command string, img mesh.Image) *exec.Cmd {
	t.Helper()
	p, err := Process(command, img, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	argv := append(append([]string(nil), p.Entrypoint...), p.Cmd...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	return cmd
}

func TestProcess_ExitCodesAreKept(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]int{
		"true": 0, "false": 1, "sh -c 'exit 42'": 42, "exec sh -c 'exit 43'": 43, "true && sh -c 'exit 44'": 44, "exit 45": 45, "A=46 sh -c 'exit $A'": 46,
		"sh -ec 'false; exit 50'": 1, "bash -eo pipefail -c 'sh -c \"exit 51\" | cat; exit 52'": 51, "bash -uc 'true; exit 53'": 53,
		"false || exit 47": 47, "(exit 48)": 48, "no-such-program-here": 127, "true; no-such-program-here": 127, "sh -c 'kill -9 $$'; exit $?": 137, "true | sh -c 'cat; exit 49'": 49,
	} {
		cmd := start(t, command)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%q exits with %d, want %d: %s", command, got, want, out)
		}
	}
}

// TestProcess_SignalsReachTheApp runs the process in a separate PID namespace, where
// "kill -1" reaches nothing else.
func TestProcess_SignalsReachTheApp(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{
		"simple":   `sh ./app`,
		"compound": `true && sh ./app`,
		"env":      `A=1 sh ./app`,

		"sh -ec":                "[sh -ec] true; sh ./app",
		"dash with options":     "[dash -o errexit -u -c] true; sh ./app",
		"bash -eo pipefail":     "[bash -euo pipefail -c] true; sh ./app",
		"bash, a pipe":          "[bash -o pipefail -c] true | true; sh ./app",
		"bash -lc, simple":      "[bash -lc] sh ./app",
		"env bash":              "[/usr/bin/env bash -c] true; sh ./app",
		"busybox":               "[busybox sh -ec] true; sh ./app",
		"a shell in a command":  `sh -c 'true; sh ./app; exit $?'`,
		"a shell that is fussy": "[bash -exu -c] sh ./app; false",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := mesh.Image{Shell: true}
			if shell, script, ok := strings.Cut(strings.TrimPrefix(command, "["), "] "); ok {
				img.Cmd, command = append(strings.Fields(shell), script), ""
			}
			cmd := startImage(t, command, img)
			app := "trap 'echo got TERM > done; exit 7' TERM\necho ready > ready\nwhile :; do sleep 0.05; done\n"
			if err := os.WriteFile(filepath.Join(cmd.Dir, "app"), []byte(app), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c := exec.CommandContext(ctx, cmd.Args[0], cmd.Args[1:]...)
			c.Dir, c.Env = cmd.Dir, cmd.Env
			c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWUSER, UidMappings: ids(os.Getuid()), GidMappings: ids(os.Getgid())}
			if err := c.Start(); err != nil {
				t.Fatalf("a PID namespace: %v", err)
			}
			ready := false
			for deadline := time.Now().Add(10 * time.Second); !ready && time.Now().Before(deadline); {
				_, err := os.Stat(filepath.Join(c.Dir, "ready"))
				ready = err == nil
			}
			if !ready {
				t.Fatal("the app did not begin")
			}
			if err := c.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			_ = c.Wait()
			said, _ := os.ReadFile(filepath.Join(c.Dir, "done"))
			if string(said) != "got TERM\n" || c.ProcessState.ExitCode() != 7 {
				t.Errorf("the app said %q, status %d", said, c.ProcessState.ExitCode())
			}
		})
	}
}

func ids(id int) []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
}

func TestParseProcfile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[mesh.ServiceName]string{
		"":                                     {},
		"\n# comment\n\n":                      {},
		"web: ./serve --port $PORT":            {"web": "./serve --port $PORT"},
		"web:./a\r\nworker :  ./b  \n":         {"web": "./a", "worker": "./b"},
		"\ufeffweb: a: b":                      {"web": "a: b"},
		"release: rake db:migrate\nmy-app: x#": {"release": "rake db:migrate", "my-app": "x#"},
		"  web: a":                             {"web": "a"},
	} {
		if got, err := ParseProcfile(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseProcfile(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for text, says := range map[string]string{
		"web": "Procfile:1: \"web\" has no colon", "\n\nweb:": "Procfile:3: web has no command", "web: a\nweb: b": "Procfile:2: web is there twice",
		"Web: a": "Procfile:1", "my_app: a": "Procfile:1", "web: a\x00": "contains a NUL", ": a": "Procfile:1", "<html>:": "Procfile:1",
	} {
		if got, err := ParseProcfile(text); !errors.Is(err, mesh.Failed) && !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("ParseProcfile(%q) = %v, %v, want %q", text, got, err, says)
		}
	}
}

func FuzzParseProcfile(f *testing.F) {
	f.Add("web: ./serve\n# x\nworker: a: b\n")
	f.Add("\ufeffrelease:x\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseProcfile(text)
		if err != nil {
			return
		}
		var b strings.Builder
		for name, command := range got {
			fmt.Fprintf(&b, "%s: %s\n", name, command)
		}
		if again, err := ParseProcfile(b.String()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%q → %v → %v, %v", text, got, again, err)
		}
	})
}

func FuzzProcess(f *testing.F) {
	for _, s := range []string{"./serve $PORT", "a && b", "'", "exec x", "$(x)", "${A:-b}", "a[$((1+2))]=3", "${A:?no}"} {
		f.Add(s)
	}
	env := map[string]mesh.Secret{"A": mesh.NewSecret("correct-horse")}
	f.Fuzz(func(t *testing.T, command string) {
		for _, img := range []mesh.Image{{Shell: true}, {}, {Entrypoint: []string{"/e"}}} {
			_, err := Process(command, img, env)
			var e *mesh.Error
			if err != nil && (!errors.As(err, &e) || strings.Contains(e.Text+e.Hint, "correct-horse")) {
				t.Errorf("%q: %v", command, err)
			}
		}
	})
}
