package builder

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"mvdan.cc/sh/v3/syntax"
)

// Many Dockerfiles first build the dependencies, with a placeholder for the program:
//
//	RUN mkdir src && echo 'fn main() {}' > src/main.rs && cargo build
//	COPY src src
//	RUN cargo build
//
// The real file must be newer than what the same build made from the placeholder,
// which happens after the files got their times. So the files that a step makes a
// placeholder for get the end of the longest build as their time. What is made from
// them is always out of date, which costs the last step, and only when it runs.

// standIns reports, by path, which files of the tree a later COPY puts in place of a
// placeholder that a step made. It may report too many.
func (d *dockerfile) standIns(f *files) func(p string) bool {
	var found, made []string
	for _, n := range d.nodes() {
		switch strings.ToLower(n.Value) {
		case "run":
			if takesTree(n) {
				found, made = append(found, made...), nil
			}
			made = append(made, writtenBy(n)...)
		case "copy", "add":
			if len(n.Heredocs) == 0 && !fromElsewhere(n) {
				found, made = append(found, made...), nil // once is enough
			}
			made = append(made, copiedAs(n)...)
		}
	}
	if len(found) == 0 {
		return func(string) bool { return false }
	}
	slices.Sort(found)
	if found = slices.Compact(found); len(found) > maxStandIns {
		return func(string) bool { return true }
	}
	are := map[string]bool{}
	for _, e := range f.entries {
		if e.Mode.IsDir() {
			continue
		}
		for _, pattern := range found {
			if sameEnd(pattern, e.Path) {
				are[e.Path] = true
				break
			}
		}
	}
	return func(p string) bool { return are[p] }
}

// maxStandIns is the number of names to look for among the files of the tree. If a
// Dockerfile writes more, all files count as replaced.
const maxStandIns = 200

func fromElsewhere(n *parser.Node) bool {
	for _, f := range n.Flags {
		if strings.HasPrefix(f, "--from=") {
			return true
		}
	}
	return false
}

// takesTree reports whether a RUN mounts the tree.
func takesTree(n *parser.Node) bool {
	for _, f := range n.Flags {
		if m, ok := strings.CutPrefix(f, "--mount="); ok && !strings.Contains(m, "from=") && (!strings.Contains(m, "type=") || strings.Contains(m, "type=bind")) {
			return true
		}
	}
	return false
}

// copiedAs returns the files that a COPY creates under another name.
func copiedAs(n *parser.Node) []string {
	var words []string
	for w := n.Next; w != nil; w = w.Next {
		words = append(words, w.Value)
	}
	if len(words) < 2 {
		return nil
	}
	dest := words[len(words)-1]
	var as []string
	for _, h := range n.Heredocs {
		if strings.HasSuffix(dest, "/") {
			as = append(as, dest+h.Name)
		} else {
			as = append(as, dest)
		}
	}
	if len(n.Heredocs) == 0 && len(words) == 2 && !strings.HasSuffix(dest, "/") && path.Base(words[0]) != path.Base(dest) {
		as = append(as, dest)
	}
	return as
}

// writtenBy returns the files that a RUN writes, with * for parts that only running
// it reveals.
func writtenBy(n *parser.Node) []string {
	var w writes
	for _, h := range n.Heredocs {
		w.script(h.Content)
	}
	if n.Next == nil {
		return w.files
	}
	if n.Attributes["json"] {
		var words []string
		for a := n.Next; a != nil; a = a.Next {
			words = append(words, a.Value)
		}
		w.command(words)
		return w.files
	}
	w.script(n.Next.Value)
	return w.files
}

// writes collects the files that a script writes.
type writes struct {
	files []string
	depth int
}

