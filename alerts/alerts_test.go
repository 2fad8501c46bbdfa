package alerts_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/alerts"
)

// world is a Watcher over a few values, in a bubble in which waiting takes no time.
type world struct {
	*alerts.Watcher
	t *testing.T

	mu          sync.Mutex
	stacks      []mesh.Stack
	recipients  []mesh.Recipient
	recorded    []mesh.Alert // by number, from 1
	writeFails  error
	sent        []mesh.Notice
	writes      int
	status      map[mesh.StackName][]mesh.InstanceStatus
	traffic     mesh.Traffic
	certs       []mesh.Certificate
	memory      []alerts.Memory
	memoryFails error
	disks       []alerts.Disk
	engine      error
	deployments []mesh.Deployment // newest first
	jobs        []mesh.JobFault
	backups     []mesh.BackupFault
	addons      []mesh.AddonFault
	nodes       []mesh.Node
	addonsFail  error
	shift       time.Duration // of the clock

	beforeRecord func() // called once, before an alert is changed
}

func (w *world) Stacks(context.Context) ([]mesh.Stack, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.stacks), nil
}

func (w *world) OpenAlerts(context.Context) (out []mesh.Alert, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range slices.Backward(w.recorded) {
		if a.Number > 0 && a.Open() {
			out = append(out, a)
		}
	}
	return out, nil
}

func (w *world) Alerts(_ context.Context, stack mesh.StackName, _ int) (out []mesh.Alert, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range slices.Backward(w.recorded) {
		if a.Number > 0 && (stack == "" || a.Stack == stack) {
			out = append(out, a)
		}
	}
	return out, nil
}

func (w *world) Recipients(context.Context) ([]mesh.Recipient, error) { return w.recipients, nil }

func (w *world) Deployments(_ context.Context, stack mesh.StackName, _ int) (out []mesh.Deployment, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.deployments {
		if d.Stack == stack {
			out = append(out, d)
		}
	}
	return out, nil
}

func (w *world) RecordAlert(_ context.Context, a mesh.Alert, notices []mesh.Notice) (mesh.Alert, []mesh.Notice, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writeFails != nil {
		return a, notices, w.writeFails
	}
	w.writes++
	if a.Number == 0 {
		w.recorded = append(w.recorded, mesh.Alert{})
		a.Number = uint64(len(w.recorded))
	} else if w.recorded[a.Number-1].Number == 0 {
		return a, notices, mesh.Errorf(mesh.NotFound, "gone")
	} else {
		if w.beforeRecord != nil {
			w.beforeRecord()
			w.beforeRecord = nil
		}
		a.Stack = w.recorded[a.Number-1].Stack
	}
	w.recorded[a.Number-1] = a
	for i := range notices {
		notices[i].Alert.Number, notices[i].Alert.Stack = a.Number, a.Stack
	}
	return a, notices, nil
}

func (w *world) watcher() *alerts.Watcher {
	return alerts.New(alerts.Options{
		Records: w, Reader: w, Logger: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
		Now: func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return time.Now().Add(w.shift) },
		Send: func(all []mesh.Notice) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.sent = append(w.sent, all...)
		},
		Instances: func(s mesh.StackName) []mesh.InstanceStatus { w.mu.Lock(); defer w.mu.Unlock(); return w.status[s] },
		Traffic: func(mesh.StackName, mesh.ServiceName) mesh.Traffic {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.traffic
		},
		Certificates: func(mesh.Stack) []mesh.Certificate { w.mu.Lock(); defer w.mu.Unlock(); return w.certs },
		Memory: func(context.Context) ([]alerts.Memory, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.memory, w.memoryFails
		},
		Disks:  func(context.Context) []alerts.Disk { w.mu.Lock(); defer w.mu.Unlock(); return w.disks },
		Engine: func(context.Context) error { w.mu.Lock(); defer w.mu.Unlock(); return w.engine },
		Backups: func(context.Context) ([]mesh.BackupFault, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.backups, nil
		},
		Jobs: func(context.Context) ([]mesh.JobFault, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.jobs, nil
		},
		Nodes: func() []mesh.Node {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.nodes
		},
		Addons: func(context.Context) ([]mesh.AddonFault, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.addons, w.addonsFail
		},
	})
}

