package detect

import (
	"regexp"
	"strings"
)

var rubyLines = []string{"3.4", "3.3", "3.2", "3.1", "3.0", "4.0", "2.7"}

var (
	gemfileRuby = regexp.MustCompile(`(?m)^\s*ruby\s*\(?\s*["']([^"'\n]+)["']`)
	gemfileFile = regexp.MustCompile(`(?m)^\s*ruby\s*\(?\s*(?:file:|:file\s*=>)\s*["']([^"'\n]+)["']`)
	exactRuby   = regexp.MustCompile(`^=?\s*\d+\.\d+\.\d+$`)
	lockedRuby  = regexp.MustCompile(`(?m)^\s+ruby ([0-9.]+)`)
)

// rubyVersion is the version that the tree's files ask for, and to how many numbers an
// image's tag must name it: bundler accepts only the version in the Gemfile.
func rubyVersion(s *source, g gems) (v said, numbers int) {
	declared, locked := "", ""
	if m := gemfileRuby.FindStringSubmatch(g.gemfile); m != nil {
		declared = m[1]
	}
	if m := lockedRuby.FindStringSubmatch(g.lock); m != nil {
		locked = m[1]
	}
	file, tool := said{strings.TrimPrefix(s.line(".ruby-version"), "ruby-"), ".ruby-version"}, s.tool("ruby")
	v = firstSaid(file, said{declared, "ruby in Gemfile"}, said{locked, g.lockFile}, tool)
	m := gemfileFile.FindStringSubmatch(g.gemfile)
	switch {
	case exactRuby.MatchString(declared):
		if v.text != declared {
			v = said{declared, "ruby in Gemfile"}
		}
		return v, 3
	case m != nil && m[1] == tool.from:
		return firstSaid(tool, v), 3
	case m != nil:
		return firstSaid(file, v), 3
	case v.from == "ruby in Gemfile":
		return v, 3
	}
	return v, 2
}

// rubyNewest are the newest Rubies that run old lines of gems: below is the first
// version of the gem that runs on newer ones. Rails' own test matrix and its release
// notes say so (https://guides.rubyonrails.org/upgrading_ruby_on_rails.html); Rack 1 and
// Sinatra 1 are older than keyword arguments of Ruby 3.
var rubyNewest = []struct{ gem, below, ruby string }{
	{"railties", "6.1", "2.7"},
	{"rails", "6.1", "2.7"},
	{"sinatra", "2.0", "2.7"},
	{"rack", "2.0", "2.7"},
	{"railties", "7.0", "3.1"},
	{"rails", "7.0", "3.1"},
	{"railties", "7.1", "3.3"},
	{"rails", "7.1", "3.3"},
	{"sinatra", "4.0", "3.3"},
}

// rubyDefault is the version for a tree that asks for none: the newest, unless its gems
// are older. Ruby 3.4 took base64, bigdecimal, csv and others out of its standard library
// (https://www.ruby-lang.org/en/news/2024/12/25/ruby-3-4-0-released/), so gems that use
// them list them as dependencies since then. A lock file without base64 was made before,
// or needs none: Ruby 3.3 runs both.
func rubyDefault(g gems) said {
	for _, t := range rubyNewest {
		if v := g.version(t.gem); v != "" && !atLeast(v, t.below) && (t.gem != "sinatra" || g.locked("base64") == "") {
			return said{t.ruby, t.gem + " " + v}
		}
	}
	if g.lock != "" && g.locked("base64") == "" {
		return said{"3.3", g.lockFile + " lacks base64, and so does Ruby 3.4"}
	}
	return said{}
}
