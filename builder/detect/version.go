package detect

import (
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"

	"mesh"
)

var number = regexp.MustCompile(`\d+(\.\d+){0,2}`)

// choose is the version that a project's constraint means: the first of known that
// the constraint allows. known begins with the one to use if all are allowed. For an
// exact version, or if none is allowed, it is the version in the constraint, with at
// most as many numbers as an image's tag.
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
		return n // a version that is not known yet, or an exact one
	}
	return known[0]
}

// plainConstraint writes the constraints of Python, Ruby and PHP in semver's syntax.
func plainConstraint(s string) string {
	s = strings.NewReplacer("~=", "~>", "===", "=", "==", "=", "||", " || ", "|", " || ", "@stable", "", `"`, "", "'", "").Replace(s)
	var out []string
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) {
		part = strings.TrimSpace(part)
		// "~> 3.2" is any 3 from 3.2 on, "~> 3.2.1" any 3.2.
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

// images lists the versions of a language that have official images with Debian 12,
// and those of the others with Debian 11: an image is made for the Debian releases
// supported during its lifetime. Older releases have no packages to install.
var images = map[string]struct{ bookworm, bullseye string }{
	"Node":   {">=20.3.1 || >=18.16.1 <19 || >=16.20.1 <17", ">=12.22.6 <13 || >=14.17.6 <15 || >=16.9 <20.3.1"},
	"Python": {">=3.7", ">=3.6"},
	"Ruby":   {">=3.3 || ~3.2.2 || ~3.1.4", ">=3.0.2 || ~2.7.4 || ~2.6.8"}, // openssl 3 is too new for 3.0
	"PHP":    {">=8.1", ">=7.3"},
}

const bookworm, bullseye = "bookworm", "bullseye"

// allows reports whether a constraint in semver's syntax allows a version, or the newest
// one of its line.
func allows(constraint, version string) bool {
	c, err := semver.NewConstraint(constraint)
	v, bad := semver.NewVersion(version + strings.Repeat(".999", 2-strings.Count(version, ".")))
	return err == nil && bad == nil && c.Check(v)
}

// debian is the Debian release in the image of a version of a language.
func debian(s *source, language, version string) (string, error) {
	switch has := images[language]; {
	case allows(has.bookworm, version) || s.set.BaseImage != "":
		return bookworm, nil
	case allows(has.bullseye, version):
		return bullseye, nil
	}
	return "", mesh.Errorf(mesh.Invalid, "there is no image of %s %s with a supported Debian", language, version).
		WithHint("use a newer version, set an image with build:set base-image=IMAGE, or write a Dockerfile")
}

// atLeast reports whether version a is b or newer.
func atLeast(a, b string) bool {
	x, err := semver.NewVersion(number.FindString(a))
	y, bad := semver.NewVersion(b)
	return err == nil && bad == nil && !x.LessThan(y)
}

// newest records and returns the newest known version of a language whose projects
// state the oldest version that works, or the stated one if it is newer still.
func (p *plan) newest(language, known string, v said) string {
	v = firstSaid(p.want, v)
	version, why := known, "the default"
	if v.from != "" {
		why = v.from + " says " + flat(mesh.Clip(v.text, 40))
		switch {
		case v.text == known:
			why = v.from
		case atLeast(v.text, known):
			version = lines(v.text, 2)
		default:
			why = "the newest; " + why
		}
	}
	p.found(language+" "+version, why)
	return version
}
