package detect

import (
	"regexp"
	"strings"
)

var rubyLines = []string{"3.4", "3.3", "3.2", "3.1", "3.0", "4.0", "2.7"}

// rubyNeeds are gems that need a library or a program. The compiler is always
// installed: most native gems bring everything else.
var rubyNeeds = map[string]needs{
	"pg":               {build: "libpq-dev", run: "libpq5"},
	"mysql2":           {build: "default-libmysqlclient-dev", run: "libmariadb3"},
	"trilogy":          {build: "libssl-dev"},
	"sqlite3":          {build: "libsqlite3-dev", run: "libsqlite3-0"},
	"rmagick":          {build: "libmagickwand-dev", run: "libmagickwand-6.q16-6"},
	"mini_magick":      {run: "imagemagick"},
	"ruby-vips":        {run: "libvips42"},
	"image_processing": {run: "libvips42"},
	"charlock_holmes":  {build: "libicu-dev zlib1g-dev", run: "libicu72"},
	"idn-ruby":         {build: "libidn-dev", run: "libidn12"},
	"nokogiri":         {build: "libxml2-dev libxslt1-dev", run: "libxml2 libxslt1.1"},
	"curb":             {build: "libcurl4-openssl-dev", run: "libcurl4"},
	"jemalloc":         {run: "libjemalloc2"},
}

var (
	gemfileRuby = regexp.MustCompile(`(?m)^\s*ruby\s+["']([^"'\n]+)["']`)
	gemfileFile = regexp.MustCompile(`(?m)^\s*ruby\s*\(?\s*(?:file:|:file\s*=>)\s*["']([^"'\n]+)["']`)
	exactRuby   = regexp.MustCompile(`^=?\s*\d+\.\d+\.\d+$`)
	assetGem    = regexp.MustCompile(`(?m)^\s*gem\s*\(?\s*["'](sprockets-rails|propshaft)["']`)
	lockedRuby  = regexp.MustCompile(`(?m)^\s+ruby ([0-9.]+)`)
	gemPath     = regexp.MustCompile(`(?m)^\s*(path\s|gem\s.*\bpath:|gem\s.*:path\s*=>|gemspec\b|eval_gemfile)`)
)

func ruby(s *source, p *plan) error {
	gemfile, lock := s.read("Gemfile"), s.read("Gemfile.lock")
	declared, locked := "", ""
	if m := gemfileRuby.FindStringSubmatch(gemfile); m != nil {
		declared = m[1]
	}
	if m := lockedRuby.FindStringSubmatch(lock); m != nil {
		locked = m[1]
	}
	file, tool := said{strings.TrimPrefix(s.line(".ruby-version"), "ruby-"), ".ruby-version"}, s.tool("ruby")
	v := firstSaid(file, said{declared, "ruby in Gemfile"}, said{locked, "Gemfile.lock"}, tool)
	exact := 2
	switch m := gemfileFile.FindStringSubmatch(gemfile); { // bundler accepts only the version in the Gemfile
	case exactRuby.MatchString(declared):
		exact = 3
		if v.text != declared {
			v = said{declared, "ruby in Gemfile"}
		}
	case m != nil && m[1] == tool.from:
		v, exact = firstSaid(tool, v), 3
	case m != nil:
		v, exact = firstSaid(file, v), 3
	case v.from == "ruby in Gemfile":
		exact = 3
	}
	version := p.version("Ruby", v, exact, rubyLines...)
	var err error
	if p.release, err = debian(s, "Ruby", version); err != nil {
		return err
	}
	p.image = "ruby:" + version + "-slim-" + p.release
	has := func(gem string) bool {
		return regexp.MustCompile(`(?m)^\s*gem\s*\(?\s*["']`+regexp.QuoteMeta(gem)+`["']`).MatchString(gemfile) ||
			regexp.MustCompile(`(?m)^    `+regexp.QuoteMeta(gem)+` \(`).MatchString(lock)
	}
	rails := has("rails") && s.first("bin/rails", "config/application.rb") != ""
	p.env = []string{"RACK_ENV=production", "BUNDLE_WITHOUT=development:test"}
	if lock != "" {
		p.env = append(p.env, "BUNDLE_FROZEN=1")
	}
	if rails {
		p.Framework = "Rails"
		p.env = append(p.env, "RAILS_ENV=production", "RAILS_LOG_TO_STDOUT=1", "RAILS_SERVE_STATIC_FILES=1")
	} else if has("sinatra") {
		p.Framework = "Sinatra"
	}
	if s.has("Gemfile") {
		p.buildPackages = append(p.buildPackages, "build-essential", "git", "libyaml-dev", "pkg-config")
		p.add(rubyNeeds, has)
		if has("execjs") && !has("mini_racer") { // it is also needed when the app starts
			p.packages = append(p.packages, "nodejs")
			p.found("installs nodejs", "needed by execjs")
		}
		why := "Gemfile.lock"
		if lock == "" {
			why = "Gemfile, no lock file"
		}
		p.found("bundle install", why)
		if gemPath.MatchString(gemfile) {
			p.found("copies everything before installing", "paths in the Gemfile")
			p.build = append(p.build, "COPY . .")
		} else {
			p.build = append(p.build, copies(s.present("Gemfile", "Gemfile.lock", ".ruby-version", "vendor/cache"))...)
		}
		mounts, exports := "", ""
		for _, m := range regexp.MustCompile(`ENV(?:\.fetch\(|\[)["']([A-Z][A-Z0-9_]+)["']`).FindAllStringSubmatch(gemfile, -1) {
			m, e := secretsIn("$" + m[1])
			mounts, exports = mounts+m, exports+e
		}
		p.build = append(p.build, "RUN --mount=type=cache,target=/usr/local/bundle/cache "+mounts+exports+"bundle install")
		if !gemPath.MatchString(gemfile) {
			p.build = append(p.build, "COPY . .")
		}
		p.final = []string{"COPY --from=build /usr/local/bundle /usr/local/bundle", "COPY --from=build --chown=%OWNER /app /app"}
	} else {
		p.final = []string{"COPY --chown=%OWNER . ."}
	}
	if err := rubyAssets(s, p, rails, has); err != nil {
		return err
	}
	found, why := rubyStart(s, p, rails, has)
	return s.start(p, found, why, "bin/rails, config.ru, app.rb or main.rb")
}

