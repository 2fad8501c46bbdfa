package receiver

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"mesh"
)

// webServer is the receiver while it accepts git over HTTP.
type webServer struct {
	open    *sessions
	serving context.Context // of the sessions
	gone    chan struct{}   // closed when another process takes over
}

// ServeWeb makes ServeHTTP accept requests until ctx ends or Retire is called. It then
// waits for those in progress, as Serve does, and returns nil.
func (r *Receiver) ServeWeb(ctx context.Context) error {
	serving, cut := context.WithCancel(ctx)
	defer cut()
	retired := make(chan struct{})
	s := &webServer{serving: serving, gone: make(chan struct{})}
	s.open = newSessions(cut, func() { close(retired) })
	r.servers.Store(s.open, nil)
	defer r.servers.Delete(s.open)
	r.web.Store(s)
	defer close(s.gone)
	select {
	case <-ctx.Done():
	case <-retired:
	}
	_ = s.open.waitIdle(ctx) // sessions may still begin, if it retires
	s.open.end()
	return nil
}

// webPath matches what git requests: the repository and the service (gitprotocol-http(5)).
var webPath = regexp.MustCompile(`^/([a-z0-9][a-z0-9-]{0,62}?)(?:\.git)?/(info/refs|git-receive-pack|git-upload-pack)$`)

