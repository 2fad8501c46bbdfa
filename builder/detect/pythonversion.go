package detect

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

var pythonLines = []string{"3.13", "3.12", "3.11", "3.10", "3.9", "3.14", "3.8"}

// pythonWheels are distributions that are hard to compile, and the newest Python for
// which versions below one have wheels on pypi.org (or, for Django, that they support).
var pythonWheels = map[string][]struct{ below, python string }{
	"django":          {{"3.2", "3.9"}, {"4.1", "3.10"}, {"4.2", "3.11"}, {"5.1", "3.12"}, {"5.2.8", "3.13"}},
	"numpy":           {{"1.19.3", "3.8"}, {"1.21.2", "3.9"}, {"1.23.2", "3.10"}, {"1.26.0", "3.11"}, {"2.1.0", "3.12"}, {"2.3.2", "3.13"}},
	"pandas":          {{"1.1.3", "3.8"}, {"1.3.3", "3.9"}, {"1.5.1", "3.10"}, {"2.1.1", "3.11"}, {"2.2.3", "3.12"}, {"2.3.3", "3.13"}},
	"scipy":           {{"1.5.4", "3.8"}, {"1.7.2", "3.9"}, {"1.9.2", "3.10"}, {"1.11.2", "3.11"}, {"1.14.1", "3.12"}, {"1.16.1", "3.13"}},
	"scikit-learn":    {{"0.24", "3.8"}, {"1.0.1", "3.9"}, {"1.1.3", "3.10"}, {"1.3.1", "3.11"}, {"1.5.2", "3.12"}, {"1.7.2", "3.13"}},
	"matplotlib":      {{"3.5.0", "3.9"}, {"3.6.1", "3.10"}, {"3.8.0", "3.11"}, {"3.9.2", "3.12"}, {"3.10.5", "3.13"}},
	"pillow":          {{"8.0", "3.8"}, {"8.3.2", "3.9"}, {"9.3", "3.10"}, {"10.1", "3.11"}, {"11.0", "3.12"}, {"12.0", "3.13"}},
	"psycopg2-binary": {{"2.8.6", "3.8"}, {"2.9.2", "3.9"}, {"2.9.5", "3.10"}, {"2.9.9", "3.11"}, {"2.9.10", "3.12"}, {"2.9.11", "3.13"}},
	"pydantic":        {{"1.10.2", "3.10"}, {"1.10.13", "3.11"}, {"2.0", "3.12"}, {"2.4", "3.11"}, {"2.8", "3.12"}, {"2.12", "3.13"}},
	"lxml":            {{"4.9.1", "3.10"}, {"4.9.3", "3.11"}, {"5.3.0", "3.12"}, {"6.0", "3.13"}},
	"pyyaml":          {{"6.0.1", "3.11"}, {"6.0.2", "3.12"}, {"6.0.3", "3.13"}},
	"greenlet":        {{"2.0", "3.10"}, {"3.0", "3.11"}, {"3.1", "3.12"}, {"3.2.3", "3.13"}},
	"cffi":            {{"1.15.1", "3.10"}, {"1.16", "3.11"}, {"1.17", "3.12"}, {"2.0", "3.13"}},
	"aiohttp":         {{"3.8.3", "3.10"}, {"3.9.0", "3.11"}, {"3.10.6", "3.12"}, {"3.13", "3.13"}},
	"grpcio":          {{"1.49", "3.10"}, {"1.59", "3.11"}, {"1.66.2", "3.12"}, {"1.75.1", "3.13"}},
	"torch":           {{"2.0", "3.10"}, {"2.2", "3.11"}, {"2.6", "3.12"}, {"2.9", "3.13"}},
	"tensorflow":      {{"2.12", "3.10"}, {"2.16", "3.11"}, {"2.20", "3.12"}, {"2.21", "3.13"}},
}

