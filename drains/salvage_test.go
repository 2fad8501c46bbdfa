package drains

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mesh"
)

// picky does not take requests with a line that contains "bad", and is away for "away".
type picky struct {
	got  []string
	asks int
}

func (p *picky) send(_ context.Context, _ mesh.StackName, lines []mesh.LogLine) (int, error) {
	p.asks++
	for _, l := range lines {
		switch {
		case strings.Contains(l.Text, "bad"):
			return 0, &answered{code: 400}
		case l.Text == "away":
			return 0, errors.New("connection refused")
		}
	}
	for _, l := range lines {
		p.got = append(p.got, l.Text)
	}
	return 0, nil
}

func (p *picky) close() {}

// Lines that a receiver does not take cost no others, as long as they are few.
func TestSalvage(t *testing.T) {
	t.Parallel()
	var lines []mesh.LogLine
	var good []string
	for i := range 1000 {
		text := fmt.Sprint("line ", i)
		if i == 0 || i == 500 || i == 999 {
			text = "bad " + text
		} else {
			good = append(good, text)
		}
		lines = append(lines, mesh.LogLine{Text: text})
	}
	p, budget := &picky{}, mostSalvage
	refused, err := (&drain{out: p}).salvage(t.Context(), "blog", lines, &budget)
	if err != nil || refused != 3 || !slices.Equal(p.got, good) || p.asks > 100 {
		t.Errorf("%d refused, %d of %d arrived after %d requests, %v", refused, len(p.got), len(good), p.asks, err)
	}
	for i := range lines {
		lines[i].Text = "bad"
	}
	p, budget = &picky{}, mostSalvage
	if refused, err := (&drain{out: p}).salvage(t.Context(), "blog", lines, &budget); err != nil || refused != 1000 || p.asks > mostSalvage+1 {
		t.Errorf("of none: %d refused after %d requests, %v", refused, p.asks, err)
	}
	p, budget = &picky{}, mostSalvage
	if _, err := (&drain{out: p}).salvage(t.Context(), "blog", []mesh.LogLine{{Text: "bad"}, {Text: "away"}}, &budget); err == nil {
		t.Error("an error of the connection is taken for a refusal")
	}
}
