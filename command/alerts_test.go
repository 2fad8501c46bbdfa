package command_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/command"
)

func (f *fake) Alerts(_ context.Context, stack mesh.StackName, limit int) (out []mesh.Alert, _ error) {
	for _, a := range f.alerts {
		if (stack == "" || a.Stack == stack) && (limit <= 0 || len(out) < limit) {
			out = append(out, a)
		}
	}
	return out, nil
}

func (f *fake) OpenAlerts(context.Context) (out []mesh.Alert, _ error) {
	for _, a := range f.alerts {
		if a.Open() {
			out = append(out, a)
		}
	}
	return out, nil
}

func (f *fake) Recipients(context.Context) ([]mesh.Recipient, error) { return f.recipients, nil }

func (f *fake) SetAlerts(_ context.Context, name mesh.StackName, fn func(*mesh.AlertRules) error) (mesh.Stack, error) {
	for i := range f.stacks {
		if f.stacks[i].Name == name {
			return f.stacks[i], fn(&f.stacks[i].Alerts)
		}
	}
	return mesh.Stack{}, mesh.NoStack
}

func (f *fake) AddRecipient(_ context.Context, r mesh.Recipient) error {
	f.do("add recipient %s for %v of %v, fenced %v", r.Name, r.Stacks, r.On, r.Fenced)
	f.recipients = append(f.recipients, r)
	return nil
}

func (f *fake) RemoveRecipient(_ context.Context, name mesh.RecipientName, by mesh.KeyName) error {
	f.do("remove recipient %s by %s", name, by)
	return nil
}

// Describe takes URLs that begin with bad: for wrong ones, and those with hook in them for
// webhooks.
func (f *fake) Describe(url mesh.Secret) (service, shown string, err error) {
	switch u := url.Reveal(); {
	case strings.HasPrefix(u, "bad:"):
		return "", "", mesh.Errorf(mesh.Invalid, "this is not a URL")
	case strings.Contains(u, "hook"):
		return "webhook", "https://example.com/" + mesh.Mask, nil
	}
	return "slack", "https://hooks.slack.com/" + mesh.Mask, nil
}

func (f *fake) Allow(_ context.Context, r mesh.Recipient) error {
	if r.Fenced && strings.Contains(r.URL.Reveal(), "private") {
		return mesh.Errorf(mesh.Denied, "10.0.0.1 is private")
	}
	return nil
}

func (f *fake) NewSigningKey() mesh.Secret { return mesh.NewSecret("meshwh_key") }

func (f *fake) Test(_ context.Context, r mesh.Recipient) error {
	f.do("test %s", r.Name)
	return f.tested
}

func (f *fake) Delivery(mesh.RecipientName) mesh.Delivery { return f.delivery }

func (f *fake) Forget(name mesh.RecipientName) { f.do("forget %s", name) }

const planted = "Planted-5e1f"

// alerting is a server with alerts of two stacks and of itself.
func alerting() *fake {
	f := stacks("blog", "shop")
	f.alerts = []mesh.Alert{
		{Number: 4, Kind: mesh.AlertDisk, About: "/var/lib/mesh", Text: "the disk of /var/lib/mesh is 91% full, with 1.2 GiB free", Since: now.Add(-time.Hour), Count: 1},
		{Number: 3, Kind: mesh.AlertErrors, Stack: "shop", About: "web", Text: "web answers 12% of its requests with 5xx: 6 of 50 in the last minute", Since: now.Add(-2 * time.Hour), Count: 1, Ended: now.Add(-time.Hour), Outcome: "web answers requests without too many errors again"},
		{Number: 2, Kind: mesh.AlertCrash, Stack: "blog", About: "web.1", Text: "web.1 crashed 3 times in a row, the last time with exit code 1", Since: now.Add(-time.Minute), Count: 3},
		{Number: 1, Kind: mesh.AlertDeploy, Stack: "blog", Text: "deployment 2 by ci failed: build failed: 'RUN false' exited 1", Since: now.Add(-3 * time.Hour), Count: 2, Ended: now.Add(-2 * time.Hour), Outcome: "deployment 3 is live as v2"},
	}
	f.recipients = []mesh.Recipient{
		{Name: "mine", Service: "webhook", Shown: "https://hooks.example.com/" + mesh.Mask, URL: mesh.NewSecret("https://hooks.example.com/" + planted), Signing: mesh.NewSecret(planted), Stacks: []mesh.StackName{"blog"}, On: []mesh.AlertKind{mesh.AlertDeploy, mesh.AlertCrash}, Fenced: true, Added: now.Add(-time.Hour), AddedBy: "ci"},
		{Name: "team", Service: "slack", Shown: "https://hooks.slack.com/" + mesh.Mask, URL: mesh.NewSecret("https://hooks.slack.com/" + planted), Added: now.Add(-time.Hour), AddedBy: "laptop"},
	}
	return f
}

