package router

import (
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"mesh"
	"mesh/router/access"
)

// shards is the number of maps that the table is split into. A new host copies one
// of them, so with 10,000 hosts it copies 40 entries. A lookup takes no lock and
// does not allocate, which sync.Map with its boxed keys cannot guarantee.
const shards = 256

// table finds the stack of a host. Reads may come from any goroutine at any time;
// writers take turns (Router.mu). While Switch is between two of its steps, a name
// may point to an entry whose route does not have it: lookup checks the route. So
// the hosts and targets of a stack change at the same instant, by the one atomic
// store in entry.cur.
type table struct {
	seed  maphash.Seed
	wild  atomic.Int64 // number of wildcard keys; most tables have none
	shard [shards]atomic.Pointer[map[string]*entry]
}

// entry is a stack while it has routes; cur is its current route.
type entry struct {
	cur  atomic.Pointer[route]   // nil: removed
	seen atomic.Pointer[traffic] // of web, and of no service; nil: no requests yet

	others map[mesh.ServiceName]*traffic // of services that have, or had, an endpoint; guarded by Router.mu

	// tallies is by instance that is, or was, a target: no more names than the largest
	// formation. It is guarded by Router.mu.
	tallies map[mesh.InstanceName]*tally

	used atomic.Int64 // when the last request ended, on the router's clock, plus one; 0: none yet

	trial *comparison // nil: the stack tries no release; guarded by Router.mu
}

// traffic counts the entry's requests, without those of others. Most of many stacks
// are idle and need none.
func (e *entry) traffic() *traffic {
	if t := e.seen.Load(); t != nil {
		return t
	}
	e.seen.CompareAndSwap(nil, new(traffic))
	return e.seen.Load()
}

// route is one state of a stack's traffic. It never changes once stored.
type route struct {
	mesh.Route
	keys     map[string]struct{} // of the hosts
	targets  []*target           // of all pools
	web      *pool
	trial    *trial            // nil: none
	compared *comparison       // nil if trial is
	parts    map[string][]part // by the host's key, the longest path first
	ports    map[uint16]*pool
	gate     *access.Gate  // nil: every request is admitted
	replaced chan struct{} // closed when another route has replaced it
}

// part is an endpoint, and the pool that gets its requests.
type part struct {
	mesh.Endpoint
	pool *pool
}

// pool is the targets of one service: a request goes to any of them.
type pool struct {
	targets []*target
	down    mesh.DownReason
	seen    *traffic      // nil: the entry's
	turn    atomic.Uint32 // where the search for a target begins

	tallies map[mesh.InstanceName]*tally // of the targets
}

// traffic counts the requests of p, a pool of e's route; nil: unknown.
func (p *pool) traffic(e *entry) *traffic {
	if p == nil || p.seen == nil {
		return e.traffic()
	}
	return p.seen
}

// split makes the pools of a route whose targets have been found. Call it with
// Router.mu held.
func (rt *route) split(e *entry) {
	rt.web = &pool{down: rt.Down}
	if rt.Down == mesh.Maintenance {
		rt.web.down = rt.Idle[mesh.Web]
	}
	pools := map[mesh.ServiceName]*pool{}
	poolOf := func(svc mesh.ServiceName) *pool {
		p := pools[svc]
		if p == nil {
			p = &pool{down: rt.Idle[svc], seen: e.others[svc]}
			if p.seen == nil {
				p.seen = new(traffic)
				if e.others == nil {
					e.others = map[mesh.ServiceName]*traffic{}
				}
				e.others[svc] = p.seen
			}
			pools[svc] = p
		}
		return p
	}
	add := func(key string, at mesh.Endpoint) {
		if rt.parts == nil {
			rt.parts = map[string][]part{}
		}
		rt.parts[key] = append(rt.parts[key], part{at, poolOf(at.Service)})
	}
	for _, at := range rt.Endpoints {
		add(tableKey(at.Host), at)
	}
	for _, d := range rt.Doors {
		if d.Service != mesh.Web {
			add(doorKey(d.As, d.From), mesh.Endpoint{Path: "/", Service: d.Service})
		}
	}
	for _, p := range rt.Ports {
		if rt.ports == nil {
			rt.ports = map[uint16]*pool{}
		}
		rt.ports[p.Number] = poolOf(p.Service)
	}
	for _, of := range rt.parts {
		slices.SortStableFunc(of, func(a, b part) int { return a.Compare(b.Endpoint) })
	}
	for _, t := range rt.targets {
		name := t.ep.Load().name
		p := pools[name.Service]
		if p == nil {
			p = rt.web
		}
		p.targets = append(p.targets, t)
		p.tally(e, name)
	}
}

