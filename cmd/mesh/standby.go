package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"mesh"
	"mesh/atomicfile"
	"mesh/mirror"
)

// standbyFile marks a data directory that is a copy of another server's. standbyLock is locked
// by the process that writes into it.
const (
	standbyFile = "standby.json"
	standbyLock = "standby.lock"
)

// ownOfCopy is what belongs to the copy itself: besides those, what ssh keeps in the home
// directory of the user mesh, and what a file system has at its top.
var ownOfCopy = []string{standbyFile, standbyLock, ".ssh", "lost+found"}

// standbyState is the content of standbyFile.
type standbyState struct {
	From     string    `json:"from"`
	Identity string    `json:"identity,omitempty"`
	Last     time.Time `json:"last"` // when the copy was last like the server
}

const standbyHelp = `usage: mesh standby --from ssh://mesh@HOST:PORT [--identity FILE] [--data DIR]
       mesh standby --take-over [--force] [--data DIR]

Keeps a copy of a running server on this machine, a few seconds behind: its state, repositories,
certificates, logs, and the backups that are in its own folder. It needs a key of an admin, and
OpenSSH's client. No server runs on the copy. With --take-over, the copy becomes a server's data
directory, unless the other server still answers.

`

// standbyMain implements "mesh standby".
func standbyMain(args []string, stdout, stderr io.Writer) error {
	fs := pflag.NewFlagSet("standby", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	from := fs.String("from", "", "the `URL` of the server: ssh://mesh@HOST:PORT")
	identity := fs.String("identity", "", "a `FILE` with the private key; without it, what ssh is configured to use")
	data := fs.String("data", os.Getenv("MESH_DATA"), "the `DIR` of the copy")
	takeOver := fs.Bool("take-over", false, "make the copy a server's data directory")
	force := fs.Bool("force", false, "take over even if something answers at the other server's address")
	switch err := fs.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		_, _ = fmt.Fprintf(stdout, "%s%s", standbyHelp, fs.FlagUsages())
		return nil
	case err != nil:
		return mesh.Errorf(mesh.Invalid, "mesh standby: %w", err).WithHint("mesh standby --help")
	case fs.NArg() > 0 || *takeOver && (*from != "" || *identity != "") || !*takeOver && (*from == "" || *force):
		return mesh.Errorf(mesh.Invalid, "mesh standby takes --from, or --take-over").WithHint("mesh standby --help")
	}
	if *data == "" {
		*data = defaultData()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if *takeOver {
		return takeOverFrom(ctx, *data, *force, stdout, stderr)
	}
	return standBy(ctx, standbyState{From: *from, Identity: *identity}, *data, stdout, stderr)
}

// sshTo is the command that runs a command of the server.
func (s standbyState) sshTo(ctx context.Context, command ...string) *exec.Cmd {
	args := []string{"-T", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5", "-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=2"}
	if s.Identity != "" {
		args = append(args, "-i", s.Identity, "-o", "IdentitiesOnly=yes")
	}
	return exec.CommandContext(ctx, "ssh", append(append(args, "--", s.From), command...)...)
}

// readStandby reads the mark of a copy.
func readStandby(dir string) (s standbyState, is bool, err error) {
	text, err := os.ReadFile(filepath.Join(dir, standbyFile))
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR): // not even a folder: somebody else says so
		return s, false, nil
	case err != nil:
		return s, false, fmt.Errorf("find out whether this is a copy of a server: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, true, mesh.Errorf(mesh.Damaged, "%s is damaged: %w", filepath.Join(dir, standbyFile), err).
			WithHint("keep another copy, in another folder: mesh standby --help; if the server is gone for good, remove the file: what is beside it is the copy")
	}
	return s, true, nil
}

func (s standbyState) write(dir string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, standbyFile), append(text, '\n'), 0o600)
}