func (w *writes) script(text string) {
	if w.depth++; w.depth > 4 {
		return
	}
	defer func() { w.depth-- }()
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err != nil {
		w.files = append(w.files, strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t\n\"'`;&|<>(){}=,", r) })...)
		return
	}
	unknown, all := false, []string(nil)
	before := len(w.files)
	syntax.Walk(file, func(node syntax.Node) bool {
		switch x := node.(type) {
		case *syntax.Redirect:
			switch x.Op {
			case syntax.RdrOut, syntax.AppOut, syntax.RdrClob, syntax.RdrAll, syntax.AppAll, syntax.RdrInOut:
				w.files = append(w.files, pattern(x.Word))
			default:
			}
		case *syntax.CallExpr:
			var words []string
			for _, a := range x.Args {
				words = append(words, pattern(a))
			}
			w.command(words)
		case *syntax.Word:
			all = append(all, pattern(x))
		}
		return true
	})
	for _, f := range w.files[before:] {
		unknown = unknown || strings.Trim(path.Base(f), "*") == ""
	}
	if unknown { // "for f in a b; do touch $f; done"
		w.files = append(w.files, all...)
	}
}

// makes lists the files that commands create without naming them.
var makes = map[string][]string{
	"cargo init": {"src/main.rs", "src/lib.rs", "Cargo.toml"}, "cargo new": {"src/main.rs", "src/lib.rs", "Cargo.toml"},
	"go mod": {"go.mod", "go.sum"}, "npm init": {"package.json"}, "yarn init": {"package.json"}, "pnpm init": {"package.json"}, "bun init": {"package.json", "index.ts"},
	"uv init": {"main.py", "hello.py", "pyproject.toml"}, "poetry init": {"pyproject.toml"}, "dotnet new": {"Program.cs", "*.csproj"}, "swift package": {"Package.swift", "main.swift"},
}

func (w *writes) command(words []string) {
	for len(words) > 0 && (words[0] == "env" || words[0] == "sudo" || words[0] == "command" || words[0] == "exec" || strings.Contains(words[0], "=")) {
		words = words[1:]
	}
	if len(words) < 2 {
		return
	}
	name := path.Base(words[0])
	if made, ok := makes[name+" "+words[1]]; ok {
		w.files = append(w.files, made...)
		return
	}
	var args []string
	for _, a := range words[1:] {
		if !strings.HasPrefix(a, "-") {
			args = append(args, a)
		}
	}
	switch name {
	case "sh", "bash", "dash", "ash", "zsh", "ksh":
		for i, a := range words[1 : len(words)-1] {
			if strings.HasPrefix(a, "-") && strings.HasSuffix(a, "c") {
				w.script(words[i+2])
			}
		}
	case "xargs":
		w.files = append(w.files, "*") // its input; the other words name the files
	case "touch", "tee", "truncate", "sed", "perl", "patch":
		w.files = append(w.files, args...)
	case "dd":
		for _, a := range args {
			if f, ok := strings.CutPrefix(a, "of="); ok {
				w.files = append(w.files, f)
			}
		}
	case "cp", "mv", "ln", "install":
		if len(args) == 0 {
			return
		}
		dest := args[len(args)-1]
		w.files = append(w.files, dest)
		for _, a := range args[:len(args)-1] {
			w.files = append(w.files, path.Join(dest, path.Base(a)))
		}
	}
}

var braces = regexp.MustCompile(`\{[^{}]*\}`)

// pattern is the known part of a word, with * for the rest.
func pattern(word *syntax.Word) string {
	if word == nil {
		return ""
	}
	var b strings.Builder
	var parts func([]syntax.WordPart)
	parts = func(list []syntax.WordPart) {
		for _, p := range list {
			switch x := p.(type) {
			case *syntax.Lit:
				b.WriteString(braces.ReplaceAllString(strings.ReplaceAll(x.Value, `\`, ""), "*"))
			case *syntax.SglQuoted:
				b.WriteString(x.Value)
			case *syntax.DblQuoted:
				parts(x.Parts)
			default:
				b.WriteByte('*')
			}
		}
	}
	parts(word.Parts)
	return b.String()
}

// sameEnd reports whether a path in an image may be that of a file of the tree: the
// shorter one is the end of the other.
func sameEnd(pattern, p string) bool {
	a, b := strings.Split(strings.Trim(path.Clean("/"+pattern), "/"), "/"), strings.Split(p, "/")
	if a[0] == "" {
		return false
	}
	known := false
	for i, j := len(a)-1, len(b)-1; i >= 0 && j >= 0; i, j = i-1, j-1 {
		if ok, err := path.Match(a[i], b[j]); err != nil || !ok {
			return false
		}
		known = known || strings.Trim(a[i], "*?") != ""
	}
	return known
}
