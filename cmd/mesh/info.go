package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	docker "github.com/docker/docker/client"

	"mesh"
	"mesh/receiver"
	"mesh/store"
)

// host is what the commands may know of the server and its machine.
type host struct {
	info   mesh.ServerInfo // what does not change
	engine *docker.Client
	store  *store.Store
	repos  *receiver.Repos

	handover *handover
	stacks   func(context.Context) []mesh.Finding // what is wrong with them
}

// Upgrade hands over to the binary on disk.
func (h *host) Upgrade(ctx context.Context) (mesh.Successor, error) { return h.handover.ask(ctx) }

// engineTimeout is how long an engine may take to say its version.
const engineTimeout = 3 * time.Second

// Info tells what the server is and what it finds around it.
func (h *host) Info(ctx context.Context) mesh.ServerInfo {
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
func (h *host) Diagnose(ctx context.Context) []mesh.Finding {
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
	look(err == nil, "the data file is sound", fmt.Sprintf("the data file is damaged: %v", err), "stop mesh and put a backup in its place (docs/operating.md, Restore)")
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
