package detect

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mesh"
)

const nodeDefault = "24"

// nodeLines are the lines of Node that have images, the one to use first.
var nodeLines = []string{nodeDefault, "22", "20", "26", "25", "18", "16", "14"}

// nodeReleases are the code names of the lines with long-term support, and their
// numbers, as in nvm.
var nodeReleases = []struct{ name, line string }{
	{"krypton", "24"},
	{"jod", "22"},
	{"iron", "20"},
	{"hydrogen", "18"},
	{"gallium", "16"},
	{"fermium", "14"},
	{"erbium", "12"},
	{"dubnium", "10"},
	{"carbon", "8"},
	{"boron", "6"},
	{"argon", "4"},
}

func nodeImage(version, release string) string { return "node:" + version + "-" + release + "-slim" }

// nodeSaid is the version of Node that the tree asks for, as a number or a range.
func nodeSaid(s *source, j packageJSON) (said, error) {
	v := firstSaid(
		said{s.line(".nvmrc"), ".nvmrc"}, said{s.line(".node-version"), ".node-version"}, s.tool("nodejs", "node"),
		said{j.Engines["node"], "engines.node in package.json"}, said{j.Volta["node"], "volta.node in package.json"},
		said{j.DevEngines.Runtime.version("node"), "devEngines.runtime in package.json"},
	)
	text := strings.ToLower(v.text)
	lts, isLTS := strings.CutPrefix(text, "lts")
	lts = strings.Trim(lts, "/-")
	switch {
	case slices.Contains([]string{"lts", "lts/*", "node", "stable", "latest", "current", "*", "x"}, text):
		v.text = nodeDefault
	case isLTS:
		for i, r := range nodeReleases {
			if lts == r.name || lts == strconv.Itoa(i) { // lts/-1 is the one before lts/*
				v.text = r.line
				return v, nil
			}
		}
		return said{}, mesh.Errorf(mesh.Invalid, "%s says %q, but no release of Node has that name", v.from, mesh.Clip(v.text, 40)).
			WithHint("name a version: %s, or lts/%s", nodeDefault, nodeReleases[0].name)
	case v.from != "" && !number.MatchString(text):
		return said{}, mesh.Errorf(mesh.Invalid, "%s says %q, which is not a version of Node", v.from, mesh.Clip(v.text, 40)).
			WithHint("name a version: %s, or lts/%s", nodeDefault, nodeReleases[0].name)
	}
	v.text = strings.TrimPrefix(v.text, "v")
	return v, nil
}

// exactNode matches a version down to its patch level, or to its minor one.
var exactNode = regexp.MustCompile(`^[=~v\s]*\d+\.\d+(\.(\d+|[x*]))?$`)

// nodeVersion chooses the version of Node, and the Debian release of its image. An exact
// version is kept: yarn and pnpm refuse another patch level than the one in engines. If
// it has no image with a Debian that is supported, its line has one.
//
// What is "Node", or names it for something beside the program, whose version
// language-version does not mean.
func nodeVersion(s *source, p *plan, what string, v said) (version, release string, err error) {
	if what != "Node" {
		defer func(want said) { p.want = want }(p.want)
		p.want = said{}
	}
	if w := firstSaid(p.want, v); exactNode.MatchString(w.text) {
		numbers := 1 + strings.Count(number.FindString(w.text), ".")
		if strings.HasPrefix(strings.TrimSpace(w.text), "~") {
			numbers = 2
		}
		exact := lines(w.text, numbers)
		if _, err := debian(s, "Node", exact); err != nil {
			if _, err := debian(s, "Node", lines(exact, 1)); err == nil {
				p.found("uses the newest "+what+" "+lines(exact, 1), "there is no image of "+exact+" with a supported Debian")
				numbers = 1
			}
		}
		if numbers > 1 {
			release, err = debian(s, "Node", exact)
			why := w.from
			if exact != w.text {
				why += " says " + flat(mesh.Clip(w.text, 40))
			}
			p.found(what+" "+exact, why)
			p.ended(what, exact)
			return exact, release, err
		}
	}
	version = p.version(what, v, 1, nodeLines...)
	release, err = debian(s, "Node", version)
	return version, release, err
}
