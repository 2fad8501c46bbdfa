package command_test

import (
	"context"
	"io"

	"mesh"
)

func (f *fake) UpdateService(context.Context, mesh.StackName, mesh.KeyName, mesh.ServiceName, func(*mesh.ServiceSettings), io.Writer) error {
	return nil
}

func (f *fake) DeleteService(context.Context, mesh.StackName, mesh.KeyName, mesh.ServiceName, io.Writer) error {
	return nil
}

func (f *fake) SetReleaseCommand(context.Context, mesh.StackName, string) error { return nil }
