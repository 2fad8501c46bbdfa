package detect

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mesh"
)

const nodeDefault = "24"

// nodeLines are the lines of Node that have images, the one to use first.
var nodeLines = []string{nodeDefault, "22", "20", "26", "25", "18", "16", "14"}

func nodeImage(version, release string) string { return "node:" + version + "-" + release + "-slim" }

type packageJSON struct {
	Name            string
	Main            string
	Module          string
	Type            string
	PackageManager  string
	Engines         map[string]string
	Scripts         map[string]string
	Dependencies    map[string]string
	DevDependencies map[string]string
	Workspaces      json.RawMessage
	Bin             json.RawMessage
}

func (j packageJSON) has(name string) bool {
	_, is := j.Dependencies[name]
	_, dev := j.DevDependencies[name]
	return is || dev
}

// nodeNeeds are packages that are compiled, or that need a library or a program.
var nodeNeeds = map[string]needs{
	"argon2":         {build: compiler},
	"bcrypt":         {build: compiler},
	"better-sqlite3": {build: compiler},
	"canvas":         {build: compiler + " libcairo2-dev libpango1.0-dev libjpeg-dev libgif-dev librsvg2-dev", run: "libcairo2 libpango-1.0-0 libpangocairo-1.0-0 libjpeg62-turbo libgif7 librsvg2-2"},
	"node-gyp":       {build: compiler},
	"pg-native":      {build: compiler + " libpq-dev", run: "libpq5"},
	"puppeteer":      {run: "chromium"},
	"sqlite3":        {build: compiler},
	"prisma":         {run: "openssl ca-certificates"},
	"fluent-ffmpeg":  {run: "ffmpeg"},
}

const compiler = "build-essential python3"

// nodeFrameworks are the dependencies that name a framework, and what starts it if
// nothing else does. The first match counts.
var nodeFrameworks = []struct{ dependency, name, start string }{
	{"next", "Next.js", "next start"},
	{"nuxt", "Nuxt", "node .output/server/index.mjs"},
	{"@nestjs/core", "NestJS", "node dist/main.js"},
	{"@remix-run/serve", "Remix", "remix-serve build/server/index.js"},
	{"@sveltejs/adapter-node", "SvelteKit", "node build"},
	{"express", "Express", ""},
	{"fastify", "Fastify", ""},
	{"koa", "Koa", ""},
	{"hono", "Hono", ""},
}

// node is for trees with a package.json, or only a server.js.
func node(s *source, p *plan) error {
	var j packageJSON
	if err := s.json("package.json", &j); err != nil {
		return err
	}
	root, members := nodeWorkspace(s)
	v, err := nodeVersion(s, j)
	if err != nil {
		return err
	}
	m := packageManager(s, j)
	if s.top != nil {
		p.found("member of a workspace", path.Join(s.top.folder, s.top.first("pnpm-workspace.yaml", "package.json"))+" above it")
		above, err := nodeVersion(s.top, root)
		if err != nil {
			return err
		}
		if v.from == "" && above.from != "" {
			v = said{above.text, above.from + " of the workspace"}
		}
		m = packageManager(s.top, root)
	}
	version := p.version("Node", v, 1, nodeLines...)
	if p.release, err = debian(s, "Node", version); err != nil {
		return err
	}
	p.image, p.user, p.entrypoint = nodeImage(version, p.release), "node", true
	for _, f := range nodeFrameworks {
		if j.has(f.dependency) {
			p.Framework = f.name
			break
		}
	}
	if spa, why := nodeSPA(j); spa {
		p.Framework, p.Because = why, p.Because+" whose build makes static files"
	}
	if _, runs := j.Dependencies["typescript"]; !runs && p.Framework == "Next.js" && s.first("next.config.ts", "next.config.mts") != "" && m.prune != "" {
		m.prune = ""
		p.found("keeps build dependencies", "next start reads next.config.ts with typescript")
	}
	if why := nodeGit(s, j); why != "" {
		p.buildPackages = append(p.buildPackages, "git", "ca-certificates")
		p.found("installs git", why)
	}
	build := nodeBuild(s, p, j, m)
	spa, _ := nodeSPA(j)
	spa = spa && s.set.StartCommand == "" && s.process("web") == ""
	if spa {
		m.prune = "" // nothing of it gets into the image
	} else {
		nodeRuns(s, p, j, m)
	}
	if s.has("package.json") {
		if s.top != nil {
			nodeInstallWorkspace(s, p, root, members, m, build)
		} else {
			nodeInstall(s, p, j, m, build)
		}
	} else {
		p.build = nil
		p.final = []string{"COPY --chown=%OWNER . ."}
	}
	if spa {
		return nodeStatic(s, p, j)
	}
	bin := "/app/node_modules/.bin"
	if s.top != nil {
		p.dir, bin = s.at, "/app/"+s.at+"/node_modules/.bin:"+bin
	}
	p.env = append(p.env, "NODE_ENV=production", "PATH="+bin+":$PATH")
	p.add(nodeNeeds, func(n string) bool { _, ok := j.Dependencies[n]; return ok || j.has(n) && n == "prisma" })
	if len(p.build) > 0 {
		p.final = []string{"COPY --from=build --chown=%OWNER /app /app"}
	}
	found, why := nodeStart(s, p, j, m)
	return s.start(p, found, why, "scripts.start or main in package.json, server.js, index.js or app.js")
}

