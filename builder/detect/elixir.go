package detect

import (
	"cmp"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"mesh"
)

// elixirLines are the releases of Elixir with images, the one to use first, each with
// the newest Erlang that it supports on Debian 12 and the oldest one with an image
// (https://hub.docker.com/_/elixir, docker-library/official-images library/elixir).
var elixirLines = []struct{ line, erlang, oldest string }{
	{"1.18", "27", "25"}, {"1.19", "27", "26"}, {"1.20", "27", "27"}, {"1.17", "27", "25"}, {"1.16", "26", "24"}, {"1.15", "26", "24"}, {"1.14", "25", "23"}, {"1.13", "25", "22"},
}

// erlangDebian is the Debian of Erlang's image, whose libraries a release needs
// (erlang/docker-erlang-otp, N/slim/Dockerfile).
func erlangDebian(erlang string) string {
	switch {
	case atLeast(erlang, "28"):
		return "trixie"
	case atLeast(erlang, "26"):
		return bookworm
	}
	return bullseye
}

var (
	mixApp      = regexp.MustCompile(`(?m)^\s*app:\s*:([a-z][a-z0-9_]*)`)
	mixElixir   = regexp.MustCompile(`(?m)^\s*elixir:\s*"([^"\n]+)"`)
	mixReleases = regexp.MustCompile(`(?m)^\s*releases:\s*(\[|releases\(\))`)
	mixRelease  = regexp.MustCompile(`(?m)^\s*(?:releases:\s*\[\s*)?([a-z][a-z0-9_]*):\s*\[\s*(?:$|include_executables_for|include_erts|applications|version|steps|strip_beams|cookie|path|overwrite|quiet|config_providers|validate_compile_env|reboot_system_after_config|runtime_config_path)`)
	mixFunction = regexp.MustCompile(`(?m)^\s*defp? releases\b`)
	mixDefault  = regexp.MustCompile(`default_release:\s*:([a-z][a-z0-9_]*)`)
	mixPath     = regexp.MustCompile(`(?m)^[^#\n]*(apps_path:|\bpath:\s*")`)
	mixCommand  = regexp.MustCompile(`(?m)(^|[\s;&|:])(mix|iex|elixir)\s`)
)

// elixirNeeds are packages of Hex that need a library or a program.
var elixirNeeds = map[string]needs{
	"vix":           {build: "libvips-dev", run: "libvips42"},
	"mogrify":       {run: "imagemagick"},
	"chromic_pdf":   {run: "chromium ghostscript"},
	"pdf_generator": {run: "wkhtmltopdf"},
	"brod":          {build: "cmake"},
	"snappyer":      {build: "cmake"},
	"ffmpex":        {run: "ffmpeg"},
}

// elixir builds a release, which brings its own Erlang. An app that a command starts
// with mix keeps its sources and the compiler.
func elixir(s *source, p *plan) error {
	mix := s.read("mix.exs")
	phoenix := s.elixirHas("phoenix")
	if phoenix {
		p.Framework = "Phoenix"
	}
	version, erlang, err := elixirVersion(s, p, mix)
	if err != nil {
		return err
	}
	compiler := "elixir:" + version + "-otp-" + erlang + "-slim"
	withMix, why := elixirWithMix(s, phoenix)
	if withMix {
		p.found("keeps mix in the image", why)
		p.image, p.release = compiler, erlangDebian(erlang)
		p.base = append(p.base, "RUN mix local.hex --force --if-missing && mix local.rebar --force --if-missing")
	} else {
		p.buildImage, p.image, p.release = compiler, "debian:"+erlangDebian(erlang)+"-slim", erlangDebian(erlang)
		p.debianNeeds("ca-certificates libncurses6 libssl3 libstdc++6", "")
	}
	p.env = []string{"LANG=C.UTF-8"}
	if withMix { // for every user
		p.env = append(p.env, "MIX_ENV=prod", "MIX_HOME=/opt/mix", "HEX_HOME=/opt/hex")
	}
	if phoenix {
		p.env = append(p.env, "PHX_SERVER=true")
	}
	p.debianNeeds("", "build-essential ca-certificates git")
	p.add(elixirNeeds, s.elixirHas)
	if !withMix {
		p.build = append(p.build, "ENV LANG=C.UTF-8 MIX_ENV=prod", "RUN mix local.hex --force --if-missing && mix local.rebar --force --if-missing")
	}
	if err := elixirBuild(s, p, mix, withMix); err != nil {
		return err
	}
	if phoenix {
		elixirConfig(s, p)
	}
	if withMix {
		p.final = []string{"COPY --from=build --chown=%OWNER /app /app"}
		start := "mix run --no-halt"
		if phoenix {
			start = "mix phx.server"
		}
		return s.start(p, start, "mix.exs", "mix.exs")
	}
	name := elixirRelease(mix)
	if name == "" {
		return mesh.Errorf(mesh.Invalid, "this is %s, but mix.exs names neither an app nor a release", p.Title()).
			WithHint("add releases: [NAME: [applications: [APP: :permanent]]] to project/0 in mix.exs")
	}
	p.final = []string{"COPY --from=build --chown=%OWNER /app/_build/prod/rel/" + name + " /app"}
	return s.start(p, "bin/"+name+" start", "the release "+name+" of mix.exs", "mix.exs")
}

