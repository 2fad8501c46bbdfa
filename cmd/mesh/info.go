package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"mesh"
	"mesh/engine"
	"mesh/names"
	"mesh/repos"
	"mesh/store"
)

// serverInfo gives the commands information about the server and its machine.
type serverInfo struct {
	info   mesh.ServerInfo // the part that does not change
	engine *engine.Client
	store  *store.Store
	repos  *repos.Repos
	notes  *notes // of the start

	handover *handover
	names    *names.Server
	stacks   func(context.Context) []mesh.Finding // their problems
	leaving  context.Context                      // ends before another process takes over
}

// Upgrade hands over to the binary on disk.
func (h *serverInfo) Upgrade(ctx context.Context) (mesh.Successor, error) { return h.handover.ask(ctx) }

// engineTimeout limits how long an engine may take to report its version.
const engineTimeout = 3 * time.Second

// Info describes the server and its surroundings.
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
	if v, err := h.engine.API(ctx).ServerVersion(ctx); err == nil {
		i.Engine, i.EngineAPI = v.Version, v.APIVersion
	}
	return i
}

// lowDisk is the free space below which the doctor warns: ten times what a push needs.
const lowDisk = 5 << 30

// Diagnose looks for problems, present and likely.
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
		"start it, for example with: systemctl start docker; or set --docker-host")
	if i.Engine != "" {
		ictx, cancel := context.WithTimeout(ctx, engineTimeout)
		info, err := h.engine.API(ictx).Info(ictx)
		cancel()
		look(err == nil && info.InitBinary != "", "the engine has an init process for containers", "the engine has no init process for containers: apps are not stopped cleanly",
			"install docker-init (Debian: apt-get install tini docker.io)")
		look(err == nil && (info.MemoryLimit && info.PidsLimit), "the engine can limit memory and processes", "the engine cannot limit memory or processes",
			"enable the memory and pids cgroups on the kernel command line")
		look(err == nil && info.LiveRestoreEnabled, "apps keep running while the Docker Engine restarts",
			"apps stop while the Docker Engine restarts, for example for an upgrade", `set "live-restore": true in /etc/docker/daemon.json and reload docker`)
	}
	const setFirewall = "as root on the server: mesh firewall (mesh.service runs it at each start)"
	wall := firewalled()
	look(wall.Containers, "containers cannot reach cloud metadata services", "containers can reach cloud metadata services (169.254.169.254)", setFirewall)
	look(wall.Engine, "builds cannot reach the machine's network through the engine", "builds can reach the machine's network with a name that changes its address", setFirewall+"; this needs cgroup v2")
	look(!namesBlocked(), "containers can reach mesh's name servers", "ufw blocks mesh's name servers for containers: services do not find each other by name", setFirewall)
	out = append(out, h.unnamed()...)
	look(i.Git != "", "git is installed ("+i.Git+")", "git is not installed", "install it, for example with: apt-get install git")
	look(i.DiskFree >= lowDisk, fmt.Sprintf("the disk has free space (%d GiB free)", i.DiskFree>>30), fmt.Sprintf("the disk is nearly full (%d MiB free)", i.DiskFree>>20),
		"free space, for example with: docker system prune")
	out = append(out, h.stacks(ctx)...)
	err := h.store.Check()
	if n := len(h.store.Damaged()); err == nil && n > 0 {
		err = fmt.Errorf("%s, see below", counted(n, "record"))
	}
	look(err == nil, "the data file is sound", fmt.Sprintf("the data file is damaged: %v", err), "stop mesh and restore a backup (docs/operating.md, Restore)")
	out = append(out, h.records(ctx)...)
	keys, err := h.store.Keys(ctx)
	admins := 0
	for _, k := range keys {
		if k.Role == mesh.RoleAdmin && len(k.Stacks) == 0 {
			admins++
		}
	}
	look(err == nil && admins > 0, fmt.Sprintf("%s (%d admin)", counted(len(keys), "key"), admins), "no admin key",
		"on the server: mesh ssh-keys:add NAME --role admin < KEY.pub")
	return out
}

