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

	"mesh"
)

// edits reports whether words are config:edit, and returns them with another command in
// its place.
func edits(words []string) (with func(command ...string) []string, ok bool) {
	rest := afterStack(words)
	n := 0
	switch {
	case len(rest) > 0 && rest[0] == "config:edit":
		n = 1
	case len(rest) > 1 && rest[0] == "config" && rest[1] == "edit":
		n = 2
	default:
		return nil, false
	}
	if slices.ContainsFunc(rest[n:], func(w string) bool { return w == "--help" || w == "-h" }) {
		return nil, false
	}
	front := words[:len(words)-len(rest)]
	return func(command ...string) []string { return slices.Concat(front, command, rest[n:]) }, true
}

const editHead = `# The config vars of the stack. Lines that begin with # are left out. Values may be
# quoted, and have several lines if they are. A var whose line you delete is removed.
`

// editConfig lets a person edit the config vars of a stack, and releases what has changed.
func (o clientFlags) editConfig(with func(...string) []string, stdout, stderr io.Writer) (err error) {
	ask := func(words []string) (string, error) {
		var out bytes.Buffer
		err := o.run(words, strings.NewReader(""), &out, stderr)
		return out.String(), err
	}
	// In this order: a change between the two is found out at the end.
	hash, err := ask(with("config:export", "--format", "fingerprint"))
	if err != nil {
		return err
	}
	vars, err := ask(with("config:export", "--format", "envfile"))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mesh-config-") // nobody else can look into it
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "config.env")
	keep := false
	defer func() {
		if keep {
			_, _ = fmt.Fprintf(stderr, "nothing has changed; your file is kept at %[1]s\ncorrect it, then: mesh config:import --replace < %[1]s; delete it afterwards, because it has the values\n", file)
			return
		}
		_ = os.RemoveAll(dir)
	}()
	before := []byte(editHead + vars)
	if err := os.WriteFile(file, before, 0o600); err != nil {
		return err
	}
	eerr := runEditor(file, stderr)
	after, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read what was edited: %w", errors.Join(err, eerr))
	}
	switch changed := !bytes.Equal(before, after); {
	case eerr != nil:
		keep = changed
		return eerr
	case !changed:
		_, _ = fmt.Fprintln(stderr, "nothing has changed")
		return nil
	}
	err = o.run(with("config:import", "--replace", "--if", strings.TrimSpace(hash)), bytes.NewReader(after), stdout, stderr)
	keep = err != nil
	return err
}

// runEditor opens a file in the person's editor. $VISUAL and $EDITOR are command lines, as
// for git.
func runEditor(file string, stderr io.Writer) error {
	line := os.Getenv("VISUAL")
	if line == "" {
		line = os.Getenv("EDITOR")
	}
	if line == "" && !isTerminal(os.Stdin) {
		return mesh.Errorf(mesh.Invalid, "there is no terminal for an editor").WithHint("name a program that edits a file without one: EDITOR=./change mesh config:edit")
	}
	for _, name := range []string{"editor", "nano", "vi"} {
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
	// A Ctrl-C is for the editor; the file must be taken away afterwards.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	defer signal.Stop(signals)
	if err := cmd.Run(); err != nil {
		return mesh.Errorf(mesh.Failed, "the editor failed: %w", err)
	}
	return nil
}
