package builder

import (
	"bytes"
	"io"
	"strings"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"mesh"
	"mesh/builder/detect"
)

// DeclaredArgs returns the names in order.
func DeclaredArgs(dockerfile string) ([]string, error) {
	res, err := parser.Parse(strings.NewReader(dockerfile))
	if err != nil {
		return nil, err
	}
	return declaredArgs(res.AST), nil
}

// Clean is what becomes of a line of output.
func Clean(s string) string { return clean([]byte(s)) }

// Shorten cuts a command.
var Shorten = shorten

// Tar writes a tree as a tar.
func Tar(t mesh.Tree, ignore []string, dockerfile string) ([]byte, error) {
	r, err := newFiles(t).tar(ignore, dockerfile)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var buf bytes.Buffer
	_, err = io.Copy(&buf, r)
	return buf.Bytes(), err
}

// Render renders statuses until ch is closed.
// The config vars with a name in lower case are build args.
func Render(w io.Writer, c mesh.Config, ch <-chan *bkclient.SolveStatus) {
	p := newPrinter(w, c)
	args := map[string]string{}
	for k, v := range c {
		if k == strings.ToLower(k) {
			args[k] = v.Reveal()
		}
	}
	p.declare(args)
	newRenderer(p).run(ch)
}

// Ignored is the ignore file of a managed build.
const Ignored = detect.Ignored
