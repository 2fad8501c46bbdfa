package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"mesh"
)

// The stored forms. They are separate structs, each with a version, so that the live
// types can change and old records can still be read. Fields are only ever added,
// with a zero value that means what their absence meant.

func fromNumber(k []byte) uint64 { return binary.BigEndian.Uint64(k) }

type stackForm struct {
	V         int                    `json:"v"`
	Name      string                 `json:"name"`
	Created   time.Time              `json:"created"`
	CreatedBy string                 `json:"created_by,omitempty"`
	Config    []byte                 `json:"config,omitempty"` // reference into the stack's configs
	Formation map[string]int         `json:"formation,omitempty"`
	Settings  settingsForm           `json:"settings"`
	Declared  settingsForm           `json:"declared,omitzero"`
	Services  map[string]serviceForm `json:"services,omitempty"`
	Release   []string               `json:"release_command,omitempty"`
	Current   int                    `json:"current,omitempty"`
	Stopped   bool                   `json:"stopped,omitempty"`
	Maintain  bool                   `json:"maintenance,omitempty"`
	Spared    []string               `json:"maintenance_allow,omitempty"`
	Lock      *lockForm              `json:"lock,omitempty"`
	Subnet    string                 `json:"subnet,omitempty"`
	Domains   []string               `json:"domains,omitempty"`
	Redirects map[string]string      `json:"redirects,omitempty"`
	Page      string                 `json:"page,omitempty"`
	Endpoints []endpointForm         `json:"endpoints,omitempty"`
	Ports     []portForm             `json:"tcp_ports,omitempty"`
	Access    *accessForm            `json:"access,omitempty"`
	Alerts    alertRulesForm         `json:"alerts,omitzero"`
	Links     []linkForm             `json:"links,omitempty"`
	Addons    []attachmentForm       `json:"addons,omitempty"`
	Volumes   []volumeUseForm        `json:"volumes,omitempty"`
	Last      int                    `json:"last_deployment,omitempty"`
	Was       string                 `json:"was,omitempty"`

	Asleep         time.Time    `json:"asleep,omitzero"`
	Forge          *forgeForm   `json:"forge,omitempty"`
	Staged         *stagedForm  `json:"staged,omitempty"`
	Preview        *previewForm `json:"preview,omitempty"`
	ProductionOnly []string     `json:"production_only,omitempty"`
	PreviewConfig  []byte       `json:"preview_config,omitempty"` // reference, as Config
}

// forgeForm is the stored form of mesh.Forge. Its secrets are sealed.
type forgeForm struct {
	URL     string         `json:"url"`
	Branch  string         `json:"branch,omitempty"`
	Kind    mesh.ForgeKind `json:"kind,omitempty"`
	Secret  []byte         `json:"secret"`
	Token   []byte         `json:"token,omitempty"`
	Pending []string       `json:"pending,omitempty"`
	Event   time.Time      `json:"event,omitzero"`
	FaultAt time.Time      `json:"fault_at,omitzero"`
	Fault   string         `json:"fault,omitempty"`
}

// stagedForm has the fields of mesh.Staged.
type stagedForm struct {
	Release    mesh.ReleaseNumber    `json:"release"`
	Deployment mesh.DeploymentNumber `json:"deployment"`
	By         mesh.KeyName          `json:"by,omitempty"`
	Since      time.Time             `json:"since"`
	Until      time.Time             `json:"until"`
}

// previewForm has the fields of mesh.Preview.
type previewForm struct {
	Of     mesh.StackName `json:"of"`
	Branch string         `json:"branch"`
	Pushed time.Time      `json:"pushed"`
	Kept   bool           `json:"kept,omitempty"`
}

func (f *stackForm) check(key []byte) error {
	if f.Subnet != "" {
		if _, err := netip.ParsePrefix(f.Subnet); err != nil {
			return fmt.Errorf("its subnet is %q", mesh.Clip(f.Subnet, 60))
		}
	}
	return errors.Join(checkVersion(f.V), checkKey(key, f.Name), checkPrefixes("its maintenance allows", f.Spared), f.Access.check())
}

