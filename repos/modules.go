package repos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	format "github.com/go-git/go-git/v5/plumbing/format/config"
	gossh "golang.org/x/crypto/ssh"

	"mesh"
)

const (
	// moduleRefs keep the commits of submodules, which lie in the repository of the
	// stack. Clients do not see them.
	moduleRefs = "refs/mesh/modules/"
	// deployKey is what a stack's repository is known by elsewhere.
	deployKey = "deploy_key"

	moduleDepth   = 5 // of submodules in submodules
	moduleTimeout = 10 * time.Minute
)

// moduleURL is a URL that submodules are fetched from. Others, a path of the server's
// own disk among them, are refused, and so is what git could take for an option.
var moduleURL = regexp.MustCompile(`^(?:https?|ssh|git)://[A-Za-z0-9_@\[][^\s]*$|^[A-Za-z0-9_][A-Za-z0-9._-]*@[A-Za-z0-9_][A-Za-z0-9._-]*:[^\s-][^\s]*$`)

// moduleHost is a name or an address. url.Parse lets quotes, blanks and "$(" into the
// zone of an IPv6 address (RFC 6874), and git hands GIT_SSH_COMMAND to a shell: an
// address with a zone is refused. It would be link-local anyway.
var moduleHost = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$|^[0-9A-Fa-f:.]+$`)

// quoted is a word for the shell that git starts GIT_SSH_COMMAND with.
func quoted(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// Egress keeps what is fetched for a stack from where it may not come from.
type Egress interface {
	// Check refuses a host, a name or an address without a port, with a *mesh.Error.
	Check(ctx context.Context, host string) error
	// Pin returns an address of a host that may be fetched from.
	Pin(ctx context.Context, host string) (netip.Addr, error)
	// Proxy is an HTTP proxy that reaches only what may be fetched from, until stop.
	Proxy(ctx context.Context) (at *url.URL, stop func(), err error)
}

// FetchModules brings the submodules of a commit into the stack's repository, where
// Open finds them, and calls say for each that has to be fetched, and for each that is
// left out because .gitmodules says so. It returns whether there was any: the tree has
// to be opened anew then.
func (r *Repos) FetchModules(ctx context.Context, stack mesh.StackName, commit mesh.Commit, say func(string)) (fetched bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, moduleTimeout)
	defer cancel()
	skipped := map[string]bool{}
	for range moduleDepth {
		opened, _, release, err := r.Open(ctx, stack, commit)
		if err != nil {
			return fetched, err
		}
		t, _ := opened.(*tree)
		missing := missingModules(t)
		specs, err := moduleSpecs(t)
		release()
		if err != nil {
			return fetched, err
		}
		missing = slices.DeleteFunc(missing, func(e mesh.TreeEntry) bool {
			if specs[e.Path].update != "none" {
				return false
			}
			if !skipped[e.Path] {
				skipped[e.Path] = true
				say(fmt.Sprintf("submodule %s is skipped: .gitmodules has update = none", printable(e.Path)))
			}
			return true
		})
		if len(missing) == 0 {
			return fetched, nil
		}
		for _, e := range missing {
			url, err := specs.url(e.Path)
			if err != nil {
				return fetched, err
			}
			say(fmt.Sprintf("submodule %s from %s", printable(e.Path), shownURL(url)))
			if err := r.fetchModule(ctx, stack, e, url); err != nil {
				return fetched, err
			}
			fetched = true
		}
	}
	return fetched, mesh.Errorf(mesh.Failed, "submodules are nested more than %d deep", moduleDepth).
		WithHint("remove the innermost ones from .gitmodules, or give them update = none")
}

// missingModules are the submodules of a tree whose commit is not here.
func missingModules(t *tree) (list []mesh.TreeEntry) {
	for _, e := range t.Entries() {
		if e.Module != "" {
			list = append(list, e)
		}
	}
	return list
}

// moduleSpec is what .gitmodules says of a submodule (gitmodules(5)).
type moduleSpec struct {
	url, update string
	parent      string // path of the submodule whose .gitmodules it is; empty: the tree's own
}

// moduleSpecList is what is said of all submodules of a tree, by path.
type moduleSpecList map[string]moduleSpec

// maxModules is how many bytes a .gitmodules may have.
const maxModules = 1 << 20

// moduleSpecs reads the .gitmodules of a tree and of the submodules in it. Elsewhere git
// does not look for one either.
func moduleSpecs(t *tree) (moduleSpecList, error) {
	specs := moduleSpecList{}
	for _, e := range t.Entries() {
		dir := path.Dir(e.Path)
		if path.Base(e.Path) != ".gitmodules" || dir != "." && !t.modules[dir] {
			continue
		}
		bad := func(why string) error {
			return mesh.Errorf(mesh.Failed, "%s %s", printable(e.Path), why).WithHint("commit it as a file that git submodule can read")
		}
		switch {
		case !e.Mode.IsRegular():
			return nil, bad("is no file")
		case e.Size > maxModules:
			return nil, bad("is larger than 1 MB")
		}
		f, err := t.Open(e)
		if err != nil {
			return nil, err
		}
		var c format.Config
		err = format.NewDecoder(io.LimitReader(f, maxModules)).Decode(&c)
		_ = f.Close()
		if err != nil {
			return nil, bad("cannot be read: " + printable(err.Error()))
		}
		parent := dir
		if dir == "." {
			parent = ""
		}
		for _, s := range c.Section("submodule").Subsections {
			specs[path.Join(dir, s.Option("path"))] = moduleSpec{s.Option("url"), strings.TrimSpace(s.Option("update")), parent}
		}
	}
	return specs, nil
}

// url is where a submodule is fetched from. One that is relative counts from where the
// submodule around it came from; where the pushed repository itself came from is not
// known here.
func (l moduleSpecList) url(at string) (string, error) {
	spec, shown := l[at], printable(at)
	if spec.url == "" {
		return "", mesh.Errorf(mesh.Failed, "the submodule %s has no URL in .gitmodules", shown).
			WithHint("add it with: git submodule add URL %s, or remove it with: git rm --cached %s", shown, shown)
	}
	if !strings.HasPrefix(spec.url, "./") && !strings.HasPrefix(spec.url, "../") {
		return spec.url, nil
	}
	if spec.parent == "" {
		return "", mesh.Errorf(mesh.Failed, "the submodule %s has the relative URL %q, and mesh does not know the base URL", shown, printable(spec.url)).
			WithHint("use a full URL: git submodule set-url %s https://HOST/REPOSITORY", shown)
	}
	base, err := l.url(spec.parent)
	if err != nil {
		return "", err
	}
	return relativeURL(base, spec.url), nil
}

// relativeURL is what git makes of a relative URL (relative_url in its remote.c).
func relativeURL(base, rel string) string {
	base, sep := strings.TrimSuffix(base, "/"), "/"
	for {
		if after, ok := strings.CutPrefix(rel, "./"); ok {
			rel = after
			continue
		}
		after, up := strings.CutPrefix(rel, "../")
		if !up {
			return base + sep + rel
		}
		rel = after
		if i := strings.LastIndexByte(base, '/'); i >= 0 {
			base = base[:i]
		} else if i := strings.LastIndexByte(base, ':'); i >= 0 {
			base, sep = base[:i], ":"
		}
	}
}

var password = regexp.MustCompile(`^([a-z]+://[^/@:]*):[^/@]*@`)

func withoutPassword(url string) string {
	return password.ReplaceAllString(url, "$1:"+mesh.Mask+"@")
}

func shownURL(url string) string { return mesh.Visible(mesh.Clip(withoutPassword(url), 200)) }

// origin is how git reaches a submodule: what it needs in its environment, where no
// list of processes shows it.
type origin struct {
	url string
	env []string
	set []string // configuration, KEY=VALUE
}

// reach prepares the way to a URL. stop ends what was started for it.
func (r *Repos) reach(ctx context.Context, stack mesh.StackName, raw string) (to origin, stop func(), err error) {
	key := filepath.Join(r.path(stack), deployKey)
	if _, err := os.Stat(key); err != nil {
		key = "none"
	}
	ssh := fmt.Sprintf("ssh -F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none -o IdentityFile=%s -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=%s -o LogLevel=ERROR",
		quoted(key), quoted(filepath.Join(r.path(stack), "known_hosts")))
	to, stop = origin{url: raw}, func() {}
	scheme, host := hostOf(raw)
	if !moduleHost.MatchString(host) {
		return to, nil, mesh.Errorf(mesh.Invalid, "%q is not a host", printable(mesh.Clip(host, 100))).
			WithHint("correct the URL in .gitmodules; escape spaces as %%20")
	}
	if r.Egress != nil {
		if err := r.Egress.Check(ctx, host); err != nil {
			return to, nil, err
		}
		switch scheme {
		case "http", "https":
			var proxy *url.URL
			if proxy, stop, err = r.Egress.Proxy(ctx); err != nil {
				return to, nil, err
			}
			to.set = append(to.set, "http.proxy="+proxy.String(), "http.proxyAuthMethod=basic")
		default:
			addr, err := r.Egress.Pin(ctx, host)
			if err != nil {
				return to, nil, err
			}
			if scheme == "git" {
				to.url = pinned(raw, host, addr)
			}
			ssh += fmt.Sprintf(" -o HostName=%s -o HostKeyAlias=%s", quoted(addr.String()), quoted(host))
		}
	}
	to.env = append(to.env, "GIT_ALLOW_PROTOCOL=http:https:ssh:git", "GIT_SSH_COMMAND="+ssh)
	return to, stop, nil
}

// hostOf is the protocol and the host of a URL that moduleURL has let through.
func hostOf(raw string) (scheme, host string) {
	if u, err := url.Parse(raw); err == nil && u.Scheme != "" && u.Host != "" {
		return u.Scheme, u.Hostname()
	}
	_, host, _ = strings.Cut(raw, "@") // the form of scp
	host, _, _ = strings.Cut(host, ":")
	return "ssh", host
}

// pinned is a URL with the address in the place of its host.
func pinned(raw, host string, addr netip.Addr) string {
	to := addr.String()
	if addr.Is6() {
		to = "[" + to + "]"
	}
	return strings.Replace(raw, host, to, 1)
}

// fetchModule gets one commit. A server that gives no commit by its id gives its
// branches and tags.
func (r *Repos) fetchModule(ctx context.Context, stack mesh.StackName, e mesh.TreeEntry, raw string) error {
	shown := shownURL(raw)
	if !moduleURL.MatchString(raw) {
		return mesh.Errorf(mesh.Failed, "the submodule %s cannot be fetched from %q", printable(e.Path), shown).
			WithHint("use an https:// or ssh:// URL in .gitmodules")
	}
	to, stop, err := r.reach(ctx, stack, raw)
	if err != nil {
		var refused *mesh.Error
		if errors.As(err, &refused) {
			return &mesh.Error{Kind: mesh.Failed, Text: fmt.Sprintf("the submodule %s cannot be fetched: %s", printable(e.Path), refused.Text), Hint: refused.Hint, Err: err}
		}
		return err
	}
	defer stop()
	ref := moduleRefs + e.Module
	to.set = append(to.set, "remote.module.url="+to.url, "fetch.fsckObjects=true")
	for _, s := range settings {
		if rest, ok := strings.CutPrefix(s, "receive.fsck."); ok {
			to.set = append(to.set, "fetch.fsck."+rest)
		}
	}
	try := func(args ...string) ([]byte, error) {
		cmd := r.Git(ctx, stack, nil, "fetch", append([]string{"--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"}, args...)...)
		limitFiles(cmd, r.MaxInput)
		cmd.Env = append(cmd.Env, to.env...)
		cmd.Env = append(cmd.Env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(to.set)))
		for i, s := range to.set {
			k, v, _ := strings.Cut(s, "=")
			cmd.Env = append(cmd.Env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, k), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, v))
		}
		return cmd.CombinedOutput()
	}
	out, err := try("--depth=1", "module", e.Module+":"+ref)
	if err != nil && ctx.Err() == nil {
		if all, aerr := try("module", "+refs/*:"+moduleRefs+"all/*"); aerr == nil {
			if _, err = r.run(ctx, stack, "update-ref", ref, e.Module); err != nil {
				return mesh.Errorf(mesh.Failed, "the submodule %s is at the commit %s, which %s does not have", printable(e.Path), mesh.Commit(e.Module).Short(), shown).
					WithHint("push it there first")
			}
		} else {
			out = all
		}
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	lines := strings.Split(printableLines(string(out)), "\n")
	return &mesh.Error{
		Kind: mesh.Failed, Text: fmt.Sprintf("the submodule %s cannot be fetched from %s", printable(e.Path), shown), Output: lines, Err: err,
		Hint: fmt.Sprintf("if it is private, give this key read access, and use an ssh:// URL in .gitmodules: ssh mesh git:deploy-key -a %s", stack),
	}
}

