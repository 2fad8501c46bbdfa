package mesh

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxCommand is how long a command may be, in bytes, whoever wrote it: a service's, a
// release command, one of build:set. Longer ones belong into a script. It also keeps
// the parser of shell commands from nesting without end.
const MaxCommand = 16 << 10

// CheckCommand refuses a command that no container could be given as it is.
func CheckCommand(s string) error {
	shown := fmt.Sprintf("%q", Clip(s, 40))
	switch {
	case len(s) > MaxCommand:
		return Errorf(Invalid, "the command %s is %d bytes long; %d are allowed", shown, len(s), MaxCommand).WithHint("put it into a script of the repository and run that")
	case strings.ContainsRune(s, 0):
		return Errorf(Invalid, "the command %s has a NUL byte in it", shown).WithHint("remove it: no argument can hold one")
	case !utf8.ValidString(s):
		return Errorf(Invalid, "the command %s is not valid UTF-8, which the Docker Engine cannot carry", shown).WithHint("put it into a script of the repository and run that")
	}
	return nil
}

// maxVar bounds NAME=VALUE with its final NUL: MAX_ARG_STRLEN of execve(2), beyond
// which no process starts ("argument list too long").
const maxVar = 128 << 10

// CheckVar refuses a config var that no container could be given as it is: by its name,
// by its length, and by bytes that an environment or the engine's JSON cannot hold. It
// never quotes the value.
func CheckVar(name string, v Secret) error {
	if _, err := ParseVarName(name); err != nil {
		return err
	}
	value := v.Reveal()
	if n := len(name) + len(value) + 2; n > maxVar {
		return Errorf(Invalid, "%s would take %d bytes; one config var can have %d, as the kernel has it", name, n, maxVar).
			WithHint("keep large values in a file of the image or in a store of their own")
	}
	if strings.ContainsRune(value, 0) {
		return Errorf(Invalid, "the value of %s has a NUL byte in it, which no environment can hold", name).WithHint("encode it, for example with: base64 -w0 FILE")
	}
	if !utf8.ValidString(value) {
		return Errorf(Invalid, "the value of %s is not valid UTF-8, which the Docker Engine cannot carry", name).WithHint("encode it, for example with: base64 -w0 FILE")
	}
	return nil
}
