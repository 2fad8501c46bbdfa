package mesh

import (
	"time"
)

// Check defines when an instance counts as healthy.
type Check struct {
	HTTP    bool          // must answer on Port; otherwise it must stay up for Settle
	TCP     bool          // without HTTP: must accept a connection on Port, and need not stay up
	Path    string        // the path to request; empty: "/"
	Strict  bool          // only 2xx and 3xx count, instead of anything but 5xx
	Timeout time.Duration // time to become healthy
	Settle  time.Duration // how long a service without HTTP must stay up
}