// nodeReleases are the code names of the lines with long-term support, and their
// numbers, as in nvm.
var nodeReleases = []struct{ name, line string }{
	{"krypton", "24"},
	{"jod", "22"},
	{"iron", "20"},
	{"hydrogen", "18"},
	{"gallium", "16"},
	{"fermium", "14"},
	{"erbium", "12"},
	{"dubnium", "10"},
	{"carbon", "8"},
	{"boron", "6"},
	{"argon", "4"},
}

func nodeVersion(s *source, j packageJSON) (said, error) {
	v := firstSaid(
		said{s.line(".nvmrc"), ".nvmrc"}, said{s.line(".node-version"), ".node-version"},
		s.tool("nodejs", "node"), said{j.Engines["node"], "engines.node in package.json"},
	)
	text := strings.ToLower(v.text)
	lts, isLTS := strings.CutPrefix(text, "lts")
	lts = strings.Trim(lts, "/-")
	switch {
	case slices.Contains([]string{"lts", "lts/*", "node", "stable", "latest", "current", "*", "x"}, text):
		v.text = nodeDefault
	case isLTS:
		for i, r := range nodeReleases {
			if lts == r.name || lts == strconv.Itoa(i) { // lts/-1 is the one before lts/*
				v.text = r.line
				return v, nil
			}
		}
		return said{}, mesh.Errorf(mesh.Invalid, "%s says %q, but no release of Node has that name", v.from, mesh.Clip(v.text, 40)).
			WithHint("name a version: %s, or lts/%s", nodeDefault, nodeReleases[0].name)
	case v.from != "" && !number.MatchString(text):
		return said{}, mesh.Errorf(mesh.Invalid, "%s says %q, which is not a version of Node", v.from, mesh.Clip(v.text, 40)).
			WithHint("name a version: %s, or lts/%s", nodeDefault, nodeReleases[0].name)
	}
	v.text = strings.TrimPrefix(v.text, "v")
	return v, nil
}

// nodeBuild is the build command, or empty.
func nodeBuild(s *source, p *plan, j packageJSON, m manager) string {
	for _, script := range []string{"heroku-postbuild", "build"} {
		if j.Scripts[script] != "" {
			return s.buildCommand(p, m.name+" run "+script, "scripts."+script+" in package.json")
		}
	}
	if p.Framework == "Next.js" {
		return s.buildCommand(p, "next build", "next in package.json")
	}
	return s.buildCommand(p, "", "")
}

// manager installs the dependencies of a package.json.
type manager struct {
	name    string
	why     string
	setup   string   // installs it, if the image does not have it
	env     []string // NAME=value that it reads
	install string
	berry   bool   // yarn 2 or later
	config  string // the configuration that each of its commands reads; without the variables in it they fail
	prune   string // removes what only the build needed
	cache   string // the folder to cache
	files   []string
}

