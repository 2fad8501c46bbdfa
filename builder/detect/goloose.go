package detect

import (
	"regexp"
	"slices"
	"strings"
)

var goImportC = regexp.MustCompile(`(?m)^import "C"`)

// goLooseSign is a program in Go without a module. One that is started with go run needs
// the compiler in the image: it is left to the Procfile.
func goLooseSign(s *source) string {
	if !s.isMain(".") || goPackage(s) || strings.Contains(s.started(), "go run") {
		return ""
	}
	files := s.files(".", "*.go")
	if slices.Contains(files, "main.go") || len(files) == 0 {
		return "main.go"
	}
	return files[0]
}

// goLoose builds a program that has no go.mod. Its dependencies are the newest, as
// nothing says which ones.
func goLoose(s *source, p *plan) error {
	version := p.newest("Go", "1.26", firstSaid(s.tool("go", "golang"), said{s.line(".go-version"), ".go-version"}))
	p.buildImage, p.image = "golang:"+version+"-bookworm", "debian:bookworm-slim"
	cgo := "0"
	for _, f := range s.files(".", "*.go") {
		if goImportC.MatchString(s.read(f)) {
			cgo = "1"
		}
	}
	p.found("go mod tidy", "there is no go.mod; commit one to pin the dependencies")
	caches := []string{"/go/pkg/mod", "/root/.cache/go-build"}
	p.build = []string{
		"ENV CGO_ENABLED=" + cgo, "COPY . .", "RUN " + cacheMounts(caches...) + "go mod init app && go mod tidy", "RUN mkdir /out",
		s.buildRun(p, "go build -trimpath -ldflags='-s -w' -tags=timetzdata -o /out/ .", "package main in the root", caches...),
	}
	p.final = []string{
		"COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/", "COPY --chown=%OWNER . .", "COPY --from=build /out/ /usr/local/bin/",
	}
	return s.start(p, "app", "package main in the root", "package main")
}
