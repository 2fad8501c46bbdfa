package names

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// upstream passes queries on to the machine's name servers, as they are in a file at that
// time: a machine may get others, by DHCP for instance.
type upstream struct {
	file string

	mu      sync.Mutex
	read    time.Time // the file's time when it was read
	looked  time.Time
	servers []netip.Addr

	port string
	busy chan struct{} // holds a value for each query in progress
}

const (
	// upstreamTime limits a query, and tryTime each try. The engine gives up after 4 s
	// (20.10) or 2 s (25).
	upstreamTime = 1800 * time.Millisecond
	tryTime      = 900 * time.Millisecond
	// lookAgain is how often the file's time is looked at.
	lookAgain = 2 * time.Second
	// maxBusy is how many queries may wait for an answer, as in the engine itself
	// (moby, libnetwork/resolver.go, maxConcurrent). Further ones fail at once.
	maxBusy = 1024
)

var (
	errNoServer = errors.New("this machine has no name server")
	errBusy     = errors.New("too many queries are waiting")
)

// ask returns the first answer of the name servers, which are asked in order. An answer
// that is too long for UDP says so, and the client asks again over TCP.
func (u *upstream) ask(ctx context.Context, q *dns.Msg, stream bool) (*dns.Msg, error) {
	select {
	case u.busy <- struct{}{}:
		defer func() { <-u.busy }()
	default:
		return nil, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, upstreamTime)
	defer cancel()
	c := &dns.Client{Net: "udp", Timeout: tryTime}
	if stream {
		c.Net = "tcp"
	}
	if o := q.IsEdns0(); o != nil {
		c.UDPSize = o.UDPSize()
	}
	err := errNoServer
	for _, at := range u.list() {
		var got *dns.Msg
		got, _, err = c.ExchangeContext(ctx, q, net.JoinHostPort(at.String(), u.port))
		if err == nil && got.Rcode != dns.RcodeServerFailure && got.Rcode != dns.RcodeRefused {
			return got, nil
		}
		if err == nil {
			err = errors.New(at.String() + " answers " + dns.RcodeToString[got.Rcode])
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// list returns the name servers in force.
func (u *upstream) list() []netip.Addr {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now := time.Now(); now.Sub(u.looked) > lookAgain {
		u.looked = now
		if st, err := os.Stat(u.file); err == nil && !st.ModTime().Equal(u.read) {
			u.read, u.servers = st.ModTime(), resolvServers(u.file)
		}
	}
	return u.servers
}

// resolvServers returns the name servers of a resolv.conf(5).
func resolvServers(file string) (out []netip.Addr) {
	c, err := dns.ClientConfigFromFile(file)
	if err != nil {
		return nil
	}
	return addresses(c.Servers)
}

// daemonServers returns the name servers of the engine's settings: those that containers
// have by default.
func daemonServers(file string) []netip.Addr {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var c struct {
		DNS []string `json:"dns"`
	}
	if json.Unmarshal(b, &c) != nil {
		return nil // the engine would not have started with it
	}
	return addresses(c.DNS)
}

func addresses(list []string) (out []netip.Addr) {
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}