// alertRulesForm has the fields of mesh.AlertRules.
type alertRulesForm struct {
	Deploy   int           `json:"deploy,omitempty"`
	Crash    int           `json:"crash,omitempty"`
	OOM      int           `json:"oom,omitempty"`
	Missing  time.Duration `json:"missing_ns,omitempty"`
	Errors   float64       `json:"errors,omitempty"`
	Slow     time.Duration `json:"slow_ns,omitempty"`
	Requests int           `json:"requests,omitempty"`
	For      time.Duration `json:"for_ns,omitempty"`
	Memory   float64       `json:"memory,omitempty"`
	Cert     time.Duration `json:"cert_ns,omitempty"`
}

type endpointForm struct {
	Host    string `json:"host"`
	Path    string `json:"path"`
	Service string `json:"service"`
	Strip   bool   `json:"strip,omitempty"`
}

type linkForm struct {
	To      string `json:"to"`
	Service string `json:"service"`
	As      string `json:"as"`
}

type attachmentForm struct {
	Addon string `json:"addon"`
	As    string `json:"as"`
	Parts bool   `json:"parts,omitempty"`
}

// volumeUseForm has the fields of mesh.VolumeUse.
type volumeUseForm struct {
	Volume  string `json:"volume"`
	Service string `json:"service"`
	Path    string `json:"path"`
	Shared  bool   `json:"shared,omitempty"`
}

type portForm struct {
	Number  uint16 `json:"port"`
	Service string `json:"service"`
}

type lockForm struct {
	By    string    `json:"by,omitempty"`
	Since time.Time `json:"since"`
	Why   string    `json:"why,omitempty"`
}

type settingsForm struct {
	Branch         string        `json:"branch,omitempty"`
	Dockerfile     string        `json:"dockerfile,omitempty"`
	Health         string        `json:"health,omitempty"`
	CheckTimeout   time.Duration `json:"check_timeout_ns,omitempty"`
	Drain          time.Duration `json:"drain_ns,omitempty"`
	UpgradedDrain  time.Duration `json:"upgraded_drain_ns,omitempty"`
	StopTimeout    time.Duration `json:"stop_timeout_ns,omitempty"`
	FirstByte      time.Duration `json:"first_byte_ns,omitempty"`
	ReleaseTimeout time.Duration `json:"release_timeout_ns,omitempty"`

	Root          string   `json:"root,omitempty"`
	Context       string   `json:"context,omitempty"`
	Target        string   `json:"target,omitempty"`
	Packages      []string `json:"packages,omitempty"`
	BuildPackages []string `json:"build_packages,omitempty"`
	BaseImage     string   `json:"base_image,omitempty"`
	BuildCommand  string   `json:"build_command,omitempty"`
	Language      string   `json:"language_version,omitempty"`
	Install       string   `json:"install_command,omitempty"`
	Output        string   `json:"output,omitempty"`
	BuildArgs     []string `json:"build_args,omitempty"`
	ImageTag      string   `json:"image_tag,omitempty"`
	StartCommand  string   `json:"start_command,omitempty"`
	User          string   `json:"user,omitempty"`
	Pull          *bool    `json:"pull,omitempty"`
	Watch         []string `json:"watch,omitempty"`
	ShowCommand   *bool    `json:"show_command,omitempty"`
	BuildNode     string   `json:"build_node,omitempty"`

	LogSize int64         `json:"log_size,omitempty"`
	LogAge  time.Duration `json:"log_age_ns,omitempty"`
	LogRate int           `json:"log_rate,omitempty"`

	Sleep         time.Duration `json:"sleep_ns,omitempty"`
	SleepServices string        `json:"sleep_services,omitempty"`
	SleepIgnore   []string      `json:"sleep_ignore,omitempty"`

	Canary     string        `json:"canary,omitempty"`
	CanaryStep time.Duration `json:"canary_step_ns,omitempty"`

	Previews    []string      `json:"previews,omitempty"`
	PreviewsTTL time.Duration `json:"previews_ttl_ns,omitempty"`
	PreviewsMax int           `json:"previews_max,omitempty"`

	PreviewsAddons mesh.PreviewsAddons `json:"previews_addons,omitempty"`
}

