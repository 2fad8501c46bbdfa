package mesh

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Stack is what a remote is pushed to: one repository, one config, several
// services, one current release. It is a value: a copy read from the store is
// never changed by anyone.
type Stack struct {
	Name       StackName
	Created    time.Time
	CreatedBy  KeyName
	Config     Config    // what the next release gets
	Formation  Formation // instances wanted, where somebody has said so
	Settings   Settings
	Services   map[ServiceName]ServiceSettings // set by svc:update
	Release    []string                        // the release command line set by stacks:set-release-command; nil: the Procfile's
	Current    ReleaseNumber                   // 0 before the first release
	Stopped    bool                            // ps:stop
	Maintained bool                            // maintenance:on: requests get 503
	Page       string                          // HTML that browsers get then; empty: mesh's own
	Lock       *Lock                           // nil: releases may be made
	Subnet     netip.Prefix                    // of the stack's own network
	Redirects  map[Host]Host                   // of Domains: those that lead to another host of the stack
	Domains    []Host                          // added ones; the stack's own name under the base domain is not among them
	LastNumber DeploymentNumber                // the last deployment begun
}

// Lock freezes the releases of a stack.
type Lock struct {
	By    KeyName
	Since time.Time
	Why   string // may be empty
}

// Settings are a stack's build and check settings. The zero value means the
// documented defaults.
type Settings struct {
	Branch       string        // the deploy branch; empty until the first push sets it
	Dockerfile   string        // path in the tree; empty: "Dockerfile"
	Health       string        // path that must answer 2xx or 3xx; empty: any answer but 5xx at /
	CheckTimeout time.Duration // how long an instance may take to become healthy; 0: DefaultCheckTimeout
	Drain        time.Duration // how long requests in flight may take when an instance retires; 0: DefaultDrain
	StopTimeout  time.Duration // from SIGTERM to SIGKILL; 0: DefaultStopTimeout
	FirstByte    time.Duration // how long an app may take to begin an answer; 0: DefaultFirstByte
}

// Defaults of Settings.
const (
	DefaultCheckTimeout = 60 * time.Second
	DefaultDrain        = 30 * time.Second
	DefaultStopTimeout  = 30 * time.Second
	DefaultFirstByte    = 60 * time.Second
	DefaultDockerfile   = "Dockerfile"
)

// ServiceSettings are what svc:update says of a service. Zero fields say nothing.
type ServiceSettings struct {
	Command string
	Memory  int64   // bytes
	CPUs    float64 // cores
}

// Formation is how many instances of each service are wanted.
type Formation map[ServiceName]int

// Clone returns a copy that may be changed.
func (f Formation) Clone() Formation {
	if f == nil {
		return Formation{}
	}
	return maps.Clone(f)
}

// Services returns the services in the order that people read them in.
func (f Formation) Services() []ServiceName {
	return slices.SortedFunc(maps.Keys(f), CompareServices)
}

// Total is the number of instances in all.
func (f Formation) Total() (n int) {
	for _, k := range f {
		n += k
	}
	return n
}

// Release is image, config, formation and commands under a number. It is never
// changed once it is recorded.
type Release struct {
	Stack       StackName
	Number      ReleaseNumber
	Created     time.Time
	By          KeyName
	Description string // "Deploy 1a2b3c4", "Set GREETING", "Rollback to v3"
	Deployment  DeploymentNumber
	Commit      Commit // what the image was built from; empty when not from git
	Image       Image
	Config      Config
	Formation   Formation
	Services    map[ServiceName]Service
}

// Service is how a release runs one kind of process.
type Service struct {
	Command string  // as written; empty: the image's own ENTRYPOINT and CMD
	From    string  // where the command comes from: "image", "Procfile", "svc:update"
	Memory  int64   // bytes; 0: no limit
	CPUs    float64 // cores; 0: no limit
}

// DeploymentKind says what a deployment was asked for.
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
)

// DeploymentStatus is how far a deployment has come.
type DeploymentStatus string

// The states of a deployment: the first two are on the way, the others final.
const (
	StatusWaiting   DeploymentStatus = "waiting"
	StatusRunning   DeploymentStatus = "running"
	StatusLive      DeploymentStatus = "live"
	StatusFailed    DeploymentStatus = "failed"
	StatusCancelled DeploymentStatus = "cancelled"
	StatusDryRun    DeploymentStatus = "dry run"
)

// Final tells whether the status changes no more.
func (s DeploymentStatus) Final() bool { return s != StatusWaiting && s != StatusRunning }

// Deployment is one attempt to make a new release current, or to start the
// current one anew.
type Deployment struct {
	Stack   StackName
	Number  DeploymentNumber
	Kind    DeploymentKind
	By      KeyName
	Commit  Commit
	Subject string // the commit's first line, or what was changed
	Created time.Time
	Ended   time.Time // zero while not final
	Status  DeploymentStatus
	Release ReleaseNumber // what it made, once live
	Reason  string        // why it failed, in one line
}

// RepoState is what a stack's repository has to agree with.
type RepoState struct {
	Branch string // empty: no push yet
	Commit Commit // of the current release; empty: none
}

// Scale is a change of one service's number of instances.
type Scale struct {
	Service ServiceName
	To      int
	By      bool // To is added to what there is
}
