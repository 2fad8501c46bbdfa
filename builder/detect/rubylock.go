package detect

import (
	"regexp"
	"strings"
)

// gems are what a Gemfile and its lock file say.
type gems struct {
	gemfile, lock string
	lockFile      string // its name
}

// readGems reads both. Bundler also takes gems.rb and gems.locked, but no platform does.
func readGems(s *source) gems {
	return gems{s.read("Gemfile"), s.read("Gemfile.lock"), "Gemfile.lock"}
}

// has reports whether a gem is in the Gemfile or in the lock file.
func (g gems) has(gem string) bool { return g.named(gem) || g.locked(gem) != "" }

func (g gems) named(gem string) bool {
	return regexp.MustCompile(`(?m)^\s*gem\s*\(?\s*["']` + regexp.QuoteMeta(gem) + `["']`).MatchString(g.gemfile)
}

// locked is the version of a gem in the lock file, or empty.
func (g gems) locked(gem string) string {
	if m := regexp.MustCompile(`(?m)^    ` + regexp.QuoteMeta(gem) + ` \(([^)\n]*)\)`).FindStringSubmatch(g.lock); m != nil {
		return m[1]
	}
	return ""
}

// version is the locked version of a gem, or the number in what the Gemfile asks for.
func (g gems) version(gem string) string {
	if v := g.locked(gem); v != "" {
		return number.FindString(v)
	}
	m := regexp.MustCompile(`(?m)^\s*gem\s*\(?\s*["']` + regexp.QuoteMeta(gem) + `["']\s*,\s*["']([^"'\n]*)["']`).FindStringSubmatch(g.gemfile)
	if m == nil {
		return ""
	}
	return number.FindString(m[1])
}

var (
	lockPlatforms = regexp.MustCompile(`(?m)^PLATFORMS\n((?:  \S.*\n)+)`)
	lockBundler   = regexp.MustCompile(`(?m)^BUNDLED WITH\n\s+(\d+(?:\.\d+)*)`)
)

// platforms are those for which the lock file has versions.
func (g gems) platforms() []string {
	m := lockPlatforms.FindStringSubmatch(g.lock + "\n")
	if m == nil {
		return nil
	}
	return strings.Fields(m[1])
}

// bundler returns the command before the installation that lets a version of Ruby read
// the lock file, whether that changes the file, and the fact about it. Only the major
// counts: Bundler 2 reads the files of any 2
// (https://bundler.io/guides/bundler_2_upgrade.html).
func (g gems) bundler(ruby string) (command string, changes bool, what, why string) {
	m := lockBundler.FindStringSubmatch(g.lock)
	if m == nil {
		return "", false, "", ""
	}
	why = g.lockFile + " says " + m[1]
	switch major := lines(m[1], 1); {
	case major == "1" && atLeast(ruby, "2.7"), // its images have Bundler 2, and 1 does not run from Ruby 3.2 on
		!atLeast("3", major) && !atLeast(ruby, "3.2"): // Bundler 4 needs Ruby 3.2
		return `sed -i '/^BUNDLED WITH/,$d' Gemfile.lock && `, true, "installs with the image's Bundler", why
	case major == "2" && !atLeast(ruby, "2.7"): // its images have Bundler 1
		if atLeast(m[1], "2.5.0") { // 2.4.22 is the last one for Ruby 2.6, whose RubyGems wants the one in the file
			return `gem install bundler:2.4.22 && sed -i '/^BUNDLED WITH/,$d' Gemfile.lock && `, true, "installs Bundler 2.4.22", why
		}
		return "gem install bundler:" + m[1] + " && ", false, "installs Bundler " + m[1], why
	}
	return "", false, "", ""
}

// otherMachine is the reason if the lock file was made for other systems only, as
// Bundler does on a Mac and on Windows, or empty. Bundler refuses such a file if it may
// not change it, and otherwise adds the system that it runs on
// (https://bundler.io/man/bundle-lock.1.html, --add-platform).
func (g gems) otherMachine() string {
	list := g.platforms()
	for _, l := range list {
		if l == "ruby" || strings.HasPrefix(l, "x86_64-linux") && !strings.HasSuffix(l, "-musl") {
			return ""
		}
	}
	if len(list) == 0 {
		return ""
	}
	return g.lockFile + " is for " + strings.Join(list, ", ")
}
