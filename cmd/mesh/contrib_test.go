package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"mesh"
	"mesh/metrics"
	"mesh/router"
)

// exported returns the names in /metrics, and the labels of those of the router.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	rt := router.New(router.Options{})
	s := &metrics.Sampler{Store: metrics.Open(t.TempDir(), metrics.Options{}), Traffic: rt, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}
	m := newExporter(rt, nil, s)
	m.deployed(mesh.Deployment{})
	m.built(time.Second, nil)
	all, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string][]string{"up": {"job", "instance"}}
	for _, f := range all {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		names[f.GetName()] = labels
	}
	for _, d := range described() { // those without a value yet
		found := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([^}]*)\}`).FindStringSubmatch(d.String())
		if found == nil {
			t.Fatalf("not a description: %s", d)
		}
		names[found[1]] = strings.Split(found[2], ",")
	}
	for name, labels := range names {
		labels = append(slices.Clone(labels), "job") // which Prometheus adds
		names[name] = labels
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			names[name+suffix] = labels
		}
	}
	return names
}

// selector is a name with its conditions, in a query; tools/prometheus parses the queries as
// Prometheus does.
var (
	selector  = regexp.MustCompile(`\b((?:mesh|process|go)_\w+|up)\b(?:\{([^}]*)\})?`)
	condition = regexp.MustCompile(`(\w+)\s*[=!]`)
)

// checkQuery fails if a query reads what mesh does not export.
func checkQuery(t *testing.T, where, query string, names map[string][]string) {
	t.Helper()
	for _, found := range selector.FindAllStringSubmatchIndex(query, -1) {
		if found[0] > 0 && query[found[0]-1] == ':' {
			continue // a part of the name of a record
		}
		name := query[found[2]:found[3]]
		labels, ok := names[name]
		if !ok {
			t.Errorf("%s: mesh does not export %q: %s", where, name, query)
			continue
		}
		if found[4] < 0 {
			continue
		}
		for _, c := range condition.FindAllStringSubmatch(query[found[4]:found[5]], -1) {
			if !slices.Contains(labels, c[1]) {
				t.Errorf("%s: %s has no label %q: %s", where, name, c[1], query)
			}
		}
	}
}

func TestContrib_PrometheusRules(t *testing.T) {
	t.Parallel()
	names := exported(t)
	b, err := os.ReadFile("../../contrib/prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct{ Record, Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	var recorded []string
	exprs := map[string]string{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			exprs[r.Record+r.Alert] = r.Expr
			if r.Record != "" {
				recorded = append(recorded, r.Record)
			}
		}
	}
	for where, expr := range exprs {
		checkQuery(t, where, expr, names)
		for _, record := range regexp.MustCompile(`\w+:\w+:\w+`).FindAllString(expr, -1) {
			if !slices.Contains(recorded, record) {
				t.Errorf("%s: nothing records %s", where, record)
			}
		}
	}
	if len(exprs) < 10 {
		t.Errorf("%d rules", len(exprs))
	}
}

func TestContrib_GrafanaBoard(t *testing.T) {
	t.Parallel()
	names := exported(t)
	b, err := os.ReadFile("../../contrib/grafana/mesh.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
		Annotations struct {
			List []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &board); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d %q", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range p.Targets {
			checkQuery(t, p.Title, q.Expr, names)
		}
	}
	for _, a := range board.Annotations.List {
		checkQuery(t, "an annotation", a.Expr, names)
	}
	if len(board.Panels) < 10 {
		t.Errorf("%d panels", len(board.Panels))
	}
}
