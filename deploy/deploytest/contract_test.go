package deploytest_test

import (
	"context"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"mesh"
	"mesh/deploy/deploytest"
)

func TestRunner(t *testing.T) {
	t.Parallel()
	r := deploytest.NewRunner()
	r.Images = func(id string) bool { return id == "sha256:app" }
	deploytest.TestRunner(t, deploytest.Engine{
		Runner: r,
		Spec: mesh.InstanceSpec{
			Stack: "shop", Name: mesh.InstanceName{Service: "web", Slot: 1}, Release: 3, Deployment: 42, Fingerprint: "f1",
			Image: "sha256:app", Subnet: netip.MustParsePrefix("10.213.0.0/26"),
		},
		Exit:  func(code int) mesh.Process { return mesh.Process{Cmd: []string{"exit", strconv.Itoa(code)}} },
		Crash: func(id string) { r.Crash(id, 7) },
		Kill:  r.Kill,
	})
}

func TestRouter(t *testing.T) {
	t.Parallel()
	r := deploytest.NewRouter()
	deploytest.TestRouter(t, deploytest.Traffic{
		Router:  r,
		Targets: [2]mesh.Target{{ID: "a"}, {ID: "b"}},
		Ask:     r.Ask,
	})
}

func TestBuilder(t *testing.T) {
	t.Parallel()
	b := deploytest.NewBuilder()
	bad := deploytest.Tree{"Dockerfile": "FROM scratch\nRUN false\n"}
	b.BuildFunc = func(_ context.Context, m mesh.Build, _ io.Writer) error {
		if text, _, err := b.Dockerfile(m.Tree, mesh.Settings{}); err != nil || strings.Contains(text, "false") {
			return mesh.Errorf(mesh.Failed, "'RUN false' exited 1")
		}
		return nil
	}
	deploytest.TestBuilder(t, deploytest.Workshop{
		Builder: b, Stack: "shop", Other: "journal", Good: deploytest.Tree{"Dockerfile": "FROM scratch\nCOPY . /\n"}, Bad: bad,
		Request: func(tree mesh.Tree, tag string) mesh.Build {
			return mesh.Build{Stack: "shop", Commit: "c", Tree: tree, Tags: []string{"mesh/shop:" + tag}}
		},
	})
}

func TestRepos(t *testing.T) {
	t.Parallel()
	r := deploytest.NewRepos()
	state := mesh.RepoState{}
	r.Derive(func(context.Context, mesh.StackName) (mesh.RepoState, error) { return state, nil })
	deploytest.TestRepos(t, deploytest.Archive{
		Repos:    r,
		Push:     func(stack mesh.StackName, files map[string]string) mesh.Commit { return r.Commit(stack, files).Commit },
		Deployed: func(s mesh.RepoState) { state = s },
		Heads:    r.Heads,
	})
}
