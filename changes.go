package mesh

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ConfigChanges are the names of the config vars by which two configs differ, each list
// sorted.
type ConfigChanges struct{ Added, Changed, Removed []string }

// Changes returns how next differs from c.
func (c Config) Changes(next Config) (d ConfigChanges) {
	for _, name := range next.Names() {
		switch old, ok := c[name]; {
		case !ok:
			d.Added = append(d.Added, name)
		case old.Reveal() != next[name].Reveal():
			d.Changed = append(d.Changed, name)
		}
	}
	for _, name := range c.Names() {
		if _, ok := next[name]; !ok {
			d.Removed = append(d.Removed, name)
		}
	}
	return d
}

// Empty reports whether nothing differs.
func (d ConfigChanges) Empty() bool { return len(d.Added)+len(d.Changed)+len(d.Removed) == 0 }

// String is "adds A, B; changes C; removes D".
func (d ConfigChanges) String() string {
	var parts []string
	for _, p := range []struct {
		verb  string
		names []string
	}{{"adds", d.Added}, {"changes", d.Changed}, {"removes", d.Removed}} {
		if len(p.names) > 0 {
			parts = append(parts, p.verb+" "+strings.Join(p.names, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// Changes describes how next differs from r, a line for each kind of change, for people:
// the image, the names of config vars, commands, and the number of instances. It reveals
// no values.
func (r Release) Changes(next Release) (lines []string) {
	if r.Image.ID != next.Image.ID {
		lines = append(lines, fmt.Sprintf("image    %s instead of %s", made(next), made(r)))
	}
	if d := r.Config.Changes(next.Config); !d.Empty() {
		lines = append(lines, "config   "+d.String())
	}
	if d := r.Global.Without(r.Config).Changes(next.Global.Without(next.Config)); !d.Empty() {
		lines = append(lines, "config   of all stacks: "+d.String())
	}
	command := func(s Service) string {
		if s.Command == "" {
			return "the image's own command"
		}
		return s.Command
	}
	all := maps.Clone(r.Services)
	if all == nil {
		all = map[ServiceName]Service{}
	}
	maps.Copy(all, next.Services)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		was, had := r.Services[name]
		will, has := next.Services[name]
		switch {
		case !had:
			lines = append(lines, fmt.Sprintf("service  adds %s: %s", name, command(will)))
		case !has:
			lines = append(lines, fmt.Sprintf("service  removes %s", name))
		case command(was) != command(will):
			lines = append(lines, fmt.Sprintf("command  of %s: %s instead of %s", name, command(will), command(was)))
		}
		if had && has && (was.Memory != will.Memory || was.CPUs != will.CPUs || was.StopTimeout != will.StopTimeout) {
			lines = append(lines, fmt.Sprintf("limits   of %s: %s instead of %s", name, will.limits(), was.limits()))
		}
		if had && has && !slices.Equal(was.On, will.On) {
			lines = append(lines, fmt.Sprintf("nodes    of %s: %s instead of %s", name, nodesOf(will.On), nodesOf(was.On)))
		}
		if d := was.Config.Changes(will.Config); !d.Empty() {
			lines = append(lines, fmt.Sprintf("config   of %s: %s", name, d))
		}
		if was, will := r.Formation[name], next.Formation[name]; had && has && was != will {
			lines = append(lines, fmt.Sprintf("scale    %s=%d instead of %d", name, will, was))
		}
	}
	return append(lines, jobChanges(r.Declared.Jobs, next.Declared.Jobs)...)
}

// jobChanges says how the jobs that releases declare differ.
func jobChanges(was, will []Job) (lines []string) {
	find := func(in []Job, name ServiceName) *Job {
		i := slices.IndexFunc(in, func(j Job) bool { return j.Name == name })
		if i < 0 {
			return nil
		}
		return &in[i]
	}
	for _, j := range will {
		switch old := find(was, j.Name); {
		case old == nil:
			lines = append(lines, fmt.Sprintf("job      adds %s: %s %s", j.Name, j.Schedule, j.Command))
		case *old != j:
			lines = append(lines, fmt.Sprintf("job      %s: %s %s instead of %s %s", j.Name, j.Schedule, j.Command, old.Schedule, old.Command))
		}
	}
	for _, j := range was {
		if find(will, j.Name) == nil {
			lines = append(lines, fmt.Sprintf("job      removes %s", j.Name))
		}
	}
	return lines
}

// nodesOf is "those with zone=a" or "all".
func nodesOf(on []string) string {
	if len(on) == 0 {
		return "all"
	}
	return "those with " + strings.Join(on, " ")
}

// limits is "memory 512 MB, 0.5 CPUs".
func (s Service) limits() string {
	memory, cpus := "no memory limit", "no CPU limit"
	if s.Memory > 0 {
		memory = fmt.Sprintf("memory %d MB", s.Memory>>20)
	}
	if s.CPUs > 0 {
		cpus = fmt.Sprintf("%g CPUs", s.CPUs)
	}
	if s.StopTimeout > 0 {
		cpus += ", stop " + s.StopTimeout.String()
	}
	return memory + ", " + cpus
}

// made says what an image was made of.
func made(r Release) string {
	switch {
	case r.Commit != "":
		return r.Commit.Short()
	case r.Source != "":
		return r.Source
	}
	return r.Image.Ref
}

// Before returns the newest release before current that differs from it in more than
// the number of instances and the config vars of all stacks, which a rollback keeps, or 0. all are the releases of a stack, the newest first.
func Before(all []Release, current ReleaseNumber) ReleaseNumber {
	i := slices.IndexFunc(all, func(r Release) bool { return r.Number == current })
	if i < 0 {
		return 0
	}
	for _, r := range all[i+1:] {
		if r.Staged {
			continue // it has never been current
		}
		if r.Formation, r.Global = all[i].Formation, all[i].Global; len(r.Changes(all[i])) > 0 {
			return r.Number
		}
	}
	return 0
}
