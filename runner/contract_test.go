package runner_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/docker/docker/api/types/container"

	"mesh"
	"mesh/deploy/deploytest"
)

func TestRunner_Contract(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	hand := func(id, signal string) {
		if err := cli.ContainerKill(context.WithoutCancel(t.Context()), id, signal); err != nil {
			t.Error(err)
		}
	}
	deploytest.TestRunner(t, deploytest.Engine{
		Runner: b.Runner,
		Spec:   b.spec("web", "serve", ":8080", "200"),
		Exit:   func(code int) mesh.Process { return mesh.Process{Cmd: []string{"exit", strconv.Itoa(code)}} },
		Crash:  func(id string) { get(t, id, "/exit") },
		Kill:   func(id string) { hand(id, "KILL") },
	})
}

// get requests a page from a running instance, from the machine.
func get(t *testing.T, id, path string) {
	t.Helper()
	x, err := cli.ContainerExecCreate(t.Context(), id, container.ExecOptions{Cmd: []string{"/app", "get", "http://127.0.0.1:8080" + path}})
	if err != nil {
		t.Fatal(err)
	}
	if err := cli.ContainerExecStart(t.Context(), x.ID, container.ExecStartOptions{Detach: true}); err != nil {
		t.Fatal(err)
	}
}
