package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"mesh"
	"mesh/command"
)

// client runs a command on the server that is found first: by --host or
// MESH_HOST, by the git remote "mesh" of the current directory, by the local
// socket.
func client(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	opt, words, err := clientOptions(args)
	if err != nil {
		return err
	}
	if ejects(words) {
		return eject(words, opt.asker(stderr), stderr)
	}
	words, stdin, sent, err := deploySource(words, stdin, stderr)
	if err != nil {
		return err
	}
	err = opt.run(words, stdin, stdout, stderr)
	if f, ok := stdin.(*os.File); ok && sent != nil {
		_ = f.Close() // who still writes there is told so
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

// server is where --host or the checkout's git remote lead, unless the socket is
// meant.
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

// deploySource replaces standard input by the working directory when words deploy
// it.
func deploySource(words []string, stdin io.Reader, stderr io.Writer) ([]string, io.Reader, <-chan error, error) {
	dockerfile, ok := isDeploy(words)
	if !ok {
		return words, stdin, nil, nil
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

// asker runs commands on the server that is named: by --host, the socket of --data
// or the git remote. It is nil when none is.
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
	local      bool // --data was given: the socket is meant
}

// clientOptions takes the client's own options off the front.
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

// destination is a server over SSH.
type destination struct {
	user, host, port string
	stack            string // that the git remote names
}

// hostName is what may be handed to ssh as a host: nothing that it could take for
// an option, and nothing that a ProxyCommand could take for more than a name.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$|^[0-9a-fA-F:]+(%[A-Za-z0-9]+)?$`)

var userName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

func badHost(s string) error {
	return mesh.Errorf(mesh.Invalid, "%q names no server", mesh.Clip(s, 80)).WithHint("give ssh://mesh@HOST:PORT or HOST[:PORT]")
}

// parseHost reads "ssh://mesh@host:port" or "[user@]host[:port]".
func parseHost(s string) (destination, error) {
	raw := s
	if !strings.Contains(raw, "://") {
		raw = "ssh://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "ssh" || !hostName.MatchString(u.Hostname()) {
		return destination{}, badHost(s)
	}
	d := destination{user: u.User.Username(), host: u.Hostname(), port: u.Port(), stack: stackOf(u.Path)}
	if d.user != "" && !userName.MatchString(d.user) {
		return destination{}, badHost(s)
	}
	return d, nil
}

// stackOf is the stack that the path of a remote names.
func stackOf(path string) string {
	path = strings.TrimPrefix(strings.TrimPrefix(path, "/"), "~/")
	name, err := mesh.ParseStackName(strings.TrimSuffix(strings.TrimSuffix(path, "/"), ".git"))
	if err != nil {
		return ""
	}
	return string(name)
}

// remote reads the git remote "mesh" of the current directory, in either form
// that git has: a URL or host:path.
func remote() (destination, bool) {
	out, err := exec.CommandContext(context.Background(), "git", "remote", "get-url", "--push", "mesh").Output()
	if err != nil {
		return destination{}, false
	}
	s := strings.TrimSpace(string(out))
	if strings.Contains(s, "://") {
		d, err := parseHost(s)
		return d, err == nil
	}
	at, path, ok := strings.Cut(s, ":")
	user, host, named := strings.Cut(at, "@")
	if !named {
		user, host = "", at
	}
	if !ok || strings.Contains(at, "/") || !hostName.MatchString(host) || user != "" && !userName.MatchString(user) {
		return destination{}, false
	}
	return destination{user: user, host: host, stack: stackOf(path)}, true
}

// run hands the words to the system's ssh, so that the user's own configuration,
// agent and known hosts apply.
func (d destination) run(words []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if d.stack != "" {
		words = append([]string{"-a", d.stack}, words...)
	}
	argv := []string{"ssh"}
	if g := os.Getenv("GIT_SSH_COMMAND"); g != "" {
		// As git has it: a command line for the shell.
		argv = []string{"/bin/sh", "-c", g + ` "$@"`, g}
	} else if g := os.Getenv("GIT_SSH"); g != "" {
		argv = []string{g}
	}
	if d.port != "" {
		argv = append(argv, "-p", d.port)
	}
	if openSSH(argv) {
		var set []string // in one option: of several only the first counts
		for _, kv := range environment(stdout, stderr) {
			set = append(set, kv[0]+"="+kv[1])
		}
		if len(set) > 0 {
			argv = append(argv, "-o", "SetEnv="+strings.Join(set, " "))
		}
	}
	if interactive(words) && isTerminal(stdin) && isTerminal(stdout) {
		argv = append(argv, "-t")
	}
	target := d.host
	if d.user != "" {
		target = d.user + "@" + d.host
	}
	// "--": ssh looks for options behind the host, too, and the words may begin with
	// one.
	argv = append(argv, "--", target, command.Join(words))
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:gosec,noctx // ssh is what the user asked for, and ends with the terminal
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	// Ctrl-C reaches ssh as well, which is in the same process group; its status is
	// ours.
	// (Not ignored: ssh would inherit that.)
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	err := cmd.Run()
	var ee *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ee) && ee.ExitCode() == 255 && interrupted(interrupts):
		return mesh.ExitCode(130) // ssh's own status for being interrupted is 255
	case errors.As(err, &ee) && ee.ExitCode() >= 0:
		return mesh.ExitCode(ee.ExitCode())
	case errors.As(err, &ee):
		return mesh.ExitCode(130)
	}
	return mesh.Errorf(mesh.Unavailable, "ssh cannot be run: %w", err).WithHint("install OpenSSH's client, for example with: apt-get install openssh-client")
}

// interrupted tells whether there was a Ctrl-C. The terminal signals ssh and us at
// the same time, and ssh may be the first to have ended: on a machine whose
// processors are busy, or rationed, by more than a tenth of a second.
func interrupted(signals <-chan os.Signal) bool {
	select {
	case <-signals:
		return true
	case <-time.After(500 * time.Millisecond):
		return len(signals) > 0
	}
}

// openSSH tells whether the command that is run as ssh is one that knows -o.
func openSSH(argv []string) bool {
	if argv[0] == "/bin/sh" {
		first, _, _ := strings.Cut(argv[len(argv)-1], " ") // GIT_SSH_COMMAND, whose name comes last
		return filepath.Base(first) == "ssh"
	}
	return filepath.Base(argv[0]) == "ssh"
}

// environment is what the server is told of the client's: whether a person looks
// at all of the output, how wide the screen is, and whether colours are wanted.
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

// interactive tells whether a command wants a terminal when there is one.
func interactive(words []string) bool {
	words = afterStack(words)
	return len(words) > 0 && (words[0] == "run" || words[0] == "enter")
}

// afterStack is what follows the options that name a stack at the front.
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

// local speaks SSH over the server's own socket, which lets its owner in.
func local(socket string, words []string, stdin io.Reader, stdout, stderr io.Writer) error {
	conn, err := new(net.Dialer).DialContext(context.Background(), "unix", socket)
	if err != nil {
		return mesh.Errorf(mesh.Unavailable, "no mesh server answers at %s: %w", socket, err).
			WithHint("start one with: mesh serve; or name one with --host ssh://mesh@HOST:PORT, --data DIR, or a git remote called mesh")
	}
	// The socket's path and mode are what is trusted, not the key behind it.
	sc, chans, reqs, err := ssh.NewClientConn(conn, "mesh", &ssh.ClientConfig{User: "local", HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // see above
	if err != nil {
		return fmt.Errorf("speak to the server at %s: %w", socket, err)
	}
	c := ssh.NewClient(sc, chans, reqs)
	defer func() { _ = c.Close() }()
	s, err := c.NewSession()
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	for _, kv := range environment(stdout, stderr) {
		_ = s.Setenv(kv[0], kv[1])
	}
	in, err := s.StdinPipe() // not s.Stdin: Wait would wait for the end of ours
	if err != nil {
		return err
	}
	s.Stdout, s.Stderr = stdout, stderr
	restore := func() {}
	defer func() { restore() }()
	if interactive(words) && isTerminal(stdin) && isTerminal(stdout) {
		if restore, err = terminal(s, stdin.(*os.File)); err != nil {
			return err
		}
	}
	if err := s.Start(command.Join(words)); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(in, stdin)
		_ = in.Close()
	}()
	err = s.Wait()
	var ee *ssh.ExitError
	if errors.As(err, &ee) {
		return mesh.ExitCode(ee.ExitStatus())
	}
	var missing *ssh.ExitMissingError
	if errors.As(err, &missing) {
		return mesh.Errorf(mesh.Unavailable, "the server went away").WithHint("see whether it runs, and its log")
	}
	return err
}

// terminal puts the local terminal into raw mode and gives the session one of the
// same size, which follows.
func terminal(s *ssh.Session, tty *os.File) (restore func(), err error) {
	w, h, err := term.GetSize(int(tty.Fd()))
	if err != nil {
		return func() {}, err
	}
	if err := s.RequestPty(os.Getenv("TERM"), h, w, ssh.TerminalModes{}); err != nil {
		return func() {}, err
	}
	old, err := term.MakeRaw(int(tty.Fd()))
	if err != nil {
		return func() {}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	sizes := make(chan os.Signal, 1)
	signal.Notify(sizes, syscall.SIGWINCH)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-sizes:
				if w, h, err := term.GetSize(int(tty.Fd())); err == nil {
					_ = s.WindowChange(h, w)
				}
			}
		}
	}()
	return func() {
		cancel()
		signal.Stop(sizes)
		_ = term.Restore(int(tty.Fd()), old)
	}, nil
}
