package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/docker/go-units"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/schollz/progressbar/v3"

	"mesh"
)

// source is a working directory that "mesh deploy" sends.
type source struct {
	dir   string
	files []sourceFile // by name
	size  int64        // total bytes
	what  string       // describes it, for the record

	modules []string // folders with their own repositories, not sent
}

type sourceFile struct {
	name string // relative, with '/'
	info fs.FileInfo
	link string
}

// isDeploy reports whether words deploy the working directory, and with which
// Dockerfile. A prebuilt image has no local source.
func isDeploy(words []string) (dockerfile string, ok bool) {
	words = afterStack(words)
	if len(words) == 0 || words[0] != "deploy" {
		return "", false
	}
	for i, w := range words {
		name, value, joined := strings.Cut(w, "=")
		switch name {
		case "--image", "--load", "--help", "-h":
			return "", false
		case "--dockerfile":
			dockerfile = mesh.DefaultDockerfile
			if joined {
				dockerfile = value
			} else if i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
				dockerfile = words[i+1]
			}
		}
	}
	return dockerfile, true
}

// openSource finds the files of a working directory to send: those that "git add -A"
// would commit, or, outside a repository, those that no .gitignore excludes; of these,
// those that .dockerignore keeps.
func openSource(ctx context.Context, dir, dockerfile string) (*source, error) {
	s := &source{dir: dir}
	names, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	keep, err := dockerignore(dir, dockerfile, names)
	if err != nil {
		return nil, err
	}
	names = s.withoutEnv(ctx, names)
	for _, name := range names {
		info, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(name)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, but not committed yet
		}
		if err != nil {
			return nil, err
		}
		f := sourceFile{name: name, info: info}
		switch {
		case info.IsDir(): // a submodule, or another repository: git does not list its files
			s.modules = append(s.modules, strings.TrimSuffix(name, "/"))
			continue
		case !keep(name):
			continue
		case info.Mode()&fs.ModeSymlink != 0:
			if f.link, err = os.Readlink(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
				return nil, err
			}
		case !info.Mode().IsRegular():
			continue // a socket or a pipe in use here
		default:
			s.size += info.Size()
		}
		s.files = append(s.files, f)
	}
	if len(s.files) == 0 {
		return nil, mesh.Errorf(mesh.Invalid, "nothing to deploy in %s", dir).WithHint("change to the folder with your code; to deploy an image: mesh deploy --image REF")
	}
	s.what = describeCheckout(ctx, dir)
	return s, nil
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	out, err := cmd.Output()
	return string(out), err
}

