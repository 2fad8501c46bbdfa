package detect

import (
	"path"
	"regexp"
	"strings"
)

var (
	cobolFree  = regexp.MustCompile(`(?im)^ {0,6}(identification|id) +division`)
	cobolFixed = regexp.MustCompile(`(?im)^.{7} {0,3}(identification|id) +division`)
)

// cobolSign is the program among the files in the root or in src/: index or main, or
// the first.
func cobolSign(s *source) string {
	for _, dir := range []string{".", "src"} {
		var names []string
		files := append(append(s.files(dir, "*.cbl"), s.files(dir, "*.cob")...), s.files(dir, "*.CBL")...)
		for _, f := range files {
			names = append(names, strings.TrimSuffix(path.Base(f), path.Ext(f)))
		}
		for i, n := range names {
			if strings.EqualFold(n, "index") || n == program(names, "") {
				return files[i]
			}
		}
		if len(files) > 0 {
			return files[0]
		}
	}
	return ""
}

// cobol compiles one program with Debian's GnuCOBOL. Programs that it calls must be in
// the same file, or build-command compiles them.
func cobol(s *source, p *plan) error {
	file := cobolSign(s)
	name := strings.TrimSuffix(path.Base(file), path.Ext(file))
	p.buildImage, p.image = "debian:bookworm-slim", "debian:bookworm-slim"
	p.debianNeeds("libcob4", "gnucobol3")
	command := "cobc -x -o /out/" + name + " "
	if text := s.read(file); cobolFree.MatchString(text) && !cobolFixed.MatchString(text) {
		p.found("free source format", file)
		command += "-free "
	}
	p.build = []string{"COPY . .", "RUN mkdir /out", s.buildRun(p, command+file, file)}
	p.final = []string{"COPY --chown=%OWNER . .", "COPY --from=build /out/ /usr/local/bin/"}
	return s.start(p, name, file, "program")
}
