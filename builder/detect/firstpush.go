package detect

import (
	"fmt"
	"strings"
)

// An app may need more than its image at the first push: a secret that its framework
// signs with, and tables in a database. Neither is in the tree, and neither belongs into
// an image. The plan names them, with what to type.

// wants records a config var that the app cannot do without, and what makes a value.
// app.json may describe the var already.
func (p *plan) wants(s *source, name, made string) {
	if strings.Contains(s.read("app.json"), `"`+name+`"`) {
		return
	}
	p.found("needs the config var "+name, fmt.Sprintf("the first push makes it; later, with the output of %s: ssh mesh config:set -a STACK %s=…", made, name))
}

// migrates records that nothing migrates the database, unless the Procfile or app.json
// says what to run before a release.
func (p *plan) migrates(s *source, command, why string) {
	if s.process("release") != "" || strings.Contains(s.read("app.json"), "deploy\"") {
		return
	}
	p.found("runs no migrations", why+"; to run them before each release, write to the Procfile: release: "+command)
}