type serviceForm struct {
	Command string  `json:"command,omitempty"`
	From    string  `json:"from,omitempty"`
	Memory  int64   `json:"memory,omitempty"`
	CPUs    float64 `json:"cpus,omitempty"`

	StopTimeout time.Duration `json:"stop_timeout_ns,omitempty"`
	On          []string      `json:"on,omitempty"`
	Config      []byte        `json:"config,omitempty"` // reference into the stack's configs
}

// refs returns the configs that a record uses, the stack's or the release's first.
func (f *stackForm) refs() [][]byte {
	return append(configRefs(f.Config, f.Services), f.PreviewConfig)
}
func (f *releaseForm) refs() [][]byte { return append(configRefs(f.Config, f.Services), f.Global) }

func configRefs(own []byte, services map[string]serviceForm) [][]byte {
	refs := [][]byte{own}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		refs = append(refs, services[name].Config)
	}
	return refs
}

func storeStack(s mesh.Stack, config []byte) *stackForm {
	f := &stackForm{
		V: 1, Name: string(s.Name), Created: s.Created, CreatedBy: string(s.CreatedBy), Config: config,
		Formation: storeFormation(s.Formation), Settings: settingsForm(s.Settings), Declared: settingsForm(s.Declared), Release: s.ReleaseCommand,
		Current: int(s.Current), Stopped: s.Stopped, Maintain: s.Maintained, Last: int(s.LastNumber), Was: string(s.Was),
		Alerts: alertRulesForm(s.Alerts), Asleep: s.Asleep, Staged: (*stagedForm)(s.Staged), Preview: (*previewForm)(s.Preview), ProductionOnly: s.ProductionOnly, // the config of previews comes later
	}
	if s.Lock != nil {
		f.Lock = &lockForm{By: string(s.Lock.By), Since: s.Lock.Since, Why: s.Lock.Why}
	}
	if s.Subnet.IsValid() {
		f.Subnet = s.Subnet.String()
	}
	for _, h := range s.Domains {
		f.Domains = append(f.Domains, string(h))
	}
	f.Page, f.Spared = s.Page, texts(s.Spared)
	for _, e := range s.Endpoints {
		f.Endpoints = append(f.Endpoints, endpointForm{Host: string(e.Host), Path: e.Path, Service: string(e.Service), Strip: e.Strip})
	}
	for _, l := range s.Links {
		f.Links = append(f.Links, linkForm{To: string(l.To), Service: string(l.Service), As: l.As})
	}
	for _, a := range s.Addons {
		f.Addons = append(f.Addons, attachmentForm{string(a.Addon), a.As, a.Parts})
	}
	for _, u := range s.Volumes {
		f.Volumes = append(f.Volumes, volumeUseForm{string(u.Volume), string(u.Service), u.Path, u.Shared})
	}
	for _, p := range s.Ports {
		f.Ports = append(f.Ports, portForm{p.Number, string(p.Service)})
	}
	for from, to := range s.Redirects {
		if f.Redirects == nil {
			f.Redirects = map[string]string{}
		}
		f.Redirects[string(from)] = string(to)
	}
	if len(s.Services) > 0 {
		f.Services = map[string]serviceForm{}
		for n, v := range s.Services {
			f.Services[string(n)] = serviceForm{Command: v.Command, Memory: v.Memory, CPUs: v.CPUs, StopTimeout: v.StopTimeout, On: v.On} // its config comes later
		}
	}
	return f
}

