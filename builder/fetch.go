package builder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/gitutil"
	"github.com/opencontainers/go-digest"

	"mesh"
)

// The engine fetches by itself, from the network of the host: what ADD names, base and
// prebuilt images, frontends. Whoever deploys chooses the names, so each host is looked
// at before the engine is asked.

// Egress says from where may be fetched on behalf of who deploys.
type Egress interface {
	// Check refuses a host, a name or an address without a port, with a *mesh.Error.
	Check(ctx context.Context, host string) error
}

// hub is the registry that the engine takes when a name has none; which machine that is,
// is the operator's own setting.
const hub = "docker.io"

// mayPull tells whether an image may be fetched from its registry. One that an admin has
// signed in to may be anywhere.
func (j *job) mayPull(ctx context.Context, name string) error {
	if j.egress == nil {
		return nil
	}
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil //nolint:nilerr // the engine says what is wrong with it
	}
	domain := reference.Domain(ref)
	if domain == hub {
		return nil
	}
	if r, err := j.credentials(ctx, domain); err != nil || r.Host != "" {
		return err
	}
	return j.egress.Check(ctx, hostOf(domain))
}

// hostOf is a host without its port.
func hostOf(hostPort string) string {
	if host, _, err := net.SplitHostPort(hostPort); err == nil {
		return host
	}
	return strings.Trim(hostPort, "[]")
}

// mayFetch looks at all that a build would fetch.
func (j *job) mayFetch(ctx context.Context, def *pb.Definition) error {
	if j.egress == nil {
		return nil
	}
	sources, lines := map[string]*pb.SourceOp{}, map[string]int{} // by digest
	for _, b := range def.GetDef() {
		var op pb.Op
		if err := op.UnmarshalVT(b); err != nil {
			return fmt.Errorf("read what the Dockerfile comes to: %w", err)
		}
		d := digest.FromBytes(b).String()
		if src := op.GetSource(); src != nil {
			sources[d], lines[d] = src, locate(def, d)
		}
		for _, in := range op.Inputs { // a source has no line of its own: what copies it has
			if lines[in.Digest] == 0 {
				lines[in.Digest] = locate(def, d)
			}
		}
	}
	for _, d := range slices.Sorted(maps.Keys(sources)) {
		if err := j.maySource(ctx, sources[d]); err != nil {
			return j.df.denied(lines[d], err)
		}
	}
	return nil
}

// maySource looks at one source of BuildKit's (its docs/dev/dockerfile-llb.md).
func (j *job) maySource(ctx context.Context, src *pb.SourceOp) error {
	scheme, rest, _ := strings.Cut(src.Identifier, "://")
	switch scheme {
	case "local", "session":
		return nil
	case "docker-image":
		if j.here(ctx, rest) {
			return nil
		}
		return j.mayPull(ctx, rest)
	case "http", "https":
		return j.mayURL(ctx, src.Identifier)
	case "git":
		if full := src.Attrs[pb.AttrFullRemoteURL]; full != "" {
			return j.mayGit(ctx, full)
		}
		return j.mayGit(ctx, "https://"+rest)
	}
	return mesh.Errorf(mesh.Denied, "nothing may be fetched from %s", mesh.Visible(mesh.Clip(src.Identifier, 100)))
}

// sessionHost is where BuildKit gets what this process sends it (session/upload).
const sessionHost = "buildkit-session"

func (j *job) mayURL(ctx context.Context, raw string) error {
	u, err := url.Parse(raw)
	if err == nil && u.Host == sessionHost {
		return nil
	}
	if err != nil || u.Hostname() == "" {
		return mesh.Errorf(mesh.Invalid, "%s is no URL", mesh.Visible(mesh.Clip(raw, 100)))
	}
	return j.egress.Check(ctx, u.Hostname())
}

func (j *job) mayGit(ctx context.Context, remote string) error {
	u, err := gitutil.ParseURL(remote)
	if err != nil {
		return mesh.Errorf(mesh.Invalid, "%s is no URL of a repository", mesh.Visible(mesh.Clip(remote, 100)))
	}
	return j.egress.Check(ctx, hostOf(u.Host))
}

// here tells whether the engine has an image, and takes it without asking a registry.
func (j *job) here(ctx context.Context, ref string) bool {
	if mesh.Is(j.Settings.Pull) {
		return false
	}
	_, err := j.cli.ImageInspect(ctx, ref)
	return err == nil
}

// denied says which line of the Dockerfile was refused.
func (d *dockerfile) denied(line int, err error) error {
	var e *mesh.Error
	if !errors.As(err, &e) {
		return err
	}
	told := *e
	if line > 0 {
		told.Text = fmt.Sprintf("%s:%d: %s", d.shown, line, e.Text)
	}
	return &refusal{&told}
}

// mayAdd looks at the ADD instructions for the engine's own builder, which tells nobody
// what it fetches. A host that a variable makes is refused.
func (j *job) mayAdd(ctx context.Context) error {
	if j.egress == nil {
		return nil
	}
	for _, n := range j.df.nodes() {
		if !strings.EqualFold(n.Value, "add") {
			continue
		}
		for w := n.Next; w != nil && w.Next != nil; w = w.Next {
			if err := j.mayWord(ctx, w); err != nil {
				return j.df.denied(n.StartLine, err)
			}
		}
	}
	return nil
}

func (j *job) mayWord(ctx context.Context, w *parser.Node) error {
	scheme, rest, ok := strings.Cut(w.Value, "://")
	host, _, _ := strings.Cut(rest, "/")
	switch {
	case !ok && !strings.Contains(w.Value, "$"), ok && scheme != "http" && scheme != "https" && !strings.Contains(scheme, "$"):
		return nil
	case strings.Contains(scheme+host, "$"):
		return mesh.Errorf(mesh.Denied, "ADD %s: the host is a variable, which cannot be looked at before", mesh.Visible(mesh.Clip(w.Value, 100))).WithHint("write the host out, or fetch the file in a RUN step")
	}
	return j.mayURL(ctx, w.Value)
}
