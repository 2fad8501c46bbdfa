package forge_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"mesh"
	"mesh/forge"
)

const secret = "s3cret"

// The bodies have the fields of the forges' documentation that matter here, and some that
// do not: docs.github.com "Webhook events and payloads", docs.gitlab.com "Webhook events",
// docs.gitea.com "Webhooks".
const (
	githubPush   = `{"ref":"refs/heads/feat/x","before":"aa","after":"bb","deleted":false,"repository":{"id":1,"full_name":"acme/blog"},"pusher":{"name":"x"},"commits":[]}`
	githubTag    = `{"ref":"refs/tags/v1","after":"bb","repository":{"id":1}}`
	githubDelete = `{"ref":"feat/x","ref_type":"branch","repository":{"id":1}}`
	githubPull   = `{"action":"synchronize","number":2,"pull_request":{"head":{"ref":"feat/x","sha":"bb","repo":{"id":1}},"base":{"ref":"main","repo":{"id":1}}}}`
	githubFork   = `{"action":"opened","number":2,"pull_request":{"head":{"ref":"evil","sha":"bb","repo":{"id":666}},"base":{"ref":"main","repo":{"id":1}}}}`
	githubGone   = `{"action":"closed","pull_request":{"head":{"ref":"feat/x","repo":null},"base":{"ref":"main","repo":{"id":1}}}}`
	gitlabPush   = `{"object_kind":"push","ref":"refs/heads/main","after":"bb","project_id":15}`
	gitlabMerge  = `{"object_kind":"merge_request","object_attributes":{"source_branch":"feat/x","target_branch":"main","source_project_id":14,"target_project_id":14,"action":"open"}}`
	gitlabFork   = `{"object_kind":"merge_request","object_attributes":{"source_branch":"evil","source_project_id":666,"target_project_id":14}}`
)

