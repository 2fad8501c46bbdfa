package command_test

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"mesh"
)

func (f *fake) Publish(_ context.Context, stack mesh.StackName, key mesh.Key, e mesh.Endpoint, _ io.Writer) error {
	f.do("publish %s of %s at %s by %s%s", e.Service, stack, e, key.Name, map[bool]string{true: " stripped"}[e.Strip])
	return nil
}

func (f *fake) Unpublish(_ context.Context, stack mesh.StackName, service mesh.ServiceName, at *mesh.Endpoint) ([]mesh.Endpoint, []mesh.TCPPort, error) {
	f.do("unpublish %s of %s at %v", service, stack, at)
	if at != nil {
		return []mesh.Endpoint{*at}, nil, nil
	}
	return []mesh.Endpoint{{Host: "a.example", Path: "/"}, {Host: "b.example", Path: "/x"}}, []mesh.TCPPort{{Number: 6379, Service: service}}, nil
}

func (f *fake) PublishPort(_ context.Context, stack mesh.StackName, key mesh.Key, p mesh.TCPPort, _ io.Writer) error {
	f.do("publish %s of %s on %s by %s", p.Service, stack, p, key.Name)
	return nil
}

func (f *fake) UnpublishPort(_ context.Context, stack mesh.StackName, p mesh.TCPPort) error {
	f.do("unpublish %s of %s from %s", p.Service, stack, p)
	return nil
}

func (f *fake) PortFault(port uint16) string {
	if port == 6379 {
		return "port 6379 is in use"
	}
	return ""
}

func TestPublish(t *testing.T) {
	t.Parallel()
	f := full()
	for line, want := range map[string]string{
		"svc:publish -a blog worker --endpoint https://WWW.example.com/api/":     "published worker of blog at https://www.example.com/api\n",
		"service publish worker -a blog --endpoint=http://new.example.com":       "published worker of blog at https://new.example.com/\nadded new.example.com to blog\n",
		"svc:publish -a blog worker https://www.example.com/w/ --strip-prefix":   "published worker of blog at https://www.example.com/w; the app sees paths without /w\n",
		"svc:unpublish -a blog worker":                                           "unpublished worker of blog from port 6379\nunpublished worker of blog from https://a.example/\nunpublished worker of blog from https://b.example/x\n",
		"svc:publish -a blog worker --tcp 5432":                                  "published worker of blog at tcp://blog.localhost:5432\n",
		"svc:unpublish -a blog worker --tcp=:5432":                               "unpublished worker of blog from port 5432\n",
		"svc unpublish blog worker --endpoint https://blog.localhost/caf%C3%A9/": "unpublished worker of blog from https://blog.localhost/caf%C3%A9\n",
	} {
		if r := do(t, f, line); r.status != 0 || r.out != want {
			t.Errorf("%s: %d, %q, %s", line, r.status, r.out, r.err)
		}
	}
	for _, want := range []string{
		"publish worker of blog at https://www.example.com/api by laptop", "publish worker of blog at https://new.example.com/ by laptop",
		"publish worker of blog at https://www.example.com/w by laptop stripped",
		"publish worker of blog on :5432 by laptop", "unpublish worker of blog from :5432",
		"unpublish worker of blog at <nil>", "unpublish worker of blog at https://blog.localhost/caf%C3%A9",
	} {
		if !slices.Contains(f.did, want) {
			t.Errorf("%q is not among %q", want, f.did)
		}
	}
	f.did = nil
	for line, want := range map[string]string{
		"svc:publish -a blog worker":                                                    "name the endpoint: --endpoint",
		"svc:publish -a blog worker --endpoint www.example.com/api":                     "does not begin with https://",
		"svc:publish -a blog worker --endpoint https://*.example.com/":                  "not a wildcard",
		"svc:publish -a blog worker --endpoint https://example.com:8080/a":              "without a port",
		"svc:publish -a blog worker --endpoint https://example.com/a/../b":              `the part ".."`,
		"svc:publish -a blog worker --endpoint https://example.com/a?b":                 "contains ? or #",
		"svc:publish -a blog Worker --endpoint https://example.com/a":                   "not a service name",
		"svc:publish -a blog worker https://a.example/ --strip-prefix":                  "https://a.example/ has no path that could be stripped",
		"svc:publish -a blog worker https://a.example/x --endpoint https://a.example/y": "named twice",
		"svc:publish -a blog worker --tcp 0":                                            "not a port",
		"svc:publish -a blog worker --tcp ''":                                           "not a port",
		"svc:publish -a blog worker --tcp 127.0.0.1:5432":                               "all addresses",
		"svc:publish -a blog worker --tcp 5432 https://a.example/x":                     "stands alone",
		"svc:publish -a blog worker --tcp 5432 --strip-prefix":                          "stands alone",
		"svc:unpublish -a blog worker --endpoint /api":                                  "does not begin with https://",
	} {
		if r := do(t, f, line); r.status != 2 || !strings.Contains(r.err, want) {
			t.Errorf("%s: %d, %s", line, r.status, r.err)
		}
	}
	if len(f.did) != 0 {
		t.Errorf("what was refused did %q", f.did)
	}
}

