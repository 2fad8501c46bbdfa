package command_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"mesh/command"
)

// typed finds the command lines in a text that says what to type.
var typed = regexp.MustCompile("(?:ssh mesh|mesh --data [^ ]+) ([a-z][a-z-]*(?::[a-z-]+)?(?: [^;,)`\\n]*)?)")

// stands replaces the verbs of fmt.
var stands = regexp.MustCompile(`%[-+ 0-9.]*[a-zA-Z]`)

// Every command that a text of mesh tells people to type exists, with its options and a
// valid number of arguments.
func TestHints_CanBeTyped(t *testing.T) {
	t.Parallel()
	root := ".."
	lines := map[string]string{} // the place of each line
	look := func(text, where string) {
		for _, m := range typed.FindAllStringSubmatch(text, -1) {
			lines[m[1]] = where
		}
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git" || d.Name() == "tmp" || d.Name() == "tools"):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil {
					look(text, files.Position(lit.Pos()).String())
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) < 50 {
		t.Fatalf("only %d lines were found", len(lines))
	}
	for line, where := range lines {
		words := stands.ReplaceAllStringFunc(line, func(v string) string {
			if strings.HasSuffix(v, "d") {
				return "7"
			}
			return "some"
		})
		words, _, _ = strings.Cut(words, " < ") // a redirection of the shell
		words, _, _ = strings.Cut(words, " > ")
		words, _, _ = strings.Cut(words, " | ")
		words = strings.TrimRight(words, " .:`'\"")
		if err := command.Parses(words); err != nil {
			t.Errorf("%s: %q cannot be typed: %v", where, words, err)
		}
	}
}

// A help line fits beside the command, and begins with a verb.
func TestHelp_LinesAreShort(t *testing.T) {
	t.Parallel()
	for name, short := range command.Shorts() {
		if len([]rune(short)) > 60 || short == "" || short[0] < 'A' || short[0] > 'Z' || strings.HasSuffix(short, ".") {
			t.Errorf("%s: %q has %d characters", name, short, len([]rune(short)))
		}
	}
}
