package builder

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"

	"mesh"
	"mesh/builder/detect"
)

// The frontend turns a Dockerfile into LLB, a graph of operations, and asks BuildKit
// to solve it. Before that, mesh refuses what the engine would drop, and makes
// BuildKit's cache take account of what it ignores: the times of files and the
// values of secrets. Both are done with marks that have no effect of their own:
//
//   - BuildKit takes a COPY from its cache if the contents are the same, whatever
//     the times are. A file that changes back, A → B → A, would also get its old time
//     back, which is older than what was made from B. Such a COPY gets a further
//     action: the removal of a file that does not exist.
//   - BuildKit takes a RUN from its cache whatever its secrets are. Such a RUN gets a
//     further mount: an optional secret that does not exist.

// markedName begins the names of things that do not exist.
const markedName = "mesh-cache-key-"

// marked marks and checks what the frontend solves.
type marked struct {
	gateway.Client
	job   *job
	caps  engineCaps
	moved []mesh.TreeEntry // the entries that have changed since the stack's first build, without those that the ignore file excludes
}

// Solve solves a graph with its marks.
func (m marked) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if req.Definition != nil {
		def, err := m.mark(ctx, req.Definition)
		if err != nil {
			return nil, err
		}
		req.Definition = def
	}
	return m.Client.Solve(ctx, req)
}

// vertex is one operation of a graph.
type vertex struct {
	op      *pb.Op
	context bool     // its result is the tree, or a part of it
	keys    []string // of its inputs that BuildKit's cache ignores, sorted
}

// mark returns the graph with its marks. Operations refer to each other by digest,
// so one change affects the whole graph.
func (m marked) mark(ctx context.Context, def *pb.Definition) (*pb.Definition, error) {
	seen := map[string]*vertex{} // by its old digest
	renamed := map[string]string{}
	out := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}, Source: def.Source}
	for _, b := range def.Def {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		was := digest.FromBytes(b).String()
		var op pb.Op
		if err := op.UnmarshalVT(b); err != nil {
			return nil, fmt.Errorf("read the build graph: %w", err)
		}
		if err := m.check(&op, def.Metadata[was], locate(def, was)); err != nil {
			return nil, err
		}
		v := &vertex{op: &op}
		inputs := make([]*vertex, len(op.Inputs))
		for i, in := range op.Inputs {
			if inputs[i] = seen[in.Digest]; inputs[i] == nil {
				return nil, errors.New("read the build graph: an operation uses a later one")
			}
			in.Digest = renamed[in.Digest]
			v.add(inputs[i].keys...)
		}
		m.markOp(v, inputs)
		data, err := op.Marshal()
		if err != nil {
			return nil, fmt.Errorf("write the build graph: %w", err)
		}
		now := digest.FromBytes(data).String()
		seen[was], renamed[was] = v, now
		out.Def = append(out.Def, data)
		if meta, ok := def.Metadata[was]; ok {
			out.Metadata[now] = meta
		}
	}
	if def.Source != nil {
		out.Source = &pb.Source{Infos: def.Source.Infos, Locations: map[string]*pb.Locations{}}
		for d, l := range def.Source.Locations {
			if now, ok := renamed[d]; ok {
				d = now
			}
			out.Source.Locations[d] = l
		}
	}
	return out, nil
}

func (v *vertex) add(keys ...string) {
	for _, k := range keys {
		if i, there := slices.BinarySearch(v.keys, k); !there {
			v.keys = slices.Insert(v.keys, i, k)
		}
	}
}

