package router

import (
	"sync"
	"sync/atomic"
	"time"

	"mesh"
)

// bounds are the upper ends of the classes in which durations are counted, in steps
// of a half or less, so that a percentile is off by at most a quarter.
var bounds = [...]time.Duration{
	500 * time.Microsecond, 750 * time.Microsecond,
	time.Millisecond, 1500 * time.Microsecond, 2 * time.Millisecond, 3 * time.Millisecond, 5 * time.Millisecond, 7500 * time.Microsecond,
	10 * time.Millisecond, 15 * time.Millisecond, 20 * time.Millisecond, 30 * time.Millisecond, 50 * time.Millisecond, 75 * time.Millisecond,
	100 * time.Millisecond, 150 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond, 750 * time.Millisecond,
	time.Second, 1500 * time.Millisecond, 2 * time.Second, 3 * time.Second, 5 * time.Second, 7500 * time.Millisecond,
	10 * time.Second, 15 * time.Second, 20 * time.Second, 30 * time.Second, time.Minute,
}

// class returns the index of the first bound that d does not exceed.
func class(d time.Duration) int {
	lo, hi := 0, len(bounds)
	for lo < hi {
		if m := (lo + hi) / 2; bounds[m] < d {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

const (
	minuteSlots = 13              // the one being filled, plus a minute
	slotTime    = 5 * time.Second // together with slots: a minute
)

// traffic counts the requests of a service, in total and in the last minute.
// Counting takes no lock; a request that ends exactly at the turn of a slot may be
// missed.
type traffic struct {
	waiting atomic.Int64     // requests that wait for an instance
	streams atomic.Int64     // connections on TCP ports now
	status  [6]atomic.Uint64 // by first digit; 0: others
	bytes   atomic.Int64
	nanos   atomic.Int64
	all     [len(bounds) + 1]atomic.Uint64
	recent  [minuteSlots]slot

	mu    sync.Mutex
	codes map[Code]uint64
}

type slot struct {
	epoch  atomic.Int64 // the five seconds that it holds, plus one
	bad    atomic.Uint32
	turned atomic.Uint32 // away, by access rules; not in counts
	counts [len(bounds) + 1]atomic.Uint32
}

func (t *traffic) count(a *AccessRecord, now time.Duration) {
	s, c := a.Status/100, class(a.Duration)
	if s < 1 || s > 5 {
		s = 0
	}
	t.status[s].Add(1)
	t.bytes.Add(a.Bytes)
	if a.Code != "" {
		t.mu.Lock()
		if t.codes == nil {
			t.codes = map[Code]uint64{}
		}
		t.codes[a.Code]++
		t.mu.Unlock()
	}
	if a.Status == 101 || a.Proto == protoTCP {
		return // it lasts as long as people like
	}
	t.nanos.Add(int64(a.Duration))
	t.all[c].Add(1)
	epoch := int64(now/slotTime) + 1
	b := &t.recent[epoch%minuteSlots]
	if had := b.epoch.Load(); had != epoch && b.epoch.CompareAndSwap(had, epoch) {
		b.bad.Store(0)
		b.turned.Store(0)
		for i := range b.counts {
			b.counts[i].Store(0)
		}
	}
	if a.Code.refusal() {
		b.turned.Add(1) // not in the figures that say how the app does
		return
	}
	b.counts[c].Add(1)
	if s == 5 {
		b.bad.Add(1)
	}
}

// minute sums up the minute before now.
func (t *traffic) minute(now time.Duration) mesh.Traffic {
	epoch := int64(now/slotTime) + 1
	var counts [len(bounds) + 1]uint64
	var m mesh.Traffic
	for i := range t.recent {
		b := &t.recent[i]
		if e := b.epoch.Load(); e == 0 || e >= epoch || e < epoch-(minuteSlots-1) {
			continue // never used, in progress, or older than a minute
		}
		m.Errors += int(b.bad.Load())
		m.Refused += int(b.turned.Load())
		for k := range b.counts {
			counts[k] += uint64(b.counts[k].Load())
		}
	}
	total := uint64(0)
	for _, n := range counts {
		total += n
	}
	m.Requests = int(total)
	m.P50, m.P95 = quantile(counts[:], total, 50), quantile(counts[:], total, 95)
	return m
}

// quantile returns the upper end of the class that has the given percentage of all
// requests at or below it.
func quantile(counts []uint64, total uint64, percent uint64) time.Duration {
	if total == 0 {
		return 0
	}
	rank, seen := (total*percent+99)/100, uint64(0)
	for i, n := range counts {
		if seen += n; seen >= rank {
			return bounds[min(i, len(bounds)-1)]
		}
	}
	return bounds[len(bounds)-1]
}

// Minute returns a service's traffic in the last full minute, to within five
// seconds. It is zero for services without a route.
func (r *Router) Minute(stack mesh.StackName, service mesh.ServiceName) mesh.Traffic {
	var t *traffic
	r.mu.Lock()
	if e := r.stacks[stack]; e != nil {
		if t = e.others[service]; service == mesh.Web {
			t = e.seen.Load()
		}
	}
	r.mu.Unlock()
	if t == nil {
		return mesh.Traffic{}
	}
	m := t.minute(r.clock())
	m.Open = int(t.streams.Load())
	return m
}

// Totals are a stack's traffic since the router first had a route for it.
type Totals struct {
	Status  [6]uint64 // answers by first digit, 1 to 5; 0: others
	Bytes   int64     // sent to clients
	Codes   map[Code]uint64
	Count   uint64                   // requests with a duration: all but upgraded ones
	Seconds float64                  // the sum of their durations
	Within  map[time.Duration]uint64 // how many took at most that long
}

// addTo adds the counts of t.
func (t *traffic) addTo(all *Totals) {
	all.Bytes += t.bytes.Load()
	all.Seconds += time.Duration(t.nanos.Load()).Seconds()
	for i := range t.status {
		all.Status[i] += t.status[i].Load()
	}
	count := uint64(0)
	for i := range t.all {
		count += t.all[i].Load()
		if i < len(bounds) {
			all.Within[bounds[i]] += count
		}
	}
	all.Count += count
	t.mu.Lock()
	defer t.mu.Unlock()
	for c, n := range t.codes {
		all.Codes[c] += n
	}
}

// waiting counts the requests that wait for an instance. Call it with Router.mu
// held.
func (e *entry) waiting() int {
	n := int64(0)
	if web := e.seen.Load(); web != nil {
		n = web.waiting.Load()
	}
	for _, t := range e.others {
		n += t.waiting.Load()
	}
	return int(n)
}

// totals covers all services together. Call it with Router.mu held.
func (e *entry) totals() Totals {
	web := e.seen.Load()
	if web == nil && len(e.others) == 0 {
		return Totals{}
	}
	all := Totals{Codes: map[Code]uint64{}, Within: map[time.Duration]uint64{}}
	if web != nil {
		web.addTo(&all)
	}
	for _, t := range e.others {
		t.addTo(&all)
	}
	return all
}
