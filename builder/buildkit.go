package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/image"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	frontend "github.com/moby/buildkit/frontend/dockerfile/builder"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"

	"mesh"
)

const (
	dialTimeout = 10 * time.Second // to find out whether there is a BuildKit
	killTimeout = 10 * time.Second // for a cancelled step; another build may run the same one
)

// dial connects to the BuildKit inside the engine, over POST /grpc upgraded to h2c.
// From v29 on, the engine also speaks HTTP/2 on its socket and calls /grpc
// deprecated. The session uses the same connection. dial returns nil if the engine
// answers and has no BuildKit.
func (b *Builder) dial(ctx context.Context) (*bkclient.Client, error) {
	bk, err := bkclient.New(ctx, "", bkclient.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := b.cli.API(ctx).DialHijack(ctx, "/grpc", "h2c", nil)
		if err != nil && strings.Contains(err.Error(), "unable to upgrade") {
			return b.cli.API(ctx).Dialer()(ctx)
		}
		return conn, err
	}))
	if err != nil {
		return nil, fmt.Errorf("reach BuildKit: %w", err)
	}
	tctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err = bk.ListWorkers(tctx); err == nil {
		return bk, nil
	}
	_ = bk.Close()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if _, perr := b.cli.API(ctx).Ping(ctx); perr != nil {
		return nil, fmt.Errorf("reach the engine: %w", perr)
	}
	b.log.WarnContext(ctx, "no BuildKit in the engine", "err", err)
	return nil, nil
}

// buildkit builds with BuildKit, and the Dockerfile frontend in this process.
func (j *job) buildkit(ctx context.Context, bk *bkclient.Client) (mesh.Image, error) {
	ignore, err := j.df.matcher(j.files)
	if err != nil {
		return mesh.Image{}, err
	}
	opt, done := j.solveOpt(ignore)
	defer done()
	render := newRenderer(j.out)
	statuses := make(chan *bkclient.SolveStatus)
	rendered := make(chan struct{})
	go func() {
		defer close(rendered)
		render.run(statuses)
	}()
	s := &solve{job: j, attrs: opt.FrontendAttrs, ignore: ignore}
	res, err := bk.Build(ctx, opt, "mesh", s.frontend, statuses)
	<-rendered
	if s.same != nil && ctx.Err() == nil {
		return j.reused(ctx, s.same)
	}
	if ctx.Err() != nil {
		j.awaitKilled(ctx, bk, render, s.lines)
		if errors.Is(context.Cause(ctx), errTimeout) {
			return mesh.Image{}, j.timedOut(render)
		}
	}
	if s.failed != nil {
		err = s.failed
	}
	if err != nil {
		return mesh.Image{}, j.explain(ctx, err, render, s.lines)
	}
	return mesh.Image{
		// Not "containerimage.config.digest": if the engine keeps images in containerd,
		// an image's ID is the digest of its manifest.
		ID: res.ExporterResponse[exptypes.ExporterImageDigestKey], Shell: s.shell, Work: render.work(),
	}, nil
}

// frontendAttrs are the options of the Dockerfile frontend.
func (j *job) frontendAttrs() map[string]string {
	attrs := map[string]string{
		"filename": j.df.path,
		// Use a local image without asking a registry. v29 asks by default, and then
		// waits until DNS fails.
		"image-resolve-mode": "local",
	}
	if mesh.IsTrue(j.Settings.Pull) {
		attrs["image-resolve-mode"] = "pull"
	}
	if j.Settings.Target != "" && !j.df.managed {
		attrs["target"] = j.Settings.Target
	}
	if j.NoCache {
		attrs["no-cache"] = "" // also forgets cache mounts
	}
	if j.group.parent != "" {
		attrs["cgroup-parent"] = j.group.parent
	}
	if ref, stock := j.df.syntax(); stock {
		attrs["cmdline"] = ref // otherwise the frontend would look for itself
	}
	for k, v := range j.args {
		attrs["build-arg:"+k] = v
	}
	// Cache mounts belong to one stack: otherwise another stack would run what one
	// leaves there.
	attrs["build-arg:BUILDKIT_CACHE_MOUNT_NS"] = j.cacheSpace()
	for k, v := range j.labels() {
		attrs["label:"+k] = v
	}
	return attrs
}

