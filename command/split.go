package command

import (
	"regexp"
	"strings"

	"mesh"
)

// Split splits a command line into words as a shell does, with quotes and backslashes
// (POSIX Shell Command Language, section 2.2). It expands nothing: $, backquotes, ;, |
// and # are ordinary characters. ssh joins its arguments with single blanks, so
// arguments arrive without the quotes that the user's own shell has removed.
func Split(line string) ([]string, error) {
	words, _, err := split(line)
	return words, err
}

// split also returns where each word begins in the line.
func split(line string) (words []string, starts []int, err error) {
	var (
		word strings.Builder
		open bool // a word has begun, perhaps an empty quoted one
	)
	for i := 0; i < len(line); i++ {
		c := line[i]
		if !open && c != ' ' && c != '\t' && c != '\n' {
			starts = append(starts, i)
			open = true
		}
		switch c {
		case ' ', '\t', '\n':
			if open {
				words = append(words, word.String())
				word.Reset()
				open = false
			}
		case '\'':
			end := strings.IndexByte(line[i+1:], '\'')
			if end < 0 {
				return nil, nil, unbalanced("'")
			}
			word.WriteString(line[i+1 : i+1+end])
			i += end + 1
		case '"':
			for i++; ; i++ {
				if i >= len(line) {
					return nil, nil, unbalanced(`"`)
				}
				if line[i] == '"' {
					break
				}
				if line[i] == '\\' && i+1 < len(line) && strings.IndexByte("$`\"\\\n", line[i+1]) >= 0 {
					if i++; line[i] == '\n' {
						continue
					}
				}
				word.WriteByte(line[i])
			}
		case '\\':
			if i++; i >= len(line) {
				return nil, nil, &mesh.Error{Kind: mesh.Invalid, Text: "the command line ends with a backslash", Hint: "quote twice: ssh mesh \"config:set KEY='a value'\""}
			}
			if line[i] != '\n' {
				word.WriteByte(line[i])
			}
		default:
			word.WriteByte(c)
		}
	}
	if open {
		words = append(words, word.String())
	}
	return words, starts, nil
}

func unbalanced(q string) error {
	return &mesh.Error{
		Kind: mesh.Invalid, Text: "a quote (" + q + ") is not closed in the command line",
		Hint: "ssh strips one level of quoting; quote twice: ssh mesh \"config:set KEY='a value'\"",
	}
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_./:=@%+,-]+$`)

// Join is the inverse of Split: it returns a command line with these words, whatever
// bytes they contain.
func Join(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if plain.MatchString(w) {
			b.WriteString(w)
		} else {
			b.WriteString("'" + strings.ReplaceAll(w, "'", `'\''`) + "'")
		}
	}
	return b.String()
}
