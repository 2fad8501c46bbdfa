package mesh

import (
	"time"
)

// DeploymentKind is what a deployment was asked to do.
type DeploymentKind string

// The kinds of deployment.
const (
	DeployPush     DeploymentKind = "push"
	DeployConfig   DeploymentKind = "config"
	DeployScale    DeploymentKind = "scale"
	DeployRestart  DeploymentKind = "restart"
	DeployStart    DeploymentKind = "start"
	DeployStop     DeploymentKind = "stop"
	DeployRollback DeploymentKind = "rollback"
	DeployServices DeploymentKind = "services"
	DeployRebuild  DeploymentKind = "rebuild"
	DeployUpload   DeploymentKind = "upload"
	DeployImage    DeploymentKind = "image"
	DeployPromote  DeploymentKind = "promote"
	DeployRename   DeploymentKind = "rename"
	DeploySwitch   DeploymentKind = "switch"
)

// DeploymentStatus is the progress of a deployment.
type DeploymentStatus string

// The states of a deployment. The first two are in progress, the others final.
const (
	StatusWaiting   DeploymentStatus = "waiting"
	StatusRunning   DeploymentStatus = "running"
	StatusLive      DeploymentStatus = "live"
	StatusFailed    DeploymentStatus = "failed"
	StatusCancelled DeploymentStatus = "cancelled"
	StatusDryRun    DeploymentStatus = "dry-run"
	StatusStaged    DeploymentStatus = "staged"  // its release waits for switch
	StatusSkipped   DeploymentStatus = "skipped" // it changed no watched file, or nothing was to be done
)

// Final reports whether the status no longer changes.
func (s DeploymentStatus) Final() bool { return s != StatusWaiting && s != StatusRunning }

// Deployment is one attempt to make a new release current, or to start the current
// one again.
type Deployment struct {
	Stack   StackName
	Number  DeploymentNumber
	Kind    DeploymentKind
	By      KeyName
	Commit  Commit
	Subject string // the commit's first line, or what was changed
	Created time.Time
	Ended   time.Time // zero if not final
	Status  DeploymentStatus
	Release ReleaseNumber // that it made, once live or staged
	Reason  string        // why it failed, in one line
}

// Outcome is what a change for all stacks has come to for one of them.
type Outcome struct {
	Stack   StackName
	Release ReleaseNumber // that it made
	Err     error         // nil: it is live
}