// elixirHas reports whether mix.exs, or that of an app below it, names a dependency, or
// the lock file has it.
func (s *source) elixirHas(name string) bool {
	text := s.read("mix.exs") + s.read("mix.lock")
	for _, f := range s.umbrella() {
		text += s.read(f)
	}
	return regexp.MustCompile(`(?m)(^\s*\{:|\[\{:|^\s*"|\{)` + regexp.QuoteMeta(name) + `("|,)`).MatchString(text)
}

// umbrella are the mix.exs of an umbrella's apps.
func (s *source) umbrella() (files []string) {
	for _, d := range s.foldersOf("apps") {
		if s.has("apps/" + d + "/mix.exs") {
			files = append(files, "apps/"+d+"/mix.exs")
		}
	}
	return files
}

// elixirVersion chooses Elixir and the Erlang below it. elixir_buildpack.config is the
// file of Heroku's buildpack.
func elixirVersion(s *source, p *plan, mix string) (version, erlang string, err error) {
	config := func(name string) said {
		return said{group(regexp.MustCompile(`(?m)^\s*`+name+`_version\s*=\s*["']?v?([0-9.]+)`), s.read("elixir_buildpack.config")), "elixir_buildpack.config"}
	}
	tool := s.tool("elixir") // "1.18.4-otp-27" names both
	known := []string{}
	for _, l := range elixirLines {
		known = append(known, l.line)
	}
	otp := group(regexp.MustCompile(`-otp-(\d+)`), tool.text)
	tool.text = strings.TrimPrefix(strings.TrimSuffix(tool.text, "-otp-"+otp), "v")
	if !number.MatchString(tool.text) { // "latest"
		tool.text = ""
	}
	version = p.version("Elixir", firstSaid(tool, config("elixir"), said{group(mixElixir, mix), "elixir in mix.exs"}), 3, known...)
	want := firstSaid(numeric(s.tool("erlang")), config("erlang"), said{otp, tool.from})
	line := lines(version, 2)
	newest, oldest := "27", "25" // of a release of Elixir that is not known yet
	for _, l := range elixirLines {
		if l.line == line {
			newest, oldest = l.erlang, l.oldest
		}
	}
	erlang = newest
	if n := lines(want.text, 1); n != "" {
		if !atLeast(n, oldest) {
			return "", "", mesh.Errorf(mesh.Invalid, "%s says Erlang %s, and there is no image of Elixir %s with that", want.from, flat(mesh.Clip(want.text, 40)), version).
				WithHint("ask for Erlang %s or newer", newest)
		}
		erlang = n
		p.found("Erlang "+n, want.from)
	} else {
		p.found("Erlang "+erlang, "the newest for Elixir "+line+" on its Debian")
	}
	return version, erlang, nil
}

// elixirWithMix reports whether the program is started with mix: a command says so, or
// Phoenix reads its configuration when it is compiled, before there is a PORT.
func elixirWithMix(s *source, phoenix bool) (is bool, why string) {
	runtime := s.first("config/runtime.exs", "config/releases.exs")
	switch {
	case mixCommand.MatchString(s.started()):
		return true, "the start command uses it"
	case phoenix && runtime == "" && !mixReleases.MatchString(s.read("mix.exs")):
		return true, "there is no config/runtime.exs, which a release needs to read PORT"
	}
	return false, ""
}

