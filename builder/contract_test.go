package builder_test

import (
	"testing"

	"mesh"
	"mesh/deploy/deploytest"
)

func TestBuilder_Contract(t *testing.T) {
	t.Parallel()
	b, other := newBench(t), newBench(t)
	deploytest.TestBuilder(t, deploytest.Workshop{
		Builder: b.Builder, Stack: b.stack, Other: other.stack,
		Good: tree{"Dockerfile": from("COPY Dockerfile /"), "other": "1"},
		Bad:  tree{"Dockerfile": from("RUN echo why; exit 3")},
		Request: func(files mesh.Tree, tag string) mesh.Build {
			r := b.req(nil)
			r.Tree, r.Tags = files, []string{"mesh/" + string(b.stack) + ":" + tag}
			return r
		},
	})
}
