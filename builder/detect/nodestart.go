package detect

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// nodeStart finds the command that starts the program.
func nodeStart(s *source, p *plan, j packageJSON, m manager) (command, why string) {
	script := j.Scripts["start"]
	if j.Scripts["start:prod"] != "" && (p.Framework == "NestJS" || script == "") {
		return j.Scripts["start:prod"], "scripts.start:prod in package.json"
	}
	for _, name := range slices.Sorted(maps.Keys(j.Scripts)) {
		if strings.HasPrefix(name, "serve:ssr") && j.has("@angular/ssr") {
			return j.Scripts[name], "scripts." + name + " in package.json"
		}
	}
	f := nodeFramework(j)
	if devServer.MatchString(startScript(j)) && f.start != "" {
		script = "" // made for the development, and it listens on the loopback only
	}
	switch {
	case script != "" && (j.Scripts["prestart"] != "" || j.Scripts["poststart"] != ""):
		return "npm start", "scripts.start in package.json, with prestart or poststart"
	case script != "":
		return script, "scripts.start in package.json" // npm itself would cost half a second and a process
	case f.start != "":
		return f.start, f.dependency + " in package.json"
	}
	if j.Main != "" && s.first(j.Main, j.Main+".js") != "" {
		runtime := "node "
		if m.name == "bun" && strings.HasSuffix(j.Main, ".ts") {
			runtime = "bun "
		}
		return runtime + word(j.Main), "main in package.json"
	}
	if f := s.first("server.js", "index.js", "app.js", "main.js", "server.mjs", "index.mjs", "src/index.js", "src/server.js"); f != "" {
		return "node " + f, f
	}
	if m.name == "bun" || nodeBun(s, j).from != "" {
		if j.Module != "" && s.has(j.Module) {
			return "bun " + word(j.Module), "module in package.json"
		}
		if f := s.first("index.ts", "server.ts", "src/index.ts", "src/server.ts", "index.tsx"); f != "" {
			return "bun " + f, f
		}
	}
	return "", ""
}

// startScript is what the start script does in the end: without a build before it, and
// through scripts that only call another one.
func startScript(j packageJSON) string {
	script := j.Scripts["start"]
	for range 3 {
		script = buildsFirst.ReplaceAllString(script, "") // the image has what it builds
		m := runScript.FindStringSubmatch(script)
		if m == nil || strings.TrimSpace(m[0]) != strings.TrimSpace(script) || j.Scripts[cmp.Or(m[1], m[2])] == "" {
			break
		}
		script = j.Scripts[cmp.Or(m[1], m[2])]
	}
	return script
}

// buildsFirst is a build at the front of a start script.
var buildsFirst = regexp.MustCompile(`^\s*(?:npm|pnpm|yarn|bun)(?: run)? build\s*&&\s*`)

// nodeCommands are all commands that run in instances, with the scripts that they call.
func nodeCommands(s *source, j packageJSON, start string) string {
	text := strings.Join([]string{s.set.StartCommand, s.read("Procfile"), s.web().text, start}, "\n")
	called := map[string]bool{}
	for {
		more := ""
		for _, m := range runScript.FindAllStringSubmatch(text, -1) {
			name := cmp.Or(m[1], m[2])
			if called[name] || j.Scripts[name] == "" {
				continue
			}
			called[name] = true
			more += "\n" + j.Scripts["pre"+name] + "\n" + j.Scripts[name] + "\n" + j.Scripts["post"+name]
		}
		if more == "" {
			return text
		}
		text += more
	}
}

// runScript finds scripts that are called by their name: npm run x, npm start, yarn x.
var runScript = regexp.MustCompile(`\b(?:(?:npm|pnpm|yarn|bun)(?: +-\S+)* +run(?:-script)?(?: +-\S+)* +([\w:.-]+)|(?:npm|pnpm|yarn|bun)(?: +-\S+)* +([\w:.-]+))`)

