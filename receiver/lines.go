package receiver

import "sync"

// maxOutLine is as much of a line as is sent in one. Longer lines than a pipe takes
// in one piece (PIPE_BUF) are lost in part by git before 2.45.
const maxOutLine = 4000

// lines carries output to a pusher as whole, clean lines. It may be used from several
// goroutines. A pusher who reads too slowly holds its writers up: a deployment has a
// queue in front of it.
type lines struct {
	send func([]byte) error // called by one goroutine at a time

	mu     sync.Mutex
	part   []byte // an unfinished line
	whole  []byte // finished, not yet sent
	closed bool
}

func newLines(send func([]byte) error) *lines { return &lines{send: send} }

// Write takes any bytes. It never fails. What one call finishes goes out in one
// packet.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return len(b), nil
	}
	for _, c := range b {
		switch {
		case c == '\n':
			l.finish()
		case c == '\r', c < 0x20 && c != '\t' && c != 0x1b, c == 0x7f:
			// A NUL would swallow the rest of its packet, and git 2.55 shows the others
			// as ^G.
		default:
			if l.part = append(l.part, c); len(l.part) >= maxOutLine {
				l.finish()
			}
		}
	}
	l.flush()
	return len(b), nil
}

func (l *lines) finish() {
	l.whole = append(append(l.whole, l.part...), '\n')
	l.part = l.part[:0]
}

func (l *lines) flush() {
	if len(l.whole) > 0 && l.send(l.whole) != nil {
		l.closed = true // nobody listens any more
	}
	l.whole = l.whole[:0]
}

// Close sends what is left. It may be called again.
func (l *lines) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if len(l.part) > 0 {
		l.finish()
	}
	l.flush()
	l.closed = true
}
