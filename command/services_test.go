package command_test

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"mesh"
)

func (f *fake) UpdateService(context.Context, mesh.StackName, mesh.KeyName, mesh.ServiceName, func(*mesh.ServiceSettings), io.Writer) error {
	return nil
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
