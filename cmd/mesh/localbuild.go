package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/spf13/pflag"

	"mesh"
	"mesh/builder"
	"mesh/command"
	"mesh/deploy/manifest"
	"mesh/engine"
)

// localBuild is "mesh build DIR" or "mesh build:dockerfile DIR": the client looks at a
// folder itself, or builds it with this machine's Docker Engine, as a server would. It
// needs no server, and no network.
type localBuild struct {
	show    bool // print the Dockerfile; do not build
	dir     string
	explain bool
	noCache bool
	tag     string
	env     []string // NAME=VALUE
	envFile string
	set     []string // NAME=VALUE of build settings
}

// localBuildOf reports whether words ask for that. known: there is a server that may be
// asked instead. It runs git, so only a build asks.
func localBuildOf(words []string, known func() bool) (b localBuild, ok bool, err error) {
	if len(afterStack(words)) != len(words) {
		return b, false, nil // of a stack, on its server
	}
	rest, show := behind(words, "build", "dockerfile")
	if !show {
		if len(words) == 0 || words[0] != "build" {
			return b, false, nil
		}
		rest = words[1:]
	}
	if slices.ContainsFunc(rest, func(w string) bool { return w == "--help" || w == "-h" || w == "--json" || stackOptionIn(w) }) {
		return b, false, nil
	}
	fl := pflag.NewFlagSet("build", pflag.ContinueOnError)
	fl.SetOutput(io.Discard)
	fl.BoolVar(&b.explain, "explain", false, "")
	fl.BoolVar(&b.noCache, "no-cache", false, "")
	fl.StringVarP(&b.tag, "tag", "t", "", "")
	fl.StringArrayVarP(&b.env, "env", "e", nil, "")
	fl.StringVar(&b.envFile, "env-file", "", "")
	fl.StringArrayVar(&b.set, "set", nil, "")
	b.show = show
	flags := fl.Parse(rest)
	args := fl.Args()
	local := b.explain || fl.NFlag() > 0
	if len(args) > 0 && (strings.ContainsAny(args[0], "/.") || isFolder(args[0]) && !slices.Contains(buildVerbs, args[0])) {
		local = true
	}
	switch {
	case len(args) > 0 && slices.Contains(buildVerbs, args[0]), !local && known():
		return b, false, nil
	case flags != nil:
		return b, true, mesh.Errorf(mesh.Invalid, "%w", flags).WithHint("see: mesh help build")
	case len(args) > 1:
		return b, true, mesh.Errorf(mesh.Invalid, "build takes one folder, not %d", len(args)).WithHint("see: mesh help build")
	}
	b.dir = "."
	if len(args) == 1 {
		b.dir = args[0]
	}
	if !isFolder(b.dir) {
		return b, true, mesh.Errorf(mesh.NotFound, "%s is not a folder", b.dir)
	}
	return b, true, nil
}

// buildVerbs follow "build " on a server.
var buildVerbs = []string{"set", "unset", "dockerfile", "cache"}

func stackOptionIn(w string) bool { _, n := command.StackOption([]string{w, "x"}); return n > 0 }

func isFolder(name string) bool { i, err := os.Stat(name); return err == nil && i.IsDir() }

// serverKnown reports whether commands have a server to go to.
func (o clientFlags) serverKnown() bool {
	if _, named, _ := o.server(); named || o.local {
		return true
	}
	_, err := os.Stat(filepath.Join(o.data, "mesh.sock"))
	return err == nil
}

// run builds the folder, or prints its Dockerfile.
func (b localBuild) run(stdout, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	build, err := b.read(ctx)
	if err != nil {
		return err
	}
	docker, err := engine.New(os.Getenv("DOCKER_HOST"), 0)
	if err != nil {
		return err
	}
	home := builder.New(docker, builder.Options{Server: "local", Logger: slog.New(slog.DiscardHandler)})
	if b.explain {
		if err := home.Explain(build.Tree, build.Settings, stderr); err != nil {
			return err
		}
	}
	if b.show {
		text, _, err := home.Dockerfile(build.Tree, build.Settings)
		if err != nil {
			return err
		}
		_, err = io.WriteString(stdout, text)
		return err
	}
	img, err := home.Build(ctx, build, stderr)
	if err != nil {
		var e *mesh.Error
		if errors.As(err, &e) && len(e.Output) > 0 {
			_, _ = fmt.Fprintln(stderr, "The last lines of its output:")
			for _, l := range e.Output {
				_, _ = fmt.Fprintln(stderr, "  "+l)
			}
		}
		return err
	}
	_, _ = fmt.Fprintf(stderr, "built %s (%d MB); run it with: docker run --rm -p 8080:8080 %s\n", img.Ref, img.Size/1e6, img.Ref)
	_, err = fmt.Fprintln(stdout, img.Ref)
	return err
}