// Ports are in all lists that say where a service is.
func TestPorts_AreShown(t *testing.T) {
	t.Parallel()
	f := full()
	f.stacks[0].Ports = []mesh.TCPPort{{Number: 5432, Service: "worker"}, {Number: 6379, Service: "gone"}}
	if r := do(t, f, "diagnose -a blog"); r.status != 1 || !strings.Contains(r.out, "port 6379 is not open: port 6379 is in use") || strings.Contains(r.out, "5432") {
		t.Errorf("diagnose: %d %s", r.status, r.out)
	}
	for _, tc := range []struct{ line, want string }{
		{"svc -a blog", "worker   1          Procfile     -       -     -     :5432 "},
		{"svc -a blog", "gone     0          svc:publish  -       -     -     :6379 (not open: port 6379 is in use)  (not in v2)"},
		{"svc -a blog --json", `"tcp_ports": [
      {
        "port": 6379,
        "service": "gone",
        "fault": "port 6379 is in use"
      }
    ]`},
		{"ps -a blog", "-    -      -     -    :5432, 0 open  bin/work <x>"},
		{"ps -a blog --json", `"service_tcp": {
      "ports": [
        {
          "port": 5432,
          "service": "worker"
        }
      ],
      "connections": 0
    }`},
		{"stacks:info -a blog", "TCP:        :5432 → worker\nTCP:        :6379 (not open: port 6379 is in use) → gone\n"},
		{"stacks:info -a blog --json", `"port": 5432`},
		{"urls -a blog", "tcp://blog.localhost:5432\ntcp://blog.localhost:6379\n"},
	} {
		if r := do(t, f, tc.line); r.status != 0 || !strings.Contains(r.out, tc.want) {
			t.Errorf("%s: %d\n%s%s", tc.line, r.status, r.out, r.err)
		}
	}
}

func TestServices_ShowEndpoints(t *testing.T) {
	t.Parallel()
	f := full()
	r := do(t, f, "svc -a blog")
	if strings.Contains(r.out+r.err, "ENDPOINTS") {
		t.Errorf("a column for nothing:\n%s", r.out)
	}
	f.stacks[0].Endpoints = []mesh.Endpoint{{Host: "b.example", Path: "/x", Service: "gone"}, {Host: "www.example.com", Path: "/api", Service: "worker", Strip: true}, {Host: "www.example.com", Path: "/", Service: "worker"}}
	golden(t, "svc-endpoints", func() string { r := do(t, f, "svc -a blog"); return "stdout:\n" + r.out + "stderr:\n" + r.err }())
	golden(t, "svc-endpoints.json", do(t, f, "svc -a blog --json").out)
}

