package detect_test

import (
	"strings"
	"testing"

	"mesh/builder/detect"
)

// Each framework is started by the server that its dependencies name, on all addresses
// and on $PORT.
func TestPython_Starts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		requires, file, text string
		title, cmd           string
	}{
		"FastHTML":              {"python-fasthtml", "main.py", "app, rt = fast_app()\n", "FastHTML", "exec uvicorn main:app --host 0.0.0.0 --port $PORT"},
		"FastHTML's class":      {"python-fasthtml", "main.py", "app = FastHTML(hdrs=[])\n", "FastHTML", "exec uvicorn main:app --host 0.0.0.0 --port $PORT"},
		"Starlette":             {"starlette uvicorn", "app.py", "app = Starlette(debug=False)\n", "Starlette", "exec uvicorn app:app --host 0.0.0.0 --port $PORT"},
		"Litestar":              {"litestar[standard]", "app.py", "app: Litestar = Litestar([index])\n", "Litestar", "exec uvicorn app:app --host 0.0.0.0 --port $PORT"},
		"Litestar with granian": {"litestar granian", "app.py", "app = Litestar([index])\n", "Litestar", "exec granian --interface asgi --host 0.0.0.0 --port $PORT app:app"},
		"Quart":                 {"quart", "app.py", "app = Quart(__name__)\n", "Quart", "exec hypercorn app:app --bind 0.0.0.0:$PORT"},
		"Quart with uvicorn":    {"quart uvicorn", "app.py", "app = Quart(__name__)\n", "Quart", "exec uvicorn app:app --host 0.0.0.0 --port $PORT"},
		"Sanic":                 {"sanic", "server.py", "app = Sanic('x')\n", "Sanic", "exec sanic server:app --host 0.0.0.0 --port $PORT"},
		"aiohttp":               {"aiohttp", "main.py", "app = web.Application()\nweb.run_app(app)\n", "aiohttp", `["python", "main.py"]`},
		"aiohttp with gunicorn": {"aiohttp gunicorn", "main.py", "app = web.Application()\n", "aiohttp", "exec gunicorn 'main:app' --worker-class aiohttp.GunicornWebWorker"},
		"aiohttp as a client":   {"aiohttp", "bot.py", "import aiohttp\n", "", `["python", "bot.py"]`},
		"Tornado":               {"tornado", "serve.py", "import tornado\n", "Tornado", `["python", "serve.py"]`},
		"Streamlit":             {"streamlit", "Home.py", "import streamlit as st\n", "Streamlit", "exec streamlit run Home.py --server.address 0.0.0.0 --server.port $PORT --server.headless true --browser.gatherUsageStats false"},
		"Gradio":                {"gradio", "app.py", "import gradio as gr\n", "Gradio", "exec env GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=$PORT python app.py"},
		"Gradio in FastAPI":     {"gradio fastapi uvicorn", "app.py", "import gradio as gr\napp = FastAPI()\n", "FastAPI", "exec uvicorn app:app --host 0.0.0.0 --port $PORT"},
		"Bottle":                {"bottle", "app.py", "app = Bottle()\n", "Bottle", "exec python -m bottle --bind 0.0.0.0:$PORT app:app"},
		"Bottle with gunicorn":  {"bottle gunicorn", "app.py", "app = bottle.default_app()\n", "Bottle", "gunicorn 'app:app'"},
		"Falcon":                {"falcon gunicorn", "app.py", "app = falcon.App()\n", "Falcon", "gunicorn 'app:app'"},
		"Falcon with waitress":  {"falcon waitress", "app.py", "api = falcon.API()\n", "Falcon", "exec waitress-serve --listen=0.0.0.0:$PORT app:api"},
		"Falcon's ASGI":         {"falcon uvicorn", "app.py", "import falcon.asgi\napp = falcon.asgi.App()\n", "Falcon", "exec uvicorn app:app --host 0.0.0.0 --port $PORT"},
		"Dash":                  {"dash gunicorn", "app.py", "import dash\napp = Dash(__name__)\nserver = app.server\n", "Dash", "gunicorn 'app:server'"},
		"Dash alone":            {"dash", "app.py", "from dash import Dash\napp = Dash(__name__)\napp.run()\n", "Dash", `["env", "HOST=0.0.0.0", "python", "app.py"]`},
		"Flask with waitress":   {"flask waitress", "app.py", "app = Flask(__name__)\n", "Flask", "exec waitress-serve --listen=0.0.0.0:$PORT app:app"},
		"wsgi.py":               {"pyramid gunicorn", "wsgi.py", "from shop import app\n", "Pyramid", "gunicorn 'wsgi:app'"},
		"asgi.py":               {"uvicorn shop", "asgi.py", "application = make()\n", "", "exec uvicorn asgi:application --host 0.0.0.0 --port $PORT"},
		"a function":            {"functions-framework", "main.py", "import functions_framework\n@functions_framework.http\ndef hello(request):\n", "Functions Framework", "exec functions-framework --target hello --host 0.0.0.0 --port $PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan, err := detect.Detect(tree(map[string]string{"requirements.txt": strings.ReplaceAll(c.requires, " ", "\n"), c.file: c.text}), detect.Settings{})
			if err != nil {
				t.Fatal(err)
			}
			parses(t, plan.Dockerfile)
			last := plan.Dockerfile[strings.LastIndex(plan.Dockerfile, "CMD "):]
			if plan.Framework != c.title || !strings.Contains(last, c.cmd) {
				t.Errorf("framework %q, %s; want %q, %s", plan.Framework, last, c.title, c.cmd)
			}
		})
	}
}

