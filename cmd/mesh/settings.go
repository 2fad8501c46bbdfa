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

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"mesh"
	"mesh/builder"
	"mesh/egress"
	"mesh/store"
)

// settings of the server. Flags win over the environment, which wins over the
// defaults.
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

	BuildSlots, BuildTimeout, BuildMemory, BuildCache, BuildDisk string
	build                                                        builder.Options // of these
	ACMEDirectory                                                string
	ACMERoot                                                     string
	ACMEEmail                                                    string
	HSTS                                                         time.Duration

	roots   *x509.CertPool // ACMERoot, read; nil: the system's
	trusted []netip.Prefix // TrustedProxies, read
	egress  *egress.Policy // FetchAllow, read
}

// letsEncrypt is where certificates come from unless a setting says otherwise.
// Asking it for one means to agree to its terms.
const letsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// variables are the environment variables of the flags.
var variables = map[string]string{
	"data": "MESH_DATA", "ssh-addr": "MESH_SSH_ADDR", "http-addr": "MESH_HTTP_ADDR", "https-addr": "MESH_HTTPS_ADDR",
	"admin-addr": "MESH_ADMIN_ADDR", "domain": "MESH_DOMAIN", "docker-host": "DOCKER_HOST",
	"build-slots": "MESH_BUILD_SLOTS", "build-timeout": "MESH_BUILD_TIMEOUT", "build-memory": "MESH_BUILD_MEMORY",
	"build-cache": "MESH_BUILD_CACHE", "build-disk": "MESH_BUILD_DISK",
	"acme-directory": "MESH_ACME_DIRECTORY", "acme-ca-root": "MESH_ACME_CA_ROOT", "acme-email": "MESH_ACME_EMAIL", "hsts": "MESH_HSTS",
	"trusted-proxies": "MESH_TRUSTED_PROXIES", "proxy-protocol": "MESH_PROXY_PROTOCOL", "client-connections": "MESH_CLIENT_CONNECTIONS",
	"fetch-allow": "MESH_FETCH_ALLOW",
	"log-level":   "MESH_LOG_LEVEL", "log-format": "MESH_LOG_FORMAT",
}

// defaultData is /var/lib/mesh for root and a folder of one's own for others.
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
	fs.StringVar(&s.Data, "data", defaultData(), "`DIR` with all that mesh owns")
	fs.StringVar(&s.SSHAddr, "ssh-addr", ":2222", "`ADDR` for git and commands")
	fs.StringVar(&s.HTTPAddr, "http-addr", ":8080", "`ADDR` for web traffic")
	fs.StringVar(&s.HTTPSAddr, "https-addr", "", "`ADDR` for web traffic over TLS (empty: off)")
	fs.StringVar(&s.AdminAddr, "admin-addr", "", "`ADDR` for /healthz and /metrics (empty: off)")
	fs.StringVar(&s.Domain, "domain", "localhost", "base `DOMAIN`: the stack blog is at blog.DOMAIN")
	fs.StringVar(&s.DockerHost, "docker-host", "", "`URL` of the Docker Engine (empty: the Docker default)")
	fs.StringVar(&s.ACMEDirectory, "acme-directory", letsEncrypt, "`URL` of the ACME directory that certificates come from (none: from none)")
	fs.StringVar(&s.ACMERoot, "acme-ca-root", "", "`FILE` with the root that the ACME server's own certificate is checked by")
	fs.StringVar(&s.ACMEEmail, "acme-email", "", "`ADDRESS` for the ACME account")
	fs.DurationVar(&s.HSTS, "hsts", 0, "for how `LONG` browsers are told to come over TLS only (0: they are not)")
	fs.StringSliceVar(&s.TrustedProxies, "trusted-proxies", nil, "`CIDR`s, with commas, of proxies whose X-Forwarded fields are believed")
	fs.BoolVar(&s.ProxyProtocol, "proxy-protocol", false, "take the client's address from the PROXY header of trusted proxies")
	fs.StringVar(&s.BuildSlots, "build-slots", "2", "`N` builds run at once; more wait")
	fs.StringVar(&s.BuildTimeout, "build-timeout", "30m", "`TIME` that a build may take")
	fs.StringVar(&s.BuildMemory, "build-memory", "", "`SIZE` of memory for all builds together (empty: no limit)")
	fs.StringVar(&s.BuildCache, "build-cache", "", "`SIZE` that the build cache may have (empty: a tenth of the disk)")
	fs.StringVar(&s.BuildDisk, "build-disk", "1g", "`SIZE` that has to be free on the engine's disk for a build")
	fs.StringSliceVar(&s.FetchAllow, "fetch-allow", nil, "`CIDR`s, addresses and hosts, with commas, that builds may fetch from though they are not public")
	fs.IntVar(&s.PerClient, "client-connections", 1000, "how `MANY` connections one address may have, trusted proxies aside (0: any)")
	fs.StringVar(&s.LogLevel, "log-level", "info", "`LEVEL`: debug, info, warn or error")
	fs.StringVar(&s.LogFormat, "log-format", "text", "`FORMAT`: text or json")
	fs.BoolVar(&s.StartOver, "start-over", false, "begin anew in a data directory that has lost its mesh.db, and move the rest to lost/ in it")
	return fs
}

