package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"mesh"
)

// Client sets the statuses of commits. Its methods may be called from several goroutines.
type Client struct {
	HTTP *http.Client // reaches the addresses that fetches may; nil: http.DefaultClient
}

// reportTime limits one request.
const reportTime = 20 * time.Second

// Report shows a status at a commit. For a preview that is live it also records a deployment
// with its URL, where the forge has such. Without a token, or with an unknown kind of
// forge, it does nothing.
func (c *Client) Report(ctx context.Context, f mesh.Forge, s mesh.ForgeStatus) error {
	if f.Token.Reveal() == "" {
		return nil
	}
	host, path := f.WebURL()
	text := mesh.Clip(s.Text, 130) // GitHub takes 140 characters
	scheme := "https"
	if strings.HasPrefix(f.URL, "http://") {
		scheme = "http"
	}
	switch f.Known() {
	case mesh.GitHub:
		base := scheme + "://" + host + "/api/v3"
		if host == "github.com" {
			base = "https://api.github.com"
		}
		repo := base + "/repos/" + path
		err := c.post(ctx, f, repo+"/statuses/"+string(s.Commit), map[string]any{"state": s.State, "description": text, "context": s.Context, "target_url": s.URL}, nil)
		if err != nil || s.State != mesh.ForgeSuccess || s.URL == "" {
			return err
		}
		var made struct {
			ID int64 `json:"id"`
		}
		err = c.post(ctx, f, repo+"/deployments", map[string]any{
			"ref": s.Commit, "environment": string(s.Stack), "auto_merge": false, "required_contexts": []string{},
			"transient_environment": s.Preview, "production_environment": !s.Preview, "description": text,
		}, &made)
		if err != nil {
			return err
		}
		return c.post(ctx, f, fmt.Sprintf("%s/deployments/%d/statuses", repo, made.ID), map[string]any{"state": "success", "environment_url": s.URL, "description": text}, nil)
	case mesh.GitLab:
		project := scheme + "://" + host + "/api/v4/projects/" + url.PathEscape(path)
		state := map[mesh.ForgeState]string{mesh.ForgePending: "running", mesh.ForgeSuccess: "success", mesh.ForgeFailure: "failed"}[s.State]
		err := c.post(ctx, f, project+"/statuses/"+string(s.Commit), map[string]any{"state": state, "description": text, "name": s.Context, "ref": s.Branch, "target_url": s.URL}, nil)
		if err != nil || s.State != mesh.ForgeSuccess || s.URL == "" {
			return err
		}
		environment := project + "/environments"
		// It may exist already, from an earlier deployment.
		if err := c.post(ctx, f, environment, map[string]any{"name": string(s.Stack), "external_url": s.URL}, nil); err != nil && !errors.Is(err, mesh.Conflict) {
			return err
		}
		return c.post(ctx, f, project+"/deployments", map[string]any{"environment": string(s.Stack), "sha": s.Commit, "ref": s.Branch, "tag": false, "status": "success"}, nil)
	case mesh.Gitea:
		return c.post(ctx, f, scheme+"://"+host+"/api/v1/repos/"+path+"/statuses/"+string(s.Commit), map[string]any{"state": s.State, "description": text, "context": s.Context, "target_url": s.URL}, nil)
	}
	return nil
}

// post sends JSON and reads the answer into out, if it is not nil. A status 400 or 409 for
// something that exists is a Conflict.
func (c *Client) post(ctx context.Context, f mesh.Forge, to string, v, out any) error {
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "mesh")
	switch f.Known() {
	case mesh.GitLab:
		req.Header.Set("Private-Token", f.Token.Reveal())
	case mesh.GitHub, mesh.Gitea:
		req.Header.Set("Authorization", "token "+f.Token.Reveal())
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	switch {
	case err != nil:
		return err
	case res.StatusCode == http.StatusConflict, res.StatusCode == http.StatusBadRequest && bytes.Contains(body, []byte("already")):
		return mesh.Errorf(mesh.Conflict, "the forge has it already")
	case res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden, res.StatusCode == http.StatusNotFound:
		return mesh.Errorf(mesh.Denied, "the forge answers %s: the token may not set statuses there", res.Status).WithHint("set another token: ssh mesh git:token -a STACK < token")
	case res.StatusCode >= 300:
		return mesh.Errorf(mesh.Failed, "the forge answers %s: %s", res.Status, mesh.Clip(mesh.Visible(string(body)), 200))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(body, out)
}
