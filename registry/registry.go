// Package registry passes images on to the engines of other nodes: an image registry inside mesh
// (OCI distribution specification), filled by this machine's engine, of which each node's engine
// fetches the layers that it lacks.
//
// It is a cache: an image that is missing is pushed again by the engine when it is needed. Package
// cluster decides what is needed where.
//
//	r, err := registry.Open(ctx, cli, registry.Options{Dir: dir})
//	name, err := r.Offer(ctx, imageID) // "mesh/image@sha256:…", for a node's engine
package registry

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/docker/docker/api/types/image"
	oci "github.com/google/go-containerregistry/pkg/registry"

	"mesh"
	"mesh/engine"
)

// Repository is the name of all images in the registry. They are told apart by their digests.
const Repository = "mesh/image"

// Options are what Open needs besides the client.
type Options struct {
	// Dir is a folder for the layers. What is in it may be removed while mesh does not run.
	Dir    string
	Logger *slog.Logger // nil: slog.Default()
}

// Registry is an image registry. It may be used from several goroutines.
type Registry struct {
	Options
	cli      *engine.Client
	handler  http.Handler
	password string
	listener net.Listener

	offers

	mu      sync.Mutex
	readers map[string]string // passwords, by nodes
}

// Open returns a Registry that the engine of this machine reaches on the loopback interface,
// where engines need no TLS. Close it.
func Open(ctx context.Context, cli *engine.Client, o Options) (*Registry, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the registry: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	r := &Registry{
		Options: o, cli: cli, password: rand.Text(), listener: l, readers: map[string]string{},
		handler: oci.New(oci.WithBlobHandler(oci.NewDiskBlobHandler(o.Dir)), oci.Logger(log.New(io.Discard, "", 0))),
	}
	s := r.server(http.HandlerFunc(r.serve))
	go func() { _ = s.Serve(l) }()
	return r, nil
}

// Close closes the door for this machine's engine.
func (r *Registry) Close() error { return r.listener.Close() }

func (r *Registry) server(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(r.Logger.Handler(), slog.LevelDebug)}
}

// writer is who may write: engines, while mesh has them push.
const writer = "mesh"

// Login returns what an engine signs in with, in the form of the engine's API
// (X-Registry-Auth). Each node has credentials of its own, and reads with them.
func (r *Registry) Login(node string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.readers[node] == "" {
		r.readers[node] = rand.Text()
	}
	return login(node, r.readers[node])
}

func login(user, password string) string {
	text, _ := json.Marshal(map[string]string{"username": user, "password": password}) // texts can be encoded
	return base64.URLEncoding.EncodeToString(text)
}

// rights returns whether who has sent a request may read, and write.
func (r *Registry) rights(q *http.Request) (read, write bool) {
	name, password, _ := q.BasicAuth()
	r.mu.Lock()
	want := r.readers[name]
	r.mu.Unlock()
	if name == writer {
		want = r.password
	}
	ok := want != "" && subtle.ConstantTimeCompare([]byte(password), []byte(want)) == 1
	return ok, ok && name == writer
}

func (r *Registry) serve(w http.ResponseWriter, q *http.Request) {
	read, write := r.rights(q)
	switch {
	case !read:
		w.Header().Set("WWW-Authenticate", `Basic realm="mesh"`)
		http.Error(w, "unauthorized", http.StatusUnauthorized)
	case !write && q.Method != http.MethodGet && q.Method != http.MethodHead:
		http.Error(w, "nodes read, and mesh writes", http.StatusMethodNotAllowed)
	default:
		r.handler.ServeHTTP(w, q)
	}
}

// ServeConn serves a connection of another node's engine. It returns when the connection has
// ended.
func (r *Registry) ServeConn(ctx context.Context, c net.Conn) {
	one := &oneConn{c: c, done: make(chan struct{})}
	s := r.server(http.HandlerFunc(r.serve))
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			one.end()
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	_ = s.Serve(one)
}

// oneConn is a listener with one connection, which it waits for.
type oneConn struct {
	c     net.Conn
	given bool
	once  sync.Once
	done  chan struct{}
}