// nodeBins are the programs of packages with another name.
var nodeBins = map[string]string{
	"babel-node": "@babel/node", "concurrently": "concurrently", "conc": "concurrently", "cross-env-shell": "cross-env", "dotenv": "dotenv-cli", "dotenvx": "@dotenvx/dotenvx",
	"esr": "esbuild-runner", "esno": "esno", "nest": "@nestjs/cli", "ng": "@angular/cli", "remix-serve": "@remix-run/serve", "react-router-serve": "@react-router/serve",
	"run-p": "npm-run-all", "run-s": "npm-run-all", "sequelize": "sequelize-cli", "sucrase-node": "sucrase", "swc-node": "@swc-node/register", "tsc": "typescript",
	"ts-node-dev": "ts-node-dev", "tsnd": "ts-node-dev", "ts-node-esm": "ts-node", "ts-node-script": "ts-node", "ts-node-transpile-only": "ts-node", "webpack": "webpack-cli",
	"drizzle-kit": "drizzle-kit", "typeorm-ts-node-commonjs": "typeorm", "typeorm-ts-node-esm": "typeorm", "sirv": "sirv-cli", "babel": "@babel/cli", "medusa": "@medusajs/cli",
	"wait-on": "wait-on", "tsup-node": "tsup", "db-migrate": "db-migrate", "graphile-worker": "graphile-worker", "mikro-orm": "@mikro-orm/cli", "mikro-orm-esm": "@mikro-orm/cli",
	"swc": "@swc/cli", "rw": "@redwoodjs/core", "expo": "expo", "nx": "nx", "strapi": "@strapi/strapi", "keystone": "@keystone-6/core", "svelte-kit": "@sveltejs/kit",
}

// nodeKeeps is why the dependencies of the development stay in the image, or empty: a
// command that runs in an instance uses one of them, as a program or as a module
// (node --import tsx, node -r dotenv/config).
func nodeKeeps(commands string, j packageJSON) string {
	for _, w := range strings.FieldsFunc(commands, func(r rune) bool { return strings.ContainsRune(" \t\n;&|()\"'=", r) }) {
		w = strings.TrimPrefix(strings.TrimPrefix(w, "./"), "node_modules/.bin/")
		names := []string{w, nodeBins[w]}
		if parts := strings.Split(w, "/"); len(parts) > 1 {
			names = append(names, parts[0], strings.Join(parts[:2], "/"))
		}
		for _, n := range names {
			if n != "" && j.develops(n) {
				return "the start command uses " + n
			}
		}
	}
	return ""
}

// nodeBun is what asks for Bun beside another package manager: its version, or empty.
func nodeBun(s *source, j packageJSON) said {
	v := firstSaid(said{j.Engines["bun"], "engines.bun in package.json"}, said{s.line(".bun-version"), ".bun-version"}, s.tool("bun"))
	if v.from == "" {
		if version := j.DevEngines.Runtime.version("bun"); version != "" {
			v = said{version, "devEngines.runtime in package.json"}
		}
	}
	return v
}

// nodeRuns adds to the image what its commands use: bun runs programs itself, and
// "pnpm start" needs pnpm.
func nodeRuns(s *source, p *plan, j packageJSON, m manager, commands string) {
	uses := func(program string) bool {
		return regexp.MustCompile(`(?m)(^|[\s:;&|"'])` + program + `x?(\s|$)`).MatchString(commands)
	}
	switch {
	case m.setup != "" && m.name != "npm" && uses(m.name):
		p.base = append(p.base, "RUN "+m.setup)
	case m.name != "pnpm" && uses("pnpm"):
		p.base = append(p.base, "RUN npm install --global pnpm@10")
		p.found("installs pnpm", "the start command uses it")
	}
	builds := m.name != "bun" && regexp.MustCompile(`(^|[\s;&|])bunx?\s`).MatchString(j.Scripts["build"])
	if m.name == "bun" || !uses("bun") && !builds {
		return
	}
	v, why := nodeBun(s, j), "the start command uses it"
	if builds && !uses("bun") {
		why = "scripts.build in package.json uses it"
	}
	if v.from != "" {
		why += "; " + v.from + " says " + flat(v.text)
	}
	p.base = append(p.base, "RUN "+bunSetup(v))
	p.found("installs Bun", why)
}
