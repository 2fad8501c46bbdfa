package main

import (
	"bytes"
	"context"
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

	"mesh"
	"mesh/command"
)

// edits reports whether words are config:edit, and returns them with another command in
// its place.
func edits(words []string) (with func(command ...string) []string, ok bool) {
	line := afterStack(words)
	rest, ok := behind(line, "config", "edit")
	if !ok || slices.ContainsFunc(rest, func(w string) bool { return w == "--help" || w == "-h" }) {
		return nil, false
	}
	front := words[:len(words)-len(line)]
	return func(command ...string) []string { return slices.Concat(front, command, rest) }, true
}

const editHead = `# The config vars of the stack. Lines that begin with # are left out. Values may be
# quoted; quoted ones may have several lines, or \n for the end of one. A var whose line
# you delete is removed.
`

// editConfig lets a person edit the config vars of a stack, and releases what has changed.
// The file with the values is gone afterwards, also after a signal, unless the person's work
// in it would be lost.
func (o clientFlags) editConfig(with func(...string) []string, stdout, stderr io.Writer) error {
	if err := command.Check(afterStack(with("config:edit"))); err != nil {
		return err // before anything is opened
	}
	reads := func(command ...string) []string {
		return slices.DeleteFunc(with(command...), func(w string) bool { return w == "--no-restart" })
	}
	ask := func(words []string) (string, error) {
		var out bytes.Buffer
		err := o.run(words, strings.NewReader(""), &out, stderr)
		return out.String(), err
	}
	// In this order: a change between the two is found out at the end.
	hash, err := ask(reads("config:export", "--format", "fingerprint"))
	if err != nil {
		return err
	}
	vars, err := ask(reads("config:export", "--format", "envfile"))
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 8) // a signal must not end this process before the file is gone
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	dir, err := os.MkdirTemp("", "mesh-config-") // nobody else can look into it
	if err != nil {
		return err
	}
	keep := false
	defer func() {
		if !keep {
			_ = os.RemoveAll(dir)
		}
	}()
	file := filepath.Join(dir, "config.env")
	before := []byte(editHead + vars)
	if err := os.WriteFile(file, before, 0o600); err != nil {
		return err
	}
	release := with("config:import", "--replace", "--if", strings.TrimSpace(hash))
	kept := func() {
		keep = true
		_, _ = fmt.Fprintf(stderr, "your file is kept at %[1]s; it has the values: delete it afterwards\nto go on, correct it, then: mesh %[2]s < %[1]s\n", file, command.Join(release))
	}
	eerr := runEditor(file, signals, stderr)
	var ended mesh.ExitCode
	if errors.As(eerr, &ended) {
		return ended
	}
	after, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read what was edited: %w", errors.Join(err, eerr))
	}
	switch changed := !bytes.Equal(before, after); {
	case eerr != nil && changed:
		kept()
		return eerr
	case eerr != nil:
		return eerr
	case !changed:
		_, _ = fmt.Fprintln(stderr, "nothing has changed")
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- o.run(release, bytes.NewReader(after), stdout, stderr) }()
	select {
	case err = <-done:
	case s := <-signals: // the server notices that this end is gone
		return ended128(s)
	}
	if errors.Is(err, mesh.ExitCode(130)) {
		return err // Ctrl-C, which ssh saw first
	}
	if err != nil {
		kept()
	}
	return err
}

// ended128 is the exit status of a program that a signal has ended, as shells have it.
func ended128(s os.Signal) mesh.ExitCode {
	n, _ := s.(syscall.Signal)
	return mesh.ExitCode(128 + int(n))
}

// runEditor opens a file in the person's editor. $VISUAL and $EDITOR are command lines, as
// for git. The error is a mesh.ExitCode if one of signals has ended it: a Ctrl-C that the
// editor handles itself has not.
func runEditor(file string, signals <-chan os.Signal, stderr io.Writer) error {
	line := os.Getenv("VISUAL")
	if line == "" {
		line = os.Getenv("EDITOR")
	}
	if line == "" && !isTerminal(os.Stdin) {
		return mesh.Errorf(mesh.Invalid, "there is no terminal for an editor").WithHint("name a program that edits a file without one: EDITOR=./change mesh config:edit")
	}
	for _, name := range []string{"editor", "vi", "nano"} {
		if line != "" {
			break
		}
		if p, err := exec.LookPath(name); err == nil {
			line = "'" + p + "'"
		}
	}
	if line == "" {
		return mesh.Errorf(mesh.NotFound, "there is no editor").WithHint("name one: EDITOR=nano mesh config:edit")
	}
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", line+` "$1"`, "sh", file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, stderr
	if err := cmd.Start(); err != nil {
		return mesh.Errorf(mesh.Failed, "the editor cannot be started: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	pressed := make(chan os.Signal, 1)
	for {
		select {
		case s := <-signals:
			if s != os.Interrupt { // the terminal sends a Ctrl-C to the editor by itself
				_ = cmd.Process.Signal(s)
				return ended128(s)
			}
			select {
			case pressed <- s:
			default:
			}
		case err := <-done:
			if err == nil {
				return nil
			}
			if len(pressed) > 0 || interrupted(signals) {
				return ended128(os.Interrupt)
			}
			return mesh.Errorf(mesh.Failed, "the editor failed: %w", err)
		}
	}
}
