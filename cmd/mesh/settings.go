package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"mesh"
	"mesh/builder"
	"mesh/egress"
	"mesh/store"
)

// settings are the settings of the server. Flags override the environment, which
// overrides the defaults.
type settings struct {
	Data       string
	SSHAddr    string
	HTTPAddr   string
	HTTPSAddr  string
	AdminAddr  string
	Domain     string
	DockerHost string
	LogLevel   string
	LogFormat  string
	StartOver  bool

	TrustedProxies []string
	ProxyProtocol  bool
	PerClient      int
	FetchAllow     []string
	TCPPorts       []string
	NodesPort      int
	Registry       string

	BuildSlots, BuildTimeout, BuildMemory, BuildCache, BuildDisk string
	build                                                        builder.Options // of these
	ACMEDirectory                                                string
	ACMERoot                                                     string
	ACMEEmail                                                    string
	HSTS                                                         time.Duration

	roots   *x509.CertPool // parsed ACMERoot; nil: the system's
	trusted []netip.Prefix // parsed TrustedProxies
	egress  *egress.Policy // parsed FetchAllow
	ports   mesh.Ports     // parsed TCPPorts
}

// letsEncrypt is the default source of certificates. Requesting a certificate means
// agreeing to its terms.
const letsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// flagDocs holds the environment variable of each flag, and what docs/settings.md adds
// to the help line: def is the default in words, where the value does not show it.
var flagDocs = map[string]struct{ variable, def, note string }{
	"data":           {"MESH_DATA", "`/var/lib/mesh` as root, else `~/.local/share/mesh`", ""},
	"ssh-addr":       {"MESH_SSH_ADDR", "", "With port 0 the system chooses a port; `ready.json` in the data directory lists the addresses."},
	"http-addr":      {"MESH_HTTP_ADDR", "", ""},
	"https-addr":     {"MESH_HTTPS_ADDR", "off", "See [HTTPS](operating.md#https)."},
	"admin-addr":     {"MESH_ADMIN_ADDR", "off", "See [Monitoring](operating.md#monitoring)."},
	"domain":         {"MESH_DOMAIN", "", ""},
	"docker-host":    {"DOCKER_HOST", "Docker's own default", "For example `unix:///var/run/docker.sock`."},
	"acme-directory": {"MESH_ACME_DIRECTORY", "Let's Encrypt", "With `none`, only uploaded certificates are used."},
	"acme-ca-root":   {"MESH_ACME_CA_ROOT", "the system's roots", ""},
	"acme-email":     {"MESH_ACME_EMAIL", "none", ""},
	"registry":       {"MESH_REGISTRY", "mesh's own", "With `ssh mesh registry:login HOST USER`. See [More than one machine](operating.md#more-than-one-machine)."},
	"nodes-port":     {"MESH_NODES_PORT", "", "See [More than one machine](operating.md#more-than-one-machine)."},
	"hsts":           {"MESH_HSTS", "`0`: no header", "For example `8760h`."},
	"trusted-proxies": {
		"MESH_TRUSTED_PROXIES", "none", "See [Behind a proxy](guide.md#behind-a-proxy).",
	},
	"proxy-protocol": {"MESH_PROXY_PROTOCOL", "", "Versions 1 and 2."},
	"build-slots":    {"MESH_BUILD_SLOTS", "", "The push says so while its build waits."},
	"build-timeout":  {"MESH_BUILD_TIMEOUT", "", "The step that is running is then killed."},
	"build-memory":   {"MESH_BUILD_MEMORY", "no limit", "For example `4g`. See [Limits of builds](operating.md#limits-of-builds)."},
	"build-cache":    {"MESH_BUILD_CACHE", "a tenth of the disk, at least 2 GB", "The cache is pruned to this size after each deployment."},
	"build-disk":     {"MESH_BUILD_DISK", "", "If less is free, mesh first removes old images and build cache."},
	"fetch-allow":    {"MESH_FETCH_ALLOW", "none", "See [What builds may fetch](operating.md#what-builds-may-fetch)."},
	"client-connections": {
		"MESH_CLIENT_CONNECTIONS", "", "Per listener; further ones are closed. Upgraded connections and those of trusted proxies do not count. `0`: no limit.",
	},
	"tcp-ports":  {"MESH_TCP_PORTS", "none", "For example `5000-5100,6379`. See [TCP ports](guide.md#tcp-ports)."},
	"log-level":  {"MESH_LOG_LEVEL", "", ""},
	"log-format": {"MESH_LOG_FORMAT", "", ""},
	"start-over": {"", "", "The rest of the directory is moved to `lost/` in it. The flag has no effect if there is a `mesh.db`."},
}

