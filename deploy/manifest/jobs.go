package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mesh"
)

// jobFields are the fields of a job in app.json and mesh.toml.
var jobFields = []string{"name", "schedule", "command", "overlap", "timeout", "catch-up", "type"}

// cronTables reads the jobs of mesh.toml.
func (m *Manifest) cronTables(v any) error {
	tables, ok := v.(map[string]any)
	if !ok {
		return bad("mesh.toml", 0, "cron must be tables, one for each job").WithHint("write [cron.cleanup], and below it: schedule = \"@hourly\" and command = \"./cleanup\"")
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		where := "cron." + mesh.Clip(mesh.Visible(name), 60)
		fields, ok := tables[name].(map[string]any)
		if !ok {
			return bad("mesh.toml", 0, where+" must be a table").WithHint("write [cron.cleanup], and below it: schedule = \"@hourly\" and command = \"./cleanup\"")
		}
		if _, said := fields["name"]; said {
			return bad("mesh.toml", 0, where+".name is not used: the table has the name")
		}
		fields["name"] = name
		if err := m.job("mesh.toml", where, fields); err != nil {
			return err
		}
	}
	return nil
}

// cronList reads the jobs of app.json, which need no names.
func (m *Manifest) cronList(list []map[string]any) error {
	for i, fields := range list {
		if err := m.job("app.json", fmt.Sprintf("cron[%d]", i), fields); err != nil {
			return err
		}
	}
	return nil
}

// job reads one job. If an earlier file has one of its name, that counts.
func (m *Manifest) job(file, where string, fields map[string]any) error {
	text := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		key := strings.ReplaceAll(name, "_", "-")
		if !slices.Contains(jobFields, key) {
			m.note("%s: %s.%s is not used: %s", file, where, mesh.Clip(mesh.Visible(name), 40), sayUnknown)
			continue
		}
		s, ok := fields[name].(string)
		if !ok {
			return bad(file, 0, fmt.Sprintf("%s.%s must be a string", where, key))
		}
		text[key] = s
	}
	for _, key := range []string{"schedule", "command"} {
		if strings.TrimSpace(text[key]) == "" {
			return bad(file, 0, fmt.Sprintf("%s has no %s", where, key)).WithHint(`a job needs a command and a schedule, such as "@hourly" or "0 3 * * *"`)
		}
	}
	name := text["name"]
	if name == "" {
		name = m.jobName(file, text["command"])
	}
	j := mesh.NewJob(mesh.ServiceName(name), strings.Join(strings.Fields(text["schedule"]), " "), strings.TrimSpace(text["command"]))
	j.From, j.As, j.Overlap = file, mesh.ServiceName(text["type"]), mesh.Overlap(cmp.Or(text["overlap"], string(mesh.OverlapForbid)))
	for key, into := range map[string]*time.Duration{"timeout": &j.Timeout, "catch-up": &j.CatchUp} {
		if text[key] == "" {
			continue
		}
		d, err := time.ParseDuration(text[key])
		if err != nil {
			return bad(file, 0, fmt.Sprintf("%s.%s is %q, which is not a time", where, key, mesh.Clip(mesh.Visible(text[key]), 40))).WithHint("write 90s, 10m or 1h")
		}
		*into = d
	}
	if err := j.Check(); err != nil {
		var e *mesh.Error
		if errors.As(err, &e) {
			return &mesh.Error{Kind: mesh.Failed, Text: file + ": " + where + ": " + e.Text, Hint: e.Hint, Err: err}
		}
		return err
	}
	i := slices.IndexFunc(m.Jobs, func(o mesh.Job) bool { return o.Name == j.Name })
	switch {
	case i < 0:
		m.Jobs = append(m.Jobs, j)
	case m.Jobs[i].From == file:
		return bad(file, 0, fmt.Sprintf("%s: there are two jobs named %q", where, j.Name)).WithHint("give each another name")
	}
	return nil
}

// jobName makes a name of a command: clearsessions-all of "./clearsessions --all". It stays
// the same when other jobs come and go.
func (m *Manifest) jobName(file, command string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(command) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
			b.WriteByte('-')
		}
	}
	const most = 20
	name := strings.Trim(b.String()[:min(most, b.Len())], "-")
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		name = strings.Trim("job-"+name, "-")
	}
	for n, base := 2, name; slices.ContainsFunc(m.Jobs, func(j mesh.Job) bool { return j.From == file && string(j.Name) == name }); n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	return name
}

// checkJobs refuses too many jobs, and a job that has the name of a service: the log could
// not tell them apart.
func (m *Manifest) checkJobs() error {
	if len(m.Jobs) > mesh.MaxJobs {
		return bad(m.Jobs[mesh.MaxJobs].From, 0, fmt.Sprintf("there are %d jobs; at most %d are allowed", len(m.Jobs), mesh.MaxJobs))
	}
	for _, j := range m.Jobs {
		if file, taken := m.Files[j.Name]; taken {
			return bad(j.From, 0, fmt.Sprintf("the job %s has the name of a service in %s", j.Name, file)).WithHint("choose another name for the job")
		}
	}
	slices.SortFunc(m.Jobs, func(a, b mesh.Job) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return nil
}
