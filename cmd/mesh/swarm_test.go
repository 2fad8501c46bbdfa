package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"
)

// swarms counts those of this process: scripts may run side by side.
var swarms atomic.Int32

// cmdSwarm makes several machines of this one, with scripts/swarm: "swarm up N". The commands swarm
// and node are on the path afterwards: "swarm in 1 CMD", "node 2 docker ps". A binary for the
// agents is built, because this one needs libraries. "swarm ready N" waits until so many nodes
// are used. "swarm registry" starts an image registry at $REGISTRY, which all nodes reach, for the user
// ann with the password secret. Everything is gone after the script. $SWARM_NET.11 is the address of the first node.
func cmdSwarm(ts *testscript.TestScript, neg bool, args []string) {
	if !neg && len(args) == 1 && args[0] == "registry" {
		startRegistry(ts)
		return
	}
	if neg || len(args) != 2 {
		ts.Fatalf("usage: swarm up N | swarm ready N | swarm registry")
	}
	if args[0] == "ready" {
		if err := poll(func() error {
			out, err := exec.Command(filepath.Join(ts.Getenv("WORK"), "bin", "ssh"), "mesh", "nodes").CombinedOutput()
			if err == nil && fmt.Sprint(strings.Count(string(out), " ready ")) != args[1] {
				err = fmt.Errorf("not %s nodes are used:\n%s", args[1], out)
			}
			return err
		}); err != nil {
			log, _ := os.ReadFile(filepath.Join(ts.Getenv("WORK"), "server.log"))
			ts.Fatalf("%v\nlog of mesh:\n%s", err, log)
		}
		return
	}
	root, err := filepath.Abs("../..")
	ts.Check(err)
	work := ts.Getenv("WORK")
	dir, n := filepath.Join(work, "swarm"), swarms.Add(1)
	network, id := fmt.Sprintf("10.99.%d", 8+n), fmt.Sprintf("mt%d", n)
	for k, v := range map[string]string{
		"SWARM_DIR": dir, "SWARM_NET": network, "SWARM_ID": id, "MESH_SSH_ADDR": network + ".11:0", "MESH_HTTP_ADDR": network + ".11:0", "MESH_TEST_AGENT": filepath.Join(work, "agent"),
	} {
		ts.Setenv(k, v)
	}
	run := func(name string, args ...string) {
		cmd := exec.Command(name, args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "SWARM_DIR="+dir, "SWARM_NET="+network, "SWARM_ID="+id, "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			ts.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	script := filepath.Join(root, "scripts", "swarm")
	run(script, "down") // of a run that was killed
	ts.Defer(func() { run(script, "down") })
	built := make(chan error, 1)
	go func() {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(work, "agent"), "./cmd/mesh")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("build the agent: %w\n%s", err, out)
		}
		built <- err
	}()
	run(script, "up", args[1])
	ts.Check(<-built)
	ts.Check(os.WriteFile(filepath.Join(work, "bin", "swarm"), fmt.Appendf(nil, "#!/bin/sh\nexec %s \"$@\"\n", script), 0o700))                                          //nolint:gosec // a script
	ts.Check(os.WriteFile(filepath.Join(work, "bin", "node"), []byte("#!/bin/sh\nn=$1; shift\nDOCKER_HOST=unix://$SWARM_DIR/n$n/run/docker.sock exec \"$@\"\n"), 0o700)) //nolint:gosec // a script
}

func startRegistry(ts *testscript.TestScript) {
	l, err := net.Listen("tcp", ts.Getenv("SWARM_NET")+".1:0")
	ts.Check(err)
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if user, password, _ := q.BasicAuth(); user != "ann" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, q)
	})}
	go func() { _ = s.Serve(l) }()
	ts.Defer(func() { _ = s.Close() })
	ts.Setenv("REGISTRY", l.Addr().String())
}
