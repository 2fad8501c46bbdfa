package alerts

import (
	"context"
	"fmt"
	"slices"
	"time"

	"mesh"
)

// unsure names what nobody could look at: open alerts of that kind stay as they are.
type unsure struct {
	kind  mesh.AlertKind
	stack mesh.StackName
}

// round is what one look found.
type round struct {
	broken   map[mesh.AlertCause]finding
	unsure   map[unsure]bool
	outcomes map[mesh.AlertCause]string
	status   map[mesh.StackName][]mesh.InstanceStatus
	rules    map[mesh.StackName]mesh.AlertRules
}

func (r *round) found(kind mesh.AlertKind, stack mesh.StackName, about string, f finding) {
	if off(r.rules[stack], kind) {
		return
	}
	f.AlertCause = mesh.AlertCause{Kind: kind, Stack: stack, About: about}
	r.broken[f.AlertCause] = f
}

// foundOf is found for one instance of a service: all of them are one cause.
func (r *round) foundOf(kind mesh.AlertKind, stack mesh.StackName, service mesh.ServiceName, f finding) {
	old, is := r.broken[mesh.AlertCause{Kind: kind, Stack: stack, About: string(service)}]
	if is && !old.keepsOnly {
		if !f.keepsOnly {
			old.also++
		}
		f = old
	}
	r.found(kind, stack, string(service), f)
}

// whole returns what is wrong, with all instances.
func (f finding) whole() string {
	switch f.also {
	case 0:
		return f.text
	case 1:
		return f.text + "; one more instance is affected"
	}
	return fmt.Sprintf("%s; %d more instances are affected", f.text, f.also)
}

// outcome says how a cause that is gone ended.
func (r *round) outcome(key mesh.AlertCause) string {
	if off(r.rules[key.Stack], key.Kind) {
		return "its rule was turned off"
	}
	if text := r.outcomes[key]; text != "" || key.Kind == mesh.AlertDeploy {
		return text
	}
	about := key.About
	switch key.Kind {
	case mesh.AlertCrash, mesh.AlertOOM, mesh.AlertMissing, mesh.AlertMemory:
		if !slices.ContainsFunc(r.status[key.Stack], func(s mesh.InstanceStatus) bool { return string(s.Name.Service) == about }) {
			return about + " no longer runs"
		}
		if key.Kind == mesh.AlertMemory {
			return about + " uses less memory again"
		}
		return about + " is up again"
	case mesh.AlertErrors:
		return about + " answers requests without too many errors again"
	case mesh.AlertSlow:
		return about + " answers in time again"
	case mesh.AlertCert:
		return about + " has a valid certificate again"
	case mesh.AlertDisk:
		return "the disk of " + about + " has free space again"
	case mesh.AlertEngine:
		return "the Docker Engine answers again"
	case mesh.AlertBackup:
		return "the backups of " + mesh.BackupSubject(about).String() + " are as planned again"
	case mesh.AlertCron:
		return "the job " + about + " succeeded again, or no longer runs"
	case mesh.AlertNode:
		return about + " is used again, or was removed"
	case mesh.AlertAddon:
		return about + " runs, and accepts connections again"
	default:
		return "it is over"
	}
}

// round looks at everything.
func (w *Watcher) round(ctx context.Context, stacks []mesh.Stack) *round {
	r := &round{
		broken: map[mesh.AlertCause]finding{}, unsure: map[unsure]bool{}, outcomes: map[mesh.AlertCause]string{},
		status: map[mesh.StackName][]mesh.InstanceStatus{}, rules: map[mesh.StackName]mesh.AlertRules{},
	}
	w.lookAtServer(ctx, r)
	for _, st := range stacks {
		rules := st.Alerts.Effective()
		r.rules[st.Name] = rules
		w.lookAtInstances(r, st, rules)
		w.lookAtTraffic(r, st, rules)
		w.lookAtCertificates(r, st, rules)
	}
	w.lookAtMemory(ctx, r, stacks)
	w.lookAtJobs(ctx, r)
	w.lookAtDeployments(ctx, r)
	return r
}

// The server's own rules.
const (
	diskFull    = 0.85
	diskFreed   = 0.83 // an open alert ends below that
	serverAfter = 4    // looks: a minute
)

// lookAtBackups looks at those that have a schedule. Others are events.
func (w *Watcher) lookAtBackups(ctx context.Context, r *round) {
	if w.Backups == nil {
		return
	}
	faults, err := w.Backups(ctx)
	if err != nil {
		r.unsure[unsure{mesh.AlertBackup, ""}] = true
		return
	}
	for _, f := range faults {
		r.found(mesh.AlertBackup, "", string(f.Subject), finding{text: f.Text})
	}
}

