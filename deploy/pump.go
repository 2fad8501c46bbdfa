package deploy

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// pump passes output on to a client without ever waiting for it: a terminal that
// has been stopped, or a pager, must not hold up a deployment, nor the lane that it
// is in. The deployment's record has all of it.
type pump struct {
	to   io.Writer
	wake chan struct{} // holds one when there is something to do
	done chan struct{} // closed when all is written after close

	mu      sync.Mutex
	buf     []byte
	dropped int // lines that had no room
	closed  bool
}

const (
	pumpRoom = 4 << 20          // of output that waits; what comes then is dropped, and that is said
	pumpWait = 10 * time.Second // for a client that reads slowly, at the end
)

func newPump(to io.Writer) *pump {
	p := &pump{to: to, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go p.run()
	return p
}

// Write takes whole lines, and never fails.
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
		_, err := p.to.Write(b) // one that fails is noticed by its context
		if err == nil && dropped > 0 {
			_, _ = fmt.Fprintf(p.to, "       … %d lines skipped: the connection was too slow for them\n", dropped)
		}
		if closed {
			return
		}
	}
}

// close waits until all is written, within bounds. The goroutine of a client that
// reads no more ends with its connection.
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
