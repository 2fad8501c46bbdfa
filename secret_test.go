package mesh_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"mesh"
)

const hush = "correct-horse-battery"

// holders nest a secret in every way that a log or a test failure may show it.
func holders() map[string]any {
	s := mesh.NewSecret(hush)
	type exported struct{ S mesh.Secret }
	type hidden struct{ s mesh.Secret }
	type embedded struct{ mesh.Secret }
	type deep struct {
		m map[string]hidden
		l []mesh.Secret
		p *hidden
		i any
		a [1]embedded
	}
	return map[string]any{
		"secret": s, "pointer": &s, "slice": []mesh.Secret{s}, "map": map[string]mesh.Secret{"K": s}, "config": mesh.Config{"K": s},
		"exported field": exported{s}, "unexported field": hidden{s}, "pointer to unexported field": &hidden{s}, "embedded": embedded{s},
		"any": []any{s, hidden{s}}, "stack": mesh.Stack{Config: mesh.Config{"K": s}}, "pointer to release": &mesh.Release{Config: mesh.Config{"K": s}},
		"spec": mesh.InstanceSpec{Env: map[string]mesh.Secret{"K": s}}, "run": &mesh.Run{Env: map[string]mesh.Secret{"K": s}},
		"deep":  deep{map[string]hidden{"k": {s}}, []mesh.Secret{s}, &hidden{s}, hidden{s}, [1]embedded{{s}}},
		"error": fmt.Errorf("with %v, %s, %q: %w", s, s, s, fmt.Errorf("%+v", hidden{s})),
	}
}

func quiet(t *testing.T, where, out string) {
	t.Helper()
	if strings.Contains(out, hush) || strings.Contains(out, fmt.Sprintf("%x", hush)) || strings.Contains(out, fmt.Sprintf("%X", hush)) ||
		strings.Contains(out, strings.Trim(fmt.Sprint([]byte(hush)), "[]")) {
		t.Errorf("%s shows the secret: %s", where, out)
	}
}

func TestSecret_NoVerbShowsIt(t *testing.T) {
	t.Parallel()
	for name, v := range holders() {
		for _, verb := range strings.Fields("%v %+v %#v %T %s %q %+q %#q %x %X %#x %d %b %o %O %c %U %e %E %f %F %g %G %t %p %w %z %40v %-40.3s % x") {
			quiet(t, name+" "+verb, fmt.Sprintf(verb, v))
		}
		quiet(t, name+" Sprint", fmt.Sprint(v))
		quiet(t, name+" Sprintln", fmt.Sprintln(v))
		extra := "%d"
		quiet(t, name+" extra", fmt.Sprintf(extra, 1, v))
	}
	if got := fmt.Sprintf("%v %+v %#v %s %q %d", mesh.NewSecret(hush), mesh.NewSecret(hush), mesh.NewSecret(""), mesh.Secret{}, mesh.NewSecret("a"), mesh.NewSecret("b")); got != strings.TrimSpace(strings.Repeat("•••••• ", 6)) {
		t.Errorf("masks differ: %s", got)
	}
}

func TestSecret_NoEncoderShowsIt(t *testing.T) {
	t.Parallel()
	for name, v := range holders() {
		if b, err := json.Marshal(v); err == nil {
			quiet(t, name+" in JSON", string(b))
		}
		if b, err := xml.Marshal(v); err == nil {
			quiet(t, name+" in XML", string(b))
		}
	}
	b, err := json.Marshal(mesh.Config{"K": mesh.NewSecret(hush)})
	if err != nil || string(b) != `{"K":"••••••"}` {
		t.Errorf("a config in JSON is %s, %v", b, err)
	}
}

func TestSecret_NoLogShowsIt(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	opts := &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, opts), slog.NewJSONHandler(&out, opts)} {
		for name, v := range holders() {
			out.Reset()
			log := slog.New(h).With("with", v).WithGroup("g")
			log.Info("said", "v", v, "any", slog.AnyValue(v), slog.Group("in", "v", v))
			quiet(t, name+" logged", out.String())
			if !strings.Contains(out.String(), "said") {
				t.Errorf("%s: nothing was logged", name)
			}
		}
	}
}

func TestSecret_Reveal(t *testing.T) {
	t.Parallel()
	if (mesh.Secret{}).Reveal() != "" || mesh.NewSecret(hush).Reveal() != hush {
		t.Error("the value does not come out")
	}
	if !mesh.NewSecret("").Equal(mesh.Secret{}) || !mesh.NewSecret("a").Equal(mesh.NewSecret("a")) || mesh.NewSecret("a").Equal(mesh.NewSecret("b")) {
		t.Error("Equal does not compare values")
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	c := mesh.Config{"B": mesh.NewSecret("2"), "A": mesh.NewSecret("1")}
	if got := strings.Join(c.Names(), " "); got != "A B" {
		t.Errorf("names are %q", got)
	}
	d := c.Clone()
	d["C"] = mesh.NewSecret("3")
	if len(c) != 2 || c.Equal(d) || !c.Equal(mesh.Config{"A": mesh.NewSecret("1"), "B": mesh.NewSecret("2")}) {
		t.Error("a clone is not a copy")
	}
	if mesh.Config(nil).Clone() == nil || !mesh.Config(nil).Equal(mesh.Config{}) {
		t.Error("nil is not empty")
	}
}