// Without a file that Python is named after, a Procfile may say it.
func TestPython_OfAProcfile(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{
		"a bot":        {"bot.py": ""},
		"a server":     {"server.py": "", "Procfile": "web: python server.py\n"},
		"another name": {"tick.py": "", "Procfile": "worker: python -u tick.py --often\n"},
	} {
		plan, err := detect.Detect(tree(files), detect.Settings{})
		if err != nil || plan.Language != "Python" {
			t.Errorf("%s: %v, %v", name, plan, err)
		}
	}
}

// A default or a range gives the newest Python that the pinned distributions run on.
func TestPython_VersionForOldPins(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		want  string
		why   string
	}{
		"numpy":           {map[string]string{"requirements.txt": "numpy==1.25.2\nflask"}, "3.11", "numpy 1.25.2 is not made for a newer one; the default"},
		"the oldest of":   {map[string]string{"requirements.txt": "numpy==1.26.0\npandas==1.4.3"}, "3.10", "pandas 1.4.3 is"},
		"new ones":        {map[string]string{"requirements.txt": "numpy==2.3.4\n"}, "3.13", "the default"},
		"a lock file":     {map[string]string{"pyproject.toml": "[project]\nname = \"a\"\nrequires-python = \">=3.9\"\n", "uv.lock": "[[package]]\nname = \"pyyaml\"\nversion = \"6.0\"\n", "main.py": ""}, "3.11", "pyyaml 6.0"},
		"Pipfile.lock":    {map[string]string{"Pipfile": "", "Pipfile.lock": `{"default": {"Pillow": {"version": "==9.5.0"}}}`}, "3.11", "pillow 9.5.0"},
		"a version":       {map[string]string{"requirements.txt": "numpy==1.25.2", ".python-version": "3.12"}, "3.12", ".python-version"},
		"exact":           {map[string]string{"requirements.txt": "", "runtime.txt": "python-3.11.9"}, "3.11.9", "runtime.txt"},
		"exact and old":   {map[string]string{"requirements.txt": "", "runtime.txt": "python-3.9.7"}, "3.9.7", "runtime.txt"},
		"exact, no image": {map[string]string{"requirements.txt": "", "runtime.txt": "python-3.9.1"}, "3.9", "runtime.txt says 3.9.1"},
		"exact by Poetry": {map[string]string{"pyproject.toml": "[tool.poetry.dependencies]\npython = \"3.12.4\"\n"}, "3.12.4", "python in pyproject.toml"},
		"of pyenv":        {map[string]string{"requirements.txt": "", ".python-version": "3.12.4"}, "3.12", ".python-version says 3.12.4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.files["app.py"] = ""
			plan, err := detect.Detect(tree(c.files), detect.Settings{})
			if err != nil {
				t.Fatal(err)
			}
			if f := plan.Facts[0]; f.What != "Python "+c.want || !strings.HasPrefix(f.Why, c.why) {
				t.Errorf("%s: %s", f.What, f.Why)
			}
			if !strings.Contains(plan.Dockerfile, "FROM python:"+c.want+"-slim-") {
				t.Error(plan.Dockerfile)
			}
		})
	}
}
