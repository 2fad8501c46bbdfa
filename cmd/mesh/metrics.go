package main

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"mesh"
	"mesh/router"
	"mesh/router/certs"
)

// metrics holds the values of /metrics, under the names listed in docs/operating.md.
type metrics struct {
	registry    *prometheus.Registry
	deployments *prometheus.HistogramVec
	builds      *prometheus.HistogramVec
}

func newMetrics(rt *router.Router, c *certs.Certs) *metrics {
	// From a config change of half a second to a release command of an hour.
	long := []float64{.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		deployments: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mesh_deployment_duration_seconds", Help: "Deployments by their result.", Buckets: long,
		}, []string{"kind", "result"}),
		builds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mesh_build_duration_seconds", Help: "Builds by their result.", Buckets: long,
		}, []string{"result"}),
	}
	m.registry.MustRegister(m.deployments, m.builds, traffic{rt, c}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// deployed and built count finished deployments and builds.
func (m *metrics) deployed(dep mesh.Deployment) {
	m.deployments.WithLabelValues(string(dep.Kind), string(dep.Status)).Observe(dep.Ended.Sub(dep.Created).Seconds())
}

func (m *metrics) built(took time.Duration, err error) {
	result := "done"
	if err != nil {
		result = "failed"
	}
	m.builds.WithLabelValues(result).Observe(took.Seconds())
}

// traffic exports the router's own counters: counting again would cost time in each
// request.
type traffic struct {
	router *router.Router
	certs  *certs.Certs // nil without TLS
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	descStacks      = describe("mesh_stacks", "Stacks with a route.")
	descWaiting     = describe("mesh_requests_waiting", "Requests waiting for an instance.", "stack")
	descInFlight    = describe("mesh_requests_in_flight", "Requests and upgraded connections at an instance.", "stack", "instance")
	descRequests    = describe("mesh_requests_total", "Requests by the first digit of their status.", "stack", "status")
	descBytes       = describe("mesh_response_bytes_total", "Bytes of bodies sent to clients.", "stack")
	descErrors      = describe("mesh_request_errors_total", "Requests that mesh answered itself or cut off, by reason.", "stack", "code")
	descDuration    = describe("mesh_request_duration_seconds", "Duration of requests, without upgraded connections.", "stack")
	descTargets     = describe("mesh_targets", "Instances that get traffic.", "stack", "state")
	descConnections = describe("mesh_connections", "Open client connections, without upgraded ones.", "tls")
	descExpiry      = describe("mesh_certificate_expiry_seconds", "When certificates expire, in Unix time.", "host", "source")
	descStrangers   = describe("mesh_unknown_host_requests_total", "Requests for unknown hosts.")
)

func (t traffic) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descStacks, descWaiting, descInFlight, descRequests, descBytes, descErrors, descDuration, descTargets, descConnections, descStrangers, descExpiry,
	} {
		ch <- d
	}
}

// shown are the exported bounds: three per decade are enough for a graph.
var shown = []time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
}

func (t traffic) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	all := t.router.Snapshot()
	gauge(descStacks, len(all))
	for _, s := range all {
		stack := string(s.Stack)
		gauge(descWaiting, s.Waiting, stack)
		up, aside := 0, 0
		for _, tg := range s.Targets {
			gauge(descInFlight, tg.InFlight, stack, tg.Name.String())
			if tg.SetAside {
				aside++
			} else {
				up++
			}
		}
		gauge(descTargets, up, stack, "up")
		gauge(descTargets, aside, stack, "aside")
		for i, n := range s.Totals.Status {
			if i > 0 {
				count(descRequests, float64(n), stack, strconv.Itoa(i)+"xx")
			}
		}
		count(descBytes, float64(s.Totals.Bytes), stack)
		for code, n := range s.Totals.Codes {
			count(descErrors, float64(n), stack, string(code))
		}
		within := make(map[float64]uint64, len(shown))
		for _, b := range shown {
			within[b.Seconds()] = s.Totals.Within[b]
		}
		ch <- prometheus.MustNewConstHistogram(descDuration, s.Totals.Count, s.Totals.Seconds, within, stack)
		if t.certs == nil {
			continue
		}
		for _, c := range t.certs.List(s.Stack, s.Hosts) {
			if !c.Expires.IsZero() {
				gauge(descExpiry, int(c.Expires.Unix()), string(c.Host), c.Source)
			}
		}
	}
	plain, tls := t.router.Connections()
	gauge(descConnections, plain, "no")
	gauge(descConnections, tls, "yes")
	count(descStrangers, float64(t.router.UnknownHosts()))
}
