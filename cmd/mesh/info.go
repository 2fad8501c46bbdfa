package main

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	docker "github.com/docker/docker/client"

	"mesh"
	"mesh/repos"
	"mesh/store"
)

// serverInfo is what the commands may know of the server and its machine.
type serverInfo struct {
	info   mesh.ServerInfo // what does not change
	engine *docker.Client
	store  *store.Store
	repos  *repos.Repos
	notes  *notes // of the start

	handover *handover
	stacks   func(context.Context) []mesh.Finding // what is wrong with them
}

// Upgrade hands over to the binary on disk.
func (h *serverInfo) Upgrade(ctx context.Context) (mesh.Successor, error) { return h.handover.ask(ctx) }

// engineTimeout is how long an engine may take to say its version.
const engineTimeout = 3 * time.Second

// Info tells what the server is and what it finds around it.
func (h *serverInfo) Info(ctx context.Context) mesh.ServerInfo {
	i := h.info
	if free, err := diskFree(i.Data); err == nil {
		i.DiskFree = free
	}
	if out, err := exec.CommandContext(ctx, "git", "version").Output(); err == nil {
		i.Git = strings.TrimSpace(strings.TrimPrefix(string(out), "git version"))
	}
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	if v, err := h.engine.ServerVersion(ctx); err == nil {
		i.Engine, i.EngineAPI = v.Version, v.APIVersion
	}
	return i
}

// lowDisk is when the doctor speaks up: ten times what a push needs.
const lowDisk = 5 << 30

// Diagnose looks for what is wrong, or soon will be.
func (h *serverInfo) Diagnose(ctx context.Context) []mesh.Finding {
	i := h.Info(ctx)
	var out []mesh.Finding
	look := func(ok bool, good, bad, mend string) {
		if ok {
			out = append(out, mesh.Finding{OK: true, What: good})
		} else {
			out = append(out, mesh.Finding{What: bad, Mend: mend})
		}
	}
	look(i.Engine != "", "the Docker Engine answers ("+i.Engine+", API "+i.EngineAPI+")", "the Docker Engine does not answer",
		"start it, for example with: systemctl start docker; or name it with --docker-host")
	if i.Engine != "" {
		ictx, cancel := context.WithTimeout(ctx, engineTimeout)
		info, err := h.engine.Info(ictx)
		cancel()
		look(err == nil && info.InitBinary != "", "the engine has an init for containers", "the engine has no init for containers: apps would not be stopped cleanly",
			"install docker-init (Debian: apt-get install tini docker.io)")
		look(err == nil && (info.MemoryLimit && info.PidsLimit), "the engine can limit memory and processes", "the engine cannot limit memory or processes",
			"turn the memory and pids cgroups on in the kernel's command line")
		look(err == nil && info.LiveRestoreEnabled, "apps go on running while the Docker Engine restarts",
			"apps stop while the Docker Engine restarts, for an upgrade say", `put "live-restore": true into /etc/docker/daemon.json and reload docker`)
	}
	const setFirewall = "as root on the server: mesh firewall (mesh.service runs it at each start)"
	wall := firewalled()
	look(wall.Containers, "containers cannot reach the metadata service of a cloud", "containers may reach the metadata service of a cloud (169.254.169.254)", setFirewall)
	look(wall.Engine, "the engine is kept from the machine's network in builds", "a build may reach the machine's network by a name that resolves anew", setFirewall+"; it needs control groups version 2")
	look(i.Git != "", "git is there ("+i.Git+")", "git is not there", "install it, for example with: apt-get install git")
	look(i.DiskFree >= lowDisk, fmt.Sprintf("the disk has room (%d GiB free)", i.DiskFree>>30), fmt.Sprintf("the disk is nearly full (%d MiB free)", i.DiskFree>>20),
		"make room, for example with: docker system prune")
	out = append(out, h.stacks(ctx)...)
	err := h.store.Check()
	if n := len(h.store.Damaged()); err == nil && n > 0 {
		err = fmt.Errorf("%d records of it, see below", n)
	}
	look(err == nil, "the data file is sound", fmt.Sprintf("the data file is damaged: %v", err), "stop mesh and put a backup in its place (docs/operating.md, Restore)")
	out = append(out, h.records(ctx)...)
	keys, err := h.store.Keys(ctx)
	admins := 0
	for _, k := range keys {
		if k.Role == mesh.RoleAdmin && len(k.Stacks) == 0 {
			admins++
		}
	}
	look(err == nil && admins > 0, fmt.Sprintf("there are keys (%d, %d of them admins)", len(keys), admins), "there is no admin key",
		"on the server: mesh ssh-keys:add NAME --role admin < KEY.pub")
	return out
}

// records tells which parts of the state are damaged, missing, or moved aside.
func (h *serverInfo) records(ctx context.Context) (out []mesh.Finding) {
	for _, d := range h.store.Damaged() {
		what := fmt.Sprintf("%s is damaged: %s", d.What, d.Why)
		mend := "restore a backup: mesh restore --data NEW-DIR BACKUP.tar (docs/operating.md, Damaged records)"
		switch {
		case d.Whole:
			what += "; its instances are left alone and get their requests as last seen"
		case d.Stack != "":
			what += fmt.Sprintf("; %s runs on and cannot be changed", d.Stack)
		case strings.HasPrefix(d.What, "the key "):
			mend = "nobody gets in by it; add it again: mesh ssh-keys:add NAME < KEY.pub"
		case strings.HasPrefix(d.What, "the sign-in "):
			mend = "sign in again: ssh mesh registry:login HOST USER < password"
		case strings.HasPrefix(d.What, "entry "):
			mend = "the other entries are not affected; restore a backup if you need it"
		}
		out = append(out, mesh.Finding{What: what, Mend: mend})
	}
	out = append(out, h.notes.list()...)
	for _, n := range h.store.Notes() {
		out = append(out, mesh.Finding{What: n, Mend: "see the server's log; the next start tries again"})
	}
	stacks, err := h.store.Stacks(ctx)
	if err != nil {
		return append(out, mesh.Finding{What: fmt.Sprintf("the stacks cannot be read: %v", err), Mend: "see the server's log"})
	}
	for _, st := range stacks {
		r, err := h.store.Release(ctx, st.Name, st.Current)
		if err == nil && r.Here() && st.Was == "" && !h.repos.Exists(st.Name) {
			out = append(out, mesh.Finding{
				What: fmt.Sprintf("the repository of %s is gone: it serves, but cannot be cloned or built again", st.Name),
				Mend: fmt.Sprintf("push it again: git push mesh %s; or put repos/ back from a backup", cmp.Or(st.Settings.Branch, "main")),
			})
		}
	}
	lost, err := store.Lost(h.info.Data)
	if err == nil && len(lost) > 0 {
		dir := filepath.Join(h.info.Data, "lost")
		out = append(out, mesh.Finding{
			What: fmt.Sprintf("%d things that belong to no stack were moved to %s: %s", len(lost), dir, mesh.Clip(strings.Join(lost, ", "), 300)),
			Mend: fmt.Sprintf("look at them; each is removed %d days after the time in its name, or at once with: rm -r %s", int(store.LostFor.Hours()/24), filepath.Join(dir, lost[0])),
		})
	}
	return out
}
