package command_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/command"
	"mesh/drains"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil || got != string(want) {
		t.Errorf("%s is not what go test -update would write (%v):\n%s", path, err, got)
	}
}

// fake implements everything that commands work with, over a few values. A test changes
// its behaviour with the function fields.
type fake struct {
	addons   fakeAddons
	findings []mesh.Finding // about the server
	backups  *fakeBackups
	settings mesh.ServerSettings
	probe    error
	dns      map[string]string // addresses of hosts; nil: DNS is not asked

	jobs        []mesh.JobState
	volumes     fakeVolumes
	previews    fakePreviews
	canary      *mesh.CanaryState
	stacks      []mesh.Stack
	releases    []mesh.Release // newest first
	deployments []mesh.Deployment
	keys        []mesh.Key
	loss        string
	status      []mesh.InstanceStatus
	lines       []mesh.LogLine
	output      string

	alerts     []mesh.Alert // newest first
	recipients []mesh.Recipient
	tested     error // of notify:test
	delivery   mesh.Delivery

	global   mesh.Config
	outcomes []mesh.Outcome

	setConfig func(set mesh.Config, unset []string, recordOnly bool) ([]string, error)
	scale     func([]mesh.Scale) (mesh.Formation, error)
	run       func(mesh.Run) (int, error)
	cancel    func(mesh.DeploymentNumber) (mesh.Deployment, error)
	done      <-chan struct{}
	did       []string
	runs      []mesh.DetachedRun

	minute     mesh.Traffic // of web; zero: some
	unmeasured bool         // by Measures and Latest
	audited    []string
	registries []mesh.Registry

	drains      []mesh.Drain
	drainStatus map[string]mesh.DrainStatus
	events      []mesh.LogLine
	admit       error
	appFile     command.AppFile // of app.json
	appFault    error
	follow      func(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error
}

func (f *fake) do(format string, args ...any) { f.did = append(f.did, fmt.Sprintf(format, args...)) }

func (f *fake) Stacks(context.Context) ([]mesh.Stack, error) { return slices.Clone(f.stacks), nil }

func (f *fake) Stack(_ context.Context, name mesh.StackName) (mesh.Stack, error) {
	for _, s := range f.stacks {
		if s.Name == name {
			return s, nil
		}
	}
	return mesh.Stack{}, mesh.Errorf(mesh.NoStack, "no stack is named %q", name)
}

func (f *fake) Release(_ context.Context, _ mesh.StackName, n mesh.ReleaseNumber) (mesh.Release, error) {
	for _, r := range f.releases {
		if r.Number == n {
			return r, nil
		}
	}
	return mesh.Release{}, mesh.Errorf(mesh.NotFound, "no release %s", n)
}

func (f *fake) Releases(_ context.Context, _ mesh.StackName, limit int) ([]mesh.Release, error) {
	if limit > 0 && limit < len(f.releases) {
		return f.releases[:limit], nil
	}
	return f.releases, nil
}

func (f *fake) Deployment(_ context.Context, _ mesh.StackName, n mesh.DeploymentNumber) (mesh.Deployment, error) {
	for _, d := range f.deployments {
		if d.Number == n {
			return d, nil
		}
	}
	return mesh.Deployment{}, mesh.Errorf(mesh.NotFound, "no deployment %s", n)
}

func (f *fake) Deployments(context.Context, mesh.StackName, int) ([]mesh.Deployment, error) {
	return f.deployments, nil
}

func (f *fake) Damaged() []mesh.Damage { return nil }

func (f *fake) Keys(context.Context) ([]mesh.Key, error) { return f.keys, nil }

func (f *fake) Registries(context.Context) ([]mesh.Registry, error) { return f.registries, nil }

func (f *fake) SignIn(_ context.Context, r mesh.Registry) error {
	f.do("sign in to %s as %s by %s", r.Host, r.User, r.AddedBy)
	f.registries = append(f.registries, r)
	return nil
}

func (f *fake) SignOut(_ context.Context, host string, by mesh.KeyName) error {
	f.do("sign out of %s by %s", host, by)
	return nil
}

func (f *fake) ReadOutput(mesh.StackName, mesh.DeploymentNumber) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(f.output)), nil
}

func (f *fake) CreateStack(_ context.Context, name mesh.StackName, by mesh.KeyName) (mesh.Stack, error) {
	f.do("create %s by %s", name, by)
	return mesh.Stack{Name: name}, nil
}

func (f *fake) DestroyStack(_ context.Context, name mesh.StackName, by mesh.KeyName) error {
	f.do("destroy %s by %s", name, by)
	return nil
}

func (f *fake) SetConfig(_ context.Context, _ mesh.StackName, _ mesh.KeyName, change mesh.ConfigChange, _ io.Writer) ([]string, error) {
	if f.setConfig != nil {
		return f.setConfig(change.Set, change.Unset, change.RecordOnly)
	}
	return append(change.Set.Names(), change.Unset...), nil
}

func (f *fake) Rebuild(_ context.Context, name mesh.StackName, by mesh.KeyName, noCache bool, _ io.Writer) error {
	f.do("rebuild %s by %s %v", name, by, noCache)
	return nil
}

func (f *fake) Collect(_ context.Context, dry bool) ([]mesh.Garbage, int64, error) {
	f.do("collect dry=%v", dry)
	return []mesh.Garbage{{Stack: "shop", ID: "sha256:fedcba9876543210", Refs: []string{"mesh/shop:v1"}, Size: 5e6}, {Stack: "blog", ID: "sha256:0123456789abcdef", Size: 84e6}}, 3e9, nil
}

func (f *fake) Cache(context.Context) (size, limit int64, err error) { return 1e6, 20e9, nil }

func (f *fake) ClearCache(context.Context) (int64, error) { return 12e6, nil }

func (f *fake) Dockerfile(_ context.Context, name mesh.StackName) (string, bool, error) {
	return "FROM scratch\n", true, nil
}

func (f *fake) SetSettings(_ context.Context, name mesh.StackName, fn func(*mesh.Settings) error) (mesh.Stack, error) {
	i := slices.IndexFunc(f.stacks, func(s mesh.Stack) bool { return s.Name == name })
	set := f.stacks[i].Settings
	if err := fn(&set); err != nil {
		return mesh.Stack{}, err
	}
	f.stacks[i].Settings = set
	return f.stacks[i], nil
}

