package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"time"

	"mesh"
	"mesh/forge"
)

// hookPath is where forges send webhooks of a stack, below mesh's own host.
var hookPath = regexp.MustCompile(`^/hooks/([a-z0-9][a-z0-9-]{0,62})/?$`)

// Webhooks are read before it is known who sends them. hookReaders limits how many larger than
// hookSmall, in bytes, are read at once: each may have forge.MaxBody. hookTime is how long reading one
// may take, and hookWait how long it waits for its turn: forges give up after 10 s.
const (
	hookReaders = 4
	hookSmall   = 256 << 10
	hookTime    = 20 * time.Second
	hookWait    = 5 * time.Second
)

// forgeStacks are the stacks that follow repositories.
type forgeStacks interface {
	ForgeSecret(ctx context.Context, stack mesh.StackName) (secret mesh.Secret, ok bool, err error)
	ForgeEvent(ctx context.Context, stack mesh.StackName, e mesh.ForgeEvent) error
}

// hookDoor answers the webhooks of forges.
type hookDoor struct {
	stacks  forgeStacks
	reading chan struct{}
}

func newHookDoor(stacks forgeStacks) *hookDoor {
	return &hookDoor{stacks, make(chan struct{}, hookReaders)}
}

// ServeHTTP records what a webhook says, and answers before anything is done about it. It
// does not tell whether a stack exists.
func (s *hookDoor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	say := func(status int, text string) { http.Error(w, text, status) }
	m := hookPath.FindStringSubmatch(r.URL.Path)
	if m == nil || r.Method != http.MethodPost {
		say(http.StatusNotFound, "webhooks are sent with POST to /hooks/STACK")
		return
	}
	stack := mesh.StackName(m[1])
	later := func() {
		w.Header().Set("Retry-After", "60")
		say(http.StatusServiceUnavailable, "not recorded; send it again")
	}
	if r.ContentLength < 0 || r.ContentLength > hookSmall {
		wait := time.NewTimer(hookWait)
		defer wait.Stop()
		select {
		case s.reading <- struct{}{}:
			defer func() { <-s.reading }()
		case <-wait.C:
			later()
			return
		case <-r.Context().Done():
			return
		}
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(hookTime)) // not every connection has one
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, forge.MaxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		say(http.StatusRequestEntityTooLarge, "the body is larger than 25 MB")
		return
	case err != nil:
		return
	}
	secret, known, serr := s.stacks.ForgeSecret(r.Context(), stack)
	if serr != nil {
		later()
		return
	}
	e, err := forge.Read(r.Header, body, secret)
	var told *mesh.Error
	switch {
	case !known, errors.Is(err, mesh.Denied):
		say(http.StatusForbidden, "no stack of this name follows a repository, or the signature is wrong or missing")
	case errors.As(err, &told):
		say(http.StatusBadRequest, told.Text+"; "+told.Hint)
	case s.stacks.ForgeEvent(r.Context(), stack, e) != nil:
		later()
	default:
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "ok\n")
	}
}

// forgeClient returns what shows at forges how deployments fare. Whoever may deploy chooses
// the address, so it reaches only what fetches may reach.
func (c *control) forgeClient() *forge.Client {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: time.Minute}
	if c.settings.egress != nil {
		t.DialContext = c.settings.egress.Dial
	}
	return &forge.Client{HTTP: &http.Client{
		Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token is for this host
	}}
}
