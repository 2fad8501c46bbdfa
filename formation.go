package mesh

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

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

// Scale is a change of one service's number of instances.
type Scale struct {
	Service  ServiceName
	To       int
	Relative bool // To is added to the current number
}

// String lists the services with their numbers of instances, "web=2 worker=1".
func (f Formation) String() string {
	var parts []string
	for _, s := range f.Services() {
		parts = append(parts, fmt.Sprintf("%s=%d", s, f[s]))
	}
	return strings.Join(parts, " ")
}
