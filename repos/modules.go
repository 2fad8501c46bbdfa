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
	// moduleRefs keep the commits of submodules, which are stored in the stack's
	// repository. Clients do not see these refs.
	moduleRefs = "refs/mesh/modules/"
	// deployKey is the file of the key that a stack's repository uses elsewhere.
	deployKey = "deploy_key"

	moduleDepth   = 5 // nested submodules
	moduleTimeout = 10 * time.Minute
)

// moduleURL matches the URLs that submodules may be fetched from. Others are refused,
// including paths on the server's disk and anything that git could take for an option.
var moduleURL = regexp.MustCompile(`^(?:https?|ssh|git)://[A-Za-z0-9_@\[][^\s]*$|^[A-Za-z0-9_][A-Za-z0-9._-]*@[A-Za-z0-9_][A-Za-z0-9._-]*:[^\s-][^\s]*$`)

// moduleHost matches a name or an address. url.Parse allows quotes, blanks and "$(" in
// the zone of an IPv6 address (RFC 6874), and git passes GIT_SSH_COMMAND to a shell, so
// an address with a zone is refused. It would be link-local anyway.
var moduleHost = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$|^[0-9A-Fa-f:.]+$`)

// quoted quotes a word for the shell that git runs GIT_SSH_COMMAND with.
func quoted(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// Egress restricts where a stack may fetch from.
type Egress interface {
	// Check returns a *mesh.Error if a host, a name or an address without a port, is
	// not allowed.
	Check(ctx context.Context, host string) error
	// Pin returns an address of a host that may be fetched from.
	Pin(ctx context.Context, host string) (netip.Addr, error)
	// Proxy starts an HTTP proxy that reaches only allowed addresses, until stop.
	Proxy(ctx context.Context) (at *url.URL, stop func(), err error)
}

// FetchModules fetches the submodules of a commit into the stack's repository, where
// Open finds them. It calls say for each submodule that must be fetched, and for each
// that .gitmodules leaves out. It reports whether it fetched any: if so, open the tree
// again.
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

// missingModules returns the submodules of a tree whose commit is missing.
func missingModules(t *tree) (list []mesh.TreeEntry) {
	for _, e := range t.Entries() {
		if e.Module != "" {
			list = append(list, e)
		}
	}
	return list
}

// moduleSpec is the entry of a submodule in .gitmodules (gitmodules(5)).
type moduleSpec struct {
	url, update string
	parent      string // path of the submodule whose .gitmodules it is; empty: the tree's own
}

// moduleSpecList holds the entries of all submodules of a tree, by path.
type moduleSpecList map[string]moduleSpec

// maxModules limits the bytes of a .gitmodules.
const maxModules = 1 << 20

// moduleSpecs reads the .gitmodules of a tree and of the submodules in it, the only
// places where git looks for one.
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

// url returns where a submodule is fetched from. A relative URL is relative to that of
// the surrounding submodule; the origin of the pushed repository itself is unknown
// here.
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

// relativeURL resolves a relative URL as git does (relative_url in its remote.c).
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

// origin is how git reaches a submodule. It is passed in the environment, where no list
// of processes shows it.
type origin struct {
	url string
	env []string
	set []string // configuration, KEY=VALUE
}

// reach prepares access to a URL. stop ends what was started for it.
func (r *Repos) reach(ctx context.Context, stack mesh.StackName, raw string) (to origin, stop func(), err error) {
	key := filepath.Join(r.path(stack), deployKey)
	if _, err := os.Stat(key); err != nil {
		key = "none"
	}
	ssh := fmt.Sprintf("ssh -F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none -o IdentityFile=%s -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=%s -o LogLevel=ERROR",
		quoted(key), quoted(filepath.Join(r.path(stack), "known_hosts")))
	to, stop = origin{url: raw}, func() {}
	scheme, host := hostOf(raw)
	if err := r.mayFetch(ctx, host); err != nil {
		return to, nil, err
	}
	if r.Egress != nil {
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

// MayFetch returns a *mesh.Error, as Fetch would, if nothing may be fetched from where a URL
// leads. The address of a name may be another one later: Fetch checks it again.
func (r *Repos) MayFetch(ctx context.Context, url string) error {
	_, host := hostOf(url)
	return r.mayFetch(ctx, host)
}

func (r *Repos) mayFetch(ctx context.Context, host string) error {
	if !moduleHost.MatchString(host) {
		return mesh.Errorf(mesh.Invalid, "%q is not a host", printable(mesh.Clip(host, 100))).WithHint("correct the URL; escape spaces as %%20")
	}
	if r.Egress == nil {
		return nil
	}
	return r.Egress.Check(ctx, host)
}

// hostOf returns the protocol and the host of a URL that matches moduleURL.
func hostOf(raw string) (scheme, host string) {
	if u, err := url.Parse(raw); err == nil && u.Scheme != "" && u.Host != "" {
		return u.Scheme, u.Hostname()
	}
	_, host, _ = strings.Cut(raw, "@") // in scp form
	host, _, _ = strings.Cut(host, ":")
	return "ssh", host
}

// pinned returns a URL with the address instead of its host.
func pinned(raw, host string, addr netip.Addr) string {
	to := addr.String()
	if addr.Is6() {
		to = "[" + to + "]"
	}
	return strings.Replace(raw, host, to, 1)
}

// fetchModule fetches one commit. If the server refuses to send a commit by its ID,
// fetchModule fetches its branches and tags.
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
	to.set = append(to.set, "remote.module.url="+to.url)
	out, err := r.fetch(ctx, stack, to, "--depth=1", "module", e.Module+":"+ref)
	if err != nil && ctx.Err() == nil {
		if all, aerr := r.fetch(ctx, stack, to, "module", "+refs/*:"+moduleRefs+"all/*"); aerr == nil {
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

// limitFiles limits the size of the files that git writes, such as packs: fetches have
// no limit like receive.maxInputSize for pushes.
func limitFiles(cmd *exec.Cmd, size int64) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		return
	}
	// In units of 512 bytes (POSIX, ulimit -f).
	cmd.Args = append([]string{sh, "-c", `ulimit -f "$0"; exec "$@"`, strconv.FormatInt(size/512, 10), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = sh
}

// printableLines returns the last lines of git's output.
func printableLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for i, l := range lines {
		lines[i] = printable(withoutPassword(l))
	}
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// DeployKey returns the public key that a stack's repository uses to fetch submodules.
// It creates the key if it is missing.
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

// moduleTree returns the tree of a submodule's commit, if that is present.
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
