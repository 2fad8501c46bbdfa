package builder

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/system"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/moby/patternmatcher"

	"mesh"
	"mesh/builder/detect"
)

// DeclaredArgs returns the names in order.
func DeclaredArgs(dockerfile string) ([]string, error) {
	res, err := parser.Parse(strings.NewReader(dockerfile))
	if err != nil {
		return nil, err
	}
	return declaredArgs(res.AST), nil
}

// Clean returns the cleaned form of a line of output.
func Clean(s string) string { return clean([]byte(s)) }

// Shorten cuts a command.
var Shorten = shorten

// Tar writes a tree as a tar.
func Tar(t mesh.Tree, ignore []string, dockerfile string) ([]byte, error) {
	match, err := patternmatcher.New(ignore)
	if err != nil {
		return nil, err
	}
	keep := map[string][]byte{}
	if dockerfile != "" {
		keep[dockerfile] = []byte("FROM scratch\n")
	}
	r := newFiles(t).tar(match, keep)
	defer r.Close()
	var buf bytes.Buffer
	_, err = io.Copy(&buf, r)
	return buf.Bytes(), err
}

// Render renders statuses until ch is closed.
// The config vars with a name in lower case are build args.
func Render(w io.Writer, c mesh.Config, ch <-chan *bkclient.SolveStatus) {
	p := newPrinter(w, c)
	args := map[string]string{}
	for k, v := range c {
		if k == strings.ToLower(k) {
			args[k] = v.Reveal()
		}
	}
	p.declare(args)
	newRenderer(p).run(ch)
}

// Ignored is the ignore file of a managed build.
const Ignored = detect.Ignored

// CgroupOf returns the control group of an engine's build steps, and what BuildKit
// and the old builder are asked for.
func CgroupOf(info system.Info) (path, parent, classic string, err error) {
	g, err := cgroupOf(info)
	return g.path, g.parent, g.classic, err
}

// Write sets the limits in a file system of control groups.
func (b *Builder) Write(root, path string) error { return b.write(root, path) }

// InForce fails unless they are set there.
func (b *Builder) InForce(root, path string) error { return b.inForce(root, path) }

// Cause is the error that a pusher sees for BuildKit's error in a step.
func (b *Builder) Cause(ctx context.Context, name string, err error) error {
	j := &job{Builder: b, out: newPrinter(io.Discard, nil), df: &dockerfile{shown: "Dockerfile"}}
	r := newRenderer(j.out)
	r.order = []*step{{name: name, err: err.Error()}}
	return j.explain(ctx, err, r, newLineRecorder(nil))
}

// NextTimes are the times of a build of a tree that starts at now.
func NextTimes(old mesh.FileTimes, t mesh.Tree, now time.Time) (mesh.FileTimes, bool) {
	return nextTimes(old, t.Entries(), now, true, func(string) time.Duration { return 0 })
}

// TimeOf is the time of a path.
func TimeOf(t mesh.FileTimes, p string) time.Time { return t.Files[pathKey(p)].Time }

// StandIns are the files of a tree for which a Dockerfile makes placeholders.
func StandIns(text string, t mesh.Tree) (list []string) {
	f := newFiles(t)
	is := (&dockerfile{text: []byte(text)}).standIns(f)
	for _, e := range f.entries {
		if is(e.Path) {
			list = append(list, e.Path)
		}
	}
	return list
}

// Needs reports whether a field, a value or an attribute has a row.
func Needs(name string) bool { _, ok := needs[name]; return ok }

// HasDocker reports whether the first Docker with a capability is known.
func HasDocker(id string) bool { _, ok := dockerOf[apicaps.CapID(id)]; return ok }

// InDocker2010 reports whether BuildKit v0.8 had a capability, by its tag.
func InDocker2010(id string) bool {
	return slices.Contains(strings.Fields(`constraints exec.cgroup exec.meta.base exec.meta.network exec.meta.proxyenv exec.meta.security
		exec.meta.security.devices.v1 exec.meta.setsdefaultpath exec.mount.bind exec.mount.bind.readwrite-nooutput exec.mount.cache
		exec.mount.cache.sharing exec.mount.secret exec.mount.selector exec.mount.ssh exec.mount.tmpfs file.base file.rm.wildcard
		meta.description meta.exportcache meta.ignorecache platform soruce.http.uidgid source.buildop.llbfilename source.git
		source.git.fullurl source.git.httpauth source.git.keepgitdir source.git.knownsshhosts source.git.mountsshsock source.http
		source.http.checksum source.http.perm source.image source.image.resolvemode source.local source.local.excludepatterns
		source.local.followpaths source.local.includepatterns source.local.sessionid source.local.sharedkeyhint source.local.unique`), id)
}

// Capabilities are those of the engine.
func (b *Builder) Capabilities(ctx context.Context) (map[string]bool, error) {
	bk, err := b.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer bk.Close()
	has := map[string]bool{}
	ended := errors.New("that is all")
	_, err = bk.Build(ctx, bkclient.SolveOpt{}, "mesh", func(_ context.Context, c gateway.Client) (*gateway.Result, error) {
		caps := engineCaps{c.BuildOpts().LLBCaps}
		for id := range dockerOf {
			has[string(id)] = caps.has(id)
		}
		return nil, ended
	}, nil)
	if err == nil || len(has) == 0 {
		return nil, err
	}
	return has, nil
}
