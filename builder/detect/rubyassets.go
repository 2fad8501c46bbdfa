package detect

import (
	"regexp"
	"strings"
)

var assetGem = regexp.MustCompile(`(?m)^\s*gem\s*\(?\s*["'](sprockets-rails|propshaft)["']`)

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
		list, mount, err := nodeAssets(s, p, j)
		if err != nil {
			return err
		}
		for _, l := range list {
			if !strings.HasPrefix(l, "COPY ") || strings.HasPrefix(l, "COPY --from=") { // the tree is there
				p.build = append(p.build, l)
			}
		}
		cache = mount
	}
	if command = s.buildCommand(p, command, "the app's assets"); command != "" {
		p.build = append(p.build, "RUN "+cache+withConfig+readConfig+command) // it may install again
		if s.has("package.json") {
			p.build = append(p.build, "RUN rm -rf node_modules")
		}
	}
	return nil
}
