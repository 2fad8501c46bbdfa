package mesh_test

import (
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"mesh"
)

func TestSettings_SetAndGet(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{
		"root": {"web", "apps/web"}, "context": {"apps"}, "target": {"build", "stage-1"}, "packages": {"ffmpeg,libpq5"},
		"base-image": {"corp.example:5000/node:20-slim"}, "build-command": {"make all && true"}, "start-command": {"./serve --port $PORT"},
		"user": {"app", "1000:1000"}, "pull": {"true"}, "watch": {"web/**,*.md"}, "show-command": {"true"}, "release-timeout": {"2h0m0s"},
		"language-version": {"22", "3.12.4", ">=20", "nightly-2024-08-12"}, "install-command": {"npm ci --legacy-peer-deps"}, "output": {"dist/app"},
		"build-args": {"A=1,B=two=2"}, "image-tag": {"{branch}-{commit}", "x.{time}_{deployment}"},
	} {
		for _, v := range values {
			var s mesh.Settings
			if err := s.Set(name, v); err != nil || s.Get(name) != v {
				t.Errorf("%s=%s: got %q, %v", name, v, s.Get(name), err)
			}
			if err := s.Set(name, ""); err != nil || !reflect.DeepEqual(s, mesh.Settings{}) {
				t.Errorf("%s is not taken back: %+v, %v", name, s, err)
			}
		}
	}
}

func TestSettings_Refused(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{
		"root": {"/etc", "../x", "a/../../b", "."}, "context": {"/", "..", "a\nb"}, "target": {"a b", "-x"}, "packages": {"vim;rm", "A", "-y", "$(x)"},
		"base-image": {"a b", "-v", "a\nRUN x"}, "build-command": {"a\nb", "a\x00"}, "start-command": {"a\rb"}, "user": {"a b", "a\nUSER root", ":x"},
		"pull": {"yes please"}, "show-command": {"2"}, "release-timeout": {"25h", "0s"},
		"language-version": {"2 2 2", "$(id)", "a\nRUN x"}, "install-command": {"a\nb"}, "output": {"/www", "../x"},
		"build-args": {"A", "1A=x", "A B=c"}, "image-tag": {"{user}", "a b", "-x", "{commit", "a/b"},
	} {
		for _, v := range values {
			var s mesh.Settings
			if err := s.Set(name, v); !errors.Is(err, mesh.Invalid) || !reflect.DeepEqual(s, mesh.Settings{}) {
				t.Errorf("%s=%q: %v, %+v", name, v, err, s)
			}
		}
	}
	var s mesh.Settings
	if err := s.Set("nope", "x"); !errors.Is(err, mesh.NotFound) {
		t.Errorf("got %v", err)
	}
}

func TestSettings_Over(t *testing.T) {
	t.Parallel()
	a := mesh.Settings{Health: "/up", Packages: []string{"x"}}
	b := mesh.Settings{Health: "/no", Root: "web", Packages: []string{"y"}, Drain: time.Second, Pull: new(true)}
	want := mesh.Settings{Health: "/up", Root: "web", Packages: []string{"x"}, Drain: time.Second, Pull: new(true)}
	if got := a.Over(b); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if a.Root != "" {
		t.Error("a was changed")
	}
}

// Every field of Settings can be set, and is stored.
func TestSettings_Complete(t *testing.T) {
	t.Parallel()
	if n := reflect.TypeFor[mesh.Settings]().NumField(); n != len(mesh.SettingNames()) {
		t.Errorf("%d fields and %d names", n, len(mesh.SettingNames()))
	}
}

// A help line fits, and the other columns of docs/settings.md are filled.
func TestSettings_Described(t *testing.T) {
	t.Parallel()
	for _, s := range mesh.BuildSettings() {
		if len(s.Help) == 0 || len(s.Help) > 60 || s.Value == "" || s.Default == "" || s.Accepts() == "" {
			t.Errorf("%s: %q (%d), %q, %q, %q", s.Name, s.Help, len(s.Help), s.Value, s.Default, s.Accepts())
		}
	}
	i := slices.IndexFunc(mesh.BuildSettings(), func(s mesh.Setting) bool { return s.Name == "release-timeout" })
	if got := mesh.BuildSettings()[i].Accepts(); got != "a time from 1s to 24h" {
		t.Errorf("got %q", got)
	}
}

func TestSettings_Log(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, value, want string }{
		{"log-size", "500M", "500M"},
		{"log-size", "1g", "1G"},
		{"log-size", "2048M", "2G"},
		{"log-size", "3GiB", "3G"},
		{"log-size", "", ""},
		{"log-age", "7d", "7d"},
		{"log-age", "36h", "36h0m0s"},
		{"log-age", "1d12h", "36h0m0s"},
		{"log-age", "48h", "2d"},
		{"log-rate", "100", "100"},
		{"log-rate", "10000000", "10000000"},
	} {
		var s mesh.Settings
		if err := s.Set(c.name, c.value); err != nil || s.Get(c.name) != c.want {
			t.Errorf("%s=%s is %q, %v", c.name, c.value, s.Get(c.name), err)
		}
	}
	for _, bad := range [][2]string{
		{"log-size", "0"},
		{"log-size", "10"},
		{"log-size", "10K"},
		{"log-size", "2T"},
		{"log-size", "-1G"},
		{"log-size", "99999999G"},
		{"log-age", "1m"},
		{"log-age", "7"},
		{"log-age", "-7d"},
		{"log-age", "d"},
		{"log-age", "4000d"},
		{"log-age", "7d7d"},
		{"log-rate", "0"},
		{"log-rate", "-5"},
		{"log-rate", "many"},
		{"log-rate", "100000000"},
	} {
		var s mesh.Settings
		if err := s.Set(bad[0], bad[1]); err == nil {
			t.Errorf("%s=%s is accepted as %q", bad[0], bad[1], s.Get(bad[0]))
		}
	}
}