func (f stackForm) stack(cfg mesh.Config) mesh.Stack {
	s := mesh.Stack{
		Name: mesh.StackName(f.Name), Created: f.Created, CreatedBy: mesh.KeyName(f.CreatedBy), Config: cfg,
		Formation: readFormation(f.Formation), Settings: mesh.Settings(f.Settings), Declared: mesh.Settings(f.Declared), ReleaseCommand: f.Release,
		Current: mesh.ReleaseNumber(f.Current), Stopped: f.Stopped, Maintained: f.Maintain, LastNumber: mesh.DeploymentNumber(f.Last), Was: mesh.StackName(f.Was),
		Alerts: mesh.AlertRules(f.Alerts), Asleep: f.Asleep, Staged: (*mesh.Staged)(f.Staged), Preview: (*mesh.Preview)(f.Preview), ProductionOnly: f.ProductionOnly,
	}
	if f.Lock != nil {
		s.Lock = &mesh.Lock{By: mesh.KeyName(f.Lock.By), Since: f.Lock.Since, Why: f.Lock.Why}
	}
	s.Subnet, _ = netip.ParsePrefix(f.Subnet) // absent: the zero prefix
	for _, h := range f.Domains {
		s.Domains = append(s.Domains, mesh.Host(h))
	}
	s.Page = f.Page
	for _, l := range f.Links {
		s.Links = append(s.Links, mesh.Link{To: mesh.StackName(l.To), Service: mesh.ServiceName(l.Service), As: l.As})
	}
	for _, u := range f.Volumes {
		s.Volumes = append(s.Volumes, mesh.VolumeUse{Volume: mesh.VolumeName(u.Volume), Service: mesh.ServiceName(u.Service), Path: u.Path, Shared: u.Shared})
	}
	for _, a := range f.Addons {
		s.Addons = append(s.Addons, mesh.Attachment{Addon: mesh.AddonName(a.Addon), As: a.As, Parts: a.Parts})
	}
	s.Spared, _ = prefixes(f.Spared) // check has read them
	for _, e := range f.Endpoints {
		s.Endpoints = append(s.Endpoints, mesh.Endpoint{Host: mesh.Host(e.Host), Path: e.Path, Service: mesh.ServiceName(e.Service), Strip: e.Strip})
	}
	for _, p := range f.Ports {
		s.Ports = append(s.Ports, mesh.TCPPort{Number: p.Number, Service: mesh.ServiceName(p.Service)})
	}
	for from, to := range f.Redirects {
		if s.Redirects == nil {
			s.Redirects = map[mesh.Host]mesh.Host{}
		}
		s.Redirects[mesh.Host(from)] = mesh.Host(to)
	}
	if len(f.Services) > 0 {
		s.Services = map[mesh.ServiceName]mesh.ServiceSettings{}
		for n, v := range f.Services {
			s.Services[mesh.ServiceName(n)] = mesh.ServiceSettings{Command: v.Command, Memory: v.Memory, CPUs: v.CPUs, StopTimeout: v.StopTimeout, On: v.On}
		}
	}
	return s
}

func storeFormation(f mesh.Formation) map[string]int {
	if f == nil {
		return nil
	}
	m := make(map[string]int, len(f))
	for k, n := range f {
		m[string(k)] = n
	}
	return m
}

func readFormation(m map[string]int) mesh.Formation {
	f := make(mesh.Formation, len(m))
	for k, n := range m {
		f[mesh.ServiceName(k)] = n
	}
	return f
}

type imageForm struct {
	ID         string   `json:"id"`
	Ref        string   `json:"ref,omitempty"`
	Digest     string   `json:"digest,omitempty"`
	Size       int64    `json:"size,omitempty"`
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	Shell      bool     `json:"shell,omitempty"`

	Work mesh.Work `json:"-"` // how it was built is in the deployment's output
}