// run starts the watcher; the returned function ends it.
func (w *world) run() (stop func()) {
	w.Watcher = w.watcher()
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// do changes the world, and lets time pass.
func (w *world) do(pass time.Duration, change func()) {
	w.mu.Lock()
	if change != nil {
		change()
	}
	w.mu.Unlock()
	time.Sleep(pass) // of the bubble
	synctest.Wait()
}

// told compares the messages since the last call: "opened crash shop web".
func (w *world) told(what string, want ...string) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	var got []string
	for _, n := range w.sent {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", n.Event, n.Alert.Kind, n.Alert.Stack, n.Alert.About)))
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("%s: told %q, want %q", what, got, want)
	}
	w.sent = nil
}

func bubble(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, stacks: []mesh.Stack{{Name: "shop"}}, recipients: []mesh.Recipient{{Name: "team"}},
			status: map[mesh.StackName][]mesh.InstanceStatus{"shop": {up}},
		}
		stop := w.run()
		defer func() { stop() }()
		fn(t, w)
	})
}

var (
	web1 = mesh.InstanceName{Service: "web", Slot: 1}
	up   = mesh.InstanceStatus{Name: web1, State: mesh.Up}
)

func crashed(n int) mesh.InstanceStatus {
	return mesh.InstanceStatus{Name: web1, State: mesh.Crashed, Crashes: n, ExitCode: 7}
}

func (w *world) set(in mesh.InstanceStatus) func() {
	return func() { w.status["shop"] = []mesh.InstanceStatus{in} }
}

func TestCrash_OneMessageACause(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.do(time.Minute, w.set(crashed(2)))
		w.told("two crashes")
		w.do(time.Minute, w.set(crashed(3)))
		w.told("three crashes", "opened crash shop web")
		for n := range 20 { // up for a minute, and down again
			w.do(time.Minute, w.set(up))
			w.do(time.Minute, w.set(crashed(4+n)))
		}
		w.told("a loop")
		if a := w.recorded[0]; !strings.Contains(a.Text, "crashed 23 times") || a.Count < 2 {
			t.Errorf("the alert is %+v", a)
		}
		w.do(3*time.Minute, w.set(up))
		w.told("up for long", "recovered crash shop web")
		w.do(time.Hour, nil)
		w.told("afterwards")
	})
}

// TestFlapping: each time that a cause comes back, it must be gone for longer.
func TestFlapping(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		events := 0
		for range 60 { // ten hours: bad for 5 min, good for 5 min
			w.do(5*time.Minute, w.set(crashed(3)))
			w.do(5*time.Minute, w.set(up))
		}
		w.mu.Lock()
		events, w.sent = len(w.sent), nil
		w.mu.Unlock()
		if events == 0 || events > 12 {
			w.t.Errorf("%d messages in ten hours, want a few", events)
		}
		w.do(2*time.Hour, nil)
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.sent); n > 1 {
			w.t.Errorf("%d messages after the end", n)
		}
		for _, a := range w.recorded {
			if a.Open() {
				w.t.Errorf("still open: %+v", a)
			}
		}
	})
}

func TestOOM_IsOneCauseNotTwo(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		killed := crashed(1)
		killed.OOM, killed.ExitCode = true, 137
		for n := range 5 {
			killed.Crashes = n + 1
			w.do(0, w.set(killed))
			w.Crashed("shop", killed)
			w.do(time.Second, nil)
			w.do(time.Minute, w.set(up)) // back before the next look
		}
		w.told("killed five times", "opened oom shop web")
		w.do(3*time.Minute, nil)
		w.told("no more", "recovered oom shop web")
		if n := w.recorded[0].Count; n != 5 {
			w.t.Errorf("count %d, want 5", n)
		}
	})
}

