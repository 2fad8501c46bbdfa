package receiver

import "sync"

// maxOutLine is the most of a line that is sent at once. git before 2.45 loses part of
// a line longer than PIPE_BUF, the size of an atomic pipe write.
const maxOutLine = 4000

// lines sends output to a pusher as whole, clean lines. It may be used from several
// goroutines. A slow pusher blocks its writers: a deployment has a queue in front of
// it.
type lines struct {
	send func([]byte) error // called by one goroutine at a time

	mu     sync.Mutex
	part   []byte // an unfinished line
	whole  []byte // finished, not yet sent
	closed bool
}

func newLines(send func([]byte) error) *lines { return &lines{send: send} }

// Write takes any bytes. It never fails. The lines that one call completes are sent in
// one packet.
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
			// A NUL would end its packet early, and git 2.55 shows the other control
			// characters as ^G.
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
		l.closed = true // the pusher has disconnected
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
