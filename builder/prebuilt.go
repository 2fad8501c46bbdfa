package builder

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/jsonmessage"
	"github.com/docker/go-units"

	"mesh"
)

// A prebuilt image becomes the base of a one-line Dockerfile. The result shares all
// layers with the original and differs in its config: it has mesh's labels, by which
// it is collected, and no VOLUME, EXPOSE or HEALTHCHECK.

// progressEvery is the interval at which a pull or a load reports its progress.
const progressEvery = 2 * time.Second

// prebuilt brings the image that From names into the engine, under a name that
// nobody else uses, and returns a tree that builds from it. done removes that name,
// and what was brought in under it.
func (j *job) prebuilt(ctx context.Context) (digest string, done func(), err error) {
	ref, err := reference.ParseNormalizedNamed(j.From.Ref)
	if err != nil {
		return "", nil, &mesh.Error{Kind: mesh.Invalid, Text: fmt.Sprintf("%q is not the name of an image", mesh.Clip(j.From.Ref, 100)), Hint: "use a name such as redis:7 or ghcr.io/me/app:1.2", Err: err}
	}
	ref = reference.TagNameOnly(ref)
	base := fmt.Sprintf("mesh/%s:from-%d", j.Stack, j.Deployment)
	var names []string // to remove again
	clean := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		for _, name := range append(names, base) {
			if err := j.removeImage(ctx, name); err != nil {
				j.log.WarnContext(ctx, "name of a prebuilt image not removed", "image", name, "err", err)
			}
		}
	}
	defer func() {
		if err != nil {
			clean()
		}
	}()
	if j.From.Archive != nil {
		err = j.load(ctx, ref, base)
	} else {
		var source, pulled string
		source, digest, pulled, err = j.pull(ctx, ref)
		if pulled != "" {
			names = append(names, pulled)
		}
		if err == nil {
			err = j.cli.API(ctx).ImageTag(ctx, source, base)
		}
	}
	if err != nil {
		return "", nil, err
	}
	j.Tree = oneFile("FROM " + base + "\n")
	j.Settings = mesh.Settings{Dockerfile: mesh.DefaultDockerfile, User: j.Settings.User}
	return digest, clean, nil
}

// oneFile is a tree with only a Dockerfile.
type oneFile string

func (oneFile) Entries() []mesh.TreeEntry {
	return []mesh.TreeEntry{{Path: mesh.DefaultDockerfile, Mode: 0o644}}
}

func (f oneFile) Open(mesh.TreeEntry) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(f))), nil
}

// pull gets an image from its registry, by the digest that its name has there now,
// so that the engine's own names do not move. It returns the name to use for the
// image, its digest with its name, and the name that it added.
func (j *job) pull(ctx context.Context, ref reference.Named) (source, digest, pulled string, err error) {
	name := reference.FamiliarName(ref)
	local := func() (string, string, bool) {
		in, err := j.cli.API(ctx).ImageInspect(ctx, ref.String())
		if err != nil || j.From.Public && !strings.HasPrefix(name, "mesh/") || j.admit(ref.String(), in.Config.Labels) != nil {
			return "", "", false
		}
		i := slices.IndexFunc(in.RepoDigests, func(d string) bool { return strings.HasPrefix(d, name+"@") })
		if i < 0 {
			return in.ID, "", true
		}
		return in.ID, in.RepoDigests[i], true
	}
	if _, pinned := ref.(reference.Digested); pinned || j.From.Local {
		if id, d, ok := local(); ok {
			j.out.detail("the engine already has it")
			return id, d, "", nil
		}
		if j.From.Local {
			return "", "", "", mesh.Errorf(mesh.NotFound, "the engine has no image %s", reference.FamiliarString(ref)).
				WithHint("pull it from a registry, or load it: docker save %s | ssh mesh deploy -a %s --load %s", reference.FamiliarString(ref), j.Stack, reference.FamiliarString(ref))
		}
	}
	if err := j.mayPull(ctx, ref.String()); err != nil {
		return "", "", "", err
	}
	auth, err := j.registryAuth(ctx, ref)
	if err != nil {
		return "", "", "", err
	}
	at, err := j.cli.API(ctx).DistributionInspect(ctx, ref.String(), auth)
	if err != nil {
		if id, d, ok := local(); ok && absent(err) {
			j.out.warn("no registry has it: using the engine's own copy")
			return id, d, "", nil
		}
		return "", "", "", j.pullFault(ctx, ref, err)
	}
	byDigest, err := reference.WithDigest(reference.TrimNamed(ref), at.Descriptor.Digest)
	if err != nil {
		return "", "", "", fmt.Errorf("make a digest reference of %s: %w", ref, err)
	}
	digest = reference.FamiliarString(byDigest)
	if in, err := j.cli.API(ctx).ImageInspect(ctx, byDigest.String()); err == nil {
		j.out.detail("up to date in the engine")
		return in.ID, digest, "", nil
	}
	body, err := j.cli.API(ctx).ImagePull(ctx, byDigest.String(), image.PullOptions{RegistryAuth: auth})
	if err != nil {
		return "", "", "", j.pullFault(ctx, ref, err)
	}
	defer body.Close()
	if err := j.progress(body, "pulled"); err != nil {
		return "", "", "", j.pullFault(ctx, ref, err)
	}
	return byDigest.String(), digest, byDigest.String(), nil
}

