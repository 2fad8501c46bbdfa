package mesh_test

import (
	"testing"

	"mesh"
)

func TestVisible(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                        "",
		"plain":                   "plain",
		"ümläut 日本 🎉":             "ümläut 日本 🎉",
		"a\x1b[2Jb":               `a\x1b[2Jb`,
		"a\nb\tc\rd":              `a\nb\tc\rd`,
		"\x00\x7f\u0085\u009b2J":  `\x00\x7f\u0085\u009b2J`,
		"a\u2028b\u2029c":         `a\u2028b\u2029c`,
		"\u202eabc\u2066\u200f":   `\u202eabc\u2066\u200f`,
		"caf\xe9":                 `caf\xe9`,
		"\x1b[31mred\x1b[0m":      `\x1b[31mred\x1b[0m`,
		"\x1b]0;title\x07":        `\x1b]0;title\x07`,
		"replacement \ufffd char": "replacement \ufffd char",
	} {
		if got := mesh.Visible(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestVisibleOutput(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"line\n\tindented\n":     "line\n\tindented\n",
		"\x1b[1;31mred\x1b[0m\n": "\x1b[1;31mred\x1b[0m\n",
		"\x1b[2Jcleared\x1b[H":   `\x1b[2Jcleared\x1b[H`,
		"\x1b]0;title\x07":       `\x1b]0;title\x07`,
		"a\r\nb":                 "a\nb",
		"10%\r20%\rdone\n":       "10%\n20%\ndone\n",
		"\u009b2J\u202e":         `\u009b2J\u202e`,
		"\x1b[31;31;31;31;31;31;31;31;31;31;31;31;31;31;31m": `\x1b[31;31;31;31;31;31;31;31;31;31;31;31;31;31;31m`,
		"cut\x1b[3": `cut\x1b[3`,
	} {
		if got := mesh.VisibleOutput(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