func (f *fake) Scale(_ context.Context, stack mesh.StackName, _ mesh.KeyName, c []mesh.Scale, _ io.Writer) (mesh.Formation, error) {
	f.do("scale %s %v", stack, c)
	if f.scale != nil {
		return f.scale(c)
	}
	return mesh.Formation{c[0].Service: c[0].To}, nil
}

// fakeServer is a server that has findings, and nothing else.
type fakeServer struct{ findings []mesh.Finding }

func (s fakeServer) Diagnose(context.Context) []mesh.Finding { return s.findings }
func (s fakeServer) Info(context.Context) mesh.ServerInfo    { return mesh.ServerInfo{} }
func (s fakeServer) Backup(context.Context, io.Writer, ...mesh.Backup) (int, error) {
	return 0, errors.New("no backup")
}

func (s fakeServer) Mirror(context.Context, io.Reader, io.Writer) error {
	return errors.New("no mirror")
}

func (s fakeServer) Upgrade(context.Context) (mesh.Successor, error) {
	return mesh.Successor{}, errors.New("no upgrade")
}

func (f *fake) Probe(_ context.Context, _ mesh.StackName, name mesh.InstanceName) (string, error) {
	if f.probe != nil {
		return "", f.probe
	}
	return "GET / 200", nil
}

func (f *fake) Clone(_ context.Context, from, to mesh.StackName, _ mesh.KeyName, bare bool, _ io.Writer) error {
	f.do("clone %s %s %v", from, to, bare)
	f.stacks = append(f.stacks, mesh.Stack{Name: to})
	return nil
}

func (f *fake) Restart(_ context.Context, stack mesh.StackName, _ mesh.KeyName, what mesh.InstanceName, _ io.Writer) error {
	f.do("restart %s %s %d", stack, what.Service, what.Slot)
	return nil
}

func (f *fake) Start(_ context.Context, stack mesh.StackName, _ mesh.KeyName, _ io.Writer) error {
	f.do("start %s", stack)
	return nil
}

func (f *fake) Stop(_ context.Context, stack mesh.StackName, _ mesh.KeyName, _ io.Writer) error {
	f.do("stop %s", stack)
	return nil
}

func (f *fake) Rollback(_ context.Context, stack mesh.StackName, _ mesh.KeyName, n mesh.ReleaseNumber, _ io.Writer) error {
	f.do("rollback %s %s", stack, n)
	return nil
}

func (f *fake) Cancel(_ context.Context, stack mesh.StackName, n mesh.DeploymentNumber, by mesh.KeyName) (mesh.Deployment, error) {
	f.do("cancel %s %s by %s", stack, n, by)
	if f.cancel != nil {
		return f.cancel(n)
	}
	return mesh.Deployment{Stack: stack, Number: 3, Status: mesh.StatusCancelled}, nil
}

func (f *fake) Done(mesh.StackName, mesh.DeploymentNumber) <-chan struct{} {
	if f.done != nil {
		return f.done
	}
	ch := make(chan struct{})
	close(ch)
	return ch
}

func (f *fake) AddDomain(_ context.Context, name mesh.StackName, host, _ mesh.Host, _ mesh.Key) error {
	f.do("add %s to %s", host, name)
	return nil
}

func (f *fake) SetDomains(_ context.Context, name mesh.StackName, hosts []mesh.Host, _ mesh.Key) (added, removed []mesh.Host, err error) {
	f.do("domains of %s are %v", name, hosts)
	return hosts, []mesh.Host{"old.example"}, nil
}

func (f *fake) RemoveDomain(_ context.Context, name mesh.StackName, host mesh.Host) error {
	f.do("remove %s from %s", host, name)
	return nil
}

func (f *fake) Domains(st mesh.Stack) []mesh.Host {
	if f.dns != nil {
		return append([]mesh.Host{mesh.Host(st.Name + ".apps.example.com")}, st.Domains...)
	}
	return append([]mesh.Host{mesh.Host(st.Name + ".localhost")}, st.Domains...)
}

func (f *fake) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	texts, ok := f.dns[host]
	switch {
	case !ok:
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	case texts == "broken":
		return nil, &net.DNSError{Err: "server misbehaving", Name: host}
	}
	var all []netip.Addr
	for text := range strings.FieldsSeq(texts) {
		all = append(all, netip.MustParseAddr(text))
	}
	return all, nil
}

func (f *fake) AddKey(_ context.Context, k mesh.Key) error {
	f.keys = append(f.keys, k)
	return nil
}

func (f *fake) RemoveKey(_ context.Context, name, by mesh.KeyName) error {
	f.do("remove key %s by %s", name, by)
	return nil
}

func (f *fake) Status(mesh.StackName) []mesh.InstanceStatus { return f.status }

func (f *fake) Life(mesh.StackName) context.Context { return context.Background() }

func (f *fake) Loss(mesh.StackName) string { return f.loss }

func (f *fake) RunCommand(_ context.Context, run mesh.Run) (int, error) { return f.run(run) }

func (f *fake) Detach(_ context.Context, run mesh.Run) (mesh.DetachedRun, error) {
	f.do("detach %s %q", run.Stack, run.Line)
	return mesh.DetachedRun{Name: "run.4211", Until: now.Add(24 * time.Hour)}, nil
}

func (f *fake) Runs(context.Context, mesh.StackName) ([]mesh.DetachedRun, error) { return f.runs, nil }

func (f *fake) StopRun(_ context.Context, stack mesh.StackName, name string) error {
	f.do("stop run %s %s", stack, name)
	return nil
}

func (f *fake) Enter(_ context.Context, name mesh.InstanceName, run mesh.Run) (int, error) {
	f.do("enter %s %s %q %q", run.Stack, name, run.Line, run.Words)
	return 4, nil
}

func (f *fake) AdmitPush(_ context.Context, key mesh.Key, stack mesh.StackName) error {
	f.do("admit %s to %s", key.Name, stack)
	return f.admit
}

func (f *fake) Upload(_ context.Context, u mesh.Upload, _ io.Writer) error {
	if u.From.Archive != nil {
		data, _ := io.ReadAll(u.From.Archive)
		f.do("archive %q", data)
		u.From.Archive = nil
	}
	f.do("upload %s %q id=%s dockerfile=%q from=%+v no-cache=%v dry-run=%v", u.Stack, u.Subject, u.ID, u.Dockerfile, u.From, u.NoCache, u.DryRun)
	if !slices.ContainsFunc(f.stacks, func(s mesh.Stack) bool { return s.Name == u.Stack }) {
		f.stacks = append(f.stacks, mesh.Stack{Name: u.Stack, Current: 1})
	}
	return nil
}