// solveOpt is what BuildKit is asked for. done must be called after the build.
func (j *job) solveOpt(ignore *patternmatcher.PatternMatcher) (opt bkclient.SolveOpt, done func()) {
	attrs, done := j.frontendAttrs(), func() {}
	secrets := map[string][]byte{}
	for k, v := range j.secrets() {
		secrets[k] = []byte(v)
	}
	attach := []session.Attachable{secretsprovider.FromMap(secrets), authServer{credentials: j.credentials}}
	mounts := map[string]fsutil.FS{"context": j.files, "dockerfile": j.df.mount()}
	if !j.files.syncable() {
		t := j.files.tar(ignore, nil)
		done = func() { _ = t.Close() }
		up := uploadprovider.New()
		attrs["context"], attrs["dockerfilekey"] = up.Add(t), "dockerfile"
		attach = append(attach, up)
		delete(mounts, "context")
	}
	// With the type "image", v29 makes an image without a name.
	export := bkclient.ExportEntry{Type: "moby", Attrs: map[string]string{}}
	if len(j.Tags) > 0 {
		export.Attrs["name"] = strings.Join(j.Tags, ",") // an empty name is an invalid reference
	}
	return bkclient.SolveOpt{
		// BuildKit keeps the last context of each key and asks for the difference.
		SharedKey:     j.server + "/" + string(j.Stack),
		FrontendAttrs: attrs, LocalMounts: mounts, Session: attach, Exports: []bkclient.ExportEntry{export},
	}, done
}

// solve is one run of the Dockerfile frontend, and what it has found out.
type solve struct {
	*job
	attrs  map[string]string
	ignore *patternmatcher.PatternMatcher

	lines  *lineRecorder
	failed error          // the frontend's, with its type
	same   *image.Summary // an image of the same source, which makes the build unnecessary
	shell  bool           // the image has one
}

// frontend builds the Dockerfile, unless there is an image of the same source.
func (s *solve) frontend(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
	if caps := c.BuildOpts().LLBCaps; s.group.parent != "" && caps.Supports(pb.CapExecMetaCgroupParent) != nil {
		s.unlimited(ctx, errors.New("the engine cannot run builds in "+Slice+": use Docker 23 or later, or \"exec-opts\": [\"native.cgroupdriver=cgroupfs\"] in /etc/docker/daemon.json"))
	}
	caps := engineCaps{c.BuildOpts().LLBCaps}
	if s.failed = s.df.checkFlags(caps); s.failed != nil {
		return nil, s.failed
	}
	c, err := s.known(ctx, guarded{c, s.job})
	if err != nil {
		return nil, err
	}
	s.lines = newLineRecorder(c)
	var r *gateway.Result
	r, s.failed = frontend.Build(ctx, marked{Client: s.lines, job: s.job, caps: caps, moved: s.movedSince(ctx, s.ignore)})
	if s.failed == nil {
		s.failed = strip(r, s.Settings.User)
	}
	if s.failed != nil {
		return nil, s.failed
	}
	if ref, err := r.SingleRef(); err == nil && ref != nil {
		s.shell = hasShell(func(p string) (fs.FileMode, string, error) {
			st, err := ref.StatFile(ctx, gateway.StatRequest{Path: p})
			if err != nil {
				return 0, "", err
			}
			return fs.FileMode(st.Mode), st.Linkname, nil
		})
	}
	return r, nil
}

// known looks at the base images: it gives their ONBUILD triggers what they ask for,
// and fails with errReused if there is an image of the same source. Without knowledge of
// the base images, c is returned unchanged.
func (s *solve) known(ctx context.Context, c gateway.Client) (gateway.Client, error) {
	bases, known := s.resolve(ctx, c, s.attrs["image-resolve-mode"])
	if !known {
		return c, nil
	}
	onbuild, more := triggers(bases), map[string]string{}
	for name, value := range onbuild.pick(s.Config, s.Commit, s.Settings.BuildArgs) {
		s.args[name], more["build-arg:"+name] = value, value
	}
	source, old, err := s.reuse(ctx, bases, onbuild)
	if err != nil {
		return nil, err
	}
	if old != nil {
		s.same, s.failed = old, errReused
		return nil, s.failed
	}
	more["label:"+labelSource], more["label:"+labelSeal] = source, s.sealOf(string(s.Stack), source)
	return with{c, more}, nil
}

