package mesh

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Forge is where a stack gets its commits from besides pushes: a repository at GitHub,
// GitLab, Gitea or Forgejo, whose webhooks say when to look.
type Forge struct {
	URL     string     // of the repository, as git takes it; without a password
	Branch  string     // that is deployed; empty: the deploy branch, or main
	Kind    ForgeKind  // empty: not known yet
	Secret  Secret     // signs its webhooks
	Token   Secret     // for commit statuses; empty: none are set
	Pending []string   // branches that may have changed and have not been looked at, oldest first
	Event   time.Time  // the last webhook; zero: none yet
	Fault   ForgeFault // why the last look failed; zero: it did not
}

// ForgeFault is why commits could not be fetched.
type ForgeFault struct {
	At  time.Time
	Why string
}

// ForgeKind is a kind of forge, by its API and its webhooks.
type ForgeKind string

// The kinds. Forgejo has Gitea's API.
const (
	GitHub ForgeKind = "github"
	GitLab ForgeKind = "gitlab"
	Gitea  ForgeKind = "gitea"
)

// ForgeEvent is what a webhook says.
type ForgeEvent struct {
	Kind   ForgeKind
	Branch string // that may have changed, in the repository itself; empty: none that matters
	Ping   bool   // it only tries the webhook
}

// maxForgeURL limits the URL of a repository.
const maxForgeURL = 500

var (
	forgeURL = regexp.MustCompile(`^(?:https|http|ssh)://[A-Za-z0-9_@.:\[\]-]+/[^\s?#]+$`)
	forgeSCP = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*@[A-Za-z0-9_][A-Za-z0-9._-]*:[^\s:?#-][^\s:?#]*$`)
)

// ParseForgeURL checks the URL of a repository. A password has no place in it: everybody
// who may read the stack sees the URL.
func ParseForgeURL(s string) (string, error) {
	s = strings.TrimSpace(s)
	u, err := url.Parse(s)
	switch {
	case len(s) > maxForgeURL || !forgeURL.MatchString(s) && !forgeSCP.MatchString(s):
		return "", Errorf(Invalid, "%q is not the URL of a repository", Clip(Visible(s), 100)).WithHint("use https://HOST/OWNER/NAME, or for a private one git@HOST:OWNER/NAME")
	case err == nil && u.User != nil && u.Scheme != "ssh":
		return "", Errorf(Invalid, "the URL has a user name in it, which everybody who may read the stack would see").
			WithHint("use the ssh URL of a private repository, and give it this key: ssh mesh git:deploy-key -a STACK")
	}
	return s, nil
}

// WebURL returns where people see the repository, and its path without .git.
func (f Forge) WebURL() (host, path string) {
	var rest string
	if u, err := url.Parse(f.URL); err == nil && u.Host != "" {
		host, rest = u.Host, u.Path
		if u.Scheme == "ssh" {
			host = u.Hostname()
		}
	} else {
		_, rest, _ = strings.Cut(f.URL, "@")
		host, rest, _ = strings.Cut(rest, ":")
	}
	return host, strings.TrimSuffix(strings.Trim(rest, "/"), ".git")
}

// Known returns the kind of forge: the one a webhook came from, or else a guess from the host.
func (f Forge) Known() ForgeKind {
	host, _ := f.WebURL()
	switch {
	case f.Kind != "":
		return f.Kind
	case strings.Contains(host, "github"):
		return GitHub
	case strings.Contains(host, "gitlab"):
		return GitLab
	case strings.Contains(host, "gitea"), strings.Contains(host, "forgejo"), host == "codeberg.org":
		return Gitea
	}
	return ""
}

// With returns a copy with a branch to look at.
func (f Forge) With(branch string) *Forge {
	if !slices.Contains(f.Pending, branch) {
		f.Pending = append(slices.Clone(f.Pending), branch)
	}
	return &f
}

// Without returns a copy without a branch to look at.
func (f Forge) Without(branch string) *Forge {
	f.Pending = slices.DeleteFunc(slices.Clone(f.Pending), func(b string) bool { return b == branch })
	return &f
}

// ForgeStatus is what a forge shows at a commit.
type ForgeStatus struct {
	Context string    // names the row: the same for all states of a deployment
	Stack   StackName // that is deployed
	Commit  Commit
	Branch  string
	Preview bool // it is a preview's, and its URL that of a pull request's deployment
	State   ForgeState
	Text    string // one line
	URL     string // of the app, if it is live
}

// ForgeState is how a deployment fares.
type ForgeState string

// The states.
const (
	ForgePending ForgeState = "pending"
	ForgeSuccess ForgeState = "success"
	ForgeFailure ForgeState = "failure"
)