func (f *fake) Unpack(_ context.Context, r io.Reader) (mesh.Tree, string, func(), error) {
	data, err := io.ReadAll(r)
	return noTree{}, string(data), func() { f.do("released") }, err
}

type noTree struct{}

func (noTree) Entries() []mesh.TreeEntry { return []mesh.TreeEntry{{Path: "a", Size: 1500}} }

func (noTree) Open(mesh.TreeEntry) (io.ReadCloser, error) { return nil, errors.New("not asked for") }

func (f *fake) Promote(_ context.Context, from, to mesh.StackName, _ mesh.KeyName, _ io.Writer) error {
	f.do("promote %s to %s", from, to)
	return nil
}

func (f *fake) ServerSettings(context.Context) (mesh.ServerSettings, error) { return f.settings, nil }

func (f *fake) SetServer(_ context.Context, _ mesh.KeyName, fn func(*mesh.ServerSettings) error) (mesh.ServerSettings, error) {
	err := fn(&f.settings)
	f.do("server %+v", f.settings)
	return f.settings, err
}

func (f *fake) CopyFrom(_ context.Context, stack mesh.StackName, _ mesh.KeyName, name mesh.InstanceName, file string, w io.Writer) error {
	f.do("copy %s of %s %s", file, stack, name)
	_, err := io.WriteString(w, "TAR")
	return err
}

func (f *fake) CopyTo(_ context.Context, stack mesh.StackName, _ mesh.KeyName, name mesh.InstanceName, to string, content io.Reader) error {
	b, err := io.ReadAll(content)
	f.do("copy %q to %s of %s %s", b, to, stack, name)
	return err
}

func (f *fake) Link(_ context.Context, stack mesh.StackName, _ mesh.KeyName, l mesh.Link, _ io.Writer) error {
	f.do("link %s to %s as %s", stack, l, l.As)
	return nil
}

func (f *fake) Unlink(_ context.Context, stack mesh.StackName, _ mesh.KeyName, to mesh.StackName, service mesh.ServiceName, _ io.Writer) ([]mesh.Link, error) {
	f.do("unlink %s from %s %s", stack, to, service)
	return []mesh.Link{mesh.NewLink(to, service)}, nil
}

func (f *fake) RenameStack(_ context.Context, name, to mesh.StackName, _ mesh.KeyName, _ io.Writer) error {
	f.do("rename %s to %s", name, to)
	f.stacks = append(f.stacks, mesh.Stack{Name: to})
	return nil
}

