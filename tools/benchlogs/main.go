// Command benchlogs measures what it costs to keep the output of a chatty instance: the
// processor time of the part of mesh that reads, compresses and stores it, beside docker
// logs --follow, which throws it away, in the same run. It prints a Markdown table.
//
//	make bench-logs                     # also the search, beside grep
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"mesh"
	"mesh/engine"
	"mesh/logs"
	"mesh/runner"
)

const (
	stack  = "bench"
	settle = 3 * time.Second // until all have begun
)

// bench is one run.
type bench struct {
	took time.Duration
	rate int // MB/s that the instance tries to print
}

func main() {
	var b bench
	flag.DurationVar(&b.took, "time", 15*time.Second, "of each measurement")
	flag.IntVar(&b.rate, "rate", 50, "what the instance tries to print, in MB/s")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Println("| bytes a line | log-rate | read MB/s | not kept | mesh, of a core | docker logs -f, of a core | ratio | memory of mesh's part |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, line := range []int{120, 1000} {
		for _, limit := range []int{mesh.DefaultLogRate, 10_000_000} {
			if err := b.measure(ctx, line, limit); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1) //nolint:gocritic // nothing is left to do
			}
		}
	}
}

// counted counts the bytes that are read.
type counted struct {
	*runner.Runner
	bytes, lines atomic.Int64
}

func (c *counted) Output(ctx context.Context, id string, n int, follow bool, fn func(time.Time, byte, []byte) error) error {
	return c.Runner.Output(ctx, id, n, follow, func(at time.Time, stream byte, text []byte) error {
		c.bytes.Add(int64(len(text)) + 1)
		c.lines.Add(1)
		return fn(at, stream, text)
	})
}

func (b bench) measure(ctx context.Context, line, limit int) (err error) {
	dir, err := os.MkdirTemp("", "benchlogs")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	quiet := slog.New(slog.DiscardHandler)
	e, err := engine.New("", 0)
	if err != nil {
		return err
	}
	defer func() { _ = e.Close() }()
	l, err := logs.Open(dir, logs.Options{Logger: quiet, Limits: func(mesh.StackName) logs.Limits { return logs.Limits{Rate: limit, Size: 4 << 30} }})
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	l.Keep(stack)
	l.Lead(true)
	r := &counted{Runner: runner.New(e, runner.Options{Server: fmt.Sprintf("bench-%d", os.Getpid()), Logger: quiet})}
	c := logs.NewCollector(l, func(mesh.StackName) bool { return true })
	c.Use(r)
	defer func() { err = errors.Join(err, r.RemoveStack(context.WithoutCancel(ctx), stack)) }()
	run, end := context.WithCancel(ctx)
	defer end()
	go func() { _ = l.Run(run) }()
	go func() { _ = c.Run(run) }()

	// A tenth of a second's output at once, ten times a second.
	script := fmt.Sprintf("yes %s | head -c %d >/tmp/f; while :; do cat /tmp/f; usleep 100000; done", strings.Repeat("x", line-1), b.rate*100_000)
	in, err := r.Start(ctx, mesh.InstanceSpec{
		Stack: stack, Name: mesh.InstanceName{Service: "web", Slot: 1}, Release: 1, Image: "busybox:latest", Process: mesh.Process{Cmd: []string{"sh", "-c", script}},
	})
	if err != nil {
		return err
	}
	peer := exec.CommandContext(run, "docker", "logs", "-f", "--tail", "0", in.ID)
	peer.Stdout, peer.Stderr = io.Discard, io.Discard
	if err := peer.Start(); err != nil {
		return err
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	began, bytes, lines, mine, theirs := time.Now(), r.bytes.Load(), r.lines.Load(), own(), of(peer.Process.Pid)
	if err := pause(ctx, b.took); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	bytes, lines, mine, theirs = r.bytes.Load()-bytes, r.lines.Load()-lines, own()-mine, of(peer.Process.Pid)-theirs
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	lost := 0
	err = l.Logs(ctx, mesh.LogQuery{Stack: stack, Sources: []string{logs.SourceMesh}, Lines: -1, Since: began}, func(line mesh.LogLine) error {
		n, _, _ := strings.Cut(line.Text, " ")
		k, _ := strconv.Atoi(n)
		lost += k
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Printf("| %d | %d | %.0f | %.0f %% | %.2f | %.2f | %.2f | %d MB |\n", line, limit, float64(bytes)/1e6/took, 100*min(1, float64(lost)/float64(max(1, lines))),
		mine.Seconds()/took, theirs.Seconds()/took, mine.Seconds()/max(theirs.Seconds(), 0.01), (mem.HeapInuse+mem.StackInuse)>>20)
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// own returns the processor time of this process.
func own() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// of returns the processor time of another process, from the fields 14 and 15 of
// /proc/PID/stat, in hundredths of a second (proc_pid_stat(5)).
func of(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(after)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