// absent reports whether a registry answered that it does not have an image, or not
// for this server.
func absent(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) ||
		slices.ContainsFunc(unknownImageWords, func(w string) bool { return strings.Contains(err.Error(), w) })
}

func (j *job) pullFault(ctx context.Context, ref reference.Named, err error) error {
	name, host := reference.FamiliarString(ref), reference.Domain(ref)
	network := slices.ContainsFunc(networkWords, func(w string) bool { return strings.Contains(err.Error(), w) })
	switch {
	case ctx.Err() != nil || client.IsErrConnectionFailed(err):
		return err
	case network:
		return &mesh.Error{
			Kind: mesh.Unavailable, Text: fmt.Sprintf("the registry %s cannot be reached", host),
			Hint: fmt.Sprintf("check the server's network, or load the image: docker save %s | ssh mesh deploy -a %s --load %s", name, j.Stack, name), Err: err,
		}
	case absent(err):
		return &mesh.Error{
			Kind: mesh.Failed, Text: fmt.Sprintf("there is no image %s, or it is private", name),
			Hint: fmt.Sprintf("correct the name, or log in to the registry: ssh mesh registry:login %s USER < password", host), Err: err,
		}
	case strings.Contains(err.Error(), "no matching manifest"):
		return &mesh.Error{Kind: mesh.Failed, Text: fmt.Sprintf("%s has no version for this server's platform", name), Hint: "build it for the server's platform, such as linux/amd64", Err: err}
	}
	return fmt.Errorf("pull %s: %w", name, err)
}

// progress reads the engine's messages and prints the progress now and then.
func (j *job) progress(r io.Reader, did string) error {
	type layer struct{ have, want int64 }
	layers := map[string]layer{}
	sum := func() (s layer) {
		for _, l := range layers {
			s.have += l.have
			s.want += l.want
		}
		return s
	}
	last := time.Now()
	dec := json.NewDecoder(r)
	for {
		var m jsonmessage.JSONMessage
		switch err := dec.Decode(&m); {
		case errors.Is(err, io.EOF):
			if s := sum(); s.want > 0 {
				j.out.detail(fmt.Sprintf("%s %s", did, units.HumanSize(float64(s.want))))
			}
			return nil
		case err != nil:
			return err
		case m.Error != nil:
			return errors.New(m.Error.Message)
		}
		if m.Progress != nil && m.Progress.Total > 0 && m.Status == "Downloading" {
			layers[m.ID] = layer{m.Progress.Current, m.Progress.Total}
		} else if l, ok := layers[m.ID]; ok && m.Status == "Download complete" {
			layers[m.ID] = layer{l.want, l.want}
		}
		if now := time.Now(); now.Sub(last) >= progressEvery && len(layers) > 0 {
			s := sum()
			j.out.detail(fmt.Sprintf("%s of %s", units.HumanSize(float64(s.have)), units.HumanSize(float64(s.want))))
			last = now
		}
	}
}

