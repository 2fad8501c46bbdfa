// Package builder turns a source tree with a Dockerfile into an image in the
// Docker Engine.
//
// It talks to the BuildKit inside the engine and runs the Dockerfile frontend in its
// own process. An engine from 2020 can therefore build a current Dockerfile, and "#
// syntax=docker/dockerfile:1" needs no registry. BuildKit fetches the tree file by
// file, only what has changed; nothing is checked out on disk. An engine without
// BuildKit gets a tar for its classic builder.
//
// Others decide which tree to build, what to call the image, and what to do with it.
// For a tree without a Dockerfile, package detect generates one.
//
//	b := builder.New(cli, builder.Options{Server: id})
//	img, err := b.Build(ctx, mesh.Build{Stack: "blog", Tree: tree, Tags: []string{"mesh/blog:1a2b3c4"}}, w)
package builder

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/semaphore"

	"mesh"
	"mesh/builder/detect"
	"mesh/engine"
)

// labelServer marks the images of this server among those of other servers on the
// same engine; labelStack names the stack of an image.
const (
	labelServer = "mesh.server"
	labelStack  = "mesh.stack"
)

// Options are what New needs besides the client.
type Options struct {
	// Server is put on every image as a label, and Collect removes no other images.
	// It must not be empty, and must not change over the life of the data.
	Server string
	// Slots is the number of builds that run at once; more wait. 0: DefaultSlots.
	Slots int
	// Timeout limits a build, without the time that it waits for a slot. 0:
	// DefaultTimeout.
	Timeout time.Duration
	// Memory limits the bytes, and Processes the processes, of all builds together,
	// if the engine is on this machine and its control groups are limited already or
	// can be: see Confine. 0: no limit, and 4096.
	Memory, Processes int64
	// MinFree is the number of bytes that must be free on the engine's disk for a
	// build. 0: DefaultMinFree.
	MinFree int64
	// MaxContext limits the bytes of all files that a build may copy, after
	// .dockerignore. 0: DefaultMaxContext.
	MaxContext int64
	// MaxCache limits the bytes of the build cache. 0: a tenth of the engine's disk,
	// at least 2 GB.
	MaxCache int64
	// Egress decides where the engine may fetch from for a build; nil: from
	// anywhere.
	Egress Egress
	// Credentials returns logins for registries; nil: there are none.
	Credentials Credentials
	// Key is a secret of this server that stays the same over the life of the data.
	// It seals images as made here, and hashes values of config vars. Nil: a key
	// that lasts as long as the process.
	Key []byte
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Logger gets details that people are not shown; nil: slog.Default().
	Logger *slog.Logger
}

// Builder builds images in a Docker Engine. It may be used from several
// goroutines.
type Builder struct {
	cli    *engine.Client
	server string
	slots  *semaphore.Weighted
	log    *slog.Logger

	timeout           time.Duration
	memory, pids      int64
	minFree, maxCache int64
	maxContext        int64
	key               []byte
	now               func() time.Time
	warned            sync.Once // that builds are not limited
	credentials       Credentials
	egress            Egress                 // nil: anything may be fetched
	group             atomic.Pointer[cgroup] // that limits builds; nil: not known yet
}