func packageManager(s *source, j packageJSON) manager {
	name, version, _ := strings.Cut(j.PackageManager, "@")
	version, _, _ = strings.Cut(version, "+")
	if !plainWord.MatchString(version) {
		version = ""
	}
	why := "packageManager in package.json"
	lock := s.first("bun.lock", "bun.lockb", "pnpm-lock.yaml", "yarn.lock", "package-lock.json", "npm-shrinkwrap.json")
	if name == "" {
		name = map[string]string{"bun.lock": "bun", "bun.lockb": "bun", "pnpm-lock.yaml": "pnpm", "yarn.lock": "yarn"}[lock]
		why = lock
	}
	switch name {
	case "bun":
		m := manager{name: "bun", why: why, setup: "npm install --global bun@" + cmp.Or(version, "1"), install: "bun install", cache: "/root/.bun/install/cache", files: []string{"bun.lock", "bun.lockb", "bunfig.toml"}}
		if strings.HasPrefix(lock, "bun.") {
			m.install += " --frozen-lockfile"
		}
		m.prune = "rm -rf node_modules && " + m.install + " --production" // bun has no command to remove packages
		return m
	case "pnpm":
		if version == "" {
			version = map[string]string{"9.0": "9", "6.0": "8", "5.4": "7"}[number.FindString(lockfileVersion.FindString(s.read("pnpm-lock.yaml")))]
		}
		m := manager{
			name: "pnpm", why: why, setup: "npm install --global pnpm@" + cmp.Or(version, "9"), install: "pnpm install --store-dir=/root/.pnpm", prune: "CI=true pnpm install --prod --ignore-scripts --store-dir=/root/.pnpm", cache: "/root/.pnpm",
			files: []string{"pnpm-lock.yaml", "pnpm-workspace.yaml", ".pnpmfile.cjs"},
		}
		if lock == "pnpm-lock.yaml" {
			m.install += " --frozen-lockfile"
			m.prune += " --frozen-lockfile"
		}
		return m
	case "yarn":
		m := manager{
			name: "yarn", why: why, setup: "npm install --global --force yarn@" + cmp.Or(version, "1.22.22"), install: "yarn install --frozen-lockfile", prune: "yarn install --production --ignore-scripts --prefer-offline --frozen-lockfile", cache: "/usr/local/share/.cache/yarn",
			files: []string{"yarn.lock"},
		}
		if s.has(".yarnrc.yml") || version != "" && !strings.HasPrefix(version, "1.") {
			// From npm's registry, like everything else: corepack would use another
			// host. If the tree has its own yarn (yarnPath), that one takes over.
			version, m.berry, m.config = cmp.Or(version, "4"), true, s.read(".yarnrc.yml")
			m.setup = "npm install --global --force @yarnpkg/cli-dist@" + version
			m.install, m.prune, m.cache = "yarn install --immutable", "", "/root/.yarn/berry/cache"
			if major := lines(version, 1); major != "2" && major != "3" {
				m.prune = "yarn workspaces focus --all --production" // for older ones it is a plugin
			}
			if !yarnLinker.MatchString(s.read(".yarnrc.yml")) {
				// Without node_modules, yarn would have to start the program, from a
				// cache that is not in the image.
				m.env = append(m.env, "YARN_NODE_LINKER=node-modules")
			}
			if !s.dir(".yarn/cache") {
				m.env = append(m.env, "YARN_ENABLE_GLOBAL_CACHE=true") // otherwise the packages are in the image twice
			}
			m.files = append(m.files, ".yarnrc.yml", ".yarn")
		}
		return m
	}
	m := manager{name: "npm", why: "no lock file", install: "npm install", prune: "npm prune --omit=dev", cache: "/root/.npm", files: []string{"package-lock.json", "npm-shrinkwrap.json"}}
	if lock == "package-lock.json" || lock == "npm-shrinkwrap.json" {
		m.install, m.why = "npm ci", lock
	}
	return m
}

var yarnLinker = regexp.MustCompile(`(?m)^nodeLinker:\s*["']?(node-modules|pnpm)`)

var lockfileVersion = regexp.MustCompile(`(?m)^lockfileVersion: '?[0-9.]+`)