func TestMissing(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		failing := mesh.InstanceStatus{Name: web1, State: mesh.Failing, Why: "GET / 500"}
		w.do(time.Minute, w.set(failing))
		w.do(time.Minute, w.set(up))
		w.told("down for a minute")
		w.do(3*time.Minute, w.set(failing))
		w.told("down for three", "opened missing shop web")
		w.do(10*time.Minute, w.set(mesh.InstanceStatus{Name: web1, State: mesh.Unknown}))
		w.told("the engine does not answer: nobody knows")
		w.do(3*time.Minute, func() { w.status["shop"] = nil })
		w.told("scaled away", "recovered missing shop web")
		if got := w.recorded[0].Outcome; got != "web no longer runs" {
			w.t.Errorf("outcome %q", got)
		}
	})
}

// TestTraffic: a share needs a minimum of requests, and must last.
func TestTraffic(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		set := func(requests, errs int, p95 time.Duration) func() {
			return func() { w.traffic = mesh.Traffic{Requests: requests, Errors: errs, P95: p95} }
		}
		w.do(time.Hour, set(2, 1, time.Minute))
		w.told("one of two")
		w.do(time.Hour, set(1000, 49, time.Minute))
		w.told("below 5 %, and slow without a rule for it")
		w.do(time.Minute, set(1000, 50, 0))
		w.do(time.Hour, set(1000, 0, 0))
		w.told("for a minute")
		w.do(3*time.Minute, set(1000, 50, 0))
		w.told("for three minutes", "opened 5xx shop web")
		w.do(3*time.Minute, set(0, 0, 0))
		w.told("no requests", "recovered 5xx shop web")
		w.do(3*time.Minute, func() {
			w.stacks[0].Alerts = mesh.AlertRules{Slow: time.Second, Errors: mesh.RuleOff, Requests: 1, For: 15 * time.Second}
			w.traffic = mesh.Traffic{Requests: 1, Errors: 1, P95: 2 * time.Second}
		})
		w.told("slow", "opened slow shop web")
	})
}

func TestMemory(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		use := func(used int64) func() {
			return func() { w.memory = []alerts.Memory{{Stack: "shop", Instance: web1, Used: used, Limit: 100 << 20}} }
		}
		w.do(time.Hour, use(89<<20))
		w.told("89 %")
		w.do(3*time.Minute, use(95<<20))
		w.told("95 %", "opened memory shop web")
		w.do(time.Hour, func() { w.memory, w.memoryFails = nil, errors.New("the engine is away") })
		w.told("nobody knows")
		w.do(3*time.Minute, func() { use(10 << 20)(); w.memoryFails = nil })
		w.told("10 %", "recovered memory shop web")
	})
}

func TestCertificates(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		day := 24 * time.Hour
		cert := func(c mesh.Certificate) func() {
			c.Host = "shop.example.com"
			return func() { w.certs = []mesh.Certificate{c} }
		}
		now := time.Now()
		w.do(2*time.Hour, cert(mesh.Certificate{Source: mesh.CertificateACME, Issued: now.Add(-70 * day), Expires: now.Add(20 * day)}))
		w.told("20 days left")
		w.do(time.Minute, cert(mesh.Certificate{Source: mesh.CertificateACME, Issued: now.Add(-80 * day), Expires: now.Add(10 * day), Error: "no such host"}))
		w.told("10 days left", "opened cert shop shop.example.com")
		if got := w.recorded[0].Text; got != "the certificate of shop.example.com expires in 9 days: no such host" {
			w.t.Errorf("text %q", got)
		}
		w.do(3*time.Minute, cert(mesh.Certificate{Source: mesh.CertificateACME, Issued: now, Expires: now.Add(90 * day)}))
		w.told("renewed", "recovered cert shop shop.example.com")
		w.do(2*time.Hour, cert(mesh.Certificate{Source: mesh.CertificateACME, Issued: now, Expires: now.Add(6 * day)}))
		w.told("it lives for six days only")
		w.do(time.Minute, cert(mesh.Certificate{Error: "no such host"}))
		w.told("a new host whose DNS is not right yet")
		w.do(2*time.Hour, nil)
		w.told("for hours", "opened cert shop shop.example.com")
	})
}

