package deploy

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// waits is a client that reads nothing until the test lets it.
type waits struct {
	read chan struct{}
	mu   sync.Mutex
	got  bytes.Buffer
}

func (w *waits) Write(b []byte) (int, error) {
	<-w.read
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got.Write(b)
}

// The deployment does not wait for its client, which is told how much it has missed.
func TestPump_SlowClientMissesLinesAndIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &waits{read: make(chan struct{})}
		p := newPump(w)
		const lines = 100_000
		for i := range lines { // 10 MB
			fmt.Fprintf(p, "%099d\n", i)
		}
		close(w.read)
		p.close()
		skipped := regexp.MustCompile(`(?m)^       … (\d+) lines skipped: .*\n`).FindAllStringSubmatch(w.got.String(), -1)
		n := 0
		for _, m := range skipped {
			k, _ := strconv.Atoi(m[1])
			n += k
		}
		if got := w.got.String(); len(skipped) == 0 || strings.Count(got, "\n")-len(skipped)+n != lines || len(got) > 2*pumpRoom {
			t.Errorf("%d bytes, %q, %d lines", len(got), skipped, strings.Count(got, "\n"))
		}
	})
}

// A client that never reads delays the end for a while, but not longer.
func TestPump_ClientThatNeverReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &waits{read: make(chan struct{})}
		p := newPump(w)
		fmt.Fprintln(p, "a line")
		began := time.Now()
		p.close()
		if took := time.Since(began); took != pumpWait {
			t.Errorf("the end took %v", took)
		}
		close(w.read) // its connection ends
		<-p.done
	})
}