// nodeInstall fills the build stage. The files that define the dependencies are
// copied first, so that they are only installed again when these have changed.
func nodeInstall(s *source, p *plan, j packageJSON, m manager, build string) {
	cache, mounts, exports := nodeMounts(s, m)
	install, prune := nodeSetUp(p, m, build != "")
	p.found(strings.TrimPrefix(install, "NODE_ENV=development "), m.why)
	whole := nodeWhole(j)
	if len(j.Workspaces) > 0 || s.has("pnpm-workspace.yaml") {
		whole = "workspaces in package.json"
	}
	if whole != "" {
		p.found("copies everything before installing", whole)
		p.build = append(p.build, "COPY . .")
	} else {
		files := s.present(append([]string{"package.json", ".npmrc", "patches"}, m.files...)...)
		p.build = append(p.build, copies(files)...)
	}
	p.build = append(p.build, "RUN "+cache+mounts+exports+install)
	if whole == "" {
		p.build = append(p.build, "COPY . .")
	}
	if build != "" {
		p.build = append(p.build, "RUN "+withConfig+readConfig+build)
		if prune != "" {
			p.build = append(p.build, "RUN "+cache+mounts+exports+prune)
		}
	}
}

// nodeInstallWorkspace fills the build stage of a workspace member: it installs the
// workspace, builds what the member depends on, and then the member.
func nodeInstallWorkspace(s *source, p *plan, root packageJSON, members []nodeMember, m manager, build string) {
	before := buildOrder(members, s.at)
	cache, mounts, exports := nodeMounts(s.top, m)
	install, prune := nodeSetUp(p, m, build != "" || len(before) > 0)
	p.found(strings.TrimPrefix(install, "NODE_ENV=development "), m.why+" of the workspace")
	whole := nodeWhole(root)
	copied := copies(s.top.present(append([]string{"package.json", ".npmrc", "patches"}, m.files...)...))
	for _, member := range members {
		if why := nodeWhole(member.packageJSON); why != "" {
			whole = why + " of " + member.dir
		} else if len(member.Bin) > 0 { // linked when it is installed
			whole = "bin in package.json of " + member.dir
		} else if !plainPath.MatchString(member.dir) {
			whole = "the name of " + flat(member.dir)
		}
		copied = append(copied, fmt.Sprintf("COPY %s/package.json %s/", member.dir, member.dir))
	}
	if whole != "" {
		p.found("copies everything before installing", whole)
		copied = []string{"COPY . ."}
	}
	p.build = append(append(p.build, copied...), "RUN "+cache+mounts+exports+install)
	if whole == "" {
		p.build = append(p.build, "COPY . .")
	}
	for _, b := range before {
		p.found("builds "+b.dir+" first", "scripts.build of a dependency")
		p.build = append(p.build, "WORKDIR /app/"+b.dir, "RUN "+withConfig+readConfig+m.name+" run build")
	}
	if build != "" {
		p.build = append(p.build, "WORKDIR /app/"+s.at, "RUN "+withConfig+readConfig+build)
	}
	if prune != "" {
		p.build = append(p.build, "WORKDIR /app", "RUN "+cache+mounts+exports+prune)
	}
}

// nodeMounts are the options of an instruction that installs: the cache, and the
// config vars in the package manager's configuration.
func nodeMounts(s *source, m manager) (cache, mounts, exports string) {
	mounts, exports = secretsIn(s.read(".npmrc") + s.read(".yarnrc.yml"))
	return "--mount=type=cache,target=" + m.cache + " ", mounts, exports
}

// nodeWhole is what requires the whole tree before anything is installed, or empty.
func nodeWhole(j packageJSON) (why string) {
	for _, script := range []string{"preinstall", "install", "postinstall", "prepare"} {
		if j.Scripts[script] != "" {
			why = "scripts." + script + " in package.json"
		}
	}
	for _, n := range slices.Sorted(maps.Keys(j.Dependencies)) {
		if v := j.Dependencies[n]; strings.HasPrefix(v, "file:") || strings.HasPrefix(v, "link:") {
			why = n + " in package.json, which is in the repository"
		}
	}
	return why
}

// nodeSetUp adds the package manager to the build stage. It returns the command that
// installs and, after a build, the one that removes what only the build needs.
func nodeSetUp(p *plan, m manager, builds bool) (install, prune string) {
	if m.setup != "" && !slices.Contains(p.base, "RUN "+m.setup) {
		p.build = append(p.build, "RUN "+m.setup)
	}
	if len(m.env) > 0 {
		p.build = append(p.build, "ENV "+strings.Join(m.env, " "))
	}
	install, prune = m.install, m.prune
	if builds {
		return "NODE_ENV=development " + install, prune // otherwise build dependencies are left out
	}
	switch { // without a build, build dependencies are not installed at all
	case m.name == "npm":
		install += " --omit=dev"
	case m.name == "pnpm":
		install += " --prod"
	case m.name == "bun" || m.name == "yarn" && !m.berry:
		install += " --production"
	case m.berry && prune != "":
		install += " && " + prune
	}
	return install, ""
}