// A new host is added whatever DNS says; what is wrong there is told.
func TestDomainsAdd_TellsWhatDNSLacks(t *testing.T) {
	t.Parallel()
	const own, host = "blog.apps.example.com", "www.example.com"
	for name, c := range map[string]struct {
		dns  map[string]string
		told string
	}{
		"right":                {map[string]string{own: "203.0.113.7", host: "203.0.113.7"}, ""},
		"mapped":               {map[string]string{own: "203.0.113.7", host: "::ffff:203.0.113.7"}, ""},
		"none":                 {map[string]string{own: "203.0.113.7"}, "DNS: www.example.com has no A or AAAA record yet; blog.apps.example.com leads to 203.0.113.7\n"},
		"wrong":                {map[string]string{own: "203.0.113.7", host: "198.51.100.1"}, "DNS: the A record of www.example.com leads to 198.51.100.1; blog.apps.example.com leads to 203.0.113.7\n"},
		"one of two wrong":     {map[string]string{own: "203.0.113.7", host: "203.0.113.7 2001:db8::1"}, "DNS: the AAAA record of www.example.com leads to 2001:db8::1; blog.apps.example.com leads to 203.0.113.7\n"},
		"DNS is away":          {map[string]string{own: "203.0.113.7", host: "broken"}, "DNS: www.example.com cannot be looked up now; it must lead to 203.0.113.7, as blog.apps.example.com does\n"},
		"nothing to compare":   {map[string]string{host: "203.0.113.7"}, ""},
		"a machine of its own": {map[string]string{own: "127.0.0.1", host: "203.0.113.7"}, ""},
	} {
		f := stacks("blog")
		f.dns = c.dns
		r := do(t, f, "domains:add "+host)
		if r.status != 0 || !strings.HasPrefix(r.out, "added ") || r.err != c.told {
			t.Errorf("%s: %d %q%q, want %q", name, r.status, r.out, r.err, c.told)
		}
	}
}

// Every host of the stacks that the key may see, with where it leads.
func TestStacks_AllDomains(t *testing.T) {
	t.Parallel()
	f := stacks("blog", "shop")
	f.stacks[0].Domains = []mesh.Host{"a.example.com", "www.example.com"}
	f.stacks[0].Redirects = map[mesh.Host]mesh.Host{"www.example.com": "a.example.com"}
	if r := do(t, f, "stacks --all-domains"); r.status != 0 || !strings.Contains(r.out, "www.example.com  blog   a.example.com") || !strings.Contains(r.out, "shop.localhost   shop   -") {
		t.Errorf("%d %s%s", r.status, r.out, r.err)
	}
	if r := do(t, f, "stacks --all-domains --json", as(mesh.Key{Name: "ci", Role: mesh.RoleRead, Stacks: []mesh.StackName{"shop"}})); r.status != 0 || strings.Contains(r.out, "blog") || !strings.Contains(r.out, `"host": "shop.localhost"`) {
		t.Errorf("%d %s%s", r.status, r.out, r.err)
	}
}

