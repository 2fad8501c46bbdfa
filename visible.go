package mesh

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Visible makes text that somebody else chose harmless on a terminal, in a table and
// in a log. Control characters, including line ends, characters that change the
// direction of writing, and invalid UTF-8 become escapes, in the style of
// strconv.Quote. Text without any of these is returned unchanged.
func Visible(s string) string { return visible(s, false) }

// VisibleOutput does the same for whole lines of output: line ends, tabs and colours
// (SGR sequences of ECMA-48) stay. A lone carriage return becomes a line end.
func VisibleOutput(s string) string { return visible(s, true) }

func visible(s string, output bool) string {
	i := 0
	for i < len(s) && (0x20 <= s[i] && s[i] < 0x7f || output && (s[i] == '\n' || s[i] == '\t')) {
		i++
	}
	if i == len(s) {
		return s // the usual case
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	b.WriteString(s[:i])
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case output && (r == '\n' || r == '\t'):
			b.WriteRune(r)
		case output && r == '\r':
			if i+1 < len(s) && s[i+1] != '\n' {
				b.WriteByte('\n')
			}
		case output && r == 0x1b && colour(s[i:]) > 0:
			n = colour(s[i:])
			b.WriteString(s[i : i+n])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case hidden(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// hidden reports whether a rune moves the cursor, breaks the line or reverses the
// text: C1 controls, line and paragraph separators, and the bidirectional controls
// of UAX 9, section 2, which can make a line look like another one.
func hidden(r rune) bool {
	switch {
	case 0x80 <= r && r < 0xa0, r == 0x2028, r == 0x2029, r == 0x061c, r == 0x200e, r == 0x200f, 0x202a <= r && r <= 0x202e, 0x2066 <= r && r <= 0x2069:
		return true
	}
	return false
}

// colour is the length of the SGR sequence at the beginning of s, or 0.
func colour(s string) int {
	const most = 40
	if len(s) < 3 || s[1] != '[' {
		return 0
	}
	for i := 2; i < len(s) && i < most; i++ {
		switch c := s[i]; {
		case c == 'm':
			return i + 1
		case c != ';' && c != ':' && (c < '0' || c > '9'):
			return 0
		}
	}
	return 0
}