func TestServer(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		disk := func(used uint64) func() {
			return func() { w.disks = []alerts.Disk{{Path: "/data", Used: used << 30, Size: 100 << 30}} }
		}
		w.do(time.Hour, disk(85))
		w.told("85 %")
		w.do(2*time.Minute, disk(86))
		w.told("86 %", "opened disk  /data")
		w.do(time.Hour, disk(84))
		w.told("84 %: still")
		w.do(3*time.Minute, disk(80))
		w.told("80 %", "recovered disk  /data")
		w.do(30*time.Second, func() { w.engine = errors.New("away") })
		w.do(time.Hour, func() { w.engine = nil })
		w.told("the engine restarts")
		w.do(2*time.Minute, func() { w.engine = errors.New("away") })
		w.told("the engine is away", "opened engine")
		w.BackedUp(errors.New("the disk is full"))
		w.BackedUp(errors.New("the disk is full"))
		w.do(time.Second, nil)
		w.told("two backups failed", "opened backup")
		w.do(48*time.Hour, nil)
		w.BackedUp(nil)
		w.do(time.Second, nil)
		w.told("a backup succeeded", "recovered backup")
	})
}

// What has a schedule is looked at: an alert that an earlier process opened continues, and is
// over at once.
// An add-on that is started again is no alert; one that stays away for a minute is one, until
// it has been back for a while. An engine that does not answer ends nothing.
func TestAddons(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		down := func() { w.addons = []mesh.AddonFault{{Name: "db", Text: "db does not run: it is crashed (exit 1)"}} }
		w.do(30*time.Second, down)
		w.do(time.Minute, func() { w.addons = nil })
		w.told("for a moment")
		w.do(2*time.Minute, down)
		w.told("down", "opened addon  db")
		w.do(10*time.Minute, func() { w.addons, w.addonsFail = nil, errors.New("the engine is away") })
		w.told("nobody can look")
		w.do(3*time.Minute, func() { w.addonsFail = nil })
		w.told("back", "recovered addon  db")
	})
}

// A node that is away for one look is no alert.
func TestNodes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		nodes := func(fault string) func() {
			return func() {
				w.nodes = []mesh.Node{{Name: "one", Self: true, Fault: "never told"}, {Name: "two", Fault: fault}}
			}
		}
		w.do(10*time.Second, nodes("it does not answer"))
		w.do(time.Minute, nodes(""))
		w.told("for a moment")
		w.do(time.Minute, nodes("it does not answer"))
		w.told("down", "opened node  two")
		if a := w.recorded[0]; a.Next() != "ssh mesh nodes" || a.Text != "node two: it does not answer" {
			t.Errorf("%q, next %s", a.Text, a.Next())
		}
		w.do(10*time.Minute, nodes(""))
		w.told("back", "recovered node  two")
	})
}

func TestBackups_OnASchedule(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		fails := func(texts ...string) func() {
			return func() {
				w.backups = nil
				for _, text := range texts {
					w.backups = append(w.backups, mesh.BackupFault{Subject: mesh.BackupMesh, Text: text})
				}
			}
		}
		w.do(0, fails("the backup of mesh to /b failed: the disk is full"))
		w.BackupsChanged()
		w.do(time.Second, nil)
		w.told("failed", "opened backup  mesh")
		if next := w.recorded[0].Next(); next != "ssh mesh backup:schedule" {
			t.Errorf("next: %s", next)
		}
		w.do(48*time.Hour, fails("the last backup of mesh is from long ago"))
		w.told("the same cause, for another reason")
		w.BackedUp(nil)
		w.do(time.Minute, nil)
		w.told("one by hand does not end it")
		w.do(0, fails())
		w.BackupsChanged()
		w.do(time.Second, nil)
		w.told("the next success", "recovered backup  mesh")
	})
}

