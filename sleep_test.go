package mesh_test

import (
	"testing"
	"time"

	"mesh"
)

func TestSettings_Sleep(t *testing.T) {
	t.Parallel()
	preview := mesh.Stack{Preview: &mesh.Preview{Of: "blog"}}
	for v, want := range map[string][2]time.Duration{ // of a stack, of a preview
		"": {0, 30 * time.Minute}, "off": {}, "never": {}, "30m": {30 * time.Minute, 30 * time.Minute}, "2h": {2 * time.Hour, 2 * time.Hour}, "10s": {10 * time.Second, 10 * time.Second}, "30d": {720 * time.Hour, 720 * time.Hour},
	} {
		var st mesh.Stack
		if err := st.Settings.Set("sleep", v); err != nil {
			t.Errorf("%q: %v", v, err)
		}
		preview.Settings = st.Settings
		if st.SleepAfter() != want[0] || preview.SleepAfter() != want[1] {
			t.Errorf("%q: %s, %s", v, st.SleepAfter(), preview.SleepAfter())
		}
		var again mesh.Settings
		if err := again.Set("sleep", st.Settings.Get("sleep")); err != nil || again.Sleep != st.Settings.Sleep {
			t.Errorf("%q is printed as %q", v, st.Settings.Get("sleep"))
		}
	}
	for name, values := range map[string][]string{"sleep": {"1s", "9s", "31d", "-1h", "soon", "0"}, "sleep-services": {"worker", "none"}, "sleep-ignore": {"a[", string(make([]byte, 101))}} {
		for _, v := range values {
			var s mesh.Settings
			if err := s.Set(name, v); err == nil {
				t.Errorf("%s=%q was taken", name, v)
			}
		}
	}
}

func TestMatchAgent(t *testing.T) {
	t.Parallel()
	patterns := []string{"*bot*", "UptimeRobot/*", "curl/?.*"}
	for agent, want := range map[string]bool{
		"Mozilla/5.0 (compatible; Googlebot/2.1; +http://x)": true, "uptimerobot/2.0": true, "curl/8.1": true, "curl/10.1": false, "Mozilla/5.0 (X11)": false, "": false,
	} {
		if mesh.MatchAgent(patterns, agent) != want {
			t.Errorf("%q: %t", agent, !want)
		}
	}
}

func TestStack_Awake(t *testing.T) {
	t.Parallel()
	f := mesh.Formation{"web": 2, "worker": 1}
	st := mesh.Stack{Name: "blog"}
	if got := st.Awake(f); got["web"] != 2 {
		t.Errorf("awake: %v", got)
	}
	st.Asleep = time.Now()
	if got := st.Awake(f); got["web"] != 0 || got["worker"] != 1 {
		t.Errorf("asleep: %v", got)
	}
	st.Settings.SleepServices = "all"
	if got := st.Awake(f); len(got) != 0 {
		t.Errorf("all asleep: %v", got)
	}
}