func (f *fake) Logs(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error {
	if f.follow != nil {
		return f.follow(ctx, q, fn)
	}
	for _, l := range f.events {
		if slices.Contains(q.Sources, l.Source) {
			if err := fn(l); err != nil {
				return err
			}
		}
	}
	if q.Run == "" && !slices.Contains(q.Sources, "app") {
		return nil
	}
	for _, l := range f.lines {
		if err := fn(l); err != nil {
			return err
		}
	}
	if q.Follow && q.Caught != nil {
		q.Caught()
	}
	return nil
}

var (
	now   = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	admin = mesh.Key{Name: "laptop", Role: mesh.RoleAdmin}
)

// ran is the result of a command.
type ran struct {
	out, err string
	status   int
	fault    *mesh.Error
}

type option func(*mesh.Request)

func as(k mesh.Key) option     { return func(r *mesh.Request) { r.Key = k } }
func user(u string) option     { return func(r *mesh.Request) { r.User = u } }
func stdin(s string) option    { return func(r *mesh.Request) { r.Stdin = strings.NewReader(s) } }
func terminal(r *mesh.Request) { r.TTY = true }

func do(t *testing.T, f *fake, line string, opts ...option) ran {
	t.Helper()
	return doCtx(t.Context(), t, f, line, opts...)
}

func commandsOf(t *testing.T, f *fake) *command.Commands {
	t.Helper()
	set := &command.Commands{
		Stacks: f, History: f, Keys: f, Registries: f, AuditLog: f, Logs: f, Uploads: f, Traffic: f, Measures: f, Collector: f,
		Lifecycle: f, Configs: f, Builds: f, Processes: f, Services: f, Endpoints: f, Ports: f, Links: f, Settings: f, ServerSetter: f, Hosts: f, AccessRules: f, Freezer: f, Deploys: f, Deployments: f,
		Alerts: f, AlertRules: f, Recipients: f, Notifier: f,
		OneOffs: f, Jobs: fakeJobs{&f.jobs}, Files: f, Keyring: f, SignIns: f, Auditor: f, Lives: f, Server: fakeServer{f.findings},
		Version: "1.2.3", URL: func(h mesh.Host) string { return "http://" + string(h) + ":8080" },
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: func() time.Time { return now },
	}
	kept := f.volumes
	if kept.fake == nil {
		kept = fakeVolumes{f, nil, new([]string)}
	}
	set.Volumes, set.VolumeList, set.VolumeFiles = kept, kept, kept
	previews := f.previews
	if previews.fake == nil {
		previews = fakePreviews{f, nil, new([]string)}
	}
	set.Previews, set.PreviewList = previews, previews
	set.Canaries, set.Stages, set.Forges, set.OwnURL = fakeCanaries{f}, fakeCanaries{f}, fakeForges{f}, "https://mesh.example.com/"
	of := fakeDrains{f, drains.New(drains.Options{})}
	set.Drains, set.DrainList, set.DrainSender = of, of, of
	set.AppFiles = f
	set.Nodes = fakeNodes{f}
	f.addons.wire(set)
	if set.Backups = f.backups; f.backups == nil {
		set.Backups = &fakeBackups{fake: f}
	}
	if f.dns != nil {
		set.Resolver = f
	}
	return set
}

func doCtx(ctx context.Context, t *testing.T, f *fake, line string, opts ...option) ran {
	t.Helper()
	set := commandsOf(t, f)
	var stdout, stderr bytes.Buffer
	req := mesh.Request{Key: admin, User: "mesh", Line: line, Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr}
	for _, o := range opts {
		o(&req)
	}
	err := set.Run(ctx, req)
	r := ran{status: mesh.ExitStatus(err)}
	var exit mesh.ExitCode
	if errors.As(err, &exit) {
		r.status = int(exit)
	} else if err != nil {
		set.PrintError(&stderr, err)
	}
	errors.As(err, &r.fault)
	r.out, r.err = stdout.String(), stderr.String()
	return r
}

func stacks(names ...string) *fake {
	f := &fake{}
	for _, n := range names {
		f.stacks = append(f.stacks, mesh.Stack{Name: mesh.StackName(n), Created: now, Config: mesh.Config{"NAME": mesh.NewSecret(n)}})
	}
	return f
}

// which runs a command that prints its stack.
func which(t *testing.T, f *fake, line string, opts ...option) string {
	t.Helper()
	r := do(t, f, line, opts...)
	if r.status != 0 {
		return fmt.Sprintf("%d %s", r.status, r.err)
	}
	return strings.TrimSpace(r.out)
}

func TestStack_IsFoundInOrder(t *testing.T) {
	t.Parallel()
	two, one := stacks("blog", "shop"), stacks("blog")
	limited := mesh.Key{Name: "ci", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"shop"}}
	for _, tc := range []struct {
		name string
		f    *fake
		line string
		opts []option
		want string
	}{
		{"-a", two, "config:get -a shop NAME", nil, "shop"},
		{"--app", two, "config:get NAME --app shop", nil, "shop"},
		{"--app=", two, "config:get --app=shop NAME", nil, "shop"},
		{"-s", two, "config:get -s shop NAME", nil, "shop"},
		{"--stack", two, "config:get NAME --stack=shop", nil, "shop"},
		{"both, the same", two, "config:get -a shop -s shop NAME", nil, "shop"},
		{"in front", two, "-a shop config:get NAME", nil, "shop"},
		{"in front, joined", two, "--stack=shop config get NAME", nil, "shop"},
		{"-a before what stands in front", two, "-a shop config:get -a blog NAME", nil, "blog"},
		{"-a before the user", two, "config:get -a shop NAME", []option{user("blog")}, "shop"},
		{"the user", two, "config:get NAME", []option{user("shop")}, "shop"},
		{"the user before the first word", two, "config:get blog NAME", []option{user("shop")}, `2 error: config:get does not take the argument "NAME"`},
		{"the first word", two, "config:get shop NAME", nil, "shop"},
		{"the only one", one, "config:get NAME", nil, "blog"},
		{"the only one the key may see", two, "config:get NAME", []option{as(limited)}, "shop"},
		{"ambiguous", two, "config:get NAME", nil, "2 error: which stack? choose one with -a: blog, shop"},
		{"no such", two, "config:get -a shpo NAME", nil, "20 error: no stack is named \"shpo\"\nhint:  there is \"shop\"; list all with: ssh mesh stacks"},
		{"not its own", two, "config:get -a blog NAME", []option{as(limited)}, "20 error: no stack is named \"blog\"\nhint:  list all with"},
		{"not its own, as the user", two, "config:get NAME", []option{as(limited), user("blog")}, "shop"},
		{"not its own, as first word", two, "config:get blog NAME", []option{as(limited)}, `2 error: config:get does not take the argument "NAME"`},
		{"none", stacks(), "config:get NAME", nil, "20 error: there are no stacks yet"},
		{"two names", two, "config:get -a blog -s shop NAME", nil, "2 error: -a blog and -s shop name different stacks"},
		{"front without a name", two, "-a", nil, "2 error: -a needs the name of a stack"},
		{"words behind -- are no stack", two, "config:get -- shop NAME", nil, "2 error: which stack?"},
	} {
		if got := which(t, tc.f, tc.line, tc.opts...); got != tc.want && !strings.HasPrefix(got, tc.want+"\n") && (tc.want[0] < '0' || tc.want[0] > '9' || !strings.HasPrefix(got, tc.want)) {
			t.Errorf("%s: %q gives %q, want %q", tc.name, tc.line, got, tc.want)
		}
	}
}

func TestRights(t *testing.T) {
	t.Parallel()
	reader := mesh.Key{Name: "eye", Role: mesh.RoleRead}
	deployer := mesh.Key{Name: "ci", Role: mesh.RoleDeploy}
	limited := mesh.Key{Name: "boss", Role: mesh.RoleAdmin, Stacks: []mesh.StackName{"blog"}}
	for _, tc := range []struct {
		key     mesh.Key
		line    string
		allowed bool
	}{
		{reader, "config", true},
		{reader, "ps", true},
		{reader, "ps:scale", true},
		{reader, "logs", true},
		{reader, "releases", true},
		{reader, "domains", true},
		{reader, "build", true},
		{reader, "stacks", true},
		{reader, "stacks:info", true},
		{reader, "help", true},
		{reader, "version", true},
		{reader, "config:get NAME", false},
		{reader, "config:set A=1", false},
		{reader, "config:unset NAME", false},
		{reader, "ps:scale web=2", false},
		{reader, "ps:restart", false},
		{reader, "ps:stop", false},
		{reader, "ps:start", false},
		{reader, "run ls", false},
		{reader, "rollback", false},
		{reader, "domains:add a.example", false},
		{reader, "domains:remove a.example", false},
		{reader, "build:set branch=x", false},
		{reader, "build:unset branch", false},
		{reader, "deployments:cancel", false},
		{reader, "stacks:create new", false},
		{reader, "stacks:destroy --confirm blog", false},
		{reader, "ssh-keys", false},
		{deployer, "config:get NAME", true},
		{deployer, "ps:scale web=2", true},
		{deployer, "stacks:create new", true},
		{deployer, "stacks:destroy --confirm blog", false},
		{deployer, "ssh-keys", false},
		{deployer, "ssh-keys:add x", false},
		{deployer, "ssh-keys:remove x", false},
		{limited, "stacks:destroy --confirm blog", true},
		{limited, "stacks:create new", false},
		{limited, "ssh-keys", false},
		{limited, "ssh-keys:remove x", false},
		{admin, "ssh-keys", true},
		{admin, "ssh-keys:remove x", true},
	} {
		r := do(t, stacks("blog"), tc.line, as(tc.key))
		if denied := r.fault != nil && r.fault.Kind == mesh.Denied; denied == tc.allowed {
			t.Errorf("%s as %s: status %d, %s", tc.line, tc.key.Role, r.status, r.err)
		} else if denied && (r.status != 1 || !strings.Contains(r.err, string(tc.key.Name))) {
			t.Errorf("%s as %s is refused with %d, %s", tc.line, tc.key.Role, r.status, r.err)
		}
	}
}