func TestJobs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		fail := func(faults ...mesh.JobFault) {
			t.Helper()
			w.do(0, func() { w.jobs = faults })
			w.JobsChanged()
			w.do(time.Second, nil)
		}
		fail(mesh.JobFault{Stack: "shop", Name: "tidy", Text: "the job tidy.1 failed: exit 3"})
		w.told("a failure", "opened cron shop tidy")
		if next := w.recorded[0].Next(); next != "ssh mesh cron:logs -a shop tidy" {
			t.Errorf("next: %s", next)
		}
		fail(mesh.JobFault{Stack: "shop", Name: "tidy", Text: "the job tidy.2 failed: exit 3"})
		w.told("it fails again")
		fail()
		w.told("it succeeds", "recovered cron shop tidy")
	})
}

func TestDeployments(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		end := func(n mesh.DeploymentNumber, kind mesh.DeploymentKind, s mesh.DeploymentStatus) {
			d := mesh.Deployment{Stack: "shop", Number: n, Kind: kind, By: "ann", Status: s, Reason: "build failed", Ended: time.Now(), Release: mesh.ReleaseNumber(n)}
			w.do(0, func() { w.deployments = append([]mesh.Deployment{d}, w.deployments...) })
			w.Deployed(d)
			w.do(2*time.Second, nil)
		}
		end(1, mesh.DeployPush, mesh.StatusLive)
		end(2, mesh.DeployPush, mesh.StatusCancelled)
		end(3, mesh.DeployPush, mesh.StatusSkipped)
		w.told("nothing failed")
		end(4, mesh.DeployPush, mesh.StatusFailed)
		end(5, mesh.DeployPush, mesh.StatusFailed)
		w.told("two failed", "opened deploy shop")
		w.do(24*time.Hour, nil)
		w.told("a day later")
		end(6, mesh.DeployPush, mesh.StatusLive)
		w.told("mended", "recovered deploy shop")
		if a := w.recorded[0]; a.Count != 2 || a.Outcome != "deployment #6 is live as v6" {
			w.t.Errorf("%+v", a)
		}
		end(7, mesh.DeployRollback, mesh.StatusLive)
		w.told("rolled back", "announced deploy shop")
		end(8, mesh.DeployPush, mesh.StatusFailed)
		end(9, mesh.DeployRollback, mesh.StatusLive)
		w.told("rolled back after a failure", "opened deploy shop", "recovered deploy shop")
		w.do(0, func() { w.stacks[0].Alerts.Deploy = mesh.RuleOff })
		end(10, mesh.DeployPush, mesh.StatusFailed)
		end(11, mesh.DeployRollback, mesh.StatusLive)
		w.told("the rule is off")
	})
}

// TestRestart: the next process says nothing again about an open cause, and tells its end,
// even if that came between the two.
func TestRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, stacks: []mesh.Stack{{Name: "shop"}}, recipients: []mesh.Recipient{{Name: "team"}}, status: map[mesh.StackName][]mesh.InstanceStatus{"shop": {crashed(3)}}}
		stop := w.run()
		w.do(time.Minute, func() { w.deployments = []mesh.Deployment{{Stack: "shop", Number: 1, Status: mesh.StatusFailed}} })
		w.Deployed(w.deployments[0])
		w.do(time.Minute, nil)
		w.told("before", "opened crash shop web", "opened deploy shop")
		stop()
		stop = w.run()
		w.do(time.Hour, nil)
		w.told("restarted")
		stop()
		w.do(time.Minute, func() {
			w.set(up)()
			w.deployments = append([]mesh.Deployment{{Stack: "shop", Number: 2, Status: mesh.StatusLive, Ended: time.Now()}}, w.deployments...)
		})
		stop = w.run()
		w.do(5*time.Minute, nil)
		w.told("mended meanwhile", "recovered deploy shop", "recovered crash shop web")
		stop()
	})
}

