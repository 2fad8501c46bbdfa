package detect

import (
	"cmp"
	"encoding/json"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"mesh"
)

// framework is a dependency whose server is built and started.
type framework struct{ dependency, name, start string }

// nitro is where Nitro and what is based on it put the server.
const nitro = "node .output/server/index.mjs"

// nodeFrameworks are the dependencies that name a framework, and what starts it if
// nothing else does. The first match counts.
var nodeFrameworks = []framework{
	{"next", "Next.js", "next start"},
	{"nuxt", "Nuxt", nitro},
	{"nuxt-edge", "Nuxt", nitro},
	{"@nestjs/core", "NestJS", "node dist/main.js"},
	{"@remix-run/serve", "Remix", "remix-serve build/server/index.js"},
	{"@react-router/serve", "React Router", "react-router-serve build/server/index.js"},
	{"@sveltejs/adapter-node", "SvelteKit", "node build"},
	{"@sveltejs/adapter-auto", "SvelteKit", "node build"},
	{"@astrojs/node", "Astro", "node dist/server/entry.mjs"},
	{"@tanstack/react-start", "TanStack Start", ""},
	{"@tanstack/solid-start", "TanStack Start", ""},
	{"@solidjs/start", "SolidStart", nitro},
	{"@analogjs/platform", "Analog", "node dist/analog/server/index.mjs"},
	{"@adonisjs/core", "AdonisJS", "node build/bin/server.js"},
	{"@strapi/strapi", "Strapi", "strapi start"},
	{"@keystone-6/core", "Keystone", "keystone start"},
	{"@medusajs/medusa", "Medusa", "medusa start"},
	{"express", "Express", ""},
	{"fastify", "Fastify", ""},
	{"koa", "Koa", ""},
	{"hono", "Hono", ""},
	{"@hapi/hapi", "hapi", ""},
	{"nitropack", "Nitro", nitro},
	{"nitro", "Nitro", nitro},
}

// nodeFramework is the framework of a server; its fields are empty if none is known.
func nodeFramework(j packageJSON) framework {
	for _, f := range nodeFrameworks {
		if !j.has(f.dependency) || f.dependency == "@sveltejs/adapter-auto" && j.has("@sveltejs/adapter-static") {
			continue
		}
		if f.name == "TanStack Start" {
			f.start = tanStackStart(j)
		}
		return f
	}
	return framework{}
}

// tanStackStart is how TanStack Start is served: Nitro and vinxi build a server. Without
// them the build makes a handler, which srvx serves
// (https://tanstack.com/start/latest/docs/framework/react/guide/hosting).
func tanStackStart(j packageJSON) string {
	if j.has("nitro") || j.has("nitropack") || j.has("vinxi") || j.has("@tanstack/nitro-v2-vite-plugin") {
		return nitro
	}
	return "srvx --prod --static ../client --entry dist/server/server.js"
}

// site is a folder of files that a build makes.
type site struct {
	name  string // of the framework
	out   string // the folder
	why   string // what says so
	pages bool   // one page a file; otherwise index.html is for any path
}

// nodeSites are the frameworks whose build makes a site. The first whose dependency is
// there counts, unless its condition says that it makes a server.
var nodeSites = []struct {
	dependency string
	site
	config string // if not empty, a configuration file must match settings below
	must   *regexp.Regexp
}{
	{"next", site{name: "Next.js", out: "out", pages: true}, "next.config", regexp.MustCompile(`\boutput\s*:\s*["']export["']`)},
	{"@react-router/dev", site{name: "React Router", out: "build/client"}, "react-router.config", ssrOff},
	{"@remix-run/dev", site{name: "Remix", out: "build/client"}, "vite.config", ssrOff},
	{"gatsby", site{name: "Gatsby", out: "public", pages: true}, "", nil},
	{"@docusaurus/core", site{name: "Docusaurus", out: "build", pages: true}, "", nil},
	{"vitepress", site{name: "VitePress", out: ".vitepress/dist", pages: true}, "", nil},
	{"vuepress", site{name: "VuePress", out: ".vuepress/dist", pages: true}, "", nil},
	{"@11ty/eleventy", site{name: "Eleventy", out: "_site", pages: true}, "", nil},
	{"hexo", site{name: "Hexo", out: "public", pages: true}, "", nil},
	{"nuxt", site{name: "Nuxt", out: ".output/public", pages: true}, "package.json", regexp.MustCompile(`"build"\s*:\s*"[^"]*\bnuxt generate\b`)},
	{"@sveltejs/adapter-static", site{name: "SvelteKit", out: "build", pages: true}, "svelte.config", regexp.MustCompile(`adapter-static`)},
	{"expo", site{name: "Expo", out: "dist"}, "", nil},
	{"react-scripts", site{name: "Create React App", out: "build"}, "", nil},
	{"astro", site{name: "Astro", out: "dist", pages: true}, "", nil},
	{"vite", site{name: "Vite", out: "dist"}, "", nil},
	{"@vue/cli-service", site{name: "Vue", out: "dist"}, "", nil},
	{"@angular/cli", site{name: "Angular", out: "dist"}, "", nil},
	{"parcel", site{name: "Parcel", out: "dist"}, "", nil},
	{"@rsbuild/core", site{name: "Rsbuild", out: "dist"}, "", nil},
	{"ember-cli", site{name: "Ember", out: "dist"}, "", nil},
	{"@quasar/app-vite", site{name: "Quasar", out: "dist/spa"}, "", nil},
	{"preact-cli", site{name: "Preact", out: "build"}, "", nil},
	{"html-webpack-plugin", site{name: "webpack", out: "dist"}, "", nil},
}

