package deploy

import (
	"errors"
	"fmt"
	"strings"

	"mvdan.cc/sh/v3/shell"
	"mvdan.cc/sh/v3/syntax"

	"mesh"
)

// forwarder runs a compound command below a shell that hands signals on. Debian's
// /bin/sh does not replace itself with its last command, so that without this no
// SIGTERM reaches the app and every stop is a kill after the grace period. The
// command's exit status becomes the container's. PID 1 is docker-init, which
// reaps; "-1" reaches whatever the container runs. A signal ends wait with a status
// of its own, hence once more; 127 is a command that was waited for already. The
// inner shell ends when the program that runs at that moment has ended, and starts
// no further one: it would not have heard the signal.
const forwarder = `for s in HUP INT QUIT USR1 USR2 TERM; do trap "got=1; kill -$s -1 2>/dev/null" $s; done
got= command=$1
(trap exit HUP INT QUIT TERM; trap : USR1 USR2; eval "$command") &
p=$!
wait $p; status=$?
while [ "$got" ]; do got=; wait $p; again=$?; [ $again = 127 ] || status=$again; done
exit $status`

// Process says what a container runs for a command as people write it. The empty
// command is the image's own.
//
// With a shell in the image and no ENTRYPOINT the command runs in /bin/sh, which
// expands config vars: a simple command by exec, so that it gets the signals, a
// compound one below the forwarder. A CMD in shell form counts as such a command.
// With an ENTRYPOINT, or without a shell, the command is split and expanded here,
// with env, and handed over as words; a command that needs a shell is refused.
func Process(command string, img mesh.Image, env map[string]mesh.Secret) (mesh.Process, error) {
	if err := mesh.CheckCommand(command); err != nil {
		return mesh.Process{}, err
	}
	sh := "/bin/sh"
	if command == "" {
		if len(img.Entrypoint) > 0 || len(img.Cmd) != 3 || !isShell(img.Cmd[0]) || img.Cmd[1] != "-c" {
			return mesh.Process{}, nil
		}
		sh, command = img.Cmd[0], img.Cmd[2]
		if !img.Shell {
			return mesh.Process{}, nil // what the image says, to the letter; starting it tells
		}
		kind, err := classify(command)
		if err != nil {
			return mesh.Process{}, nil //nolint:nilerr // not ours to judge: the image's own shell reads it
		}
		return inShell(sh, command, kind), nil
	}
	kind, err := classify(command)
	if err != nil {
		return mesh.Process{}, &mesh.Error{
			Kind: mesh.Failed, Text: fmt.Sprintf("the command %q cannot be read: %v", mesh.Clip(command, 80), err),
			Hint: "check its quotes; what works in sh -c works here", Err: err,
		}
	}
	if len(img.Entrypoint) == 0 && img.Shell {
		return inShell(sh, command, kind), nil
	}
	why := "the image has no /bin/sh"
	if len(img.Entrypoint) > 0 {
		why = "the image has an ENTRYPOINT, which gets the command as arguments"
	}
	if kind != simple {
		return mesh.Process{}, &mesh.Error{
			Kind: mesh.Failed, Text: fmt.Sprintf("the command %q needs a shell, but %s", mesh.Clip(command, 80), why),
			Hint: "make it one plain command, or build the image without ENTRYPOINT and with a shell (for example FROM debian:bookworm-slim)",
		}
	}
	fields, err := shell.Fields(command, func(name string) string { return env[name].Reveal() })
	if err != nil || len(fields) == 0 {
		return mesh.Process{}, &mesh.Error{
			Kind: mesh.Failed, Text: fmt.Sprintf("the command %q cannot be expanded without a shell, and %s", mesh.Clip(command, 80), why),
			Hint: "use plain words and $NAME only", Err: err,
		}
	}
	if len(img.Entrypoint) > 0 {
		return mesh.Process{Entrypoint: img.Entrypoint, Cmd: fields}, nil
	}
	return mesh.Process{Entrypoint: fields}, nil
}

func isShell(path string) bool {
	switch path[strings.LastIndexByte(path, '/')+1:] {
	case "sh", "bash", "dash", "ash", "zsh", "ksh":
		return true
	}
	return false
}

func inShell(sh, command string, kind commandKind) mesh.Process {
	entrypoint := []string{sh, "-c"}
	switch kind {
	case compound:
	case simple:
		return mesh.Process{Entrypoint: entrypoint, Cmd: []string{"exec " + command}}
	case replaced:
		return mesh.Process{Entrypoint: entrypoint, Cmd: []string{command}}
	}
	return mesh.Process{Entrypoint: entrypoint, Cmd: []string{forwarder, "sh", command}}
}

// commandKind is how a command has to be run so that signals reach it.
type commandKind int

const (
	compound commandKind = iota
	simple               // one program and its words
	replaced             // begins with exec itself
)

// builtins cannot be exec'ed: they are the shell's own (POSIX Shell Command
// Language 2.14 and 1.6, and what dash adds).
var builtins = words(`. : [ alias bg break cd command continue echo eval exec exit export false fg fc
	getopts hash jobs kill local newgrp printf pwd read readonly return set shift source test times trap true
type ulimit umask unalias unset wait`)

func words(s string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(s) {
		m[w] = true
	}
	return m
}

// classify parses a command as sh does.
func classify(command string) (commandKind, error) {
	if strings.ContainsRune(command, 0) {
		return 0, errors.New("it has a NUL in it")
	}
	if len(command) > mesh.MaxCommand {
		return compound, nil // an image's own: the parser's stack grows with what is nested
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(command), "")
	if err != nil {
		// A bash-only form, say: the image's own shell decides.
		var perr syntax.ParseError
		if errors.As(err, &perr) && perr.Incomplete {
			return 0, errors.New(perr.Text)
		}
		return compound, nil
	}
	if len(file.Stmts) == 0 {
		return 0, errors.New("it is empty")
	}
	if len(file.Stmts) != 1 {
		return compound, nil
	}
	st := file.Stmts[0]
	call, ok := st.Cmd.(*syntax.CallExpr)
	if !ok || st.Background || st.Negated || len(st.Redirs) > 0 || len(call.Assigns) > 0 || len(call.Args) == 0 {
		return compound, nil
	}
	substitution := false
	syntax.Walk(call, func(n syntax.Node) bool {
		if _, is := n.(*syntax.CmdSubst); is {
			substitution = true
		}
		return !substitution
	})
	first := call.Args[0].Lit()
	switch {
	case first == "exec" && len(call.Args) > 1:
		return replaced, nil
	case substitution, first == "" && !startsWithVariable(call.Args[0]), builtins[first]:
		return compound, nil
	}
	return simple, nil
}

// startsWithVariable tells whether a word is one expansion or quoted text, which
// exec can start as well as a plain word.
func startsWithVariable(w *syntax.Word) bool {
	for _, p := range w.Parts {
		switch p.(type) {
		case *syntax.Lit, *syntax.ParamExp, *syntax.DblQuoted, *syntax.SglQuoted:
		default:
			return false
		}
	}
	return true
}
