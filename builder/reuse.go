package builder

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	gateway "github.com/moby/buildkit/frontend/gateway/client"

	"mesh"
)

// labelSource is one hash of what an image was made from: tree, Dockerfile, args and
// base images. An image with the same hash need not be built again.
const labelSource = "mesh.source"

// errReused ends a solve if its image already exists.
var errReused = errors.New("the image already exists")

// labelSeal proves that this server wrote the labels of an image. Labels alone prove
// nothing: an uploaded archive, a base image and a LABEL in a Dockerfile can set
// any.
const labelSeal = "mesh.seal"

// sealOf is a proof that only this server can make, for an image of a stack made
// from source.
func (b *Builder) sealOf(stack, source string) string {
	mac := hmac.New(sha256.New, b.key)
	_, _ = fmt.Fprintf(mac, "image\x00%s\x00%s\x00%s", b.server, stack, source)
	return hex.EncodeToString(mac.Sum(nil))
}

// sealed reports whether this server made an image with these labels.
func (b *Builder) sealed(labels map[string]string) bool {
	return labels[labelServer] == b.server && hmac.Equal([]byte(labels[labelSeal]), []byte(b.sealOf(labels[labelStack], labels[labelSource])))
}

// baseImage is an image that a Dockerfile takes from elsewhere.
type baseImage struct {
	ref    string
	digest string // empty: an old engine reports none for its own images
	config []byte
}

// resolve asks BuildKit for the base images, as a build would, so that one that has
// changed in its registry counts if the build would pull it. known is false if only
// the build can tell which they are.
func (j *job) resolve(ctx context.Context, c gateway.Client, resolveMode string) (bases []baseImage, known bool) {
	refs, known := j.df.bases(j.args)
	if !known || j.From.Ref != "" {
		return nil, false
	}
	for _, ref := range refs {
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil {
			return nil, false // the build itself reports it
		}
		_, dgst, config, err := c.ResolveImageConfig(ctx, reference.TagNameOnly(named).String(), sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{ResolveMode: resolveMode}})
		if err != nil {
			return nil, false // as above
		}
		bases = append(bases, baseImage{ref, dgst.String(), config})
	}
	return bases, true
}

// triggers returns the instructions that the base images add with ONBUILD.
func triggers(bases []baseImage) *dockerfile {
	var lines []string
	for _, b := range bases {
		var img struct {
			Config struct{ OnBuild []string } `json:"config"`
		}
		if json.Unmarshal(b.config, &img) == nil {
			lines = append(lines, img.Config.OnBuild...)
		}
	}
	if len(lines) == 0 {
		return &dockerfile{}
	}
	d, err := parseDockerfile("", []byte(strings.Join(lines, "\n")+"\n"))
	if err != nil {
		return &dockerfile{}
	}
	return d
}

// reuse looks for an image made from the same inputs, for this stack or its kin. It
// returns the hash of the inputs, which is empty if they are not all known, and the image if there is one.
func (j *job) reuse(ctx context.Context, bases []baseImage, onbuild *dockerfile) (source string, found *image.Summary, err error) {
	ids, known := j.df.secretIDs()
	more, alsoKnown := onbuild.secretIDs()
	if !known || !alsoKnown {
		return "", nil, nil
	}
	hash := func(times map[uint64]mesh.FileTime) string { return j.sourceHash(bases, append(ids, more...), times) }
	source = hash(j.files.times)
	if j.NoCache || j.Fresh {
		return source, nil, nil
	}
	if found, err = j.made(ctx, j.Stack, source); found != nil || err != nil {
		return source, found, err
	}
	for _, kin := range j.Kin {
		times, err := j.kinTimes(ctx, kin)
		if err != nil {
			return source, nil, err
		}
		if times == nil {
			continue
		}
		if found, err = j.made(ctx, kin.Stack, hash(times)); found != nil || err != nil {
			return source, found, err
		}
	}
	return source, nil, nil
}

// sourceHash is one hash of everything that an image is made from, with the given times
// of the files.
func (j *job) sourceHash(bases []baseImage, secrets []string, times map[uint64]mesh.FileTime) string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "2\x00%s\x00%s\x00%s\x00%s\x00%s\x00", j.df.path, j.df.text, j.df.ignore, j.Settings.Target, j.Settings.User)
	for _, name := range slices.Sorted(maps.Keys(j.args)) {
		_, _ = fmt.Fprintf(h, "arg %s=%s\x00", name, j.args[name])
	}
	for _, key := range j.secretKeys(secrets) {
		_, _ = fmt.Fprintf(h, "%s\x00", key)
	}
	for _, b := range bases {
		_, _ = fmt.Fprintf(h, "base %s %s %x\x00", b.ref, b.digest, sha256.Sum256(b.config))
	}
	for _, e := range j.files.entries {
		_, _ = fmt.Fprintf(h, "%s\x00%o\x00%s\x00%s\x00%s\x00%d\x00", e.Path, e.Mode, e.ID, e.Link, e.Module, j.files.since(e, times))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// made returns the image that was made for a stack from source, or nil.
func (j *job) made(ctx context.Context, stack mesh.StackName, source string) (*image.Summary, error) {
	list, err := j.cli.API(ctx).ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(
		filters.Arg("label", labelServer+"="+j.server), filters.Arg("label", labelStack+"="+string(stack)), filters.Arg("label", labelSource+"="+source),
	)})
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if j.sealed(i.Labels) {
			return &i, nil
		}
	}
	return nil, nil //nolint:nilnil // none is no failure
}