func (o *oneConn) Accept() (net.Conn, error) {
	if !o.given {
		o.given = true
		return o.c, nil
	}
	<-o.done
	return nil, net.ErrClosed
}
func (o *oneConn) end()           { o.once.Do(func() { close(o.done) }) }
func (o *oneConn) Close() error   { o.end(); return nil }
func (o *oneConn) Addr() net.Addr { return o.c.LocalAddr() }

// Offer makes an image of this machine's engine available, and returns its name in the registry,
// with its digest. An image that was offered before costs nothing.
func (r *Registry) Offer(ctx context.Context, imageID string) (name string, err error) {
	digest, err := r.once(ctx, imageID, func() (string, error) { return r.push(ctx, r.cli, r.listener.Addr().String(), imageID) })
	if err != nil {
		return "", err
	}
	return Repository + "@" + digest, nil
}

// Fetch brings an image of another engine, which reaches the registry at an address, to this
// machine's, with tags, and returns its ID here. An image that is here already is only tagged.
func (r *Registry) Fetch(ctx context.Context, from *engine.Client, at, imageID string, tags []string) (string, error) {
	id := imageID
	if _, err := r.cli.API(ctx).ImageInspect(ctx, imageID); err != nil {
		digest, err := r.push(ctx, from, at, imageID)
		if err != nil {
			return "", err
		}
		ref := r.listener.Addr().String() + "/" + Repository + "@" + digest
		if err := Pull(ctx, r.cli, ref, login(writer, r.password)); err != nil {
			return "", r.fault(ctx, err)
		}
		got, err := r.cli.API(ctx).ImageInspect(ctx, ref)
		if err != nil {
			return "", r.fault(ctx, err)
		}
		id = got.ID
		defer func() { // once it has its own names
			cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			_, _ = r.cli.API(cctx).ImageRemove(cctx, ref, image.RemoveOptions{})
		}()
	}
	for _, t := range tags {
		if err := r.cli.API(ctx).ImageTag(ctx, id, t); err != nil {
			return "", r.fault(ctx, err)
		}
	}
	return id, nil
}

// Pull has an engine fetch an image by its name, signed in with auth, which Login returns.
func Pull(ctx context.Context, cli *engine.Client, ref, auth string) error {
	body, err := cli.API(ctx).ImagePull(ctx, ref, image.PullOptions{RegistryAuth: auth})
	if err != nil {
		return err
	}
	defer body.Close()
	for d := json.NewDecoder(body); ; {
		var m struct {
			Error string `json:"error"`
		}
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case m.Error != "":
			return errors.New(mesh.Visible(m.Error))
		}
	}
}

// push has an engine, which reaches the registry at an address, push an image, of which it sends
// what is missing here.
func (r *Registry) push(ctx context.Context, cli *engine.Client, at, imageID string) (digest string, err error) {
	digest, err = push(ctx, cli, at+"/"+Repository, imageID, login(writer, r.password), r.Logger)
	if err != nil {
		return "", r.fault(ctx, err)
	}
	return digest, nil
}

func (r *Registry) fault(ctx context.Context, err error) error {
	return engine.Fault(ctx, r.cli.Host(), "offer an image to other nodes", err)
}

// keepTime is how long a layer stays that nobody has asked for.
const keepTime = 24 * time.Hour

// Clean removes layers that were not written for a while, but for those of recently used images:
// whatever is needed again, the engine pushes again.
func (r *Registry) Clean(now time.Time) error {
	again, idle := r.hold()
	defer again()
	if !idle {
		return nil // the next time
	}
	removed := 0
	err := filepath.WalkDir(r.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil || now.Sub(info.ModTime()) < keepTime {
			return err
		}
		removed++
		return os.Remove(path)
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if removed > 0 {
		r.forgetAllLocked() // they may lack a layer now
	}
	if err != nil {
		return mesh.Errorf(mesh.Unavailable, "layers that nobody needs were not removed: %w", err)
	}
	return nil
}
