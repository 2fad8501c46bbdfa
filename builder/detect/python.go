package detect

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

type pyproject struct {
	Project struct {
		Name           string
		RequiresPython string `toml:"requires-python"`
		Dynamic        []string
		Dependencies   []string
		Scripts        map[string]string
	}
	Tool struct {
		Poetry struct {
			Dependencies map[string]any
			Scripts      map[string]any
		}
	}
	BuildSystem struct {
		Requires []string
	} `toml:"build-system"`
}

type pipfile struct {
	Packages map[string]any
	Requires struct {
		PythonVersion string `toml:"python_version"`
		PythonFull    string `toml:"python_full_version"`
	}
}

func python(s *source, p *plan) error {
	var project pyproject
	if err := s.toml("pyproject.toml", &project); err != nil {
		return err
	}
	var pip pipfile
	if err := s.toml("Pipfile", &pip); err != nil {
		return err
	}
	workspace := uvAbove(s, p, project)
	deps := pythonDependencies(s, project, pip)
	// gunicorn and uvicorn take the client's address and scheme from mesh's router, as on
	// Heroku.
	p.env = []string{"PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "FORWARDED_ALLOW_IPS=*", "PATH=/venv/bin:$PATH"}
	if f := s.first(pythonFiles...); !slices.Contains(condaFiles, f) {
		version, err := pythonVersion(s, p, project, pip, deps.pinned)
		if err != nil {
			return err
		}
		p.image = "python:" + version + "-slim-" + p.release
	}
	p.add(pythonNeeds, deps.any)
	var again []string
	if workspace {
		uvInstallMember(s, p, project)
	} else {
		again = pythonInstall(s, p, project)
	}
	p.final = nil
	if len(p.build) > 0 {
		p.final = append(p.final, "COPY --from=build /venv /venv")
	}
	if deps.any("playwright") {
		pythonBrowsers(s, p)
	}
	p.final = append(p.final, "COPY --chown=%OWNER . .")
	found, why := pythonStart(s, p, deps, project)
	build, because := pythonBuild(s, p)
	if command := s.buildCommand(p, build, because); command != "" {
		p.final = append(p.final, "RUN "+withConfig+readConfig+command)
		if strings.Contains(command, "collectstatic") {
			p.final = append(p.final, "RUN chown -R %OWNER /app")
		}
	}
	if p.Framework == "Django" {
		djangoFirstPush(s, p)
	}
	started := strings.Join([]string{s.set.StartCommand, s.read("Procfile"), found}, "\n")
	for _, n := range slices.Concat(slices.Sorted(maps.Keys(project.Project.Scripts)), slices.Sorted(maps.Keys(project.Tool.Poetry.Scripts))) {
		if again != nil && regexp.MustCompile(`(?m)(^|[\s:;&|])`+regexp.QuoteMeta(n)+`(\s|$)`).MatchString(started) {
			p.found("installs the project itself", "the start command uses its script "+n)
			p.build = append(p.build, again...)
			break
		}
	}
	return s.start(p, found, why, "manage.py, main.py, app.py, server.py or one of [project.scripts]")
}

func orNothing(v any) any {
	if s, ok := v.(string); ok {
		return s
	}
	return ""
}

// pythonBrowsers installs the browsers that Playwright drives, with their libraries, where
// every user finds them: the ones that the sources name, or Chromium.
func pythonBrowsers(s *source, p *plan) {
	text := ""
	for _, f := range s.in(".") {
		if strings.HasSuffix(f, ".py") {
			text += s.read(f)
		}
	}
	browsers := "chromium"
	for _, b := range []string{"firefox", "webkit"} {
		if strings.Contains(text, "."+b) {
			browsers += " " + b
		}
	}
	p.found("installs the browser "+browsers, "needed by playwright")
	p.env = append(p.env, "PLAYWRIGHT_BROWSERS_PATH=/ms-playwright")
	p.final = append(p.final, "RUN playwright install --with-deps "+browsers+" && rm -rf /var/lib/apt/lists/*")
}
