package command

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"mesh"
)

// word is what a command of another tool means here: a row of the table of words.
// Exactly one of same and say is set.
type word struct {
	// typed are the ways to write it, separated by ", ". A "*" at the end stands for
	// any rest: "pg*" is "pg", "pg:psql" and "pg psql".
	typed string
	// same is the beginning of the command line with the same meaning. What follows
	// the typed words follows it.
	same string
	// as returns the whole command line for what follows the typed words; nil: same,
	// and what follows.
	as func([]string) ([]string, error)
	// alone: only if no argument follows, because the words may mean something else.
	alone bool
	// say says what there is instead. It is the hint of an error.
	say string
	// need says in the documentation what must follow, if not what followed before.
	need string
}

// vocabulary is the words of one tool.
type vocabulary struct {
	tool  string
	words []word
}

// vocabularies returns the words of other tools. Where two tools have the same word, the
// first one counts.
func vocabularies() []vocabulary {
	return []vocabulary{
		{"Heroku", herokuWords},
		{"Dokku", dokkuWords},
		{"Kamal", kamalWords},
		{"Docker", dockerWords},
		{"Widemesh", widemeshWords},
	}
}

// wordIndex has the rows by the way to write them: those of words alone, and those that
// end with "*", without it.
type wordIndex struct{ closed, open map[string]word }

var indexOfWords = sync.OnceValue(func() wordIndex {
	x := wordIndex{map[string]word{}, map[string]word{}}
	for _, v := range vocabularies() {
		for _, row := range v.words {
			for way := range strings.SplitSeq(row.typed, ", ") {
				stem, open := strings.CutSuffix(normal(way), "*")
				rows := x.closed
				if open {
					rows = x.open
				}
				if _, taken := rows[stem]; !taken {
					rows[stem] = row
				}
			}
		}
	}
	return x
})

// meaning looks up the beginning of a command line in the words of other tools, the
// longest first. It returns the row and how many words it covers.
func meaning(words []string) (w word, n int, ok bool) {
	index := indexOfWords()
	most := min(3, len(words))
	if i := slices.IndexFunc(words[1:most], func(s string) bool { return s == "" || strings.HasPrefix(s, "-") }); i >= 0 {
		most = 1 + i
	}
	stem := normal(strings.Join(words[:most], ":"))
	for open := false; !open && strings.Contains(stem, ":"); {
		stem = stem[:strings.LastIndexByte(stem, ':')]
		w, open = index.open[stem]
		ok = open
	}
	if !ok {
		stem = ""
	}
	for n := most; n > 0; n-- {
		typed := normal(strings.Join(words[:n], ":"))
		if closed, found := index.closed[typed]; found && len(typed) > len(stem) {
			return closed, n, true
		}
	}
	if !ok {
		w, ok = index.open[normal(words[0])]
	}
	return w, len(words), ok
}

// normal is a typed command with the topic's own name and colons: "stacks:logs" for
// "app logs".
func normal(typed string) string {
	typed = strings.ReplaceAll(typed, " ", ":")
	first, rest, _ := strings.Cut(typed, ":")
	open := ""
	if rest == "" && strings.HasSuffix(first, "*") {
		first, open = strings.TrimSuffix(first, "*"), "*"
	}
	first = topic(first)
	if rest == "" {
		return first + open
	}
	return first + ":" + rest
}

// translate returns our words for a command line that begins with a word of another
// tool. The last kept of them stand at the end of words as well. ok is false if it does
// not begin so. An error says what there is instead.
func translate(words []string) (ours []string, kept int, ok bool, err error) {
	if ours, kept, ok, err = dataWords(words); ok {
		return ours, kept, ok, err
	}
	w, n, ok := meaning(words)
	if !ok || w.alone && len(operands(words[n:])) > 0 {
		return nil, 0, false, nil
	}
	if w.say != "" {
		return nil, 0, true, &mesh.Error{Kind: mesh.Invalid, Text: fmt.Sprintf("there is no command %q", mesh.Clip(typedWords(words, n), 60)), Hint: w.say}
	}
	if w.as != nil {
		if ours, err = w.as(words[n:]); len(ours) > 0 && ours[0] == jobAdd {
			// What follows the -- is for a shell, as it was typed.
			return ours, len(ours) - slices.Index(ours, "--") - 1, true, err
		}
		return ours, 0, true, err
	}
	return slices.Concat(strings.Fields(w.same), words[n:]), len(words) - n, true, nil
}

