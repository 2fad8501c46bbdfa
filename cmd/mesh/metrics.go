package main

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"mesh"
	"mesh/metrics"
	"mesh/router"
	"mesh/router/certs"
)

// exporter holds the values of /metrics, under the names listed in docs/metrics.md.
type exporter struct {
	registry    *prometheus.Registry
	deployments *prometheus.HistogramVec
	builds      *prometheus.HistogramVec
}

func newExporter(rt *router.Router, c *certs.Certs, latest *metrics.Sampler) *exporter {
	// From a config change of half a second to a release command of an hour.
	long := []float64{.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600}
	m := &exporter{
		registry: prometheus.NewRegistry(),
		deployments: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mesh_deployment_duration_seconds", Help: "Deployments by their result.", Buckets: long,
		}, []string{"kind", "result"}),
		builds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mesh_build_duration_seconds", Help: "Builds by their result.", Buckets: long,
		}, []string{"result"}),
	}
	m.registry.MustRegister(m.deployments, m.builds, traffic{rt, c, latest}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// deployed and built count finished deployments and builds.
func (m *exporter) deployed(dep mesh.Deployment) {
	m.deployments.WithLabelValues(string(dep.Kind), string(dep.Status)).Observe(dep.Ended.Sub(dep.Created).Seconds())
}

func (m *exporter) built(took time.Duration, err error) {
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
	latest *metrics.Sampler
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	descStacks      = describe("mesh_stacks", "Stacks with a route.")
	descWaiting     = describe("mesh_requests_waiting", "Requests waiting for an instance.", "stack", "service")
	descInFlight    = describe("mesh_requests_in_flight", "Requests and upgraded connections at an instance.", "stack", "service", "instance")
	descRequests    = describe("mesh_requests_total", "Requests by the first digit of their status.", "stack", "service", "status")
	descBytes       = describe("mesh_response_bytes_total", "Bytes of bodies sent to clients.", "stack", "service")
	descErrors      = describe("mesh_request_errors_total", "Requests that mesh answered itself or cut off, by reason.", "stack", "service", "code")
	descDuration    = describe("mesh_request_duration_seconds", "Duration of requests, without upgraded connections.", "stack", "service")
	descTargets     = describe("mesh_targets", "Instances that get traffic.", "stack", "service", "state")
	descConnections = describe("mesh_connections", "Open client connections, without upgraded ones.", "tls")
	descExpiry      = describe("mesh_certificate_expiry_seconds", "When certificates expire, in Unix time.", "host", "source")
	descCPU         = describe("mesh_instance_cpu_cores", "Processors in use, over the last 10 s.", "stack", "service", "instance")
	descMemory      = describe("mesh_instance_memory_bytes", "Memory in use, without the file cache that the kernel can drop.", "stack", "service", "instance")
	descDisk        = describe("mesh_instance_disk_bytes", "Size of the container's writable layer, measured every 15 minutes.", "stack", "service", "instance")
	descStrangers   = describe("mesh_unknown_host_requests_total", "Requests for unknown hosts.")
)

// described lists what traffic exports.
func described() []*prometheus.Desc {
	return []*prometheus.Desc{
		descStacks, descWaiting, descInFlight, descRequests, descBytes, descErrors, descDuration, descTargets, descConnections, descStrangers, descExpiry, descCPU, descMemory, descDisk,
	}
}

func (t traffic) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range described() {
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
		t.collectTargets(s, gauge)
		if _, ok := s.Services[mesh.Web]; !ok { // its counts begin at zero, not at its first request
			s.Services[mesh.Web] = router.ServiceStatus{}
		}
		for svc, of := range s.Services {
			service := string(svc)
			gauge(descWaiting, of.Waiting, stack, service)
			for i, n := range of.Totals.Status {
				if i > 0 {
					count(descRequests, float64(n), stack, service, strconv.Itoa(i)+"xx")
				}
			}
			count(descBytes, float64(of.Totals.Bytes), stack, service)
			for code, n := range of.Totals.Codes {
				count(descErrors, float64(n), stack, service, string(code))
			}
			within := make(map[float64]uint64, len(shown))
			for _, b := range shown {
				within[b.Seconds()] = of.Totals.Within[b]
			}
			ch <- prometheus.MustNewConstHistogram(descDuration, of.Totals.Count, of.Totals.Seconds, within, stack, service)
		}
		for name, m := range t.latest.Latest(s.Stack) {
			if m.Memory == 0 {
				continue // it does not run
			}
			labels := []string{stack, string(name.Service), name.String()}
			ch <- prometheus.MustNewConstMetric(descCPU, prometheus.GaugeValue, m.Cores(), labels...)
			ch <- prometheus.MustNewConstMetric(descMemory, prometheus.GaugeValue, float64(m.Memory), labels...)
			ch <- prometheus.MustNewConstMetric(descDisk, prometheus.GaugeValue, float64(m.Disk), labels...)
		}
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

// collectTargets exports what is in progress at the instances of a stack. Two containers of
// one name, while one replaces the other, are one instance.
func (traffic) collectTargets(s router.Status, gauge func(*prometheus.Desc, int, ...string)) {
	type service struct{ up, aside int }
	services, inFlight := map[mesh.ServiceName]service{}, map[mesh.InstanceName]int{}
	for _, tg := range s.Targets {
		of := services[tg.Name.Service]
		if tg.SetAside {
			of.aside++
		} else {
			of.up++
		}
		services[tg.Name.Service] = of
		inFlight[tg.Name] += tg.InFlight
	}
	for name, n := range inFlight {
		gauge(descInFlight, n, string(s.Stack), string(name.Service), name.String())
	}
	if _, ok := services[mesh.Web]; !ok {
		services[mesh.Web] = service{} // a stack without instances has none up
	}
	for svc, of := range services {
		gauge(descTargets, of.up, string(s.Stack), string(svc), "up")
		gauge(descTargets, of.aside, string(s.Stack), string(svc), "aside")
	}
}