// parseSettings reads flags and environment, and tells all faults at once.
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
		return s, mesh.Errorf(mesh.Invalid, "mesh serve takes no argument %q", mesh.Clip(fs.Arg(0), 60)).WithHint("list the flags with: mesh serve -h")
	}
	var faults []error
	bad := func(flag, value, why string) {
		faults = append(faults, mesh.Errorf(mesh.Invalid, "--%s (or %s) is %q: %s", flag, variables[flag], value, why))
	}
	fs.VisitAll(func(f *pflag.Flag) {
		if v := getenv(variables[f.Name]); v != "" && !f.Changed {
			if err := f.Value.Set(v); err != nil {
				bad(f.Name, v, "it cannot be read: "+err.Error())
			}
		}
	})
	for _, c := range s.TrustedProxies {
		p, err := netip.ParsePrefix(strings.TrimSpace(c))
		if a, aerr := netip.ParseAddr(strings.TrimSpace(c)); err != nil && aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			bad("trusted-proxies", c, "give networks such as 10.0.0.0/8, or addresses")
			continue
		}
		s.trusted = append(s.trusted, p.Masked())
	}
	var err error
	if s.egress, err = egress.New(s.FetchAllow); err != nil {
		bad("fetch-allow", strings.Join(s.FetchAllow, ","), "give networks such as 10.0.0.0/8, addresses, or host names: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if s.ProxyProtocol && len(s.TrustedProxies) == 0 {
		bad("proxy-protocol", "true", "say whose with --trusted-proxies")
	}
	for flag, addr := range map[string]string{"ssh-addr": s.SSHAddr, "http-addr": s.HTTPAddr, "https-addr": s.HTTPSAddr, "admin-addr": s.AdminAddr} {
		if addr == "" && (flag == "https-addr" || flag == "admin-addr") {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			bad(flag, addr, "give HOST:PORT or :PORT")
		}
	}
	if u, err := url.Parse(s.ACMEDirectory); s.ACMEDirectory != "none" && (err != nil || u.Scheme != "https" || u.Host == "") {
		bad("acme-directory", s.ACMEDirectory, "give the https URL of a directory, or none")
	}
	if s.ACMERoot != "" {
		pem, err := os.ReadFile(s.ACMERoot)
		if s.roots = x509.NewCertPool(); err != nil || !s.roots.AppendCertsFromPEM(pem) {
			bad("acme-ca-root", s.ACMERoot, "give a file with certificates in PEM")
		}
	}
	if s.PerClient < 0 {
		bad("client-connections", strconv.Itoa(s.PerClient), "give a number, or 0 for any")
	}
	if s.HSTS < 0 {
		bad("hsts", s.HSTS.String(), "give a time such as 8760h, or 0")
	}
	if _, err := mesh.ParseHost(s.Domain); err != nil || strings.HasPrefix(s.Domain, "*") {
		bad("domain", s.Domain, "give a host name such as apps.example.com")
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
		bad("build-slots", s.BuildSlots, "give a number from 1 on")
	}
	s.build.Slots = n
	if s.build.Timeout, err = time.ParseDuration(s.BuildTimeout); err != nil || s.build.Timeout < time.Second {
		bad("build-timeout", s.BuildTimeout, "give a time such as 30m")
	}
	for flag, size := range map[string]struct {
		text string
		to   *int64
	}{"build-memory": {s.BuildMemory, &s.build.Memory}, "build-cache": {s.BuildCache, &s.build.MaxCache}, "build-disk": {s.BuildDisk, &s.build.MinFree}} {
		if size.text == "" {
			continue
		}
		if *size.to, err = units.RAMInBytes(size.text); err != nil || *size.to < 1<<20 {
			bad(flag, size.text, "give a size such as 512m or 20g")
		}
	}
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if s.Domain = strings.ToLower(strings.TrimSuffix(s.Domain, ".")); len(faults) > 0 {
		return s, errors.Join(faults...)
	}
	return s, nil
}

// builder is what builds are limited by.
func (s settings) builder(st *store.Store, log *slog.Logger) builder.Options {
	s.build.Server, s.build.Logger, s.build.Key, s.build.Egress = st.Server(), log, st.Key("builds"), s.egress
	s.build.Credentials = func(ctx context.Context, host string) (mesh.Registry, error) {
		all, err := st.Registries(ctx)
		if i := slices.IndexFunc(all, func(r mesh.Registry) bool { return r.Host == host }); i >= 0 {
			return all[i], nil
		}
		return mesh.Registry{}, err
	}
	return s.build
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
		_, _ = fmt.Fprintf(w, "  %-24s %-18s %s%s\n", "--"+f.Name+" "+name, variables[f.Name], usage, def)
	})
}
