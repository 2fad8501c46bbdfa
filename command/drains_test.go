package command_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/drains"
)

// fakeDrains are the drains of a fake, and the real checks of their URLs.
type fakeDrains struct {
	*fake
	*drains.Sender
}

func (d fakeDrains) Drains(context.Context) ([]mesh.Drain, error) { return d.drains, nil }

func (d fakeDrains) AddDrain(_ context.Context, n mesh.Drain) error {
	d.drains = append(d.drains, n)
	return nil
}

func (d fakeDrains) RemoveDrain(_ context.Context, id string, by mesh.KeyName) error {
	d.do("remove drain %s by %s", id, by)
	return nil
}

func (d fakeDrains) Describe(u mesh.Secret) (string, bool, error) { return d.Sender.Describe(u) }

func (d fakeDrains) Status(id string) mesh.DrainStatus { return d.drainStatus[id] }

func TestDrains(t *testing.T) {
	t.Parallel()
	const pem = "-----BEGIN CERTIFICATE-----\nMIIBcTCCARegAwIBAgIBATAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDEwR0ZXN0MB4X\n-----END CERTIFICATE-----\n"
	f := stacks("blog", "shop")
	if r := do(t, f, "drains:add -a blog https://me:planted@logs.example/planted-planted?planted=1 --header 'X-Key: planted'"); r.status != 0 || strings.Contains(r.out+r.err, "planted") {
		t.Fatalf("got %d %s%s", r.status, r.out, r.err)
	}
	d := f.drains[0]
	if d.Stack != "blog" || d.Shown != "https://…@logs.example/…?…" || d.URL.Reveal() != "https://me:planted@logs.example/planted-planted?planted=1" || d.Headers[0].Reveal() != "X-Key: planted" || d.Fenced || len(d.ID) != 6 || d.AddedBy != "laptop" {
		t.Errorf("got %+v", d)
	}
	if r := do(t, f, "drains:add --global -", stdin("syslog+tls://logs.example\n")); r.status != 0 || f.drains[1].Stack != "" || f.drains[1].Shown != "syslog+tls://logs.example:6514" {
		t.Errorf("got %d %s%s", r.status, r.out, r.err)
	}
	deployer := mesh.Key{Name: "ci", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}}
	if r := do(t, f, "drains:add -a blog http://logs.example", as(deployer)); r.status != 0 || !f.drains[2].Fenced || !strings.Contains(r.err, "not encrypted") {
		t.Errorf("got %d %s%s", r.status, r.out, r.err)
	}
	for line, want := range map[string]string{
		"drains:add -a blog gopher://x":                                         "begins with syslog+tls, https",
		"drains:add -a blog - --ca":                                             "not both",
		"drains:add -a blog http://x --ca":                                      "this one is not",
		"drains:add -a blog https://x --ca":                                     "no certificate in PEM form",
		"drains:add -a blog https://x --header X":                               "Name: value",
		"drains:add -a blog syslog+tls://x --header 'X: y'":                     "syslog has no headers",
		"drains:add -a blog https://x/" + strings.Repeat("x", 9000):             "longer than",
		"drains:add -a blog https://x" + strings.Repeat(" --header 'X: y'", 21): "at most 20 headers",
		"drains:add -a blog --global https://x":                                 "leave out the stack",
		"drains:remove nosuch":                                                  "",
	} {
		if r := do(t, f, line, stdin(pem)); want != "" && (r.status == 0 || !strings.Contains(r.err, want)) {
			t.Errorf("%.60s: %d %s", line, r.status, r.err)
		}
	}
	f.drains[0].ID, f.drains[1].ID, f.drains[2].ID = "aaaaaa", "bbbbbb", "cccccc"
	f.drains[0].Added, f.drains[1].Added, f.drains[2].Added = now, now, now
	f.drainStatus = map[string]mesh.DrainStatus{
		"aaaaaa": {Waiting: 12_300_000, Behind: now.Add(-time.Minute), Failed: now.Add(-time.Hour), Failure: "it answers 401 Unauthorized", Lost: 7, Lines: 40},
		"bbbbbb": {Sent: now, Lines: 1000},
	}
	golden(t, "drains", do(t, f, "drains -a blog").out)
	golden(t, "drains-global.json", do(t, f, "drains --global --json").out)
	if r := do(t, f, "drains -a blog", as(deployer)); strings.Contains(r.out, "bbbbbb") || !strings.Contains(r.out, "aaaaaa") {
		t.Errorf("a limited key sees %s", r.out)
	}
	for line, want := range map[string]string{"drains:remove aaaaaa": "removed drain aaaaaa", "drains:remove http://logs.example": "removed drain cccccc"} {
		if r := do(t, f, line, as(deployer)); r.status != 0 || !strings.Contains(r.out, want) {
			t.Errorf("%s: %d %s", line, r.status, r.err)
		}
	}
	for _, id := range []string{"bbbbbb", "zzzzzz"} {
		if r := do(t, f, "drains:remove "+id, as(deployer)); r.status == 0 || !strings.Contains(r.err, `there is no drain "`+id) {
			t.Errorf("%s: %d %s", id, r.status, r.err)
		}
	}
}
