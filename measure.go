package mesh

import (
	"time"
)

// MeasureStep is the shortest interval of a Measure.
const MeasureStep = 10 * time.Second

// Measure is what an instance, a service or a stack did and used in an interval.
// Counts and CPU are sums over the interval; InFlight, Held, Memory and Disk are the
// highest values seen in it.
type Measure struct {
	Samples  uint64    // how many times MeasureStep it covers; 0: nothing is known
	Status   [6]uint64 // requests by the first digit of their status; 0: others
	Bytes    uint64    // of bodies, sent to clients
	Latency  Latency   // without upgraded connections and TCP
	InFlight int64     // requests and upgraded connections at an instance
	Held     int64     // requests that wait for an instance
	CPU      time.Duration
	Memory   int64  // bytes, without the file cache that the kernel can drop
	Restarts uint64 // after crashes
	Disk     int64  // bytes in the writable layers of containers
}

// Beside adds what another instance or service did in the same interval.
func (m *Measure) Beside(o Measure) {
	m.count(o)
	m.Samples = max(m.Samples, o.Samples)
	m.InFlight += o.InFlight
	m.Held += o.Held
	m.Memory += o.Memory
	m.Disk += o.Disk
}

// Then adds what the same instance or service did in another interval.
func (m *Measure) Then(o Measure) {
	m.count(o)
	m.Samples += o.Samples
	m.InFlight = max(m.InFlight, o.InFlight)
	m.Held = max(m.Held, o.Held)
	m.Memory = max(m.Memory, o.Memory)
	m.Disk = max(m.Disk, o.Disk)
}

func (m *Measure) count(o Measure) {
	for i, n := range o.Status {
		m.Status[i] += n
	}
	m.Bytes += o.Bytes
	m.Latency.Merge(o.Latency)
	m.CPU += o.CPU
	m.Restarts += o.Restarts
}

// Requests returns the number of requests.
func (m *Measure) Requests() (n uint64) {
	for _, k := range m.Status {
		n += k
	}
	return n
}

// Span returns the time that the measure covers.
func (m *Measure) Span() time.Duration { return time.Duration(m.Samples) * MeasureStep } //nolint:gosec // a small number

// Rate returns the requests per second; 0 if nothing is known.
func (m *Measure) Rate() float64 {
	if m.Samples == 0 {
		return 0
	}
	return float64(m.Requests()) / m.Span().Seconds()
}

// Cores returns the processors in use, on average: 0.5 is half of one; 0 if nothing is
// known.
func (m *Measure) Cores() float64 {
	if m.Samples == 0 {
		return 0
	}
	return m.CPU.Seconds() / m.Span().Seconds()
}

// MeasureQuery selects measures of a stack.
type MeasureQuery struct {
	Stack        StackName
	Since, Until time.Time
	Points       int // at most so many intervals; 0: 120
	By           MeasureBy
}

// MeasureBy is what the measures of a stack are added up to.
type MeasureBy string

// What measures can be added up to.
const (
	ByStack    MeasureBy = "stack"
	ByService  MeasureBy = "service"
	ByInstance MeasureBy = "instance"
)

// Measures are the answer to a MeasureQuery.
type Measures struct {
	Start time.Time     // of the first interval
	Step  time.Duration // of each interval
	Rows  []MeasureRow  // by name; one of no name with ByStack
}

// MeasureRow is a stack, a service or an instance over time.
type MeasureRow struct {
	// Name has no slot for a service. With ByInstance, a row without a slot has the
	// requests that no instance of the service got. A row without a service has the
	// services beyond the limit.
	Name   InstanceName
	Points []Measure // one for each interval; one with no samples is a gap
}

// Total returns all points of the row together.
func (r MeasureRow) Total() (m Measure) {
	for _, p := range r.Points {
		m.Then(p)
	}
	return m
}

// Share is what one instance of a stack did, or, without a slot, what a service did beside
// its instances.
type Share struct {
	Stack StackName
	Name  InstanceName
	Measure
}

// Usage is what a container uses.
type Usage struct {
	CPU    time.Duration // processor time since its last start
	Memory int64         // bytes, without the file cache that the kernel can drop
}