func signedBy(key, body string) string {
	mac := hmac.New(sha256.New, []byte(key))
	_, _ = mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

func github(event, body, key string) http.Header {
	return header("X-GitHub-Event", event, "X-Hub-Signature-256", "sha256="+signedBy(key, body), "Content-Type", "application/json")
}

func TestRead(t *testing.T) {
	t.Parallel()
	gitea := header("X-Gitea-Event", "push", "X-GitHub-Event", "push", "X-Gitea-Signature", signedBy(secret, githubPush), "X-Hub-Signature-256", "sha256=00")
	forgejo := header("X-Forgejo-Event", "pull_request", "X-Gitea-Event", "pull_request", "X-Forgejo-Signature", signedBy(secret, githubPull))
	for name, c := range map[string]struct {
		h    http.Header
		body string
		want mesh.ForgeEvent
	}{
		"a push":                   {github("push", githubPush, secret), githubPush, mesh.ForgeEvent{Kind: mesh.GitHub, Branch: "feat/x"}},
		"a tag":                    {github("push", githubTag, secret), githubTag, mesh.ForgeEvent{Kind: mesh.GitHub}},
		"a deleted branch":         {github("delete", githubDelete, secret), githubDelete, mesh.ForgeEvent{Kind: mesh.GitHub, Branch: "feat/x"}},
		"a pull request":           {github("pull_request", githubPull, secret), githubPull, mesh.ForgeEvent{Kind: mesh.GitHub, Branch: "feat/x"}},
		"a pull request of a fork": {github("pull_request", githubFork, secret), githubFork, mesh.ForgeEvent{Kind: mesh.GitHub}},
		"one whose fork is gone":   {github("pull_request", githubGone, secret), githubGone, mesh.ForgeEvent{Kind: mesh.GitHub}},
		"a ping":                   {github("ping", `{"zen":"x"}`, secret), `{"zen":"x"}`, mesh.ForgeEvent{Kind: mesh.GitHub, Ping: true}},
		"an event of no matter":    {github("star", `{}`, secret), `{}`, mesh.ForgeEvent{Kind: mesh.GitHub}},
		"Gitea":                    {gitea, githubPush, mesh.ForgeEvent{Kind: mesh.Gitea, Branch: "feat/x"}},
		"Forgejo":                  {forgejo, githubPull, mesh.ForgeEvent{Kind: mesh.Gitea, Branch: "feat/x"}},
		"GitLab":                   {header("X-Gitlab-Event", "Push Hook", "X-Gitlab-Token", secret), gitlabPush, mesh.ForgeEvent{Kind: mesh.GitLab, Branch: "main"}},
		"GitLab's merge request":   {header("X-Gitlab-Event", "Merge Request Hook", "X-Gitlab-Token", secret), gitlabMerge, mesh.ForgeEvent{Kind: mesh.GitLab, Branch: "feat/x"}},
		"GitLab's, of a fork":      {header("X-Gitlab-Event", "Merge Request Hook", "X-Gitlab-Token", secret), gitlabFork, mesh.ForgeEvent{Kind: mesh.GitLab}},
	} {
		got, err := forge.Read(c.h, []byte(c.body), mesh.NewSecret(secret))
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}

func TestRead_Refuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		h    http.Header
		body string
		key  string
		want error
	}{
		"another secret":    {github("push", githubPush, "x"), githubPush, secret, mesh.Denied},
		"another body":      {github("push", githubPush, secret), githubTag, secret, mesh.Denied},
		"no signature":      {header("X-GitHub-Event", "push"), githubPush, secret, mesh.Denied},
		"SHA-1 alone":       {header("X-GitHub-Event", "push", "X-Hub-Signature", "sha1=00"), githubPush, secret, mesh.Denied},
		"no event":          {header("X-Hub-Signature-256", "sha256="+signedBy(secret, githubPush)), githubPush, secret, mesh.Denied},
		"GitLab, no token":  {header("X-Gitlab-Event", "Push Hook"), gitlabPush, secret, mesh.Denied},
		"an empty secret":   {header("X-Gitlab-Event", "Push Hook"), gitlabPush, "", mesh.Denied},
		"an empty secret's": {github("push", githubPush, ""), githubPush, "", mesh.Denied},
		"not JSON":          {github("push", "ref=x", secret), "ref=x", secret, mesh.Invalid},
		"a form": {
			header("X-GitHub-Event", "push", "X-Hub-Signature-256", "sha256="+signedBy(secret, "payload=x"), "Content-Type", "application/x-www-form-urlencoded"),
			"payload=x", secret, mesh.Invalid,
		},
	} {
		if e, err := forge.Read(c.h, []byte(c.body), mesh.NewSecret(c.key)); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

// Nothing that is sent makes Read fail in another way.
func FuzzRead(f *testing.F) {
	for _, s := range []string{githubPush, githubPull, gitlabMerge, `{"ref":1}`, `[]`, `{"pull_request":null}`} {
		f.Add(s, "push")
		f.Add(s, "pull_request")
	}
	f.Fuzz(func(t *testing.T, body, event string) {
		h := github("x", body, secret)
		h["X-Github-Event"] = []string{event}
		_, err := forge.Read(h, []byte(body), mesh.NewSecret(secret))
		var e *mesh.Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("%q: %v", body, err)
		}
	})
}

// api answers as the forges document it, and notes what it was asked.
type api struct {
	mu    sync.Mutex
	asked []string
	fail  int // status; 0: none
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	data, _ := io.ReadAll(r.Body)
	var v map[string]any
	_ = json.Unmarshal(data, &v)
	a.asked = append(a.asked, fmt.Sprintf("%s %s %v %v %v", r.Method, r.URL.EscapedPath(), v["state"], v["status"], r.Header.Get("Authorization")+r.Header.Get("Private-Token")))
	switch {
	case a.fail > 0:
		w.WriteHeader(a.fail)
		_, _ = io.WriteString(w, `{"message":"no"}`)
	case strings.HasSuffix(r.URL.Path, "/environments"):
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"message":{"name":["has already been taken"]}}`)
	default:
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"id":7}`)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	for kind, want := range map[mesh.ForgeKind][]string{
		mesh.GitHub: {"POST /api/v3/repos/acme/blog/statuses/abc success <nil> token t0ken", "POST /api/v3/repos/acme/blog/deployments <nil> <nil> token t0ken", "POST /api/v3/repos/acme/blog/deployments/7/statuses success <nil> token t0ken"},
		mesh.GitLab: {"POST /api/v4/projects/acme%2Fblog/statuses/abc success <nil> t0ken", "POST /api/v4/projects/acme%2Fblog/environments <nil> <nil> t0ken", "POST /api/v4/projects/acme%2Fblog/deployments <nil> success t0ken"},
		mesh.Gitea:  {"POST /api/v1/repos/acme/blog/statuses/abc success <nil> token t0ken"},
	} {
		a := &api{}
		s := httptest.NewServer(a)
		f := mesh.Forge{URL: s.URL + "/acme/blog.git", Kind: kind, Token: mesh.NewSecret("t0ken")}
		status := mesh.ForgeStatus{Context: "mesh/blog", Stack: "blog", Commit: "abc", Branch: "main", State: mesh.ForgeSuccess, Text: "is live", URL: "http://blog.test"}
		c := forge.Client{HTTP: s.Client()}
		if err := c.Report(t.Context(), f, status); err != nil || strings.Join(a.asked, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: %v\n%s\nwant\n%s", kind, err, strings.Join(a.asked, "\n"), strings.Join(want, "\n"))
		}
		a.asked, a.fail = nil, http.StatusUnauthorized
		if err := c.Report(t.Context(), f, status); !errors.Is(err, mesh.Denied) || strings.Contains(err.Error(), "t0ken") {
			t.Errorf("%s, refused: %v", kind, err)
		}
		a.fail = http.StatusInternalServerError
		if err := c.Report(t.Context(), f, status); !errors.Is(err, mesh.Failed) {
			t.Errorf("%s, broken: %v", kind, err)
		}
		a.asked, f.Token = nil, mesh.Secret{}
		if err := c.Report(t.Context(), f, status); err != nil || len(a.asked) > 0 {
			t.Errorf("%s, without a token: %v, %q", kind, err, a.asked)
		}
		s.Close()
	}
}