func TestAlerts_Goldens(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{"alerts": "alerts", "alerts-blog": "alerts -a blog", "alerts-open": "alerts --open", "alerts-rules": "alerts:rules -a blog", "notify": "notify"} {
		r := do(t, alerting(), line)
		if r.status != 0 {
			t.Errorf("%s: %d, %s", line, r.status, r.err)
		}
		golden(t, name, "stdout:\n"+r.out+"stderr:\n"+r.err)
		r = do(t, alerting(), line+" --json")
		if r.status != 0 || r.err != "" || strings.Contains(r.out, planted) {
			t.Errorf("%s --json: %d, %s%s", line, r.status, r.out, r.err)
		}
		golden(t, name+".json", r.out)
	}
	if r := do(t, stacks("blog"), "alerts"); r.out != "" || !strings.Contains(r.err, "no alerts") {
		t.Errorf("without alerts: %q, %q", r.out, r.err)
	}
	if r := do(t, alerting(), "ps -a blog"); !strings.Contains(r.err, "web.1 crashed 3 times in a row") || !strings.Contains(r.err, "next: ssh mesh logs -a blog -n 100") || strings.Contains(r.err, "91%") {
		t.Errorf("ps: %q", r.err)
	}
}

// TestAlerts_Rights: a key sees and changes what concerns its own stacks alone.
func TestAlerts_Rights(t *testing.T) {
	t.Parallel()
	of := func(role mesh.Role, stacks ...mesh.StackName) option {
		return as(mesh.Key{Name: "k", Role: role, Stacks: stacks})
	}
	for _, c := range []struct {
		name, line string
		key        option
		status     int
		want       string // in the output or the error
		not        string
	}{
		{"sees its own", "alerts", of(mesh.RoleRead, "blog"), 0, "web.1 crashed", "5xx"},
		{"no other stack's", "alerts -a shop", of(mesh.RoleRead, "blog"), 20, "no stack is named", "5xx"},
		{"nor whether it exists", "alerts -a nosuch", of(mesh.RoleRead, "blog"), 20, `no stack is named "nosuch"`, ""},
		{"nor the server's", "alerts", of(mesh.RoleDeploy), 0, "5xx", "91%"},
		{"lists its recipients", "notify", of(mesh.RoleRead, "blog"), 0, "mine", "team"},
		{"adds for its stack", "notify:add new https://x.test/a --stack blog", of(mesh.RoleDeploy, "blog"), 0, "added recipient new", ""},
		{"not for another", "notify:add new https://x.test/a --stack shop", of(mesh.RoleDeploy, "blog"), 1, "may not use notify:add", ""},
		{"not for one of two", "notify:add new https://x.test/a --stack blog --stack shop", of(mesh.RoleDeploy, "blog"), 1, "may not use notify:add", ""},
		{"not for all", "notify:add new https://x.test/a", of(mesh.RoleDeploy, "blog"), 1, "may not send alerts of all stacks", ""},
		{"not for all either", "notify:add new https://x.test/a", of(mesh.RoleDeploy), 1, "may not send alerts of all stacks", ""},
		{"a limited admin neither", "notify:add new https://x.test/a", of(mesh.RoleAdmin, "blog"), 1, "may not send alerts of all stacks", ""},
		{"reading is not enough", "notify:add new https://x.test/a --stack blog", of(mesh.RoleRead, "blog"), 1, "may not use notify:add", ""},
		{"not at a private address", "notify:add new https://private.test/a --stack blog", of(mesh.RoleDeploy, "blog"), 1, "10.0.0.1 is private", ""},
		{"an admin may", "notify:add new https://private.test/a --stack blog", of(mesh.RoleAdmin), 0, "added recipient new", ""},
		{"removes its own", "notify:remove mine", of(mesh.RoleDeploy, "blog"), 0, "removed recipient mine", ""},
		{"not others", "notify:remove team", of(mesh.RoleDeploy, "blog"), 1, `no recipient is named "team"`, ""},
		{"tests its own", "notify:test mine", of(mesh.RoleDeploy, "blog"), 0, "sent a test message", ""},
		{"tests no others", "notify:test team", of(mesh.RoleDeploy, "blog"), 1, "no recipient is named", ""},
		{"reads do not test", "notify:test mine", of(mesh.RoleRead, "blog"), 1, "may not use notify:test", ""},
		{"reads the rules", "alerts:rules -a blog", of(mesh.RoleRead, "blog"), 0, "5xx", ""},
		{"changes no rules", "alerts:set -a blog p95=1s", of(mesh.RoleRead, "blog"), 1, "may not use alerts:set", ""},
		{"resets no rules", "alerts:unset -a blog p95", of(mesh.RoleRead, "blog"), 1, "may not use alerts:unset", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := do(t, alerting(), c.line, c.key)
			all := r.out + r.err
			if r.status != c.status || !strings.Contains(all, c.want) || c.not != "" && strings.Contains(all, c.not) {
				t.Errorf("%s: status %d\n%s", c.line, r.status, all)
			}
		})
	}
}

