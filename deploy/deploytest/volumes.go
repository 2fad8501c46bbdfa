package deploytest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"mesh"
)

// Volumes are an engine's volumes in memory. Each has a text for its files.
type Volumes struct {
	ImportFunc func(engine string) error // called before an import has read anything; may be nil

	runner *Runner
	mu     sync.Mutex
	n      int
	all    map[string]kept // by the engine's name
}

// kept is an engine's volume.
type kept struct {
	name mesh.VolumeName
	text string
}

// NewVolumes returns an engine without volumes, whose containers are those of r.
func NewVolumes(r *Runner) *Volumes { return &Volumes{runner: r, all: map[string]kept{}} }

// Plan returns a new name.
func (v *Volumes) Plan(name mesh.VolumeName) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.n++
	return fmt.Sprintf("e-%s-%d", name, v.n)
}

// Create creates an empty volume.
func (v *Volumes) Create(_ context.Context, name mesh.VolumeName, engine string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all[engine] = kept{name: name}
	return v.runner.away()
}

// Remove removes a volume that no container has.
func (v *Volumes) Remove(_ context.Context, engine string) error {
	if err := v.runner.away(); err != nil {
		return err
	}
	for _, c := range v.runner.Containers() {
		if slices.ContainsFunc(c.Spec.Mounts, func(m mesh.Mount) bool { return m.Engine == engine }) {
			return mesh.Errorf(mesh.Conflict, "%s is in use", engine)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.all, engine)
	return nil
}

// Lose removes a volume, as somebody does who has the engine.
func (v *Volumes) Lose(engine string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.all, engine)
}

// List returns the volumes.
func (v *Volumes) List(context.Context) (map[string]mesh.VolumeName, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := map[string]mesh.VolumeName{}
	for e, s := range v.all {
		out[e] = s.name
	}
	return out, v.runner.away()
}

// Names returns the engine's names, in order.
func (v *Volumes) Names() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(v.all)), " ")
}

// Users returns the running instances that have a volume.
func (v *Volumes) Users(_ context.Context, engine string) (out []mesh.VolumeUser, err error) {
	for _, c := range v.runner.Containers() {
		if c.State == mesh.InstanceRunning && slices.ContainsFunc(c.Spec.Mounts, func(m mesh.Mount) bool { return m.Engine == engine }) {
			out = append(out, mesh.VolumeUser{ID: c.ID, Name: c.Name.String(), Kind: "instance"})
		}
	}
	return out, v.runner.away()
}

// Export writes the text of a volume.
func (v *Volumes) Export(_ context.Context, engine string, w io.Writer) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, err := io.WriteString(w, v.all[engine].text)
	return err
}

// Import replaces the text of a volume.
func (v *Volumes) Import(_ context.Context, engine string, r io.Reader) (int, error) {
	if v.ImportFunc != nil {
		if err := v.ImportFunc(engine); err != nil {
			return 0, err
		}
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.all[engine]
	s.text = string(text)
	v.all[engine] = s
	return 1, nil
}

// Tidy does nothing.
func (v *Volumes) Tidy(context.Context) error { return nil }