// pythonNewest is the newest Python for the pinned distributions and the reason, or
// empty.
func pythonNewest(pinned map[string]string) (version, why string) {
	for _, n := range slices.Sorted(maps.Keys(pinned)) {
		for _, t := range pythonWheels[n] {
			if atLeast(pinned[n], t.below) {
				continue
			}
			if version == "" || !atLeast(t.python, version) {
				version, why = t.python, n+" "+pinned[n]
			}
			break
		}
	}
	return version, why
}

// exactVersion is a version of Python without a choice: its programs refuse another.
var exactVersion = regexp.MustCompile(`^=?=?=?\s*v?(3\.\d+\.\d+)$`)

// pythonPatches are the first versions of a line with an image on a release of Debian.
var pythonPatches = map[string]struct{ bookworm, bullseye string }{
	"3.7": {"3.7.17", "3.7.12"}, "3.8": {"3.8.17", "3.8.12"}, "3.9": {"3.9.17", "3.9.7"}, "3.10": {"3.10.12", "3.10.0"}, "3.11": {"3.11.4", "3.11.0"},
}

// pythonVersion chooses the version of the image. A range is limited to what the pinned
// distributions run on. A patch level counts where it is a promise (runtime.txt, as on
// Heroku, or a tool that refuses any other); elsewhere the newest has all fixes.
func pythonVersion(s *source, p *plan, project pyproject, pip pipfile, pinned map[string]string) (string, error) {
	v := firstSaid(
		said{s.line(".python-version"), ".python-version"}, said{s.above().line(".python-version"), ".python-version"},
		said{strings.TrimPrefix(s.line("runtime.txt"), "python-"), "runtime.txt"},
		s.tool("python"),
		said{pip.Requires.PythonVersion, "python_version in Pipfile"},
		said{pip.Requires.PythonFull, "python_full_version in Pipfile"},
		said{project.Project.RequiresPython, "requires-python in pyproject.toml"},
		said{fmt.Sprint(orNothing(project.Tool.Poetry.Dependencies["python"])), "python in pyproject.toml"},
	)
	if wants := project.Project.RequiresPython; wants != "" && v.from != "" && s.has("uv.lock") && number.MatchString(v.text) && !allows(plainConstraint(wants), lines(v.text, 2)) {
		// uv refuses it: the file is left over, or for something else.
		p.found("ignores "+v.from, "requires-python in pyproject.toml says "+wants)
		v = said{wants, "requires-python in pyproject.toml"}
	}
	asked := firstSaid(p.want, v)
	if m := exactVersion.FindStringSubmatch(asked.text); m != nil && asked.from != ".python-version" && asked.from != ".tool-versions" && !slices.Contains(miseFiles, asked.from) {
		first := pythonPatches[lines(m[1], 2)]
		for _, r := range []struct{ debian, first string }{{bookworm, first.bookworm}, {bullseye, first.bullseye}} {
			if (r.first != "" || atLeast(m[1], "3.12.0")) && (r.first == "" || atLeast(m[1], r.first)) {
				p.release = r.debian
				p.found("Python "+m[1], asked.from)
				p.ended("Python", m[1])
				return m[1], nil
			}
		}
	}
	known := pythonLines
	limit, why := pythonNewest(pinned)
	choice := asked.from == "" || strings.ContainsAny(asked.text, "<>~^*!")
	if limit != "" && choice {
		known = slices.DeleteFunc(slices.Clone(known), func(k string) bool { return !atLeast(limit, k) && k != limit })
	}
	if len(known) == 0 {
		known = pythonLines
	}
	free := choose(firstSaid(asked, said{pythonLines[0], ""}).text, pythonLines...)
	version := p.version("Python", v, 2, known...)
	if limit != "" && choice && version != lines(free, 2) {
		f := p.fact("Python " + version)
		f.Why = flat(why + " is not made for a newer one; " + f.Why)
	}
	var err error
	p.release, err = debian(s, "Python", version)
	return version, err
}
