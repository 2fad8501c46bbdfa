package mesh

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// CheckText refuses a file in a repository that is read as lines of text and is not
// text. PowerShell 5 writes UTF-16 with ">", which no parser reads; invalid UTF-8
// changes on its way through JSON and the Docker Engine. Comments, which are lines
// that begin with "#", may contain anything but NUL. The error is an *Error with the
// line.
func CheckText(name string, text []byte) error {
	if err := CheckNoUTF16(name, text); err != nil || utf8.Valid(text) {
		return err
	}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if !utf8.Valid(line) && !bytes.HasPrefix(bytes.TrimSpace(line), []byte("#")) {
			return Errorf(Invalid, "%s:%d: %q is not valid UTF-8", Visible(name), n, Clip(strings.TrimSpace(string(line)), 60)).
				WithHint("save the file as UTF-8")
		}
	}
	return nil
}

// CheckNoUTF16 is CheckText for a file that may contain names in other encodings,
// such as .dockerignore.
func CheckNoUTF16(name string, text []byte) error {
	name = Visible(name)
	switch {
	case bytes.HasPrefix(text, []byte("\xff\xfe")), bytes.HasPrefix(text, []byte("\xfe\xff")):
		return Errorf(Invalid, "%s is UTF-16", name).
			WithHint("save it as UTF-8; in PowerShell: (Get-Content %s) | Set-Content -Encoding utf8 %s", name, name)
	case bytes.IndexByte(text, 0) >= 0:
		return Errorf(Invalid, "%s:%d contains a NUL byte", name, 1+bytes.Count(text[:bytes.IndexByte(text, 0)], []byte("\n"))).
			WithHint("save it as UTF-8 text")
	}
	return nil
}
