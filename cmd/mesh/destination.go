package main

import (
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"

	"mesh"
	"mesh/command"
)

// destination is a server reached over SSH.
type destination struct {
	user, host, port string
	stack            string // named by the git remote
}

// hostName matches hosts that are safe to pass to ssh: nothing that it could take for
// an option, and nothing that a ProxyCommand could take for more than a name.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$|^[0-9a-fA-F:]+(%[A-Za-z0-9]+)?$`)

var userName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

func badHost(s string) error {
	return mesh.Errorf(mesh.Invalid, "%q is not a server address", mesh.Clip(s, 80)).WithHint("use ssh://mesh@HOST:PORT or HOST[:PORT]")
}

// parseHost parses "ssh://mesh@host:port" or "[user@]host[:port]".
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

// stackOf returns the stack in the path of a remote.
func stackOf(path string) string {
	path = strings.TrimPrefix(strings.TrimPrefix(path, "/"), "~/")
	name, err := mesh.ParseStackName(strings.TrimSuffix(strings.TrimSuffix(path, "/"), ".git"))
	if err != nil {
		return ""
	}
	return string(name)
}

// remote reads the git remote "mesh" of the current directory, in either of git's
// forms: a URL or host:path.
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

// run passes the words to the system's ssh, so that the user's own configuration, agent
// and known hosts apply.
func (d destination) run(words []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if d.stack != "" {
		words = append([]string{"-a", d.stack}, words...)
	}
	argv := d.ssh()
	if openSSH(argv) {
		var set []string // in one option: ssh uses only the first of several
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
	// "--": ssh also looks for options after the host, and the words may begin with
	// one.
	argv = append(argv, "--", d.target(), command.Join(words))
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:gosec,noctx // ssh is what the user asked for, and ends with the terminal
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	// Ctrl-C also reaches ssh, which is in the same process group. Return ssh's status.
	// Do not ignore the signal: ssh would inherit that.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	err := cmd.Run()
	var ee *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ee) && ee.ExitCode() == 255 && interrupted(interrupts):
		return mesh.ExitCode(130) // ssh itself exits with 255 when interrupted
	case errors.As(err, &ee) && ee.ExitCode() >= 0:
		return mesh.ExitCode(ee.ExitCode())
	case errors.As(err, &ee):
		return mesh.ExitCode(130)
	}
	return noSSH(err)
}

func noSSH(err error) error {
	return mesh.Errorf(mesh.Unavailable, "ssh cannot be run: %w", err).WithHint("install OpenSSH's client, for example with: apt-get install openssh-client")
}

// ssh returns the beginning of the command line of ssh, which also names the port.
func (d destination) ssh() []string {
	argv := []string{"ssh"}
	if g := os.Getenv("GIT_SSH_COMMAND"); g != "" {
		// As in git: a command line for the shell.
		argv = []string{"/bin/sh", "-c", g + ` "$@"`, g}
	} else if g := os.Getenv("GIT_SSH"); g != "" {
		argv = []string{g}
	}
	if d.port != "" {
		argv = append(argv, "-p", d.port)
	}
	return argv
}

// target is the host, with the user if one was named.
func (d destination) target() string {
	if d.user != "" {
		return d.user + "@" + d.host
	}
	return d.host
}
