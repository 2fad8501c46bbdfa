package detect

import (
	"cmp"
	"regexp"
	"strings"

	"mesh"
)

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
	"passenger":        {build: "libcurl4-openssl-dev libssl-dev zlib1g-dev libpcre2-dev", run: "libcurl4 libpcre2-8-0 procps"},
	"rugged":           {build: "cmake libssl-dev"},
	"ruby-filemagic":   {build: "libmagic-dev", run: "libmagic1"},
	"tiny_tds":         {build: "freetds-dev", run: "libsybdb5"},
}

var gemPath = regexp.MustCompile(`(?m)^\s*(path\s|gem\s.*\bpath:|gem\s.*:path\s*=>|gemspec\b|eval_gemfile)`)

func ruby(s *source, p *plan) error {
	g := readGems(s)
	v, numbers := rubyVersion(s, g)
	version := p.version("Ruby", v, numbers, rubyLines...)
	if v.from == "" && p.want.text == "" { // its old gems may say more than the default
		if v = rubyDefault(g); v.from != "" {
			version = v.text
			p.Facts = p.Facts[:len(p.Facts)-1]
			p.found("Ruby "+version, v.from)
		}
	}
	var err error
	if p.release, err = debian(s, "Ruby", version); err != nil {
		return err
	}
	p.image = "ruby:" + version + "-slim-" + p.release
	rails := g.has("rails") && s.first("bin/rails", "config/application.rb") != ""
	p.env = []string{"RACK_ENV=production", "BUNDLE_WITHOUT=development:test"}
	if g.lock != "" {
		p.env = append(p.env, "BUNDLE_FROZEN=1")
	}
	if rails {
		p.Framework = "Rails"
		p.env = append(p.env, "RAILS_ENV=production", "RAILS_LOG_TO_STDOUT=1", "RAILS_SERVE_STATIC_FILES=1")
	} else if g.has("sinatra") {
		p.Framework = "Sinatra"
	}
	if s.has("Gemfile") {
		rubyGems(s, p, g, version)
	} else {
		p.final = []string{"COPY --chown=%OWNER . ."}
	}
	if err := rubyAssets(s, p, rails, g.has); err != nil {
		return err
	}
	found, why, missing := rubyStart(s, p, g, rails, version)
	if strings.Contains(s.set.StartCommand+"\n"+cmp.Or(s.process("web"), found), "passenger ") {
		// Otherwise it downloads its agent at each start.
		p.build = append(p.build, "RUN bundle exec passenger-config install-standalone-runtime --auto && bundle exec passenger-config build-native-support")
	}
	if missing != "" && s.set.StartCommand == "" && !s.has("Procfile") {
		return mesh.Errorf(mesh.Invalid, "this is Ruby, but %s", missing).
			WithHint("add one with: bundle add puma; or write web: COMMAND in a Procfile")
	}
	if rails {
		railsConfig(s, p)
	}
	if n := len(p.build); n > 0 && p.build[n-1] == "COPY . ." { // nothing is built from the tree: an edit need not pass through the stage
		p.build = p.build[:n-1]
		p.final = []string{"COPY --from=build /usr/local/bundle /usr/local/bundle", "COPY --chown=%OWNER . ."}
	}
	return s.start(p, found, why, "bin/rails, config.ru, app.rb or main.rb")
}

// rubyGems adds the installation of the gems.
func rubyGems(s *source, p *plan, g gems, version string) {
	p.buildPackages = append(p.buildPackages, "build-essential", "git", "libyaml-dev", "pkg-config")
	p.add(rubyNeeds, g.has)
	if g.has("execjs") && !g.has("mini_racer") { // it is also needed when the app starts
		p.packages = append(p.packages, "nodejs")
		p.found("installs nodejs", "needed by execjs")
	}
	why := g.lockFile
	if g.lock == "" {
		why = "Gemfile, no lock file"
	}
	command := p.installs("bundle install", why)
	before, changes, what, why := g.bundler(version)
	if what != "" {
		p.found(what, why)
	}
	if why := g.otherMachine(); why != "" {
		changes = true
		p.found("adds Linux to the lock file", why)
	}
	mounts, exports := "", ""
	for _, m := range regexp.MustCompile(`ENV(?:\.fetch\(|\[)["']([A-Z][A-Z0-9_]+)["']`).FindAllStringSubmatch(g.gemfile, -1) {
		m, e := secretsIn("$" + m[1])
		mounts, exports = mounts+m, exports+e
	}
	whole := gemPath.MatchString(g.gemfile)
	install := before + command
	if changes {
		install = before + "BUNDLE_FROZEN=false " + command
		if !whole { // COPY brings the old one again
			install += " && cp Gemfile.lock /tmp/"
		}
	}
	install = "RUN --mount=type=cache,target=/usr/local/bundle/cache " + mounts + exports + install
	if whole {
		p.found("copies everything before installing", "paths in the Gemfile")
		p.build = append(p.build, "COPY . .", install)
	} else {
		p.build = append(p.build, copies(s.present("Gemfile", "Gemfile.lock", ".ruby-version", ".tool-versions", "vendor/cache"))...)
		p.build = append(p.build, install, "COPY . .")
		if changes {
			p.build = append(p.build, "RUN cp /tmp/Gemfile.lock ./")
		}
	}
	p.final = []string{"COPY --from=build /usr/local/bundle /usr/local/bundle", "COPY --from=build --chown=%OWNER /app /app"}
}

// railsConfig says what a Rails app needs besides its image.
func railsConfig(s *source, p *plan) {
	p.wants(s, "SECRET_KEY_BASE", "openssl rand -hex 64")
	if s.dir("db/migrate") {
		p.migrates(s, "bundle exec rails db:migrate", "db/migrate")
	}
}
