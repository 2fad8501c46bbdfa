package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	gateway "github.com/moby/buildkit/frontend/gateway/client"

	"mesh"
)

// labelSource is what an image was made of: tree, Dockerfile, args and base images
// under one hash. An image that has it need not be built again.
const labelSource = "mesh.source"

// errReused ends a solve whose image is there already.
var errReused = errors.New("the image is there already")

// reuse looks for an image that was made of the same. It returns the hash of what
// this build is made of, which is empty when that cannot be known, and the image
// when there is one. BuildKit is asked for the base images, as a build would: one
// that has changed in its registry counts where a build would take it.
func (j *job) reuse(ctx context.Context, c gateway.Client, resolveMode string) (source string, found *image.Summary, err error) {
	bases, known := j.df.bases(j.args)
	if !known || j.From.Ref != "" {
		return "", nil, nil
	}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "1\x00%s\x00%s\x00%s\x00%s\x00%s\x00", j.df.path, j.df.text, j.df.ignore, j.Settings.Target, j.Settings.User)
	for _, name := range slices.Sorted(maps.Keys(j.args)) {
		_, _ = fmt.Fprintf(h, "arg %s=%s\x00", name, j.args[name])
	}
	for _, ref := range bases {
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil {
			return "", nil, nil //nolint:nilerr // the build itself says so
		}
		_, dgst, config, err := c.ResolveImageConfig(ctx, reference.TagNameOnly(named).String(), sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{ResolveMode: resolveMode}})
		if err != nil {
			return "", nil, nil //nolint:nilerr // as above
		}
		// An old engine gives no digest of an image that it has itself.
		_, _ = fmt.Fprintf(h, "base %s %s %x\x00", ref, dgst, sha256.Sum256(config))
	}
	for _, e := range j.files.entries {
		_, _ = fmt.Fprintf(h, "%s\x00%o\x00%s\x00%s\x00%s\x00", e.Path, e.Mode, e.ID, e.Link, e.Module)
	}
	source = hex.EncodeToString(h.Sum(nil))
	if j.NoCache || j.Fresh {
		return source, nil, nil
	}
	list, err := j.cli.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(
		filters.Arg("label", labelServer+"="+j.server), filters.Arg("label", labelStack+"="+string(j.Stack)), filters.Arg("label", labelSource+"="+source),
	)})
	if err != nil || len(list) == 0 {
		return source, nil, err
	}
	return source, &list[0], nil
}

// reused makes an image that is there the result of the build.
func (j *job) reused(ctx context.Context, old *image.Summary) (mesh.Image, error) {
	called := "image " + strings.TrimPrefix(old.ID, "sha256:")[:12] // another server may have taken its name
	for _, t := range old.RepoTags {
		if strings.HasPrefix(t, "mesh/"+string(j.Stack)+":") {
			called = t
			break
		}
	}
	for _, t := range j.Tags {
		if err := j.cli.ImageTag(ctx, old.ID, t); err != nil {
			return mesh.Image{}, fmt.Errorf("tag %s: %w", t, err)
		}
	}
	shell, err := j.shellIn(ctx, old.ID)
	if err != nil {
		return mesh.Image{}, err
	}
	j.out.detail("the same tree, args and base images were built before: " + called + " is used")
	return mesh.Image{ID: old.ID, Shell: shell, Work: mesh.Work{Reused: true}}, nil
}

// bases are the images that a Dockerfile takes from elsewhere, with the given args
// filled in. known is false when that, or other things from elsewhere, only building it
// tells.
func (d *dockerfile) bases(args map[string]string) (refs []string, known bool) {
	ast, err := parser.Parse(strings.NewReader(string(d.text)))
	if err != nil {
		return nil, false
	}
	if _, _, _, other := parser.DetectSyntax(d.text); other {
		if _, stock := d.syntax(); !stock {
			return nil, false // a frontend of its own
		}
	}
	known = true
	add := func(ref string) {
		ref = strings.Trim(ref, `"'`)
		_, err := strconv.Atoi(ref)
		switch {
		case err == nil, ref == "scratch", ref == "", slices.Contains(d.stages, strings.ToLower(ref)), slices.Contains(refs, ref):
		case strings.Contains(ref, "$"):
			known = false
		default:
			refs = append(refs, ref)
		}
	}
	lex := shell.NewLex(ast.EscapeToken)
	env := globals{}
	fill := func(word string) string {
		filled, unmatched, err := lex.ProcessWord(word, env)
		for name := range unmatched {
			if !strings.Contains(word, "${"+name+":-") { // else it has a value all the same
				return word // whose $ tells
			}
		}
		if err != nil {
			return word
		}
		return filled
	}
	stages := false
	for _, n := range ast.AST.Children {
		switch strings.ToLower(n.Value) {
		case "from":
			stages = true
			if n.Next != nil {
				add(fill(n.Next.Value))
			}
		case "arg":
			for a := n.Next; a != nil && !stages; a = a.Next {
				name, value, def := strings.Cut(a.Value, "=")
				if given, ok := args[name]; ok {
					env[name] = given
				} else if def {
					env[name] = fill(strings.Trim(value, `"'`))
				}
			}
		case "add":
			for a := n.Next; a != nil; a = a.Next {
				if strings.Contains(a.Value, "://") || strings.HasPrefix(a.Value, "git@") || strings.Contains(a.Value, "$") {
					known = false
				}
			}
		case "onbuild":
			known = false
		}
		for _, f := range n.Flags {
			if ref, ok := strings.CutPrefix(f, "--from="); ok {
				add(ref)
			}
			if mount, ok := strings.CutPrefix(f, "--mount="); ok {
				for o := range strings.SplitSeq(mount, ",") {
					if ref, ok := strings.CutPrefix(o, "from="); ok {
						add(ref)
					}
				}
			}
		}
	}
	return refs, known
}

// globals are the args before the first FROM.
type globals map[string]string

// Get is the value of one.
func (g globals) Get(name string) (string, bool) { v, ok := g[name]; return v, ok }

// Keys are their names.
func (g globals) Keys() []string { return slices.Sorted(maps.Keys(g)) }

// labelled adds a label to what the frontend is asked for.
type labelled struct {
	gateway.Client
	name, value string
}

func (l labelled) BuildOpts() gateway.BuildOpts {
	o := l.Client.BuildOpts()
	o.Opts = maps.Clone(o.Opts)
	o.Opts["label:"+l.name] = l.value
	return o
}
