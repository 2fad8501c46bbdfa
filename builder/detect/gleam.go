package detect

import (
	"regexp"
	"strings"

	"mesh"
)

// gleamDefault is the newest release that this package knows. Images exist for exact
// versions (https://github.com/gleam-lang/gleam/pkgs/container/gleam).
const gleamDefault = "1.14.0"

var gleamMain = regexp.MustCompile(`(?m)^pub fn main\b`)

// gleam exports the program for Erlang. The source goes into the image as well, for
// files that the program reads.
func gleam(s *source, p *plan) error {
	var g struct {
		Name, Target, Gleam string
		Dependencies        map[string]any
	}
	if err := s.toml("gleam.toml", &g); err != nil {
		return err
	}
	if g.Target == "javascript" && s.set.BuildCommand == "" {
		return mesh.Errorf(mesh.Invalid, "this is Gleam for JavaScript (target in gleam.toml), and mesh builds Gleam for Erlang").
			WithHint("remove target from gleam.toml, or write a Dockerfile: FROM ghcr.io/gleam-lang/gleam:v%s-node", gleamDefault)
	}
	if main := "src/" + g.Name + ".gleam"; !gleamMain.MatchString(s.read(main)) && strings.TrimSpace(s.started()) == "" {
		return mesh.Errorf(mesh.Invalid, "this is Gleam, but there is no main function in %s", flat(mesh.Clip(main, 60))).
			WithHint("write pub fn main() there; gleam run starts the same function")
	}
	v := firstSaid(p.want, s.tool("gleam"))
	version, why := gleamDefault, "the newest that mesh knows"
	if n := number.FindString(v.text); strings.Count(n, ".") == 2 {
		version, why = n, v.from
	} else if n := number.FindString(g.Gleam); strings.HasPrefix(strings.TrimSpace(g.Gleam), "==") || n != "" && atLeast(n, gleamDefault) {
		version, why = lines(n+".0.0", 3), "gleam in gleam.toml"
	}
	p.found("Gleam "+version, why)
	for _, f := range []struct{ dependency, name string }{{"wisp", "Wisp"}, {"mist", "Mist"}} {
		if _, ok := g.Dependencies[f.dependency]; ok && p.Framework == "" {
			p.Framework = f.name
		}
	}
	// Both are made from the same release of Erlang; the larger one has git and rebar3.
	p.buildImage, p.image = "ghcr.io/gleam-lang/gleam:v"+version+"-erlang", "ghcr.io/gleam-lang/gleam:v"+version+"-erlang-slim"
	if strings.Contains(s.read("gleam.toml"), "path =") {
		p.build = []string{"COPY . .", "RUN gleam deps download"}
	} else {
		p.build = append(copies(s.present("gleam.toml", "manifest.toml")), "RUN gleam deps download", "COPY . .")
	}
	p.found("gleam deps download", s.first("manifest.toml", "gleam.toml"))
	p.build = append(p.build, s.buildRun(p, "gleam export erlang-shipment", "gleam.toml"))
	p.final = []string{"COPY --chown=%OWNER . .", "COPY --from=build --chown=%OWNER /app/build/erlang-shipment /app/build/erlang-shipment"}
	return s.start(p, "./build/erlang-shipment/entrypoint.sh run", "the program of gleam export", "program")
}
