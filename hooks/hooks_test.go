package hooks_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mesh"
	"mesh/hooks"
)

const (
	none   = "0000000000000000000000000000000000000000"
	first  = "1111111111111111111111111111111111111111"
	second = "2222222222222222222222222222222222222222"
)

// hook runs an installed hook as git does, with descriptors 3 and 4, and returns
// its exit status. An empty stdin is what update gets.
type hook struct {
	name  string
	args  []string
	stdin string
	env   []string
}

func options(opts ...string) []string {
	env := []string{fmt.Sprintf("GIT_PUSH_OPTION_COUNT=%d", len(opts))}
	for i, o := range opts {
		env = append(env, fmt.Sprintf("GIT_PUSH_OPTION_%d=%s", i, o))
	}
	return env
}

func (h hook) start(t *testing.T, w *hooks.Wire) *exec.Cmd {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "hooks")
	if err := hooks.Install(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(dir, h.name), h.args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, h.env...)
	cmd.Stdin = strings.NewReader(h.stdin)
	cmd.ExtraFiles = w.Files()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Started()
	return cmd
}

// run serves one hook to its end.
func (h hook) run(t *testing.T, verdict bool) (calls []hooks.Call, status int, err error) {
	t.Helper()
	w, err := hooks.NewWire()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd := h.start(t, w)
	err = w.Serve(t.Context(), func(_ context.Context, c hooks.Call) bool {
		calls = append(calls, c)
		return verdict
	})
	_ = cmd.Wait()
	return calls, cmd.ProcessState.ExitCode(), err
}

func TestUpdate_AsksAndObeys(t *testing.T) {
	t.Parallel()
	for verdict, want := range map[bool]int{true: 0, false: 1} {
		calls, status, err := hook{name: hooks.Update, args: []string{"refs/heads/a'$(id)\"b", none, first}}.run(t, verdict)
		ref := mesh.RefUpdate{Ref: "refs/heads/a'$(id)\"b", New: first}
		if err != nil || status != want || len(calls) != 1 || calls[0].Hook != hooks.Update || !slices.Equal(calls[0].Refs, []mesh.RefUpdate{ref}) {
			t.Errorf("verdict %v: %+v, status %d, %v", verdict, calls, status, err)
		}
	}
}

func TestPostReceive_TellsRefsAndOptions(t *testing.T) {
	t.Parallel()
	opts := []string{
		"no-cache", "", " ", "a b  c", "$(touch /tmp/mesh-never)", "`id`", `back\slash\n`, `"quoted"`, "it's", "%s%d", "-n", "ä→", "a;b|c&d", "*", "~",
		strings.Repeat("x", 4000), "ref " + none + " " + first + " refs/heads/evil",
	}
	stdin := none + " " + first + " refs/heads/main\n" + first + " " + none + " refs/heads/old\n" + first + " " + second + " refs/tags/v1\n"
	calls, status, err := hook{name: hooks.PostReceive, stdin: stdin, env: options(opts...)}.run(t, true)
	want := hooks.Call{Hook: hooks.PostReceive, Options: opts, Refs: []mesh.RefUpdate{
		{Ref: "refs/heads/main", New: first}, {Ref: "refs/heads/old", Old: first}, {Ref: "refs/tags/v1", Old: first, New: second},
	}}
	if err != nil || status != 0 || len(calls) != 1 || !reflect.DeepEqual(calls[0], want) {
		t.Errorf("got %+v, status %d, %v\nwant %+v", calls, status, err, want)
	}
	if _, status, err = (hook{name: hooks.PostReceive, stdin: stdin}).run(t, false); status != 1 || err != nil {
		t.Errorf("a refused push ends with %d, %v", status, err)
	}
}

func TestPostReceive_OptionCannotForgeARef(t *testing.T) {
	t.Parallel()
	calls, status, err := hook{
		name: hooks.PostReceive, stdin: none + " " + first + " refs/heads/main\n",
		env: options("x\nref " + none + " " + second + " refs/mesh/kept/x"),
	}.run(t, true)
	if status == 0 || len(calls) != 0 || err == nil {
		t.Errorf("a line end in an option passed: %+v, status %d, %v", calls, status, err)
	}
}

func TestHook_FailsWhenTheServerIsGone(t *testing.T) {
	t.Parallel()
	for _, h := range []hook{
		{name: hooks.Update, args: []string{"refs/heads/main", none, first}},
		{name: hooks.PostReceive, stdin: none + " " + first + " refs/heads/main\n"},
	} {
		w, err := hooks.NewWire()
		if err != nil {
			t.Fatal(err)
		}
		cmd := h.start(t, w)
		w.Close()
		if err := cmd.Wait(); err == nil {
			t.Errorf("%s succeeded without a server", h.name)
		}
	}
}

func TestHook_FailsWhenTheServerGoesWhileItDecides(t *testing.T) {
	t.Parallel()
	w, err := hooks.NewWire()
	if err != nil {
		t.Fatal(err)
	}
	cmd := hook{name: hooks.Update, args: []string{"refs/heads/main", none, first}}.start(t, w)
	err = w.Serve(t.Context(), func(context.Context, hooks.Call) bool {
		w.Close()
		return true
	})
	if err != nil {
		t.Errorf("a closed wire is an error: %v", err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the hook succeeded without a verdict")
	}
}

// A call that cannot be read must not leave the hook waiting for a verdict: git
// would wait for the hook, and the push for git.
func TestHook_FailsWhenItsCallIsTooLong(t *testing.T) {
	t.Parallel()
	calls, status, err := hook{
		name: hooks.PostReceive, stdin: none + " " + first + " refs/heads/main\n", env: options(strings.Repeat("x", 60_000)),
	}.run(t, true)
	if status == 0 || len(calls) != 0 || err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %d calls, status %d, %v", len(calls), status, err)
	}
}

