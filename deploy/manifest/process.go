package manifest

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/shell"
	"mvdan.cc/sh/v3/syntax"

	"mesh"
)

// forwarder runs a compound command below a shell that passes signals on. Debian's
// /bin/sh does not replace itself with its last command, so without this SIGTERM would
// not reach the app, and every stop would be a kill after the grace period. The
// command's exit status becomes the container's. PID 1 is docker-init, which reaps;
// "-1" reaches everything the container runs. A signal ends wait with a status of its
// own, so wait is called again; 127 means that the command was waited for already. The
// inner shell exits when the program that runs at that moment exits, and starts no
// other: that one would not have received the signal.
const forwarder = `for s in HUP INT QUIT USR1 USR2 TERM; do trap "got=1; kill -$s -1 2>/dev/null" $s; done
got= command=$1
(trap exit HUP INT QUIT TERM; trap : USR1 USR2; eval "$command") &
p=$!
wait $p; status=$?
while [ "$got" ]; do got=; wait $p; again=$?; [ $again = 127 ] || status=$again; done
exit $status`

// forwardTo is the forwarder for a script of a shell with its own options, such as
// "bash -eo pipefail -c": that shell runs below this one, which has none of the
// options.
const forwardTo = `for s in HUP INT QUIT USR1 USR2 TERM; do trap "got=1; kill -$s -1 2>/dev/null" $s; done
got=
"$@" &
p=$!
wait $p; status=$?
while [ "$got" ]; do got=; wait $p; again=$?; [ $again = 127 ] || status=$again; done
exit $status`

// heeding is put before such a script: after a signal its shell exits when the program
// that runs at that moment exits, as in the forwarder. It stays on the script's first
// line, so that error messages have the right line numbers.
const heeding = `trap exit HUP INT QUIT TERM; trap : USR1 USR2; `

// Process returns the process that a container runs for a command as people write it.
// The empty command means the image's own.
//
// If the image has a shell and no ENTRYPOINT, the command runs in /bin/sh, which
// expands config vars: a simple command with exec, so that it gets the signals, a
// compound one below the forwarder. An ENTRYPOINT or CMD in shell form counts as such a
// command, whatever its shell and options. With another ENTRYPOINT, or without a shell,
// Process splits and expands the command with env and passes it on as words; it refuses
// a command that needs a shell.
func Process(command string, img mesh.Image, env map[string]mesh.Secret) (mesh.Process, error) {
	if err := mesh.CheckCommand(command); err != nil {
		return mesh.Process{}, err
	}
	if command == "" {
		return own(img), nil
	}
	kind, err := classify(command)
	if err != nil {
		return mesh.Process{}, &mesh.Error{
			Kind: mesh.Failed, Text: fmt.Sprintf("the command %q cannot be read: %v", mesh.Clip(command, 80), err),
			Hint: "check its quotes; what works in sh -c works here", Err: err,
		}
	}
	if len(img.Entrypoint) == 0 && img.Shell {
		if words, plain := plainWords(command); kind == simple && plain { // "sh -c 'a; b'"
			if f, ok := shellForm(words); ok && f.kind == compound {
				return f.process(), nil
			}
		}
		return inShell("/bin/sh", command, kind), nil
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

// own returns the image's own ENTRYPOINT and CMD, unchanged unless they are in shell
// form.
func own(img mesh.Image) mesh.Process {
	if !img.Shell {
		return mesh.Process{} // exactly what the image says; starting it shows whether it works
	}
	words := slices.Concat(img.Entrypoint, img.Cmd)
	wrapper := 0
	if len(img.Entrypoint) > 0 {
		wrapper = initWords(words)
		if _, form := shellForm(img.Entrypoint); wrapper == 0 && !form {
			return mesh.Process{}
		}
	}
	f, ok := shellForm(words[wrapper:])
	if !ok {
		return mesh.Process{}
	}
	p := f.process()
	p.Entrypoint = slices.Concat(words[:wrapper], p.Entrypoint)
	return p
}

// initWords returns how many words start an init such as tini, which runs the words
// after them.
func initWords(words []string) int {
	if len(words) == 0 {
		return 0
	}
	switch path.Base(words[0]) {
	case "tini", "tini-static", "docker-init", "dumb-init", "catatonit":
	default:
		return 0
	}
	for i, w := range words[1:] {
		if w == "--" {
			return i + 2
		}
		if !strings.HasPrefix(w, "-") {
			return i + 1
		}
	}
	return 0
}

// script is a shell that runs a script: SHELL OPTIONS -c SCRIPT [NAME [ARGUMENT…]].
type script struct {
	shell  []string // with its options; only further options come after -c
	text   string
	rest   []string
	simple bool // no options but -c, and no arguments
	kind   commandKind
}

// shellForm parses words as a shell that runs a script. The options are those of sh
// (POSIX, Shell & Utilities, sh) and of bash.
func shellForm(words []string) (f script, ok bool) {
	i := 0
	if len(words) > 0 && path.Base(words[0]) == "env" {
		for i = 1; i < len(words) && (strings.Contains(words[i], "=") || words[i] == "-i"); i++ {
		}
	}
	if i < len(words) && (path.Base(words[i]) == "busybox" || path.Base(words[i]) == "toybox") {
		i++
	}
	if i >= len(words) || !isShell(words[i]) {
		return f, false
	}
	begin, c := i, false
	for i++; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "--" || w == "-":
			i++
		case w == "--rcfile" || w == "--init-file":
			i++
			continue
		case strings.HasPrefix(w, "--"):
			continue
		case len(w) > 1 && (w[0] == '-' || w[0] == '+'):
			c = c || w[0] == '-' && strings.ContainsRune(w, 'c')
			i += strings.Count(w, "o") + strings.Count(w, "O") // each takes a word
			continue
		}
		break
	}
	if !c || i >= len(words) {
		return f, false
	}
	f = script{shell: words[:i], text: words[i], rest: words[i+1:], simple: begin == 0 && i == 2 && words[1] == "-c" && i == len(words)-1}
	kind, err := classify(f.text)
	if err != nil {
		return f, false // the image's own shell reads it: mesh cannot judge it
	}
	f.kind = kind
	return f, true
}

