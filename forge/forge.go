// Package forge speaks with forges: GitHub, GitLab, Gitea and Forgejo. It reads their
// webhooks, and sets the statuses of commits.
//
// It keeps nothing and deploys nothing: what an event means for a stack is decided
// elsewhere, and so is where secrets come from.
//
//	e, err := forge.Read(header, body, secret) // an event whose signature is right
//	err = client.Report(ctx, follow, status)
package forge

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"

	"mesh"
)

// MaxBody limits the body of a webhook. GitHub sends at most 25 MB, and nothing above
// (docs.github.com, "Webhook events and payloads").
const MaxBody = 25 << 20

// payload is the part of the events that is read. The forges agree in most of it.
type payload struct {
	Ref     string `json:"ref"`      // refs/heads/main
	After   string `json:"after"`    // the commit, or zeros if the branch was deleted
	RefType string `json:"ref_type"` // of create and delete events: branch

	PullRequest struct {
		Head side `json:"head"`
		Base side `json:"base"`
	} `json:"pull_request"`

	ObjectAttributes struct { // GitLab's merge request
		SourceBranch string `json:"source_branch"`
		SourceID     int    `json:"source_project_id"`
		TargetID     int    `json:"target_project_id"`
	} `json:"object_attributes"`
}

type side struct {
	Ref  string `json:"ref"`
	Repo struct {
		ID int64 `json:"id"`
	} `json:"repo"`
}

// Read checks the signature of a webhook and returns what it says. An error of kind Denied
// means that it is not signed with secret; Invalid, that it cannot be read.
func Read(h http.Header, body []byte, secret mesh.Secret) (mesh.ForgeEvent, error) {
	kind, name, ok := signed(h, body, secret.Reveal())
	if !ok || secret.Reveal() == "" {
		return mesh.ForgeEvent{}, mesh.Errorf(mesh.Denied, "the signature is wrong or missing").WithHint("use the secret that is printed by: ssh mesh webhooks -a STACK")
	}
	e := mesh.ForgeEvent{Kind: kind}
	text := body
	if strings.HasPrefix(h.Get("Content-Type"), "application/x-www-form-urlencoded") {
		return e, mesh.Errorf(mesh.Invalid, "the webhook sends a form").WithHint("choose the content type application/json")
	}
	var p payload
	if err := json.Unmarshal(text, &p); err != nil {
		return e, mesh.Errorf(mesh.Invalid, "the body is not JSON").WithHint("choose the content type application/json")
	}
	switch name {
	case "ping":
		e.Ping = true
	case "push", "push hook", "tag push hook":
		e.Branch, _ = strings.CutPrefix(p.Ref, "refs/heads/")
		if !strings.HasPrefix(p.Ref, "refs/heads/") {
			e.Branch = "" // a tag
		}
	case "create", "delete":
		if p.RefType == "branch" {
			e.Branch = strings.TrimPrefix(p.Ref, "refs/heads/")
		}
	case "pull_request":
		// Strangers can open a pull request from a fork: its code runs nowhere here.
		if p.PullRequest.Head.Repo.ID != 0 && p.PullRequest.Head.Repo.ID == p.PullRequest.Base.Repo.ID {
			e.Branch = p.PullRequest.Head.Ref
		}
	case "merge request hook":
		if a := p.ObjectAttributes; a.SourceID != 0 && a.SourceID == a.TargetID {
			e.Branch = a.SourceBranch
		}
	}
	return e, nil
}

// signed reports whether a webhook is signed with secret, by which kind of forge, and the
// name of its event in lower case.
func signed(h http.Header, body []byte, secret string) (kind mesh.ForgeKind, event string, ok bool) {
	sum := func(hexed string) bool {
		mac := hmac.New(sha256.New, []byte(secret))
		_, _ = mac.Write(body)
		have, err := hex.DecodeString(hexed)
		return err == nil && hmac.Equal(mac.Sum(nil), have)
	}
	for _, gitea := range []string{"Forgejo", "Gitea", "Gogs"} { // they send GitHub's fields besides
		if name := h.Get("X-" + gitea + "-Event"); name != "" {
			return mesh.Gitea, strings.ToLower(name), sum(h.Get("X-" + gitea + "-Signature"))
		}
	}
	if name := h.Get("X-Gitlab-Event"); name != "" { // GitLab sends the secret itself
		return mesh.GitLab, strings.ToLower(name), subtle.ConstantTimeCompare([]byte(h.Get("X-Gitlab-Token")), []byte(secret)) == 1
	}
	name := h.Get("X-Github-Event")
	hexed, prefixed := strings.CutPrefix(h.Get("X-Hub-Signature-256"), "sha256=")
	return mesh.GitHub, strings.ToLower(name), name != "" && prefixed && sum(hexed)
}