func (m marked) markOp(v *vertex, inputs []*vertex) {
	at := func(i int64) *vertex {
		if i < 0 || i >= int64(len(inputs)) {
			return nil
		}
		return inputs[i]
	}
	switch op := v.op.Op.(type) {
	case *pb.Op_Source:
		id := op.Source.Identifier
		v.context = id == "local://context" || strings.HasPrefix(id, "http://buildkit-session/")
	case *pb.Op_File:
		copied := false
		for _, a := range op.File.Actions {
			c := a.GetCopy()
			from := at(a.SecondaryInput)
			if c == nil || from == nil {
				continue
			}
			copied = true
			switch {
			case from.context && c.AttemptUnpackDockerCompatibility && strings.HasPrefix(from.op.GetSource().GetIdentifier(), "http://"):
				v.context = true // the tree, unpacked
			case from.context:
				v.add(m.covered(copyOf(c))...)
			}
		}
		if copied && !v.context && len(v.keys) > 0 {
			markFile(v.op, op.File, v.keys)
		}
	case *pb.Op_Exec:
		content := false
		for _, mount := range op.Exec.Mounts {
			from := at(mount.Input)
			if mount.Dest == pb.RootMount || from == nil || mount.MountType == pb.MountType_CACHE {
				continue
			}
			content = content || len(from.keys) > 0
			if from.context {
				keys := m.covered(everything(mount.Selector))
				content = content || len(keys) > 0
				v.add(keys...)
			}
		}
		secrets := m.job.secretKeys(secretsOf(op.Exec))
		v.add(secrets...)
		if content || len(secrets) > 0 {
			markExec(op.Exec, v.keys)
		}
	}
}

// markFile adds the keys to what identifies a COPY in the cache.
func markFile(op *pb.Op, file *pb.FileOp, keys []string) {
	for i, a := range file.Actions {
		if a.Output != 0 {
			continue
		}
		a.Output = -1
		file.Actions = append(file.Actions, &pb.FileAction{
			Input: int64(len(op.Inputs) + i), SecondaryInput: -1, Output: 0,
			Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: "/" + markedName + sum(keys), AllowNotFound: true}},
		})
		return
	}
}

// markExec adds the keys to what identifies a RUN in the cache.
func markExec(exec *pb.ExecOp, keys []string) {
	name := markedName + sum(keys)
	exec.Mounts = append(exec.Mounts, &pb.Mount{
		Input: -1, Output: -1, Dest: "/run/secrets/" + name, MountType: pb.MountType_SECRET,
		SecretOpt: &pb.SecretOpt{ID: name, Mode: 0o400, Optional: true},
	})
}

func sum(keys []string) string {
	h := sha256.Sum256([]byte(strings.Join(keys, "\x00")))
	return hex.EncodeToString(h[:16])
}

// secretsOf returns the ids of the secrets that a RUN requests.
func secretsOf(exec *pb.ExecOp) (ids []string) {
	for _, mount := range exec.Mounts {
		if mount.MountType == pb.MountType_SECRET && mount.SecretOpt != nil {
			ids = append(ids, mount.SecretOpt.ID)
		}
	}
	for _, e := range exec.Secretenv {
		ids = append(ids, e.ID)
	}
	return ids
}

// secretKeys are hashes of the current values of secrets, with a key of this server.
// They only reveal whether a value has changed. A missing secret has none.
func (j *job) secretKeys(ids []string) (keys []string) {
	values := j.secrets()
	for _, id := range ids {
		value, ok := values[id]
		if !ok {
			continue
		}
		mac := hmac.New(sha256.New, j.key)
		_, _ = fmt.Fprintf(mac, "secret\x00%s\x00%s\x00%s", j.Stack, id, value)
		keys = append(keys, "secret "+id+" "+hex.EncodeToString(mac.Sum(nil)))
	}
	return keys
}

// selection is the part of the tree that an operation uses.
type selection struct {
	path     string
	wildcard bool
	include  []string
}

func copyOf(c *pb.FileActionCopy) selection {
	return selection{path: c.Src, wildcard: c.AllowWildcard, include: c.IncludePatterns}
}

func everything(dir string) selection { return selection{path: dir} }

