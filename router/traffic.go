package router

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"mesh"
)

const (
	classes     = len(mesh.Latency{}) // of durations
	minuteSlots = 13                  // the one being filled, plus a minute
	slotTime    = 5 * time.Second     // together with slots: a minute
)

// traffic counts the requests of a service, in total and in the last minute.
// Counting takes no lock; a request that ends exactly at the turn of a slot may be
// missed.
type traffic struct {
	waiting atomic.Int64 // requests that wait for an instance
	streams atomic.Int64 // connections on TCP ports now
	own     tally        // of requests that no instance got
	recent  [minuteSlots]slot

	mu    sync.Mutex
	codes map[Code]uint64
}

// tally counts the requests that one instance got.
type tally struct {
	status [6]atomic.Uint64 // by first digit; 0: others
	bytes  atomic.Int64
	nanos  atomic.Int64
	all    [classes]atomic.Uint64
}

type slot struct {
	epoch  atomic.Int64 // the five seconds that it holds, plus one
	bad    atomic.Uint32
	turned atomic.Uint32 // away, by access rules; not in counts
	counts [classes]atomic.Uint32
}

// statusClass is the first digit of a status, or 0 if it is not a status of HTTP.
func statusClass(status int) int {
	if s := status / 100; s >= 1 && s <= 5 {
		return s
	}
	return 0
}

// count counts a request that has ended, which an instance of p or none has got.
func (t *traffic) count(p *pool, a *AccessRecord, now time.Duration) {
	s, c := statusClass(a.Status), mesh.LatencyClass(a.Duration)
	one := &t.own
	if p != nil && a.Instance.Slot > 0 {
		if i := p.tallies[a.Instance]; i != nil {
			one = i
		}
	}
	one.status[s].Add(1)
	one.bytes.Add(a.Bytes)
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
	one.nanos.Add(int64(a.Duration))
	one.all[c].Add(1)
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
	var counts mesh.Latency
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
	m.Requests = int(counts.Count()) //nolint:gosec // of one minute
	m.P50, m.P95 = counts.Quantile(50), counts.Quantile(95)
	return m
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

// Totals is the traffic of a stack or a service since the router first had a route for
// the stack.
type Totals struct {
	Status  [6]uint64 // answers by first digit, 1 to 5; 0: others
	Bytes   int64     // sent to clients
	Codes   map[Code]uint64
	Count   uint64                   // requests with a duration: all but upgraded ones
	Seconds float64                  // the sum of their durations
	Within  map[time.Duration]uint64 // how many took at most that long
}

// addTo adds the counts of t.
func (t *tally) addTo(all *Totals) {
	all.Bytes += t.bytes.Load()
	all.Seconds += time.Duration(t.nanos.Load()).Seconds()
	for i := range t.status {
		all.Status[i] += t.status[i].Load()
	}
	count := uint64(0)
	for i := range t.all {
		count += t.all[i].Load()
		if i < len(mesh.LatencyBounds) {
			all.Within[mesh.LatencyBounds[i]] += count
		}
	}
	all.Count += count
}

// waiting counts the requests that wait for an instance. Call it with Router.mu
// held.
func (e *entry) waiting() int {
	n := int64(0)
	for _, t := range e.services() {
		n += t.waiting.Load()
	}
	return int(n)
}

// services returns the traffic of the services that had requests, or have endpoints.
// Call it with Router.mu held.
func (e *entry) services() map[mesh.ServiceName]*traffic {
	all := make(map[mesh.ServiceName]*traffic, len(e.others)+1)
	maps.Copy(all, e.others)
	if web := e.seen.Load(); web != nil {
		all[mesh.Web] = web
	}
	return all
}

// totals returns the traffic of each service. Call it with Router.mu held.
func (e *entry) totals() map[mesh.ServiceName]Totals {
	out := map[mesh.ServiceName]Totals{}
	for svc, t := range e.services() {
		all := Totals{Codes: map[Code]uint64{}, Within: map[time.Duration]uint64{}}
		t.own.addTo(&all)
		t.mu.Lock()
		for c, n := range t.codes {
			all.Codes[c] += n
		}
		t.mu.Unlock()
		for name, i := range e.tallies {
			if name.Service == svc {
				i.addTo(&all)
			}
		}
		out[svc] = all
	}
	return out
}

// merge adds the totals of another service.
func (t *Totals) merge(o Totals) {
	if t.Codes == nil {
		t.Codes, t.Within = map[Code]uint64{}, map[time.Duration]uint64{}
	}
	for i, n := range o.Status {
		t.Status[i] += n
	}
	t.Bytes += o.Bytes
	t.Count += o.Count
	t.Seconds += o.Seconds
	for c, n := range o.Codes {
		t.Codes[c] += n
	}
	for d, n := range o.Within {
		t.Within[d] += n
	}
}

// Shares returns the traffic of all instances that are or were targets since the router
// first had a route for their stack, and the requests of each service that no instance
// got, in no order. It sets Status, Bytes and Latency, which only grow, and the state
// now in InFlight and Held. Each figure was true at some moment during the call.
func (r *Router) Shares() []mesh.Share {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []mesh.Share
	for stack, e := range r.stacks {
		at := map[mesh.InstanceName]int64{}
		for _, t := range e.cur.Load().targets {
			at[t.ep.Load().name] += t.inflight.load()
		}
		for name, t := range e.tallies {
			s := t.share(stack, name)
			s.InFlight = at[name]
			out = append(out, s)
		}
		for svc, t := range e.services() {
			s := t.own.share(stack, mesh.InstanceName{Service: svc})
			s.Held = t.waiting.Load()
			out = append(out, s)
		}
	}
	return out
}

func (t *tally) share(stack mesh.StackName, name mesh.InstanceName) mesh.Share {
	s := mesh.Share{Stack: stack, Name: name}
	for i := range t.status {
		s.Status[i] = t.status[i].Load()
	}
	s.Bytes = uint64(max(t.bytes.Load(), 0)) //nolint:gosec // not negative
	for i := range t.all {
		s.Latency[i] = t.all[i].Load()
	}
	return s
}