// kinTimes returns the times that the files of this build have in an image of kin. It returns
// nil if the image cannot be used: a file that has changed since this stack's last build must
// be newer than all earlier ones, just as if the stack had built the image itself.
func (j *job) kinTimes(ctx context.Context, kin mesh.Kin) (map[uint64]mesh.FileTime, error) {
	if kin.Times == nil || j.Times == nil || j.past.First.IsZero() && j.Deployment > 1 {
		return nil, nil //nolint:nilnil // see above
	}
	theirs, err := kin.Times.FileTimes(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the times of the files of %s: %w", kin.Stack, err)
	}
	for _, e := range newFiles(j.Tree).entries {
		key := pathKey(e.Path)
		of, t := j.times.Files[key].Of, theirs.Files[key]
		switch {
		case t.Of != of:
			return nil, nil //nolint:nilnil // kin has another tree
		case j.past.Files[key].Of != of && !t.Since.Truncate(time.Second).After(j.past.Latest.Truncate(time.Second)):
			return nil, nil //nolint:nilnil // it would not look changed
		}
	}
	return theirs.Files, nil
}

// secretIDs returns the secrets that the steps of a Dockerfile may mount. known is
// false if only the build can tell.
func (d *dockerfile) secretIDs() (ids []string, known bool) {
	for _, n := range d.nodes() {
		for _, f := range n.Flags {
			mount, ok := strings.CutPrefix(f, "--mount=")
			if !ok {
				continue
			}
			if strings.Contains(mount, "$") {
				return nil, false
			}
			fields, err := csv.NewReader(strings.NewReader(mount)).Read()
			if err != nil {
				return nil, false
			}
			if !slices.ContainsFunc(fields, func(o string) bool { return strings.EqualFold(strings.TrimSpace(o), "type=secret") }) {
				continue
			}
			for _, o := range fields {
				switch name, value, _ := strings.Cut(o, "="); strings.ToLower(strings.TrimSpace(name)) {
				case "id", "env":
					ids = append(ids, value)
				case "target", "dst", "destination":
					ids = append(ids, path.Base(value))
				}
			}
		}
	}
	return ids, true
}

// reused makes an existing image the result of the build.
func (j *job) reused(ctx context.Context, old *image.Summary) (mesh.Image, error) {
	called := "image " + strings.TrimPrefix(old.ID, "sha256:")[:12] // another server may have taken over its name
	for _, stack := range append([]mesh.Kin{{Stack: j.Stack}}, j.Kin...) {
		if i := slices.IndexFunc(old.RepoTags, func(t string) bool { return strings.HasPrefix(t, "mesh/"+string(stack.Stack)+":") }); i >= 0 {
			called = old.RepoTags[i]
			break
		}
	}
	for _, t := range j.Tags {
		if err := j.cli.API(ctx).ImageTag(ctx, old.ID, t); err != nil {
			return mesh.Image{}, fmt.Errorf("tag %s: %w", t, err)
		}
	}
	shell, err := j.shellIn(ctx, old.ID)
	if err != nil {
		return mesh.Image{}, err
	}
	j.out.detail("the same tree, args and base images were built before: using " + called)
	return mesh.Image{ID: old.ID, Shell: shell, Work: mesh.Work{Reused: true}}, nil
}

// bases returns the images that a Dockerfile takes from elsewhere, with the given
// args expanded. known is false if only the build can tell them, or other things
// from elsewhere.
func (d *dockerfile) bases(args map[string]string) (refs []string, known bool) {
	ast, err := parser.Parse(strings.NewReader(string(d.text)))
	if err != nil {
		return nil, false
	}
	if _, _, _, other := parser.DetectSyntax(d.text); other {
		if _, stock := d.syntax(); !stock {
			return nil, false // another frontend
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
			if !strings.Contains(word, "${"+name+":-") { // otherwise it has a value anyway
				return word // its $ shows that it is unknown
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

// Get returns the value of an arg.
func (g globals) Get(name string) (string, bool) { v, ok := g[name]; return v, ok }

// Keys returns the names of the args.
func (g globals) Keys() []string { return slices.Sorted(maps.Keys(g)) }

// with adds options to those that the frontend gets.
type with struct {
	gateway.Client
	opts map[string]string
}

// BuildOpts returns the client's options and the added ones.
func (w with) BuildOpts() gateway.BuildOpts {
	o := w.Client.BuildOpts()
	o.Opts = maps.Clone(o.Opts)
	maps.Copy(o.Opts, w.opts)
	return o
}
