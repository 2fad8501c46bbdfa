package detect

import (
	"regexp"
	"strings"
)

var (
	djangoStatic = regexp.MustCompile(`(?m)^\s*STATIC_ROOT\s*(?::\s*[\w.]+\s*)?=`)
	djangoKey    = regexp.MustCompile(`(?m)^\s*SECRET_KEY\s*(?::\s*[\w.]+\s*)?=\s*(.*\b(?:environ|getenv|env|config)\b[^"'\n]*["']([A-Za-z_][A-Za-z0-9_]*)["'](.*))$`)
	djangoHosts  = regexp.MustCompile(`(?m)^\s*ALLOWED_HOSTS\s*(?::\s*[\w.\[\]]+\s*)?=\s*\[\s*\]`)
	djangoWrites = regexp.MustCompile(`(?m)^\s*ALLOWED_HOSTS\s*(?:\+=|=\s*[^\[\s])|ALLOWED_HOSTS\.(?:append|extend)|django_heroku`)
)

// djangoSettings are the modules that may hold the settings.
func (s *source) djangoSettings() (files []string) {
	files = s.glob("settings.py")
	for _, dir := range s.folders() {
		files = append(files, s.files(dir+"/settings", "*.py")...)
	}
	return files
}

// djangoSecret is the variable that the settings take SECRET_KEY from, and whether they
// have no other value for it.
func (s *source) djangoSecret() (name string, needed bool) {
	for _, f := range s.djangoSettings() {
		if m := djangoKey.FindStringSubmatch(s.read(f)); m != nil {
			return m[2], !strings.ContainsAny(m[3], ",") && !strings.Contains(m[3], " or ")
		}
	}
	return "", false
}

// pythonBuild is what Django runs once at build time, or empty. The key is for this
// command alone: nothing that it signs is kept.
func pythonBuild(s *source, p *plan) (command, why string) {
	if p.Framework != "Django" {
		return "", ""
	}
	for _, f := range s.djangoSettings() {
		if !djangoStatic.MatchString(s.read(f)) {
			continue
		}
		key := "SECRET_KEY"
		if name, _ := s.djangoSecret(); name != "" {
			key = name
		}
		return key + "=only-for-the-build python manage.py collectstatic --noinput", "STATIC_ROOT in " + f
	}
	return "", ""
}

// djangoFirstPush says what a Django app needs besides its image.
func djangoFirstPush(s *source, p *plan) {
	if name, needed := s.djangoSecret(); needed {
		p.wants(s, name, "openssl rand -hex 32")
	}
	settings := ""
	for _, f := range s.djangoSettings() {
		settings += s.read(f) + "\n"
		if djangoHosts.MatchString(s.read(f)) {
			defer func() {
				if !djangoWrites.MatchString(settings) {
					p.found("ALLOWED_HOSTS is empty", f+"; Django answers 400 to the stack's domain: add it to the list")
				}
			}()
		}
	}
	p.migrates(s, "python manage.py migrate --noinput", "manage.py")
}
