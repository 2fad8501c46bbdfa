package mesh

import "time"

// ServerInfo describes a server.
type ServerInfo struct {
	Version   string
	Started   time.Time
	SSH       string // addresses that it listens on
	HTTP      string
	Admin     string // empty: off
	Domain    string
	Data      string // the data directory
	DiskFree  uint64 // bytes
	Engine    string // version of the Docker Engine; empty if it does not answer
	EngineAPI string
	Git       string // version
	HostKey   string // fingerprint
}

// Finding is one thing that the doctor has checked.
type Finding struct {
	OK   bool
	What string // "the Docker Engine answers (20.10.24)"
	Mend string // how to fix it, if it is not OK
}

// Successor is a process that has taken over from this one.
type Successor struct {
	PID     int
	Version string
}
