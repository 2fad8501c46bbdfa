package registry

import (
	"context"
	"log/slog"
	"strings"

	"mesh"
	"mesh/engine"
)

// Elsewhere is somebody else's registry, to which mesh pushes instead of serving images itself. Nothing
// is removed from it. It may be used from several goroutines.
type Elsewhere struct {
	offers
	cli    *engine.Client
	base   string
	login  func(ctx context.Context, host string) (auth string, err error)
	logger *slog.Logger
}

// NewElsewhere returns a registry that has a repository: "registry.example.com/team". login
// returns what engines sign in with at a host, in the form of the engine's API.
func NewElsewhere(cli *engine.Client, repository string, login func(ctx context.Context, host string) (auth string, err error), logger *slog.Logger) *Elsewhere {
	return &Elsewhere{cli: cli, base: repository + "/" + Repository, login: login, logger: logger}
}

// Host is where it is.
func (e *Elsewhere) Host() string {
	host, _, _ := strings.Cut(e.base, "/")
	return host
}

// Repository is the name of all images in it.
func (e *Elsewhere) Repository() string { return e.base }

// Login returns what engines sign in with.
func (e *Elsewhere) Login(ctx context.Context) (auth string, err error) {
	return e.login(ctx, e.Host())
}

// Offer makes an image of this machine's engine available, and returns its whole name, with its
// digest. An image that was offered before costs nothing.
func (e *Elsewhere) Offer(ctx context.Context, imageID string) (ref string, err error) {
	digest, err := e.once(ctx, imageID, func() (string, error) {
		auth, err := e.Login(ctx)
		if err != nil {
			return "", err
		}
		return push(ctx, e.cli, e.base, imageID, auth, e.logger)
	})
	switch {
	case err == nil:
		return e.base + "@" + digest, nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case engine.Away(err):
		return "", engine.Fault(ctx, e.cli.Host(), "push an image", err)
	}
	// Not Unavailable: no node would get it.
	return "", mesh.Errorf(mesh.Failed, "the image cannot be pushed to %s, from which nodes fetch it: %s", e.base, mesh.Visible(mesh.Clip(err.Error(), 300))).
		WithHint("see that the server reaches it, and has a login that may write: ssh mesh registry:login %s USER", e.Host())
}