// defaultData returns /var/lib/mesh for root, and a folder in the home directory for
// other users.
func defaultData() string {
	if os.Geteuid() == 0 {
		return "/var/lib/mesh"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "mesh-data"
	}
	return filepath.Join(home, ".local", "share", "mesh")
}

func (s *settings) flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("mesh serve", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(io.Discard)
	fs.StringVar(&s.Data, "data", defaultData(), "`DIR` with everything that mesh owns")
	fs.StringVar(&s.SSHAddr, "ssh-addr", ":2222", "`ADDR` for git and commands")
	fs.StringVar(&s.HTTPAddr, "http-addr", ":8080", "`ADDR` for web traffic")
	fs.StringVar(&s.HTTPSAddr, "https-addr", "", "`ADDR` for web traffic over TLS (empty: off)")
	fs.StringVar(&s.AdminAddr, "admin-addr", "", "`ADDR` for /healthz and /metrics (empty: off)")
	fs.StringVar(&s.Domain, "domain", "localhost", "base `DOMAIN`: the stack blog is at blog.DOMAIN")
	fs.StringVar(&s.DockerHost, "docker-host", "", "`URL` of the Docker Engine (empty: the Docker default)")
	fs.StringVar(&s.ACMEDirectory, "acme-directory", letsEncrypt, "`URL` of the ACME directory that issues certificates, or none")
	fs.StringVar(&s.ACMERoot, "acme-ca-root", "", "`FILE` with the root that verifies the ACME server's certificate")
	fs.StringVar(&s.ACMEEmail, "acme-email", "", "`ADDRESS` for the ACME account")
	fs.DurationVar(&s.HSTS, "hsts", 0, "`TIME` that browsers must use TLS only (0: no header)")
	fs.StringSliceVar(&s.TrustedProxies, "trusted-proxies", nil, "`CIDR`s and addresses, with commas, of proxies whose X-Forwarded fields are trusted")
	fs.BoolVar(&s.ProxyProtocol, "proxy-protocol", false, "take the client's address from the PROXY header of trusted proxies")
	fs.StringVar(&s.BuildSlots, "build-slots", "2", "`N` builds run at once; more wait")
	fs.StringVar(&s.BuildTimeout, "build-timeout", "30m", "`TIME` that a build may take")
	fs.StringVar(&s.BuildMemory, "build-memory", "", "`SIZE` of memory for all builds together (empty: no limit)")
	fs.StringVar(&s.BuildCache, "build-cache", "", "`SIZE` of the build cache (empty: a tenth of the disk)")
	fs.StringVar(&s.BuildDisk, "build-disk", "1g", "`SIZE` that must be free on the engine's disk for a build")
	fs.StringSliceVar(&s.FetchAllow, "fetch-allow", nil, "`CIDR`s, addresses and hosts, with commas, that builds may fetch from although they are not public")
	fs.IntVar(&s.PerClient, "client-connections", 1000, "at most `N` connections from one address (0: no limit)")
	fs.StringSliceVar(&s.TCPPorts, "tcp-ports", nil, "`PORT`s and ranges, with commas, that stacks may publish with svc:publish --tcp")
	fs.IntVar(&s.NodesPort, "nodes-port", 2378, "`PORT` at which the agents of other nodes connect, once there are nodes")
	fs.StringVar(&s.Registry, "registry", "", "`REPOSITORY` from which other nodes fetch images, such as registry.example.com/team")
	fs.StringVar(&s.LogLevel, "log-level", "info", "`LEVEL`: debug, info, warn or error")
	fs.StringVar(&s.LogFormat, "log-format", "text", "`FORMAT`: text or json")
	fs.BoolVar(&s.StartOver, "start-over", false, "start afresh in a data directory that has lost its mesh.db")
	return fs
}