// TestFullDisk: messages leave although nothing can be recorded, once each, and the record
// is made up for.
func TestFullDisk(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		w.do(time.Minute, func() { w.writeFails = errors.New("no space left"); w.set(crashed(3))() })
		w.told("cannot record", "opened crash shop web")
		w.do(10*time.Minute, nil)
		w.told("still cannot")
		w.do(time.Minute, func() { w.writeFails = nil })
		if len(w.recorded) != 1 || !w.recorded[0].Open() {
			w.t.Errorf("recorded: %+v", w.recorded)
		}
		w.do(3*time.Minute, func() { w.writeFails = errors.New("no space left"); w.set(up)() })
		w.told("mended", "recovered crash shop web")
		w.do(time.Minute, func() { w.writeFails = nil })
		w.told("recorded later")
		if len(w.recorded) != 1 || w.recorded[0].Open() {
			w.t.Errorf("recorded: %+v", w.recorded)
		}
		n := w.writes
		w.do(time.Hour, nil)
		if w.writes != n {
			w.t.Errorf("%d writes in a quiet hour", w.writes-n)
		}
	})
}

// TestStack_RenamedOrDestroyed while an alert of it is open.
func TestStack_RenamedOrDestroyed(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		w.do(time.Minute, w.set(crashed(3)))
		w.told("before", "opened crash shop web")
		w.do(time.Minute, func() {
			w.stacks[0].Name, w.recorded[0].Stack = "store", "store"
			w.status = map[mesh.StackName][]mesh.InstanceStatus{"store": {crashed(3)}}
		})
		w.told("renamed")
		w.do(5*time.Minute, func() { w.status["store"][0] = up })
		w.told("mended under its new name", "recovered crash store web")
		w.do(time.Minute, func() { w.status["store"][0] = crashed(3) })
		w.told("again", "opened crash store web")
		w.do(time.Hour, func() { w.stacks, w.status, w.recorded[1] = nil, nil, mesh.Alert{} })
		w.told("destroyed")
	})
}

// TestClockJumps: neither a day forward nor a year back opens, ends or repeats anything.
func TestClockJumps(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		w.do(time.Minute, w.set(crashed(3)))
		w.told("before", "opened crash shop web")
		for _, by := range []time.Duration{24 * time.Hour, -365 * 24 * time.Hour} {
			w.do(time.Minute, func() { w.shift += by })
			w.told("jumped")
		}
		w.do(5*time.Minute, w.set(up))
		w.told("mended", "recovered crash shop web")
		if a := w.recorded[0]; a.Ended.Before(a.Since) {
			w.t.Errorf("it ended before it began: %+v", a)
		}
	})
}

// TestRecipients_GetWhatTheyWant.
func TestRecipients_GetWhatTheyWant(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		w.recipients = []mesh.Recipient{
			{Name: "all"},
			{Name: "shop", Stacks: []mesh.StackName{"shop"}},
			{Name: "other", Stacks: []mesh.StackName{"other"}},
			{Name: "disks", On: []mesh.AlertKind{mesh.AlertDisk}},
			{Name: "shop-disks", Stacks: []mesh.StackName{"shop"}, On: []mesh.AlertKind{mesh.AlertDisk}},
		}
		w.do(2*time.Minute, func() {
			w.set(crashed(3))()
			w.disks = []alerts.Disk{{Path: "/", Used: 90, Size: 100}}
		})
		w.mu.Lock()
		defer w.mu.Unlock()
		var got []string
		for _, n := range w.sent {
			got = append(got, string(n.Recipient)+" "+string(n.Alert.Kind))
		}
		slices.Sort(got)
		if want := []string{"all crash", "all disk", "disks disk", "shop crash"}; !slices.Equal(got, want) {
			w.t.Errorf("%q, want %q", got, want)
		}
	})
}

