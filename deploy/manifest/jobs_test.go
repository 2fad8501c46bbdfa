package manifest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"mesh"
)

func TestManifest_Jobs(t *testing.T) {
	t.Parallel()
	m, err := readManifest(map[string]string{
		"mesh.toml": "[cron.report]\nschedule = \"TZ=UTC  0 3 * * *\"\ncommand = \"./report\"\noverlap = \"replace\"\ntimeout = \"5m\"\ncatch-up = \"0s\"\ntype = \"worker\"\nnicety = 3\n",
		"app.json": `{"cron": [{"command": "./other", "schedule": "@daily", "name": "report"}, {"command": "python manage.py clearsessions --all", "schedule": "@hourly"},
			{"command": "./a", "schedule": "@daily"}, {"command": "./a", "schedule": "@hourly"}, {"command": "123", "schedule": "@daily"}, {"command": "./c", "schedule": "@daily", "name": "c", "catch_up": "2h"}]}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	report := mesh.Job{Name: "report", Schedule: "TZ=UTC 0 3 * * *", Command: "./report", Overlap: mesh.OverlapReplace, Timeout: 5 * time.Minute, As: "worker", From: "mesh.toml"}
	var names []string
	for _, j := range m.Jobs {
		names = append(names, string(j.Name))
		if j.Name == "report" && j != report {
			t.Errorf("%+v", j)
		}
		if j.Name == "c" && j.CatchUp != 2*time.Hour {
			t.Errorf("%+v", j)
		}
	}
	if got := fmt.Sprint(names); got != "[a a-2 c job-123 python-manage-py-cle report]" {
		t.Errorf("names %s", got)
	}
	if notes := strings.Join(m.Notes, "\n"); !strings.Contains(notes, "mesh.toml: cron.report.nicety is not used") {
		t.Errorf("notes %q", notes)
	}
}

func TestManifest_JobsRefused(t *testing.T) {
	t.Parallel()
	many := strings.Repeat(`{"command": "./a", "schedule": "@daily"},`, mesh.MaxJobs+1)
	for _, c := range []struct{ file, text, want string }{
		{"mesh.toml", "cron = \"x\"\n", "mesh.toml: cron must be tables"},
		{"mesh.toml", "[cron]\nx = \"y\"\n", "mesh.toml: cron.x must be a table"},
		{"mesh.toml", "[cron.x]\ncommand = \"y\"\n", "mesh.toml: cron.x has no schedule"},
		{"mesh.toml", "[cron.x]\nschedule = \"@daily\"\n", "mesh.toml: cron.x has no command"},
		{"mesh.toml", "[cron.x]\nschedule = 3\n", "mesh.toml: cron.x.schedule must be a string"},
		{"mesh.toml", "[cron.X_y]\nschedule = \"@daily\"\ncommand = \"y\"\n", "mesh.toml: cron.X_y: \"X_y\" is not a service name"},
		{"mesh.toml", "[cron.web]\nschedule = \"@daily\"\ncommand = \"y\"\n", "a job cannot be named"},
		{"mesh.toml", "[cron.x]\nschedule = \"@daily\"\ncommand = \"y\"\noverlap = \"z\"\n", "there is no overlap"},
		{"mesh.toml", "[cron.x]\nschedule = \"@daily\"\ncommand = \"y\"\ntimeout = \"soon\"\n", "cron.x.timeout is \"soon\""},
		{"mesh.toml", "[cron.x]\nschedule = \"@daily\"\ncommand = \"y\"\ntimeout = \"48h\"\n", "must be 1s to 24h"},
		{"app.json", `{"cron": [{"command": "a"}]}`, "app.json: cron[0] has no schedule"},
		{"app.json", `{"cron": {"a": "b"}}`, "app.json: "},
		{"app.json", `{"cron": [{"name": "a", "command": "a", "schedule": "@daily"}, {"name": "a", "command": "b", "schedule": "@daily"}]}`, "cron[1]: there are two jobs named"},
		{"app.json", `{"formation": {"clock": {"command": "./c"}}, "cron": [{"name": "clock", "command": "a", "schedule": "@daily"}]}`, "app.json: the job clock has the name of a service in app.json"},
		{"app.json", `{"cron": [` + strings.TrimSuffix(many, ",") + `]}`, "at most 100 are allowed"},
	} {
		_, err := readManifest(map[string]string{c.file: c.text})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", mesh.Clip(c.text, 80), err, c.want)
		}
	}
}
