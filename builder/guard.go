package builder

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"mesh"
)

// guarded keeps a build from using images of stacks that the key may not see: the
// engine has them, and FROM takes any image in the engine. It checks each image that
// the frontend requests, whichever instruction names it.
type guarded struct {
	gateway.Client
	job *job
}

// ResolveImageConfig is called by the frontend for each image that is not a stage.
func (g guarded) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	if !g.job.here(ctx, ref) {
		if err := g.job.mayPull(ctx, ref); err != nil {
			return "", "", nil, g.job.df.denied(0, err)
		}
	}
	found, dgst, config, err := g.Client.ResolveImageConfig(ctx, ref, opt)
	if err != nil {
		return found, dgst, config, err
	}
	var img ocispec.Image
	if err := json.Unmarshal(config, &img); err != nil {
		return "", "", nil, fmt.Errorf("read the config of %s: %w", ref, err)
	}
	if g.job.From.Archive != nil { // a sent archive belongs to its sender, whatever its labels say
		return found, dgst, config, nil
	}
	if err := g.job.admit(ref, img.Config.Labels); err != nil {
		return "", "", nil, err
	}
	return found, dgst, config, nil
}

// Solve refuses other frontend images: what they take from the engine cannot be
// checked here.
func (g guarded) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if g.job.May != nil && req.Frontend != "" {
		return nil, mesh.Errorf(mesh.Denied, "a key that is limited to stacks can only use docker/dockerfile as syntax=")
	}
	if req.Frontend != "" {
		for _, name := range []string{req.FrontendOpt["source"], req.FrontendOpt["cmdline"]} {
			if name, _, _ := strings.Cut(name, " "); name != "" && !g.job.here(ctx, name) {
				if err := g.job.mayPull(ctx, name); err != nil {
					return nil, g.job.df.denied(0, err)
				}
			}
		}
	}
	if err := g.job.mayFetch(ctx, req.Definition); err != nil {
		return nil, err
	}
	return g.Client.Solve(ctx, req)
}

// admit decides whether a build may use the image of a name, with its labels.
func (j *job) admit(ref string, labels map[string]string) error {
	if j.May == nil {
		return nil
	}
	stack := mesh.StackName("")
	if named, err := reference.ParseNormalizedNamed(ref); err == nil {
		ref = reference.FamiliarString(named)
		if of, ok := strings.CutPrefix(reference.FamiliarName(named), "mesh/"); ok {
			stack = mesh.StackName(of)
		}
	}
	// The image is the same under any name. If it was promoted to this stack, it
	// belongs to this stack. An image of another server belongs to nobody here.
	if of := mesh.StackName(labels[labelStack]); stack != j.Stack && of != "" {
		stack = of
	}
	switch server := labels[labelServer]; {
	case server != "" && server != j.server:
	case stack == "", stack == j.Stack, j.May(stack):
		return nil
	}
	return mesh.Errorf(mesh.Failed, "there is no image %s, or it is private", mesh.Clip(ref, 100))
}

// admitBases is for the engine's own builder, which does not ask: it checks the
// images beforehand.
func (j *job) admitBases(ctx context.Context) error {
	refs, known := j.df.bases(j.args)
	if j.May != nil && !known {
		return mesh.Errorf(mesh.Denied, "a key that is limited to stacks can only use base images that the Dockerfile names, not those from ONBUILD or a variable")
	}
	for _, ref := range refs {
		if !j.here(ctx, ref) {
			if err := j.mayPull(ctx, ref); err != nil {
				return err
			}
		}
		var labels map[string]string
		if in, err := j.cli.API(ctx).ImageInspect(ctx, ref); err == nil && in.Config != nil {
			labels = in.Config.Labels
		}
		if err := j.admit(ref, labels); err != nil {
			return err
		}
	}
	return nil
}
