package receiver

import (
	"fmt"
	"sync"
)

// Limits of what goes to a pusher. Longer lines than a pipe takes in one piece
// (PIPE_BUF) are lost in part by git before 2.45.
const (
	maxOutLine = 4000
	maxLag     = 1 << 20
)

// pump carries output to a pusher as whole, clean lines, and never makes the
// writer wait: who reads too slowly misses lines and is told how many. The record
// of the deployment has them all. It may be used from several goroutines.
type pump struct {
	send func([]byte) error

	mu      sync.Mutex
	cond    *sync.Cond
	part    []byte // an unfinished line
	lines   []byte // finished, not yet sent
	skipped int
	closed  bool
	done    chan struct{}
}

func newPump(send func([]byte) error) *pump {
	p := &pump{send: send, done: make(chan struct{})}
	p.cond = sync.NewCond(&p.mu)
	go p.run()
	return p
}

// Write takes any bytes. It never fails.
func (p *pump) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return len(b), nil
	}
	for _, c := range b {
		switch {
		case c == '\n':
			p.finish()
		case c == '\r', c < 0x20 && c != '\t' && c != 0x1b, c == 0x7f:
			// A NUL would swallow the rest of its packet, and git 2.55 shows the others
			// as ^G.
		default:
			if p.part = append(p.part, c); len(p.part) >= maxOutLine {
				p.finish()
			}
		}
	}
	return len(b), nil
}

func (p *pump) finish() {
	if len(p.lines)+len(p.part) > maxLag {
		p.skipped++
		p.part = p.part[:0]
		return
	}
	p.lines = append(append(p.lines, p.part...), '\n')
	p.part = p.part[:0]
	p.cond.Signal()
}

// Close sends what is left and waits for it. It may be called again.
func (p *pump) Close() {
	p.mu.Lock()
	if !p.closed {
		if len(p.part) > 0 {
			p.finish()
		}
		p.closed = true
		p.cond.Signal()
	}
	p.mu.Unlock()
	<-p.done
}

// run sends whatever has come since the last packet: nothing waits for a timer,
// and a burst goes out in few packets.
func (p *pump) run() {
	defer close(p.done)
	var out []byte
	for {
		p.mu.Lock()
		for len(p.lines) == 0 && !p.closed {
			p.cond.Wait()
		}
		out, p.lines = p.lines, out[:0]
		if p.skipped > 0 {
			out = fmt.Appendf(out, "       … %d lines skipped: the connection was too slow for them\n", p.skipped)
			p.skipped = 0
		}
		closed := p.closed
		p.mu.Unlock()
		if len(out) > 0 && p.send(out) != nil {
			p.mu.Lock()
			p.closed = true // nobody listens any more
			p.mu.Unlock()
			return
		}
		if closed {
			return
		}
	}
}
