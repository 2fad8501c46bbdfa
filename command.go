package mesh

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxCommand is the maximum length of a command in bytes, from any source: a
// service's, a release command, one of build:set. Longer ones belong in a script. It
// also keeps the parser of shell commands from nesting without end.
const MaxCommand = 16 << 10

// CheckCommand refuses a command that cannot be passed to a container unchanged.
func CheckCommand(s string) error {
	shown := fmt.Sprintf("%q", Clip(s, 40))
	switch {
	case len(s) > MaxCommand:
		return Errorf(Invalid, "the command %s is %d bytes long, at most %d are allowed", shown, len(s), MaxCommand).WithHint("put it into a script in the repository and run that")
	case strings.ContainsRune(s, 0):
		return Errorf(Invalid, "the command %s contains a NUL byte", shown).WithHint("remove it: arguments cannot contain one")
	case !utf8.ValidString(s):
		return Errorf(Invalid, "the command %s is not valid UTF-8, which the Docker Engine needs", shown).WithHint("put it into a script in the repository and run that")
	}
	return nil
}

// maxVar limits NAME=VALUE with its final NUL: MAX_ARG_STRLEN of execve(2), beyond
// which no process starts ("argument list too long").
const maxVar = 128 << 10

// CheckVar refuses a config var that cannot be passed to a container unchanged: for
// its name, for its length, or for bytes that an environment or the engine's JSON
// cannot contain. It never quotes the value.
func CheckVar(name string, v Secret) error {
	if _, err := ParseVarName(name); err != nil {
		return err
	}
	value := v.Reveal()
	if n := len(name) + len(value) + 2; n > maxVar {
		return Errorf(Invalid, "%s would take %d bytes; the kernel's limit for one config var is %d", name, n, maxVar).
			WithHint("keep large values in a file of the image, or in separate storage")
	}
	if strings.ContainsRune(value, 0) {
		return Errorf(Invalid, "the value of %s contains a NUL byte, which an environment cannot contain", name).WithHint("encode it, for example with: base64 -w0 FILE")
	}
	if !utf8.ValidString(value) {
		return Errorf(Invalid, "the value of %s is not valid UTF-8, which the Docker Engine needs", name).WithHint("encode it, for example with: base64 -w0 FILE")
	}
	return nil
}
