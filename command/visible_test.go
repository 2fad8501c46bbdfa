package command_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mesh"
	"mesh/command"
)

// rows is the table without the commands of the server itself, which the fake is not.
func rows() []command.Row {
	return slices.DeleteFunc(command.Rows(), func(r command.Row) bool {
		switch r.Name {
		case "git:deploy-key", "backup", "server:info", "doctor", "upgrade", "certs", "certs:add", "certs:remove":
			return true
		}
		return false
	})
}

// Input from one person must not move another's cursor or add a line: the test tries
// every text argument and option of every command with both.
func TestFreeText_IsHarmlessEverywhere(t *testing.T) {
	t.Parallel()
	const bad = "x\x1b[2J\u009b2J\u202e\n2099-01-01T00:00:00Z  made  up  line"
	for _, row := range rows() {
		var lines [][]string
		for n := range 4 {
			args := []string{row.Name}
			if row.Stack {
				args = append(args, "-a", "blog")
			}
			for range n {
				args = append(args, bad)
			}
			lines = append(lines, args)
			for _, f := range row.Flags {
				lines = append(lines, append(args[:len(args):len(args)], "--"+f+"="+bad))
			}
		}
		for _, words := range lines {
			for _, person := range []bool{false, true} {
				f := full()
				ended := make(chan struct{})
				close(ended)
				f.done = ended
				f.run = func(mesh.Run) (int, error) { return 0, nil }
				ctx, cancel := context.WithCancel(t.Context())
				r := doCtx(ctx, t, f, command.Join(words), stdin(bad), func(r *mesh.Request) {
					if person {
						r.Env = map[string]string{mesh.EnvScreen: "80"}
					}
				})
				cancel()
				for _, c := range []string{"\x1b[2J", "\u009b", "\u202e"} {
					if strings.Contains(r.err, c) || strings.Contains(r.out, c) {
						t.Errorf("%q prints %q: %q %q", words, c, r.out, r.err)
					}
				}
				for line := range strings.Lines(r.out + r.err) {
					if strings.HasPrefix(line, "2099-") {
						t.Errorf("%q prints a line that is made up: %q %q", words, r.out, r.err)
					}
				}
			}
		}
	}
}

// Text chosen by others is harmless in every list.
func TestFreeText_InRecords(t *testing.T) {
	t.Parallel()
	const bad = "x\x1b[2J\n2099-01-01T00:00:00Z  made  up"
	f := full()
	f.deployments[0].Subject, f.deployments[1].Reason = bad, bad
	f.releases[0].Description, f.releases[0].Image.Ref, f.releases[0].Source = bad, bad, bad
	f.releases[0].Services["worker"] = mesh.Service{Command: bad}
	f.stacks[0].Lock = &mesh.Lock{By: "ci", Why: bad, Since: now}
	f.status[0].Command = bad
	f.runs = []mesh.DetachedRun{{Name: "run.1", By: bad, Command: bad}}
	f.run = func(mesh.Run) (int, error) { return 0, nil }
	f.registries = []mesh.Registry{{Host: "r.example", User: bad}}
	f.jobs = []mesh.JobState{{
		Job: mesh.Job{Name: "v2", Schedule: bad, Command: bad, From: bad}, Why: bad, Notes: []string{bad},
		Record: mesh.JobRecord{Name: "v2", Runs: []mesh.JobRun{{Number: 1, By: bad, Status: mesh.JobFailed, Reason: bad}}},
	}}
	for _, row := range rows() {
		for _, words := range [][]string{{row.Name, "-a", "blog"}, {row.Name, "-a", "blog", "v2"}, {row.Name, "-a", "blog", "3"}, {row.Name}} {
			r := do(t, f, command.Join(words))
			if strings.Contains(r.out+r.err, "\x1b[2J") || strings.Contains(r.out+r.err, "\n2099-") {
				t.Errorf("%q prints what was made up: %q", words, fmt.Sprint(r.out, r.err))
			}
		}
	}
}
