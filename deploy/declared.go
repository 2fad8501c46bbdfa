package deploy

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"mesh"
	"mesh/deploy/manifest"
)

// declared applies what a tree declares to a deployment: settings, config vars and
// formation that nobody has set.
func (d *Deployer) declared(ctx context.Context, a *attempt, st mesh.Stack, src *source) (mesh.Stack, error) {
	if src.tree == nil {
		st.Declared = src.declared.Settings
		return st, nil
	}
	m, err := manifest.OfTree(src.tree, st.Settings.Root)
	if err != nil {
		return st, phaseFailed("build failed", err)
	}
	src.manifest, src.declared = m, mesh.Declared{Commands: m.Services, Files: m.Files, Settings: m.Settings, Jobs: m.Jobs}
	if err := d.checkSchedules(m.Jobs); err != nil {
		return st, phaseFailed("build failed", err)
	}
	st.Declared = m.Settings
	if st.Preview != nil {
		if st, err = d.reviewed(ctx, st, src); err != nil {
			return st, phaseFailed("build failed", err)
		}
	}
	st.Config, err = wanted(src.manifest.Vars, st, src.global)
	if err != nil {
		return st, phaseFailed("build failed", err)
	}
	st.Formation = st.Formation.Clone()
	for name, n := range src.manifest.Formation {
		if _, said := st.Formation[name]; !said {
			st.Formation[name] = n
		}
	}
	a.out.mask(st.Configs(), []mesh.Config{src.global})
	return st, nil
}

// checkSchedules refuses jobs whose schedules cannot be read, and names their file.
func (d *Deployer) checkSchedules(jobs []mesh.Job) error {
	if d.Jobs.Times == nil {
		return nil
	}
	for _, j := range jobs {
		var e *mesh.Error
		if err := d.Jobs.Times.Check(j.Schedule); errors.As(err, &e) {
			return &mesh.Error{Kind: mesh.Failed, Text: fmt.Sprintf("%s: the job %s: %s", j.From, j.Name, e.Text), Hint: e.Hint, Err: err}
		} else if err != nil {
			return err
		}
	}
	return nil
}

// wanted returns the stack's config with the defaults of app.json for vars that are not
// set, for the stack or for all stacks.
func wanted(vars map[string]manifest.Var, st mesh.Stack, global mesh.Config) (mesh.Config, error) {
	config := maps.Clone(st.Config)
	if config == nil {
		config = mesh.Config{}
	}
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		v := vars[name]
		if _, set := config.Over(global)[name]; set || v.First && st.Current != 0 {
			continue
		}
		switch {
		case v.Value != "":
			config[name] = mesh.NewSecret(v.Value)
			if err := mesh.CheckVar(name, config[name]); err != nil {
				return nil, fmt.Errorf("app.json: %w", err)
			}
		case v.Secret:
			var b [32]byte
			_, _ = rand.Read(b[:]) // never fails
			value := hex.EncodeToString(b[:])
			if v.Prefix != "" {
				value = v.Prefix + base64.StdEncoding.EncodeToString(b[:])
			}
			config[name] = mesh.NewSecret(value)
		case v.Required:
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, mesh.Errorf(mesh.Failed, "app.json requires config vars that are not set: %s", strings.Join(missing, ", ")).
			WithHint("ssh mesh config:set -a %s %s=…", st.Name, strings.Join(missing, "=… "))
	}
	return config, nil
}

// keep records what the tree has added, with the release.
func (src source) keep(s *mesh.Stack, config mesh.Config) {
	s.Declared = src.declared.Settings
	s.Config = src.review.Over(s.Config)
	if len(src.review) > 0 {
		s.Services = servicesWithout(s.Services, src.review)
	}
	for name := range src.manifest.Vars {
		if v, made := config[name]; made {
			if _, set := s.Config[name]; !set {
				s.Config = maps.Clone(s.Config)
				if s.Config == nil {
					s.Config = mesh.Config{}
				}
				s.Config[name] = v
			}
		}
	}
	for name, n := range src.manifest.Formation {
		if _, said := s.Formation[name]; !said {
			s.Formation = s.Formation.Clone()
			s.Formation[name] = n
		}
	}
}

// tellDeclared prints every setting that is not the default, and where it came from.
func (d *Deployer) tellDeclared(a *attempt, st mesh.Stack, m manifest.Manifest, before mesh.Config) {
	var lines [][2]string
	set := st.Effective()
	for _, name := range mesh.SettingNames() {
		v := set.Get(name)
		if v == "" || name == "branch" {
			continue
		}
		from := "build:set"
		if st.Settings.Get(name) == "" {
			from = m.From[name]
		}
		lines = append(lines, [2]string{name + "=" + mesh.Clip(v, 60), from})
	}
	for _, name := range slices.Sorted(maps.Keys(m.Vars)) {
		v := m.Vars[name]
		if _, set := before[name]; !set && (v.Secret || v.Value != "") && (!v.First || st.Current == 0) {
			lines = append(lines, [2]string{"config var " + name, cmp.Or(v.From, "app.json")})
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(m.Files), mesh.CompareServices) {
		if m.Files[name] != "Procfile" {
			lines = append(lines, [2]string{string(name) + ": " + mesh.Clip(m.Services[name], 60), m.Files[name]})
		}
	}
	for _, j := range m.Jobs {
		lines = append(lines, [2]string{fmt.Sprintf("job %s: %s %s", j.Name, j.Schedule, mesh.Clip(j.Command, 60)), j.From})
	}
	if len(lines) > 0 {
		a.out.say("-----> Settings")
	}
	wide := 0
	for _, l := range lines {
		wide = max(wide, min(40, len([]rune(l[0]))))
	}
	for _, l := range lines {
		a.out.line("       " + l[0] + strings.Repeat(" ", max(2, wide+2-len([]rune(l[0])))) + l[1])
	}
	for _, n := range m.Notes {
		a.out.line(" !     " + n)
	}
}
