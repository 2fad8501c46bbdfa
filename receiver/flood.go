package receiver

import (
	"sync"
	"time"
)

// Limits of how much one kind of event writes to the log.
const (
	floodBurst = 10          // lines, in
	floodTime  = time.Minute // after which one line counts the omitted events
)

// flood keeps events that strangers can cause at will from filling the log. The zero
// value is ready to use, from several goroutines.
type flood struct {
	mu      sync.Mutex
	told    int // lines in this minute
	left    int // events that got no line
	started bool
}

// note calls log for an event: at once for the first few in a minute, and once more at
// the end of the minute with the number of omitted events.
func (f *flood) note(log func(more int)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.started {
		f.started = true
		time.AfterFunc(floodTime, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.left > 0 {
				log(f.left)
			}
			f.told, f.left, f.started = 0, 0, false
		})
	}
	if f.told >= floodBurst {
		f.left++
		return
	}
	f.told++
	log(0)
}