// TestStack_RenamedBetweenLookAndRecord: the record keeps the new name, and recipients of
// the new name hear about the end.
func TestStack_RenamedBetweenLookAndRecord(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		w.recipients = []mesh.Recipient{{Name: "all"}, {Name: "mine", Stacks: []mesh.StackName{"shop"}}}
		w.do(time.Minute, w.set(crashed(3)))
		w.told("before", "opened crash shop web", "opened crash shop web")
		w.do(5*time.Minute, func() {
			w.set(up)()
			w.beforeRecord = func() {
				w.stacks[0].Name, w.recorded[0].Stack = "store", "store"
				w.recipients = []mesh.Recipient{{Name: "all"}, {Name: "mine", Stacks: []mesh.StackName{"store"}}}
				w.status = map[mesh.StackName][]mesh.InstanceStatus{"store": {up}}
			}
		})
		w.told("after", "recovered crash store web", "recovered crash store web")
		if a := w.recorded[0]; a.Stack != "store" || a.Open() {
			w.t.Errorf("%+v", a)
		}
	})
}

// TestRuleOff ends an open alert, and says why.
func TestRuleOff(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		w.do(time.Minute, w.set(crashed(3)))
		w.told("before", "opened crash shop web")
		w.do(5*time.Minute, func() { w.stacks[0].Alerts.Crash = mesh.RuleOff })
		w.told("off", "recovered crash shop web")
		if got := w.recorded[0].Outcome; got != "its rule was turned off" {
			w.t.Errorf("outcome %q", got)
		}
		w.do(time.Hour, nil)
		w.told("still crashing")
	})
}

// TestStop_RecordsWhatHasJustHappened.
func TestStop_RecordsWhatHasJustHappened(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, stacks: []mesh.Stack{{Name: "shop"}}, recipients: []mesh.Recipient{{Name: "team"}}}
		stop := w.run()
		w.do(time.Second, nil)
		w.Deployed(mesh.Deployment{Stack: "shop", Number: 1, Status: mesh.StatusFailed})
		stop()
		w.told("stopped", "opened deploy shop")
		if len(w.recorded) != 1 || !w.recorded[0].Open() {
			t.Errorf("recorded: %+v", w.recorded)
		}
	})
}

// TestMaintenance: its 503s are no errors of the app.
func TestMaintenance(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		w.do(time.Hour, func() { w.stacks[0].Maintained = true; w.traffic = mesh.Traffic{Requests: 1000, Errors: 1000} })
		w.told("maintenance")
		w.do(3*time.Minute, func() { w.stacks[0].Maintained = false })
		w.told("over", "opened 5xx shop web")
	})
}

// TestInstances_OfAServiceAreOneCause: a deploy that breaks ten instances is one message.
func TestInstances_OfAServiceAreOneCause(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		w.do(time.Minute, func() {
			var all []mesh.InstanceStatus
			for n := range 10 {
				in := crashed(3)
				in.Name.Slot = n + 1
				all = append(all, in)
			}
			w.status["shop"] = append(all, mesh.InstanceStatus{Name: mesh.InstanceName{Service: "worker", Slot: 1}, State: mesh.Up})
		})
		w.told("ten crash", "opened crash shop web")
		if got := w.recorded[0].Text; got != "web.1 crashed 3 times in a row, the last time with exit code 7; 9 more instances are affected" {
			w.t.Errorf("text %q", got)
		}
		w.do(10*time.Minute, func() {
			for i := range 9 {
				w.status["shop"][i].State = mesh.Up
			}
		})
		w.told("one still crashes")
		w.do(3*time.Minute, func() { w.status["shop"][9].State = mesh.Up })
		w.told("all are up", "recovered crash shop web")
	})
}

// TestDamagedStack: nobody knows how a stack is whose record cannot be read.
func TestDamagedStack(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		w.do(time.Minute, w.set(crashed(3)))
		w.told("before", "opened crash shop web")
		w.do(time.Hour, func() { w.stacks = nil })
		w.told("its record is damaged")
	})
}