// strange reports whether an entry of a folder is neither the copy's own nor left by writing its mark.
func strange(e os.DirEntry) bool {
	return !slices.Contains(ownOfCopy, e.Name()) && !strings.HasPrefix(e.Name(), "."+standbyFile)
}

// standBy copies until ctx ends.
func standBy(ctx context.Context, s standbyState, dir string, stdout, stderr io.Writer) error {
	if !strings.HasPrefix(s.From, "ssh://") || strings.ContainsAny(s.From, " \t\n") {
		return mesh.Errorf(mesh.Invalid, "%q is not the URL of a server", mesh.Clip(mesh.Visible(s.From), 100)).WithHint("use ssh://mesh@HOST:PORT")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if _, err := s.mayCopyTo(dir); err != nil { // before anything is left there
		return err
	}
	lock, err := s.lock(dir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	old, err := s.mayCopyTo(dir) // it may have become a server's meanwhile
	if err != nil {
		return err
	}
	s.Last = old.Last
	if err := s.write(dir); err != nil {
		return err
	}
	told := ""
	for {
		err := s.copyOnce(ctx, dir, stdout)
		if ctx.Err() != nil {
			return nil
		}
		if text := err.Error(); text != told { // once for each reason
			printError(stderr, err)
			told = text
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

// mayCopyTo returns the mark of a copy of the same server, or none in an empty folder. Anything else is
// a Conflict.
func (s standbyState) mayCopyTo(dir string) (old standbyState, err error) {
	old, is, err := readStandby(dir)
	if err != nil {
		return old, err
	}
	entries, err := os.ReadDir(dir)
	switch {
	case err != nil:
		return old, err
	case !is && slices.ContainsFunc(entries, strange):
		return old, mesh.Errorf(mesh.Conflict, "%s is not empty, and not a copy of a server", dir).WithHint("choose another folder with --data")
	case is && old.From != s.From:
		return old, mesh.Errorf(mesh.Conflict, "%s is a copy of %s", dir, old.From).WithHint("choose another folder with --data")
	}
	return old, nil
}

// copyOnce copies until the connection ends.
func (s *standbyState) copyOnce(ctx context.Context, dir string, stdout io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := s.sshTo(ctx, "standby:stream")
	var messages strings.Builder
	cmd.Stderr = &messages
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return mesh.Errorf(mesh.Unavailable, "ssh cannot be run: %w", err).WithHint("install OpenSSH's client")
	}
	c := mirror.Copy{Dir: dir, Own: ownOfCopy}
	var werr error
	rerr := c.Receive(out, in, func(files int, bytes int64) {
		s.Last = time.Now().UTC()
		if werr = s.write(dir); werr != nil {
			cancel()
		}
		if files > 0 {
			_, _ = fmt.Fprintf(stdout, "%s copied %d files, %s\n", s.Last.Format(time.RFC3339), files, units.HumanSize(float64(bytes)))
		}
	})
	cancel()
	_ = cmd.Wait()
	var e *mesh.Error
	switch said, hint := reason(messages.String()); {
	case werr != nil:
		return werr
	case errors.As(rerr, &e), rerr != nil && !errors.Is(rerr, io.EOF) && said == "":
		return rerr
	case said != "":
		return mesh.Errorf(mesh.Unavailable, "the server cannot be copied: %s", said).WithHint("%s", hint)
	}
	return mesh.Errorf(mesh.Unavailable, "the connection to %s has ended", s.From)
}

// unreachable is how the last message of OpenSSH's client begins, with status 255, if no TCP
// connection to an address comes about. What accepts one and then says nothing may be a server that
// hangs, is being upgraded, or has too many clients.
var unreachable = []string{"ssh: connect to host ", "ssh: Could not resolve hostname "}

// answerTime is how long the server has to answer.
const answerTime = 15 * time.Second

// answers returns a Conflict if the server answers, or something at its address.
func (s standbyState) answers(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	cmd := s.sshTo(limit, "version")
	var messages strings.Builder
	cmd.Stderr = &messages
	err := cmd.Run()
	said, _ := reason(messages.String())
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil, errors.As(err, &exit) && exit.ExitCode() == -1 && limit.Err() == nil: // a terminal's Ctrl-C ends ssh as well
		return mesh.Errorf(mesh.Cancelled, "interrupted: nothing has changed")
	case limit.Err() != nil:
		return mesh.Errorf(mesh.Conflict, "the server at %s may still run: what was tried to reach it did not end within %s", s.From, answerTime).
			WithHint("if the server is gone for good: mesh standby --take-over --force")
	case err != nil && !errors.As(err, &exit):
		return mesh.Errorf(mesh.Unavailable, "ssh cannot be run: %w", err).WithHint("install OpenSSH's client: mesh asks the other server first")
	case err != nil && exit.ExitCode() == 255 && slices.ContainsFunc(unreachable, func(text string) bool { return strings.HasPrefix(said, text) }):
		return nil
	case err != nil && exit.ExitCode() == 255:
		return mesh.Errorf(mesh.Conflict, "something answers at %s, and may be the server: %s", s.From, said).
			WithHint("if the server is gone for good: mesh standby --take-over --force")
	}
	return mesh.Errorf(mesh.Conflict, "the server at %s still answers: two servers with the same stacks would damage each other's work", s.From).
		WithHint("stop it first: systemctl disable --now mesh")
}

// reason returns the server's error and hint, or the last line: with that, OpenSSH's client says why.
func reason(messages string) (said, hint string) {
	text := func(s string) string { return mesh.Visible(mesh.Clip(strings.TrimSpace(s), 300)) }
	var last string
	for line := range strings.Lines(messages) {
		if s, is := strings.CutPrefix(line, "error: "); is {
			said, hint = text(s), ""
		} else if s, is := strings.CutPrefix(line, "hint: "); is {
			hint = text(s)
		} else if strings.TrimSpace(line) != "" {
			last = text(line)
		}
	}
	if said == "" {
		return last, ""
	}
	return said, hint
}

// takeOverFrom makes a copy a server's data directory.
func takeOverFrom(ctx context.Context, dir string, force bool, stdout, stderr io.Writer) error {
	s, is, err := readStandby(dir)
	switch {
	case err != nil:
		return err
	case !is:
		return mesh.Errorf(mesh.Conflict, "%s is not a copy of a server", dir).WithHint("make one first: mesh standby --from ssh://mesh@HOST:PORT --data %s", dir)
	case s.Last.IsZero():
		return mesh.Errorf(mesh.Conflict, "the copy in %s was never whole", dir).WithHint("restore a backup instead: mesh restore")
	}
	if !force {
		if err := s.answers(ctx); err != nil {
			return err
		}
	}
	lock, err := s.lock(dir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if ctx.Err() != nil {
		return mesh.Errorf(mesh.Cancelled, "interrupted: nothing has changed")
	}
	if s, is, err = readStandby(dir); err != nil { // another process may have copied, or taken over, meanwhile
		return err
	} else if !is {
		return mesh.Errorf(mesh.Conflict, "%s was taken over meanwhile", dir).WithHint("mesh serve --data %s", dir)
	}
	if err := atomicfile.Remove(filepath.Join(dir, standbyFile)); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(stdout, "the copy is from %s, %s ago; start the server: mesh serve --data %s\n", s.Last.Format(time.RFC3339), time.Since(s.Last).Round(time.Second), dir)
	_, _ = fmt.Fprintf(stderr, "What was pushed or changed after that is missing. Never start the other server again on its own data.\n")
	return nil
}

// lock keeps a second process from the copy until the returned file is closed.
func (standbyState) lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, standbyLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil { //nolint:gosec // a descriptor
		_ = f.Close()
		return nil, mesh.Errorf(mesh.Conflict, "another mesh standby keeps the copy in %s", dir).WithHint("end it first: systemctl disable --now mesh-standby")
	}
	return f, nil
}
