// Package prometheus checks contrib/prometheus and contrib/grafana with Prometheus' own parser. It is a
// module of its own, so that mesh does not depend on Prometheus: make lint runs it.
package prometheus

import (
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func TestRules(t *testing.T) {
	groups, errs := rulefmt.ParseFile("../../contrib/prometheus/rules.yml", false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	n := 0
	for _, g := range groups.Groups {
		n += len(g.Rules)
	}
	if n < 10 {
		t.Errorf("%d rules", n)
	}
}

func TestBoard(t *testing.T) {
	b, err := os.ReadFile("../../contrib/grafana/mesh.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &board); err != nil {
		t.Fatal(err)
	}
	// As Grafana does before it asks.
	fill := strings.NewReplacer("$__rate_interval", "1m", "$__interval", "1m", "$stack", "shop")
	n := 0
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			n++
			if _, err := parser.NewParser(parser.Options{}).ParseExpr(fill.Replace(q.Expr)); err != nil {
				t.Errorf("%s: %v", p.Title, err)
			}
		}
	}
	if n < 10 {
		t.Errorf("%d queries", n)
	}
}