type releaseForm struct {
	V           int                    `json:"v"`
	Number      int                    `json:"number"`
	Created     time.Time              `json:"created"`
	By          string                 `json:"by,omitempty"`
	Description string                 `json:"description,omitempty"`
	Deployment  int                    `json:"deployment,omitempty"`
	Commit      string                 `json:"commit,omitempty"`
	Elsewhere   bool                   `json:"elsewhere,omitempty"`
	Staged      bool                   `json:"staged,omitempty"`
	Source      string                 `json:"source,omitempty"`
	Commands    map[string]string      `json:"commands,omitempty"`
	Files       map[string]string      `json:"files,omitempty"`
	Declared    settingsForm           `json:"declared,omitzero"`
	Jobs        []jobForm              `json:"jobs,omitempty"`
	Image       imageForm              `json:"image"`
	Config      []byte                 `json:"config,omitempty"`
	Global      []byte                 `json:"global,omitempty"` // reference, as Config
	Formation   map[string]int         `json:"formation,omitempty"`
	Services    map[string]serviceForm `json:"services,omitempty"`
	Procfile    map[string]string      `json:"procfile,omitempty"` // of an earlier mesh, not used
}

func (f *releaseForm) check(key []byte) error {
	return errors.Join(checkVersion(f.V), checkNumber(key, f.Number), checkJobs(f.Jobs))
}

func storeRelease(r mesh.Release, config []byte) *releaseForm {
	f := &releaseForm{
		V: 1, Number: int(r.Number), Created: r.Created, By: string(r.By), Description: r.Description,
		Deployment: int(r.Deployment), Commit: string(r.Commit), Image: imageForm(r.Image), Config: config,
		Elsewhere: r.Elsewhere, Staged: r.Staged, Source: r.Source, Formation: storeFormation(r.Formation), Services: map[string]serviceForm{},
	}
	f.Commands, f.Files, f.Declared = storeByService(r.Declared.Commands), storeByService(r.Declared.Files), settingsForm(r.Declared.Settings)
	f.Jobs = storeJobs(r.Declared.Jobs)
	for n, v := range r.Services {
		f.Services[string(n)] = serviceForm{Command: v.Command, From: v.From, Memory: v.Memory, CPUs: v.CPUs, StopTimeout: v.StopTimeout, On: v.On} // its config comes later
	}
	return f
}

func (f releaseForm) release(stack mesh.StackName, cfg mesh.Config) mesh.Release {
	r := mesh.Release{
		Stack: stack, Number: mesh.ReleaseNumber(f.Number), Created: f.Created, By: mesh.KeyName(f.By),
		Description: f.Description, Deployment: mesh.DeploymentNumber(f.Deployment), Commit: mesh.Commit(f.Commit),
		Elsewhere: f.Elsewhere, Staged: f.Staged, Source: f.Source, Image: mesh.Image(f.Image), Config: cfg, Formation: readFormation(f.Formation),
		Services: make(map[mesh.ServiceName]mesh.Service, len(f.Services)),
	}
	for n, v := range f.Services {
		r.Services[mesh.ServiceName(n)] = mesh.Service{Command: v.Command, From: v.From, Memory: v.Memory, CPUs: v.CPUs, StopTimeout: v.StopTimeout, On: v.On}
	}
	r.Declared = mesh.Declared{Commands: readByService(f.Commands), Files: readByService(f.Files), Settings: mesh.Settings(f.Declared), Jobs: readJobs(f.Jobs)}
	return r
}

func storeByService(m map[mesh.ServiceName]string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for name, s := range m {
		out[string(name)] = s
	}
	return out
}

func readByService(m map[string]string) map[mesh.ServiceName]string {
	if m == nil {
		return nil
	}
	out := make(map[mesh.ServiceName]string, len(m))
	for name, s := range m {
		out[mesh.ServiceName(name)] = s
	}
	return out
}