var ssrOff = regexp.MustCompile(`\bssr\s*:\s*false\b`)

// configs are the endings of JavaScript's configuration files.
var configs = []string{".js", ".ts", ".mjs", ".mts", ".cjs", ".cts"}

// config is the text of a configuration file, without its comments, and its name.
func (s *source) config(stem string) (text, file string) {
	for _, ext := range configs {
		if s.has(stem + ext) {
			return jsComment.ReplaceAllString(s.read(stem+ext), ""), stem + ext
		}
	}
	return s.read(stem), stem
}

var jsComment = regexp.MustCompile(`(?m)/\*(?s:.*?)\*/|^\s*//.*$`)

// nodeSite decides whether a build makes a site that is served as files. A start script
// that is not made for the development serves it in another way.
func nodeSite(s *source, j packageJSON) (site, error) {
	if s.set.StartCommand != "" || s.web().text != "" {
		return site{}, nil
	}
	if s.set.Output != "" {
		return site{name: cmp.Or(nodeSiteName(j), "front end"), out: strings.Trim(s.set.Output, "/"), why: "output"}, nil
	}
	declared, err := staticFile(s)
	if err != nil {
		return site{}, err
	}
	if declared.root != "" && nodeBuildScript(j) != "" {
		return site{name: cmp.Or(nodeSiteName(j), "front end"), out: declared.root, why: declared.from, pages: !declared.fallback}, nil
	}
	if err := svelteAdapter(s, j); err != nil {
		return site{}, err
	}
	script := startScript(j)
	for _, f := range nodeSites {
		if !j.has(f.dependency) {
			continue
		}
		sure := false // whether the configuration rules out a server
		why := f.dependency + " in package.json"
		if f.must != nil {
			text, file := s.config(f.config)
			if !f.must.MatchString(text) {
				continue
			}
			sure, why = true, file
		}
		if script != "" && !devServer.MatchString(script) && (!sure || !ownServer.MatchString(script)) {
			return site{}, nil
		}
		if !sure && (nodeServes(j) || nodeBuildScript(j) == "" && f.name != "Expo" && f.name != "Gatsby") {
			return site{}, nil
		}
		out := f.site
		out.why = why
		err := out.complete(s, j)
		if declared.fallback {
			out.pages, out.why = false, why+", "+declared.from
		}
		return out, err
	}
	return site{}, nil
}

// svelteAdapter refuses a SvelteKit whose adapter builds for another platform.
func svelteAdapter(s *source, j packageJSON) error {
	if !j.has("@sveltejs/kit") || s.set.BuildCommand != "" {
		return nil
	}
	for _, a := range []string{"node", "auto", "static"} {
		if j.has("@sveltejs/adapter-" + a) {
			return nil
		}
	}
	for _, list := range []texts{j.Dependencies, j.DevDependencies} {
		for _, n := range slices.Sorted(maps.Keys(list)) {
			if strings.HasPrefix(n, "@sveltejs/adapter-") {
				return mesh.Errorf(mesh.Invalid, "this is SvelteKit with %s, which builds for another platform", mesh.Clip(n, 60)).
					WithHint("use adapter-node: npm install -D @sveltejs/adapter-node, and import it in svelte.config.js")
			}
		}
	}
	return nil
}

// nodeSiteName is the name of the framework that builds a site.
func nodeSiteName(j packageJSON) string {
	for _, f := range nodeSites {
		if j.has(f.dependency) {
			return f.name
		}
	}
	return ""
}

// nodeServes reports whether the tree has a server beside the front end.
func nodeServes(j packageJSON) bool {
	f := nodeFramework(j)
	return f.start != "" || j.runs(f.dependency) // a server library may be there for the development only
}

