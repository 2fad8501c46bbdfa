package logs

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"mesh"
)

// match decides which lines a query wants. It is used by one goroutine at a time; copy
// it for others.
//
// Go's regular expressions take some microseconds for a line, so texts that every match
// contains are looked for first, in a whole block and then in each line.
type match struct {
	q       mesh.LogQuery
	sources []string
	name    string // of the instance; empty: any
	service string // of the instance; empty: any
	since   int64
	until   int64
	need    []clause // what every matching line has
	lower   []byte   // room for a text in lower case
}

func newMatch(q mesh.LogQuery) *match {
	m := &match{q: q, sources: q.Sources, since: minTime, until: maxTime}
	if len(m.sources) == 0 {
		m.sources = []string{SourceApp}
	}
	switch {
	case q.Instance != (mesh.InstanceName{}):
		m.name = q.Instance.String()
	case q.Service != "":
		m.service = string(q.Service)
	}
	if !q.Since.IsZero() {
		m.since = q.Since.UnixNano()
	}
	if !q.Until.IsZero() {
		m.until = q.Until.UnixNano()
	}
	if q.Grep != nil {
		m.need = required(q.Grep)
	}
	return m
}

const (
	minTime = -1 << 63
	maxTime = 1<<63 - 1
)

// wants reports whether a block of lines, or some of its lines, can match.
func (m *match) wants(first, last int64) bool { return last >= m.since && first <= m.until }

// any reports whether a batch can have a matching line: a quick look at all of it.
func (m *match) any(batch []byte) bool { return m.inText(batch) || m.inFields(batch) }

// inText reports whether a text can match as it is written.
func (m *match) inText(text []byte) bool {
	return m.all(text, func(a alternative, text []byte) bool { return bytes.Contains(text, a.text) })
}

// inFields reports whether a JSON text can match as name=value.
func (m *match) inFields(text []byte) bool {
	if bytes.IndexByte(text, '\\') >= 0 {
		return true // anything may be written with escapes
	}
	return m.all(text, func(a alternative, text []byte) bool {
		for _, p := range a.pieces {
			if !bytes.Contains(text, p) {
				return false
			}
		}
		return !a.quoted
	})
}

// all reports whether each clause has an alternative that is in the text.
func (m *match) all(text []byte, in func(a alternative, text []byte) bool) bool {
	lowered := false
	for _, c := range m.need {
		if !slices.ContainsFunc(c, func(a alternative) bool {
			if !a.fold {
				return in(a, text)
			}
			if !lowered {
				m.lower, lowered = appendLower(m.lower[:0], text), true
			}
			return in(a, m.lower)
		}) {
			return false
		}
	}
	return true
}

// appendLower appends a text with its ASCII letters in lower case.
func appendLower(dst, text []byte) []byte {
	dst = append(dst, text...)
	for i, c := range dst {
		if 'A' <= c && c <= 'Z' {
			dst[i] = c + ('a' - 'A')
		}
	}
	return dst
}

// origin reports whether the lines of an origin can match.
func (m *match) origin(o *origin) bool {
	switch {
	case !slices.Contains(m.sources, o.source):
		return false
	case m.q.Release != 0 && o.release != m.q.Release:
		return false
	case m.name != "":
		return o.name == m.name
	case m.service != "":
		name, _, _ := strings.Cut(o.name, ".")
		return name == m.service
	}
	return true
}

// line reports whether a line of a matching origin matches.
func (m *match) line(l line) bool {
	if l.at < m.since || l.at > m.until {
		return false
	}
	if m.q.Grep != nil && !m.grep(l.text) {
		return false
	}
	return m.q.Level == 0 || mayHaveLevel(l, m.q.Level) && levelOf(l) >= m.q.Level
}

func (m *match) grep(text []byte) bool {
	if m.inText(text) && m.q.Grep.Match(text) {
		return true
	}
	if len(text) == 0 || text[0] != '{' || !m.inFields(text) {
		return false
	}
	fields, ok := jsonFields(text)
	return ok && slices.ContainsFunc(fields, func(f field) bool { return m.q.Grep.MatchString(f.name + "=" + f.value) })
}

// clause is a list of texts, of which every match has one.
type clause []alternative

