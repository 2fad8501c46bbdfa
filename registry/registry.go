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
	"strings"
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

	mu      sync.Mutex
	offered map[string]string        // digests, by the IDs of images
	pushing map[string]chan struct{} // by the IDs of images; closed at the end
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
		Options: o, cli: cli, password: rand.Text(), listener: l, offered: map[string]string{}, pushing: map[string]chan struct{}{},
		handler: oci.New(oci.WithBlobHandler(oci.NewDiskBlobHandler(o.Dir)), oci.Logger(log.New(io.Discard, "", 0))),
	}
	s := r.server(http.HandlerFunc(r.serveOwn))
	go func() { _ = s.Serve(l) }()
	return r, nil
}

// Close closes the door for this machine's engine.
func (r *Registry) Close() error { return r.listener.Close() }

func (r *Registry) server(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(r.Logger.Handler(), slog.LevelDebug)}
}

const user = "mesh"

// serveOwn serves this machine's engine. Others on the machine do not know the password.
func (r *Registry) serveOwn(w http.ResponseWriter, q *http.Request) {
	name, password, _ := q.BasicAuth()
	if name != user || subtle.ConstantTimeCompare([]byte(password), []byte(r.password)) != 1 {
		w.Header().Set("WWW-Authenticate", `Basic realm="mesh"`)
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return
	}
	r.handler.ServeHTTP(w, q)
}

// ServeConn serves a connection of another node's engine, which may only read. It returns when
// the connection has ended.
func (r *Registry) ServeConn(ctx context.Context, c net.Conn) {
	one := &oneConn{c: c, done: make(chan struct{})}
	s := r.server(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method != http.MethodGet && q.Method != http.MethodHead {
			http.Error(w, "this registry is read by nodes, and written by mesh", http.StatusMethodNotAllowed)
			return
		}
		r.handler.ServeHTTP(w, q)
	}))
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
	for {
		r.mu.Lock()
		digest, known := r.offered[imageID]
		other := r.pushing[imageID]
		if !known && other == nil {
			r.pushing[imageID] = make(chan struct{})
		}
		r.mu.Unlock()
		switch {
		case known:
			return Repository + "@" + digest, nil
		case other == nil:
			return r.offer(ctx, imageID)
		}
		select {
		case <-other:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// offer is Offer for who is the only one to push this image.
func (r *Registry) offer(ctx context.Context, imageID string) (string, error) {
	digest, err := r.push(ctx, imageID)
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.pushing[imageID])
	delete(r.pushing, imageID)
	if err != nil {
		return "", err
	}
	r.offered[imageID] = digest
	return Repository + "@" + digest, nil
}

// Source returns the ID of the image that was offered by a name which ends with a digest; "": none
// was since the start of mesh.
func (r *Registry) Source(name string) string {
	_, digest, _ := strings.Cut(name, "@")
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, d := range r.offered {
		if d == digest {
			return id
		}
	}
	return ""
}

// push has this machine's engine push an image, of which it sends what is missing here.
func (r *Registry) push(ctx context.Context, imageID string) (digest string, err error) {
	tag := r.listener.Addr().String() + "/" + Repository + ":" + strings.TrimPrefix(imageID, "sha256:")[:32]
	if err := r.cli.API(ctx).ImageTag(ctx, imageID, tag); err != nil {
		return "", r.fault(ctx, err)
	}
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if _, rerr := r.cli.API(cctx).ImageRemove(cctx, tag, image.RemoveOptions{}); rerr != nil {
			r.Logger.Warn("a name of an image was not removed", "image", tag, "err", rerr)
		}
	}()
	login, err := json.Marshal(map[string]string{"username": user, "password": r.password, "serveraddress": r.listener.Addr().String()})
	if err != nil {
		return "", err
	}
	body, err := r.cli.API(ctx).ImagePush(ctx, tag, image.PushOptions{RegistryAuth: base64.URLEncoding.EncodeToString(login)})
	if err != nil {
		return "", r.fault(ctx, err)
	}
	defer body.Close()
	for d := json.NewDecoder(body); ; {
		var m struct {
			Error string `json:"error"`
			Aux   struct {
				Digest string `json:"Digest"`
			} `json:"aux"`
		}
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF) && digest == "":
			return "", r.fault(ctx, errors.New("the engine did not say what it has pushed"))
		case errors.Is(err, io.EOF):
			return digest, nil
		case err != nil:
			return "", r.fault(ctx, err)
		case m.Error != "":
			return "", r.fault(ctx, errors.New(m.Error))
		case m.Aux.Digest != "":
			digest = m.Aux.Digest
		}
	}
}

func (r *Registry) fault(ctx context.Context, err error) error {
	return engine.Fault(ctx, r.cli.Host(), "offer an image to other nodes", err)
}

// keepTime is how long a layer stays that nobody has asked for.
const keepTime = 24 * time.Hour

// Clean removes layers that were not written for a while, but for those of recently used images:
// whatever is needed again, the engine pushes again.
func (r *Registry) Clean(now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pushing) > 0 {
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
		clear(r.offered) // they may lack a layer now
	}
	if err != nil {
		return mesh.Errorf(mesh.Unavailable, "layers that nobody needs were not removed: %w", err)
	}
	return nil
}
