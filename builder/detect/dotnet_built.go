package detect

import (
	"strings"
)

// builtSign is the file that dotnet publish writes beside a program.
func builtSign(s *source) string {
	for _, f := range s.files(".", "*.runtimeconfig.json") {
		if s.has(strings.TrimSuffix(f, ".runtimeconfig.json") + ".dll") {
			return f
		}
	}
	return ""
}

// dotnetBuilt runs a program that was published into the repository.
func dotnetBuilt(s *source, p *plan) error {
	type framework struct{ Name, Version string }
	var config struct {
		RuntimeOptions struct {
			Framework                      framework
			Frameworks, IncludedFrameworks []framework
		}
	}
	file := builtSign(s)
	if err := s.jsonc(file, &config); err != nil {
		return err
	}
	o, v, web := config.RuntimeOptions, "", false
	for _, f := range append(append(o.Frameworks, o.Framework), o.IncludedFrameworks...) {
		if f.Version != "" && (v == "" || atLeast(f.Version, v)) {
			v = f.Version
		}
		web = web || f.Name == "Microsoft.AspNetCore.App"
	}
	name := strings.TrimSuffix(file, ".runtimeconfig.json")
	version := p.version(".NET", said{v, file}, 2, "10.0", "9.0", "8.0")
	p.image = "mcr.microsoft.com/dotnet/aspnet:" + version
	if atLeast(version, "8.0") {
		p.user = "app"
	}
	p.found("builds nothing", "the program is in the repository as dotnet publish wrote it")
	p.final = []string{"COPY --chown=%OWNER . ."}
	start := "dotnet " + name + ".dll"
	if len(o.IncludedFrameworks) > 0 { // with its own runtime
		p.final = append(p.final, "RUN chmod 755 "+name)
		start = "./" + name
	}
	if web {
		start = "env ASPNETCORE_URLS=http://0.0.0.0:$PORT " + start
	}
	return s.start(p, start, file, "a program")
}
