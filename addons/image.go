package addons

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"

	"mesh"
)

// Fetch makes sure that the engine has the image of an add-on, and records which one it is:
// the one on record if there is one, by its ID or else by its digest. fresh asks the registry
// for the newest one with the tag, and keeps to the engine's own if there is none to be had.
// say gets lines for people.
func (s *Server) Fetch(ctx context.Context, a mesh.Addon, fresh bool, say func(string)) (mesh.Addon, error) {
	ref := a.Image
	if a.ImageID != "" && !fresh {
		if _, err := s.cli.API(ctx).ImageInspect(ctx, a.ImageID); err == nil || !errdefs.IsNotFound(err) {
			return a, s.fault(ctx, "look for the image "+a.Image, err)
		}
		if a.Digest != "" {
			repo, _, _ := strings.Cut(a.Image, ":")
			ref = repo + "@" + a.Digest
		}
	}
	in, err := s.cli.API(ctx).ImageInspect(ctx, ref)
	there := err == nil
	if err != nil && !errdefs.IsNotFound(err) {
		return a, s.fault(ctx, "look for the image "+ref, err)
	}
	if !there || fresh {
		say("Fetching " + a.Image)
		if perr := s.pull(ctx, ref); perr != nil {
			if !there || ctx.Err() != nil {
				return a, perr
			}
			say("The registry was not asked: " + strings.TrimSuffix(perr.Error(), "."))
		}
		if in, err = s.cli.API(ctx).ImageInspect(ctx, ref); err != nil {
			return a, s.fault(ctx, "look for the image "+ref, err)
		}
	}
	a.ImageID, a.Digest = in.ID, ""
	for _, d := range in.RepoDigests {
		if _, digest, ok := strings.Cut(d, "@"); ok {
			a.Digest = digest
		}
	}
	return a, nil
}

func (s *Server) pull(ctx context.Context, ref string) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return mesh.Errorf(mesh.Invalid, "%q is not the name of an image: %w", ref, err)
	}
	o := image.PullOptions{}
	if s.SignIn != nil {
		if r, ok := s.SignIn(ctx, reference.Domain(named)); ok {
			if o.RegistryAuth, err = registry.EncodeAuthConfig(registry.AuthConfig{Username: r.User, Password: r.Password.Reveal(), ServerAddress: r.Host}); err != nil {
				return err
			}
		}
	}
	body, err := s.cli.API(ctx).ImagePull(ctx, ref, o)
	if err != nil {
		return s.pullFault(ctx, ref, err)
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		var m struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(lines.Bytes(), &m) == nil && m.Error != "" {
			return s.pullFault(ctx, ref, fmt.Errorf("%s", m.Error))
		}
	}
	if err := lines.Err(); err != nil {
		return s.pullFault(ctx, ref, err)
	}
	return ctx.Err()
}

func (s *Server) pullFault(ctx context.Context, ref string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	text := err.Error()
	switch {
	case errdefs.IsNotFound(err), strings.Contains(text, "manifest unknown"), strings.Contains(text, "not found"):
		return mesh.Errorf(mesh.NotFound, "there is no image %s: %w", ref, err).WithHint("check the version against the tags of the image")
	case strings.Contains(text, "toomanyrequests"):
		return mesh.Errorf(mesh.Unavailable, "the registry limits how many images are pulled: %w", err).WithHint("sign in: ssh mesh registry:login docker.io USER")
	}
	return mesh.Errorf(mesh.Unavailable, "the image %s cannot be pulled: %w", ref, err).WithHint("check the machine's connection, or load the image into the engine: docker load")
}
