package manifest

import (
	"encoding/json"
	"errors"
	"path"
	"regexp"
	"slices"
	"strings"

	"mesh"
)

// Frameworks sign cookies and tokens with a secret that is in no repository, and most
// refuse to start without it. Heroku makes Rails' own at the first push; so does mesh,
// for Rails, Laravel and Django, if the tree has no Dockerfile and nothing names the var
// already. A stack that has had a release keeps what it has: another secret would end the
// sessions of everybody.

var (
	lockedRails = regexp.MustCompile(`(?m)^    railties \(`)
	djangoReads = regexp.MustCompile(`(?m)^\s*SECRET_KEY\s*(?::\s*[\w.]+\s*)?=\s*[^\n#]*\b(?:environ|getenv|env|config)\b[^"'\n]*["']([A-Za-z_]\w*)["']`)
)

// frameworkSecrets declares the secrets that the framework of a tree reads. at is the
// folder that is built, empty for the whole tree.
func (m *Manifest) frameworkSecrets(t mesh.Tree, at string) error {
	read := func(name string) (string, error) {
		text, err := treeFile(t, path.Join(at, name))
		var e *mesh.Error
		if errors.As(err, &e) { // too large, or not text: no such file
			return "", nil
		}
		return text, err
	}
	for _, own := range []string{mesh.DefaultDockerfile, "dockerfile"} {
		if text, err := read(own); text != "" || err != nil {
			return err
		}
	}
	if m.Settings.Dockerfile != "" {
		return nil
	}
	name, v, err := frameworkSecret(t, at, read)
	if _, declared := m.Vars[name]; name != "" && err == nil && !declared {
		m.Vars[name] = v
	}
	return err
}

func frameworkSecret(t mesh.Tree, at string, read func(string) (string, error)) (name string, v Var, err error) {
	lock, err := read("Gemfile.lock")
	if err != nil || lockedRails.MatchString(lock) {
		return "SECRET_KEY_BASE", Var{Secret: true, First: true, From: "made for Rails"}, err
	}
	composer, err := read("composer.json")
	if err != nil {
		return "", v, err
	}
	var c struct{ Require map[string]string }
	if json.Unmarshal([]byte(composer), &c) == nil && c.Require["laravel/framework"] != "" {
		return "APP_KEY", Var{Secret: true, First: true, Prefix: "base64:", From: "made for Laravel"}, nil
	}
	if manage, err := read("manage.py"); manage == "" || err != nil {
		return "", v, err
	}
	for _, e := range t.Entries() {
		below, ok := strings.CutPrefix(e.Path, strings.TrimPrefix(at+"/", "/"))
		parts := strings.Split(below, "/")
		settings := path.Base(below) == "settings.py" || slices.Contains(parts[:len(parts)-1], "settings") && strings.HasSuffix(below, ".py")
		if !ok || !settings || len(parts) > 4 || !e.Mode.IsRegular() {
			continue
		}
		text, err := read(below)
		if err != nil {
			return "", v, err
		}
		if f := djangoReads.FindStringSubmatch(text); f != nil {
			if _, err := mesh.ParseVarName(f[1]); err == nil {
				return f[1], Var{Secret: true, First: true, From: "made for Django"}, nil
			}
		}
	}
	return "", v, nil
}
