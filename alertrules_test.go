package mesh_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"mesh"
)

func TestAlertRules(t *testing.T) {
	t.Parallel()
	for _, rule := range mesh.AlertRuleList() {
		var r mesh.AlertRules
		if r.Get(rule.Name) != rule.Default || r.IsSet(rule.Name) {
			t.Errorf("%s: an unset rule is %q, want %q", rule.Name, r.Get(rule.Name), rule.Default)
		}
		if err := r.Set(rule.Name, rule.Default); err != nil || r != (mesh.AlertRules{}) {
			t.Errorf("%s=%s: %v, %+v: a default is unset", rule.Name, rule.Default, err, r)
		}
		for _, bad := range []string{"nonsense", "-1", "1e309", "NaN", "99999999999999999999", "0", "=", "5 %%"} {
			if err := r.Set(rule.Name, bad); !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), rule.Accepts()) || r != (mesh.AlertRules{}) {
				t.Errorf("%s=%s: %v, %+v", rule.Name, bad, err, r)
			}
		}
	}
	// What is printed is read as the same.
	for _, in := range []string{
		"deploy=off", "crash=2", "crash=1000", "crash=off", "oom=off", "missing=10s", "missing=1d", "missing=1h30m", "5xx=0.1%", "5xx=12.5%", "5xx=100%", "5xx=off",
		"p95=10ms", "p95=1m", "min-requests=1", "for=15s", "for=1h", "memory=99.9%", "cert=365d", "cert=1h", "cert=off",
	} {
		name, value, _ := strings.Cut(in, "=")
		var r, again mesh.AlertRules
		if err := r.Set(name, value); err != nil || r.Get(name) != value || !r.IsSet(name) {
			t.Errorf("%s: %v, printed %q", in, err, r.Get(name))
		}
		if err := again.Set(name, r.Get(name)); err != nil || again != r {
			t.Errorf("%s: %v, %+v, want %+v", in, err, again, r)
		}
	}
	var r mesh.AlertRules
	if err := r.Set("nosuch", "1"); !errors.Is(err, mesh.Invalid) {
		t.Errorf("an unknown rule: %v", err)
	}
	if err := errors.Join(r.Set("5xx", "10"), r.Set("crash", "off")); err != nil {
		t.Fatal(err)
	}
	want := mesh.AlertRules{Crash: mesh.RuleOff, Missing: 2 * time.Minute, Errors: 0.1, Slow: mesh.RuleOff, Requests: 20, For: 2 * time.Minute, Memory: 0.9, Cert: 14 * 24 * time.Hour}
	if got := r.Effective(); got != want {
		t.Errorf("in force: %+v, want %+v", got, want)
	}
}

func TestParseAlertKinds(t *testing.T) {
	t.Parallel()
	kinds, err := mesh.ParseAlertKinds(" deploy,Crash,,deploy")
	if err != nil || len(kinds) != 2 || kinds[0] != mesh.AlertDeploy || kinds[1] != mesh.AlertCrash {
		t.Errorf("%v, %v", kinds, err)
	}
	for _, s := range mesh.AlertSorts() {
		a := mesh.Alert{Kind: s.Kind, Stack: "shop", Text: "text"}
		if got, err := mesh.ParseAlertKinds(string(s.Kind)); err != nil || got[0] != s.Kind || !strings.HasPrefix(a.Next(), "ssh mesh ") || strings.Contains(a.Next(), "{") {
			t.Errorf("%s: %v, %v, next %q", s.Kind, got, err, a.Next())
		}
		if a.Stack = ""; !s.Server && a.String() != "the server: text" {
			t.Errorf("%q", a)
		}
	}
}