// TestNotifyAdd_ShowsNothingSecret: neither what is printed nor the audit log has any of
// the URL, whether it is right or wrong.
func TestNotifyAdd_ShowsNothingSecret(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line   string
		status int
		did    string
	}{
		{"notify:add team2 https://chat.example.com/" + planted, 0, "add recipient team2 for [] of [], fenced false"},
		{"notify:add team2 https://x.test/" + planted + " --on deploy,crash --stack blog", 0, "add recipient team2 for [blog] of [deploy crash], fenced false"},
		{"notify:add team2 bad:" + planted, 2, ""},
		{"notify:add https://x.test/" + planted + " team2", 2, ""},
		{"notify:add team2 https://x.test/" + planted + " --on nodes", 2, ""},
		{"notify:add team2 https://x.test/" + planted + " --on nonsense", 2, ""},
	} {
		f := alerting()
		r := do(t, f, c.line)
		if r.status != c.status {
			t.Errorf("%s: status %d, %s", c.line, r.status, r.err)
		}
		if c.did != "" && (len(f.did) == 0 || f.did[0] != c.did) {
			t.Errorf("%s: did %q", c.line, f.did)
		}
		for _, s := range append(f.audited, r.out) {
			if strings.Contains(s, planted) {
				t.Errorf("%s: shows the secret: %q", c.line, s)
			}
		}
		if c.status == 0 && strings.Contains(r.err, planted) {
			t.Errorf("%s: shows the secret: %q", c.line, r.err)
		}
	}
	f := alerting()
	if r := do(t, f, "notify:add team2 -", stdin("https://x.test/hook/"+planted+"\n")); r.status != 0 || r.out != "meshwh_key\n" || strings.Contains(r.err, planted) {
		t.Errorf("from standard input: %d, %q, %q", r.status, r.out, r.err)
	}
	if got := f.recipients[2].URL.Reveal(); got != "https://x.test/hook/"+planted {
		t.Errorf("the URL is %q", got)
	}
}

// TestNotifyAdd_KindsThatNothingRaises are refused with the list of those there are.
func TestNotifyAdd_KindsThatNothingRaises(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]string{"nodes": "no kind of alert", "dpeloy": "no kind of alert", ",": "no kind of alert is named"} {
		r := do(t, alerting(), "notify:add x https://x.test/ --on "+kind)
		if r.status != 2 || !strings.Contains(r.err, want) || !strings.Contains(r.err, "deploy, crash, oom") {
			t.Errorf("%s: %d, %s", kind, r.status, r.err)
		}
	}
}

func TestNotify_Failing(t *testing.T) {
	t.Parallel()
	f := alerting()
	f.delivery = mesh.Delivery{Waiting: 2, Failed: now.Add(-time.Minute), Failure: "it answered 500"}
	if r := do(t, f, "notify"); !strings.Contains(r.out, "failing since") || !strings.Contains(r.out, "it answered 500; 2 waiting") {
		t.Errorf("notify: %q", r.out)
	}
	f.tested = mesh.Errorf(mesh.Failed, "the test message to team was not delivered: it answered 500")
	if r := do(t, f, "notify:test team"); r.status != 1 || !strings.Contains(r.err, "it answered 500") {
		t.Errorf("notify:test: %d, %q", r.status, r.err)
	}
}

func TestAlertsSet(t *testing.T) {
	t.Parallel()
	f := alerting()
	for _, c := range []struct {
		line   string
		status int
		want   string
	}{
		{"alerts:set -a blog 5xx=10% p95=2s crash=off", 0, "p95           2s"},
		{"alerts:set -a blog 5xx=half", 2, "a share from 0.1% to 100%, or off"},
		{"alerts:set -a blog oom=off p95=1h", 2, "a time from 10ms to 1m, or off"},
		{"alerts:set -a blog for=off", 2, "a time from 15s to 1h"},
		{"alerts:set -a blog nosuch=1", 2, `no alert rule "nosuch"`},
		{"alerts:set -a blog p95", 2, "RULE=VALUE"},
		{"alerts:unset -a blog crash", 0, "crash         3"},
	} {
		if r := do(t, f, c.line); r.status != c.status || !strings.Contains(r.out+r.err, c.want) {
			t.Errorf("%s: %d\n%s%s", c.line, r.status, r.out, r.err)
		}
	}
	want := mesh.AlertRules{Errors: 0.1, Slow: 2 * time.Second}
	if got := f.stacks[0].Alerts; got.Errors != want.Errors || got.Slow != want.Slow || got.Crash != 0 {
		t.Errorf("the rules are %+v", got)
	}
}

// TestAlerts_NextCanBeTyped: what a message tells to type is a command.
func TestAlerts_NextCanBeTyped(t *testing.T) {
	t.Parallel()
	for _, s := range mesh.AlertSorts() {
		line := strings.TrimPrefix(mesh.Alert{Kind: s.Kind, Stack: "blog"}.Next(), "ssh mesh ")
		line, _, _ = strings.Cut(line, " >")
		if err := command.Parses(line); err != nil {
			t.Errorf("%s: %q: %v", s.Kind, line, err)
		}
	}
}