// elixirBuild installs the dependencies, builds the assets, and compiles.
func elixirBuild(s *source, p *plan, mix string, withMix bool) error {
	get := "mix deps.get --only prod && mix deps.compile"
	why := cmp.Or(s.first("mix.lock"), "mix.exs")
	config := "" // read at compile time, such as prod.secret.exs
	if withMix {
		config = withConfig
		get = readConfig + get
	}
	whole := mixPath.MatchString(mix) || withMix && s.dir("config")
	if whole {
		p.found("copies everything before installing", "mix.exs")
		p.build = append(p.build, "COPY . .", "RUN "+config+get)
	} else {
		p.build = append(p.build, copies(s.present("mix.exs", "mix.lock"))...)
		// The configuration of the dependencies is compiled into them. runtime.exs is not.
		if files := s.present("config/config.exs", "config/prod.exs"); len(files) > 0 {
			p.build = append(p.build, "COPY "+strings.Join(files, " ")+" config/")
		}
		p.build = append(p.build, "RUN "+get)
	}
	p.found("mix deps.get --only prod", why)
	assets, err := elixirAssets(s, p, mix)
	if err != nil {
		return err
	}
	if !whole {
		p.build = append(p.build, "COPY . .")
	}
	steps := append([]string{"mix compile"}, assets...)
	if !withMix {
		release := "mix release --overwrite"
		if name := group(mixDefault, mix); name == "" && mixReleases.MatchString(mix) {
			release = strings.TrimSpace("mix release " + elixirRelease(mix) + " --overwrite")
		}
		steps = append(steps, release)
	}
	p.build = append(p.build, s.siteRun(p, strings.Join(steps, " && "), "mix.exs"))
	return nil
}

// elixirAssets installs what the assets of an app and of an umbrella's apps need, and
// returns the commands that build them.
func elixirAssets(s *source, p *plan, mix string) (steps []string, err error) {
	apps := map[string]string{".": mix}
	for _, f := range s.umbrella() {
		apps[path.Dir(f)] = s.read(f)
	}
	for _, dir := range slices.Sorted(maps.Keys(apps)) {
		deploy, in := strings.Contains(apps[dir], `"assets.deploy"`), ""
		if dir != "." {
			in = "cd " + dir + " && "
		}
		folder := path.Join(dir, "assets")
		scripts := map[string]string{}
		if s.has(folder+"/package.json") && plainPath.MatchString(folder) {
			if scripts, err = s.withNode(p, folder); err != nil {
				return nil, err
			}
		}
		if deploy && strings.Contains(apps[dir], `"assets.setup"`) {
			p.build = append(p.build, "RUN "+in+"mix assets.setup")
		}
		step := ""
		switch {
		case deploy:
			step = in + "mix assets.deploy"
		case scripts["deploy"] != "": // Phoenix before 1.6
			step = in + "npm --prefix assets run deploy && mix phx.digest"
		case scripts["build"] != "":
			step = in + "npm --prefix assets run build && mix phx.digest"
		}
		if step != "" && in != "" {
			step = "(" + step + ")"
		}
		if step != "" {
			steps = append(steps, step)
		}
	}
	return steps, nil
}

// elixirConfig names the config vars without which Phoenix's own runtime.exs stops the
// program, or turns browsers away.
func elixirConfig(s *source, p *plan) {
	text := s.read("config/runtime.exs") + s.read("config/prod.exs") + s.read("config/releases.exs") + s.read("config/prod.secret.exs")
	for _, c := range []struct{ name, set string }{
		{"SECRET_KEY_BASE", "config:set SECRET_KEY_BASE=… (64 random characters: mix phx.gen.secret)"},
		{"PHX_HOST", "config:set PHX_HOST=… (the domain; LiveView refuses others)"},
		{"DATABASE_PATH", "config:set DATABASE_PATH=… (a file in a volume; other files are lost at the next release)"},
		{"DATABASE_URL", "config:set DATABASE_URL=ecto://USER:PASS@HOST/DATABASE"},
	} {
		if strings.Contains(text, `"`+c.name+`"`) {
			p.found("reads "+c.name, c.set)
		}
	}
}

// elixirRelease is the name of the release to start.
func elixirRelease(mix string) string {
	if name := group(mixDefault, mix); name != "" {
		return name
	}
	app := group(mixApp, mix)
	if !mixReleases.MatchString(mix) {
		return app
	}
	from := mixReleases.FindStringIndex(mix)[0]
	if at := mixFunction.FindStringIndex(mix); at != nil && strings.Contains(mix, "releases()") {
		from = at[1]
	}
	names := slices.DeleteFunc(all(mixRelease, mix[from:]), func(n string) bool { return n == "applications" || n == "steps" })
	if len(names) == 0 {
		return app
	}
	return cmp.Or(program(names, app), names[0])
}
