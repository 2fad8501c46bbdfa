package mesh

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// AlertKind is a sort of cause that mesh tells people about.
type AlertKind string

// The kinds of alerts.
const (
	AlertDeploy  AlertKind = "deploy"
	AlertCrash   AlertKind = "crash"
	AlertOOM     AlertKind = "oom"
	AlertMissing AlertKind = "missing"
	AlertErrors  AlertKind = "5xx"
	AlertSlow    AlertKind = "slow"
	AlertMemory  AlertKind = "memory"
	AlertCert    AlertKind = "cert"
	AlertCron    AlertKind = "cron"
	AlertDisk    AlertKind = "disk"
	AlertBackup  AlertKind = "backup"
	AlertAddon   AlertKind = "addon"
	AlertEngine  AlertKind = "engine"
	AlertNode    AlertKind = "node"
)

// AlertSort describes one kind of alert.
type AlertSort struct {
	Kind   AlertKind
	Server bool   // it concerns the server, not a stack
	Help   string // what raises it
	next   string // the command to type next, with {stack} for the stack's name
}

// alertSorts is the table of all kinds that something raises. A new kind is a line here
// and whatever raises it.
var alertSorts = []AlertSort{
	{AlertDeploy, false, "a deployment failed, or somebody rolled back", "ssh mesh deployments -a {stack}"},
	{AlertCrash, false, "an instance keeps crashing", "ssh mesh logs -a {stack} -n 100"},
	{AlertOOM, false, "an instance was killed because memory ran out", "ssh mesh svc -a {stack}"},
	{AlertMissing, false, "an instance does not run, or fails its check", "ssh mesh diagnose -a {stack}"},
	{AlertErrors, false, "too many requests are answered with 5xx", "ssh mesh logs -a {stack} --source router"},
	{AlertSlow, false, "requests take too long", "ssh mesh ps -a {stack}"},
	{AlertMemory, false, "an instance is near its memory limit", "ssh mesh svc -a {stack}"},
	{AlertCert, false, "a certificate expires soon, or cannot be obtained", "ssh mesh certs -a {stack}"},
	{AlertCron, false, "a run of a job failed", "ssh mesh cron -a {stack}"},
	{AlertDisk, true, "a disk of the server is nearly full", "ssh mesh gc --dry-run"},
	{AlertBackup, true, "a backup failed, or none was made in time", "ssh mesh backup > mesh.tar"},
	{AlertAddon, true, "an add-on does not run, or its connections are used up", "ssh mesh addons"},
	{AlertEngine, true, "the Docker Engine does not answer", "ssh mesh doctor"},
	{AlertNode, true, "a node does not answer, or cannot be used", "ssh mesh nodes"},
}

// AlertSorts returns all kinds of alerts, in the order that people read them in.
func AlertSorts() []AlertSort { return slices.Clone(alertSorts) }

// ParseAlertKinds reads kinds of alerts with commas between them, as --on takes them.
// The error lists the kinds there are. Each kind is returned once.
func ParseAlertKinds(s string) (kinds []AlertKind, err error) {
	var all []string
	for _, a := range alertSorts {
		all = append(all, string(a.Kind))
	}
	for word := range strings.SplitSeq(s, ",") {
		word = strings.ToLower(strings.TrimSpace(word))
		switch {
		case word == "":
			continue
		case !slices.Contains(all, word):
			return nil, Errorf(Invalid, "there is no kind of alert %q", Clip(word, 40)).WithHint("use %s", strings.Join(all, ", "))
		}
		if !slices.Contains(kinds, AlertKind(word)) {
			kinds = append(kinds, AlertKind(word))
		}
	}
	if len(kinds) == 0 {
		return nil, Errorf(Invalid, "no kind of alert is named").WithHint("use %s", strings.Join(all, ", "))
	}
	return kinds, nil
}

// Alert is a cause that mesh tells people about, from when it began until it is over.
type Alert struct {
	Number  uint64 // counts from 1; given by the store, and 0 before
	Kind    AlertKind
	Stack   StackName // empty: the server
	About   string    // what of the stack or the server: "web.1", a host, a folder; may be empty
	Text    string    // what happened, as a sentence without a full stop
	Since   time.Time
	Count   int       // how often it has happened since; at least 1
	Ended   time.Time // zero: it is open
	Outcome string    // how it ended, in the form of Text
}

// Open reports whether the cause persists.
func (a Alert) Open() bool { return a.Ended.IsZero() }

// AlertCause identifies what an alert is about: there is at most one open alert a cause.
type AlertCause struct {
	Kind  AlertKind
	Stack StackName
	About string
}

// Cause returns what the alert is about.
func (a Alert) Cause() AlertCause { return AlertCause{a.Kind, a.Stack, a.About} }

// Next returns the command to type next.
func (a Alert) Next() string {
	switch {
	case a.Kind == AlertCron && a.About != "":
		return fmt.Sprintf("ssh mesh cron:logs -a %s %s", a.Stack, a.About)
	case a.Kind == AlertBackup && a.About == string(BackupMesh): // it has a schedule
		return "ssh mesh backup:schedule"
	case a.Kind == AlertBackup && a.About != "":
		if v, ok := BackupSubject(a.About).Volume(); ok {
			return fmt.Sprintf("ssh mesh volumes:schedule %s", v)
		}
		return fmt.Sprintf("ssh mesh addons:schedule %s", a.About)
	case a.Kind == AlertAddon && a.About != "":
		return fmt.Sprintf("ssh mesh addons:info %s", a.About)
	}
	for _, s := range alertSorts {
		if s.Kind == a.Kind {
			return strings.ReplaceAll(s.next, "{stack}", string(a.Stack))
		}
	}
	return "ssh mesh alerts"
}

// Whose returns the stack, or "the server".
func (a Alert) Whose() string {
	if a.Stack == "" {
		return "the server"
	}
	return string(a.Stack)
}

// String returns the alert as a sentence without a full stop: "shop: web.1 crashed 3
// times in a row".
func (a Alert) String() string {
	text := a.Text
	if !a.Open() && a.Outcome != "" {
		text = a.Outcome
	}
	return fmt.Sprintf("%s: %s", a.Whose(), text)
}
