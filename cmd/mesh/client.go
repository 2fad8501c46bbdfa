package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"mesh"
	"mesh/command"
)

// client runs a command on the first server that it finds: by --host or MESH_HOST, by
// the git remote "mesh" of the current directory, or by the local socket.
func client(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	opt, words, err := clientOptions(args)
	if err != nil {
		return err
	}
	if ejects(words) {
		return eject(words, opt.asker(stderr), stderr)
	}
	if b, ok, err := localBuildOf(words, opt.serverKnown); ok || err != nil {
		if err != nil {
			return err
		}
		return b.run(stdout, stderr)
	}
	if with, ok := edits(words); ok {
		return opt.editConfig(with, stdout, stderr)
	}
	if from, to, places, ok := copying(words); ok {
		return opt.copyFiles(words, from, to, places, stderr)
	}
	if rest, port, ok, err := proxying(words); ok || err != nil {
		if err != nil {
			return err
		}
		return opt.proxy(rest, port, stdout, stderr)
	}
	if words, stdin, err = valueOfFile(words, stdin); err != nil {
		return err
	}
	words, stdin, sent, err := deploySource(words, stdin, stderr)
	if err != nil {
		return err
	}
	err = opt.run(words, stdin, stdout, stderr)
	if f, ok := stdin.(*os.File); ok && sent != nil {
		_ = f.Close() // makes writes to it fail
		if serr := <-sent; serr != nil {
			return serr
		}
	}
	return err
}

// run finds the server and runs the command there.
func (o clientFlags) run(words []string, stdin io.Reader, stdout, stderr io.Writer) error {
	d, named, err := o.server()
	switch {
	case err != nil:
		return err
	case named:
		return d.run(words, stdin, stdout, stderr)
	}
	return local(filepath.Join(o.data, "mesh.sock"), words, stdin, stdout, stderr)
}

// server returns the server of --host or of the checkout's git remote, unless the
// socket was chosen.
func (o clientFlags) server() (d destination, named bool, err error) {
	if o.host != "" {
		d, err = parseHost(o.host)
		return d, true, err
	}
	if o.local {
		return d, false, nil
	}
	d, named = remote()
	return d, named, nil
}

