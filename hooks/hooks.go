// Package hooks is both ends of the wire between the hooks that git runs during a
// push and the server that runs git.
//
// The hooks are a few lines of sh that talk over two inherited file descriptors: 3
// to the server, 4 from it. There is no socket to find, no token to check, and no
// program to start: a hook costs 0.8 ms, compared with 3 ms for running a small Go
// binary and 42 ms for a large one. The server decides what the calls mean.
package hooks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"mesh"
)

// The hooks that are installed. update runs before each ref moves and may refuse it;
// post-receive runs once, after git has moved the refs (githooks(5)).
const (
	Update      = "update"
	PostReceive = "post-receive"
)

// scripts write one call and read one verdict, the exit status. If the server is
// gone, read fails and so does the hook.
var scripts = map[string]string{
	Update: `#!/bin/sh
# mesh asks its server whether this ref may move.
{ echo update && printf 'ref %s %s %s\n' "$2" "$3" "$1" && echo .; } >&3 || exit 1
read -r verdict <&4 || exit 1
exit "$verdict"
`,
	PostReceive: `#!/bin/sh
# mesh deploys what was pushed. Its server writes to the pusher by itself.
{
	echo post-receive
	i=0
	while [ "$i" -lt "${GIT_PUSH_OPTION_COUNT:-0}" ]; do
		eval "option=\$GIT_PUSH_OPTION_$i"
		case $option in *'
'*)
			# git's own client sends none; it would be another line of the call.
			echo 'a push option has a line end in it' >&2
			exit 1 ;;
		esac
		printf 'option %s\n' "$option"
		i=$((i + 1))
	done
	while read -r old new ref; do printf 'ref %s %s %s\n' "$old" "$new" "$ref"; done
	echo .
} >&3 || exit 1
read -r verdict <&4 || exit 1
exit "$verdict"
`,
}

// Install writes the hooks into dir, for git's core.hooksPath, and removes
// everything else in it, except files that begin with a dot. Hooks that are already
// right are not written: a start needs no space on the disk.
func Install(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	have, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for name, text := range scripts {
		path := filepath.Join(dir, name)
		if installed(path, text) {
			continue
		}
		// Write beside and rename: a git that is running now sees the old hook or
		// the new one.
		if err := writeScript(path+".new", text); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	for _, e := range have {
		if _, ours := scripts[e.Name()]; !ours && !strings.HasPrefix(e.Name(), ".") {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeScript writes an executable file while nothing forks. A child that has not started
// its program yet would hold the file open for writing, and git could not run it: "text
// file busy" (go.dev/issue/22315).
func writeScript(path, text string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, []byte(text), 0o700) //nolint:gosec // a hook must be executable
}

func installed(path, text string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o700 != 0o700 {
		return false
	}
	data, err := os.ReadFile(path)
	return err == nil && string(data) == text
}

// Call is what a hook sends.
type Call struct {
	Hook    string
	Options []string // push options, of PostReceive
	Refs    []mesh.RefUpdate
}

// Limits of a call. A ref name is at most a path, and git refuses longer ones.
const (
	maxLine    = 16 << 10
	maxRefs    = 10_000
	maxOptions = 10_000
)

// Wire is the server's end for one git process. Use it from one goroutine.
type Wire struct {
	calls, verdicts *os.File // the server's ends
	theirs          []*os.File
}

// NewWire opens the two pipes.
func NewWire() (*Wire, error) {
	callsR, callsW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	verdictsR, verdictsW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, callsR.Close(), callsW.Close())
	}
	return &Wire{calls: callsR, verdicts: verdictsW, theirs: []*os.File{callsW, verdictsR}}, nil
}

// Files are git's ends, for exec.Cmd.ExtraFiles, the first of which becomes
// descriptor 3. Call Started once the process has them.
func (w *Wire) Files() []*os.File { return w.theirs }

// Started closes the server's copies of git's ends, so that the wire ends when git
// does.
func (w *Wire) Started() {
	for _, f := range w.theirs {
		_ = f.Close()
	}
	w.theirs = nil
}

// Close ends the wire; a hook that waits for a verdict fails.
func (w *Wire) Close() {
	w.Started()
	_ = w.calls.Close()
	_ = w.verdicts.Close()
}

// Serve answers calls, one after the other, until git closes its end. handle reports
// whether the hook succeeds. Serve returns nil at the end of the wire, also if Close
// cuts it. The wire is cut when it returns: a hook whose call could not be read
// fails instead of waiting for a verdict forever.
func (w *Wire) Serve(ctx context.Context, handle func(context.Context, Call) bool) error {
	defer func() {
		_ = w.calls.Close()
		_ = w.verdicts.Close()
	}()
	r := bufio.NewReaderSize(w.calls, maxLine)
	for {
		call, err := ReadCall(r)
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		verdict := "1\n"
		if handle(ctx, call) {
			verdict = "0\n"
		}
		if _, err := io.WriteString(w.verdicts, verdict); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("answer the %s hook: %w", call.Hook, err)
		}
	}
}

// ReadCall reads one call as the scripts write it. It returns io.EOF if there is
// none.
func ReadCall(r *bufio.Reader) (Call, error) {
	name, err := readLine(r)
	if err != nil {
		return Call{}, err
	}
	c := Call{Hook: name}
	if _, known := scripts[name]; !known {
		return Call{}, fmt.Errorf("read hook call: no hook is named %q", mesh.Clip(name, 40))
	}
	for {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Call{}, fmt.Errorf("read hook call: %w", err)
		}
		if line == "." {
			return c, nil
		}
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case word == "option" && len(c.Options) < maxOptions:
			c.Options = append(c.Options, rest)
		case word == "ref" && len(c.Refs) < maxRefs:
			ref, err := parseRef(rest)
			if err != nil {
				return Call{}, fmt.Errorf("read hook call: %w", err)
			}
			c.Refs = append(c.Refs, ref)
		case word == "ref", word == "option":
			return Call{}, fmt.Errorf("read hook call: more than %d lines of %s", maxRefs, word)
		default:
			return Call{}, fmt.Errorf("read hook call: unknown line %q", mesh.Clip(line, 60))
		}
	}
}

const zeroCommit = "0000000000000000000000000000000000000000"

func parseRef(s string) (mesh.RefUpdate, error) {
	f := strings.SplitN(s, " ", 3)
	if len(f) != 3 || !strings.HasPrefix(f[2], "refs/") {
		return mesh.RefUpdate{}, fmt.Errorf("malformed ref line %q", mesh.Clip(s, 120))
	}
	var ids [2]mesh.Commit
	for i := range ids {
		if f[i] == zeroCommit {
			continue
		}
		id, err := mesh.ParseCommit(f[i])
		if err != nil {
			return mesh.RefUpdate{}, err
		}
		ids[i] = id
	}
	return mesh.RefUpdate{Ref: f[2], Old: ids[0], New: ids[1]}, nil
}

func readLine(r *bufio.Reader) (string, error) {
	b, err := r.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, bufio.ErrBufferFull) {
			return "", fmt.Errorf("a line is longer than %d bytes", maxLine)
		}
		if errors.Is(err, io.EOF) && len(b) > 0 {
			return "", io.ErrUnexpectedEOF
		}
		return "", err
	}
	return string(b[:len(b)-1]), nil
}
