// Package reasons finds the reason of a failure in the output of a command, and says
// what to do about it.
//
// Package managers and compilers print the reason first and much else after it: npm ends
// a lock file that is out of step with a hundred lines of usage. Whoever shows the last
// lines of an output shows the reason as well, last:
//
//	var f reasons.Finder
//	for line := range lines {
//		f.Add(line)
//	}
//	reason := f.Reason()
//
// It reads text and decides nothing. It does not know what command ran, nor where.
package reasons

import (
	"regexp"
	"slices"
	"strings"
)

// Reason is what a command's output says about its failure. The zero Reason says
// nothing.
type Reason struct {
	Lines []string // of the output, at most maxLines, in their order
	Hint  string   // what to do, for people; empty if the lines say it
}

// maxLines limits a Reason, maxLine one of its lines in bytes.
const (
	maxLines = 8
	maxLine  = 500
)

// Finder looks at an output line by line. The zero Finder is ready. It is for one
// goroutine, and keeps at most maxLines lines however long the output is.
type Finder struct {
	found Reason
	rank  int            // of the pattern that found it, 1 for the first; 0: none
	more  *regexp.Regexp // what further lines belong to it
}

// Add looks at the next line, which has no line end.
func (f *Finder) Add(line string) {
	if len(line) > maxLine {
		line = line[:maxLine]
	}
	if f.more != nil && len(f.found.Lines) < maxLines && f.more.MatchString(line) {
		f.found.Lines = append(f.found.Lines, strings.TrimRight(line, " "))
		return
	}
	for i, p := range patterns {
		if f.rank > 0 && i >= f.rank-1 {
			return
		}
		if !slices.ContainsFunc(p.has, func(s string) bool { return strings.Contains(line, s) }) {
			continue
		}
		m := p.line.FindStringSubmatchIndex(line)
		if m == nil {
			continue
		}
		f.rank, f.more = i+1, p.more
		f.found = Reason{Lines: []string{strings.TrimRight(line, " ")}, Hint: string(p.line.ExpandString(nil, p.hint, line, m))}
		return
	}
}

// Reason returns what was found so far.
func (f *Finder) Reason() Reason { return f.found }

// HintFor returns the hint with the commands that it shows for one stack.
func (r Reason) HintFor(stack string) string {
	return command.ReplaceAllString(r.Hint, "${0} -a "+stack)
}

// command is a command of mesh in a hint.
var command = regexp.MustCompile(`ssh mesh [a-z:]+`)

// Find looks at a whole output.
func Find(lines []string) Reason {
	var f Finder
	for _, l := range lines {
		f.Add(l)
	}
	return f.Reason()
}

// Last appends a reason to the last lines of an output, of which it leaves at most n.
// Lines of the reason that are among the last ones already are not repeated.
func (r Reason) Last(lines []string, n int) []string {
	const near = 6 // lines that are read without looking for them
	end := lines[max(0, len(lines)-near):]
	var away []string
	for _, l := range r.Lines {
		if !slices.ContainsFunc(end, func(e string) bool { return strings.TrimRight(e, " ") == l }) {
			away = append(away, l)
		}
	}
	if len(away) == 0 {
		return lines[max(0, len(lines)-n):]
	}
	kept := lines[max(0, len(lines)-max(n-len(r.Lines)-1, 0)):]
	return append(append(slices.Clone(kept), "… and further up:"), r.Lines...)
}
