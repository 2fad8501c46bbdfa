package builder_test

import (
	"errors"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/reflect/protoreflect"

	"mesh"
	"mesh/builder"
)

// Each field of each message of an operation, each value of an enum, each attribute
// of a source and each capability has a row, so that a new BuildKit cannot add one
// that old engines silently drop.
func TestNeeds_KnowEveryField(t *testing.T) {
	t.Parallel()
	seen := map[protoreflect.FullName]bool{}
	rows := 0
	var walk func(protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] || m.IsMapEntry() || m.Name() == "Definition" { // of a BuildOp, which no Dockerfile makes
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			rows++
			if name := string(m.Name()) + "." + string(f.Name()); !builder.Needs(name) {
				t.Errorf("no row for the field %s", name)
			}
			if e := f.Enum(); e != nil {
				for j := range e.Values().Len() {
					if v := e.Values().Get(j); v.Number() != 0 && !builder.Needs(string(e.Name())+"."+string(v.Name())) {
						t.Errorf("no row for the value %s.%s", e.Name(), v.Name())
					}
				}
			}
			switch {
			case f.IsMap() && f.MapValue().Message() != nil:
				walk(f.MapValue().Message())
			case f.Message() != nil:
				walk(f.Message())
			}
		}
	}
	walk((&pb.Op{}).ProtoReflect().Descriptor())
	if rows < 100 {
		t.Errorf("only %d fields", rows)
	}
	for name, value := range constants(t, "attr.go") {
		if strings.HasPrefix(name, "AttrImageResolveMode") && name != "AttrImageResolveMode" || strings.HasPrefix(name, "AttrLocalDiffer") && name != "AttrLocalDiffer" {
			continue // values of one
		}
		if !builder.Needs(value) {
			t.Errorf("no row for the attribute %s", name)
		}
	}
	for name, value := range constants(t, "caps.go") {
		if !builder.InDocker2010(value) && !builder.HasDocker(value) {
			t.Errorf("no row for the capability %s", name)
		}
	}
}

// constants of a file of package pb.
func constants(t *testing.T, file string) map[string]string {
	t.Helper()
	p, err := build.Import("github.com/moby/buildkit/solver/pb", ".", build.FindOnly)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
			if lit, ok := v.Values[0].(*ast.BasicLit); ok {
				all[v.Names[0].Name], err = strconv.Unquote(lit.Value)
			}
		}
		return err == nil
	})
	if err != nil || len(all) < 10 {
		t.Fatalf("%d constants in %s, %v", len(all), file, err)
	}
	return all
}

// Features that this engine would drop are refused, with their line; the others
// build as written.
func TestBuild_RefusesWhatTheEngineWouldDrop(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	caps, err := b.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ line, capability, text, hint string }{
		{"COPY --exclude=*.log src/ /s/", "file.copy.includeexcludepatterns", "COPY --exclude needs Docker 23 or later on the server", ".dockerignore"},
		{"ADD --exclude=*.log src/ /s/", "file.copy.includeexcludepatterns", "ADD --exclude needs Docker 23 or later on the server", ".dockerignore"},
		{"COPY --parents s*/**/*.txt /p/", "file.copy.includeexcludepatterns", "COPY --parents needs Docker 23 or later on the server", "by name"},
		{"COPY --chmod=u=rwX,go=r src/s.txt /c", "gc.freespacefilter", "COPY --chmod=u=rwX,go=r needs Docker 27.4 or later on the server", "--chmod=644"},
		{"RUN --mount=type=secret,id=A,env=A true", "exec.secretenv", "RUN --mount=type=secret,env= needs Docker 23 or later on the server", "/run/secrets/NAME"},
		{"RUN --mount=type=tmpfs,target=/t,size=1m true", "exec.mount.tmpfs.size", "RUN --mount=type=tmpfs,size= needs Docker 23 or later on the server", "update Docker"},
		{"RUN --device=vendor.com/gpu=gpu1,required=false true", "exec.meta.cdi", "RUN --device needs Docker 28 or later on the server", "update Docker"},
		{"COPY --link src/s.txt /l", "", "", ""},
		{"COPY --parents src/s.txt /l/", "file.copy.includeexcludepatterns", "COPY --parents needs Docker 23 or later on the server", "by name"},
		{"COPY --chmod=640 --chown=1:1 src/s.txt /l", "", "", ""},
		{"RUN --mount=type=tmpfs,target=/t --network=none true", "", "", ""},
	} {
		req := b.req(tree{"Dockerfile": from("", c.line, "RUN echo never-"+string(b.stack)), "src/s.txt": "x", "src/skip.log": "x"})
		req.Config = mesh.Config{"A": mesh.NewSecret("1")}
		_, out, err := b.build(req)
		if c.text == "" || caps[c.capability] {
			if err != nil {
				t.Errorf("%s: %v", c.line, err)
			}
			continue
		}
		var e *mesh.Error
		if !errors.As(err, &e) || e.Text != "Dockerfile:3: "+c.text || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: got %v", c.line, err)
		}
		if strings.Contains(out.String(), "never-") {
			t.Errorf("%s: something was built", c.line)
		}
	}
}