// parseSettings parses flags and environment, and reports all errors at once.
func parseSettings(args []string, getenv func(string) string) (settings, error) {
	var s settings
	fs := s.flags()
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return s, err
		}
		return s, mesh.Errorf(mesh.Invalid, "mesh serve: %w", err).WithHint("list the flags with: mesh serve -h")
	}
	if fs.NArg() > 0 {
		return s, mesh.Errorf(mesh.Invalid, "mesh serve does not take the argument %q", mesh.Clip(fs.Arg(0), 60)).WithHint("list the flags with: mesh serve -h")
	}
	var faults []error
	bad := func(flag, value, why string) {
		faults = append(faults, mesh.Errorf(mesh.Invalid, "--%s (or %s) is %q: %s", flag, flagDocs[flag].variable, value, why))
	}
	fs.VisitAll(func(f *pflag.Flag) {
		if v := getenv(flagDocs[f.Name].variable); v != "" && !f.Changed {
			if err := f.Value.Set(v); err != nil {
				bad(f.Name, v, "it cannot be read: "+err.Error())
			}
		}
	})
	// git runs hooks in the folder of a repository, and the next process of an upgrade may
	// be started elsewhere.
	if abs, err := filepath.Abs(s.Data); s.Data == "" || err != nil {
		bad("data", s.Data, "name a folder")
	} else {
		s.Data = abs
	}
	for _, c := range s.TrustedProxies {
		p, err := netip.ParsePrefix(strings.TrimSpace(c))
		if a, aerr := netip.ParseAddr(strings.TrimSpace(c)); err != nil && aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			bad("trusted-proxies", c, "use networks such as 10.0.0.0/8, or addresses")
			continue
		}
		s.trusted = append(s.trusted, p.Masked())
	}
	var err error
	if s.egress, err = egress.New(s.FetchAllow); err != nil {
		bad("fetch-allow", strings.Join(s.FetchAllow, ","), "use networks such as 10.0.0.0/8, addresses, or host names: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if s.ports, err = mesh.ParsePorts(s.TCPPorts); err != nil {
		bad("tcp-ports", strings.Join(s.TCPPorts, ","), "use ports and ranges such as 5432,6000-6100: "+err.Error())
	}
	if s.ProxyProtocol && len(s.TrustedProxies) == 0 {
		bad("proxy-protocol", "true", "name the proxies with --trusted-proxies")
	}
	for flag, addr := range map[string]string{"ssh-addr": s.SSHAddr, "http-addr": s.HTTPAddr, "https-addr": s.HTTPSAddr, "admin-addr": s.AdminAddr} {
		if addr == "" && (flag == "https-addr" || flag == "admin-addr") {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			bad(flag, addr, "use HOST:PORT or :PORT")
		}
	}
	if u, err := url.Parse(s.ACMEDirectory); s.ACMEDirectory != "none" && (err != nil || u.Scheme != "https" || u.Host == "") {
		bad("acme-directory", s.ACMEDirectory, "use the https URL of a directory, or none")
	}
	if s.ACMERoot != "" {
		pem, err := os.ReadFile(s.ACMERoot)
		if s.roots = x509.NewCertPool(); err != nil || !s.roots.AppendCertsFromPEM(pem) {
			bad("acme-ca-root", s.ACMERoot, "use a file with certificates in PEM")
		}
	}
	if s.PerClient < 0 {
		bad("client-connections", strconv.Itoa(s.PerClient), "use a number, or 0 for no limit")
	}
	if s.NodesPort < 1 || s.NodesPort > 65535 {
		bad("nodes-port", strconv.Itoa(s.NodesPort), "use a port from 1 to 65535")
	}
	if s.Registry != "" && !validRegistry(s.Registry) {
		bad("registry", s.Registry, "use a host and a path, such as registry.example.com/team")
	}
	if s.HSTS < 0 {
		bad("hsts", s.HSTS.String(), "use a time such as 8760h, or 0")
	}
	if _, err := mesh.ParseHost(s.Domain); err != nil || strings.HasPrefix(s.Domain, "*") {
		bad("domain", s.Domain, "use a host name such as apps.example.com")
	}
	if _, ok := levels[s.LogLevel]; !ok {
		bad("log-level", s.LogLevel, "choose debug, info, warn or error")
	}
	if s.LogFormat != "text" && s.LogFormat != "json" {
		bad("log-format", s.LogFormat, "choose text or json")
	}
	var n int
	n, err = strconv.Atoi(s.BuildSlots)
	if err != nil || n < 1 || n > 1000 {
		bad("build-slots", s.BuildSlots, "use a number of at least 1")
	}
	s.build.Slots = n
	if s.build.Timeout, err = time.ParseDuration(s.BuildTimeout); err != nil || s.build.Timeout < time.Second {
		bad("build-timeout", s.BuildTimeout, "use a time such as 30m")
	}
	for flag, size := range map[string]struct {
		text string
		to   *int64
	}{"build-memory": {s.BuildMemory, &s.build.Memory}, "build-cache": {s.BuildCache, &s.build.MaxCache}, "build-disk": {s.BuildDisk, &s.build.MinFree}} {
		if size.text == "" {
			continue
		}
		if *size.to, err = units.RAMInBytes(size.text); err != nil || *size.to < 1<<20 {
			bad(flag, size.text, "use a size such as 512m or 20g")
		}
	}
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if s.Domain = strings.ToLower(strings.TrimSuffix(s.Domain, ".")); len(faults) > 0 {
		return s, errors.Join(faults...)
	}
	return s, nil
}