// tally finds, or begins, the counts of an instance. Call it with Router.mu held.
func (p *pool) tally(e *entry, name mesh.InstanceName) {
	t := e.tallies[name]
	if t == nil {
		if e.tallies == nil {
			e.tallies = map[mesh.InstanceName]*tally{}
		}
		t = new(tally)
		e.tallies[name] = t
	}
	if p.tallies == nil {
		p.tallies = map[mesh.InstanceName]*tally{}
	}
	p.tallies[name] = t
}

// pick returns the pool for a request, by its normalised host and its decoded path, and
// the endpoint that strips its path, if one does.
func (rt *route) pick(host, path string) (*pool, *part) {
	if rt.parts == nil {
		return rt.web, nil
	}
	of := rt.parts[host]
	for i := range of {
		switch at := &of[i]; {
		case !at.Covers(path):
		case at.Strip:
			return at.pool, at
		default:
			return at.pool, nil
		}
	}
	return rt.web, nil
}

// tableKey is the key of a host: the name itself, or ".parent" for "*.parent", which
// no name can collide with.
func tableKey(h mesh.Host) string {
	if parent, ok := strings.CutPrefix(string(h), "*"); ok {
		return strings.ToLower(strings.TrimSuffix(parent, "."))
	}
	return normalHost(string(h))
}

// doorKey is the key of a link's name in the network of a stack. No host that a client
// can send has an @ (normalHost), so nobody else can use it.
func doorKey(as string, from mesh.StackName) string { return as + "@" + string(from) }

func (t *table) at(key string) *atomic.Pointer[map[string]*entry] {
	return &t.shard[maphash.String(t.seed, key)%shards]
}

func (t *table) get(key string) *entry {
	if m := t.at(key).Load(); m != nil {
		return (*m)[key]
	}
	return nil
}

// find returns the entry of a key and its route, if the route has the key.
func (t *table) find(key string) (*entry, *route) {
	if e := t.get(key); e != nil {
		if rt := e.cur.Load(); rt != nil {
			if _, ok := rt.keys[key]; ok {
				return e, rt
			}
		}
	}
	return nil, nil
}

// lookup finds the route of a normalised host: by its exact name, then by the
// wildcard of the nearest parent. As in DNS (RFC 4592) and nginx, a wildcard covers
// any number of labels.
func (t *table) lookup(host string) (*entry, *route) {
	e, rt := t.find(host)
	if rt != nil || t.wild.Load() == 0 {
		return e, rt
	}
	for i := strings.IndexByte(host, '.'); i >= 0; {
		if e, rt := t.find(host[i:]); rt != nil {
			return e, rt
		}
		next := strings.IndexByte(host[i+1:], '.')
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return nil, nil
}

// set makes a key point to e, or to nothing if e is nil.
func (t *table) set(key string, e *entry) {
	p := t.at(key)
	m := map[string]*entry{}
	if old := p.Load(); old != nil {
		m = maps.Clone(*old)
	}
	_, had := m[key]
	if e == nil {
		delete(m, key)
	} else {
		m[key] = e
	}
	if key[0] == '.' && had != (e != nil) {
		if had {
			t.wild.Add(-1)
		} else {
			t.wild.Add(1)
		}
	}
	p.Store(&m)
}

// compareAllUpTo is the number of targets up to which all are compared. Above it, the better of
// two random ones is nearly as even, at a constant cost (Mitzenmacher, "The Power of
// Two Choices", 1996).
const compareAllUpTo = 16

// choose picks the target for a request: a set-aside one whose time has come, as its
// probe; otherwise the usable one with the fewest open requests; otherwise, if
// anyway is true, one that is set aside. It skips those in tried. nil means none.
// The caller must still claim it.
func (p *pool) choose(tried []*target, now time.Duration, anyway bool) *target {
	n := len(p.targets)
	if n == 1 && len(tried) == 0 {
		if t := p.targets[0]; anyway || t.aside.Load() == 0 || t.probe(now) {
			return t
		}
		return nil
	}
	if n > compareAllUpTo && len(tried) == 0 {
		a, b := p.targets[rand.IntN(n)], p.targets[rand.IntN(n)]
		if a.aside.Load() == 0 && b.aside.Load() == 0 {
			if b.inflight.load() < a.inflight.load() {
				return b
			}
			return a
		}
	}
	var best, last *target
	var least, lastLeast int64
	from := int(p.turn.Add(1)) // ties take turns
	for i := range n {
		t := p.targets[(from+i)%n]
		if slices.Contains(tried, t) {
			continue
		}
		load := t.inflight.load()
		switch {
		case t.aside.Load() == 0:
			if best == nil || load < least {
				best, least = t, load
			}
		case t.probe(now):
			return t
		case last == nil || load < lastLeast:
			last, lastLeast = t, load
		}
	}
	if best == nil && anyway {
		return last
	}
	return best
}
