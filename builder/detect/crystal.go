package detect

import (
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"mesh"
)

// crystal builds a static program, which only Alpine's image can do
// (https://crystal-lang.org/reference/guides/static_linking.html).
func crystal(s *source, p *plan) error {
	var shard struct {
		Name, Crystal string
		Targets       map[string]struct{ Main string }
		Dependencies  map[string]any
	}
	if err := yaml.Unmarshal([]byte(s.read("shard.yml")), &shard); err != nil {
		return mesh.Errorf(mesh.Invalid, "shard.yml: %w", err)
	}
	for _, f := range []struct{ shard, name string }{{"kemal", "Kemal"}, {"lucky", "Lucky"}, {"amber", "Amber"}, {"athena", "Athena"}} {
		if _, ok := shard.Dependencies[f.shard]; ok {
			p.Framework = f.name
		}
	}
	v := firstSaid(said{s.line(".crystal-version"), ".crystal-version"}, s.tool("crystal"))
	var version string
	switch declared := (said{shard.Crystal, "crystal in shard.yml"}); {
	case v.from != "" || p.want.text != "":
		version = p.version("Crystal", numeric(v), 3, "1.17")
	case strings.ContainsAny(shard.Crystal, "<>~*") || shard.Crystal == "":
		version = p.version("Crystal", declared, 3, "1.17", "1.16", "1.14", "1.10", "1.6", "1.0")
	default: // "1.4.1" is ">= 1.4.1, < 2.0" since shards 0.15
		version = p.newest("Crystal", "1.17", declared)
	}
	if strings.Count(version, ".") == 1 { // images have all three numbers
		version += ".0"
	}
	p.buildImage, p.image = "crystallang/crystal:"+version+"-alpine", "debian:bookworm-slim"
	if err := s.noDebian(p); err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(shard.Targets))
	name := program(names, shard.Name)
	target := "src/" + shard.Name + ".cr"
	switch {
	case len(names) == 0 && s.has(target) && plainPath.MatchString(target):
		name = shard.Name
	case len(names) == 0 && s.set.BuildCommand == "":
		return mesh.Errorf(mesh.Invalid, "this is Crystal, but shard.yml has no targets, and there is no %s", flat(mesh.Clip(target, 60))).
			WithHint("write into shard.yml: targets: {app: {main: src/app.cr}}")
	case name == "":
		if err := s.severalPrograms(p, names, "shard.yml"); err != nil {
			return err
		}
	}
	if lib := s.crystalLibraries(shard.Dependencies); lib != "" {
		p.found("installs "+lib, "needed by a shard")
		p.build = append(p.build, "RUN apk add --no-cache "+lib)
	}
	command := "shards build --production --release --static --no-debug"
	if len(names) == 0 {
		command = "mkdir -p bin && crystal build --release --static --no-debug -o bin/" + name + " " + target
	}
	install := "shards install --production"
	if !s.has("shard.lock") {
		install = "shards install --without-development"
		command = strings.Replace(command, "shards build --production", "shards build --without-development", 1)
	}
	if localPath.MatchString(s.read("shard.yml")) {
		p.build = append(p.build, "COPY . .", "RUN "+install)
	} else {
		p.build = append(p.build, copies(s.present("shard.yml", "shard.lock", "shard.override.yml"))...)
		p.build = append(p.build, "RUN "+install)
	}
	p.found(install, s.first("shard.lock", "shard.yml"))
	assets, err := s.crystalAssets(p)
	if err != nil {
		return err
	}
	p.copyAll()
	command = assets + command
	p.build = append(p.build, s.buildRun(p, command, "shard.yml", "/root/.cache/crystal"))
	p.debianNeeds("ca-certificates", "")
	p.final = []string{"COPY --chown=%OWNER . .", "COPY --from=build /app/bin/ /usr/local/bin/"}
	if assets != "" { // which the build has written among the sources
		p.build = append(p.build, "RUN rm -rf node_modules lib")
		p.final[0] = "COPY --from=build --chown=%OWNER /app /app"
	}
	s.alsoIn(p, "/app/bin/", "bin")
	start := word(name)
	switch {
	case name == "":
		start = ""
	case p.Framework == "Kemal":
		start += " --bind 0.0.0.0 --port $PORT"
	case p.Framework == "Lucky":
		p.env = append(p.env, "LUCKY_ENV=production", "HOST=0.0.0.0")
	}
	return s.start(p, start, "targets in shard.yml", "target")
}

// crystalAssets installs the packages of a package.json with Alpine's Node, and returns
// the command that builds the assets: Lucky compiles their names into the program.
func (s *source) crystalAssets(p *plan) (string, error) {
	var j packageJSON
	if err := s.json("package.json", &j); err != nil {
		return "", err
	}
	script := ""
	for _, n := range []string{"build", "prod", "heroku-postbuild"} { // the last one wins
		if j.Scripts[n] != "" {
			script = n
		}
	}
	if script == "" {
		return "", nil
	}
	m := packageManager(s, p, j, nodeDefault)
	p.build = append(p.build, "RUN apk add --no-cache nodejs npm")
	if m.setup != "" {
		p.build = append(p.build, "RUN "+m.setup)
	}
	p.found(m.install+", with Alpine's Node", m.why)
	cache, mounts, exports := nodeMounts(s, m)
	if !slices.Contains(p.build, "COPY . .") {
		p.build = append(p.build, copies(s.present(append([]string{"package.json", ".npmrc"}, m.files...)...))...)
	}
	p.build = append(p.build, "RUN "+cache+mounts+exports+m.install)
	return m.name + " run " + script + " && ", nil
}

// crystalLibraries are Alpine's packages of the static libraries that shards need; the
// image has those of the standard library.
func (s *source) crystalLibraries(dependencies map[string]any) string {
	var list []string
	for _, l := range []struct{ shard, library string }{{"sqlite3", "sqlite-static"}, {"crystal-sqlite3", "sqlite-static"}, {"magickwand-crystal", "imagemagick-static"}} {
		if _, ok := dependencies[l.shard]; ok || strings.Contains(s.read("shard.lock"), "\n  "+l.shard+":\n") {
			list = append(list, l.library)
		}
	}
	return strings.Join(slices.Compact(list), " ")
}
