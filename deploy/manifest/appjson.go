package manifest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mesh"
)

// Var is a config var that app.json describes.
type Var struct {
	Value    string // the initial value
	Required bool   // the var must be set
	Secret   bool   // mesh generates a value
	Prefix   string // before the value that mesh generates, which is in base64 then
	First    bool   // only for a stack that has had no release
	From     string // what declares it; empty: app.json
}

// Addon is an add-on that app.json names.
type Addon struct {
	Plan string // such as heroku-postgresql:essential-0
	As   string // the name of its config var without _URL; may be empty
}

// appJSON is the part of Heroku's app.json that mesh reads, with Dokku's additions.
type appJSON struct {
	Env       map[string]json.RawMessage
	Formation map[string]struct {
		Quantity *int
		Command  string
	}
	Healthchecks map[string][]healthcheck
	Cron         []map[string]any
	Scripts      struct {
		Predeploy, Postdeploy string
		Dokku                 struct{ Predeploy, Postdeploy string }
	}
	Environments struct {
		Review struct {
			Env     map[string]json.RawMessage
			Scripts struct{ Postdeploy string }
		}
	}
}

type healthcheck struct {
	Type, Path                  string
	Timeout, Wait, InitialDelay *float64 // seconds
	Attempts                    *int
}

// appJSON reads app.json.
func (m *Manifest) appJSON(text string) error {
	var j appJSON
	err := json.Unmarshal([]byte(text), &j)
	var at *json.SyntaxError
	if errors.As(err, &at) {
		return bad("app.json", 1+strings.Count(text[:min(len(text), int(at.Offset))], "\n"), err.Error())
	} else if err != nil {
		return bad("app.json", 0, strings.TrimPrefix(err.Error(), "json: "))
	}
	var all map[string]any
	if json.Unmarshal([]byte(text), &all) == nil {
		m.unused("app.json", appFields, all)
		m.Addons = addons(all["addons"])
	}
	for _, name := range slices.Sorted(maps.Keys(j.Env)) {
		if err := m.env(m.Vars, "env", name, j.Env[name]); err != nil {
			return err
		}
	}
	review := j.Environments.Review
	m.Review = Review{Vars: map[string]Var{}, Postdeploy: review.Scripts.Postdeploy}
	for _, name := range slices.Sorted(maps.Keys(review.Env)) {
		if err := m.env(m.Review.Vars, "environments.review.env", name, review.Env[name]); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(j.Formation)) {
		if err := m.formation(name, j.Formation[name].Quantity, j.Formation[name].Command); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(j.Healthchecks)) {
		for _, check := range j.Healthchecks[name] {
			if err := m.healthcheck(name, check); err != nil {
				return err
			}
		}
	}
	if err := m.cronList(j.Cron); err != nil {
		return err
	}
	m.Predeploy = cmp.Or(j.Scripts.Dokku.Predeploy, j.Scripts.Predeploy)
	m.Postdeploy = cmp.Or(j.Scripts.Dokku.Postdeploy, j.Scripts.Postdeploy)
	return nil
}

// addons reads a list of plans: strings, or objects with a plan. Others are not used.
func addons(v any) (out []Addon) {
	list, _ := v.([]any)
	for _, e := range list {
		switch e := e.(type) {
		case string:
			out = append(out, Addon{Plan: e})
		case map[string]any:
			plan, _ := e["plan"].(string)
			as, _ := e["as"].(string)
			if plan != "" {
				out = append(out, Addon{Plan: plan, As: as})
			}
		}
	}
	return out
}

// env reads one variable into vars: a string, or an object. at is where it is.
func (m *Manifest) env(vars map[string]Var, at, name string, raw json.RawMessage) error {
	if _, err := mesh.ParseVarName(name); err != nil {
		m.note("app.json: %s.%s is not used: %v", at, mesh.Clip(name, 40), err)
		return nil
	}
	v := struct {
		Value, Generator string
		Required         *bool
	}{}
	if err := json.Unmarshal(raw, &v.Value); err != nil {
		if err := json.Unmarshal(raw, &v); err != nil {
			return bad("app.json", 0, fmt.Sprintf("%s.%s must be a string, or an object with value, required or generator", at, name))
		}
	}
	if v.Generator != "" && v.Generator != "secret" {
		return bad("app.json", 0, fmt.Sprintf("%s.%s: there is no generator %q", at, name, mesh.Clip(v.Generator, 40)))
	}
	// Heroku: an object is required unless it says otherwise.
	required := v.Required != nil && *v.Required || v.Required == nil && strings.HasPrefix(strings.TrimSpace(string(raw)), "{")
	vars[name] = Var{Value: v.Value, Required: required, Secret: v.Generator == "secret"}
	return nil
}

// formation reads the number of instances of a service, and its command.
func (m *Manifest) formation(name string, quantity *int, command string) error {
	svc, err := mesh.ParseServiceName(name)
	if err != nil {
		return bad("app.json", 0, err.Error())
	}
	if quantity != nil {
		if *quantity < 0 || *quantity > 100 {
			return bad("app.json", 0, fmt.Sprintf("formation.%s.quantity is %d; it must be 0 to 100", svc, *quantity))
		}
		m.Formation[svc] = *quantity
	}
	m.service(svc, command, "app.json")
	return nil
}

// healthcheck reads a check of web that has a path. Dokku gives each of three attempts
// five seconds, and waits five seconds between them. Here one time limit covers all of
// them, and it is never shorter than the default.
func (m *Manifest) healthcheck(name string, c healthcheck) error {
	if mesh.ServiceName(name) != mesh.Web || c.Path == "" {
		m.note("app.json: healthchecks.%s %s is not used: only a path of web is", mesh.Clip(name, 40), mesh.Clip(c.Type, 20))
		return nil
	}
	if err := m.set("app.json", "health", c.Path); err != nil {
		return err
	}
	or := func(f *float64, def float64) float64 {
		if f == nil {
			return def
		}
		return max(0, *f)
	}
	attempts := 3
	if c.Attempts != nil {
		attempts = *c.Attempts
	}
	all := or(c.InitialDelay, 0) + float64(max(1, attempts))*(or(c.Timeout, 5)+or(c.Wait, 5))
	limit := time.Duration(min(all, 3600) * float64(time.Second))
	if limit <= mesh.DefaultCheckTimeout {
		return nil
	}
	return m.set("app.json", "check-timeout", limit.Round(time.Second).String())
}