// awaitKilled returns when no step of the build is running. BuildKit gives up a
// cancelled build at once and kills its steps 10 to 250 ms later; until then it
// lists a step's file system as in use, with its command.
func (j *job) awaitKilled(ctx context.Context, bk *bkclient.Client, r *renderer, lines *lineRecorder) {
	waiting := lines.commands(r)
	if len(waiting) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := bk.DiskUsage(ctx)
		if err != nil {
			j.log.WarnContext(ctx, "cannot check that a cancelled step has ended", "stack", j.Stack, "err", err)
			return
		}
		if !slices.ContainsFunc(list, func(u *bkclient.UsageInfo) bool {
			return u.InUse && slices.ContainsFunc(waiting, func(c string) bool { return strings.HasSuffix(u.Description, " from exec "+c) })
		}) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// strip removes the parts of the image's config that mesh ignores, and sets the user
// if one is given. An image without VOLUMEs makes no anonymous volumes for anyone.
func strip(r *gateway.Result, user string) error {
	for k, v := range r.Metadata {
		if k != exptypes.ExporterImageConfigKey && !strings.HasPrefix(k, exptypes.ExporterImageConfigKey+"/") {
			continue
		}
		var img, cfg map[string]json.RawMessage
		if err := json.Unmarshal(v, &img); err != nil {
			return fmt.Errorf("read the image config: %w", err)
		}
		if img["config"] == nil {
			continue
		}
		if err := json.Unmarshal(img["config"], &cfg); err != nil {
			return fmt.Errorf("read the image config: %w", err)
		}
		for _, unwanted := range []string{"Volumes", "ExposedPorts", "Healthcheck"} {
			delete(cfg, unwanted)
		}
		var err1, err2 error
		if user != "" {
			cfg["User"], _ = json.Marshal(user) // a string
		}
		img["config"], err1 = json.Marshal(cfg)
		r.Metadata[k], err2 = json.Marshal(img)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("write the image config: %w", err)
		}
	}
	return nil
}

// hasShell reports whether a file system has an executable /bin/sh; stat does not
// follow links.
func hasShell(stat func(p string) (fs.FileMode, string, error)) bool {
	p := "/bin/sh"
	for range 8 {
		mode, link, err := stat(p)
		switch {
		case err != nil:
			return false
		case mode&fs.ModeSymlink == 0:
			return mode.IsRegular() && mode&0o111 != 0
		case path.IsAbs(link):
			p = path.Clean(link)
		default:
			p = path.Join(path.Dir(p), link)
		}
	}
	return false
}

// lineRecorder notes what each step executes, and the line of the Dockerfile that it
// comes from, which old engines do not report.
type lineRecorder struct {
	gateway.Client
	mu    sync.Mutex
	at    map[digest.Digest]int
	execs map[digest.Digest]string // command, its words joined
}

func newLineRecorder(c gateway.Client) *lineRecorder {
	return &lineRecorder{Client: c, at: map[digest.Digest]int{}, execs: map[digest.Digest]string{}}
}

func (r *lineRecorder) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if req.Definition != nil {
		r.record(req.Definition)
	}
	return r.Client.Solve(ctx, req)
}

func (r *lineRecorder) record(def *pb.Definition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for d, locations := range def.GetSource().GetLocations() {
		for _, l := range locations.Locations {
			if len(l.Ranges) > 0 && l.Ranges[0].Start != nil && r.at[digest.Digest(d)] == 0 {
				r.at[digest.Digest(d)] = int(l.Ranges[0].Start.Line)
			}
		}
	}
	for _, b := range def.Def {
		var op pb.Op
		if op.UnmarshalVT(b) == nil && op.GetExec().GetMeta() != nil {
			r.execs[digest.FromBytes(b)] = strings.Join(op.GetExec().Meta.Args, " ")
		}
	}
}

// line returns 0 if the line is unknown.
func (r *lineRecorder) line(d digest.Digest) int {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at[d]
}

// commands returns those of the steps that have begun and were not seen to succeed.
func (r *lineRecorder) commands(render *renderer) (list []string) {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range render.order {
		if c := r.execs[s.digest]; c != "" && !s.started.IsZero() && (!s.done || s.err != "") {
			list = append(list, c)
		}
	}
	return list
}