// load sends the output of "docker save" to the engine, with the image's name
// replaced by base: loading must not move names that others use.
func (j *job) load(ctx context.Context, ref reference.Named, base string) error {
	caller := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pr, pw := io.Pipe()
	counted := &counter{r: j.From.Archive}
	filtered := make(chan error, 1)
	go func() {
		err := rename(counted, pw, ref, base)
		if err != nil {
			cancel(err) // before the engine sees the end of its input
		}
		filtered <- err
		_ = pw.CloseWithError(err)
	}()
	resp, err := j.cli.API(ctx).ImageLoad(ctx, pr)
	_ = pr.CloseWithError(errors.New("the engine stopped reading"))
	var ferr error
	select {
	case ferr = <-filtered:
	case <-caller.Done(): // a client that sends nothing must not block; its read ends with its session
	}
	var known *mesh.Error
	if errors.As(ferr, &known) {
		if err == nil {
			_ = resp.Body.Close()
		}
		return ferr
	}
	if err == nil {
		err = j.progress(resp.Body, "loaded")
		_ = resp.Body.Close()
	}
	if err == nil {
		_, err = j.cli.API(ctx).ImageInspect(ctx, base)
	}
	switch {
	case err == nil:
		j.out.detail("loaded " + units.HumanSize(float64(counted.n)))
		return nil
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case client.IsErrConnectionFailed(err):
		return err
	}
	return &mesh.Error{Kind: mesh.Failed, Text: "the archive cannot be loaded: " + firstLine(err.Error()), Hint: "make it with: docker save " + j.From.Ref, Err: err}
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// largestIndex limits what is read into memory from an archive: its lists of images.
const largestIndex = 4 << 20

// rename copies an archive of images and keeps only one image in its lists, ref,
// under the name base. Since Docker 25 there are two lists: manifest.json, of
// Docker's image specification v1.2, and index.json, of the OCI image layout.
func rename(r io.Reader, w io.Writer, ref reference.Named, base string) error {
	bad := func(format string, args ...any) error {
		return mesh.Errorf(mesh.Invalid, format, args...).WithHint("make it with: docker save %s", reference.FamiliarString(ref))
	}
	in := bufio.NewReaderSize(r, 64<<10)
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(in)
		if err != nil {
			return bad("the archive is not a gzip file: %w", err)
		}
		in = bufio.NewReaderSize(z, 64<<10)
	} else if err != nil {
		return bad("stdin is empty")
	}
	src, dst := tar.NewReader(in), tar.NewWriter(w)
	found := false
	for {
		h, err := src.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return bad("stdin is not an archive of images: %w", err)
		}
		name := path.Clean(h.Name)
		if base := path.Base(name); path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") ||
			base != name && (base == "manifest.json" || base == "index.json" || base == "repositories") ||
			name == "." && h.Typeflag != tar.TypeDir || !strings.Contains(name, "/") && (h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink) {
			// The engine would unpack it over the list that is replaced here.
			return bad("the archive has an entry %q, which does not belong to an image", mesh.Clip(h.Name, 80))
		}
		switch name {
		case "repositories": // of Docker before 1.10; it would restore the old names
			continue
		case "manifest.json", "index.json":
			if h.Size > largestIndex {
				return bad("the archive's %s is too large", h.Name)
			}
			data, err := io.ReadAll(src)
			if err != nil {
				return bad("the archive is cut off: %w", err)
			}
			if path.Clean(h.Name) == "manifest.json" {
				data, err = renameManifest(data, ref, base)
				found = true
			} else {
				data, err = renameIndex(data, ref, base)
			}
			if err != nil {
				return err
			}
			h.Size = int64(len(data))
			if err := dst.WriteHeader(h); err != nil {
				return err
			}
			if _, err := dst.Write(data); err != nil {
				return err
			}
			continue
		}
		if err := dst.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(dst, src); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return bad("the archive is cut off")
			}
			return err
		}
	}
	if !found {
		return bad("stdin is not an archive of images: it has no manifest.json")
	}
	return dst.Close()
}

// renameManifest keeps the entry of ref in manifest.json.
func renameManifest(data []byte, ref reference.Named, base string) ([]byte, error) {
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, mesh.Errorf(mesh.Invalid, "the archive's manifest.json cannot be read: %w", err)
	}
	var there []string
	for _, m := range list {
		var tags []string
		_ = json.Unmarshal(m["RepoTags"], &tags) // null: saved by its ID
		for _, t := range tags {
			if sameName(t, ref) {
				var err error
				if m["RepoTags"], err = json.Marshal([]string{base}); err != nil {
					return nil, err
				}
				return json.Marshal([]map[string]json.RawMessage{m})
			}
		}
		there = append(there, tags...)
	}
	e := mesh.Errorf(mesh.NotFound, "the archive has no image %s", reference.FamiliarString(ref))
	if len(there) > 0 {
		return nil, e.WithHint("it has %s", mesh.Clip(strings.Join(there, ", "), 200))
	}
	return nil, e.WithHint("save it by name: docker save %s", reference.FamiliarString(ref))
}

// The keys of names in an index.json, of containerd and of the OCI image layout.
const (
	annotationImage = "io.containerd.image.name"
	annotationRef   = "org.opencontainers.image.ref.name"
)

// renameIndex keeps the entry of ref in index.json.
func renameIndex(data []byte, ref reference.Named, base string) ([]byte, error) {
	var index map[string]json.RawMessage
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, mesh.Errorf(mesh.Invalid, "the archive's index.json cannot be read: %w", err)
	}
	if err := json.Unmarshal(index["manifests"], &list); err != nil {
		return nil, mesh.Errorf(mesh.Invalid, "the archive's index.json cannot be read: %w", err)
	}
	var kept []map[string]json.RawMessage
	for _, m := range list {
		notes := map[string]string{}
		_ = json.Unmarshal(m["annotations"], &notes)
		if !sameName(notes[annotationImage], ref) {
			continue
		}
		_, tag, _ := strings.Cut(base, ":")
		notes[annotationImage], notes[annotationRef] = "docker.io/"+base, tag
		var err error
		if m["annotations"], err = json.Marshal(notes); err != nil {
			return nil, err
		}
		kept = append(kept, m)
	}
	if kept == nil {
		kept = list // without names, but manifest.json has them
	}
	var err error
	if index["manifests"], err = json.Marshal(kept); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = json.NewEncoder(&out).Encode(index)
	return out.Bytes(), err
}

func sameName(s string, ref reference.Named) bool {
	n, err := reference.ParseNormalizedNamed(s)
	return err == nil && reference.TagNameOnly(n).String() == ref.String()
}