// process returns the process that runs the script so that signals reach its programs.
func (f script) process() mesh.Process {
	switch {
	case f.simple:
		return inShell(f.shell[0], f.text, f.kind)
	case f.kind == simple:
		return mesh.Process{Entrypoint: f.shell, Cmd: append([]string{"exec " + f.text}, f.rest...)}
	case f.kind == replaced:
		return mesh.Process{Entrypoint: f.shell, Cmd: append([]string{f.text}, f.rest...)}
	}
	words := slices.Concat([]string{forwardTo, "sh"}, f.shell, []string{heeding + f.text}, f.rest)
	return mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: words}
}

// plainWords returns the words of a simple command that a shell would not change.
func plainWords(command string) (words []string, plain bool) {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(command), "")
	if err != nil || len(file.Stmts) != 1 {
		return nil, false
	}
	call, ok := file.Stmts[0].Cmd.(*syntax.CallExpr)
	if !ok {
		return nil, false
	}
	plain = true
	syntax.Walk(call, func(n syntax.Node) bool {
		switch n.(type) {
		case nil, *syntax.CallExpr, *syntax.Word, *syntax.Lit, *syntax.SglQuoted, *syntax.DblQuoted:
		default:
			plain = false
		}
		return plain
	})
	if !plain {
		return nil, false
	}
	words, err = shell.Fields(command, func(string) string { return "" })
	return words, err == nil
}

func isShell(name string) bool {
	switch path.Base(name) {
	case "sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "yash":
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

// commandKind is how a command must run so that signals reach it.
type commandKind int

const (
	compound commandKind = iota
	simple               // one program and its words
	replaced             // begins with exec itself
)

// builtins cannot be run with exec: they are part of the shell (POSIX Shell Command
// Language 2.14 and 1.6, and dash's additions).
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
		return 0, errors.New("it contains a NUL")
	}
	if len(command) > mesh.MaxCommand {
		return compound, nil // an image's own command: nesting makes the parser's stack grow
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(command), "")
	if err != nil {
		// It may be a bash-only form: the image's own shell decides.
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

// startsWithVariable reports whether a word is one expansion or quoted text, which exec
// can run like a plain word.
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

// CheckCommand returns an error for a command line that a shell cannot read.
func CheckCommand(line string) error {
	_, err := classify(line)
	return err
}