// ServeHTTP answers git's smart HTTP protocol. A client signs in with an access token, as
// the password of any user name or as a bearer token. The caller makes sure that requests
// are encrypted.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	m := webPath.FindStringSubmatch(req.URL.Path)
	service := req.URL.Query().Get("service")
	if m != nil && m[2] != "info/refs" {
		service = m[2]
	}
	asks, posts := m != nil && m[2] == "info/refs", m != nil && m[2] != "info/refs"
	switch {
	case strings.Contains(req.URL.Path, "/info/lfs"):
		w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
		w.WriteHeader(http.StatusNotImplemented)
		_, _ = io.WriteString(w, `{"message": "this server takes Git LFS objects only over SSH"}`+"\n")
		return
	case m == nil:
		refuse(w, http.StatusNotFound, mesh.Errorf(mesh.NotFound, "there is nothing here but git repositories").WithHint("git push https://HOST/STACK main"))
		return
	case asks && req.Method != http.MethodGet, posts && req.Method != http.MethodPost:
		refuse(w, http.StatusMethodNotAllowed, mesh.Errorf(mesh.Invalid, "%s is not possible here", req.Method))
		return
	case service != "git-receive-pack" && service != "git-upload-pack":
		refuse(w, http.StatusForbidden, mesh.Errorf(mesh.Invalid, "only clients with git's smart protocol are served").WithHint("use git 1.6.6 or later"))
		return
	case posts && req.Header.Get("Content-Type") != "application/x-"+service+"-request":
		refuse(w, http.StatusUnsupportedMediaType, mesh.Errorf(mesh.Invalid, "this is not a request of git's"))
		return
	}
	end, s := r.beginWeb(w, req)
	if end == nil {
		return
	}
	defer end()
	key, ok := r.bearer(w, req)
	if !ok {
		return
	}
	stack, err := mesh.ParseStackName(m[1])
	if err != nil {
		refuse(w, http.StatusNotFound, err)
		return
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	stop := context.AfterFunc(s.serving, func() { cancel(errStopping) })
	defer stop()
	leave, removed := r.open.enterAs(key.SignIn(), cancel)
	defer leave()
	if removed() {
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if asks {
		if err := r.advertiseWeb(ctx, w, req, key, stack, service); err != nil {
			refuse(w, webStatus(err), err)
		}
		return
	}
	body, err := plainBody(req)
	if err != nil {
		refuse(w, http.StatusUnsupportedMediaType, err)
		return
	}
	h.Set("Content-Type", "application/x-"+service+"-result")
	ctl := http.NewResponseController(w)
	_ = ctl.EnableFullDuplex() // HTTP/2 always is
	out := &flushed{w: w, ctl: ctl}
	c := gitClient{in: body, out: out, talk: io.Discard, env: webEnv(req), stateless: true}
	if service == "git-receive-pack" {
		err = r.receivePack(ctx, c, key, stack)
	} else {
		err = r.uploadPack(ctx, c, key, stack)
	}
	var said mesh.ExitCode
	if err != nil && !out.begun && !errors.As(err, &said) {
		refuse(w, webStatus(err), err)
	}
}

// beginWeb counts a request as a session. While another process is about to take over, the
// request waits; then it is sent there. end is nil if it has been answered.
func (r *Receiver) beginWeb(w http.ResponseWriter, req *http.Request) (end func(), s *webServer) {
	s = r.web.Load()
	if s == nil {
		refuse(w, http.StatusServiceUnavailable, errStopping)
		return nil, nil
	}
	if end, _, ok := s.open.begin(false); ok {
		return end, s
	}
	select {
	case <-s.gone:
	case <-time.After(webWait):
		refuse(w, http.StatusServiceUnavailable, errStopping)
		return nil, nil
	case <-req.Context().Done():
		return nil, nil
	}
	// This connection is this process's. git follows a redirect of its first request
	// (git-config(1), http.followRedirects), at most 20 times.
	select {
	case <-time.After(webAgain):
	case <-req.Context().Done():
	}
	w.Header().Set("Connection", "close")
	http.Redirect(w, req, req.URL.RequestURI(), http.StatusTemporaryRedirect)
	return nil, nil
}

const (
	webWait  = time.Minute            // for another process
	webAgain = 250 * time.Millisecond // until it serves
)

// bearer returns the key of the token that a request has. If it has none that is valid,
// bearer answers it.
func (r *Receiver) bearer(w http.ResponseWriter, req *http.Request) (mesh.Key, bool) {
	_, token, given := req.BasicAuth()
	if !given {
		token, given = strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	}
	why := mesh.Errorf(mesh.Denied, "an access token is needed").WithHint("an admin can make one with: ssh mesh tokens:add NAME; then: git push https://x:TOKEN@HOST/STACK main")
	if given {
		why = mesh.Errorf(mesh.Denied, "the access token is not known here").WithHint("an admin can make one with: ssh mesh tokens:add NAME")
		keys, err := r.Keys.Keys(req.Context())
		if err != nil {
			r.Logger.Error("keys not readable", "err", err)
			refuse(w, http.StatusServiceUnavailable, mesh.Errorf(mesh.Unavailable, "the keys cannot be read"))
			return mesh.Key{}, false
		}
		hash := mesh.HashToken(token)
		for _, k := range keys {
			switch {
			case k.Token == "" || k.Token != hash:
				continue
			case !k.Expires.IsZero() && !time.Now().Before(k.Expires):
				why = mesh.Errorf(mesh.Denied, "the access token %s expired at %s", k.Name, k.Expires.UTC().Format(time.RFC3339)).WithHint("an admin can make another one with: ssh mesh tokens:add NAME")
				continue
			}
			return k, true
		}
		r.unknown.note(func(more int) {
			r.Logger.Info("unknown access token", "remote", req.RemoteAddr, "more", more)
		})
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="mesh: any user name, and an access token as the password"`)
	refuse(w, http.StatusUnauthorized, why)
	return mesh.Key{}, false
}

// advertiseWeb answers the first request of a push or fetch. Its error is one from before
// the answer has begun.
func (r *Receiver) advertiseWeb(ctx context.Context, w http.ResponseWriter, req *http.Request, key mesh.Key, stack mesh.StackName, service string) error {
	push := service == "git-receive-pack"
	if push {
		if err := r.Deployer.AdmitPush(ctx, key, stack); err != nil {
			return err
		}
		leave, err := r.enter(ctx, stack)
		if err != nil {
			return err
		}
		defer leave()
	} else {
		if err := r.mayRead(ctx, key, stack); err != nil {
			return err
		}
		repo, err := r.repository(ctx, key, stack)
		if err != nil {
			return err
		}
		stack = repo
		if err := r.Repos.Ensure(stack); err != nil {
			return err
		}
	}
	state, have, err := r.Repos.Shown(ctx, stack)
	if err != nil {
		return err
	}
	g := r.Repos.Git(ctx, stack, webEnv(req), strings.TrimPrefix(service, "git-"), "--stateless-rpc", "--advertise-refs")
	stdout, err := g.StdoutPipe()
	if err != nil {
		return err
	}
	if err := g.Start(); err != nil {
		return err
	}
	expendable(g.Process.Pid)
	w.Header().Set("Content-Type", "application/x-"+service+"-advertisement")
	_, err = io.WriteString(w, string(appendPkt(nil, "# service="+service+"\n"))+flushPkt)
	switch {
	case err != nil:
	case push:
		err = newFilter(w, nil, advertised{state, have}).advertise(stdout)
	default:
		_, err = io.Copy(w, stdout)
	}
	if werr := g.Wait(); err == nil {
		err = werr
	}
	if err != nil && ctx.Err() == nil {
		r.Logger.Warn("refs not shown", "stack", stack, "err", err)
	}
	return nil
}

// webEnv returns the protocol version that a client asks for.
func webEnv(req *http.Request) []string {
	return []string{"GIT_PROTOCOL=" + req.Header.Get("Git-Protocol")}
}

// plainBody returns the body without its compression. Its size is limited by what git
// takes.
func plainBody(req *http.Request) (io.Reader, error) {
	switch enc := req.Header.Get("Content-Encoding"); enc {
	case "", "identity":
		return req.Body, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(req.Body)
		if err != nil {
			return nil, mesh.Errorf(mesh.Invalid, "the request is not compressed with gzip, as it says")
		}
		return z, nil
	default:
		return nil, mesh.Errorf(mesh.Invalid, "the encoding %q is not known", mesh.Clip(enc, 40))
	}
}

// flushed sends everything at once: a pusher watches the build.
type flushed struct {
	w     io.Writer
	ctl   *http.ResponseController
	begun bool
}

func (f *flushed) Write(b []byte) (int, error) {
	f.begun = true
	n, err := f.w.Write(b)
	if err == nil {
		err = f.ctl.Flush()
	}
	return n, err
}

// webStatus is the status for an error. git prints it, and the text below it.
func webStatus(err error) int {
	switch {
	case errors.Is(err, mesh.Denied):
		return http.StatusForbidden
	case errors.Is(err, mesh.NoStack), errors.Is(err, mesh.NotFound):
		return http.StatusNotFound
	case errors.Is(err, mesh.Conflict):
		return http.StatusConflict
	case errors.Is(err, mesh.Invalid):
		return http.StatusBadRequest
	case errors.Is(err, mesh.Unavailable), errors.Is(err, mesh.Cancelled):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// refuse answers with an error in text, which git prints after "remote: ".
func refuse(w http.ResponseWriter, status int, err error) {
	var e *mesh.Error
	if !errors.As(err, &e) {
		e = mesh.Errorf(mesh.Failed, "mesh itself failed; see the server's log")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "error: %s\n", mesh.Visible(e.Text))
	if e.Hint != "" {
		_, _ = fmt.Fprintf(w, "hint:  %s\n", mesh.Visible(e.Hint))
	}
}
