// Package engine is the connection to the Docker Engine: a client with time limits that
// speaks the engine's version, and errors of the engine in terms that people understand.
//
// builder and runner decide what to ask the engine.
package engine

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	docker "github.com/docker/docker/client"

	"mesh"
)

// Client is a connection to one engine. It may be used from several goroutines.
//
// Docker's own client finds out the version of the engine with its first request, and
// every request reads that version without a lock. One that is used by several
// goroutines before the engine answers has a data race, and one that outlives an update
// of the engine asks in a version that the new one may refuse. So a docker.Client is
// shared only once its version is known, and a new one takes its place when the engine
// says that it has another version.
type Client struct {
	first *docker.Client // knows the address, and sends no request
	opts  []docker.Opt
	http  *http.Client // of all docker.Clients: they share connections
	known atomic.Pointer[known]
}

// known is a docker.Client that speaks the engine's version.
type known struct {
	*docker.Client
	engine string // the version that the engine named then
}

// New returns a client of the engine at address, or where Docker's own variables
// point if that is empty. It does not talk to the engine yet. read is how long the
// engine may take to answer a query; a change may take four times as long. 0: 30 s.
func New(address string, read time.Duration) (*Client, error) {
	opts := []docker.Opt{docker.FromEnv}
	if address != "" {
		opts = append(opts, docker.WithHost(address))
	}
	return open(read, opts...)
}

func open(read time.Duration, opts ...docker.Opt) (*Client, error) {
	first, err := docker.NewClientWithOpts(opts...)
	if err != nil {
		return nil, mesh.Errorf(mesh.Invalid, "the Docker Engine's address cannot be used: %w", err).WithHint("set a URL such as unix:///var/run/docker.sock with --docker-host")
	}
	if read == 0 {
		read = readLimit
	}
	c := &Client{first: first, opts: opts, http: first.HTTPClient()}
	// Hijacked connections (an attached terminal, BuildKit) do not pass through here.
	c.http.Transport = watcher{c, limits{next: c.http.Transport, read: read, change: read * (changeLimit / readLimit)}}
	return c, nil
}

// Through returns a client of an engine that is reached by dial. name is what messages call it.
func Through(name string, dial func(ctx context.Context) (net.Conn, error), read time.Duration) (*Client, error) {
	// The address only names the engine: dial does not look at it.
	return open(read, docker.WithHost("tcp://"+name), docker.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }))
}

// Of returns a Client that always uses d.
func Of(d *docker.Client) *Client {
	c := &Client{first: d}
	c.known.Store(&known{Client: d})
	return c
}

// API returns Docker's client for one request. It asks the engine for its version if
// that is not known, for as long as ctx and the time limit of a query allow. If the
// engine does not answer, the request fails with the reason.
//
// Do not keep the client: the next request may need another one.
func (c *Client) API(ctx context.Context) *docker.Client {
	if k := c.known.Load(); k != nil {
		return k.Client
	}
	d, err := c.settle(ctx)
	if err != nil {
		return c.failing(err)
	}
	return d
}

// settle makes a client that speaks the engine's version, for all to use from now on.
func (c *Client) settle(ctx context.Context) (*docker.Client, error) {
	d, err := docker.NewClientWithOpts(c.opts...)
	if err != nil {
		return nil, err
	}
	// As an option, it keeps the client's connection settings.
	if err := docker.WithHTTPClient(c.http)(d); err != nil {
		return nil, err
	}
	ping, err := d.Ping(ctx)
	if err != nil {
		return nil, err
	}
	d.NegotiateAPIVersionPing(ping)
	c.known.Store(&known{Client: d, engine: ping.APIVersion})
	return d, nil
}

// failing returns a client whose requests fail with err.
func (c *Client) failing(err error) *docker.Client {
	d, optErr := docker.NewClientWithOpts(
		docker.WithHost(c.first.DaemonHost()),
		docker.WithHTTPClient(&http.Client{Transport: failure{err}}),
	)
	if optErr != nil {
		return c.first // not reached: New has used the address
	}
	return d
}

type failure struct{ err error }

func (f failure) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

// watcher looks at the version that the engine names in each answer. Docker Engine 29
// refuses versions before 1.44, which one before 25 was asked in.
type watcher struct {
	client *Client
	next   http.RoundTripper
}

func (w watcher) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(r)
	if err == nil {
		k, named := w.client.known.Load(), resp.Header.Get("Api-Version")
		if k != nil && named != "" && named != k.engine {
			w.client.known.CompareAndSwap(k, nil)
		}
	}
	return resp, err
}

// Host returns the address of the engine, as a URL.
func (c *Client) Host() string { return c.first.DaemonHost() }

// Close closes the connections that are not in use.
func (c *Client) Close() error { return c.first.Close() }
