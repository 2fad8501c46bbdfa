package deploy_test

import (
	"io"
	"strings"
	"testing"

	"mesh"
	"mesh/deploy/deploytest"
)

// The first push of a framework that needs a secret makes one, and later ones keep it.
func TestPush_FrameworkSecret(t *testing.T) {
	for name, c := range map[string]struct {
		files    map[string]string
		variable string
		prefix   string
		least    int // characters
	}{
		"Rails":          {map[string]string{"Gemfile.lock": "GEM\n  specs:\n    railties (8.0.1)\n"}, "SECRET_KEY_BASE", "", 64},
		"Laravel":        {map[string]string{"composer.json": `{"require": {"laravel/framework": "^12"}}`}, "APP_KEY", "base64:", 51},
		"Django":         {map[string]string{"manage.py": "#", "shop/settings.py": "import os\nSECRET_KEY = os.environ['DJANGO_SECRET']\n"}, "DJANGO_SECRET", "", 64},
		"a Dockerfile":   {map[string]string{"Gemfile.lock": "    railties (8.0.1)\n", "Dockerfile": "FROM scratch"}, "", "", 0},
		"another Django": {map[string]string{"manage.py": "#", "shop/settings.py": "SECRET_KEY = 'x'\n"}, "", "", 0},
		"no framework":   {map[string]string{"Gemfile.lock": "    rack (3.1)\n"}, "", "", 0},
		"app.json says":  {map[string]string{"Gemfile.lock": "    railties (8.0.1)\n", "app.json": `{"env": {"SECRET_KEY_BASE": "of the file"}}`}, "SECRET_KEY_BASE", "of the file", 11},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				d, _ := w.Start()
				out, err := push(t, w, d, c.files)
				if err != nil {
					t.Fatal(err)
				}
				before := stack(t, w).Config
				if c.variable == "" {
					if len(before) > 0 {
						t.Errorf("config vars were made: %v", before)
					}
					return
				}
				v := before[c.variable].Reveal()
				if !strings.HasPrefix(v, c.prefix) || len(v) < c.least || !strings.Contains(out, "config var "+c.variable) || c.least > 11 && strings.Contains(out, v) {
					t.Errorf("%d characters; output:\n%s", len(v), out)
				}
				mustPush(t, w, d, c.files)
				if got := stack(t, w).Config[c.variable]; got.Reveal() != v {
					t.Error("the next push has changed it")
				}
				// Who takes it away does not get another one: that would end all sessions.
				if _, err := d.SetConfig(t.Context(), "blog", admin.Name, mesh.ConfigChange{Unset: []string{c.variable}}, io.Discard); err != nil {
					t.Fatal(err)
				}
				mustPush(t, w, d, c.files)
				if _, again := stack(t, w).Config[c.variable]; again != (c.prefix == "of the file") {
					t.Errorf("set again: %v", again)
				}
			})
		})
	}
}
