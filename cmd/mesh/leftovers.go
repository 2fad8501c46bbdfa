package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"mesh"
	"mesh/store"
)

// notes are findings of the start, for the doctor.
type notes struct {
	mu  sync.Mutex
	all []mesh.Finding
}

func (n *notes) add(f mesh.Finding) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(n.all, f) {
		n.all = append(n.all, f)
	}
}

func (n *notes) list() []mesh.Finding {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.all)
}

func startOver(data string, log *slog.Logger) error {
	moved, err := store.StartOver(data, time.Now())
	for _, path := range moved {
		log.Warn("moved aside to start over", "path", path)
	}
	return err
}

// tellNewHostKey warns if the host key is new although the server is not.
func (c *control) tellNewHostKey(ctx context.Context) {
	stacks, serr := c.store.Stacks(ctx)
	keys, kerr := c.store.Keys(ctx)
	if errors.Join(serr, kerr) != nil || len(stacks)+len(keys) == 0 {
		return
	}
	fp := ssh.FingerprintSHA256(c.hostKey.PublicKey())
	c.log.Warn("the SSH host key was missing; created a new one: SSH clients will warn about it", "fingerprint", fp)
	c.notes.add(mesh.Finding{
		What: "the SSH host key was missing: the new one is " + fp + "; SSH clients will warn about it",
		Mend: "restore ssh_host_ed25519_key from a backup and restart mesh; or tell users to run: ssh-keygen -R '[HOST]:PORT'",
	})
}

// clearAway removes what belongs to no stack from the data directory. It deletes what
// destroyed stacks have left, and moves unknown items aside, where they are kept for a
// while. While a record is damaged, ownership is uncertain, so it removes nothing.
func (c *control) clearAway(ctx context.Context) error {
	stacks, err := c.store.Stacks(ctx)
	if err != nil {
		return err
	}
	for _, st := range stacks {
		if r, err := c.store.Release(ctx, st.Name, st.Current); err == nil && r.Here() && !c.repos.Exists(st.Repository()) && (st.Was == "" || !c.repos.Exists(st.Was)) {
			c.log.Warn("the repository of a stack is missing", "stack", st.Name)
		}
	}
	if slices.ContainsFunc(c.store.Damaged(), func(d mesh.Damage) bool { return d.Whole }) {
		c.log.Warn("keeping leftovers while records are damaged")
		return nil
	}
	destroyed, err := c.store.Destroyed(ctx)
	if err != nil {
		return err
	}
	data := c.settings.Data
	aside := func(path string) error {
		rel, err := filepath.Rel(data, path)
		if err != nil {
			return err
		}
		to, err := store.MoveAside(data, path, strings.ReplaceAll(rel, string(filepath.Separator), "-"), time.Now())
		if err != nil {
			// For example a full disk. It does no harm where it is.
			c.log.Warn("leftover of an unknown stack not moved aside", "path", path, "err", err)
			return nil
		}
		c.log.Warn("moved aside a leftover of an unknown stack", "path", path, "to", to, "kept", store.LostFor)
		return nil
	}
	if abs, err := filepath.Abs(data); err == nil {
		data = abs
	}
	if err := c.repos.Prune(stacks, destroyed, aside); err != nil {
		return err
	}
	for _, pattern := range []string{"logs/*", "times/*", "lines/*", "metrics/*", "events/*.log*", "router/*.log*", "certs/uploaded/*"} {
		found, _ := filepath.Glob(filepath.Join(data, pattern)) // the patterns are sound
		for _, path := range found {
			name := filepath.Base(path)
			if i := strings.Index(name, ".log"); i >= 0 && strings.Contains(pattern, ".log") {
				name = name[:i]
			}
			stack := mesh.StackName(name)
			switch {
			case strings.HasPrefix(name, "."), slices.ContainsFunc(stacks, func(s mesh.Stack) bool { return s.Name == stack || s.Was == stack }):
			case slices.Contains(destroyed, stack):
				if err := os.RemoveAll(path); err != nil {
					c.log.Warn("leftovers of a destroyed stack not removed", "path", path, "err", err)
				}
			default:
				_ = aside(path) // it has logged the error
			}
		}
	}
	return nil
}

// needed returns the commits of a stack's own repository that its releases, and those of
// its previews, were built from.
func (c *control) needed(ctx context.Context, stack mesh.StackName) (out []mesh.Commit, err error) {
	previews, err := c.store.Previews(ctx, stack)
	if err != nil {
		return nil, err
	}
	for _, st := range append(previews, mesh.Stack{Name: stack}) {
		releases, err := c.store.Releases(ctx, st.Name, 0)
		if err != nil {
			return nil, err
		}
		for _, r := range releases {
			if r.Here() && !slices.Contains(out, r.Commit) {
				out = append(out, r.Commit)
			}
		}
	}
	return out, nil
}

// purgeLost removes what was moved aside long ago, now and once a day, until ctx ends.
func (c *control) purgeLost(ctx context.Context) {
	day := time.NewTicker(24 * time.Hour)
	defer day.Stop()
	for {
		gone, err := store.PurgeLost(c.settings.Data, time.Now())
		for _, name := range gone {
			c.log.Info("removed what had been moved aside", "name", name)
		}
		if err != nil {
			c.log.Warn("some of what was moved aside could not be removed", "err", err)
		}
		select {
		case <-day.C:
		case <-ctx.Done():
			return
		}
	}
}
