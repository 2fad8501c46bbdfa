package receiver

import (
	"context"

	"mesh"
)

// Audit keeps nothing: the tests here are about who gets in.
func (fakeDeployer) Audit(context.Context, mesh.KeyName, mesh.StackName, string, error) {}

// Life is that of a stack that is never destroyed.
func (fakeDeployer) Life(mesh.StackName) context.Context { return context.Background() }
