// Command benchbuilder measures managed builds beside hand-written Dockerfiles: the size
// of the image, the time of a first build without any cache of layers, and that of a
// build after one edit. It prints ratios, whose goal is at most 1.1.
//
//	make bench-builder                  # every example
//	make bench-builder ARGS='-only node -rounds 5'
//
// Both are built by the same engine from the same base images, in turns, with cache
// mounts that keep what was downloaded. The plans of railpack and nixpacks are not among
// them: they install with mise and nix, which need hosts that not every machine reaches.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// app is an example, and the file of it that an edit changes.
type app struct{ name, edit string }

var apps = []app{
	{"static", "public/index.html"},
	{"node", "index.js"},
	{"python", "app.py"},
	{"ruby", "app.rb"},
	{"php", "public/index.php"},
	{"go", "main.go"},
	{"deno", "main.ts"},
	{"rust", "src/main.rs"},
	{"java", "src/main/java/hello/Main.java"},
}

func main() {
	only := flag.String("only", "", "only the examples whose name contains this")
	rounds := flag.Int("rounds", 3, "how often each is built")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Println("| example | size MB, by hand | mesh | ratio | first build s, by hand | mesh | ratio | after an edit s, by hand | mesh | ratio |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	for _, a := range apps {
		if !strings.Contains(a.name, *only) {
			continue
		}
		if err := measure(ctx, a, *rounds); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", a.name, err)
			os.Exit(1)
		}
	}
}

// side is one way to build.
type side struct {
	image       string
	build       func(ctx context.Context, dir string, fresh bool) error
	size        float64
	first, next []time.Duration
}

func measure(ctx context.Context, a app, rounds int) error {
	dir, err := os.MkdirTemp("", "mesh-bench-builder-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("examples", a.name))); err != nil {
		return err
	}
	own, err := filepath.Abs(filepath.Join("tools/benchbuilder/dockerfiles", a.name+".Dockerfile"))
	if err != nil {
		return err
	}
	hand := &side{image: "mesh-bench/hand-" + a.name, build: func(ctx context.Context, dir string, fresh bool) error {
		return run(ctx, words(docker()+" build -q -t mesh-bench/hand-"+a.name, fresh, "-f", own, dir)...)
	}}
	ours := &side{image: "mesh-bench/mesh-" + a.name, build: func(ctx context.Context, dir string, fresh bool) error {
		return run(ctx, words("bin/mesh build -t mesh-bench/mesh-"+a.name, fresh, dir)...)
	}}
	sides := []*side{hand, ours}
	defer func() {
		for _, s := range sides {
			_ = run(context.WithoutCancel(ctx), docker(), "image", "rm", "-f", s.image)
		}
	}()
	for _, s := range sides { // fills the cache mounts
		if err := s.build(ctx, dir, true); err != nil {
			return err
		}
	}
	for i := range rounds {
		if i%2 == 1 {
			slices.Reverse(sides)
		}
		for _, s := range sides {
			if err := s.measure(ctx, dir, filepath.Join(dir, a.edit)); err != nil {
				return err
			}
		}
	}
	for _, s := range sides {
		out, err := exec.CommandContext(ctx, docker(), "image", "inspect", "-f", "{{.Size}}", s.image).Output()
		if err != nil {
			return err
		}
		bytes, _ := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		s.size = bytes / 1e6
	}
	fmt.Printf("| %s %s %s %s |\n", a.name, row(hand.size, ours.size), row(median(hand.first), median(ours.first)), row(median(hand.next), median(ours.next)))
	return nil
}

// measure times a build without cached layers, and one after an edit.
func (s *side) measure(ctx context.Context, dir, edited string) error {
	began := time.Now()
	if err := s.build(ctx, dir, true); err != nil {
		return err
	}
	s.first = append(s.first, time.Since(began))
	f, err := os.OpenFile(edited, os.O_APPEND|os.O_WRONLY, fs.FileMode(0o644))
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(f, blanks(time.Now().UnixNano()))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	began = time.Now()
	if err := s.build(ctx, dir, false); err != nil {
		return err
	}
	s.next = append(s.next, time.Since(began))
	return nil
}

// blanks writes a number as blank lines of different lengths: an edit that no language
// minds, and that no cache has seen.
func blanks(n int64) string {
	return strings.NewReplacer("0", "\n", "1", " \n").Replace(strconv.FormatInt(n, 2))
}

func words(command string, fresh bool, more ...string) []string {
	out := strings.Fields(command)
	if fresh {
		out = append(out, "--no-cache")
	}
	return append(out, more...)
}

func run(ctx context.Context, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // from this file
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out.String())
	}
	return nil
}

// docker is the client that came with the engine: another one may lack the plugin that
// builds.
func docker() string {
	if _, err := os.Stat("/usr/bin/docker"); err == nil {
		return "/usr/bin/docker"
	}
	return "docker"
}

func median(d []time.Duration) float64 {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2].Seconds()
}

func row(hand, ours float64) string {
	return fmt.Sprintf("| %.1f | %.1f | %.2f", hand, ours, ours/hand)
}
