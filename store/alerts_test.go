package store_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"mesh"
	"mesh/store"
)

var alertAt = time.Date(2026, 11, 26, 14, 2, 3, 0, time.UTC)

func crash(stack mesh.StackName) mesh.Alert {
	return mesh.Alert{Kind: mesh.AlertCrash, Stack: stack, About: "web.1", Text: "web.1 crashed 3 times in a row", Since: alertAt, Count: 1}
}

func to(name mesh.RecipientName, a mesh.Alert) mesh.Notice {
	return mesh.Notice{Recipient: name, Event: mesh.NoticeOpened, Alert: a, At: alertAt}
}

func TestAlerts_AreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var want mesh.Alert
	closed(t, dir, func(s *store.Store) {
		create(t, s, mesh.Stack{Name: "blog"})
		a, notices, err := s.RecordAlert(t.Context(), crash("blog"), []mesh.Notice{to("ann", crash("blog")), to("bob", crash("blog"))})
		if err != nil || a.Number != 1 || len(notices) != 2 || notices[0].Number != 1 || notices[1].Number != 2 || notices[1].Alert.Number != 1 {
			t.Fatalf("%+v, %+v, %v", a, notices, err)
		}
		a.Ended, a.Outcome, a.Count = alertAt.Add(time.Minute), "web.1 is up again", 3
		if want, _, err = s.RecordAlert(t.Context(), a, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.RecordAlert(t.Context(), mesh.Alert{Kind: mesh.AlertDisk, About: "/", Text: "full", Since: alertAt, Count: 1}, nil); err != nil {
			t.Fatal(err)
		}
	})
	closed(t, dir, func(s *store.Store) {
		all := must(s.Alerts(t.Context(), "", 0))(t)
		if len(all) != 2 || all[0].Kind != mesh.AlertDisk || !reflect.DeepEqual(all[1], want) {
			t.Errorf("%+v, want the newest first and %+v", all, want)
		}
		if open := must(s.OpenAlerts(t.Context()))(t); len(open) != 1 || open[0].Kind != mesh.AlertDisk {
			t.Errorf("open: %+v", open)
		}
		if of := must(s.Alerts(t.Context(), "blog", 1))(t); len(of) != 1 || of[0].Number != 1 {
			t.Errorf("of blog: %+v", of)
		}
		box := must(s.Outbox(t.Context()))(t)
		if len(box) != 2 || box[0].Recipient != "ann" || box[1].Recipient != "bob" || !box[0].Alert.Open() || !box[0].At.Equal(alertAt) {
			t.Errorf("outbox: %+v", box)
		}
		if err := s.Delivered(t.Context(), []uint64{1, 77}); err != nil {
			t.Error(err)
		}
		if box := must(s.Outbox(t.Context()))(t); len(box) != 1 || box[0].Number != 2 {
			t.Errorf("outbox: %+v", box)
		}
	})
}

