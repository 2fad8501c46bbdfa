package mesh

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Stack is what a remote is pushed to: one repository, one config, several services,
// one current release. It is a value: nobody changes a copy read from the store.
type Stack struct {
	Name       StackName
	Revision   uint64 // of the record: the larger of two that one server has read is the later; set by the store
	Created    time.Time
	CreatedBy  KeyName
	Config     Config                          // for the next release
	Formation  Formation                       // instance counts set with ps:scale
	Settings   Settings                        // set by build:set
	Declared   Settings                        // from the files of the current release's tree
	Services   map[ServiceName]ServiceSettings // set by svc:update
	Release    []string                        // the release command line set by stacks:set-release-command; nil: the Procfile's
	Current    ReleaseNumber                   // 0 before the first release
	Stopped    bool                            // ps:stop
	Maintained bool                            // maintenance:on: requests get 503
	Page       string                          // HTML for browsers during maintenance; empty: mesh's own
	Lock       *Lock                           // nil: releases may be made
	Subnet     netip.Prefix                    // of the stack's own network
	Redirects  map[Host]Host                   // of Domains: those that redirect to another host of the stack
	Domains    []Host                          // added ones, without the stack's own name under the base domain
	Endpoints  []Endpoint                      // set by svc:publish, in their order; on the stack's hosts
	Was        StackName                       // its name before a rename whose files have not been moved yet; otherwise empty
	LastNumber DeploymentNumber                // the last deployment begun
}

// Lock freezes the releases of a stack.
type Lock struct {
	By    KeyName
	Since time.Time
	Why   string // may be empty
}

// Effective returns the settings in force: build:set overrides the tree.
func (s Stack) Effective() Settings { return s.Settings.Over(s.Declared) }

// Published reports whether a service has an endpoint.
func (s Stack) Published(name ServiceName) bool {
	return slices.ContainsFunc(s.Endpoints, func(e Endpoint) bool { return e.Service == name })
}

// Settings are a stack's build and check settings. The zero value means the
// documented defaults; BuildSettings lists them with their bounds. Paths are
// relative and clean.
type Settings struct {
	Branch        string        // the deploy branch; empty until the first push sets it
	Dockerfile    string        // path below Root; empty: "Dockerfile", or what is detected if there is none
	Health        string        // path that must answer 2xx or 3xx; empty: any answer but a 5xx at /
	CheckTimeout  time.Duration // time an instance has to become healthy; 0: DefaultCheckTimeout
	Drain         time.Duration // time for open requests when an instance retires; 0: DefaultDrain
	UpgradedDrain time.Duration // the same for upgraded connections (WebSockets); 0: DefaultDrain
	StopTimeout   time.Duration // from SIGTERM to SIGKILL; 0: DefaultStopTimeout
	FirstByte     time.Duration // time an app has to begin an answer; 0: DefaultFirstByte
	ReleaseTime   time.Duration // time limit of the release command; 0: DefaultReleaseTime

	Root          string   // the folder of the tree to build; empty: the whole tree
	Context       string   // the folder that COPY sees; empty: the tree; without a Dockerfile, Root or the workspace it belongs to
	Target        string   // the stage of the Dockerfile; empty: the last
	Packages      []string // Debian packages for run time; without a Dockerfile
	BuildPackages []string // Debian packages for the build only; without a Dockerfile
	BaseImage     string   // instead of the language's own; without a Dockerfile
	BuildCommand  string   // instead of the detected one; without a Dockerfile
	StartCommand  string   // of web, unless svc:update sets one; overrides the Procfile
	User          string   // the user that runs the program; empty: the image's
	Pull          *bool    // check the registries for newer base images; nil: unset, like false
	Watch         []string // patterns; a push that changes no matching file is not built
	ShowCommand   *bool    // print the equivalent docker build command; nil: unset, like false
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

// ServiceSettings are the settings of svc:update for a service. Zero fields are
// unset.
type ServiceSettings struct {
	Command     string
	Memory      int64         // bytes
	CPUs        float64       // cores
	StopTimeout time.Duration // from SIGTERM to SIGKILL
}

// Formation is the wanted number of instances of each service.
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

// Total is the total number of instances.
func (f Formation) Total() (n int) {
	for _, k := range f {
		n += k
	}
	return n
}

// Release is an image, config, formation and commands under a number. It never
// changes once it is recorded.
type Release struct {
	Stack       StackName
	Number      ReleaseNumber
	Created     time.Time
	By          KeyName
	Description string // "Deploy 1a2b3c4", "Set GREETING", "Rollback to v3"
	Deployment  DeploymentNumber
	Commit      Commit // that the image was built from; empty if not from git
	Elsewhere   bool   // Commit is in the repository of the stack that this was promoted from
	Source      string // what the image was made from, if not from a push: "an upload of 1a2b3c4", "the image redis:7"
	Declared    Declared
	Image       Image
	Config      Config
	Formation   Formation
	Services    map[ServiceName]Service
}

// Here reports whether the release was built from a commit in the stack's own
// repository.
func (r Release) Here() bool { return r.Commit != "" && !r.Elsewhere }

// Declared is what the files of a release's tree declare: Procfile, mesh.toml,
// app.json and heroku.yml. Settings that people make with commands override it.
type Declared struct {
	Commands map[ServiceName]string // of the services, including the release command; nil: no files were read
	Files    map[ServiceName]string // the file that each of them comes from
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
	StatusDryRun    DeploymentStatus = "dry run"
	StatusSkipped   DeploymentStatus = "skipped" // it changed no watched file
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
	Release ReleaseNumber // that it made, once live
	Reason  string        // why it failed, in one line
}

// RepoState is what a stack's repository must match.
type RepoState struct {
	Branch string // empty: no push yet
	Commit Commit // of the current release; empty: the branch must not exist
}

// Scale is a change of one service's number of instances.
type Scale struct {
	Service ServiceName
	To      int
	By      bool // To is added to the current number
}
