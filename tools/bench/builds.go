package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	treeFiles = 2000
	treeSize  = 50 << 20
	largeSize = 1 << 30
	atOnce    = 4
)

// tree creates a repository of random files with a total of size bytes.
func (b *bench) tree(name string, files, size int) (string, error) {
	dir := filepath.Join(b.work, name)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // a repository
		return "", err
	}
	rnd := rand.NewChaCha8([32]byte{})
	for i := range files {
		sub := filepath.Join(dir, "d"+strconv.Itoa(i%40))
		if err := os.MkdirAll(sub, 0o755); err != nil { //nolint:gosec // as above
			return "", err
		}
		data := make([]byte, size/files)
		_, _ = rnd.Read(data)
		if err := os.WriteFile(filepath.Join(sub, "f"+strconv.Itoa(i)), data, 0o600); err != nil {
			return "", err
		}
	}
	dockerfile := "FROM busybox:1.36\nCOPY . /src\nRUN ls /src | wc -l\nCMD [\"/bin/sh\", \"-c\", \"exec httpd -f -p $PORT -h /src/d0\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, ".dockerignore"), []byte(".git\n"), 0o600); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "d0", "index.html"), []byte("hello\n"), 0o600); err != nil {
		return "", err
	}
	for _, a := range [][]string{{"init", "-q", "-b", "main"}, {"config", "core.compression", "0"}, {"remote", "add", "mesh", "mesh:" + name}, {"add", "-A"}, {"commit", "-q", "-m", "one"}} {
		if _, err := b.cmd(dir, "git", a...); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// edit changes one file of a repository and commits it.
func (b *bench) edit(dir, text string) error {
	if err := os.WriteFile(filepath.Join(dir, "d0", "index.html"), []byte(text+"\n"), 0o600); err != nil {
		return err
	}
	_, err := b.cmd(dir, "git", "commit", "-q", "-a", "-m", text)
	return err
}

func (b *bench) destroy(name string) error {
	_, err := b.ssh("stacks:destroy", "-a", name, "--confirm", name)
	return err
}

// builds compares a build after an edit in a tree of many files with docker build of
// the same tree, both with a warm cache. The time of mesh is that of the whole git
// push, including the upload and the reading of 2,000 file names, which is more than
// the goal covers.
func (b *bench) builds() (err error) {
	dir, err := b.tree("many", treeFiles, treeSize)
	if err != nil {
		return err
	}
	if _, err := b.cmd(dir, "git", "push", "-q", "mesh", "main"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.destroy("many")) }()
	defer func() {
		_, ierr := b.cmd(b.work, b.docker, "image", "rm", "-f", "mesh-bench/many:1")
		err = errors.Join(err, ierr)
	}()
	var ours, hand, ratio []float64
	for i := range rounds + 1 {
		if err := b.edit(dir, fmt.Sprintf("round %d", i)); err != nil {
			return err
		}
		began := time.Now()
		if _, err := b.cmd(dir, "git", "push", "-q", "-o", "dry-run", "mesh", "main"); err != nil {
			return err
		}
		o := time.Since(began).Seconds()
		if err := b.edit(dir, fmt.Sprintf("round %d, by hand", i)); err != nil {
			return err
		}
		began = time.Now()
		if _, err := b.cmd(dir, b.docker, "build", "-q", "-t", "mesh-bench/many:1", "."); err != nil {
			return err
		}
		h := time.Since(began).Seconds()
		if i > 0 { // the first warms up
			ours, hand, ratio = append(ours, o), append(hand, h), append(ratio, o/h)
		}
	}
	fmt.Printf("image of 2,000 files, one changed       %s, git push to image\n", figures(ours, "s"))
	fmt.Printf("by hand: docker build                  %s\n", figures(hand, "s"))
	fmt.Printf("  ratio, round by round                %s   goal: median at most 1.2\n", figures(ratio, "×"))
	return nil
}

// parallel pushes to four stacks at once, and then does the same by hand.
func (b *bench) parallel() (err error) {
	var dirs []string
	for i := range atOnce {
		name := "par" + strconv.Itoa(i)
		dir, err := b.tree(name, 50, 2<<20)
		if err != nil {
			return err
		}
		dirs = append(dirs, dir)
		if _, err := b.cmd(dir, "git", "push", "-q", "mesh", "main"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.destroy(name)) }()
		defer func() {
			_, ierr := b.cmd(b.work, b.docker, "image", "rm", "-f", "mesh-bench/"+name+":1")
			err = errors.Join(err, ierr)
		}()
	}
	all := func(do func(i int, dir string) error) (float64, error) {
		began := time.Now()
		var wg sync.WaitGroup
		errs := make([]error, atOnce)
		for i, dir := range dirs {
			wg.Go(func() { errs[i] = do(i, dir) })
		}
		wg.Wait()
		return time.Since(began).Seconds(), errors.Join(errs...)
	}
	var ours, hand, ratio []float64
	for i := range rounds + 1 {
		for _, dir := range dirs {
			if err := b.edit(dir, fmt.Sprintf("round %d", i)); err != nil {
				return err
			}
		}
		o, err := all(func(_ int, dir string) error {
			_, err := b.cmd(dir, "git", "push", "-q", "mesh", "main")
			return err
		})
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			if err := b.edit(dir, fmt.Sprintf("round %d, by hand", i)); err != nil {
				return err
			}
		}
		ids := make([]string, atOnce)
		h, err := all(func(i int, dir string) (err error) {
			ids[i], _, err = b.buildAndRun(dir, "mesh-bench/par"+strconv.Itoa(i)+":1")
			return err
		})
		for _, id := range ids {
			if id != "" {
				_, rerr := b.cmd(b.work, b.docker, "rm", "-fv", id)
				err = errors.Join(err, rerr)
			}
		}
		if err != nil {
			return err
		}
		if i > 0 {
			ours, hand, ratio = append(ours, o), append(hand, h), append(ratio, o/h)
		}
	}
	fmt.Printf("four pushes to four stacks at once     %s\n", figures(ours, "s"))
	fmt.Printf("by hand, four at once                  %s\n", figures(hand, "s"))
	fmt.Printf("  ratio, round by round                %s   goal: median at most 1.1\n", figures(ratio, "×"))
	return nil
}

// large pushes and builds a repository of 1 GB, and reads the server's peak memory.
func (b *bench) large() (err error) {
	dir, err := b.tree("large", 64, largeSize)
	if err != nil {
		return err
	}
	other := *b
	if err := other.start("large-data"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, other.stop()) }()
	bin := []string{"--data", filepath.Join(b.work, "large-data")}
	pub, err := os.ReadFile(filepath.Join(b.work, "key.pub"))
	if err != nil {
		return err
	}
	if _, err := b.cmd(b.work, filepath.Join(b.root, "bin", "mesh"), append(append(bin, "ssh-keys:add", "bench"), strings.Fields(string(pub))...)...); err != nil {
		return err
	}
	began := time.Now()
	if _, err := b.cmd(dir, "git", "-c", "ssh.variant=ssh", "push", "-q", "ssh://mesh@mesh:"+other.port+"/large", "main"); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", other.server.Process.Pid))
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(kb), " kB"))
			fmt.Printf("1 GB pushed, built and live in %.0f s     at most %.0f MB resident   goal: under 150 MB\n", took, float64(n)/1000)
		}
	}
	_, err = b.cmd(b.work, filepath.Join(b.root, "bin", "mesh"), append(bin, "stacks:destroy", "-a", "large", "--confirm", "large")...)
	return err
}
