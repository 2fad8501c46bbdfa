package mesh

import (
	"net/netip"
	"time"
)

// Target is an instance as the router sees it. Targets with the same ID are the
// same: an address can later belong to another container.
type Target struct {
	ID   string
	Name InstanceName
	Addr netip.AddrPort
}

// Route is all traffic of a stack: its hosts and TCP ports, and where they lead.
type Route struct {
	Stack   StackName
	Hosts   []Host
	Targets []Target   // of web, and of the services of Endpoints, Ports and Doors
	Down    DownReason // why web has no targets, if that is intended

	Endpoints []Endpoint                 // of Hosts: what services other than web get
	Ports     []TCPPort                  // of the machine: their connections go to a service
	Doors     []Door                     // from the stacks that are linked to this one
	Idle      map[ServiceName]DownReason // Down of those services; of web in maintenance
	Spared    []netip.Prefix             // clients that Maintenance does not concern

	FirstByte time.Duration // how long an instance may take to begin an answer; 0: the router's default
	Redirects map[Host]Host // of Hosts: requests for the first are redirected to the second
	Page      string        // HTML for browsers in maintenance; empty: the router's own
	Access    AccessRules   // which requests are refused; they must not change any more
	Wake      time.Duration // how long a request may wait until the stack is awake; only with Asleep
	Ignored   []string      // patterns of User-Agents that neither wake the stack nor keep it awake
	Trial     *Trial        // a release beside the current one; nil: none
}

// DownReason is the reason why a stack serves nothing, if that is intended.
type DownReason string

// The reasons. With NotDown and no targets, requests wait for one.
const (
	NotDown      DownReason = ""
	NotDeployed  DownReason = "not deployed"
	StoppedStack DownReason = "stopped"
	Asleep       DownReason = "asleep"      // the next request wakes it
	Maintenance  DownReason = "maintenance" // overrides all targets, of all services, except for Spared
)