// complete finds what depends on the site's own configuration.
func (t *site) complete(s *source, j packageJSON) error {
	build := nodeBuildScript(j)
	switch t.name {
	case "Angular":
		var err error
		if t.out, err = angularOut(s, j); err != nil {
			return err
		}
		t.why = cmp.Or(s.first("angular.json"), t.why)
	case "SvelteKit":
		text, _ := s.config("svelte.config")
		if m := svelteFallback.FindStringSubmatch(text); m != nil && m[1] == "index.html" {
			t.pages = false
		}
		if m := sveltePages.FindStringSubmatch(text); m != nil {
			t.out = m[1]
		}
	case "Next.js":
		text, _ := s.config("next.config")
		if m := distDir.FindStringSubmatch(text); m != nil {
			t.out = m[1]
		}
	case "Astro":
		text, _ := s.config("astro.config")
		if m := outDir.FindStringSubmatch(text); m != nil {
			t.out = m[1]
		}
		if m := astroAdapter.FindStringSubmatch(text); m != nil && astroServer.MatchString(text) {
			return mesh.Errorf(mesh.Invalid, "this is Astro with the adapter @astrojs/%s, which builds for another platform", m[1]).
				WithHint("use @astrojs/node: npx astro add node")
		}
	case "Vite":
		text, _ := s.config("vite.config")
		if m := outDir.FindStringSubmatch(text); m != nil && !strings.Contains(text, "root:") {
			t.out = m[1]
		}
	case "VitePress", "VuePress":
		if m := docsFolder.FindStringSubmatch(build); m != nil {
			t.out = m[1] + "/" + t.out
		}
	}
	if strings.Contains(build, "--outDir") {
		f := strings.Fields(build)
		if i := slices.Index(f, "--outDir"); i >= 0 && i+1 < len(f) {
			t.out = f[i+1]
		}
	}
	t.out = strings.Trim(strings.TrimPrefix(t.out, "./"), "/")
	if !plainPath.MatchString(t.out) || strings.HasPrefix(path.Clean(t.out), "..") {
		return mesh.Errorf(mesh.Invalid, "the build of this front end writes to %q, which is not a plain path in the repository", mesh.Clip(t.out, 60)).
			WithHint("use a folder with a simple name, such as dist")
	}
	return nil
}

var (
	svelteFallback = regexp.MustCompile(`\bfallback\s*:\s*["']([\w.-]+)["']`)
	sveltePages    = regexp.MustCompile(`\bpages\s*:\s*["']([\w./-]+)["']`)
	distDir        = regexp.MustCompile(`\bdistDir\s*:\s*["']([\w./-]+)["']`)
	outDir         = regexp.MustCompile(`\boutDir\s*:\s*["']([\w./-]+)["']`)
	docsFolder     = regexp.MustCompile(`(?:vitepress|vuepress) build ([\w.-]+)`)
	astroAdapter   = regexp.MustCompile(`["']@astrojs/(vercel|netlify|cloudflare|deno)\b`)
	astroServer    = regexp.MustCompile(`\boutput\s*:\s*["'](server|hybrid)["']`)
)

// devServer is a start script for developing the front end. Its program is missing
// when only run-time dependencies are installed, and it would serve what is not built.
var devServer = regexp.MustCompile(`^\s*(?:\w+=\S+ +|cross-env +|npx +|bunx +|env +)*(ng (serve|s)|ng start|react-scripts start|vite|vite-plus|vp|vue-cli-service serve|astro (dev|preview|start)|parcel|gatsby (develop|serve)|gatsby build && gatsby serve|expo (start|r|run:\w+)|react-native start|docusaurus (start|serve)|vitepress|vuepress|eleventy|npx @11ty/eleventy|@11ty/eleventy|hexo s(erver)?|webpack-dev-server|webpack (serve|-w|--watch)|rsbuild (dev|preview)|ember s(erve)?|nuxt (dev|preview)|nuxi (dev|preview)|next dev|quasar dev|preact watch|svelte-kit dev|vinxi dev|react-router dev|remix (dev|vite:dev)|storybook)(\s|$)`)

// ownServer is a start script of a framework's server, which a site does not have.
var ownServer = regexp.MustCompile(`^\s*(?:\w+=\S+ +|cross-env +|npx +)*(next start|nuxt start|nuxi start|react-router-serve|remix-serve|node \.output/server|node build)`)

// nodeStatic serves the result of a build.
func nodeStatic(s *source, p *plan, t site) error {
	p.buildImage = p.image
	if err := s.site(p); err != nil {
		return err
	}
	p.ignores(s.present("nginx.conf", "httpd.conf", "Caddyfile"), "of another web server")
	at := path.Join("/app", s.at, t.out)
	p.build = append(p.build, hasIndex(at, t.out))
	p.cmd = staticCommand
	if t.pages { // one page per file
		p.found("serves "+t.out+"/, and its 404.html for any other path", t.why)
		p.final = serveStatic("--from=build " + at)
		return nil
	}
	p.found("serves "+t.out+"/, and its index.html for any other path", t.why)
	p.final = serveApp("--from=build " + at)
	return nil
}

// NoSite begins the line that a build prints when it has made no site.
const NoSite = "mesh: the build made no "

// hasIndex is the instruction that ends the build if there is no page to serve: an
// empty site would be healthy.
func hasIndex(dir, shown string) string {
	return "RUN [ -f " + dir + "/index.html ] || { echo '" + NoSite + shown + "/index.html' >&2; ls -A " + dir + " >&2; exit 1; }"
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