// TestAlerts_FollowTheirStack: a rename keeps alerts, messages, rules and recipients; a
// destroyed stack leaves none, and no recipient that would get everything now.
func TestAlerts_FollowTheirStack(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	create(t, s, mesh.Stack{Name: "blog", Alerts: mesh.AlertRules{Errors: 0.1, Crash: mesh.RuleOff, For: time.Minute}})
	create(t, s, mesh.Stack{Name: "other"})
	for _, r := range []mesh.Recipient{
		{Name: "ann", URL: mesh.NewSecret("https://a.test/x"), Stacks: []mesh.StackName{"blog"}},
		{Name: "bob", URL: mesh.NewSecret("https://b.test/x"), Stacks: []mesh.StackName{"blog", "other"}},
		{Name: "all", URL: mesh.NewSecret("https://c.test/x")},
	} {
		if err := s.AddRecipient(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	first, _, err := s.RecordAlert(t.Context(), crash("blog"), []mesh.Notice{to("ann", crash("blog")), to("all", crash("blog"))})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.RecordAlert(t.Context(), crash("other"), []mesh.Notice{to("all", crash("other"))}); err != nil {
		t.Fatal(err)
	}
	d := must(s.BeginDeployment(t.Context(), mesh.Deployment{Stack: "blog", Kind: mesh.DeployRename, Status: mesh.StatusRunning}))(t)
	must(s.RenameStack(t.Context(), d, "shop", func(*mesh.Stack) error { return nil }))(t)
	if got := must(s.Stack(t.Context(), "shop"))(t).Alerts; got != (mesh.AlertRules{Errors: 0.1, Crash: mesh.RuleOff, For: time.Minute}) {
		t.Errorf("rules: %+v", got)
	}
	if of := must(s.Alerts(t.Context(), "shop", 0))(t); len(of) != 1 || of[0].Number != first.Number {
		t.Errorf("alerts of shop: %+v", of)
	}
	late := first // as somebody read it before the rename
	late.Count = 9
	if got, notices, err := s.RecordAlert(t.Context(), late, []mesh.Notice{to("all", late)}); err != nil || got.Stack != "shop" || notices[0].Alert.Stack != "shop" {
		t.Errorf("recorded under the old name: %+v, %+v, %v", got, notices, err)
	}
	for _, n := range must(s.Outbox(t.Context()))(t) {
		if n.Alert.Stack == "blog" {
			t.Errorf("a message is still about blog: %+v", n)
		}
	}
	stacksOf := func() map[mesh.RecipientName][]mesh.StackName {
		out := map[mesh.RecipientName][]mesh.StackName{}
		for _, r := range must(s.Recipients(t.Context()))(t) {
			out[r.Name] = r.Stacks
		}
		return out
	}
	if got, want := stacksOf(), (map[mesh.RecipientName][]mesh.StackName{"all": nil, "ann": {"shop"}, "bob": {"other", "shop"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("recipients: %v, want %v", got, want)
	}
	if err := s.DestroyStack(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if got, want := stacksOf(), (map[mesh.RecipientName][]mesh.StackName{"all": nil, "bob": {"other"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("recipients: %v, want %v", got, want)
	}
	if all := must(s.Alerts(t.Context(), "", 0))(t); len(all) != 1 || all[0].Stack != "other" {
		t.Errorf("alerts: %+v", all)
	}
	if box := must(s.Outbox(t.Context()))(t); len(box) != 1 || box[0].Alert.Stack != "other" {
		t.Errorf("outbox: %+v", box)
	}
	first.Outcome = "late"
	if _, _, err := s.RecordAlert(t.Context(), first, nil); !errors.Is(err, mesh.NotFound) {
		t.Errorf("an alert of a destroyed stack: %v", err)
	}
}

func TestAlerts_AreBounded(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	kept, _, err := s.RecordAlert(t.Context(), mesh.Alert{Kind: mesh.AlertDisk, About: "/", Text: "full", Since: alertAt, Count: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	const more = 1030
	var last mesh.Alert
	for i := range more {
		a := mesh.Alert{Kind: mesh.AlertBackup, Text: "failed", Since: alertAt, Count: 1, Ended: alertAt}
		var notices []mesh.Notice
		if i < 150 {
			notices = []mesh.Notice{to("ann", a)}
		}
		if last, _, err = s.RecordAlert(t.Context(), a, notices); err != nil {
			t.Fatal(err)
		}
	}
	all := must(s.Alerts(t.Context(), "", 0))(t)
	if len(all) != 1001 || all[0].Number != last.Number || all[len(all)-1].Number != kept.Number {
		t.Errorf("%d alerts from %d to %d: want the newest 1000 that are over, and the open one", len(all), all[len(all)-1].Number, all[0].Number)
	}
	box := must(s.Outbox(t.Context()))(t)
	if len(box) != 100 || box[len(box)-1].Number != 150 {
		t.Errorf("%d messages, the last %d: want the newest 100", len(box), box[len(box)-1].Number)
	}
}

// TestRecipients_AreSealed: no byte of a URL or a signing key is in the data directory.
func TestRecipients_AreSealed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := mesh.Recipient{
		Name: "team", Service: "slack", Shown: "https://hooks.slack.com/" + mesh.Mask, URL: mesh.NewSecret("https://hooks.slack.com/Planted-71aa"), Signing: mesh.NewSecret("Planted-71aa-key"),
		On: []mesh.AlertKind{mesh.AlertDeploy}, Fenced: true, Added: alertAt, AddedBy: "laptop",
	}
	closed(t, dir, func(s *store.Store) {
		if err := s.AddRecipient(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := s.AddRecipient(t.Context(), r); !errors.Is(err, mesh.Conflict) {
			t.Errorf("the same name again: %v", err)
		}
		r := r
		r.Name, r.Stacks = "other", []mesh.StackName{"nosuch"}
		if err := s.AddRecipient(t.Context(), r); !errors.Is(err, mesh.NoStack) {
			t.Errorf("of a stack that does not exist: %v", err)
		}
	})
	data, err := os.ReadFile(filepath.Join(dir, "mesh.db"))
	if err != nil || bytes.Contains(data, []byte("Planted-71aa")) || !bytes.Contains(data, []byte("hooks.slack.com")) {
		t.Errorf("the database has the secret, or no recipient (%v)", err)
	}
	closed(t, dir, func(s *store.Store) {
		got := must(s.Recipients(t.Context()))(t)
		if len(got) != 1 || got[0].URL.Reveal() != r.URL.Reveal() || got[0].Signing.Reveal() != r.Signing.Reveal() {
			t.Fatalf("%+v", got)
		}
		got[0].URL, got[0].Signing = r.URL, r.Signing
		if !reflect.DeepEqual(got[0], r) {
			t.Errorf("%+v, want %+v", got[0], r)
		}
		if _, _, err := s.RecordAlert(t.Context(), crash(""), []mesh.Notice{to("team", crash("")), to("others", crash(""))}); err != nil {
			t.Fatal(err)
		}
		if err := s.RemoveRecipient(t.Context(), "team"); err != nil {
			t.Error(err)
		}
		if err := s.RemoveRecipient(t.Context(), "team"); !errors.Is(err, mesh.NotFound) {
			t.Errorf("removed twice: %v", err)
		}
		if box := must(s.Outbox(t.Context()))(t); len(box) != 1 || box[0].Recipient != "others" {
			t.Errorf("outbox: %+v", box)
		}
	})
}
