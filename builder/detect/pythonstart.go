package detect

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// pythonApp is a framework whose app is an object in a module.
type pythonApp struct {
	dependency, name string
	object           *regexp.Regexp // its name is the first group
	asgi             bool           // else WSGI
	own              string         // the server that comes with it, with %s for the object; else none
	why              string
}

func assigned(constructors string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)^(\w+)\s*(?:,\s*\w+\s*)*(?::\s*[\w.\[\]]+\s*)?=\s*(?:await\s+)?(?:` + constructors + `)\(`)
}

// pythonApps in the order in which they are looked for: those that build on another
// come first.
var pythonApps = []pythonApp{
	{"python-fasthtml", "FastHTML", assigned(`(?:\w+\.)?fast_app|(?:\w+\.)?FastHTML`), true, uvicorn, "uvicorn comes with FastHTML"},
	{"fastapi", "FastAPI", assigned(`(?:fastapi\.)?FastAPI`), true, uvicorn, "uvicorn"},
	{"litestar", "Litestar", assigned(`(?:litestar\.)?Litestar`), true, uvicorn, "uvicorn"},
	{"quart", "Quart", assigned(`(?:quart\.)?Quart`), true, "hypercorn %s --bind 0.0.0.0:$PORT", "hypercorn comes with Quart"},
	{"sanic", "Sanic", assigned(`(?:sanic\.)?Sanic`), true, "sanic %s --host 0.0.0.0 --port $PORT", "Sanic's own server"},
	{"starlette", "Starlette", assigned(`(?:[\w.]+\.)?Starlette`), true, uvicorn, "uvicorn"},
	{"blacksheep", "BlackSheep", assigned(`(?:blacksheep\.)?Application`), true, uvicorn, "uvicorn"},
	{"falcon", "Falcon", assigned(`falcon\.asgi\.App|asgi\.App`), true, uvicorn, "uvicorn"},
	{"falcon", "Falcon", assigned(`falcon\.(?:App|API)|App`), false, "", ""},
	{"dash", "Dash", regexp.MustCompile(`(?m)^(server)\s*=\s*\w+\.server\b`), false, "", ""},
	{"flask", "Flask", assigned(`(?:flask\.)?Flask`), false, "flask --app '%s' run --host 0.0.0.0 --port $PORT", "Flask's own server, because gunicorn is not in the requirements"},
	{"bottle", "Bottle", assigned(`(?:bottle\.)?(?:Bottle|default_app)`), false, "python -m bottle --bind 0.0.0.0:$PORT %s", "Bottle's own server"},
	{"pyramid", "Pyramid", assigned(`\w+\.make_wsgi_app`), false, "", ""},
}

const uvicorn = "uvicorn %s --host 0.0.0.0 --port $PORT"

var (
	appFactory = regexp.MustCompile(`(?m)^def (create_app|make_app)\(`)
	anyApp     = regexp.MustCompile(`(?m)^(?:from\s+\S+\s+import\s+(?:.*[\s,(])?(app|application)\b|(app|application)\s*=)`)
)

// asgiServers and wsgiServers run an app's object, the one to prefer first.
var (
	asgiServers = []struct{ dependency, command string }{
		{"uvicorn", uvicorn}, {"hypercorn", "hypercorn %s --bind 0.0.0.0:$PORT"}, {"granian", "granian --interface asgi --host 0.0.0.0 --port $PORT %s"}, {"daphne", "daphne -b 0.0.0.0 -p $PORT %s"},
	}
	wsgiServers = []struct{ dependency, command string }{
		{"gunicorn", "gunicorn '%s'"}, {"waitress", "waitress-serve --listen=0.0.0.0:$PORT %s"}, {"granian", "granian --interface wsgi --host 0.0.0.0 --port $PORT %s"}, {"uwsgi", "uwsgi --http :$PORT --die-on-term --master --module %s"}, {"cheroot", "cheroot --bind 0.0.0.0:$PORT %s"},
	}
)

// pythonTools are frameworks that start a script themselves, or whose script starts a
// server that reads the environment.
var pythonTools = []struct{ dependency, name, imports, command string }{
	{"streamlit", "Streamlit", "streamlit", "streamlit run %s --server.address 0.0.0.0 --server.port $PORT --server.headless true --browser.gatherUsageStats false"},
	{"chainlit", "Chainlit", "chainlit", "chainlit run %s --host 0.0.0.0 --port $PORT --headless"},
	{"gradio", "Gradio", "gradio", "env GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=$PORT python %s"},
	{"panel", "Panel", "panel", "panel serve %s --address 0.0.0.0 --port $PORT --allow-websocket-origin=*"},
	{"marimo", "marimo", "marimo", "marimo run %s --host 0.0.0.0 --port $PORT --headless"},
	{"shiny", "Shiny", "shiny", "shiny run --host 0.0.0.0 --port $PORT %s"},
	{"dash", "Dash", "dash", "env HOST=0.0.0.0 python %s"}, // Dash's run reads HOST and PORT
}

var (
	aiohttpApp   = assigned(`(?:aiohttp\.)?web\.Application`)
	httpFunction = regexp.MustCompile(`(?m)^@(?:functions_framework\.)?http\b[^\n]*\n(?:async )?def (\w+)\(`)
	pythonMain   = words("main.py app.py server.py bot.py run.py streamlit_app.py Home.py application.py wsgi.py src/main.py src/app.py app/main.py")
)

// modules are the files in which to look for a web app's object.
func (s *source) modules() []string {
	list := s.presentFiles("asgi.py", "wsgi.py", "app.py", "main.py", "server.py", "application.py", "api.py", "run.py", "index.py")
	names := []string{"app.py", "main.py", "server.py", "asgi.py", "wsgi.py", "__init__.py"}
	for _, n := range names {
		list = append(list, s.glob(n)...)
	}
	sub, err := fs.Sub(s.tree, "src")
	if err != nil {
		return list
	}
	src := &source{tree: sub}
	for _, n := range names {
		for _, f := range src.glob(n) {
			list = append(list, "src/"+f)
		}
	}
	return list
}

func (s *source) presentFiles(names ...string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !s.has(n) })
}

// module is a file's name as Python imports it.
func module(file string) string {
	m := strings.TrimSuffix(strings.TrimSuffix(file, ".py"), "/__init__")
	return strings.ReplaceAll(strings.TrimPrefix(m, "src/"), "/", ".")
}

// pythonObject is the object of an app, as module:name, and the file that has it.
func pythonObject(s *source, p *plan, what *regexp.Regexp) (object, file string) {
	for _, f := range s.modules() {
		m := what.FindStringSubmatch(s.read(f))
		if m == nil {
			continue
		}
		name := m[1]
		if name == "" {
			name = m[len(m)-1]
		}
		if at := "PYTHONPATH=" + path.Join("/app", s.at, "src"); strings.HasPrefix(f, "src/") && !slices.Contains(p.env, at) {
			p.env = append(p.env, at) // as in an editor
		}
		return module(f) + ":" + name, f
	}
	return "", ""
}

// pythonServer is the command of the server among the dependencies that runs an object.
func pythonServer(d distributions, asgi bool, object string) (command, dependency string) {
	list := wsgiServers
	if asgi {
		list = asgiServers
	}
	for _, t := range list {
		if d.has(t.dependency) {
			return fmt.Sprintf(t.command, object), t.dependency
		}
	}
	for _, t := range list {
		if d.locked[t.dependency] {
			return fmt.Sprintf(t.command, object), t.dependency
		}
	}
	return "", ""
}

func pythonStart(s *source, p *plan, d distributions, project pyproject) (command, why string) {
	if s.has("manage.py") && d.has("django") {
		return djangoStart(s, p, d)
	}
	for _, a := range pythonApps {
		if !d.has(a.dependency) {
			continue
		}
		if p.Framework == "" {
			p.Framework = a.name
		}
		if command, why := a.start(s, p, d); command != "" {
			p.Framework = a.name
			return command, why
		}
	}
	for _, t := range pythonTools {
		if !d.has(t.dependency) {
			continue
		}
		if f := s.importing(t.imports); f != "" {
			p.Framework = t.name
			return fmt.Sprintf(t.command, f), f
		}
	}
	if command, why := pythonOwnServer(s, p, d); command != "" {
		return command, why
	}
	return pythonProgram(s, project)
}

// start is what starts an app, or empty if its object is not found.
func (a pythonApp) start(s *source, p *plan, d distributions) (command, why string) {
	object, file := pythonObject(s, p, a.object)
	if object == "" && a.dependency == "flask" {
		if object, file = pythonObject(s, p, appFactory); object != "" {
			object += "()"
		}
	}
	if object == "" {
		return "", ""
	}
	command, server := pythonServer(d, a.asgi, object)
	switch {
	case a.own != "" && a.dependency != "flask" && !d.has(server):
		if strings.HasPrefix(a.own, "uvicorn ") {
			return fmt.Sprintf(a.own, object), file
		}
		return fmt.Sprintf(a.own, object), file + "; " + a.why
	case a.dependency == "sanic":
		return fmt.Sprintf(a.own, object), file + "; " + a.why
	case command != "" && a.asgi && server == "uvicorn":
		return command, file
	case command != "":
		return command, file + ", with " + server + " in the requirements"
	case a.own != "":
		return fmt.Sprintf(a.own, object), file + "; " + a.why
	}
	return "", ""
}

// importing is a script that imports a module, or empty: one of the usual names, or the
// only one in the root.
func (s *source) importing(module string) string {
	imports := regexp.MustCompile(`(?m)^\s*(?:import|from)\s+` + regexp.QuoteMeta(module) + `\b`)
	var others []string
	for _, f := range s.files(".", "*.py") {
		if imports.MatchString(s.read(f)) {
			others = append(others, f)
		}
	}
	for _, f := range pythonMain {
		if s.has(f) && imports.MatchString(s.read(f)) {
			return f
		}
	}
	if len(others) == 1 {
		return others[0]
	}
	return ""
}

// pythonOwnServer is for libraries that are a server: their script may start it.
func pythonOwnServer(s *source, p *plan, d distributions) (command, why string) {
	if d.has("functions-framework") && s.has("main.py") {
		if m := httpFunction.FindStringSubmatch(s.read("main.py")); m != nil {
			p.Framework = "Functions Framework"
			return "functions-framework --target " + m[1] + " --host 0.0.0.0 --port $PORT", "main.py"
		}
	}
	if d.has("aiohttp") {
		if object, file := pythonObject(s, p, aiohttpApp); object != "" {
			p.Framework = "aiohttp"
			if !strings.Contains(s.read(file), "run_app(") && d.any("gunicorn") {
				return "gunicorn '" + object + "' --worker-class aiohttp.GunicornWebWorker", file + ", with gunicorn in the requirements"
			}
			if strings.Contains(s.read(file), "run_app(") {
				return "python " + file, file
			}
		}
	}
	if d.has("tornado") {
		if f := s.importing("tornado"); f != "" {
			p.Framework = "Tornado"
			return "python " + f, f
		}
	}
	// An app of any framework, in a file named after the interface of its server.
	for _, t := range []struct {
		file string
		asgi bool
	}{{"asgi.py", true}, {"wsgi.py", false}} {
		if m := anyApp.FindStringSubmatch(s.read(t.file)); m != nil {
			if command, server := pythonServer(d, t.asgi, module(t.file)+":"+m[1]+m[2]); command != "" {
				return command, t.file + ", with " + server + " in the requirements"
			}
		}
	}
	return "", ""
}

// pythonProgram is for everything else: a script, or a program that the project installs.
func pythonProgram(s *source, project pyproject) (command, why string) {
	if f := s.first("main.py", "app.py", "server.py", "bot.py", "run.py", "src/main.py", "src/app.py"); f != "" {
		return "python " + f, f
	}
	names := slices.Sorted(maps.Keys(project.Project.Scripts))
	if len(names) == 1 {
		return word(names[0]), "[project.scripts] in pyproject.toml"
	}
	if names := slices.Sorted(maps.Keys(project.Tool.Poetry.Scripts)); len(names) == 1 {
		return word(names[0]), "[tool.poetry.scripts] in pyproject.toml"
	}
	if f := s.glob("__main__.py"); len(f) == 1 {
		return "python -m " + module(path.Dir(f[0])), f[0]
	}
	return "", ""
}

// djangoStart runs wsgi.py, or asgi.py where that is what the app is for.
func djangoStart(s *source, p *plan, d distributions) (command, why string) {
	p.Framework = "Django"
	wsgi, asgi := s.glob("wsgi.py"), s.glob("asgi.py")
	if len(asgi) > 0 && (d.has("channels") || d.has("daphne") || len(wsgi) == 0 || !d.has("gunicorn") && d.has("uvicorn")) {
		if command, server := pythonServer(d, true, module(asgi[0])+":application"); command != "" {
			return command, asgi[0] + ", with " + server + " in the requirements"
		}
	}
	if len(wsgi) > 0 {
		if d.has("gunicorn") {
			return "gunicorn " + module(wsgi[0]), wsgi[0] + ", with gunicorn in the requirements"
		}
		if command, server := pythonServer(d, false, module(wsgi[0])+":application"); command != "" {
			return command, wsgi[0] + ", with " + server + " in the requirements"
		}
	}
	return "python manage.py runserver --noreload 0.0.0.0:$PORT", "manage.py; Django's own server, because gunicorn is not in the requirements"
}

var procfilePython = regexp.MustCompile(`(?m)^[\w-]+:\s*python3?\s+(?:-u\s+)?([\w./-]+\.py)\b`)

// pythonProcfile is the script that a Procfile runs with Python, or empty.
func pythonProcfile(s *source) string {
	if m := procfilePython.FindStringSubmatch(s.read("Procfile")); m != nil && s.has(path.Clean(m[1])) {
		return m[1]
	}
	return ""
}
