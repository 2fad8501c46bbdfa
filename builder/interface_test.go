package builder_test

import (
	"mesh/builder"
	"mesh/deploy"
)

var _ deploy.Builder = (*builder.Builder)(nil)