// alternative is a text that a match has.
type alternative struct {
	text   []byte
	pieces [][]byte // its parts that a JSON line writes in the same way
	quoted bool     // it has a quote, which is written with a backslash in a JSON value
	fold   bool     // in lower case; the case makes no difference
}

// required returns clauses that every match of an expression fulfils.
func required(re *regexp.Regexp) []clause {
	parsed, err := syntax.Parse(re.String(), syntax.Perl)
	if err != nil {
		return nil
	}
	return clauses(parsed.Simplify())
}

func clauses(r *syntax.Regexp) (out []clause) {
	switch r.Op { //nolint:exhaustive // the others may match without any of their parts
	case syntax.OpLiteral:
		if a, ok := literal(r); ok {
			return []clause{{a}}
		}
	case syntax.OpConcat, syntax.OpCapture, syntax.OpPlus:
		for _, s := range r.Sub {
			out = append(out, clauses(s)...)
		}
	case syntax.OpRepeat:
		if r.Min > 0 {
			return clauses(r.Sub[0])
		}
	case syntax.OpAlternate:
		var either clause
		for _, s := range r.Sub {
			of := clauses(s)
			if len(of) == 0 {
				return nil
			}
			// One clause of each will do: the one that tells most.
			best := slices.MaxFunc(of, func(a, b clause) int { return cmp.Compare(a.least(), b.least()) })
			either = append(either, best...)
		}
		return []clause{either}
	}
	return out
}

// least is the length of the shortest alternative.
func (c clause) least() int {
	n := len(c[0].text)
	for _, a := range c {
		n = min(n, len(a.text))
	}
	return n
}

func literal(r *syntax.Regexp) (a alternative, ok bool) {
	text := string(r.Rune)
	if a.fold = r.Flags&syntax.FoldCase != 0; a.fold {
		text = strings.ToLower(text)
		// Letters of other alphabets are cut off, and with them k and s, which two signs
		// beyond ASCII are equal to.
		parts := strings.FieldsFunc(text, func(c rune) bool { return c >= utf8.RuneSelf || c == 'k' || c == 's' })
		if len(parts) == 0 {
			return a, false
		}
		text = slices.MaxFunc(parts, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	}
	a.text, a.quoted = []byte(text), strings.Contains(text, `"`)
	for _, p := range strings.FieldsFunc(text, func(c rune) bool {
		return c == '=' || c == '.' || c <= ' ' || c >= utf8.RuneSelf || strings.ContainsRune(`"<>&/`, c)
	}) {
		a.pieces = append(a.pieces, []byte(p))
	}
	return a, true
}

// field is a field of a JSON line. Fields of objects in it are named "a.b".
type field struct{ name, value string }

const maxFields = 200

// jsonFields returns the fields of a line that is a JSON object.
func jsonFields(text []byte) ([]field, bool) {
	text = bytes.TrimSpace(text)
	if len(text) < 2 || text[0] != '{' || text[len(text)-1] != '}' {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v map[string]any
	if d.Decode(&v) != nil {
		return nil, false
	}
	var out []field
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		if len(out) >= maxFields {
			return
		}
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				walk(strings.TrimPrefix(prefix+"."+k, "."), inner)
			}
		case []any:
			for i, inner := range v {
				walk(prefix+"."+strconv.Itoa(i), inner)
			}
		case string:
			out = append(out, field{prefix, v})
		default:
			out = append(out, field{prefix, fmt.Sprint(v)})
		}
	}
	walk("", v)
	return out, true
}

// levelKeys are the names of a JSON line's level: those of slog, zap, zerolog, logrus,
// bunyan, pino, winston, structlog, Serilog, ECS, Google and Java's layouts.
var levelKeys = []string{"level", "severity", "lvl", "log.level", "levelname", "level_name", "loglevel", "@l", "Level", "LogLevel", "level_value"}

// quotedKeys are levelKeys as a JSON line has them.
var quotedKeys = func() (out [][]byte) {
	for _, k := range levelKeys {
		out = append(out, []byte(`"`+k+`"`))
	}
	return out
}()

