package command_test

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mesh"
)

// fakeNodes are two nodes, and do nothing but note what they are asked.
type fakeNodes struct{ *fake }

func (f fakeNodes) NodeList(context.Context) ([]mesh.Node, map[string]int, error) {
	return []mesh.Node{
		{ID: "aaa", Name: "one", Addr: netip.MustParseAddr("10.0.0.1"), Manager: true, Self: true, Ready: true, Engine: "29.1", Arch: "x86_64", CPUs: 2, Memory: 8 << 30},
		{ID: "bbb", Name: "two", Addr: netip.MustParseAddr("10.0.0.2"), Ready: true, Fault: "its agent is not connected", Engine: "29.1", CPUs: 4, Memory: 16 << 30, Labels: map[string]string{"zone": "b", "disk": "ssd"}},
		{ID: "ccc", Name: "three", Addr: netip.MustParseAddr("10.0.0.3"), Drained: true, Ready: true},
		{ID: "ddd", Name: "four", Addr: netip.MustParseAddr("10.0.0.4"), Drained: true},
	}, map[string]int{"aaa": 3}, nil
}

func (f fakeNodes) EnableNodes(_ context.Context, addr netip.Addr, by mesh.KeyName, _ io.Writer) error {
	f.do("enable %v by %s", addr, by)
	return nil
}

func (f fakeNodes) DisableNodes(_ context.Context, by mesh.KeyName, _ io.Writer) error {
	f.do("disable by %s", by)
	return nil
}

func (f fakeNodes) InviteNode(context.Context, mesh.KeyName) (mesh.Secret, string, time.Time, error) {
	return mesh.NewSecret("https://10.0.0.1:2378/nodes/s3cret"), "sha256//abc=", now, nil
}

func (f fakeNodes) DrainNode(_ context.Context, name string, _ mesh.KeyName, _ io.Writer) error {
	f.do("drain %s", name)
	return nil
}

func (f fakeNodes) ActivateNode(_ context.Context, name string, _ mesh.KeyName) error {
	f.do("activate %s", name)
	return nil
}

func (f fakeNodes) RemoveNode(_ context.Context, name string, _ mesh.KeyName, _ io.Writer) error {
	f.do("remove %s", name)
	return nil
}

func (f fakeNodes) LabelNode(_ context.Context, name string, labels map[string]string, _ mesh.KeyName) error {
	f.do("label %s %v", name, labels)
	return nil
}

func TestNodes(t *testing.T) {
	t.Parallel()
	f := full()
	reader := mesh.Key{Name: "ci", Role: mesh.RoleDeploy}
	for _, c := range []struct {
		line, did, out, err string
		status              int
		opts                []option
	}{
		{line: "nodes", out: "one    manager  ready                                 10.0.0.1  29.1    3          2     8GiB    (mesh)\n"},
		{line: "nodes", out: "two    worker   not used: its agent is not connected  10.0.0.2  29.1    0          4     16GiB   disk=ssd zone=b\n"},
		{line: "nodes", out: "four   worker   down"},
		{line: "nodes --json", out: `"state": "drained"`},
		{line: "nodes", status: 1, err: "may not use nodes", opts: []option{as(reader)}},
		{line: "nodes:join", status: 1, err: "may not use nodes:join", opts: []option{as(reader)}},
		{line: "nodes:enable", did: "enable invalid IP by laptop", out: "nodes enabled\n"},
		{line: "nodes:enable --advertise-addr 10.0.0.1", did: "enable 10.0.0.1 by laptop"},
		{line: "nodes:enable --advertise-addr 127.0.0.1", status: 2, err: `"127.0.0.1" is not an address at which other machines reach this one`},
		{line: "nodes:enable --advertise-addr host", status: 2, err: "is not an address"},
		{line: "nodes:disable", did: "disable by laptop"},
		{line: "nodes:join", out: "curl -fsSk --pinnedpubkey 'sha256//abc=' https://10.0.0.1:2378/nodes/s3cret | sh\n", err: "It has a secret in it"},
		{line: "nodes:drain two", did: "drain two", out: "two is drained"},
		{line: "nodes:drain", status: 2},
		{line: "nodes:activate two", did: "activate two"},
		{line: "nodes:remove two", did: "remove two", out: "removed two\n"},
		{line: "nodes:label two zone=a disk=", did: "label two map[disk: zone:a]"},
		{line: "nodes:label two zone", status: 2, err: `"zone" is not LABEL=VALUE`},
		{line: "nodes:label two a/b=c", status: 2, err: "is not a label"},
		{line: "nodes:label two name=x", status: 2, err: "every node has the label name already"},
		{line: "nodes:label two mesh.drained=no", status: 2, err: "is not a label"},
		{line: "svc:update -a blog web --on zone", status: 2, err: `--on "zone" is not LABEL=VALUE`},
	} {
		f.did = nil
		r := do(t, f, c.line, c.opts...)
		if did := strings.Join(f.did, "; "); r.status != c.status || did != c.did || !strings.Contains(r.out, c.out) || !strings.Contains(r.err+fmt.Sprint(r.fault), c.err) {
			t.Errorf("%s: %d, %q, %q, %q %v", c.line, r.status, did, r.out, r.err, r.fault)
		}
	}
}
