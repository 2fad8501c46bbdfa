package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mesh"
	"mesh/store"
)

const (
	wakeRounds = 5
	sleeping   = 1000 // stacks
)

// sleep compares the first answer of a stack that sleeps with the app's own start: docker
// run of the same image to the first 200, in the same run.
func (b *bench) sleep() error {
	if err := b.change("sleep"); err != nil {
		return err
	}
	if _, err := b.push(); err != nil {
		return err
	}
	if _, err := b.ssh("build:set", "-a", "bench", "sleep=10s"); err != nil {
		return err
	}
	var wake, own, over []float64
	for range wakeRounds {
		if err := b.untilAsleep(); err != nil {
			return err
		}
		began := time.Now()
		if err := b.serves("from sleep"); err != nil {
			return err
		}
		w := time.Since(began).Seconds()
		_, app, err := b.byHand()
		if err != nil {
			return err
		}
		wake, own, over = append(wake, w), append(own, app.Seconds()), append(over, w-app.Seconds())
	}
	fmt.Printf("first answer of a stack that sleeps    %s\n", figures(wake, "s"))
	fmt.Printf("app's own start: docker run to 200     %s\n", figures(own, "s"))
	fmt.Printf("  the difference, round by round       %s   goal: at most 0.30\n", figures(over, "s"))
	if _, err := b.ssh("build:set", "-a", "bench", "sleep=off"); err != nil {
		return err
	}
	return b.asleepMemory()
}

func (b *bench) untilAsleep() error {
	for began := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		out, err := b.ssh("stacks:info", "-a", "bench")
		if err != nil {
			return err
		}
		if strings.Contains(out, "asleep") {
			time.Sleep(time.Second) // the old instance has ended
			return nil
		}
		if time.Since(began) > 2*time.Minute {
			return errors.New("the stack does not fall asleep")
		}
	}
}

// asleepMemory compares a server with many stacks that sleep with one that has none.
func (b *bench) asleepMemory() error {
	empty, err := b.resident("none")
	if err != nil {
		return err
	}
	if err := sleepers(filepath.Join(b.work, "asleep")); err != nil {
		return err
	}
	full, err := b.resident("asleep")
	if err != nil {
		return err
	}
	fmt.Printf("%d stacks that sleep                 %.1f MB more than none (%.1f, %.1f), and %.1f MB of the store's file mapped   goal: under 30\n", sleeping, full.own-empty.own, full.own, empty.own, full.files-empty.files)
	return nil
}

// sleepers records stacks with a release and ten config vars each, which sleep.
func sleepers(dir string) error {
	ctx := context.Background()
	s, err := store.Open(dir)
	if err != nil {
		return err
	}
	for i := range sleeping {
		name := mesh.StackName("stack-" + strconv.Itoa(i))
		st := mesh.Stack{Name: name, Created: time.Now(), Config: mesh.Config{}, Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 213, byte(i / 16), byte(i % 16 * 16)}), 28)} //nolint:gosec // small numbers
		for v := range 10 {
			st.Config["VAR_"+strconv.Itoa(v)] = mesh.NewSecret("a value of the usual length")
		}
		if _, err := s.CreateStack(ctx, st, nil); err != nil {
			return err
		}
		dep, err := s.BeginDeployment(ctx, mesh.Deployment{Stack: name, Kind: mesh.DeployImage, Created: time.Now(), Status: mesh.StatusRunning})
		if err != nil {
			return err
		}
		r := mesh.Release{
			Stack: name, Number: 1, Created: time.Now(), Deployment: dep.Number, Config: st.Config, Formation: mesh.Formation{mesh.Web: 1},
			Services: map[mesh.ServiceName]mesh.Service{mesh.Web: {From: "image"}}, Image: mesh.Image{ID: "sha256:" + strings.Repeat("0", 64)},
		}
		dep.Ended = time.Now()
		_, err = s.Commit(ctx, dep, &r, func(st *mesh.Stack) error { st.Asleep = time.Now(); return nil })
		if err != nil {
			return err
		}
	}
	return s.Close()
}

// memory is what a process holds, in MB: its own pages, and the pages of files (its program, the store), which the kernel takes back when it needs them.
type memory struct{ own, files float64 }

// resident starts a server and returns its memory, once it is calm.
func (b *bench) resident(data string) (memory, error) {
	other := *b
	if err := other.start(data); err != nil {
		return memory{}, err
	}
	time.Sleep(5 * time.Second)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", other.server.Process.Pid))
	if err = errors.Join(err, other.stop()); err != nil {
		return memory{}, err
	}
	var m memory
	for field, into := range map[string]*float64{"RssAnon:": &m.own, "RssFile:": &m.files} {
		_, rest, ok := strings.Cut(string(text), "\n"+field)
		kb, _, _ := strings.Cut(rest, "kB")
		n, err := strconv.Atoi(strings.TrimSpace(kb))
		if !ok || err != nil {
			return memory{}, fmt.Errorf("no %s in the status of the process", field)
		}
		*into = float64(n) / 1000
	}
	return m, nil
}
