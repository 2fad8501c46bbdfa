package deploy

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// pump passes output on to a client without ever blocking: a stopped terminal or a
// pager must not hold up a deployment, nor its lane. The deployment's record has all of
// the output.
type pump struct {
	to   io.Writer
	wake chan struct{} // holds a value when there is work
	done chan struct{} // closed when everything is written after close

	mu      sync.Mutex
	buf     []byte
	dropped int // lines dropped for lack of room
	closed  bool
}

const (
	pumpRoom = 4 << 20          // bytes that wait; more is dropped, with a note
	pumpWait = 10 * time.Second // for a slow client, at the end
)

func newPump(to io.Writer) *pump {
	p := &pump{to: to, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go p.run()
	return p
}

// Write takes whole lines. It never fails.
func (p *pump) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.buf)+len(b) > pumpRoom {
		p.dropped += bytes.Count(b, []byte("\n"))
	} else {
		p.buf = append(p.buf, b...)
	}
	p.signal()
	return len(b), nil
}

func (p *pump) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *pump) run() {
	defer close(p.done)
	for range p.wake {
		p.mu.Lock()
		b, dropped, closed := p.buf, p.dropped, p.closed
		p.buf, p.dropped = nil, 0
		p.mu.Unlock()
		_, err := p.to.Write(b) // its context notices a failed client
		if err == nil && dropped > 0 {
			_, _ = fmt.Fprintf(p.to, "       … %d lines skipped: the connection was too slow for them\n", dropped)
		}
		if closed {
			return
		}
	}
}

// close waits until everything is written, up to pumpWait. The goroutine of a client
// that has stopped reading ends with its connection.
func (p *pump) close() {
	p.mu.Lock()
	p.closed = true
	p.signal()
	p.mu.Unlock()
	t := time.NewTimer(pumpWait)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
	}
}
