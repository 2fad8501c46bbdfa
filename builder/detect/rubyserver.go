package detect

import (
	"cmp"
	"regexp"
)

// rubyServers are the gems of web servers, the one to prefer first, and what starts them
// with a config.ru. config is a file that they only read if it is named.
var rubyServers = []struct{ gem, command, config string }{
	{"puma", "puma -b tcp://0.0.0.0:$PORT", ""},
	{"falcon", "falcon serve --bind http://0.0.0.0:$PORT", ""}, // it serves HTTPS otherwise
	{"unicorn", "unicorn -l 0.0.0.0:$PORT", "config/unicorn.rb"},
	{"thin", "thin start -R config.ru -a 0.0.0.0 -p $PORT -e production", ""},
	{"passenger", "passenger start --address 0.0.0.0 --port $PORT --environment production --log-file /dev/stdout", ""},
	{"iodine", "iodine -b 0.0.0.0 -p $PORT", ""},
	{"pitchfork", "pitchfork -l 0.0.0.0:$PORT", "config/pitchfork.rb"},
}

// rubyServer is the command of the server among the gems, or empty.
func rubyServer(s *source, g gems) (command, gem string) {
	for _, t := range rubyServers {
		if !g.has(t.gem) {
			continue
		}
		command = "bundle exec " + t.command
		if t.config != "" && s.has(t.config) {
			command += " -c " + t.config
		}
		return command, t.gem
	}
	return "", ""
}

// rackup reports whether the gems bring the program rackup, and a server for it: from
// Rack 3 on it is a gem of its own, and Ruby 3.0 took WEBrick out of its standard library.
func (g gems) rackup(ruby string) bool {
	own := g.has("rackup") || g.version("rack") != "" && !atLeast(g.version("rack"), "3.0.0")
	return own && (g.has("webrick") || !atLeast(ruby, "3.0"))
}

// rubyFunction is a function that Google's framework serves, with its name.
var rubyFunction = regexp.MustCompile(`(?m)^\s*FunctionsFramework\.http\b\s*\(?\s*(?:["'](\w+)["'])?`)

// rubyStart is what starts the program. missing says which gem it lacks.
func rubyStart(s *source, p *plan, g gems, rails bool, version string) (command, why, missing string) {
	server, gem := rubyServer(s, g)
	switch {
	case rails && (gem == "" || gem == "puma"):
		// It reads config/puma.rb, as in development.
		why = "bin/rails"
		if !s.has("bin/rails") {
			why = "config/application.rb"
		}
		return "bundle exec rails server -b 0.0.0.0", why, ""
	case s.has("config.ru") && server != "":
		return server, "config.ru, with " + gem + " in the Gemfile", ""
	case s.has("config.ru") && !s.has("Gemfile"):
		return "", "", "no Gemfile names a server for config.ru"
	case s.has("config.ru") && g.rackup(version), s.has("config.ru") && g.lock == "" && g.has("rackup"):
		return "bundle exec rackup -o 0.0.0.0 -p $PORT", "config.ru", ""
	case s.has("config.ru"):
		return "", "", "the Gemfile has no server for config.ru"
	}
	f := s.first("app.rb", "main.rb", "server.rb")
	if m := rubyFunction.FindStringSubmatch(s.read(f)); m != nil && g.has("functions_framework") {
		p.Framework = "Functions Framework"
		return "bundle exec functions-framework-ruby --source " + f + " --target " + cmp.Or(m[1], "function") + " --bind 0.0.0.0 --port $PORT", f, ""
	}
	switch {
	case f == "":
		return "", "", ""
	case p.Framework == "Sinatra":
		return "bundle exec ruby " + f + " -o 0.0.0.0 -p $PORT", f, ""
	case s.has("Gemfile"):
		return "bundle exec ruby " + f, f, ""
	}
	return "ruby " + f, f, ""
}