// New returns a Builder. It does not talk to the engine.
func New(cli *engine.Client, o Options) *Builder {
	if o.Slots <= 0 {
		o.Slots = DefaultSlots
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if len(o.Key) == 0 {
		o.Key = []byte(rand.Text())
	}
	if o.Credentials == nil {
		o.Credentials = func(context.Context, string) (mesh.Registry, error) { return mesh.Registry{}, nil }
	}
	return &Builder{
		credentials: o.Credentials, egress: o.Egress,
		cli: cli, server: o.Server, slots: semaphore.NewWeighted(int64(o.Slots)), log: o.Logger,
		timeout: cmp.Or(o.Timeout, DefaultTimeout), memory: o.Memory, pids: cmp.Or(o.Processes, 4096),
		minFree: cmp.Or(o.MinFree, DefaultMinFree), maxCache: o.MaxCache,
		maxContext: cmp.Or(o.MaxContext, DefaultMaxContext),
		key:        o.Key, now: o.Now,
	}
}

// job is one call of Build.
type job struct {
	*Builder
	mesh.Build
	files *files
	df    *dockerfile
	args  map[string]string // build args
	group cgroup            // of the steps
	times *mesh.FileTimes   // of the tree in this build; nil: none are set
	past  mesh.FileTimes    // before this build; zero: not known
	out   *printer
}

// Build runs until the image is ready or has failed. It writes the output of the
// steps to w in whole lines, each as it arrives, indented as docs/output.md
// shows.
// If all build slots are taken, it says so and waits.
//
// A config var reaches the build as an ARG if the Dockerfile declares it, and always
// as a BuildKit secret of the same name. VOLUME, EXPOSE and HEALTHCHECK are removed
// from the image. Values of config vars are masked in the output, except plain words
// ("production") and short values whose names do not suggest a secret: masking them
// would make the output unreadable, and a program that prints them means to.
//
// With From there is no tree: the image is pulled or loaded, and gets mesh's labels
// and names. The engine's own names do not change.
//
// A build that fails because of the tree returns a *mesh.Error of kind Failed or
// Invalid, with one line of text and the last lines of the failing step. If the
// engine is down or its disk full, the kind is Unavailable; if ctx has ended,
// Cancelled, and the step has been killed. A failed write to w does not end the
// build.
func (b *Builder) Build(ctx context.Context, req mesh.Build, w io.Writer) (mesh.Image, error) {
	j := &job{Builder: b, Build: req, out: newPrinter(w, req.Config)}
	img, err := j.run(ctx)
	if err != nil {
		return mesh.Image{}, j.mask(b.fault(ctx, "build "+string(req.Stack), err))
	}
	return img, nil
}

func (j *job) run(ctx context.Context) (mesh.Image, error) {
	digest := ""
	if j.From.Ref != "" {
		var done func()
		var err error
		if digest, done, err = j.prebuilt(ctx); err != nil {
			return mesh.Image{}, err
		}
		defer done()
	}
	if err := j.prepare(); err != nil {
		return mesh.Image{}, err
	}
	if err := j.checkContext(ctx); err != nil {
		return mesh.Image{}, err
	}
	j.args = j.df.pick(j.Config, j.Commit, j.Settings.BuildArgs)
	given := maps.Clone(j.args)
	maps.DeleteFunc(given, func(name, _ string) bool { _, ok := j.Config[name]; return !ok })
	j.out.declare(given)
	if !j.slots.TryAcquire(1) {
		j.out.detail("waiting for a build slot")
		if err := j.slots.Acquire(ctx, 1); err != nil {
			return mesh.Image{}, err
		}
	}
	defer j.slots.Release(1)
	j.warn()
	if mesh.IsTrue(j.Settings.ShowCommand) {
		j.out.detail(j.command())
	}

	var stop context.CancelFunc
	ctx, stop = context.WithTimeoutCause(ctx, j.timeout, errTimeout)
	defer stop()
	j.group = j.limit(ctx)
	if err := j.give(ctx); err != nil {
		return mesh.Image{}, err
	}
	bk, err := j.dial(ctx)
	if err != nil {
		return mesh.Image{}, err
	}
	var img mesh.Image
	if bk == nil && j.df.managed {
		return mesh.Image{}, mesh.Errorf(mesh.Unavailable, "this engine has no BuildKit; a build without a Dockerfile needs it").WithHint("add a Dockerfile to the repository")
	} else if bk == nil {
		j.out.warn("this engine has no BuildKit: RUN --mount, heredocs and secrets do not work")
		img, err = j.classic(ctx)
	} else {
		img, err = j.buildkit(ctx, bk)
		_ = bk.Close()
	}
	if !img.Work.Reused {
		j.ran(ctx)
	}
	if err != nil {
		return mesh.Image{}, err
	}
	in, err := j.cli.API(ctx).ImageInspect(ctx, img.ID)
	if err != nil {
		return mesh.Image{}, fmt.Errorf("inspect the image: %w", err)
	}
	img.Size, img.Digest = in.Size, digest
	if in.Config != nil {
		img.Entrypoint, img.Cmd = in.Config.Entrypoint, in.Config.Cmd
	}
	if len(j.Tags) > 0 {
		img.Ref = j.Tags[0]
	}
	return img, nil
}

// command is the docker command line that builds the same.
func (j *job) command() string {
	words := []string{"docker build"}
	if j.df.path != mesh.DefaultDockerfile {
		words = append(words, "--file "+j.df.path)
	}
	if j.Settings.Target != "" {
		words = append(words, "--target "+j.Settings.Target)
	}
	if mesh.IsTrue(j.Settings.Pull) {
		words = append(words, "--pull")
	}
	for _, name := range slices.Sorted(maps.Keys(j.args)) {
		words = append(words, "--build-arg "+name)
	}
	for _, m := range secretMount.FindAllStringSubmatch(string(j.df.text), -1) {
		if m[1] == detect.AllConfig {
			continue // not needed
		}
		if w := fmt.Sprintf("--secret id=%s,env=%s", m[1], m[1]); !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	return strings.Join(append(words, cmp.Or(j.files.inside, ".")), " ")
}

var secretMount = regexp.MustCompile(`--mount=type=secret,(?:[^\s]*,)?id=([A-Za-z0-9_.-]+)`)

// labels of the image.
func (j *job) labels() map[string]string {
	l := maps.Clone(j.Labels)
	if l == nil {
		l = map[string]string{}
	}
	l[labelServer], l[labelStack] = j.server, string(j.Stack)
	l[labelSource], l[labelSeal] = "", j.sealOf(string(j.Stack), "") // over those of a base image
	return l
}

// warn prints warnings about the tree and the Dockerfile.
func (j *job) warn() {
	for _, e := range j.files.entries {
		if e.Module != "" {
			j.out.warn(fmt.Sprintf("submodule %s was not fetched", e.Path))
		}
	}
	if n, names := j.files.lfsPointers(); n > 0 {
		if n > len(names) {
			names = append(names, "…")
		}
		j.out.warn(fmt.Sprintf("%d files are Git LFS pointers without their content: %s", n, strings.Join(names, ", ")))
	}
	for _, a := range j.Settings.BuildArgs {
		if name, _, _ := strings.Cut(a, "="); !slices.Contains(j.df.args, name) {
			j.out.warn(fmt.Sprintf("build-args: %s has no ARG %s", j.df.shown, name))
		}
	}
	for _, name := range j.df.args {
		if _, given := j.args[name]; given && mesh.NameTells(name) {
			j.out.warn(fmt.Sprintf("ARG %s: anyone can read its value from the image; use RUN --mount=type=secret,id=%s", name, name))
		}
	}
}

// Tag adds a name to the image with this ID.
func (b *Builder) Tag(ctx context.Context, imageID, ref string) error {
	err := b.cli.API(ctx).ImageTag(ctx, imageID, ref)
	if errdefs.IsNotFound(err) {
		return &mesh.Error{Kind: mesh.NotFound, Text: "the image " + imageID + " is missing from the engine", Hint: "push again", Err: err}
	}
	return b.fault(ctx, "tag "+ref, err)
}

// Present reports whether the image is still in the engine.
func (b *Builder) Present(ctx context.Context, imageID string) (bool, error) {
	_, err := b.cli.API(ctx).ImageInspect(ctx, imageID)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, b.fault(ctx, "inspect "+imageID, err)
}

// fault is engine.Fault; a build that took too long says so itself.
func (b *Builder) fault(ctx context.Context, doing string, err error) error {
	if errors.Is(err, errTimeout) {
		return err
	}
	return engine.Fault(ctx, b.cli.Host(), doing, err)
}