func TestUsage_EndsWith2(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	for _, line := range []string{
		"nonsense", "config:set", "config:set A", "config:set 1A=x", "config:set PORT=1", "config:set A=1 A=2", "config:set A=- B=-", "config:get", "config:get A B",
		"config:unset", "config:unset A=b", "config --nonsense", "ps:scale web", "ps:scale web=x", "ps:restart A", "ps:restart a b", "run", "run -e X ls", "run -e =1 ls", "run -e PORT=1 ls",
		"rollback x", "rollback v0", "releases:info", "releases:info x", "deployments:show x", "deployments:cancel x", "domains:add", "domains:add http://x", "domains:remove a b",
		"build:set", "build:set branch", "build:set branch=", "build:set nonsense=1", "build:unset nonsense", "logs -p A/B", "logs -n x", "logs --since x", "stacks:create", "stacks:create MESH",
		"stacks:create mesh", "stacks:destroy", "stacks:destroy --confirm other", "ssh-keys:add", "ssh-keys:add -x-", "ssh-keys:add x not-a-key", "ssh-keys:add x --role root", "stacks extra", "'open",
		"help nonsense",
	} {
		r := do(t, f, line)
		if r.status != 2 || r.out != "" || !strings.HasPrefix(r.err, "error: ") || strings.Count(r.err, "\nusage: ") != 1 && line != "nonsense" && line != "'open" && line != "stacks extra" {
			t.Errorf("%s: status %d, stdout %q, stderr %q", line, r.status, r.out, r.err)
		}
	}
	if len(f.did) > 0 {
		t.Errorf("and something was done: %q", f.did)
	}
}

func TestPrintError(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	show := func(err error) string {
		var b bytes.Buffer
		(&command.Commands{Logger: logger}).PrintError(&b, err)
		return b.String()
	}
	if got := show(fmt.Errorf("x: %w", mesh.Errorf(mesh.Failed, "bad").WithHint("try"))); got != "error: bad\nhint:  try\n" {
		t.Errorf("got %q", got)
	}
	if got := show(&mesh.Reported{Err: mesh.Errorf(mesh.Failed, "bad")}) + show(fmt.Errorf("x: %w", context.Canceled)); got != "" {
		t.Errorf("told twice: %q", got)
	}
	got := show(errors.New("disk /dev/sda1 exploded"))
	_, id, _ := strings.Cut(got, "(id ")
	id, _, _ = strings.Cut(id, ")")
	if len(id) != 8 || strings.Contains(got, "sda1") || !strings.Contains(log.String(), id) || !strings.Contains(log.String(), "sda1") {
		t.Errorf("told %q, logged %q", got, log.String())
	}
}

func TestTerminal_GetsCarriageReturns(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	if r := do(t, f, "config", terminal); r.out != "NAME\r\n" {
		t.Errorf("got %q", r.out)
	}
	if r := do(t, f, "nonsense", terminal); r.status != 2 || !strings.HasPrefix(r.out, "error: ") || strings.Count(r.out, "\r\n") != 2 {
		t.Errorf("got %d, %q", r.status, r.out)
	}
}

func TestConfig_SetReadsValues(t *testing.T) {
	t.Parallel()
	var got map[string]string
	var only bool
	f := stacks("blog")
	f.setConfig = func(set mesh.Config, unset []string, recordOnly bool) ([]string, error) {
		got, only = map[string]string{}, recordOnly
		for k, v := range set {
			got[k] = v.Reveal()
		}
		for _, k := range unset {
			got["-"+k] = ""
		}
		return append(set.Names(), unset...), nil
	}
	for _, tc := range []struct {
		line, stdin string
		want        map[string]string
	}{
		{"config:set A=1 B=", "", map[string]string{"A": "1", "B": ""}},
		{`config:set "A=a b" 'B=x=y'`, "", map[string]string{"A": "a b", "B": "x=y"}},
		{"config:set A=- B=2", "line one\nline two\n", map[string]string{"A": "line one\nline two", "B": "2"}},
		{"config:set A=-", "\n\n", map[string]string{"A": "\n"}},
		{"config:set A=-", "no end", map[string]string{"A": "no end"}},
		{"config:set A=--", "", map[string]string{"A": "--"}},
		{"config:unset A B", "", map[string]string{"-A": "", "-B": ""}},
	} {
		if r := do(t, f, tc.line, stdin(tc.stdin)); r.status != 0 || !reflect.DeepEqual(got, tc.want) || only {
			t.Errorf("%s: %v, %d, %s", tc.line, got, r.status, r.err)
		}
	}
	if r := do(t, f, "config:set --no-restart A=hush"); !only || strings.Contains(r.out+r.err, "hush") || !strings.Contains(r.out, "next release") {
		t.Errorf("only %v: %s%s", only, r.out, r.err)
	}
	if r := do(t, f, "config:set A=-", terminal); r.status != 2 || !strings.Contains(r.out, "terminal") {
		t.Errorf("got %d, %s", r.status, r.err)
	}
}

func TestBuild_Settings(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	set := func(arg string) ran { return do(t, f, command.Join([]string{"build:set", arg})) }
	for arg, want := range map[string]string{
		"branch=main": "branch=main", "branch=feat/x-1.2": "branch=feat/x-1.2", "dockerfile=docker/web.Dockerfile": "dockerfile=docker/web.Dockerfile",
		"dockerfile=./a//b": "dockerfile=a/b", "health=/up?x=1": "health=/up?x=1", "check-timeout=2m": "check-timeout=2m0s", "drain=500ms": "drain=500ms", "stop-timeout=1s": "stop-timeout=1s",
	} {
		if r := set(arg); r.status != 0 || !slices.Contains(strings.Split(r.out, "\n"), want) {
			t.Errorf("%s: %d, %q, %s", arg, r.status, r.out, r.err)
		}
	}
	before := f.stacks[0].Settings
	for _, arg := range []string{
		"branch=-x", "branch=a..b", "branch=a//b", "branch=a/", "branch=a.lock", "branch=a.", "branch=a b", "branch=a~1", "branch=/a", "branch=" + strings.Repeat("a", 201),
		"dockerfile=/etc/passwd", "dockerfile=../x", "dockerfile=a/../../x", "dockerfile=..", "dockerfile=.", "dockerfile=a\nb", "dockerfile=a\x00",
		"health=up", "health=/a b", "health=/a\r\nX: y", "health=/#a", "check-timeout=0s", "check-timeout=999ms", "check-timeout=61m", "drain=-1s", "drain=25h", "drain=x", "stop-timeout=1", "drain=0s",
	} {
		if r := set(arg); r.status != 2 {
			t.Errorf("%q: %d, %q", arg, r.status, r.out)
		}
	}
	if r := do(t, f, "build:set drain=1s branch=.."); r.status != 2 || !reflect.DeepEqual(f.stacks[0].Settings, before) {
		t.Errorf("half a change: %+v", f.stacks[0].Settings)
	}
	if r := do(t, f, "build:set drian=1s"); !strings.Contains(r.err, "did you mean drain?") {
		t.Errorf("got %s", r.err)
	}
	if r := do(t, f, "build:unset branch dockerfile health check-timeout drain stop-timeout"); r.status != 0 || r.out != "" || !reflect.DeepEqual(f.stacks[0].Settings, mesh.Settings{}) {
		t.Errorf("got %q, %+v", r.out, f.stacks[0].Settings)
	}
}