// list returns the files that are not ignored.
func (s *source) list(ctx context.Context) ([]string, error) {
	if out, err := git(ctx, s.dir, "ls-files", "-z", "--cached", "--others", "--exclude-standard"); err == nil {
		var names []string
		for name := range strings.SplitSeq(out, "\x00") {
			if name != "" {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return slices.Compact(names), nil // a file in conflict is listed several times
	}
	patterns, err := gitignore.ReadPatterns(osfs.New(s.dir), nil)
	if err != nil {
		return nil, fmt.Errorf("read .gitignore: %w", err)
	}
	ignored := gitignore.NewMatcher(patterns)
	var names []string
	err = filepath.WalkDir(s.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.dir, p)
		if err != nil || rel == "." {
			return err
		}
		name := filepath.ToSlash(rel)
		if d.Name() == ".git" || ignored.Match(strings.Split(name, "/"), d.IsDir()) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.IsDir() {
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// withoutEnv drops .env files that are not committed, unless a Dockerfile or a
// .dockerignore decides what gets into the image: a developer's values are for this
// machine.
func (s *source) withoutEnv(ctx context.Context, names []string) []string {
	env := func(name string) bool {
		base := path.Base(name)
		return base == ".env" || strings.HasPrefix(base, ".env.") && base != ".env.example"
	}
	if !slices.ContainsFunc(names, env) || slices.ContainsFunc(names, func(n string) bool {
		return strings.Contains(strings.ToLower(path.Base(n)), "dockerfile") || strings.HasSuffix(n, ".dockerignore")
	}) {
		return names
	}
	out, _ := git(ctx, s.dir, "ls-files", "-z", "--cached") // none outside a repository
	committed := strings.Split(out, "\x00")
	return slices.DeleteFunc(names, func(n string) bool { return env(n) && !slices.Contains(committed, n) })
}

// meshFiles are files that mesh itself reads, whatever the build leaves out.
var meshFiles = []string{"Procfile", "app.json", "mesh.toml", "heroku.yml"}

// dockerignore returns a function that reports whether the build could use a file. With
// several ignore files only the server knows which one counts, so all files are sent.
func dockerignore(dir, dockerfile string, names []string) (keep func(string) bool, err error) {
	all := func(string) bool { return true }
	file := ".dockerignore"
	for _, n := range names {
		if strings.HasSuffix(n, ".dockerignore") && n != ".dockerignore" {
			if n != dockerfile+".dockerignore" {
				return all, nil
			}
			file = n
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	} else if err != nil {
		return nil, err
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, mesh.Errorf(mesh.Invalid, "%s cannot be read: %w", file, err)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, mesh.Errorf(mesh.Invalid, "%s has an invalid pattern: %w", file, err)
	}
	return func(name string) bool {
		base := path.Base(name)
		if slices.Contains(meshFiles, name) || name == dockerfile || strings.HasSuffix(base, ".dockerignore") || strings.Contains(strings.ToLower(base), "dockerfile") {
			return true
		}
		out, err := m.MatchesOrParentMatches(name)
		return err != nil || !out
	}, nil
}

// describeCheckout describes a working directory, for the record.
func describeCheckout(ctx context.Context, dir string) string {
	base := filepath.Base(dir)
	head, err := git(ctx, dir, "rev-parse", "--short=7", "HEAD")
	if err != nil {
		return base
	}
	what := base + " at " + strings.TrimSpace(head)
	if changed, err := git(ctx, dir, "status", "--porcelain"); err == nil && changed != "" {
		what += ", with changes"
	}
	return what
}

// send writes the files as a compressed tar, and writes to progress how many of their
// bytes are sent.
func (s *source) send(w io.Writer, progress io.Writer) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	for _, f := range s.files {
		h, err := tar.FileInfoHeader(f.info, f.link)
		if err != nil {
			return err
		}
		h.Name, h.Uname, h.Gname, h.Uid, h.Gid, h.Format = f.name, "", "", 0, 0, tar.FormatPAX
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if !f.info.Mode().IsRegular() {
			continue
		}
		if err := s.sendFile(t, f, h.Size, progress); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}

func (s *source) sendFile(w io.Writer, f sourceFile, size int64, progress io.Writer) error {
	r, err := os.Open(filepath.Join(s.dir, filepath.FromSlash(f.name)))
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(io.MultiWriter(w, progress), io.LimitReader(r, size))
	if err == nil && n < size {
		err = mesh.Errorf(mesh.Failed, "%s became shorter while it was read", f.name).WithHint("deploy again when nothing is writing to it")
	}
	return err
}

// bar shows the progress of an upload on a terminal. Elsewhere it prints what is sent.
func (s *source) bar(stderr io.Writer) io.Writer {
	for _, m := range s.modules {
		_, _ = fmt.Fprintf(stderr, "warning: %s is a separate repository and is not uploaded; with git push, mesh fetches submodules\n", m)
	}
	total := fmt.Sprintf("%d files, %s", len(s.files), units.HumanSize(float64(s.size)))
	if !isTerminal(stderr) {
		_, _ = fmt.Fprintf(stderr, "Uploading %s\n", total)
		return io.Discard
	}
	return progressbar.NewOptions64(max(s.size, 1),
		progressbar.OptionSetWriter(stderr), progressbar.OptionSetDescription("Uploading "+total),
		progressbar.OptionShowBytes(true), progressbar.OptionUseANSICodes(os.Getenv("NO_COLOR") == ""),
		progressbar.OptionSetWidth(20), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
	)
}

// pipe sends the source through a pipe and returns its reading end. The error of
// sending is available after the other side has ended.
func (s *source) pipe(stderr io.Writer) (r *os.File, sent <-chan error, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	done := make(chan error, 1)
	go func() {
		err := s.send(w, s.bar(stderr))
		if errors.Is(err, syscall.EPIPE) {
			err = nil // the server has reported why it stopped reading
		}
		done <- errors.Join(err, w.Close())
	}()
	return r, done, nil
}