// diagnose names the cause, what to do about it, and shows the last lines; exit status 1.
func TestDiagnose(t *testing.T) {
	t.Parallel()
	up := mesh.InstanceStatus{Name: mesh.InstanceName{Service: "web", Slot: 1}, State: mesh.Up}
	for name, c := range map[string]struct {
		change func(*fake)
		want   []string
	}{
		"all is well":   {func(f *fake) {}, []string{"ok    web.1 is up: GET / 200"}},
		"crashed":       {func(f *fake) { f.status[0].State, f.status[0].ExitCode, f.status[0].Crashes = mesh.Crashed, 3, 2 }, []string{"WRONG web.1 is crashed (exit 3) 2×", "ssh mesh logs -a blog -p web.1", "ssh mesh rollback -a blog"}},
		"out of memory": {func(f *fake) { f.status[0].State, f.status[0].OOM = mesh.Crashed, true }, []string{"OOM", "svc:update -a blog --memory 1g web"}},
		"hangs": {func(f *fake) {
			f.probe = mesh.Errorf(mesh.Failed, "web.1 listens only on 127.0.0.1:3000").WithHint("listen on 0.0.0.0:$PORT")
		}, []string{"WRONG web.1 runs, but: web.1 listens only on 127.0.0.1:3000", "listen on 0.0.0.0:$PORT"}},
		"stopped":        {func(f *fake) { f.stacks[0].Stopped, f.status = true, nil }, []string{"WRONG blog is stopped", "ps:start -a blog"}},
		"maintenance":    {func(f *fake) { f.stacks[0].Maintained = true }, []string{"WRONG maintenance is on", "maintenance:off -a blog"}},
		"scaled to zero": {func(f *fake) { f.status = nil }, []string{"no instance of web", "ps:scale -a blog web=1"}},
		"locked":         {func(f *fake) { f.stacks[0].Lock = &mesh.Lock{By: "mate", Since: now, Why: "moving"} }, []string{"WRONG blog is locked by mate", "moving", "unlock -a blog"}},
		"no image":       {func(f *fake) { f.loss = "the image of v1 is missing" }, []string{"WRONG the image of v1 is missing", "ps:rebuild -a blog"}},
		"the server": {func(f *fake) {
			f.findings = []mesh.Finding{{OK: true, What: "git"}, {What: "the disk is nearly full", Mend: "free space"}}
		}, []string{"WRONG the server: the disk is nearly full\n      free space"}},
		"DNS": {func(f *fake) {
			f.dns = map[string]string{"blog.apps.example.com": "203.0.113.7"}
			f.stacks[0].Domains = []mesh.Host{"www.example.com"}
		}, []string{"WRONG DNS: www.example.com has no A or AAAA record"}},
	} {
		f := stacks("blog")
		f.stacks[0].Current = 1
		f.status = []mesh.InstanceStatus{up}
		c.change(f)
		r := do(t, f, "diagnose -a blog")
		for _, part := range c.want {
			if !strings.Contains(r.out, part) {
				t.Errorf("%s: it does not say %q:\n%s%s", name, part, r.out, r.err)
			}
		}
		if r.status != 1 && strings.Contains(r.out, "WRONG") || r.status != 0 && !strings.Contains(r.out, "WRONG") {
			t.Errorf("%s: status %d:\n%s", name, r.status, r.out)
		}
	}
}

// In a checkout the client names its stack. One that is typed first, as Dokku's users do,
// wins where it could be nothing else.
func TestStack_TypedFirstInACheckout(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"-a blog urls shop": "http://shop.localhost:8080\n", "-a blog urls": "http://blog.localhost:8080\n", "-a blog domains shop": "shop.localhost\n", "urls -a blog": "http://blog.localhost:8080\n",
	} {
		if r := do(t, stacks("blog", "shop"), line); r.status != 0 || r.out != want {
			t.Errorf("%s: %d %q %s", line, r.status, r.out, r.err)
		}
	}
	f := stacks("blog", "shop")
	if r := do(t, f, "-a blog stacks:destroy shop --force"); r.status != 0 || !strings.Contains(r.out, "destroyed shop") {
		t.Errorf("%d %s%s", r.status, r.out, r.err)
	}
	// The name of the checkout alone confirms nothing.
	if r := do(t, f, "-a blog stacks:destroy --force"); r.status != 2 || !strings.Contains(r.err, "confirm with its name") {
		t.Errorf("%d %s%s", r.status, r.out, r.err)
	}
}

// Who types the name of a stack where a command belongs is told how to go on.
func TestStack_IsNoCommand(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"blog": "ssh mesh stacks:info -a blog", "blog logs": "ssh mesh logs -a blog", "blog config set A=1": "ssh mesh config:set -a blog", "blog nonsense": "ssh mesh stacks:info -a blog",
		"shop": "list all with: ssh mesh help", // of others
	} {
		r := do(t, stacks("blog", "shop"), line, as(mesh.Key{Name: "ci", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog"}}))
		if r.status != 2 || !strings.Contains(r.err, want) {
			t.Errorf("%s: %d %s", line, r.status, r.err)
		}
	}
}