func TestRun_PassesTheLineAndTheStatus(t *testing.T) {
	t.Parallel()
	f := stacks("blog", "shop")
	var got mesh.Run
	code := 0
	f.run = func(r mesh.Run) (int, error) { got = r; return code, nil }
	for line, want := range map[string]struct {
		line  string
		words []string
	}{
		`run -a blog -- echo $PATH | wc -c`:       {`echo $PATH | wc -c`, []string{"echo", "$PATH", "|", "wc", "-c"}},
		`run -a blog ls -la --json`:               {`ls -la --json`, []string{"ls", "-la", "--json"}},
		`run blog  sh -c 'a  b'`:                  {`sh -c 'a  b'`, []string{"sh", "-c", "a  b"}},
		`-a shop run -e A=1 -e 'B=x y' -- "ls"  `: {`"ls"  `, []string{"ls"}},
	} {
		if r := do(t, f, line); r.status != 0 || got.Line != want.line || !slices.Equal(got.Words, want.words) {
			t.Errorf("%s runs %q, %q; %d %s", line, got.Line, got.Words, r.status, r.err)
		}
	}
	if do(t, f, "-a shop run -e A=1 -e 'B=x y' ls"); got.Env["A"].Reveal() != "1" || got.Env["B"].Reveal() != "x y" || got.Stack != "shop" || got.TTY {
		t.Errorf("got %+v", got)
	}
	code = 42
	if r := do(t, f, "run -a blog false"); r.status != 42 || r.err != "" {
		t.Errorf("got %d, %q", r.status, r.err)
	}
	if do(t, f, "run -a blog top", terminal); !got.TTY {
		t.Error("no terminal")
	}
}

func TestLogs_Query(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	var got mesh.LogQuery
	f.follow = func(_ context.Context, q mesh.LogQuery, _ func(mesh.LogLine) error) error {
		got = q
		return nil
	}
	both := []string{"app", "mesh"}
	for line, want := range map[string]mesh.LogQuery{
		"logs":                                           {Sources: both, Lines: 100},
		"logs -t -n 5 -p web":                            {Sources: both, Lines: 5, Follow: true, Service: "web"},
		"logs -p web.2 -n -1":                            {Sources: both, Lines: -1, Service: "web", Instance: mesh.InstanceName{Service: "web", Slot: 2}},
		"logs -d run.4211":                               {Sources: both, Lines: 100, Service: "run", Instance: mesh.InstanceName{Service: "run", Slot: 4211}},
		"logs --source router":                           {Sources: []string{"router"}, Lines: 100},
		"logs --source app,router":                       {Sources: []string{"app", "router"}, Lines: 100},
		"logs --since 1h --lines=10":                     {Sources: both, Lines: 10, Since: now.Add(-time.Hour)},
		"logs --since 2d --until 1d":                     {Sources: both, Lines: 100, Since: now.Add(-48 * time.Hour), Until: now.Add(-24 * time.Hour)},
		"logs --since 2026-01-02T15:04:05+01:00 --num 3": {Sources: both, Lines: 3, Since: time.Date(2026, 1, 2, 15, 4, 5, 0, time.FixedZone("", 3600))},
		"logs --until 2026-01-02":                        {Sources: both, Lines: 100, Until: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)},
		"logs --release v12 --level ERROR":               {Sources: both, Lines: 100, Release: 12, Level: mesh.LevelError},
		"logs --grep a.*b":                               {Sources: both, Lines: 100, Grep: regexp.MustCompile("a.*b")},
	} {
		want.Stack = "blog"
		r := do(t, f, line)
		if !got.Since.Equal(want.Since) || !got.Until.Equal(want.Until) {
			t.Errorf("%s asks from %s to %s", line, got.Since, got.Until)
		}
		got.Since, got.Until = want.Since, want.Until
		if r.status != 0 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s asks for %+v, %s", line, got, r.err)
		}
	}
	for line, want := range map[string]string{
		"logs --since yesterday":     "an age such as 1h or 2d, or a time",
		"logs --since -1h":           "an age such as 1h or 2d, or a time",
		"logs -t --until 1h":         "-t follows new lines, and --until leaves them out",
		"logs --since 1h --until 2h": "nothing is between them",
		"logs --grep a(":             "is not a regular expression: missing closing )",
		"logs --level loud":          "--level takes debug, info",
		"logs --release twelve":      "twelve",
		"logs --source app,disk":     "app, router or mesh",
		"logs -p web.1.2":            "neither a service nor an instance",
	} {
		if r := do(t, f, line); r.status == 0 || !strings.Contains(r.err, want) {
			t.Errorf("%s: %d %s", line, r.status, r.err)
		}
	}
}

