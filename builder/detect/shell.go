package detect

import (
	"cmp"
	"regexp"
	"strings"

	"mesh"
)

var shebang = regexp.MustCompile(`^#!\s*(?:/usr)?(?:/bin/env\s+)?(?:/bin/)?(\w+)`)

// shell runs a script as its first line says. What it calls is installed with packages=
// or an Aptfile.
func shell(s *source, p *plan) error {
	file := s.first("start.sh", "run.sh")
	program := group(shebang, s.read(file))
	switch program {
	case "bash", "sh", "dash":
	case "zsh", "ksh", "fish":
		p.packages = append(p.packages, program)
		p.found("installs "+program, "the first line of "+file)
	default:
		program = "bash" // as peers do for a script that does not say
	}
	s.plain(p)
	return s.start(p, program+" "+file, file, "start.sh or run.sh")
}

// interpreters are the Debian packages of programs that run a file of the tree.
var interpreters = map[string]string{
	"python": "python3 python-is-python3", "python3": "python3", "node": "nodejs", "ruby": "ruby", "perl": "perl", "php": "php-cli", "lua": "lua5.4", "tclsh": "tcl",
	"guile": "guile-3.0", "racket": "racket", "sbcl": "sbcl", "java": "default-jre-headless", "Rscript": "r-base-core", "ocaml": "ocaml", "go": "golang-go", "awk": "gawk", "nginx": "nginx-light", "socat": "socat", "busybox": "busybox",
}

// procfileSign is a Procfile that starts something.
func procfileSign(s *source) string {
	switch {
	case s.has("Procfile") && (s.process("web") != "" || s.process("worker") != "" || s.set.StartCommand != ""):
		return "Procfile"
	case s.web().text != "": // the file of another builder
		return s.first("railpack.json", "nixpacks.toml")
	}
	return ""
}

// procfile runs a command in the tree, with Debian's packages.
func procfile(s *source, p *plan) error {
	s.plain(p)
	command := cmp.Or(s.set.StartCommand, s.web().text, s.process("worker"))
	first, _, _ := strings.Cut(command, " ")
	switch n := interpreters[first]; {
	case n != "":
		p.packages = append(p.packages, words(n)...)
		p.found("installs "+n, first+" in the command")
	case len(s.set.Packages) == 0 && !s.has("Aptfile"):
		p.found("installs no packages", "set packages=NAME,… for the programs that it uses")
	}
	return s.start(p, "", "", "web in the Procfile")
}

// plain is a tree that runs as it is, or after build-command.
func (s *source) plain(p *plan) {
	p.image = "debian:bookworm-slim"
	p.packages = append(p.packages, "ca-certificates")
	if s.set.BuildCommand == "" {
		p.final = []string{"COPY --chown=%OWNER . ."}
		return
	}
	p.build = []string{"COPY . .", s.buildRun(p, "", "")}
	p.final = []string{"COPY --from=build --chown=%OWNER /app /app"}
}

// aptfile adds the packages of an Aptfile, as Heroku's buildpack for apt installs them:
// in the build and in the image (https://github.com/heroku/heroku-buildpack-apt).
func (s *source) aptfile(p *plan) error {
	var names []string
	for l := range strings.SplitSeq(s.read("Aptfile"), "\n") {
		l, _, _ = strings.Cut(l, "#")
		switch l = strings.TrimSpace(l); {
		case l == "":
		case strings.HasPrefix(l, ":repo:"), strings.HasSuffix(l, ".deb"):
			return mesh.Errorf(mesh.Invalid, "Aptfile: mesh installs Debian's own packages, not %q", flat(mesh.Clip(l, 80))).
				WithHint("remove that line; or write a Dockerfile, and add the repository there")
		default:
			for _, n := range strings.Fields(l) {
				if !packageName.MatchString(n) {
					return mesh.Errorf(mesh.Invalid, "Aptfile: %q is not the name of a Debian package", flat(mesh.Clip(n, 60))).
						WithHint("write one name a line; search with: apt-cache search WORD")
				}
				names = append(names, n)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	inBuild := p.buildImage != "" && len(p.build) > 0 && p.debianBuild()
	if inBuild {
		p.buildPackages = append(p.buildPackages, names...)
	}
	switch list := strings.Join(names, " "); {
	case p.image != staticImage:
		p.packages = append(p.packages, names...)
		p.found("installs "+list, "Aptfile")
	case inBuild:
		p.found("installs "+list+" for the build", "Aptfile")
	default:
		p.found("installs nothing of the Aptfile", staticImage+" has no Debian packages")
	}
	return nil
}