// deploySource replaces standard input with the working directory if words deploy it.
func deploySource(words []string, stdin io.Reader, stderr io.Writer) ([]string, io.Reader, <-chan error, error) {
	dockerfile, ok := isDeploy(words)
	if !ok {
		return words, stdin, nil, nil
	}
	if err := command.Check(afterStack(words)); err != nil {
		return nil, nil, nil, err // before the tree is sent
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := openSource(context.Background(), dir, dockerfile)
	if err != nil {
		return nil, nil, nil, err
	}
	r, sent, err := s.pipe(stderr)
	return append(slices.Clone(words), "--source", s.what), r, sent, err
}

// valueOfFile replaces "config:set --file KEY=FILE" by "config:set KEY=-", with the file as
// standard input.
func valueOfFile(words []string, stdin io.Reader) ([]string, io.Reader, error) {
	i := slices.IndexFunc(words, func(w string) bool { return w == "--file" || strings.HasPrefix(w, "--file=") })
	if _, set := behind(afterStack(words), "config", "set"); i < 0 || !set {
		return words, stdin, nil
	}
	_, value, joined := strings.Cut(words[i], "=")
	end := i + 1
	if !joined {
		if end == len(words) {
			return nil, nil, mesh.Errorf(mesh.Invalid, "--file needs a value").WithHint("config:set --file KEY=FILE")
		}
		value = words[end]
		end++
	}
	key, path, ok := strings.Cut(value, "=")
	if !ok || key == "" || path == "" {
		return nil, nil, mesh.Errorf(mesh.Invalid, "--file takes KEY=FILE")
	}
	if slices.ContainsFunc(words[end:], func(w string) bool { return strings.HasPrefix(w, "--file") }) {
		return nil, nil, mesh.Errorf(mesh.Invalid, "only one --file can be sent at a time").WithHint("set them one after the other, or all at once with config:import")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, mesh.Errorf(mesh.Invalid, "%s cannot be read: %w", path, err)
	}
	return slices.Concat(words[:i], []string{key + "=-"}, words[end:]), bytes.NewReader(data), nil
}

// asker returns a function that runs commands on the chosen server: by --host, the
// socket of --data or the git remote. It returns nil if no server was chosen.
func (o clientFlags) asker(stderr io.Writer) func([]string, io.Writer) error {
	if _, named, _ := o.server(); !named && !o.local {
		return nil
	}
	return func(words []string, stdout io.Writer) error {
		return o.run(words, strings.NewReader(""), stdout, stderr)
	}
}

type clientFlags struct {
	host, data string
	local      bool // --data was given: use the socket
}

// clientOptions parses the client's own options at the front.
func clientOptions(args []string) (clientFlags, []string, error) {
	o := clientFlags{host: os.Getenv("MESH_HOST"), data: os.Getenv("MESH_DATA")}
	for len(args) > 0 {
		name, value, joined := strings.Cut(args[0], "=")
		if name != "--host" && name != "--data" {
			break
		}
		args = args[1:]
		if !joined {
			if len(args) == 0 {
				return o, nil, mesh.Errorf(mesh.Invalid, "%s needs a value", name)
			}
			value, args = args[0], args[1:]
		}
		if name == "--host" {
			o.host = value
		} else {
			o.data, o.local, o.host = value, true, ""
		}
	}
	if o.data == "" {
		o.data = defaultData()
	}
	return o, args, nil
}

// interrupted reports whether there was a Ctrl-C. The terminal signals ssh and mesh at
// the same time, and ssh may exit before mesh sees it: by more than a tenth of a second
// on a machine with busy or limited processors.
func interrupted(signals <-chan os.Signal) bool {
	select {
	case <-signals:
		return true
	case <-time.After(500 * time.Millisecond):
		return len(signals) > 0
	}
}

// openSSH reports whether the ssh command accepts -o.
func openSSH(argv []string) bool {
	if argv[0] == "/bin/sh" {
		first, _, _ := strings.Cut(argv[len(argv)-1], " ") // GIT_SSH_COMMAND, which has the program last
		return filepath.Base(first) == "ssh"
	}
	return filepath.Base(argv[0]) == "ssh"
}

// environment returns what the server should know about the client: whether a person
// looks at all of the output, how wide the screen is, and whether colours are wanted.
func environment(stdout, stderr io.Writer) (env [][2]string) {
	if f, ok := stdout.(*os.File); ok && isTerminal(stdout) && isTerminal(stderr) {
		width, _, err := term.GetSize(int(f.Fd()))
		if err != nil {
			width = 0
		}
		env = append(env, [2]string{mesh.EnvScreen, strconv.Itoa(width)})
	}
	if os.Getenv(mesh.EnvNoColor) != "" {
		env = append(env, [2]string{mesh.EnvNoColor, "1"})
	}
	return env
}

// interactive reports whether a command uses a terminal if there is one.
func interactive(words []string) bool {
	words = afterStack(words)
	return command.Terminal(words)
}

// behind returns what follows a command at the front of words, which may be written with a
// colon or with a blank.
func behind(words []string, topic, verb string) (rest []string, ok bool) {
	switch {
	case len(words) > 0 && words[0] == topic+":"+verb:
		return words[1:], true
	case len(words) > 1 && words[0] == topic && words[1] == verb:
		return words[2:], true
	}
	return nil, false
}

// afterStack returns the words after leading options that name a stack.
func afterStack(words []string) []string {
	for {
		_, n := command.StackOption(words)
		if n == 0 {
			return words
		}
		words = words[n:]
	}
}

func isTerminal(x any) bool {
	f, ok := x.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
