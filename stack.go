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
	Revision   uint64 // of the record: of two that one server has read, the larger is the later; set by the store
	Created    time.Time
	CreatedBy  KeyName
	Config     Config                          // what the next release gets
	Formation  Formation                       // instances wanted, where somebody has said so
	Settings   Settings                        // set by build:set
	Declared   Settings                        // what the files of the current release's tree say
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
	Endpoints  []Endpoint                      // set by svc:publish, in their order; on the stack's hosts
	Was        StackName                       // its name before a rename whose files have not been moved yet; else empty
	LastNumber DeploymentNumber                // the last deployment begun
}

// Lock freezes the releases of a stack.
type Lock struct {
	By    KeyName
	Since time.Time
	Why   string // may be empty
}

// Effective is the settings in force: what build:set says wins over what the tree
// says.
func (s Stack) Effective() Settings { return s.Settings.Over(s.Declared) }

// Published tells whether a service has an endpoint.
func (s Stack) Published(name ServiceName) bool {
	return slices.ContainsFunc(s.Endpoints, func(e Endpoint) bool { return e.Service == name })
}

// Settings are a stack's build and check settings. The zero value means the
// documented defaults. Paths are relative and clean.
type Settings struct {
	Branch        string        // the deploy branch; empty until the first push sets it
	Dockerfile    string        // path below Root; empty: "Dockerfile" or, without one, what is detected
	Health        string        // path that must answer 2xx or 3xx; empty: any answer but 5xx at /
	CheckTimeout  time.Duration // how long an instance may take to become healthy; 0: DefaultCheckTimeout
	Drain         time.Duration // how long requests in flight may take when an instance retires; 0: DefaultDrain
	UpgradedDrain time.Duration // how long upgraded connections (WebSockets) may; 0: DefaultDrain
	StopTimeout   time.Duration // from SIGTERM to SIGKILL; 0: DefaultStopTimeout
	FirstByte     time.Duration // how long an app may take to begin an answer; 0: DefaultFirstByte
	ReleaseTime   time.Duration // how long the release command may take; 0: DefaultReleaseTime

	Root          string   // the folder of the tree that is built; empty: all of it
	Context       string   // the folder that COPY sees; empty: the tree, without a Dockerfile Root or what it belongs to
	Target        string   // the stage of the Dockerfile; empty: the last
	Packages      []string // Debian packages to have at run time; without a Dockerfile
	BuildPackages []string // Debian packages that only the build needs; without a Dockerfile
	BaseImage     string   // in place of the language's; without a Dockerfile
	BuildCommand  string   // in place of the detected one; without a Dockerfile
	StartCommand  string   // of web, unless svc:update has said; wins over the Procfile
	User          string   // who runs the image; empty: as the image says
	Pull          *bool    // ask the registries for newer base images; nil: not said, as false
	Watch         []string // patterns; a push that touches no file that matches is not built
	ShowCommand   *bool    // print the docker build that does the same; nil: not said, as false
}

// Defaults of Settings.
const (
	DefaultCheckTimeout = 60 * time.Second
	DefaultDrain        = 30 * time.Second
	DefaultStopTimeout  = 30 * time.Second
	DefaultReleaseTime  = time.Hour
	DefaultFirstByte    = 60 * time.Second
	DefaultDockerfile   = "Dockerfile"
)

// ServiceSettings are what svc:update says of a service. Zero fields say nothing.
type ServiceSettings struct {
	Command     string
	Memory      int64         // bytes
	CPUs        float64       // cores
	StopTimeout time.Duration // from SIGTERM to SIGKILL
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
	Elsewhere   bool   // Commit is in the repository of the stack that this was promoted from
	Source      string // what the image was made from, when not from a push: "an upload of 1a2b3c4", "the image redis:7"
	Declared    Declared
	Image       Image
	Config      Config
	Formation   Formation
	Services    map[ServiceName]Service
}

// Here tells whether the release was built from a commit in the stack's own
// repository.
func (r Release) Here() bool { return r.Commit != "" && !r.Elsewhere }

// Declared is what the files of a release's tree say: Procfile, mesh.toml, app.json
// and heroku.yml. What people set with commands wins over it.
type Declared struct {
	Commands map[ServiceName]string // of the services, the release command included; nil: none was looked for
	Files    map[ServiceName]string // which file each of them is from
	Settings Settings
}

// Service is how a release runs one kind of process.
type Service struct {
	Command string  // as written; empty: the image's own ENTRYPOINT and CMD
	From    string  // where the command comes from: "image", "svc:update", "start-command", or a file: "Procfile"
	Memory  int64   // bytes; 0: no limit
	CPUs    float64 // cores; 0: no limit

	StopTimeout time.Duration // from SIGTERM to SIGKILL; 0: the stack's
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
	DeployRebuild  DeploymentKind = "rebuild"
	DeployUpload   DeploymentKind = "upload"
	DeployImage    DeploymentKind = "image"
	DeployPromote  DeploymentKind = "promote"
	DeployRename   DeploymentKind = "rename"
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
	StatusSkipped   DeploymentStatus = "skipped" // it touched nothing that is watched
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
	Commit Commit // of the current release; empty: the branch must not exist
}

// Scale is a change of one service's number of instances.
type Scale struct {
	Service ServiceName
	To      int
	By      bool // To is added to what there is
}