// mayHaveLevel is a quick look at a JSON line, which takes some microseconds to read: it
// reports whether any of its values could be a level of at least this.
func mayHaveLevel(l line, least mesh.LogLevel) bool {
	if l.origin.source != SourceApp || len(l.text) == 0 || l.text[0] != '{' {
		return true
	}
	flat := bytes.IndexByte(l.text[1:], '{') < 0
	for _, key := range quotedKeys {
		for rest, found := l.text, false; ; found = true {
			i := bytes.Index(rest, key)
			if i < 0 {
				if found && flat {
					return false // the first key of the list counts
				}
				break
			}
			rest = rest[i+len(key):]
			value := bytes.TrimLeft(rest, ": \t\"")
			n := bytes.IndexFunc(value, func(c rune) bool { return c == '"' || c == ',' || c == '}' || c == ' ' })
			if n > 0 && namedLevel(string(value[:n])) >= least {
				return true
			}
		}
	}
	return false
}

// levelOf returns how serious a line is, or 0 if it does not say.
func levelOf(l line) mesh.LogLevel {
	switch l.origin.source {
	case SourceRouter:
		return requestLevel(l.text)
	case SourceMesh:
		return eventLevel(l.text)
	}
	if len(l.text) > 0 && l.text[0] == '{' {
		if fields, ok := jsonFields(l.text); ok {
			for _, key := range levelKeys {
				for _, f := range fields {
					if f.name == key {
						return namedLevel(f.value)
					}
				}
			}
			return 0
		}
	}
	return plainLevel(l.text)
}

// namedLevel understands a level's value: a name, or a number of bunyan and pino.
func namedLevel(v string) mesh.LogLevel {
	if n, err := strconv.Atoi(v); err == nil {
		switch {
		case n >= 60:
			return mesh.LevelFatal
		case n >= 50:
			return mesh.LevelError
		case n >= 40:
			return mesh.LevelWarn
		case n >= 30:
			return mesh.LevelInfo
		case n >= 10:
			return mesh.LevelDebug
		}
		return 0
	}
	return mesh.ParseLogLevel(strings.ToLower(v))
}

// levelWord finds a level in a line that is not JSON: level=warn of logfmt, or a word in
// capitals, in brackets or before a colon, near the beginning.
var levelWord = regexp.MustCompile(`(?i)\b(?:level|lvl|severity)=["']?([a-z]+)|[\[<(|] ?(trace|debug|info|notice|warn|warning|error|err|fatal|critical|crit|alert|emerg|panic) ?[\])>|]` +
	`|(?-i:\b(TRACE|DEBUG|DBG|INFO|INF|NOTICE|WARN|WARNING|WRN|ERROR|ERR|SEVERE|FATAL|CRITICAL|CRIT|ALERT|EMERG|PANIC)\b)|^(?:[^\s:]+ )?(trace|debug|info|notice|warn|warning|error|fatal|critical|panic):`)

// levelWithin is how far into a line its level is looked for, in bytes: after a time and
// a name, and before what it is about.
const levelWithin = 120

func plainLevel(text []byte) mesh.LogLevel {
	found := levelWord.FindSubmatch(text[:min(len(text), levelWithin)])
	if found == nil {
		return 0
	}
	for _, f := range found[1:] {
		if len(f) > 0 {
			return mesh.ParseLogLevel(strings.ToLower(string(f)))
		}
	}
	return 0
}

var requestStatus = regexp.MustCompile(`\bstatus=(\d)`)

// requestLevel is the level of a router's line: an error for a 5xx, a warning for a 4xx.
func requestLevel(text []byte) mesh.LogLevel {
	m := requestStatus.FindSubmatch(text)
	switch {
	case m == nil:
		return mesh.LevelInfo
	case m[1][0] == '5':
		return mesh.LevelError
	case m[1][0] == '4':
		return mesh.LevelWarn
	}
	return mesh.LevelInfo
}

var trouble = regexp.MustCompile(`(?i)\b(failed|crashed|killed|cannot|missing|rejected|out of memory)\b`)

// eventLevel is the level of one of mesh's own lines.
func eventLevel(text []byte) mesh.LogLevel {
	if trouble.Match(text) {
		return mesh.LevelError
	}
	return mesh.LevelInfo
}