// lookAtAddons looks at those that are meant to run.
func (w *Watcher) lookAtAddons(ctx context.Context, r *round) {
	if w.Addons == nil {
		return
	}
	faults, err := w.Addons(ctx)
	if err != nil {
		r.unsure[unsure{mesh.AlertAddon, ""}] = true
		return
	}
	for _, f := range faults {
		r.found(mesh.AlertAddon, "", string(f.Name), finding{text: f.Text, after: serverAfter * w.Every})
	}
}

// lookAtJobs looks at those of all stacks.
func (w *Watcher) lookAtJobs(ctx context.Context, r *round) {
	if w.Jobs == nil {
		return
	}
	faults, err := w.Jobs(ctx)
	if err != nil {
		for stack := range r.rules {
			r.unsure[unsure{mesh.AlertCron, stack}] = true
		}
		return
	}
	for _, f := range faults {
		r.found(mesh.AlertCron, f.Stack, string(f.Name), finding{text: f.Text})
	}
}

func (w *Watcher) lookAtServer(ctx context.Context, r *round) {
	if w.Engine != nil {
		if err := w.Engine(ctx); err != nil {
			r.found(mesh.AlertEngine, "", "", finding{text: "the Docker Engine does not answer; apps that run keep serving", after: serverAfter * w.Every})
		}
	}
	w.lookAtBackups(ctx, r)
	w.lookAtAddons(ctx, r)
	if w.Nodes != nil {
		for _, n := range w.Nodes() {
			if !n.Self && n.Fault != "" {
				r.found(mesh.AlertNode, "", string(n.Name), finding{text: "node " + string(n.Name) + ": " + n.Fault, after: w.Every})
			}
		}
	}
	if w.Disks == nil {
		return
	}
	for _, d := range w.Disks(ctx) {
		if d.Size == 0 {
			continue
		}
		share, limit := float64(d.Used)/float64(d.Size), diskFull
		if c := w.causes[mesh.AlertCause{Kind: mesh.AlertDisk, About: d.Path}]; c != nil && c.open {
			limit = diskFreed
		}
		if share > limit {
			r.found(mesh.AlertDisk, "", d.Path, finding{
				text:  fmt.Sprintf("the disk of %s is %s full, with %s free", d.Path, mesh.Percent(share), size(d.Size-d.Used)),
				after: serverAfter * w.Every,
			})
		}
	}
}

