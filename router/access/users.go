package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"

	"mesh"
)

// A wrong password costs as much to check as a right one: 60 ms of a processor. So:
//
//   - a password that was right once is known by its sum, which takes a microsecond;
//   - requests with the same password wait for one check;
//   - a client has triesAtOnce wrong tries for each user, and then one each triesEvery;
//   - a stack checks one password at a time, and all stacks together use half of the
//     processors; at most maxQueue other checks wait for a stack's turn.
const (
	triesAtOnce = 10
	triesEvery  = 6 * time.Second
	maxQueue    = 32
	queueRetry  = 2 * time.Second // to a client for whose check there was no room
)

// Checks limits how many passwords a server checks at the same time.
type Checks struct{ turns chan struct{} }

// NewChecks makes the limit for a server.
func NewChecks() *Checks {
	return &Checks{make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// compare is bcrypt's comparison, in turn.
func (c *Checks) compare(hash []byte, password string) bool {
	c.turns <- struct{}{}
	defer func() { <-c.turns }()
	return bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil
}

type sum [sha256.Size]byte

// users are the users of a stack, and what is known about their passwords.
type users struct {
	all    []user
	nobody []byte // a hash that no password has: unknown names take as long as known ones
	key    []byte // of the sums; random
	checks *Checks
	turn   chan struct{} // one check of the stack at a time
	queue  atomic.Int64  // checks that have, or wait for, their turn

	failed *buckets
	some   atomic.Bool // failed is not empty

	mu      sync.Mutex
	running map[sum]*running
}

type user struct {
	name  string
	hash  []byte
	right *atomic.Pointer[sum] // of the password, once it was right
}

// running is a check in progress.
type running struct {
	done  chan struct{}
	right bool // once done is closed
	busy  bool // there was no room for the check
	wait  time.Duration
}

func newUsers(list []mesh.AccessUser, checks *Checks) *users {
	u := &users{
		key: make([]byte, 32), checks: checks, turn: make(chan struct{}, 1), running: map[sum]*running{},
		failed: newBuckets(mesh.Rate{Requests: triesAtOnce, Per: triesAtOnce * triesEvery}),
	}
	_, _ = rand.Read(u.key) // it never fails
	for _, one := range list {
		u.all = append(u.all, user{one.Name, []byte(one.Hash.Reveal()), new(atomic.Pointer[sum])})
	}
	// The hash of a user with other digits at its end, which no one can find the
	// password of, costs the same.
	u.nobody = slices.Clone(u.all[0].hash)
	if n := len(u.nobody); n > 31 {
		random := make([]byte, 31)
		_, _ = rand.Read(random)
		for i, b := range random {
			u.nobody[n-31+i] = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"[b&63]
		}
	}
	return u
}

// sumOf identifies a name and a password, in this process only.
func (u *users) sumOf(name, password string) (s sum) {
	mac := hmac.New(sha256.New, u.key)
	mac.Write([]byte(name))
	mac.Write([]byte{0})
	mac.Write([]byte(password))
	mac.Sum(s[:0])
	return s
}

// check decides about a password that a client has sent. A client without tries left is
// refused even with the right one: otherwise it could try on, and would see which one is
// right.
func (u *users) check(network netip.Addr, name, password string, now time.Time) (Refusal, time.Duration) {
	i := slices.IndexFunc(u.all, func(one user) bool { return one.name == name })
	k := clientKey{network, i}
	if u.some.Load() {
		if f := u.failed.known(k); f != nil {
			if wait := f.wait(now); wait > 0 {
				return Guessing, wait
			}
		}
	}
	s := u.sumOf(name, password)
	if i >= 0 {
		if right := u.all[i].right.Load(); right != nil && hmac.Equal(right[:], s[:]) {
			return Admitted, 0
		}
	}
	// bcrypt sees no more than 72 bytes, and repeats the password with a zero byte in
	// between: others than the user's own would be right.
	possible := password != "" && len(password) <= mesh.MaxAccessPassword && strings.IndexByte(password, 0) < 0
	if !possible {
		u.fail(k, now)
		return Password, 0
	}
	u.mu.Lock()
	run, follows := u.running[s]
	if !follows {
		run = &running{done: make(chan struct{})}
		u.running[s] = run
	}
	u.mu.Unlock()
	if follows {
		<-run.done
		switch {
		case run.busy:
			return Guessing, run.wait
		case run.right:
			return Admitted, 0
		}
		u.fail(k, now)
		return Password, 0
	}
	func() {
		defer func() { // whatever happens: others wait for it
			u.mu.Lock()
			delete(u.running, s)
			u.mu.Unlock()
			close(run.done)
		}()
		u.lead(run, k, i, password, s, now)
	}()
	switch {
	case run.busy:
		return Guessing, run.wait
	case run.right:
		return Admitted, 0
	}
	return Password, 0
}

// lead makes a check, and fills run. A client pays for the try before, so that it
// cannot make many at the same time, and gets it back for the right password.
func (u *users) lead(run *running, k clientKey, i int, password string, s sum, now time.Time) {
	u.some.Store(true)
	try := u.failed.of(k, now).ReserveN(now, 1)
	if wait := try.DelayFrom(now); wait > 0 {
		try.CancelAt(now)
		run.busy, run.wait = true, wait
		return
	}
	if u.queue.Add(1) > maxQueue {
		u.queue.Add(-1)
		try.CancelAt(now)
		run.busy, run.wait = true, queueRetry
		return
	}
	u.turn <- struct{}{}
	if i < 0 {
		_ = u.checks.compare(u.nobody, password)
	} else if right := u.all[i].right.Load(); right != nil && *right == s {
		run.right = true // since this request has looked
	} else {
		run.right = u.checks.compare(u.all[i].hash, password)
	}
	<-u.turn
	u.queue.Add(-1)
	if run.right {
		u.all[i].right.Store(&s)
		try.CancelAt(now)
	}
}

// fail counts a wrong password.
func (u *users) fail(k clientKey, now time.Time) {
	u.some.Store(true)
	u.failed.of(k, now).AllowN(now, 1)
}