// limitFiles lets a git write no file, a pack for one, that is larger: fetches have no
// limit of their own, as pushes have in receive.maxInputSize.
func limitFiles(cmd *exec.Cmd, size int64) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		return
	}
	// In units of 512 bytes (POSIX, ulimit -f).
	cmd.Args = append([]string{sh, "-c", `ulimit -f "$0"; exec "$@"`, strconv.FormatInt(size/512, 10), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = sh
}

// printableLines are the last lines of what git has said.
func printableLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for i, l := range lines {
		lines[i] = printable(withoutPassword(l))
	}
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// DeployKey returns the public key that a stack's repository shows where submodules
// are fetched from, and makes it when there is none.
func (r *Repos) DeployKey(_ context.Context, stack mesh.StackName) (string, error) {
	if err := r.Ensure(stack); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key, err := r.Key(filepath.Join(r.path(stack), deployKey))
	if err != nil {
		return "", fmt.Errorf("the deploy key of %s: %w", stack, err)
	}
	return strings.TrimSpace(string(gossh.MarshalAuthorizedKey(key.PublicKey()))) + " mesh-" + string(stack), nil
}

// moduleTree is the tree of a submodule's commit, when that is here.
func (s *storage) moduleTree(id plumbing.Hash) (plumbing.Hash, bool, error) {
	c, err := s.commit(id)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return plumbing.ZeroHash, false, nil
	}
	if err != nil {
		return plumbing.ZeroHash, false, err
	}
	return c.TreeHash, true, nil
}