func TestKeys_Add(t *testing.T) {
	t.Parallel()
	const pub = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvZ2MBU1rW4Vq2Hq3qm4nGdQp4nA0u0q8qk3r1p2JtX"
	f := stacks("blog")
	if r := do(t, f, "ssh-keys:add laptop", stdin(pub+" me@laptop\n")); r.status != 0 || f.keys[0].Role != mesh.RoleAdmin || f.keys[0].Public != pub || f.keys[0].AddedBy != "laptop" {
		t.Fatalf("the first key: %+v, %s", f.keys, r.err)
	}
	if r := do(t, f, "keys add ci --stack blog --stack shop "+pub); r.status != 0 || f.keys[1].Role != mesh.RoleDeploy || len(f.keys[1].Stacks) != 2 {
		t.Fatalf("the second key: %+v, %s", f.keys, r.err)
	}
	if r := do(t, f, "ssh-keys:add eye --role read", stdin(pub)); r.status != 0 || f.keys[2].Role != mesh.RoleRead {
		t.Fatalf("the third key: %+v, %s", f.keys, r.err)
	}
	// As from a script: --stack "$STACK".
	for _, line := range []string{"ssh-keys:add x --stack ''", "ssh-keys:add x --stack=", "ssh-keys:add x --stack '' --stack ''"} {
		if r := do(t, f, line, stdin(pub)); r.status != 2 || len(f.keys) != 3 {
			t.Errorf("%s: %d, %s, %+v", line, r.status, r.err, f.keys)
		}
	}
	for what, text := range map[string]string{
		"nothing": "", "blank": " \n", "private": "-----BEGIN OPENSSH PRIVATE KEY-----\n", "two": pub + "\n" + pub + "\n", "options": `command="id" ` + pub, "noise": "hello",
	} {
		if r := do(t, f, "ssh-keys:add x", stdin(text)); r.status != 2 || len(f.keys) != 3 {
			t.Errorf("%s: %d, %s", what, r.status, r.err)
		}
	}
	if r := do(t, f, "ssh-keys:add x", terminal); r.status != 2 || !strings.Contains(r.out, "terminal") {
		t.Errorf("got %d, %s", r.status, r.err)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	if r := do(t, f, "deployments:cancel 3"); r.status != 0 || r.out != "deployment #3 of blog: cancelled\n" || f.did[0] != "cancel blog #3 by laptop" {
		t.Errorf("got %+v, %q", r, f.did)
	}
	f.cancel = func(mesh.DeploymentNumber) (mesh.Deployment, error) {
		return mesh.Deployment{Stack: "blog", Number: 3, Status: mesh.StatusLive}, nil
	}
	if r := do(t, f, "deployments:cancel"); r.status != 1 || !strings.Contains(r.err, "rollback") {
		t.Errorf("past its switch: %d, %s", r.status, r.err)
	}
}

func TestDeploymentsShow_FollowGivesTheVerdict(t *testing.T) {
	t.Parallel()
	for status, want := range map[mesh.DeploymentStatus]int{mesh.StatusLive: 0, mesh.StatusFailed: 1, mesh.StatusCancelled: 130, mesh.StatusDryRun: 0} {
		f := stacks("blog")
		f.stacks[0].LastNumber = 7
		f.deployments = []mesh.Deployment{{Stack: "blog", Number: 7, Status: status}}
		f.output = "-----> one\xff\n"
		if r := do(t, f, "deployments:show --follow"); r.status != want || r.out != "-----> one?\n" {
			t.Errorf("%s ends with %d, %q", status, r.status, r.out)
		}
		if r := do(t, f, "deployments:show #7"); r.status != 0 {
			t.Errorf("%s, only shown, ends with %d", status, r.status)
		}
	}
	if r := do(t, stacks("blog"), "deployments:show"); r.status != 1 || !strings.Contains(r.err, "no deployments yet") {
		t.Errorf("got %d, %s", r.status, r.err)
	}
}

// full is a server with some of everything.
func full() *fake {
	commit := mesh.Commit(strings.Repeat("1a2b3c4d", 5))
	release := func(n mesh.ReleaseNumber, what string) mesh.Release {
		return mesh.Release{
			Stack: "blog", Number: n, Created: now.Add(-time.Hour), By: "laptop", Description: what, Deployment: mesh.DeploymentNumber(n + 1), Commit: commit,
			Image:  mesh.Image{ID: "sha256:abc", Ref: "mesh/blog:1a2b3c4", Size: 5e6},
			Config: mesh.Config{"GREETING": mesh.NewSecret("hush-hush-hush"), "A<B": mesh.NewSecret("")}, Formation: mesh.Formation{"web": 2, "worker": 1},
			Services: map[mesh.ServiceName]mesh.Service{"web": {From: "image"}, "worker": {Command: "bin/work <x>", From: "Procfile"}},
		}
	}
	return &fake{
		stacks: []mesh.Stack{
			{
				Name: "blog", Created: now.Add(-48 * time.Hour), Current: 2, LastNumber: 4, Domains: []mesh.Host{"www.example.com"}, Formation: mesh.Formation{"web": 2},
				Config:   mesh.Config{"GREETING": mesh.NewSecret("hush-hush-hush"), "LATER": mesh.NewSecret("hush")},
				Settings: mesh.Settings{Branch: "main", Health: "/up", Drain: time.Minute},
			},
			{Name: "empty", Created: now},
		},
		releases: []mesh.Release{release(2, "Set GREETING"), release(1, "Deploy 1a2b3c4")},
		deployments: []mesh.Deployment{
			{Stack: "blog", Number: 4, Kind: mesh.DeployPush, By: "ci", Commit: commit, Subject: "Fix <header>", Created: now.Add(-time.Minute), Status: mesh.StatusRunning},
			{Stack: "blog", Number: 3, Kind: mesh.DeployConfig, By: "laptop", Subject: "Set GREETING", Created: now.Add(-time.Hour), Ended: now.Add(-time.Hour + 1500*time.Millisecond), Status: mesh.StatusLive, Release: 2},
			{Stack: "blog", Number: 2, Kind: mesh.DeployPush, By: "ci", Commit: commit, Subject: "Break", Created: now.Add(-2 * time.Hour), Ended: now.Add(-2 * time.Hour), Status: mesh.StatusFailed, Reason: "build failed: 'RUN false' exited 1"},
		},
		keys: []mesh.Key{
			{Name: "laptop", Role: mesh.RoleAdmin, Public: "ssh-ed25519 AAAA", Fingerprint: "SHA256:aaaa", Added: now.Add(-72 * time.Hour)},
			{Name: "ci", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"blog", "shop"}, Public: "ssh-rsa BBBB", Fingerprint: "SHA256:bbbb", Added: now, AddedBy: "laptop"},
		},
		status: []mesh.InstanceStatus{
			{Name: mesh.InstanceName{Service: "web", Slot: 1}, Release: 2, State: "up", Since: now.Add(-time.Hour)},
			{Name: mesh.InstanceName{Service: "web", Slot: 2}, Release: 2, State: "up", Since: now.Add(-time.Minute), Crashes: 1},
			{Name: mesh.InstanceName{Service: "worker", Slot: 1}, Release: 2, State: "crashed", Since: now, Crashes: 3, ExitCode: 137, OOM: true, Next: now.Add(4 * time.Second), Command: "bin/work <x>"},
		},
		lines:  []mesh.LogLine{{At: now, Source: "app", Name: "web.1", Text: "hello <b>"}, {At: now.Add(1500 * time.Microsecond), Source: "app", Name: "worker.1", Text: ""}},
		output: "-----> blog: Set GREETING by laptop\n=====> http://blog.localhost:8080  v2  1.5s\n",
	}
}