// read finds the files and the settings of the folder, as a push of them would have
// them.
func (b localBuild) read(ctx context.Context) (build mesh.Build, err error) {
	dir, err := filepath.Abs(b.dir)
	if err != nil {
		return build, err
	}
	src, err := openSource(ctx, dir, mesh.DefaultDockerfile)
	if err != nil {
		return build, err
	}
	tree, err := src.tree()
	if err != nil {
		return build, err
	}
	for _, s := range b.set {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return build, mesh.Errorf(mesh.Invalid, "--set %q is not NAME=VALUE", mesh.Clip(s, 60))
		}
		if err := build.Settings.Set(name, value); err != nil {
			return build, err
		}
	}
	m, err := manifest.OfTree(tree, build.Settings.Root)
	if err != nil {
		return build, err
	}
	build.Settings = build.Settings.Over(m.Settings)
	if build.Config, err = b.config(); err != nil {
		return build, err
	}
	name, err := mesh.ParseStackName(strings.ToLower(filepath.Base(dir)))
	if err != nil {
		name = "app"
	}
	build.Stack, build.Tree, build.NoCache = name, tree, b.noCache
	build.Tags = []string{"mesh-local/" + string(name) + ":latest"}
	if b.tag != "" {
		build.Tags = []string{b.tag}
	}
	if head, err := git(ctx, dir, "rev-parse", "HEAD"); err == nil {
		build.Commit = mesh.Commit(strings.TrimSpace(head))
	}
	return build, nil
}

// config are the config vars of --env-file, and over them those of --env.
func (b localBuild) config() (mesh.Config, error) {
	c := mesh.Config{}
	if b.envFile != "" {
		data, err := os.ReadFile(b.envFile)
		if err != nil {
			return nil, mesh.Errorf(mesh.Invalid, "--env-file: %w", err)
		}
		if c, err = command.ReadConfig(string(data)); err != nil {
			return nil, err
		}
	}
	for _, l := range b.env {
		name, value, ok := strings.Cut(l, "=")
		if !ok {
			value, ok = os.LookupEnv(name) // as docker run -e NAME
		}
		if !ok {
			return nil, mesh.Errorf(mesh.Invalid, "--env %q is not NAME=VALUE, and no variable has that name here", mesh.Clip(l, 60))
		}
		if _, err := mesh.ParseVarName(name); err != nil {
			return nil, err
		}
		c[name] = mesh.NewSecret(value)
	}
	return c, nil
}

// folderTree is a folder as a Tree. Contents have git's object ids, so that a build of
// the pushed commit meets the same cache.
type folderTree struct {
	dir     string
	entries []mesh.TreeEntry
}

// tree reads the files of a working directory once.
func (s *source) tree() (*folderTree, error) {
	t := &folderTree{dir: s.dir}
	folders := map[string]bool{}
	for _, f := range s.files {
		for d := path.Dir(f.name); d != "." && !folders[d]; d = path.Dir(d) {
			folders[d] = true
			t.entries = append(t.entries, mesh.TreeEntry{Path: d, Mode: fs.ModeDir | 0o755})
		}
		e := mesh.TreeEntry{Path: f.name, Mode: 0o644, Size: f.info.Size(), Link: f.link}
		switch {
		case f.link != "":
			e.Mode, e.Size, e.ID = fs.ModeSymlink|0o777, 0, plumbing.ComputeHash(plumbing.BlobObject, []byte(f.link)).String()
		default:
			if f.info.Mode()&0o111 != 0 {
				e.Mode = 0o755
			}
			data, err := os.ReadFile(filepath.Join(s.dir, filepath.FromSlash(f.name)))
			if err != nil {
				return nil, err
			}
			e.Size, e.ID = int64(len(data)), plumbing.ComputeHash(plumbing.BlobObject, data).String()
		}
		t.entries = append(t.entries, e)
	}
	slices.SortFunc(t.entries, func(a, b mesh.TreeEntry) int {
		return strings.Compare(strings.ReplaceAll(a.Path, "/", "\x00"), strings.ReplaceAll(b.Path, "/", "\x00"))
	})
	return t, nil
}

// Entries lists all paths, depth first.
func (t *folderTree) Entries() []mesh.TreeEntry { return t.entries }

// Open reads a file.
func (t *folderTree) Open(e mesh.TreeEntry) (io.ReadCloser, error) {
	return os.Open(filepath.Join(t.dir, filepath.FromSlash(e.Path)))
}
