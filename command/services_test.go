package command_test

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"

	"mesh"
)

func (f *fake) UpdateService(_ context.Context, _ mesh.StackName, _ mesh.KeyName, name mesh.ServiceName, change func(*mesh.ServiceSettings) error, _ io.Writer) error {
	s := f.stacks[0].Services[name]
	if err := change(&s); err != nil {
		return err
	}
	if f.stacks[0].Services == nil {
		f.stacks[0].Services = map[mesh.ServiceName]mesh.ServiceSettings{}
	}
	f.stacks[0].Services[name] = s
	return nil
}

func TestServiceConfig(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	f.stacks[0].Config = mesh.Config{"A": mesh.NewSecret("stack"), "S": mesh.NewSecret("a b")}
	for _, tc := range []struct {
		line, stdin string
		status      int
		says        string
		want        map[string]string
	}{
		{"svc:update worker --env A=x=y --env B=-", "line one\nline two\n", 0, "updated worker", map[string]string{"A": "x=y", "B": "line one\nline two"}},
		{"svc:update worker --unset-env A --env C=", "", 0, "updated worker", map[string]string{"B": "line one\nline two", "C": ""}},
		{"svc:update worker --unset-env A", "", 1, "worker has no config var A of its own", nil},
		{"svc:update worker --unset-env B --env B=1", "", 2, "B is given twice", nil},
		{"svc:update worker --env B=1 --env B=hush", "", 2, "B is given twice", nil},
		{"svc:update worker --env hush", "", 2, "--env is not NAME=VALUE", nil},
		{"svc:update worker --env PORT=hush", "", 2, "PORT cannot be set", nil},
		{"svc:update worker --env MESH_STACK=hush", "", 2, "MESH_", nil},
		{"svc:update worker --unset-env 1A", "", 2, "1A", nil},
		{"svc:update worker --env A=- --env B=-", "", 2, "only one value", nil},
		{"svc:update worker --memory 64m", "", 0, "updated worker", nil},
	} {
		before := f.stacks[0].Services["worker"].Config
		r := do(t, f, tc.line, stdin(tc.stdin))
		if r.status != tc.status || !strings.Contains(r.out+r.err, tc.says) || strings.Contains(r.out+r.err, "hush") {
			t.Errorf("%s: %d, %s%s", tc.line, r.status, r.out, r.err)
		}
		got := f.stacks[0].Services["worker"].Config
		if tc.want == nil && !got.Equal(before) || tc.want != nil && len(got) != len(tc.want) {
			t.Errorf("%s: %v", tc.line, got.Names())
		}
		for k, v := range tc.want {
			if got[k].Reveal() != v {
				t.Errorf("%s: %s=%q", tc.line, k, got[k].Reveal())
			}
		}
	}
	for line, want := range map[string]string{
		"config -p worker":        "A  # set for blog\nB  # set for worker\nC  # set for worker\nS  # set for blog\n",
		"config":                  "A\nS\n",
		"config --show":           "A=stack\nS='a b'\n",
		"config -p worker --show": "A=stack  # set for blog\nB='line one\nline two'  # set for worker\nC=''  # set for worker\nS='a b'  # set for blog\n",
	} {
		if r := do(t, f, line); r.status != 0 || r.out != want {
			t.Errorf("%s: %d, %q, %s", line, r.status, r.out, r.err)
		}
	}
	f.stacks[0].Services["worker"].Config["A"] = mesh.NewSecret("own")
	if r := do(t, f, "config -p worker --json"); r.status != 0 || !strings.Contains(r.out, `"A": "service"`) || !strings.Contains(r.out, `"S": "stack"`) {
		t.Errorf("%d, %s", r.status, r.out)
	}
	if r := do(t, f, "config -p worker"); !strings.HasPrefix(r.out, "A  # set for worker, over that of blog\n") {
		t.Errorf("%s", r.out)
	}
	if r := do(t, f, "config -p nosuch"); r.status != 1 || !strings.Contains(r.err, `blog has no service "nosuch"`) {
		t.Errorf("%d, %s", r.status, r.err)
	}
	if r := do(t, f, "svc --json"); !strings.Contains(r.out, `"C"`) || strings.Contains(r.out, "line") {
		t.Errorf("%s", r.out)
	}
}

// The audit log has the names of vars, and no value, however a shell has split it.
func TestServiceConfig_Audit(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"svc:update worker --env A=hush --unset-env B --env C=d": "svc:update worker --env A --env C --unset-env B worker has no config var B of its own",
		"svc:update worker --env A=hush":                         "svc:update worker --env A <nil>",
		"svc:update worker --env hush":                           "svc:update worker --env is not NAME=VALUE",
	} {
		f := stacks("blog")
		do(t, f, line)
		if len(f.audited) != 1 || !strings.HasPrefix(f.audited[0], want) || strings.Contains(f.audited[0], "hush") {
			t.Errorf("%s: %q", line, f.audited)
		}
	}
	f := stacks("blog")
	do(t, f, "svc:update worker --env A=my hush", as(mesh.Key{Name: "r", Role: mesh.RoleRead}))
	if len(f.audited) != 1 || strings.Contains(f.audited[0], "hush") || !strings.HasPrefix(f.audited[0], "svc:update … ") {
		t.Errorf("%q", f.audited)
	}
}

func (f *fake) DeleteService(context.Context, mesh.StackName, mesh.KeyName, mesh.ServiceName, io.Writer) error {
	return nil
}

func (f *fake) SetReleaseCommand(context.Context, mesh.StackName, string) error { return nil }

func (f *fake) Lock(context.Context, mesh.StackName, mesh.KeyName, string) (mesh.Stack, error) {
	return mesh.Stack{Lock: &mesh.Lock{}}, nil
}

func (f *fake) Unlock(context.Context, mesh.StackName) error { return nil }

func (f *fake) SetMaintenance(_ context.Context, _ mesh.StackName, on bool, page string, spared []netip.Prefix) error {
	st := &f.stacks[0]
	st.Maintained, st.Page, st.Spared = on, page, spared
	return nil
}

func (f *fake) AuditLog(context.Context, mesh.StackName, int) ([]mesh.AuditEntry, error) {
	return nil, nil
}

func (f *fake) Audit(_ context.Context, _ mesh.KeyName, _ mesh.StackName, action string, err error) {
	f.audited = append(f.audited, fmt.Sprint(action, " ", err))
}
