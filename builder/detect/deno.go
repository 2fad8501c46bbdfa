package detect

import (
	"cmp"
	"regexp"
	"strings"

	"mesh"
)

// deno runs a tree's own task, or its main file.
func deno(s *source, p *plan) error {
	var j struct {
		Tasks   map[string]any
		Imports map[string]any
	}
	config := s.first("deno.json", "deno.jsonc")
	if err := s.jsonc(config, &j); err != nil {
		return err
	}
	v := firstSaid(p.want, said{s.line(".deno-version"), ".deno-version"}, said{s.line(".dvmrc"), ".dvmrc"}, s.tool("deno"))
	p.image, p.user, p.entrypoint = "denoland/deno:debian", "deno", true
	if n := number.FindString(v.text); strings.Count(n, ".") == 2 {
		p.found("Deno "+n, v.from)
		p.image += "-" + n
	} else { // images exist for exact versions, and for the newest
		why := "the default"
		if v.from != "" {
			why = v.from + " says " + flat(mesh.Clip(v.text, 40)) + "; images exist only for exact versions"
		}
		p.found("Deno, the newest", why)
	}
	// Dependencies are beside the program, where the image's user finds them.
	p.env = []string{"DENO_DIR=/app/.deno"}
	if len(j.Imports) > 0 || s.has("package.json") {
		install := "deno install"
		if s.has("deno.lock") {
			install += " --frozen"
		}
		install = p.installs(install, cmp.Or(s.first("deno.lock"), config))
		p.build = append(copies(s.present("deno.json", "deno.jsonc", "deno.lock", "package.json", ".npmrc")), "RUN "+install)
	}
	p.build = append(p.build, "COPY . .")
	found, from := "", ""
	f := s.first(denoFiles...)
	if f != "" {
		found, from = "deno run --allow-all "+f, f
	}
	if start, ok := j.Tasks["start"]; ok {
		found, from = "deno task start", "tasks.start in "+config
		text, _ := start.(string)
		if m, is := start.(map[string]any); is { // {"command": …, "dependencies": […]}
			text, _ = m["command"].(string)
		}
		for _, w := range strings.Fields(text) {
			if denoModule.MatchString(w) && s.has(strings.TrimPrefix(w, "./")) {
				f = strings.TrimPrefix(w, "./")
			}
		}
	}
	if f != "" { // its imports by URL, which no deno.json lists
		p.build = append(p.build, "RUN deno cache "+f)
	}
	if s.set.BuildCommand != "" {
		p.build = append(p.build, s.buildRun(p, "", ""))
	}
	p.final = []string{"COPY --from=build --chown=%OWNER /app /app"}
	return s.start(p, found, from, "tasks.start in deno.json, main.ts or server.ts")
}

var denoModule = regexp.MustCompile(`^[\w./-]+\.([cm]?[jt]s|[jt]sx)$`)

// denoFiles are where programs of Deno begin.
var denoFiles = []string{"main.ts", "main.js", "server.ts", "mod.ts", "index.ts", "src/main.ts", "src/index.ts", "src/server.ts"}

// denoOnly is what only Deno understands.
var denoOnly = regexp.MustCompile(`["'](?:https://deno\.land/|jsr:|npm:)|\bDeno\.(?:serve|env|readTextFile|listen|args)\b`)

// denoSign is a program that only Deno runs, in a tree without a deno.json.
func denoSign(s *source) string {
	for _, f := range denoFiles {
		if denoOnly.MatchString(s.read(f)) {
			return f
		}
	}
	return ""
}
