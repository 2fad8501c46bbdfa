package mesh

import (
	"net/netip"
	"slices"
	"time"
)

// Stack is what a remote is pushed to: one repository, one config, several services,
// one current release. It is a value: nobody changes a copy read from the store.
type Stack struct {
	Name           StackName
	Revision       uint64 // of the record: the larger of two that one server has read is the later; set by the store
	Created        time.Time
	CreatedBy      KeyName
	Config         Config                          // for the next release
	Formation      Formation                       // instance counts set with ps:scale
	Settings       Settings                        // set by build:set
	Declared       Settings                        // from the files of the current release's tree
	Services       map[ServiceName]ServiceSettings // set by svc:update
	ReleaseCommand []string                        // the release command line set by stacks:set-release-command; nil: the Procfile's
	Current        ReleaseNumber                   // 0 before the first release
	Stopped        bool                            // ps:stop
	Maintained     bool                            // maintenance:on: requests get 503
	Spared         []netip.Prefix                  // clients that maintenance does not concern, sorted; only if Maintained
	Page           string                          // HTML for browsers during maintenance; empty: mesh's own
	Lock           *Lock                           // nil: releases may be made
	Subnet         netip.Prefix                    // of the stack's own network
	Redirects      map[Host]Host                   // of Domains: those that redirect to another host of the stack
	Domains        []Host                          // added ones, without the stack's own name under the base domain
	Endpoints      []Endpoint                      // set by svc:publish, in their order; on the stack's hosts
	Ports          []TCPPort                       // set by svc:publish --tcp, by number
	Access         AccessRules                     // set by access:set and others
	Alerts         AlertRules                      // set by alerts:set
	Links          []Link                          // set by stacks:link, in their order; each name once
	Addons         []Attachment                    // set by addons:attach, in their order; each name once
	Volumes        []VolumeUse                     // set by volumes:attach, in their order
	Asleep         time.Time                       // since when its instances have stopped for lack of requests; zero: it is awake
	Forge          *Forge                          // set by git:follow; nil: it gets no commits but by pushes
	Staged         *Staged                         // nil: no release waits for switch
	Preview        *Preview                        // nil: a stack that nobody's branch made
	ProductionOnly []string                        // names of Config that previews do not get, sorted
	PreviewConfig  Config                          // for previews alone, over Config
	Was            StackName                       // its name before a rename whose files have not been moved yet; otherwise empty
	LastNumber     DeploymentNumber                // the last deployment begun
}

// Lock freezes the releases of a stack.
type Lock struct {
	By    KeyName
	Since time.Time
	Why   string // may be empty
}

// Effective returns the settings in force: build:set overrides the tree.
func (s Stack) Effective() Settings { return s.Settings.Over(s.Declared) }

// ConfigOf returns the config vars that the instances of a service get from the next
// release, without those of all stacks. An empty name stands for builds and for commands
// that run for no service.
func (s Stack) ConfigOf(name ServiceName) Config {
	return s.Services[name].Config.Over(s.Config)
}

// Configs returns all config vars of the stack, for masking their values.
func (s Stack) Configs() []Config {
	all := []Config{s.Config, s.PreviewConfig}
	for _, set := range s.Services {
		all = append(all, set.Config)
	}
	return all
}

// Published reports whether a service has an endpoint.
func (s Stack) Published(name ServiceName) bool {
	return slices.ContainsFunc(s.Endpoints, func(e Endpoint) bool { return e.Service == name })
}

// Link returns the link with a name.
func (s Stack) Link(as string) (Link, bool) {
	i := slices.IndexFunc(s.Links, func(l Link) bool { return l.As == as })
	if i < 0 {
		return Link{}, false
	}
	return s.Links[i], true
}

// OnPort reports whether a service has a TCP port.
func (s Stack) OnPort(name ServiceName) bool {
	return slices.ContainsFunc(s.Ports, func(p TCPPort) bool { return p.Service == name })
}