// unnamed returns the stacks whose services do not find each other by name.
func (h *serverInfo) unnamed() (out []mesh.Finding) {
	faults := h.names.Faults()
	for _, stack := range slices.Sorted(maps.Keys(faults)) {
		again := fmt.Sprintf("then: ssh mesh ps:restart -a %s", stack)
		mend := "see the server's log; " + again
		switch err := faults[stack]; {
		case errors.Is(err, syscall.EADDRINUSE):
			mend = "stop the other name server on port 53, or let it listen on its own addresses only (find it with: ss -lnp 'sport = :53'); " + again
		case errors.Is(err, syscall.EACCES):
			mend = "let mesh use port 53: setcap cap_net_bind_service=+ep /usr/local/bin/mesh; restart it; " + again
		}
		out = append(out, mesh.Finding{What: fmt.Sprintf("%s: services do not find each other by name: %v", stack, faults[stack]), Mend: mend})
	}
	shut := h.names.Shut()
	for _, stack := range slices.Sorted(maps.Keys(shut)) {
		out = append(out, mesh.Finding{
			What: fmt.Sprintf("%s: its links do not work: %v", stack, shut[stack]),
			Mend: fmt.Sprintf("leave port %d to them: no program may listen there on all addresses, so set MESH_HTTP_ADDR to another port or to one address; then restart mesh", mesh.LinkPort),
		})
	}
	return out
}

// counted returns a number and its noun, as "1 key" or "2 keys".
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// records returns the parts of the state that are damaged, missing, or moved aside.
func (h *serverInfo) records(ctx context.Context) (out []mesh.Finding) {
	for _, d := range h.store.Damaged() {
		what := fmt.Sprintf("%s is damaged: %s", d.What, d.Why)
		mend := "restore a backup: mesh restore --data NEW-DIR BACKUP.tar (docs/operating.md, Damaged records)"
		switch {
		case d.Whole:
			what += "; its instances keep running with their last known routes"
		case d.Stack != "":
			what += fmt.Sprintf("; %s keeps running and cannot be changed", d.Stack)
		case strings.HasPrefix(d.What, "the key "):
			mend = "it does not work; add it again: mesh ssh-keys:add NAME < KEY.pub"
		case strings.HasPrefix(d.What, "the recipient "):
			mend = "it gets no messages; remove it and add it again: ssh mesh notify:remove NAME; ssh mesh notify:add NAME URL"
		case strings.HasPrefix(d.What, "the schedule for backups "):
			mend = "no backups are made on it; set it again: ssh mesh help backup:schedule"
		case strings.HasPrefix(d.What, "alert "), strings.HasPrefix(d.What, "the message "):
			mend = "the others are not affected; mesh removes it with the old ones"
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
		if err == nil && r.Here() && st.Was == "" && !h.repos.Exists(st.Repository()) {
			out = append(out, mesh.Finding{
				What: fmt.Sprintf("the repository of %s is missing: the stack serves, but cannot be cloned or rebuilt", st.Name),
				Mend: fmt.Sprintf("push it again: git push mesh %s; or restore repos/ from a backup", cmp.Or(st.Settings.Branch, "main")),
			})
		}
	}
	lost, err := store.Lost(h.info.Data)
	if err == nil && len(lost) > 0 {
		dir := filepath.Join(h.info.Data, "lost")
		out = append(out, mesh.Finding{
			What: fmt.Sprintf("moved %d items of unknown stacks to %s: %s", len(lost), dir, mesh.Clip(strings.Join(lost, ", "), 300)),
			Mend: fmt.Sprintf("check them; mesh removes each one %d days after the time in its name; remove them now with: rm -r %s", int(store.LostFor.Hours()/24), filepath.Join(dir, lost[0])),
		})
	}
	return out
}
