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

// The engine itself fetches what ADD names, base and prebuilt images, and frontends,
// from the host's network. The person who deploys chooses the names, so each host is
// checked before the engine is asked.

// Egress decides where a deploy may fetch from.
type Egress interface {
	// Check refuses a host, a name or an address without a port, with a *mesh.Error.
	Check(ctx context.Context, host string) error
}

// hub is the registry for names without one. The operator decides which machine that
// is.
const hub = "docker.io"

// mayPull reports whether an image may be fetched from its registry. A registry that
// an admin logged in to may be anywhere.
func (j *job) mayPull(ctx context.Context, name string) error {
	if j.egress == nil {
		return nil
	}
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil //nolint:nilerr // the engine reports what is wrong
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

// hostOf returns a host without its port.
func hostOf(hostPort string) string {
	if host, _, err := net.SplitHostPort(hostPort); err == nil {
		return host
	}
	return strings.Trim(hostPort, "[]")
}

// mayFetch checks everything that a build would fetch.
func (j *job) mayFetch(ctx context.Context, def *pb.Definition) error {
	if j.egress == nil {
		return nil
	}
	sources, lines := map[string]*pb.SourceOp{}, map[string]int{} // by digest
	for _, b := range def.GetDef() {
		var op pb.Op
		if err := op.UnmarshalVT(b); err != nil {
			return fmt.Errorf("read the build graph: %w", err)
		}
		d := digest.FromBytes(b).String()
		if src := op.GetSource(); src != nil {
			sources[d], lines[d] = src, locate(def, d)
		}
		for _, in := range op.Inputs { // a source has no line of its own, but the step that copies it has
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

// maySource checks one source of a build (docs/dev/dockerfile-llb.md of BuildKit).
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
	return mesh.Errorf(mesh.Denied, "builds may not fetch from %s", mesh.Visible(mesh.Clip(src.Identifier, 100)))
}

// sessionHost is the host name that BuildKit uses for uploads from this process
// (session/upload).
const sessionHost = "buildkit-session"

func (j *job) mayURL(ctx context.Context, raw string) error {
	u, err := url.Parse(raw)
	if err == nil && u.Host == sessionHost {
		return nil
	}
	if err != nil || u.Hostname() == "" {
		return mesh.Errorf(mesh.Invalid, "%s is not a URL", mesh.Visible(mesh.Clip(raw, 100)))
	}
	return j.egress.Check(ctx, u.Hostname())
}

func (j *job) mayGit(ctx context.Context, remote string) error {
	u, err := gitutil.ParseURL(remote)
	if err != nil {
		return mesh.Errorf(mesh.Invalid, "%s is not the URL of a repository", mesh.Visible(mesh.Clip(remote, 100)))
	}
	return j.egress.Check(ctx, hostOf(u.Host))
}

// here reports whether the engine has an image and uses it without asking a
// registry.
func (j *job) here(ctx context.Context, ref string) bool {
	if mesh.IsTrue(j.Settings.Pull) {
		return false
	}
	_, err := j.cli.API(ctx).ImageInspect(ctx, ref)
	return err == nil
}

// denied adds the line of the Dockerfile that was refused.
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

// mayAdd checks the ADD instructions for the engine's own builder, which does not
// report what it fetches. It refuses a host that a variable sets.
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
		return mesh.Errorf(mesh.Denied, "ADD %s: the host is a variable, so it cannot be checked before the build", mesh.Visible(mesh.Clip(w.Value, 100))).WithHint("write the host out, or fetch the file in a RUN step")
	}
	return j.mayURL(ctx, w.Value)
}