// builder returns the options of the builder.
func (s settings) builder(st *store.Store, log *slog.Logger) builder.Options {
	s.build.Server, s.build.Logger, s.build.Key, s.build.Egress = st.Server(), log, st.Key("builds"), s.egress
	s.build.Credentials = credentials(st)
	return s.build
}

// credentials finds the login for a registry.
func credentials(st *store.Store) builder.Credentials {
	return func(ctx context.Context, host string) (mesh.Registry, error) {
		all, err := st.Registries(ctx)
		if i := slices.IndexFunc(all, func(r mesh.Registry) bool { return r.Host == host }); i >= 0 {
			return all[i], nil
		}
		return mesh.Registry{}, err
	}
}

// validRegistry reports whether a text is a repository with a host.
func validRegistry(s string) bool {
	named, err := reference.ParseNormalizedNamed(s)
	return err == nil && reference.IsNameOnly(named) && named.Name() == s // as it is written, so with its host
}

func serveHelp(w io.Writer) {
	var s settings
	_, _ = fmt.Fprintln(w, "usage: mesh serve [FLAGS]\n\nRuns the server. Flags can also be set by environment variables:")
	_, _ = fmt.Fprintln(w)
	s.flags().VisitAll(func(f *pflag.Flag) {
		name, usage := pflag.UnquoteUsage(f)
		def := ""
		if f.DefValue != "" && f.DefValue != "[]" && f.DefValue != "false" && f.DefValue != "0s" {
			def = fmt.Sprintf(" (%s)", f.DefValue)
		}
		_, _ = fmt.Fprintf(w, "  %-24s %-23s %s%s\n", "--"+f.Name+" "+name, flagDocs[f.Name].variable, usage, def)
	})
}

// documentSettings prints docs/settings.md. "make docs" runs it as "mesh __settings".
func documentSettings(w io.Writer) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	p(`# Settings

<!-- Printed from the code's own tables by "make docs". Do not edit. -->

## Server

Flags of %[1]smesh serve%[1]s override environment variables, which override the defaults. %[1]smesh serve -h%[1]s prints
the same list. A value that cannot be read stops the start; all such values are reported at once.

| flag | variable | default | meaning |
|---|---|---|---|
`, "`")
	var s settings
	s.flags().VisitAll(func(f *pflag.Flag) {
		doc := flagDocs[f.Name]
		variable, def := "none", doc.def
		if doc.variable != "" {
			variable = "`" + doc.variable + "`"
		}
		if def == "" {
			def = "`" + f.DefValue + "`"
		}
		_, usage := pflag.UnquoteUsage(f)
		p("| `--%s` | %s | %s | %s |\n", f.Name, variable, def, strings.TrimSpace(sentence(usage)+" "+doc.note))
	})
	p(`
## Build and check settings

%[1]sbuild:set NAME=VALUE%[1]s sets one for a stack. %[1]smesh.toml%[1]s, in the folder %[1]sroot%[1]s or at the top of the repository, takes the same
names, except %[1]sbranch%[1]s. A setting takes effect with the next push, %[1]sfirst-byte%[1]s at once.
The [guide](guide.md#build-settings) says which source wins.

| setting | meaning | default | value |
|---|---|---|---|
`, "`")
	for _, s := range mesh.BuildSettings() {
		p("| `%s` | %s | %s | %s |\n", s.Name, s.Help, s.Default, s.Accepts())
	}
}

// sentence turns a help line into a sentence, without the default in parentheses.
func sentence(help string) string {
	help, _, _ = strings.Cut(help, " (")
	return strings.ToUpper(help[:1]) + help[1:] + "."
}