// TestOutput_Goldens holds the output of every command that prints data, for people and
// for programs.
func TestOutput_Goldens(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"stacks": "stacks", "stacks-info": "stacks:info -a blog", "stacks-info-empty": "stacks:info -a empty", "config": "config -a blog", "ps": "ps -a blog", "ps-scale": "ps:scale -a blog",
		"releases": "releases -a blog", "releases-info": "releases:info -a blog v2", "deployments": "deployments -a blog", "deployments-show": "deployments:show -a blog 3",
		"domains": "domains -a blog", "build": "build -a blog", "ssh-keys": "ssh-keys", "logs": "logs -a blog",
	} {
		r := do(t, full(), line)
		if r.status != 0 {
			t.Errorf("%s: %d, %s", line, r.status, r.err)
		}
		golden(t, name, "stdout:\n"+r.out+"stderr:\n"+r.err)
		r = do(t, full(), line+" --json")
		if r.status != 0 || r.err != "" {
			t.Errorf("%s --json: %d, %s", line, r.status, r.err)
		}
		golden(t, name+".json", r.out)
		if strings.Contains(r.out, "hush") {
			t.Errorf("%s shows a value", line)
		}
	}
	r := do(t, full(), "ps -a blog", terminal)
	golden(t, "ps-terminal", r.err+r.out)
}

func TestOutput_Empty(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{"stacks --json": "[]\n", "stacks": ""} {
		if r := do(t, stacks(), line); r.status != 0 || r.out != want {
			t.Errorf("%s: %q", line, r.out)
		}
	}
	f := stacks("blog")
	for line, want := range map[string]string{
		"ps --json": "[]\n", "releases --json": "[]\n", "deployments --json": "[]\n", "build --json": "{}\n", "ps": "", "logs": "", "ps:scale --json": "{}\n",
	} {
		if r := do(t, f, line); r.status != 0 || r.out != want {
			t.Errorf("%s: %d, %q, %s", line, r.status, r.out, r.err)
		}
	}
	f.stacks[0].Config = nil
	if r := do(t, f, "config --json"); !strings.Contains(r.out, `"names": []`) {
		t.Errorf("got %s", r.out)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	page := do(t, f, "help")
	golden(t, "help", page.out)
	golden(t, "help-config", do(t, f, "help config").out)
	golden(t, "help-config-set", do(t, f, "help config:set").out)
	for _, same := range [][2]string{{"help config:set", "config:set --help"}, {"help config set", "config set -h"}, {"help apps", "help stacks"}, {"help logs", "logs --help"}} {
		if a, b := do(t, f, same[0]), do(t, f, same[1]); a.status != 0 || a.out != b.out {
			t.Errorf("%q and %q differ: %q, %q", same[0], same[1], a.out+a.err, b.out+b.err)
		}
	}
	var out, errs bytes.Buffer
	if err := command.Here("test", []string{"help"}, &out, &errs); err != nil || out.String() != page.out {
		t.Errorf("without a server: %v, %q", err, out.String())
	}
	out.Reset()
	if err := command.Here("test", []string{"help", "no such"}, &out, &errs); !errors.Is(err, mesh.Invalid) {
		t.Errorf("help about nothing: %v", err)
	}
	out.Reset()
	if command.Document(&out); strings.Count(out.String(), "\n### ") < 30 {
		t.Errorf("the document is %q", out.String())
	}
}

// Measures has some requests of web, two instances of it, and a gap.
func (f *fake) Measures(_ context.Context, q mesh.MeasureQuery) (mesh.Measures, error) {
	if f.unmeasured {
		return mesh.Measures{Start: q.Since, Step: time.Minute}, nil
	}
	n := q.Points
	if n == 0 {
		n = 4
	}
	out := mesh.Measures{Start: q.Since, Step: q.Until.Sub(q.Since) / time.Duration(n)}
	for slot := range 3 {
		row := mesh.MeasureRow{Name: mesh.InstanceName{Service: mesh.Web, Slot: slot}}
		for i := range n {
			m := measure(slot, i*30/n)
			if i == n/3 {
				m = mesh.Measure{}
			}
			row.Points = append(row.Points, m)
		}
		out.Rows = append(out.Rows, row)
	}
	return out, nil
}

func measure(slot, i int) mesh.Measure {
	m := mesh.Measure{Samples: 6}
	if slot == 0 {
		if i > 25 {
			m.Held, m.Status[5] = 2, 6
		}
		return m
	}
	m.Status[2], m.Status[5], m.Bytes = uint64(60*slot*(i%12+1)), uint64(i/20), 12345
	m.Latency[mesh.LatencyClass(time.Duration(i+1)*3*time.Millisecond)] = m.Requests()
	m.CPU, m.Memory, m.Disk, m.InFlight = time.Duration(slot*(i%7)*4)*time.Second, int64(slot*60+i)<<20, 40<<10, int64(i%3)
	return m
}

// Latest has two instances of web.
func (f *fake) Latest(stack mesh.StackName) map[mesh.InstanceName]mesh.Measure {
	if f.unmeasured {
		return nil
	}
	all := map[mesh.InstanceName]mesh.Measure{}
	for slot := range 3 {
		m := measure(slot, 20+len(stack))
		m.Samples = 1
		all[mesh.InstanceName{Service: mesh.Web, Slot: slot}] = m
	}
	return all
}

// Minute is the traffic of web.
func (f *fake) Minute(_ mesh.StackName, svc mesh.ServiceName) mesh.Traffic {
	if svc != mesh.Web {
		return mesh.Traffic{}
	}
	if f.minute != (mesh.Traffic{}) {
		return f.minute
	}
	return mesh.Traffic{Requests: 150, Errors: 3, P50: 1500 * time.Microsecond, P95: 20 * time.Millisecond}
}