// rubyAssets adds the build of a Rails app's assets, with Node if the tree has a
// package.json.
func rubyAssets(s *source, p *plan, rails bool, has func(string) bool) error {
	command, cache := "", "" // cache is that of the package manager
	if rails {
		if has("bootsnap") {
			p.build = append(p.build, "RUN bundle exec bootsnap precompile --gemfile app/ lib/")
		}
		// Not by the lock file: up to Rails 6, sprockets is in it even for an app
		// that has no assets and no task for them.
		if s.dir("app/assets") || assetGem.MatchString(s.read("Gemfile")) {
			command = "SECRET_KEY_BASE_DUMMY=1 SECRET_KEY_BASE=only-for-the-build bundle exec rails assets:precompile"
		}
	}
	if rails && command != "" && s.has("package.json") {
		var j packageJSON
		if err := s.json("package.json", &j); err != nil {
			return err
		}
		v, err := nodeSaid(s, j)
		if err != nil {
			return err
		}
		version, release, err := nodeVersion(s, p, "for the assets, Node", v)
		if err != nil {
			return err
		}
		m := packageManager(s, p, j, version)
		p.build = append(p.build, "COPY --from="+nodeImage(version, release)+" /usr/local /usr/local")
		if m.setup != "" {
			p.build = append(p.build, "RUN "+m.setup)
		}
		if len(m.env) > 0 {
			p.build = append(p.build, "ENV "+strings.Join(m.env, " "))
		}
		var mounts, exports string
		cache, mounts, exports = nodeMounts(s, m)
		p.build = append(p.build, "RUN "+cache+mounts+exports+m.install)
		p.found(m.install, m.why)
	}
	if command = s.buildCommand(p, command, "the app's assets"); command != "" {
		p.build = append(p.build, "RUN "+cache+withConfig+readConfig+command) // it may install again
		if s.has("package.json") {
			p.build = append(p.build, "RUN rm -rf node_modules")
		}
	}
	return nil
}

func rubyStart(s *source, p *plan, rails bool, has func(string) bool) (command, why string) {
	switch {
	case rails && s.has("bin/rails"):
		return "bundle exec rails server -b 0.0.0.0", "bin/rails"
	case rails:
		return "bundle exec rails server -b 0.0.0.0", "config/application.rb"
	case s.has("config.ru") && has("puma"):
		return "bundle exec puma -b tcp://0.0.0.0:$PORT", "config.ru, with puma in the Gemfile"
	case s.has("config.ru"):
		return "bundle exec rackup -o 0.0.0.0 -p $PORT", "config.ru"
	}
	f := s.first("app.rb", "main.rb", "server.rb")
	switch {
	case f == "":
		return "", ""
	case p.Framework == "Sinatra":
		return "bundle exec ruby " + f + " -o 0.0.0.0 -p $PORT", f
	case s.has("Gemfile"):
		return "bundle exec ruby " + f, f
	}
	return "ruby " + f, f
}
