package builder

import (
	"bytes"
	"cmp"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"mesh"
)

// shellFailed matches what shells print about a program that they cannot start, and
// execFailed what the engine's runtime reports.
var (
	shellFailed = regexp.MustCompile(`(?:^|: )([^\s:]+): (?:(?:/[^:]*: )?bad interpreter: .*|not found|No such file or directory|cannot execute: required file not found|Permission denied)$`)
	execFailed  = regexp.MustCompile(`exec: \\?"([^"\\]+)\\?": (?:stat [^:]+: )?(no such file or directory|permission denied|executable file not found)|fork/exec ([^\s:]+): (no such file or directory|permission denied|exec format error)`)
)

const lfHint = `save it with LF line ends; to make git keep them, add this line to .gitattributes: %s text eol=lf`

// scriptFault explains what is wrong with a script of the tree that a failed RUN has
// run, or returns nothing. The kernel says "no such file" about a script whose
// interpreter is missing, and shells repeat that, although the tree has the file.
func (j *job) scriptFault(line int, command, text string, output []string) string {
	n := j.df.at(line)
	if n != nil {
		for _, h := range n.Heredocs {
			if strings.Contains(h.Content, "\r") {
				return fmt.Sprintf("the lines of %s end in CR LF, and so do those of the heredoc at line %d: "+lfHint, j.df.shown, line, path.Base(j.df.path))
			}
		}
	}
	var named []string // the program that was not started, and the other files that the command names
	for i := len(output) - 1; i >= 0; i-- {
		if m := shellFailed.FindStringSubmatch(strings.TrimRight(output[i], "\r")); m != nil {
			named = append(named, m[1])
		}
	}
	if m := execFailed.FindStringSubmatch(text); m != nil {
		named = append(named, cmp.Or(m[1], m[3]))
	}
	tried := len(named)
	command = strings.TrimPrefix(command, "RUN ")
	named = append(named, strings.FieldsFunc(command, func(r rune) bool { return strings.ContainsRune(" \t\n\"'`;&|<>(){}[],", r) })...)
	for i, program := range named {
		for _, e := range j.files.entries {
			if !e.Mode.IsRegular() || e.Size > 1<<20 || !strings.ContainsAny(program, "/.") || !sameEnd(program, e.Path) {
				continue
			}
			b, err := j.files.content(e, 1<<20)
			if err != nil {
				continue
			}
			first, _, _ := bytes.Cut(b, []byte("\n"))
			script := bytes.HasPrefix(b, []byte("#!"))
			shown := mesh.Clip(e.Path, 60)
			switch {
			case (script || strings.HasSuffix(e.Path, "sh")) && bytes.HasSuffix(first, []byte("\r")):
				return fmt.Sprintf("the lines of %s end in CR LF, so its interpreter is not found: "+lfHint, shown, "*"+path.Ext(e.Path))
			case i >= tried:
			case e.Mode.Perm()&0o111 == 0:
				return fmt.Sprintf("%s is not executable; fix it with: git update-index --chmod=+x %s", shown, shown)
			case script && len(bytes.Fields(first[2:])) > 0:
				runs := string(bytes.Fields(first[2:])[0])
				return fmt.Sprintf("%s exists, but its interpreter %s is most likely missing from the base image: install it, or change the script's first line", shown, mesh.Clip(runs, 60))
			}
		}
	}
	return ""
}

// at is the instruction at a line, nil if there is none.
func (d *dockerfile) at(line int) *parser.Node {
	for _, n := range d.nodes() {
		if line >= n.StartLine && line <= n.EndLine {
			return n
		}
	}
	return nil
}

// stageLike lists the stages, the nearest name first, if an image that cannot be
// found may be a misspelled stage.
func (d *dockerfile) stageLike(image string) string {
	if strings.ContainsAny(image, "/:@.") {
		return ""
	}
	var names []string
	nearest, at := 3, ""
	for _, s := range d.stages {
		if s == "" {
			continue
		}
		names = append(names, s)
		if n := distance(strings.ToLower(image), s); n < nearest {
			nearest, at = n, s
		}
	}
	switch {
	case at != "":
		return fmt.Sprintf("there is a stage %s; the stages are %s", at, strings.Join(names, ", "))
	case len(names) > 0:
		return "no stage has that name either; the stages are " + strings.Join(names, ", ")
	}
	return ""
}

// distance counts the letters to change, add, remove or swap (Damerau and
// Levenshtein).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		for j := range rows[i] {
			switch {
			case i == 0:
				rows[i][j] = j
			case j == 0:
				rows[i][j] = i
			default:
				cost := 1
				if a[i-1] == b[j-1] {
					cost = 0
				}
				rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
				if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
					rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
				}
			}
		}
	}
	return rows[len(a)][len(b)]
}
