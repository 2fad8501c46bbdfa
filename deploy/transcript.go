package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"mesh"
	"mesh/deploy/fleet"
)

// heartbeat is how long a deployment may be silent before it prints that it still
// works: SSH clients and CI runners close silent connections after some minutes.
const heartbeat = 30 * time.Second

// transcript is the output of a deployment. It passes whole lines on to the waiting
// client and to the record, with the values of config vars masked. It may be written to
// from several goroutines.
type transcript struct {
	record io.WriteCloser
	client io.Writer

	mu    sync.Mutex
	part  []byte
	hide  *strings.Replacer
	any   bool
	last  time.Time
	rerr  error
	ended bool
}

func newTranscript(record io.WriteCloser, client io.Writer) *transcript {
	if client == nil {
		client = io.Discard
	}
	return &transcript{record: record, client: client, hide: strings.NewReplacer(), last: time.Now()}
}

// mask hides the values of config vars from now on.
func (t *transcript) mask(of ...[]mesh.Config) {
	var values []string
	for _, c := range slices.Concat(of...) {
		values = append(values, c.Hidden(nil)...)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hide = mesh.NewMasker(values)
}

// clean masks a text that is shown elsewhere.
func (t *transcript) clean(s string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hide.Replace(s)
}

// line prints a line that may quote an app or a build.
func (t *transcript) line(s string) { _, _ = io.WriteString(t, s+"\n") }

// say prints one of mesh's own lines, unmasked: a config var that holds the stack's URL
// must not hide it in the result.
func (t *transcript) say(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass(s + "\n")
}

// Write takes any bytes and never fails. The context notices a client that has
// disconnected, and Close reports errors of the record.
func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.part = append(t.part, b...)
	i := bytes.LastIndexByte(t.part, '\n')
	if i >= 0 {
		t.pass(t.hide.Replace(string(t.part[:i+1])))
		t.part = append(t.part[:0], t.part[i+1:]...)
	}
	return len(b), nil
}

func (t *transcript) pass(lines string) {
	t.any, t.last = true, time.Now()
	if t.ended {
		return
	}
	lines = mesh.VisibleOutput(lines) // an app or an image may print anything
	if _, err := io.WriteString(t.record, lines); err != nil && t.rerr == nil {
		t.rerr = err
	}
	_, _ = io.WriteString(t.client, lines)
}

func (t *transcript) begun() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.any
}

// Close writes the last, unfinished line and closes the record.
func (t *transcript) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.part) > 0 {
		t.pass(t.hide.Replace(string(t.part)) + "\n")
		t.part = nil
	}
	t.ended = true
	return errors.Join(t.rerr, t.record.Close())
}

// beat prints a line after each period of silence.
func (t *transcript) beat(ctx context.Context, phase func() string) {
	start := time.Now()
	for wait := heartbeat; fleet.Wait(ctx, wait, nil); {
		t.mu.Lock()
		silent := time.Since(t.last)
		if wait = heartbeat - silent; wait <= 0 {
			wait = heartbeat
			t.pass(fmt.Sprintf("       … still working: %s (%d s in all)\n", phase(), int(time.Since(start).Seconds())))
		}
		t.mu.Unlock()
	}
}
