package runner_test

import (
	"mesh/deploy"
	"mesh/runner"
)

var _ deploy.Runner = (*runner.Runner)(nil)