func TestServe_ManyCallsAndTheEnd(t *testing.T) {
	t.Parallel()
	w, err := hooks.NewWire()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	dir := t.TempDir()
	if err := hooks.Install(dir); err != nil {
		t.Fatal(err)
	}
	// One shell that runs the hook for three refs, as git does in a push.
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `for r in a b c; do "$0" refs/heads/$r `+none+` `+first+`; printf '%s' $?; done`, filepath.Join(dir, hooks.Update))
	cmd.ExtraFiles = w.Files()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Started()
	served := make(chan error, 1)
	go func() {
		served <- w.Serve(t.Context(), func(_ context.Context, c hooks.Call) bool { return c.Refs[0].Branch() != "b" })
	}()
	said, _ := io.ReadAll(out)
	if string(said) != "010" {
		t.Errorf("verdicts are %q", said)
	}
	if err := errors.Join(<-served, cmd.Wait()); err != nil {
		t.Error(err)
	}
}

func TestInstall_ReplacesWhatIsThere(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "hooks")
	for range 2 {
		if err := hooks.Install(dir); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 2 {
			t.Fatalf("%v, %v", entries, err)
		}
		for _, e := range entries {
			if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
			}
		}
		// A file that somebody put there no longer runs.
		if err := os.WriteFile(filepath.Join(dir, "pre-receive"), []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, hooks.Update), []byte("#!/bin/sh\nexit 0\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := hooks.Install(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "pre-receive")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("another hook is left: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, hooks.Update)); err != nil || !strings.Contains(string(text), "verdict") {
		t.Errorf("the hook is %q, %v", text, err)
	}
}

func read(s string) (hooks.Call, error) {
	return hooks.ReadCall(bufio.NewReaderSize(strings.NewReader(s), 16<<10))
}

func TestReadCall(t *testing.T) {
	t.Parallel()
	if _, err := read(""); !errors.Is(err, io.EOF) {
		t.Errorf("the end is %v", err)
	}
	c, err := read("update\n.\n")
	if err != nil || c.Hook != hooks.Update || c.Refs != nil {
		t.Errorf("got %+v, %v", c, err)
	}
	ref := "ref " + none + " " + first + " refs/heads/main\n"
	for name, s := range map[string]string{
		"no end":            "update\n" + ref,
		"half a line":       "upd",
		"unknown hook":      "pre-receive\n.\n",
		"unknown line":      "update\nhello\n.\n",
		"short ref line":    "update\nref " + none + " refs/heads/main\n.\n",
		"bad id":            "update\nref " + none + " xyz refs/heads/main\n.\n",
		"upper case id":     "update\nref " + none + " " + strings.Repeat("A", 40) + " refs/heads/main\n.\n",
		"not below refs":    "update\nref " + none + " " + first + " HEAD\n.\n",
		"too long a line":   "update\noption " + strings.Repeat("x", 17<<10) + "\n.\n",
		"too many refs":     "update\n" + strings.Repeat(ref, 10_001) + ".\n",
		"too many options":  "post-receive\n" + strings.Repeat("option x\n", 10_001) + ".\n",
		"ended by no point": "update\n..\n",
	} {
		if c, err := read(s); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: got %+v, %v", name, c.Hook, err)
		}
	}
	if c, err := read("update\n" + strings.Repeat(ref, 10_000) + ".\n"); err != nil || len(c.Refs) != 10_000 {
		t.Errorf("%d refs, %v", len(c.Refs), err)
	}
}

// FuzzReadCall checks that a call is read as a script would have written it.
func FuzzReadCall(f *testing.F) {
	f.Add("update\nref " + none + " " + first + " refs/heads/main\n.\n")
	f.Add("post-receive\noption a b\noption \nref " + first + " " + none + " refs/tags/v 1\n.\n")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := read(s)
		if err != nil {
			return
		}
		var b strings.Builder
		fmt.Fprintln(&b, c.Hook)
		for _, o := range c.Options {
			fmt.Fprintln(&b, "option", o)
		}
		id := func(c mesh.Commit) string {
			if c == "" {
				return none
			}
			return string(c)
		}
		for _, r := range c.Refs {
			fmt.Fprintln(&b, "ref", id(r.Old), id(r.New), r.Ref)
		}
		fmt.Fprintln(&b, ".")
		again, err := read(b.String())
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%q → %+v → %+v, %v", s, c, again, err)
		}
	})
}

// A start needs no space on the disk: hooks that are right are not written again.
func TestInstall_LeavesWhatIsRightAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := hooks.Install(dir); err != nil {
		t.Fatal(err)
	}
	inode := func() (all []uint64) {
		for _, name := range []string{hooks.Update, hooks.PostReceive} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, info.Sys().(*syscall.Stat_t).Ino)
		}
		return all
	}
	before := inode()
	if err := hooks.Install(dir); err != nil {
		t.Fatal(err)
	}
	if after := inode(); !slices.Equal(before, after) {
		t.Errorf("written again: inodes %v, then %v", before, after)
	}
	if err := os.Chmod(filepath.Join(dir, hooks.Update), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := hooks.Install(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, hooks.Update)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A hook can be run as soon as it is installed, whatever else the process starts.
func TestInstall_CanBeRunAtOnce(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command("true").Run()
				}
			}
		})
	}
	for i := range 100 {
		dir := filepath.Join(t.TempDir(), strconv.Itoa(i))
		if err := hooks.Install(dir); err != nil {
			t.Fatal(err)
		}
		if err := exec.Command(filepath.Join(dir, hooks.Update)).Run(); errors.Is(err, syscall.ETXTBSY) {
			t.Fatalf("round %d: %v", i, err)
		}
	}
	close(stop)
	others.Wait()
}
