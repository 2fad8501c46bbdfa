package access

import (
	"math"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"mesh"
)

// bucket is a token bucket that holds as many requests as its rate names: 10r/s admits
// 10 at once, and then one every 100 ms.
type bucket struct{ *rate.Limiter }

func newBucket(r mesh.Rate) *bucket {
	return &bucket{rate.NewLimiter(rate.Limit(float64(r.Requests)/r.Per.Seconds()), r.Requests)}
}

// take takes a token. If there is none, it returns how long until there is one.
func (b *bucket) take(now time.Time) (wait time.Duration) {
	if b.AllowN(now, 1) {
		return 0
	}
	return b.wait(now)
}

// wait returns how long until there is a token, 0 if there is one.
func (b *bucket) wait(now time.Time) time.Duration {
	missing := 1 - b.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return max(time.Millisecond, time.Duration(math.Ceil(missing/float64(b.Limit())*float64(time.Second))))
}

// maxBuckets limits the clients that are remembered: each takes about 200 bytes. When
// another one comes, one of those that have been quiet for long is forgotten.
const maxBuckets = 10_000

// buckets are the buckets of clients.
type buckets struct {
	rate mesh.Rate

	mu  sync.Mutex
	all map[clientKey]*clientBucket
}

// clientKey is a client, and for wrong passwords the user that it has named.
type clientKey struct {
	network netip.Addr
	user    int
}

type clientBucket struct {
	bucket
	used time.Time // guarded by buckets.mu
}

func newBuckets(r mesh.Rate) *buckets { return &buckets{rate: r, all: map[clientKey]*clientBucket{}} }

func (b *buckets) take(network netip.Addr, now time.Time) time.Duration {
	return b.of(clientKey{network: network}, now).take(now)
}

// of returns the bucket of a client, which is full if the client is new.
func (b *buckets) of(k clientKey, now time.Time) *clientBucket {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.all[k]; c != nil {
		c.used = now
		return c
	}
	if len(b.all) >= maxBuckets {
		b.forget()
	}
	c := &clientBucket{*newBucket(b.rate), now}
	b.all[k] = c
	return c
}

// known is of, but nil for a client that has no bucket.
func (b *buckets) known(k clientKey) *clientBucket {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all[k]
}

// forget removes the bucket that was not used for the longest time, of a few: a map
// begins anywhere. To look at all of them for each new client would be work that a
// flood can order.
func (b *buckets) forget() {
	var oldest clientKey
	var used time.Time
	n := 0
	for k, c := range b.all {
		if n == 0 || c.used.Before(used) {
			oldest, used = k, c.used
		}
		if n++; n == 16 {
			break
		}
	}
	delete(b.all, oldest)
}
