package receiver

import (
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatch_EndsWhatStandsStill(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, w := newWatch(t.Context(), time.Minute)
		r, in := io.Pipe()
		out := w.writer(io.Discard)
		go func() { _, _ = io.Copy(io.Discard, w.reader(r)) }()
		for range 10 {
			time.Sleep(50 * time.Second)
			_, _ = in.Write([]byte("x"))
			time.Sleep(50 * time.Second)
			_, _ = out.Write([]byte("x"))
		}
		if ctx.Err() != nil {
			t.Error("a slow transfer was ended")
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if ctx.Err() == nil {
			t.Error("a transfer that stands still was not ended")
		}
		_ = in.Close()
	})
}

func TestWatch_TakesTheEndForTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, w := newWatch(t.Context(), time.Minute)
		_, _ = io.Copy(io.Discard, w.reader(strings.NewReader("all")))
		time.Sleep(time.Hour)
		if ctx.Err() != nil {
			t.Error("ended after the client has sent all")
		}
	})
}

func TestIdleReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		go func() {
			time.Sleep(50 * time.Second)
			_, _ = pw.Write([]byte("x"))
		}()
		data, err := io.ReadAll(idleReader{pr, time.Minute})
		if string(data) != "x" || !errors.Is(err, errStalled) {
			t.Errorf("%q, %v", data, err)
		}
	})
}

// A push whose git hangs in mid-pack is ended even if its ssh answers keep-alives;
// nothing of the push is left.
func TestPush_ThatStandsStillIsEnded(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.recv.Idle = 300 * time.Millisecond
	r.Commit("one")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `
		$GIT_SSH_COMMAND -p $PORT mesh@127.0.0.1 "git-receive-pack '/blog'" < stall 2>&1`)
	cmd.Dir, cmd.Env = r.Dir, append(r.env, "PORT="+r.port)
	fifo := exec.CommandContext(t.Context(), "mkfifo", "stall")
	fifo.Dir = r.Dir
	if out, err := fifo.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	hold := exec.CommandContext(t.Context(), "sh", "-c", "exec 3<>stall; read line")
	hold.Dir = r.Dir
	in, err := hold.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = hold.Wait() }()
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "nothing was transferred for too long") {
		t.Errorf("%v\n%s", err, out)
	}
}
