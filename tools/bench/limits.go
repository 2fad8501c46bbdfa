package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// limits pushes a tree at each of the limits of docs/operating.md, and some far beyond,
// and reads the server's peak memory meanwhile.
func (b *bench) limits() (err error) {
	dir := filepath.Join(b.work, "limits")
	for _, a := range [][]string{{"init", "-q", "-b", "main", dir}, {"-C", dir, "remote", "add", "mesh", "mesh:limits"}} {
		if _, err := b.cmd(b.work, "git", a...); err != nil {
			return err
		}
	}
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(b.root, "examples", "hello"))); err != nil {
		return err
	}
	if _, err := b.cmd(dir, "git", "add", "-A"); err != nil {
		return err
	}
	base, err := b.cmd(dir, "git", "write-tree")
	if err != nil {
		return err
	}
	l := &limits{bench: b, dir: dir, base: base}
	blob, err := l.object("x")
	if err != nil {
		return err
	}
	link, err := l.object(strings.Repeat("l", 4096))
	if err != nil {
		return err
	}
	file := func(n int, prefix string) string { return l.mktree(n, "100644", "blob", blob, prefix) }
	folders := func(n int, tree string) string { return l.mktree(n, "040000", "tree", tree, "d") }
	doubling := file(1000, "f")
	for range 40 {
		doubling = folders(2, doubling)
	}
	deep := file(1, strings.Repeat("f", 200))
	for range 98 {
		deep = l.mktree(1, "040000", "tree", deep, strings.Repeat("d", 32))
	}
	defer func() { _, _ = b.ssh("stacks:destroy", "-a", "limits", "--confirm", "limits") }()
	for _, c := range []struct{ name, tree string }{
		{"the example alone", ""},
		{"249,000 files", folders(248, file(1000, "f"))},
		{"31 MB of names", folders(130, file(1000, strings.Repeat("n", 230)))},
		{"31 MB of links", folders(79, l.mktree(100, "120000", "blob", link, "l"))},
		{"100 folders deep", deep},
		{"beyond: 2^40 times 1,000 files", doubling},
		{"beyond: 150,000 links of 65 kB", folders(1500, l.mktree(100, "120000", "blob", l.must(strings.Repeat("l", 65_000)), "l"))},
	} {
		if l.err != nil {
			return l.err
		}
		if err := l.push(c.name, c.tree, "small"); err != nil {
			return err
		}
	}
	if err := l.push("a commit of 1 MB", "", strings.Repeat("m", 1<<20-1000)); err != nil {
		return err
	}
	return l.upload()
}

type limits struct {
	*bench
	dir, base string
	err       error // the first of object and mktree
}

func (l *limits) stdin(text string, args ...string) string {
	c := exec.Command("git", args...)
	c.Dir, c.Env, c.Stdin = l.dir, l.env, strings.NewReader(text)
	out, err := c.Output()
	if err != nil && l.err == nil {
		l.err = fmt.Errorf("git %v: %w", args, err)
	}
	return strings.TrimSpace(string(out))
}

func (l *limits) must(text string) string { return l.stdin(text, "hash-object", "-w", "--stdin") }

func (l *limits) object(text string) (string, error) { return l.must(text), l.err }

func (l *limits) mktree(n int, mode, kind, id, prefix string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s %s %s\t%s%06d\n", mode, kind, id, prefix, i)
	}
	return l.stdin(b.String(), "mktree")
}

// push pushes the example with a tree beside it.
func (l *limits) push(name, tree, message string) error {
	list, err := l.cmd(l.dir, "git", "ls-tree", l.base)
	if err != nil {
		return err
	}
	if tree != "" {
		list += "\n040000 tree " + tree + "\tzz"
	}
	commit := l.stdin(message, "commit-tree", "-F", "-", l.stdin(list+"\n", "mktree"))
	if l.err != nil {
		return l.err
	}
	return l.measured(name, func() error {
		c := exec.Command("git", "push", "-q", "-f", "mesh", commit+":refs/heads/main")
		c.Dir, c.Env = l.dir, l.env
		out, err := c.CombinedOutput()
		if err != nil && !strings.HasPrefix(name, "beyond") {
			return fmt.Errorf("%s: %w\n%s", name, err, out)
		}
		if err == nil && strings.HasPrefix(name, "beyond") {
			return fmt.Errorf("%s was taken", name)
		}
		return nil
	})
}

// upload sends 240,000 files as a tar.
func (l *limits) upload() error {
	path := filepath.Join(l.work, "limits.tar")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(l.dir, e.Name()))
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: e.Name(), Mode: int64(info.Mode().Perm()), Size: int64(len(data))}); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	for i := range 240_000 {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("zz/%03d/f%06d", i/1000, i), Mode: 0o644}); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return l.measured("an upload of 240,000 files", func() error {
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		c := exec.Command(filepath.Join(l.work, "ssh"), "mesh", "deploy", "-a", "limits")
		var out bytes.Buffer
		c.Dir, c.Env, c.Stdin, c.Stdout, c.Stderr = l.work, l.env, in, &out, &out
		if err := c.Run(); err != nil {
			return fmt.Errorf("upload: %w\n%s", err, out.String())
		}
		return nil
	})
}

// measured prints how long do takes, and the server's peak memory meanwhile.
func (l *limits) measured(name string, do func() error) error {
	proc := fmt.Sprintf("/proc/%d/", l.server.Process.Pid)
	if err := os.WriteFile(proc+"clear_refs", []byte("5"), 0); err != nil { // resets VmHWM (proc(5))
		return err
	}
	began := time.Now()
	if err := do(); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	text, err := os.ReadFile(proc + "status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(kb), " kB"))
			fmt.Printf("%-32s %6.1f s   at most %4.0f MB resident   goal: under 300 MB\n", name, took, float64(n)/1000)
		}
	}
	return nil
}