// size is a number of bytes for people.
func size(n uint64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

func (w *Watcher) lookAtInstances(r *round, st mesh.Stack, rules mesh.AlertRules) {
	if w.Instances == nil {
		return
	}
	all := w.Instances(st.Name)
	r.status[st.Name] = all
	for _, in := range all {
		name := in.Name.Service
		switch in.State {
		case mesh.Up:
			continue
		case mesh.Unknown:
			for _, k := range []mesh.AlertKind{mesh.AlertCrash, mesh.AlertOOM, mesh.AlertMissing, mesh.AlertMemory} {
				r.unsure[unsure{k, st.Name}] = true
			}
			continue
		case mesh.Crashed:
			r.foundOf(mesh.AlertCrash, st.Name, name, finding{text: crashText(in), keepsOnly: in.OOM && rules.OOM >= 0 || in.Crashes < rules.Crash})
		default:
			r.foundOf(mesh.AlertMissing, st.Name, name, finding{text: missingText(in), after: rules.Missing})
			r.foundOf(mesh.AlertCrash, st.Name, name, finding{keepsOnly: true})
		}
		r.foundOf(mesh.AlertOOM, st.Name, name, finding{keepsOnly: true})
	}
}

func crashText(in mesh.InstanceStatus) string {
	return fmt.Sprintf("%s crashed %d times in a row, the last time with exit code %d", in.Name, in.Crashes, in.ExitCode)
}

func missingText(in mesh.InstanceStatus) string {
	text := fmt.Sprintf("%s does not serve: it is %s", in.Name, in.State)
	if in.Why != "" {
		text += ": " + mesh.Clip(mesh.Visible(in.Why), 160)
	}
	return text
}

func (w *Watcher) lookAtTraffic(r *round, st mesh.Stack, rules mesh.AlertRules) {
	if w.Traffic == nil || st.Maintained { // maintenance answers with 503
		return
	}
	var seen []mesh.ServiceName
	for _, in := range r.status[st.Name] {
		if slices.Contains(seen, in.Name.Service) {
			continue
		}
		seen = append(seen, in.Name.Service)
		m := w.Traffic(st.Name, in.Name.Service)
		if m.Requests < max(rules.Requests, 1) {
			continue
		}
		about := string(in.Name.Service)
		if share := float64(m.Errors) / float64(m.Requests); rules.Errors > 0 && share >= rules.Errors {
			r.found(mesh.AlertErrors, st.Name, about, finding{
				text: fmt.Sprintf("%s answers %s of its requests with 5xx: %d of %d in the last minute", about, mesh.Percent(share), m.Errors, m.Requests), after: rules.For,
			})
		}
		if rules.Slow > 0 && m.P95 > rules.Slow {
			r.found(mesh.AlertSlow, st.Name, about, finding{
				text: fmt.Sprintf("%s is slow: 5 of 100 requests take longer than %s, and the limit is %s", about, m.P95.Round(time.Millisecond), rules.Slow), after: rules.For,
			})
		}
	}
}

// A certificate of a new host fails until its DNS is right, so that is no alert at once.
const certAfter = time.Hour

func (w *Watcher) lookAtCertificates(r *round, st mesh.Stack, rules mesh.AlertRules) {
	if w.Certificates == nil || rules.Cert < 0 {
		return
	}
	now := w.Now()
	for _, c := range w.Certificates(st) {
		host := string(c.Host)
		left := c.Expires.Sub(now)
		// A certificate that lives for days only is renewed in its last third.
		limit := rules.Cert
		if life := c.Expires.Sub(c.Issued); !c.Issued.IsZero() {
			limit = min(limit, life/4)
		}
		switch {
		case !c.Expires.IsZero() && left <= 0:
			r.found(mesh.AlertCert, st.Name, host, finding{text: fmt.Sprintf("the certificate of %s has expired%s", host, because(c))})
		case !c.Expires.IsZero() && left < limit:
			r.found(mesh.AlertCert, st.Name, host, finding{text: fmt.Sprintf("the certificate of %s expires in %s%s", host, rest(left), because(c))})
		case c.Error != "":
			r.found(mesh.AlertCert, st.Name, host, finding{text: fmt.Sprintf("no certificate can be obtained for %s%s", host, because(c)), after: certAfter})
		}
	}
}

func because(c mesh.Certificate) string {
	switch {
	case c.Error != "":
		return ": " + mesh.Clip(mesh.Visible(c.Error), 160)
	case c.Source == mesh.CertificateUploaded:
		return "; it was uploaded, so upload the next one"
	}
	return ""
}

func rest(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
	}
	return fmt.Sprintf("%d hours", int(d/time.Hour))
}

func (w *Watcher) lookAtMemory(ctx context.Context, r *round, stacks []mesh.Stack) {
	if w.Memory == nil {
		return
	}
	all, err := w.Memory(ctx)
	if err != nil {
		for _, st := range stacks { // a node that is slow does not hide what the others say
			r.unsure[unsure{mesh.AlertMemory, st.Name}] = true
		}
	}
	for _, m := range all {
		rules, known := r.rules[m.Stack]
		if !known || m.Limit <= 0 {
			continue
		}
		if share := float64(m.Used) / float64(m.Limit); rules.Memory > 0 && share >= rules.Memory {
			r.foundOf(mesh.AlertMemory, m.Stack, m.Instance.Service, finding{
				text: fmt.Sprintf("%s uses %s of its memory limit of %s", m.Instance, mesh.Percent(min(share, 1)), size(uint64(m.Limit))), after: rules.For, //nolint:gosec // above 0
			})
		}
	}
}

// lookAtDeployments finds out which stacks with a failed deployment have been deployed
// since.
func (w *Watcher) lookAtDeployments(ctx context.Context, r *round) {
	for key, c := range w.causes {
		if key.Kind != mesh.AlertDeploy || !c.open {
			continue
		}
		last, err := w.Reader.Deployments(ctx, key.Stack, 10)
		if err != nil {
			continue
		}
		for _, d := range last { // the newest first
			if d.Status == mesh.StatusFailed {
				break
			}
			if d.Status == mesh.StatusLive && d.Ended.After(c.alert.Since) {
				r.outcomes[key] = liveText(d)
				break
			}
		}
	}
}

func liveText(d mesh.Deployment) string {
	switch {
	case d.Kind == mesh.DeployRollback:
		return fmt.Sprintf("%s rolled back, and %s is live", d.By, d.Release)
	case d.Release > 0:
		return fmt.Sprintf("deployment %s is live as %s", d.Number, d.Release)
	}
	return fmt.Sprintf("deployment %s succeeded", d.Number)
}