// ourLine returns the command line for one that begins with a word of another tool, and
// its words; other lines as they are. What follows the typed words stays as it stands in
// the line: run passes it to a shell. starts are where words begin in it.
func ourLine(line string, words []string, starts []int) (string, []string, []int, error) {
	if d, _ := exact(words); d != nil {
		return line, words, starts, nil
	}
	ours, kept, ok, err := translate(words)
	if err != nil || !ok {
		return line, words, starts, err
	}
	line = Join(ours[:len(ours)-kept]) + " " + lastOf(line, starts, kept)
	words, starts, err = split(line)
	return line, words, starts, err
}

// lastOf returns the last n words of a command line as they stand in it.
func lastOf(line string, starts []int, n int) string {
	if n == 0 {
		return ""
	}
	return line[starts[len(starts)-n]:]
}

// typedWords returns the words of a command as they were typed, without its arguments:
// they may be secret.
func typedWords(words []string, n int) string {
	if strings.Contains(words[0], ":") {
		n = 1
	}
	return strings.Join(words[:min(n, 2, len(words))], " ")
}

// asking are verbs that ask. They are not answered with a command that changes
// something.
var asking = []string{
	"report", "show", "info", "list", "ls", "get", "status", "print", "display", "view", "describe", "inspect", "details", "top",
	"stats", "exists", "keys", "history", "diff", "check", "find", "search", "which", "who", "whoami", "ps", "images", "containers", "version",
	"help", "docs", "url", "urls", "events", "output", "usage", "errors", "locked", "logs", "read",
}

// asks reports whether a typed command asks, as far as its words show.
func asks(typed string) bool {
	words := strings.FieldsFunc(typed, func(r rune) bool { return r == ':' || r == ' ' || r == '-' })
	if len(words) > 1 {
		words = words[1:] // a topic does not ask
	}
	for _, w := range words {
		ours := slices.ContainsFunc(table(), func(d *definition) bool { return d.verb == w || d.topic == topic(w) })
		if slices.ContainsFunc(asking, func(a string) bool { return a == w || !ours && len(w) > 2 && distance(a, w) == 1 }) {
			return true
		}
	}
	return false
}

// harmless reports whether a command changes nothing.
func (d *definition) harmless() bool {
	return d.quiet || d.prints || d.access == mesh.AccessRead && !d.changes
}

// reports are the verbs with which other tools show what a topic has.
var reports = []string{"report", "show", "info", "list", "status", "ls"}

// DocumentWords prints the words of other tools as a Markdown page, for docs/words.md.
func DocumentWords(w io.Writer) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	p(`# Words of other tools

<!-- Printed from the table of words by "make docs". Do not edit. -->

Commands of other tools that mesh understands, and what there is instead of those that it
does not have. For all of them, %[1]stopic verb%[1]s is the same as %[1]stopic:verb%[1]s, and
%[1]sTOPIC:report%[1]s, %[1]sTOPIC:show%[1]s, %[1]sTOPIC:info%[1]s and %[1]sTOPIC:list%[1]s print what a topic has.
`, "`")
	p("\n## Data\n\nHeroku's `pg` and `redis` and the topics of Dokku's plugins lead to the add-ons of that kind: %s.\n\n| typed | here |\n|---|---|\n", strings.Join(slices.Sorted(maps.Keys(dataTopics)), ", "))
	p("| `pg:create` | `addons:create postgres` |\n| `pg:link NAME STACK`, `pg:unlink NAME STACK` | `addons:attach NAME -a STACK`, `addons:detach NAME -a STACK` |\n")
	for _, verb := range slices.Sorted(maps.Keys(dataVerbs)) {
		v := dataVerbs[verb]
		here := v.say
		if v.same != "" {
			here = "`" + v.same + "`"
		}
		p("| `%s` | %s |\n", strings.TrimSuffix("pg:"+verb, ":"), here)
	}
	for _, v := range vocabularies() {
		p("\n## From %s\n\n| typed | here |\n|---|---|\n", v.tool)
		for _, row := range v.words {
			var ways []string
			for way := range strings.SplitSeq(row.typed, ", ") {
				ways = append(ways, "`"+strings.Replace(way, "*", "…", 1)+"`")
			}
			here := row.say
			if row.same != "" {
				here = "`" + strings.TrimSpace(row.same+" "+row.need) + "`"
			}
			p("| %s | %s |\n", strings.Join(ways, ", "), strings.ReplaceAll(here, "|", `\|`))
		}
	}
}
