package detect

import (
	"cmp"
	"path"
	"regexp"
	"strings"

	"mesh"
)

// nodeNeeds are packages that are compiled, or that need a library or a program.
var nodeNeeds = map[string]needs{
	"argon2":         {build: compiler},
	"bcrypt":         {build: compiler},
	"better-sqlite3": {build: compiler},
	"canvas":         {build: compiler + " libcairo2-dev libpango1.0-dev libjpeg-dev libgif-dev librsvg2-dev", run: "libcairo2 libpango-1.0-0 libpangocairo-1.0-0 libjpeg62-turbo libgif7 librsvg2-2"},
	"node-gyp":       {build: compiler},
	"pg-native":      {build: compiler + " libpq-dev", run: "libpq5"},
	"puppeteer":      {run: "chromium fonts-liberation"},
	"sqlite3":        {build: compiler},
	"prisma":         {run: "openssl ca-certificates"},
	"fluent-ffmpeg":  {run: "ffmpeg"},
}

const compiler = "build-essential python3"

// node is for trees with a package.json, or only a server.js.
func node(s *source, p *plan) error {
	var j packageJSON
	if err := s.json("package.json", &j); err != nil {
		return err
	}
	if again, err := nodeOnlyMember(s, p, j); again || err != nil {
		if err != nil {
			return err
		}
		return node(s, p)
	}
	root, members := nodeWorkspace(s)
	version, err := nodeOf(s, p, j, root)
	if err != nil {
		return err
	}
	job := nodeJob{manager: packageManager(s, p, j, version)}
	if s.top != nil {
		job.manager = packageManager(s.top, p, root, version)
	}
	p.Framework = nodeFramework(j).name
	t, err := nodeSite(s, j)
	if err != nil {
		return err
	}
	static := t.name != ""
	if static {
		p.Framework, p.Because = t.name, p.Because+" whose build makes static files"
	}
	if why := nodeGit(s, j); why != "" {
		p.buildPackages = append(p.buildPackages, "git", "ca-certificates")
		p.found("installs git", why)
	}
	job.command = nodeBuild(s, p, j, job.name)
	job.prepare(s, p, j)
	start, why := nodeStart(s, p, j, job.manager)
	if static {
		job.prune = "" // nothing of it gets into the image
	} else {
		commands := nodeCommands(s, j, start)
		if job.keep = cmp.Or(nodeKeeps(commands, j), nextKeeps(s, p, j), job.keep); job.keep != "" {
			p.found("keeps build dependencies", job.keep)
		}
		nodeRuns(s, p, j, job.manager, commands)
	}
	nodeOld(p, j, version)
	switch {
	case !s.has("package.json"):
		p.final = []string{"COPY --chown=%OWNER . ."}
	case s.top != nil:
		nodeInstallWorkspace(s, p, root, members, job)
	default:
		nodeInstall(s, p, j, job)
	}
	if static {
		return nodeStatic(s, p, t)
	}
	bin := "/app/node_modules/.bin"
	if s.top != nil {
		p.dir, bin = s.at, "/app/"+s.at+"/node_modules/.bin:"+bin
	}
	p.env = append(p.env, "NODE_ENV=production", "PATH="+bin+":$PATH")
	nodeServer(p, j, start)
	p.add(nodeNeeds, func(n string) bool { return j.runs(n) || j.has(n) && n == "prisma" })
	nodeBrowsers(s, p, j)
	if len(p.build) > 0 && len(p.final) == 0 {
		p.final = []string{"COPY --from=build --chown=%OWNER /app /app"}
	}
	return s.start(p, start, why, "scripts.start or main in package.json, server.js, index.js or app.js")
}

// nodeOnlyMember makes s the package of a workspace to build, if the root of the
// workspace starts nothing and only one of its packages does. If several do, the error
// names them.
func nodeOnlyMember(s *source, p *plan, j packageJSON) (is bool, err error) {
	patterns := s.workspaces(j)
	if len(patterns) == 0 || s.folder != "" || s.set.StartCommand != "" || s.has("Procfile") || s.web().text != "" {
		return false, nil
	}
	if start, _ := nodeStart(s, &plan{Plan: Plan{Framework: nodeFramework(j).name}}, j, manager{}); start != "" {
		return false, nil
	}
	if t, err := nodeSite(s, j); t.name != "" || err != nil {
		return false, err
	}
	var dirs []string
	for _, m := range s.members(patterns) {
		in := s.below(m.dir)
		t, err := nodeSite(in, m.packageJSON)
		start, _ := nodeStart(in, &plan{Plan: Plan{Framework: nodeFramework(m.packageJSON).name}}, m.packageJSON, manager{})
		if err == nil && plainPath.MatchString(m.dir) && (t.name != "" || m.Scripts["start"] != "" || start != "" && nodeFramework(m.packageJSON).name != "") {
			dirs = append(dirs, m.dir)
		}
	}
	switch len(dirs) {
	case 0:
		return false, nil
	case 1:
		*s = *s.below(dirs[0])
		p.found("builds "+dirs[0]+"/", "the only package of the workspace that starts something")
		return true, nil
	}
	return false, mesh.Errorf(mesh.Invalid, "this is a workspace, and several of its packages start something: %s", mesh.Clip(strings.Join(dirs, ", "), 200)).
		WithHint("name the one to build: root=%s", dirs[0])
}