type deploymentForm struct {
	V       int       `json:"v"`
	Number  int       `json:"number"`
	Kind    string    `json:"kind"`
	By      string    `json:"by,omitempty"`
	Commit  string    `json:"commit,omitempty"`
	Subject string    `json:"subject,omitempty"`
	Created time.Time `json:"created"`
	Ended   time.Time `json:"ended,omitzero"`
	Status  string    `json:"status"`
	Release int       `json:"release,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

func (f *deploymentForm) check(key []byte) error {
	return errors.Join(checkVersion(f.V), checkNumber(key, f.Number),
		checkOneOf("its status", f.Status, mesh.StatusWaiting, mesh.StatusRunning, mesh.StatusLive, mesh.StatusFailed,
			mesh.StatusCancelled, mesh.StatusStaged, mesh.StatusDryRun, mesh.StatusSkipped, formerDryRun),
		checkOneOf("its kind", f.Kind, mesh.DeployPush, mesh.DeployConfig, mesh.DeployScale, mesh.DeployRestart, mesh.DeployStart,
			mesh.DeployStop, mesh.DeployRollback, mesh.DeployServices, mesh.DeployRebuild, mesh.DeployUpload, mesh.DeployImage,
			mesh.DeployPromote, mesh.DeployRename, mesh.DeploySwitch))
}

// formerDryRun is what earlier versions recorded for StatusDryRun.
const formerDryRun mesh.DeploymentStatus = "dry run"

func storeDeployment(d mesh.Deployment) *deploymentForm {
	return &deploymentForm{
		V: 1, Number: int(d.Number), Kind: string(d.Kind), By: string(d.By), Commit: string(d.Commit), Subject: d.Subject,
		Created: d.Created, Ended: d.Ended, Status: string(d.Status), Release: int(d.Release), Reason: d.Reason,
	}
}

func (f deploymentForm) deployment(stack mesh.StackName) mesh.Deployment {
	if f.Status == string(formerDryRun) {
		f.Status = string(mesh.StatusDryRun)
	}
	return mesh.Deployment{
		Stack: stack, Number: mesh.DeploymentNumber(f.Number), Kind: mesh.DeploymentKind(f.Kind), By: mesh.KeyName(f.By),
		Commit: mesh.Commit(f.Commit), Subject: f.Subject, Created: f.Created, Ended: f.Ended,
		Status: mesh.DeploymentStatus(f.Status), Release: mesh.ReleaseNumber(f.Release), Reason: f.Reason,
	}
}

type keyForm struct {
	V           int       `json:"v"`
	Name        string    `json:"name"`
	Role        string    `json:"role"`
	Stacks      []string  `json:"stacks,omitempty"`
	Public      string    `json:"public"`
	Fingerprint string    `json:"fingerprint"`
	Added       time.Time `json:"added"`
	AddedBy     string    `json:"added_by,omitempty"`
	Principals  []string  `json:"principals,omitempty"` // of a certificate authority
	Token       string    `json:"token,omitempty"`      // the hash of an access token
	Expires     time.Time `json:"expires,omitzero"`
}

func (f *keyForm) check(key []byte) error {
	return errors.Join(checkVersion(f.V), checkKey(key, f.Name), checkOneOf("its role", f.Role, mesh.RoleAdmin, mesh.RoleDeploy, mesh.RoleRead))
}

func storeKey(k mesh.Key) *keyForm {
	f := &keyForm{
		V: 1, Name: string(k.Name), Role: string(k.Role), Public: k.Public,
		Fingerprint: k.Fingerprint, Added: k.Added, AddedBy: string(k.AddedBy), Principals: k.Principals,
		Token: k.Token, Expires: k.Expires,
	}
	for _, s := range k.Stacks {
		f.Stacks = append(f.Stacks, string(s))
	}
	return f
}

func (f keyForm) key() mesh.Key {
	k := mesh.Key{
		Name: mesh.KeyName(f.Name), Role: mesh.Role(f.Role), Public: f.Public,
		Fingerprint: f.Fingerprint, Added: f.Added, AddedBy: mesh.KeyName(f.AddedBy), Principals: f.Principals,
		Token: f.Token, Expires: f.Expires,
	}
	for _, s := range f.Stacks {
		k.Stacks = append(k.Stacks, mesh.StackName(s))
	}
	return k
}