// nodeRuns adds the package manager to the image if a command there uses it: bun
// runs programs itself, and "pnpm start" needs pnpm.
func nodeRuns(s *source, p *plan, j packageJSON, m manager) {
	start, _ := nodeStart(s, p, j, m)
	text := strings.Join([]string{s.set.StartCommand, s.read("Procfile"), start, j.Scripts["prestart"], j.Scripts["start"], j.Scripts["poststart"]}, "\n")
	if m.setup != "" && regexp.MustCompile(`(?m)(^|[\s:;&|])(`+m.name+`|`+m.name+`x)\s`).MatchString(text+"\n") {
		p.base = append(p.base, "RUN "+m.setup)
	}
}

// copies are the instructions that copy files and folders to the same paths.
func copies(files []string) (list []string) {
	var plain []string
	for _, f := range files {
		if d, ok := strings.CutSuffix(f, "/"); ok {
			list = append(list, fmt.Sprintf("COPY %s %s", d, d))
		} else {
			plain = append(plain, f)
		}
	}
	if len(plain) > 0 {
		list = append([]string{"COPY " + strings.Join(plain, " ") + " ./"}, list...)
	}
	return list
}

// nodeStart finds the command that starts the program.
func nodeStart(s *source, p *plan, j packageJSON, m manager) (command, why string) {
	script := j.Scripts["start"]
	if j.Scripts["start:prod"] != "" && p.Framework == "NestJS" {
		return j.Scripts["start:prod"], "scripts.start:prod in package.json"
	}
	for _, name := range slices.Sorted(maps.Keys(j.Scripts)) {
		if strings.HasPrefix(name, "serve:ssr") && j.has("@angular/ssr") {
			return j.Scripts[name], "scripts." + name + " in package.json"
		}
	}
	switch {
	case script != "" && (j.Scripts["prestart"] != "" || j.Scripts["poststart"] != ""):
		return "npm start", "scripts.start in package.json, with prestart or poststart"
	case script != "":
		return script, "scripts.start in package.json" // npm itself would cost half a second and a process
	}
	for _, f := range nodeFrameworks {
		if f.name == p.Framework && f.start != "" {
			return f.start, f.dependency + " in package.json"
		}
	}
	if j.Main != "" && s.first(j.Main, j.Main+".js") != "" {
		runtime := "node "
		if m.name == "bun" && strings.HasSuffix(j.Main, ".ts") {
			runtime = "bun "
		}
		return runtime + word(j.Main), "main in package.json"
	}
	if f := s.first("server.js", "index.js", "app.js", "main.js", "server.mjs", "index.mjs"); f != "" {
		return "node " + f, f
	}
	if m.name == "bun" {
		if j.Module != "" && s.has(j.Module) {
			return "bun " + word(j.Module), "module in package.json"
		}
		if f := s.first("index.ts", "server.ts", "src/index.ts", "src/server.ts", "index.tsx"); f != "" {
			return "bun " + f, f
		}
	}
	return "", ""
}

// nodeSPA reports whether the tree is only a front end: it has a build, and nothing
// that serves the result.
func nodeSPA(j packageJSON) (bool, string) {
	if j.Scripts["build"] == "" || j.Scripts["start"] != "" && !devServer.MatchString(j.Scripts["start"]) {
		return false, ""
	}
	for _, f := range nodeFrameworks {
		if j.has(f.dependency) {
			return false, ""
		}
	}
	for _, t := range []struct{ dependency, name string }{{"react-scripts", "Create React App"}, {"astro", "Astro"}, {"vite", "Vite"}, {"@vue/cli-service", "Vue"}, {"@angular/cli", "Angular"}, {"parcel", "Parcel"}} {
		if j.has(t.dependency) && !j.has("@astrojs/node") {
			return true, t.name
		}
	}
	return false, ""
}