// nodeOf chooses the version of Node: the folder's own, or that of its workspace.
func nodeOf(s *source, p *plan, j, root packageJSON) (version string, err error) {
	v, err := nodeSaid(s, j)
	if err != nil {
		return "", err
	}
	if s.top != nil {
		p.found("member of a workspace", path.Join(s.top.folder, s.top.first("pnpm-workspace.yaml", "package.json"))+" above it")
		above, err := nodeSaid(s.top, root)
		if err != nil {
			return "", err
		}
		if v.from == "" && above.from != "" {
			v = said{above.text, above.from + " of the workspace"}
		}
	}
	if version, p.release, err = nodeVersion(s, p, "Node", v); err != nil {
		return "", err
	}
	p.image, p.user, p.entrypoint = nodeImage(version, p.release), "node", true
	return version, nil
}

// nodeBuildScript is the script that builds, or empty. heroku-postbuild replaces build,
// as on Heroku.
func nodeBuildScript(j packageJSON) string {
	return cmp.Or(j.Scripts["heroku-postbuild"], j.Scripts["build"])
}

// nodeBuilds are what builds a framework's project that has no script for it.
var nodeBuilds = []struct{ name, dependency, command string }{
	{"Next.js", "next", "next build"},
	{"Nuxt", "nuxt", "nuxt build"},
	{"Gatsby", "gatsby", "gatsby build"},
	{"Expo", "expo", "expo export --platform web"},
}

// nodeBuild is the build command, or empty.
func nodeBuild(s *source, p *plan, j packageJSON, manager string) string {
	for _, script := range []string{"heroku-postbuild", "build"} {
		if j.Scripts[script] != "" {
			return s.buildCommand(p, manager+" run "+script, "scripts."+script+" in package.json")
		}
	}
	for _, b := range nodeBuilds {
		if p.Framework == b.name {
			return s.buildCommand(p, b.command, b.dependency+" in package.json")
		}
	}
	return s.buildCommand(p, "", "")
}

// nextKeeps is why Next.js needs the dependencies of the development when it runs.
func nextKeeps(s *source, p *plan, j packageJSON) string {
	if p.Framework == "Next.js" && !j.runs("typescript") && s.first("next.config.ts", "next.config.mts") != "" {
		return "next start reads next.config.ts with typescript"
	}
	return ""
}

// nodeOld makes builds with webpack 4 and earlier work: they use a hash that OpenSSL 3
// no longer has, and end with ERR_OSSL_EVP_UNSUPPORTED on Node 17 and later.
func nodeOld(p *plan, j packageJSON, node string) {
	if !atLeast(node, "17") {
		return
	}
	for _, t := range []struct{ dependency, fixed string }{
		{"webpack", "5"},
		{"@rails/webpacker", "6"},
		{"react-scripts", "5"},
		{"@vue/cli-service", "5"},
		{"laravel-mix", "6"},
		{"gatsby", "3"},
		{"@angular-devkit/build-angular", "13"},
		{"nuxt", "3"},
		{"next", "11.1"},
	} {
		v := number.FindString(j.Dependencies[t.dependency] + " " + j.DevDependencies[t.dependency])
		if v == "" || atLeast(v, t.fixed) {
			continue
		}
		p.build = append(p.build, "ENV NODE_OPTIONS=--openssl-legacy-provider")
		p.found("NODE_OPTIONS=--openssl-legacy-provider", t.dependency+" "+v+" in package.json needs it on Node "+node)
		return
	}
}

// nodeServer sets what a framework's server needs to be reached.
func nodeServer(p *plan, j packageJSON, start string) {
	if j.has("@astrojs/node") || j.has("sirv-cli") { // they listen on the loopback otherwise
		p.env = append(p.env, "HOST=0.0.0.0")
	}
	if strings.HasPrefix(start, "srvx ") && !j.has("srvx") {
		p.base = append(p.base, "RUN npm install --global srvx@1")
		p.found("installs srvx", "TanStack Start builds a handler without a server")
	}
}

// nodeBrowsers installs the browsers that programs drive. Puppeteer gets Debian's, and
// does not fetch its own into a folder of the build stage. Playwright drives only the
// browsers of its own version.
func nodeBrowsers(s *source, p *plan, j packageJSON) {
	if j.runs("puppeteer") {
		p.env = append(p.env, "PUPPETEER_SKIP_DOWNLOAD=true", "PUPPETEER_EXECUTABLE_PATH=/usr/bin/chromium")
	}
	for _, n := range []string{"playwright", "playwright-core", "playwright-chromium", "@playwright/test"} {
		if !j.runs(n) {
			continue
		}
		version := cmp.Or(lockedVersion(s.above(), n), number.FindString(j.Dependencies[n]), "latest")
		p.env = append(p.env, "PLAYWRIGHT_BROWSERS_PATH=/opt/browsers")
		p.base = append(p.base, "RUN npx --yes playwright@"+version+" install --with-deps chromium && rm -rf /var/lib/apt/lists/* /root/.npm")
		p.found("installs Chromium for Playwright "+version, n+" in package.json")
		return
	}
}

// lockedVersion is the version of a dependency in whatever lock file there is, or empty.
func lockedVersion(s *source, name string) string {
	n := regexp.QuoteMeta(name)
	for _, l := range []struct{ file, pattern string }{
		{"package-lock.json", `"node_modules/` + n + `":\s*\{\s*"version":\s*"([0-9][\w.+-]*)"`},
		{"pnpm-lock.yaml", `(?m)^\s+'?/?` + n + `[@/]([0-9][\w.+-]*)`},
		{"yarn.lock", `(?m)^"?` + n + `@.*:\n\s+version:? "?([0-9][\w.+-]*)`},
		{"bun.lock", `"` + n + `":\s*\["` + n + `@([0-9][\w.+-]*)"`},
	} {
		if m := regexp.MustCompile(l.pattern).FindStringSubmatch(s.read(l.file)); m != nil {
			return m[1]
		}
	}
	return ""
}
