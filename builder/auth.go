package builder

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/registry"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"

	"mesh"
)

// Credentials returns the login for a registry; the zero Registry means there is
// none.
type Credentials func(ctx context.Context, host string) (mesh.Registry, error)

// SignIn checks a registry login. A refused login is a *mesh.Error of kind Denied.
func (b *Builder) SignIn(ctx context.Context, r mesh.Registry) error {
	_, err := b.cli.API(ctx).RegistryLogin(ctx, authConfig(r))
	var text string
	if err != nil {
		text = err.Error()
	}
	switch {
	case err == nil:
		return nil
	case errdefs.IsUnauthorized(err), strings.Contains(text, "unauthorized"), strings.Contains(text, "401"), strings.Contains(text, "incorrect username or password"):
		return &mesh.Error{Kind: mesh.Denied, Text: fmt.Sprintf("%s refused the password of %q", r.Host, r.User), Hint: "if the registry has access tokens, use one instead of the password", Err: err}
	case slices.ContainsFunc(networkWords, func(w string) bool { return strings.Contains(text, w) }):
		return &mesh.Error{Kind: mesh.Unavailable, Text: fmt.Sprintf("the registry %s cannot be reached", r.Host), Hint: "check the name, then the server's network", Err: err}
	}
	return b.fault(ctx, "sign in to "+r.Host, err)
}

// hubLogin is the name that clients sign in to Docker Hub with.
const hubLogin = "https://index.docker.io/v1/"

func authConfig(r mesh.Registry) registry.AuthConfig {
	server := r.Host
	if server == "docker.io" {
		server = hubLogin
	}
	return registry.AuthConfig{Username: r.User, Password: r.Password.Reveal(), ServerAddress: server}
}

// registryAuth is the login for the registry of an image, as the engine expects it
// in a header; empty for none.
func (j *job) registryAuth(ctx context.Context, ref reference.Named) (string, error) {
	r, err := j.credentials(ctx, reference.Domain(ref))
	if err != nil || r.Host == "" {
		return "", err
	}
	return registry.EncodeAuthConfig(authConfig(r))
}

// authConfigs are the logins for the registries in a Dockerfile: the classic builder
// needs all of them beforehand.
func (j *job) authConfigs(ctx context.Context) (map[string]registry.AuthConfig, error) {
	res, err := parser.Parse(bytes.NewReader(j.df.text))
	if err != nil {
		return nil, nil //nolint:nilerr // the engine reports what is wrong
	}
	all := map[string]registry.AuthConfig{}
	for _, n := range res.AST.Children {
		if !strings.EqualFold(n.Value, "from") || n.Next == nil {
			continue
		}
		ref, err := reference.ParseNormalizedNamed(n.Next.Value)
		if err != nil {
			continue // a stage, or an ARG
		}
		r, err := j.credentials(ctx, reference.Domain(ref))
		if err != nil {
			return nil, err
		}
		if r.Host != "" {
			c := authConfig(r)
			all[c.ServerAddress] = c
		}
	}
	return all, nil
}

// authServer gives BuildKit registry logins when it asks for them.
type authServer struct {
	auth.UnimplementedAuthServer
	credentials Credentials
}

func (a authServer) Register(s *grpc.Server) { auth.RegisterAuthServer(s, a) }

func (a authServer) Credentials(ctx context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	host, err := mesh.ParseRegistryHost(req.Host)
	if err != nil {
		return &auth.CredentialsResponse{}, nil //nolint:nilerr // nobody can have logged in to such a registry
	}
	r, err := a.credentials(ctx, host)
	if err != nil {
		return nil, err
	}
	return &auth.CredentialsResponse{Username: r.User, Secret: r.Password.Reveal()}, nil
}