// devServer is a start script for developing the front end. Its program is missing
// when only run-time dependencies are installed.
var devServer = regexp.MustCompile(`^\s*(npx )?(ng serve|ng s|react-scripts start|vite|vue-cli-service serve|astro (dev|preview)|parcel)(\s|$)`)

// Patterns of git dependencies, in a package.json or a lock file.
var (
	gitDependency = regexp.MustCompile(`^(git[+:@]|ssh:|(github|gitlab|bitbucket|gist):|\w[\w.-]*/[\w.-]+(#|$)|https?://.*\.git(#|$))`)
	gitLocked     = regexp.MustCompile(`["'@ ]git(\+(https?|ssh)|)://|\btype: git\b`)
)

// nodeGit is what makes the installation need git, or empty.
func nodeGit(s *source, j packageJSON) string {
	for _, list := range []map[string]string{j.Dependencies, j.DevDependencies} {
		for _, n := range slices.Sorted(maps.Keys(list)) {
			if gitDependency.MatchString(list[n]) {
				return n + " in package.json comes from git"
			}
		}
	}
	for _, f := range []string{"package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock"} {
		for l := range strings.SplitSeq(s.above().read(f), "\n") {
			if !strings.Contains(l, `"url"`) && gitLocked.MatchString(l) { // a link for bug reports
				return f + " names a git repository"
			}
		}
	}
	return ""
}

// nodeStatic serves the result of a build.
func nodeStatic(s *source, p *plan, j packageJSON) error {
	out, why := "dist", p.Framework+" builds it"
	switch {
	case j.has("react-scripts"):
		out = "build"
	case p.Framework == "Angular":
		var err error
		if out, err = angularOut(s, j); err != nil {
			return err
		}
		why = cmp.Or(s.first("angular.json"), why)
	}
	if s.set.BuildCommand == "" && strings.Contains(j.Scripts["build"], "--outDir") {
		f := strings.Fields(j.Scripts["build"])
		if i := slices.Index(f, "--outDir"); i >= 0 && i+1 < len(f) {
			out = strings.Trim(f[i+1], "/")
		}
	}
	if !plainPath.MatchString(out) {
		return mesh.Errorf(mesh.Invalid, "the build of this front end writes to %q, which is not a plain path", mesh.Clip(out, 60)).
			WithHint("use a folder with a simple name, such as dist")
	}
	p.buildImage = p.image
	if err := s.site(p); err != nil {
		return err
	}
	from := "--from=build " + path.Join("/app", s.at, out)
	p.cmd = staticCommand
	if p.Framework == "Astro" { // one page per file
		p.found("serves "+out+"/, and its 404.html for any other path", why)
		p.final = serveStatic(from)
		return nil
	}
	p.found("serves "+out+"/, and its index.html for any other path", why)
	p.final = serveApp(from)
	return nil
}

// angularOut is the output folder of Angular's build.
func angularOut(s *source, j packageJSON) (string, error) {
	type target struct {
		Builder string
		Options struct{ OutputPath json.RawMessage }
	}
	var config struct {
		DefaultProject string
		Projects       map[string]struct {
			ProjectType        string
			Architect, Targets map[string]target
		}
	}
	if err := s.jsonc("angular.json", &config); err != nil {
		return "", err
	}
	name := ""
	for _, n := range slices.Sorted(maps.Keys(config.Projects)) {
		if t := config.Projects[n].ProjectType; t == "library" {
			continue
		}
		if name == "" || n == j.Name && name != config.DefaultProject || n == config.DefaultProject {
			name = n
		}
	}
	build, ok := config.Projects[name].Architect["build"]
	if !ok {
		build = config.Projects[name].Targets["build"]
	}
	out, browser := "dist/"+cmp.Or(name, j.Name), "browser"
	if strings.HasSuffix(build.Builder, ":browser") || strings.HasSuffix(build.Builder, ":browser-esbuild") {
		browser = "" // before Angular 17
	}
	if text := build.Options.OutputPath; json.Unmarshal(text, &out) != nil && len(text) > 0 {
		given := struct {
			Base    string
			Browser *string
		}{}
		if err := json.Unmarshal(text, &given); err != nil {
			return "", mesh.Errorf(mesh.Invalid, "angular.json: outputPath: %w", err)
		}
		out = given.Base
		if given.Browser != nil {
			browser = *given.Browser
		}
	}
	return path.Join(strings.Trim(out, "/"), browser), nil
}
