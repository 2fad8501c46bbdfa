package addons

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"mesh"
)

// State returns what the server of an add-on does, by what the engine says of it.
func (s *Server) State(ctx context.Context, a mesh.Addon) (mesh.AddonStatus, error) {
	st := mesh.AddonStatus{State: "missing", Size: -1, Connections: -1}
	in, there, err := s.look(ctx, a)
	if err != nil || !there {
		return st, s.fault(ctx, "look at add-on "+string(a.Name), err)
	}
	st.Restarts = in.RestartCount
	st.Runs = in.State.Running || in.State.Restarting || in.State.Paused
	switch {
	case in.State.Restarting || in.State.Running && in.State.Status == "restarting":
		st.State = fmt.Sprintf("crashed (exit %d)", in.State.ExitCode)
	case in.State.Paused:
		st.State = "paused"
	case in.State.Running:
		st.State = "up"
		if at, err := time.Parse(time.RFC3339Nano, in.State.StartedAt); err == nil {
			st.Since = at
		}
	case a.State == mesh.AddonStopped:
		st.State = "stopped"
	default:
		st.State = fmt.Sprintf("ended (exit %d)", in.State.ExitCode)
	}
	if in.State.OOMKilled && st.State != "up" {
		st.State = strings.TrimSuffix(st.State, ")") + ", out of memory)"
	}
	return st, nil
}

// Down returns what those add-ons do whose servers are not simply running, by name. It asks
// the engine once, and once more for each of them.
func (s *Server) Down(ctx context.Context, all []mesh.Addon) (map[mesh.AddonName]mesh.AddonStatus, error) {
	found, err := s.containers(ctx, "")
	if err != nil {
		return nil, s.fault(ctx, "list the add-ons", err)
	}
	type server struct{ name, volume string }
	running := map[server]bool{}
	for _, c := range found {
		if c.State == container.StateRunning {
			running[server{c.Labels[labelAddon], c.Labels[labelVolume]}] = true
		}
	}
	down := map[mesh.AddonName]mesh.AddonStatus{}
	for _, a := range all {
		if running[server{string(a.Name), a.Volume}] {
			continue
		}
		st, err := s.State(ctx, a)
		if err != nil {
			return nil, err
		}
		if st.State != "up" { // it is up by now
			down[a.Name] = st
		}
	}
	return down, nil
}

// Figures adds what a running server uses to its state. It takes up to two seconds.
func (s *Server) Figures(ctx context.Context, a mesh.Addon, st mesh.AddonStatus) (mesh.AddonStatus, error) {
	k, err := s.of(a)
	if err != nil || st.State != "up" {
		return st, err
	}
	c, there, err := s.find(ctx, a)
	if err != nil || !there {
		return st, s.fault(ctx, "find add-on "+string(a.Name), err)
	}
	st.Memory, st.CPU = s.usage(ctx, c.ID)
	if k.Volume != "" {
		var b bytes.Buffer
		du := program{Run: []string{"du", "-sk", k.Volume}, User: "root"}
		if err := s.program(ctx, k, a, c.ID, &du, nil, nil, &capped{&b}); err == nil {
			first, _, _ := strings.Cut(b.String(), "\t")
			if kb, err := strconv.ParseInt(strings.TrimSpace(first), 10, 64); err == nil {
				st.Size = kb << 10
			}
		}
	}
	if k.Open != nil {
		var b bytes.Buffer
		if err := s.program(ctx, k, a, c.ID, k.Open, nil, nil, &capped{&b}); err == nil {
			f := strings.Fields(b.String())
			if len(f) > 0 {
				if st.Connections, err = strconv.Atoi(f[0]); err != nil {
					st.Connections = -1
				}
			}
			if len(f) > 1 {
				st.Limit, _ = strconv.Atoi(f[1])
			}
		}
	}
	return st, nil
}

// usage returns what a container uses, in bytes and cores. Zero: it cannot be said.
func (s *Server) usage(ctx context.Context, id string) (memory int64, cpu float64) {
	body, err := s.cli.API(ctx).ContainerStats(ctx, id, false)
	if err != nil {
		return 0, 0
	}
	defer body.Body.Close()
	var st container.StatsResponse
	if json.NewDecoder(body.Body).Decode(&st) != nil {
		return 0, 0
	}
	// What the engine's own client shows: without the files that can be dropped.
	memory = int64(st.MemoryStats.Usage) - int64(st.MemoryStats.Stats["inactive_file"]) //nolint:gosec // below 2^63
	if took := st.Read.Sub(st.PreRead); took > 0 {
		cpu = float64(st.CPUStats.CPUUsage.TotalUsage-st.PreCPUStats.CPUUsage.TotalUsage) / float64(took.Nanoseconds())
	}
	return max(0, memory), max(0, cpu)
}

// Slow returns the slowest statements in progress, one a line. ok is false if the kind
// cannot tell.
func (s *Server) Slow(ctx context.Context, a mesh.Addon) (lines []string, ok bool, err error) {
	k, err := s.of(a)
	if err != nil || k.Slow == nil {
		return nil, false, err
	}
	var b bytes.Buffer
	if err := s.ask(ctx, k, a, k.Slow, &b); err != nil {
		return nil, true, err
	}
	for l := range strings.Lines(b.String()) {
		lines = append(lines, mesh.Visible(strings.TrimRight(l, "\r\n")))
	}
	return lines, true, nil
}

// Logs writes what the server of an add-on has printed: its last lines, or all if lines is
// negative. With follow it goes on until ctx ends or the container does.
func (s *Server) Logs(ctx context.Context, a mesh.Addon, lines int, follow bool, w io.Writer) error {
	c, there, err := s.find(ctx, a)
	if err != nil {
		return s.fault(ctx, "find add-on "+string(a.Name), err)
	}
	if !there {
		return mesh.Errorf(mesh.NotFound, "%s has printed nothing: it has no container", a.Name)
	}
	o := container.LogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: follow, Tail: "all"}
	if lines >= 0 {
		o.Tail = strconv.Itoa(lines)
	}
	body, err := s.cli.API(ctx).ContainerLogs(ctx, c.ID, o)
	if err != nil {
		return s.fault(ctx, "read the output of "+string(a.Name), err)
	}
	defer body.Close()
	to := &masked{w: w, hide: hider(a)}
	_, err = stdcopy.StdCopy(to, to, body)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the reader has seen enough
	}
	return err
}

// masked hides the passwords of an add-on in lines. The engine writes whole ones.
type masked struct {
	w    io.Writer
	hide *strings.Replacer
}

func (m *masked) Write(p []byte) (int, error) {
	_, err := io.WriteString(m.w, mesh.VisibleOutput(m.hide.Replace(string(p))))
	return len(p), err
}
