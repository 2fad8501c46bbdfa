package builder_test

import (
	"archive/tar"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"mesh/builder"
)

func TestDeclaredArgs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"ARG A\nFROM x\nARG B=1\n", "A B"},
		{"FROM x\nARG A B=2 C\n", "A B C"},
		{"FROM x AS a\nARG A\nFROM a\narg b\nARG A\n", "A b"},
		{"FROM x\nRUN echo ARG Z\n# ARG Y\nRUN <<EOF\nARG H\nEOF\nARG Q\n", "Q"},
		{"# escape=`\nFROM x\nARG `\n  A\n", "A"},
		{"FROM x\nARG \\\n A=1 \\\n # comment\n B\n", "A B"},
		{"FROM x\nONBUILD ARG O\n", ""},
		{"ARG V=\"a b\"\nFROM x:${V}\n", "V"},
		{"# syntax=foo/bar\nINCLUDE+ base\nFROM x\nARG A\n", "A"},
		{"FROM x\nENV A=1\nARG \"Q\"=1\n", "Q"},
		{"\xef\xbb\xbfARG A\r\nFROM x\r\nARG B\r\n", "A B"},
	} {
		got, err := builder.DeclaredArgs(c.in)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%q: got %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func FuzzDeclaredArgs(f *testing.F) {
	f.Add("FROM x\nARG A=1 B\n")
	f.Add("RUN <<EOF\nARG A\nEOF\n")
	f.Fuzz(func(t *testing.T, s string) {
		names, _ := builder.DeclaredArgs(s)
		if slices.Contains(names, "") && !strings.Contains(strings.ToLower(s), "arg") {
			t.Errorf("%q", names)
		}
	})
}

func TestTar_HonoursTheIgnoreFile(t *testing.T) {
	t.Parallel()
	files := tree{"Dockerfile": "x", "a.txt": "x", "docs/a.md": "x", "docs/keep.md": "x", "node_modules/x/index.js": "x", "src/b.txt": "x", "l": "-> a.txt", "run": "#!x"}
	for _, c := range []struct{ ignore, want string }{
		{"", "Dockerfile a.txt docs/ docs/a.md docs/keep.md l node_modules/ node_modules/x/ node_modules/x/index.js run src/ src/b.txt"},
		{"node_modules docs !docs/keep.md", "Dockerfile a.txt docs/keep.md l run src/ src/b.txt"},
		{"**/*.txt", "Dockerfile docs/ docs/a.md docs/keep.md l node_modules/ node_modules/x/ node_modules/x/index.js run src/"},
		{"*", "Dockerfile"},
	} {
		b, err := builder.Tar(files, strings.Fields(c.ignore), "Dockerfile")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for r := tar.NewReader(bytes.NewReader(b)); ; {
			h, err := r.Next()
			if err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
			if h.Name == "run" && h.Mode != 0o755 || h.Name == "l" && h.Linkname != "a.txt" {
				t.Errorf("%+v", h)
			}
		}
		if got := strings.Join(names, " "); got != "./ "+c.want {
			t.Errorf("%q:\ngot  %s\nwant %s", c.ignore, got, c.want)
		}
	}
	if _, err := builder.Tar(files, []string{"[a"}, "Dockerfile"); err == nil {
		t.Error("a pattern that is none")
	}
}