// covered returns the keys of the files in a selection: those that BuildKit's cache
// must distinguish although their contents are the same.
func (m marked) covered(s selection) []string {
	f := m.job.files
	if m.job.times == nil || len(m.moved) == 0 && m.job.times.Whole {
		return nil
	}
	pattern := strings.Trim(path.Clean("/"+s.path), "/")
	var roots []string
	if s.wildcard && strings.ContainsAny(pattern, `*?[\`) {
		for _, e := range f.entries {
			if ok, err := path.Match(pattern, e.Path); ok || err != nil {
				roots = append(roots, e.Path)
			}
		}
	} else {
		roots = []string{pattern}
	}
	for i, r := range roots {
		if e, err := f.resolve(r); err == nil {
			roots[i] = e.Path // through links
		}
	}
	include, err := patternmatcher.New(s.include)
	if err != nil {
		include = nil
	}
	taken := make(map[string]bool, len(roots))
	for _, r := range roots {
		taken[r] = true
	}
	changed := false
	h := sha256.New()
	for _, e := range m.moved {
		if !below(e.Path, taken) {
			continue
		}
		if len(s.include) > 0 && include != nil {
			if in, err := include.MatchesOrParentMatches(e.Path); err == nil && !in {
				continue
			}
		}
		changed = true
		if t, _ := f.known(e); t.Back {
			_, _ = fmt.Fprintf(h, "%s\x00%d\x00", e.Path, t.Since.UnixNano())
		}
	}
	// In a stack's first build, nothing exists yet that files could be too old for:
	// it may share the steps of other stacks. If the stack has lost its times, they
	// must be those that it sets now.
	if !changed && m.job.times.Whole {
		return nil
	}
	return []string{fmt.Sprintf("times of %s since %d: %x", m.job.cacheSpace(), m.job.times.First.UnixNano(), h.Sum(nil))}
}

// below reports whether a path, or a folder above it, is one of roots; "" is
// everything.
func below(p string, roots map[string]bool) bool {
	for ; p != "."; p = path.Dir(p) {
		if roots[p] {
			return true
		}
	}
	return roots[""]
}

// movedSince returns the entries of the tree that a build may copy and that have
// changed since the stack's first build.
func (j *job) movedSince(ctx context.Context, ignore *patternmatcher.PatternMatcher) (moved []mesh.TreeEntry) {
	if j.times == nil {
		return nil
	}
	for _, e := range j.files.entries {
		if ctx.Err() != nil {
			return nil // the build is abandoned
		}
		if t, _ := j.files.known(e); !t.Since.After(j.times.First) && !t.Back {
			continue
		}
		if out, err := ignore.MatchesOrParentMatches(e.Path); err == nil && out {
			continue
		}
		moved = append(moved, e)
	}
	return moved
}

// cacheSpace is the name space of a stack's cache mounts. They start empty when the
// times of the files do: an older cache may contain files newer than those of the
// tree.
func (j *job) cacheSpace() string {
	space := j.server + "/" + string(j.Stack)
	if j.times != nil {
		space += fmt.Sprintf("/%d", j.times.First.UnixNano())
	}
	return space
}

// maxSecret is the largest secret that BuildKit accepts
// (secretsprovider.MaxSecretSize).
const maxSecret = 500 << 10

// secrets are what a build may mount: the config vars by name, and all of them as
// one script for generated builds.
func (j *job) secrets() map[string]string {
	all := map[string]string{}
	names := slices.Sorted(maps.Keys(j.Config))
	// If the script is too large, it lacks the longest values.
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(len(j.Config[a].Reveal()), len(j.Config[b].Reveal())) })
	var script strings.Builder
	for _, name := range names {
		value := j.Config[name].Reveal()
		all[name] = value
		line := "export " + name + "='" + strings.ReplaceAll(value, "'", `'\''`) + "'\n"
		if name != "PATH" && name != "HOME" && script.Len()+len(line) <= maxSecret {
			script.WriteString(line)
		}
	}
	if script.Len() > 0 {
		all[detect.AllConfig] = script.String()
	}
	return all
}
