package detect

import (
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"
)

var number = regexp.MustCompile(`\d+(\.\d+){0,2}`)

// choose is the version that a constraint of a project means: the first of known,
// which begins with the one to use where all will do, that the constraint allows;
// for an exact one or one that none satisfies, what it names, at most as many
// numbers long as an image's tag has.
func choose(constraint string, known ...string) string {
	constraint = strings.TrimSpace(constraint)
	if c, err := semver.NewConstraint(plainConstraint(constraint)); err == nil {
		for _, k := range known {
			// The newest of that line: nobody means its first patch.
			v, err := semver.NewVersion(k + strings.Repeat(".999", 2-strings.Count(k, ".")))
			if err == nil && c.Check(v) {
				return k
			}
		}
	}
	if n := number.FindString(constraint); n != "" {
		return n // one that is not known yet, or exact
	}
	return known[0]
}

// plainConstraint writes what Python, Ruby and PHP call constraints as semver has
// them.
func plainConstraint(s string) string {
	s = strings.NewReplacer("~=", "~>", "===", "=", "==", "=", "||", " || ", "|", " || ", "@stable", "", `"`, "", "'", "").Replace(s)
	var out []string
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) {
		part = strings.TrimSpace(part)
		// "~> 3.2" is any 3 from there on, "~> 3.2.1" any 3.2.
		if v, ok := strings.CutPrefix(part, "~>"); ok {
			v = strings.TrimSpace(v)
			if strings.Count(v, ".") == 1 {
				part = "^" + v
			} else {
				part = "~" + v
			}
		}
		out = append(out, part)
	}
	return strings.Join(out, ", ")
}

// lines cuts a version to n numbers: "3.12.1" to "3.12".
func lines(v string, n int) string {
	v = number.FindString(v)
	f := strings.Split(v, ".")
	return strings.Join(f[:min(n, len(f))], ".")
}
