package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	docker "github.com/docker/docker/client"

	"mesh"
	"mesh/agent"
	"mesh/engine"
)

// agentImage is the image that agents run: this binary, and nothing else.
type agentImage struct {
	// name has a hash of the binary in it. A swarm asks the registry of every image before it
	// uses one that is there: on the loopback interface, the answer is immediate.
	name string
	path string // of the binary
	size int64
	sum  string // SHA-256 of the only layer, in hex
}

var agentImages sync.Map // by the path of the binary

// ownBinary is the binary that runs, also after another one was put in its place.
const ownBinary = "/proc/self/exe"

// agentImage describes the image of this binary. A binary that needs libraries cannot be an
// image on its own.
func (m *machines) agentImage() (agentImage, error) {
	path := ownBinary
	if m.c.program.agent != "" {
		path = m.c.program.agent
	}
	if known, ok := agentImages.Load(path); ok {
		return known.(agentImage), nil //nolint:forcetypeassert // nothing else is stored
	}
	f, err := elf.Open(path)
	if err != nil {
		return agentImage{}, fmt.Errorf("read mesh's own binary: %w", err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return agentImage{}, mesh.Errorf(mesh.Conflict, "this mesh binary needs libraries of this machine, and other nodes may not have them").
				WithHint("use a released binary, or build one with: make build")
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return agentImage{}, err
	}
	img := agentImage{path: path, size: info.Size()}
	sum := sha256.New()
	if err := img.layer(sum); err != nil {
		return img, err
	}
	img.sum = hex.EncodeToString(sum.Sum(nil))
	img.name = fmt.Sprintf("127.0.0.1:%d/mesh/agent:%s", agent.RegistryPort, img.sum[:12])
	agentImages.Store(path, img)
	return img, nil
}

// layer writes the layer: one file.
func (i agentImage) layer(w io.Writer) error {
	f, err := os.Open(i.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	t := tar.NewWriter(w)
	if err := t.WriteHeader(&tar.Header{Name: "mesh", Mode: 0o755, Size: i.size, Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
		return err
	}
	if _, err := io.CopyN(t, f, i.size); err != nil {
		return fmt.Errorf("read mesh's own binary: %w", err)
	}
	return t.Close()
}

// archive writes the image as docker load reads it.
func (i agentImage) archive(w io.Writer) error {
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Entrypoint": []string{"/mesh"}, "Cmd": []string{"agent"}},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + i.sum}},
		"created": time.Unix(0, 0).UTC(), "history": []map[string]any{{"created": time.Unix(0, 0).UTC(), "created_by": "mesh"}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{i.name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for _, f := range []struct {
		name string
		data []byte
	}{{"manifest.json", manifest}, {"config.json", config}} {
		if err := t.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		if _, err := t.Write(f.data); err != nil {
			return err
		}
	}
	var size counter
	if err := i.layer(&size); err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Name: "layer.tar", Mode: 0o644, Size: int64(size), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	if err := i.layer(t); err != nil {
		return err
	}
	return t.Close()
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// bringAgent makes the image of the agent exist on an engine, for the next start of the agent there.
func (m *machines) bringAgent(ctx context.Context, to *engine.Client) error {
	img, err := m.agentImage()
	if err != nil {
		return err
	}
	if _, err := to.API(ctx).ImageInspect(ctx, img.name); err == nil || !errdefs.IsNotFound(err) {
		return engine.Fault(ctx, to.Host(), "find the agent's image", err)
	}
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(img.archive(w)) }()
	defer func() { _ = r.Close() }()
	got, err := to.API(ctx).ImageLoad(ctx, r, docker.ImageLoadWithQuiet(true))
	if err != nil {
		return engine.Fault(ctx, to.Host(), "load the agent's image", err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(io.LimitReader(got.Body, 64<<10))
	if err == nil && bytes.Contains(text, []byte(`"error"`)) {
		err = fmt.Errorf("%s", mesh.Clip(mesh.Visible(string(text)), 300))
	}
	return err
}
