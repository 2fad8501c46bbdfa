// Command mesh is a git-push PaaS: the server (mesh serve) and its client (mesh
// COMMAND). See docs/commands.md for the commands.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"mesh"
	"mesh/command"
	"mesh/deploy"
)

// version is set by the linker: see the Makefile.
var version = ""

// Version returns the version of this binary.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// program is the binary, with the settings that tests change.
type program struct {
	version string
	labels  map[string]string         // put on all containers and networks
	reached func(deploy.Step, string) // called at each step of a deployment; see deploy.Options
	maxPush int64                     // bytes of one push; 0: the default
	engine  time.Duration             // how long the engine may take to answer; 0: the default

	alertsEvery time.Duration // between two looks for alerts; 0: the default

	agent string // the binary that agents run; empty: this one

	ahead time.Duration // by how much the clock of schedules and deployments is set ahead
}

func main() {
	os.Exit(program{version: Version()}.main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// main runs one command line and returns its exit status.
func (p program) main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	err := p.run(args, stdin, stdout, stderr)
	var exit mesh.ExitCode
	if errors.As(err, &exit) {
		return int(exit)
	}
	if err != nil {
		printError(stderr, err)
	}
	return mesh.ExitStatus(err)
}

func (p program) run(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	switch {
	case len(args) > 0 && args[0] == "serve":
		return p.serveMain(args[1:], stdout, stderr)
	case len(args) > 0 && (args[0] == "version" || args[0] == "help" || args[0] == "completion"):
		return command.Here(p.version, args, stdout, stderr)
	case len(args) > 0 && args[0] == "--version":
		return command.Here(p.version, append([]string{"version"}, args[1:]...), stdout, stderr)
	case len(args) > 0 && (args[0] == "--help" || args[0] == "-h"):
		return command.Here(p.version, append([]string{"help"}, args[1:]...), stdout, stderr)
	case len(args) > 0 && args[0] == "__complete":
		command.Complete(stdout, args[1:])
		return nil
	case len(args) > 0 && args[0] == "__settings":
		documentSettings(stdout)
		return nil
	case len(args) > 0 && args[0] == "agent":
		return p.agentMain(stderr)
	case len(args) > 0 && args[0] == "confine":
		return confineMain(args[1:], stdout)
	case len(args) > 0 && args[0] == "firewall":
		return firewallMain(args[1:], stdout)
	case len(args) > 0 && args[0] == "standby":
		return standbyMain(args[1:], stdout, stderr)
	case len(args) > 0 && args[0] == "restore":
		return restoreMain(args[1:], stdin, stdout, stderr)
	}
	return client(args, stdin, stdout, stderr)
}

func printError(w io.Writer, err error) {
	var reported *mesh.Reported
	if errors.As(err, &reported) {
		return
	}
	var all interface{ Unwrap() []error }
	var e *mesh.Error
	if _, one := err.(*mesh.Error); !one && errors.As(err, &all) { //nolint:errorlint // several errors at once, each printed separately
		for _, err := range all.Unwrap() {
			printError(w, err)
		}
		return
	}
	if !errors.As(err, &e) {
		_, _ = fmt.Fprintf(w, "error: %v\n", err)
		return
	}
	_, _ = fmt.Fprintf(w, "error: %s\n", err)
	if e.Hint != "" {
		_, _ = fmt.Fprintf(w, "hint:  %s\n", e.Hint)
	}
}
