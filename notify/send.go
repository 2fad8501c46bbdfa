package notify

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"mesh"
)

// failure is why an attempt failed, in words that people read and without secrets.
type failure struct {
	text  string
	final bool          // trying again will most likely not help
	after time.Duration // the recipient asks to wait that long; 0: it does not
}

func (f *failure) Error() string { return f.text }

// client returns an HTTP client that follows no redirect and keeps no connection: there
// are minutes between two messages.
func client(dial func(context.Context, string, string) (net.Conn, error), proxy func(*http.Request) (*url.URL, error)) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dial, Proxy: proxy, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10,
			TLSHandshakeTimeout: attemptTime, ForceAttemptHTTP2: true,
		},
	}
}

// attempt sends messages in one, once. The error contains no secret.
func (n *Notifier) attempt(ctx context.Context, r mesh.Recipient, batch []mesh.Notice) error {
	t, err := parse(r.URL)
	if err != nil {
		return &failure{text: "its URL cannot be read", final: true}
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	if t.service == Email {
		err = n.mail(ctx, r, t, compose(batch, n.Server))
	} else {
		err = n.post(ctx, r, t, batch)
	}
	if err == nil {
		return nil
	}
	f := told(ctx, err)
	f.text = mesh.Clip(mesh.NewMasker(t.secrets).Replace(mesh.Visible(f.text)), 200)
	return f
}

// told turns an error into one for people.
func told(ctx context.Context, err error) *failure {
	var f *failure
	var e *mesh.Error
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, mesh.Denied) && errors.As(err, &e): // an address that a fenced recipient may not be at
		why, _, _ := strings.Cut(e.Text, ": ")
		return &failure{text: why + ": only an admin can add a recipient there", final: true}
	case errors.As(err, &e):
		return &failure{text: e.Text}
	case errors.Is(ctx.Err(), context.DeadlineExceeded): // whatever that has cut short
		err = context.DeadlineExceeded
	}
	return &failure{text: mesh.Unreached(err, attemptTime)}
}

// maxAnswer is how much of an answer is read, in bytes.
const maxAnswer = 8 << 10

// post sends messages by HTTP.
func (n *Notifier) post(ctx context.Context, r mesh.Recipient, t target, batch []mesh.Notice) error {
	body, err := n.body(t, batch)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.at.String(), bytes.NewReader(body))
	if err != nil {
		return &failure{text: "its URL cannot be read", final: true}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "mesh/"+n.Version)
	switch {
	case t.service == Ntfy && t.token != "":
		req.Header.Set("Authorization", "Bearer "+t.token)
	case t.user != "":
		req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(t.user+":"+t.password)))
	}
	if t.service == Webhook {
		req.Header.Set("Mesh-Id", n.id(batch[0]))
		if key := r.Signing.Reveal(); key != "" {
			req.Header.Set("Mesh-Signature", Sign(key, n.Now(), body))
		}
	}
	http := n.free
	if r.Fenced {
		http = n.fenced
	}
	res, err := http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	return verdict(t.service, res, answer, r.Fenced)
}

// verdict judges an answer. Of a fenced recipient's answer, nothing is quoted.
func verdict(service string, res *http.Response, answer []byte, fenced bool) error {
	code := res.StatusCode
	said := ""
	if text := strings.TrimSpace(string(answer)); text != "" && !fenced && !strings.HasPrefix(text, "<") {
		said = fmt.Sprintf(": %q", mesh.Clip(text, 100))
	}
	switch {
	case code >= 300 && code < 400:
		where := ""
		if to, err := res.Location(); err == nil && !fenced {
			where = " to " + to.Scheme + "://" + to.Host
		}
		return &failure{text: fmt.Sprintf("it answered %d, a redirect%s, which mesh does not follow", code, where), final: true}
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		return &failure{text: fmt.Sprintf("it answered %d%s", code, said), after: mesh.RetryAfter(res.Header.Get("Retry-After"), mostWait)}
	case code < 200 || code > 299:
		return &failure{text: fmt.Sprintf("it answered %d%s", code, said), final: true}
	}
	if service == Telegram {
		var a struct {
			OK          bool   `json:"ok"`
			Description string `json:"description"`
		}
		if err := json.Unmarshal(answer, &a); err != nil || !a.OK {
			return &failure{text: fmt.Sprintf("Telegram did not accept it: %q", mesh.Clip(a.Description, 100)), final: true}
		}
	}
	return nil
}

// id identifies a message: it is the same in each attempt.
func (n *Notifier) id(m mesh.Notice) string {
	return fmt.Sprintf("%s-%d-%s-%d", n.Server, m.Alert.Number, m.Event, m.At.Unix())
}

// body returns what a service gets, in JSON.
func (n *Notifier) body(t target, batch []mesh.Notice) ([]byte, error) {
	if t.service == Webhook {
		return json.Marshal(n.hook(batch[0]))
	}
	m := compose(batch, n.Server)
	switch t.service {
	case Slack:
		// https://api.slack.com/reference/surfaces/formatting#escaping
		text := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(m.String())
		return json.Marshal(map[string]any{"text": text})
	case Discord:
		// Text that somebody else chose must not call everyone.
		return json.Marshal(map[string]any{"content": clip(m.String(), 2000), "allowed_mentions": map[string]any{"parse": []string{}}})
	case Teams:
		block := func(text string, bold bool) map[string]any {
			b := map[string]any{"type": "TextBlock", "text": text, "wrap": true}
			if bold {
				b["weight"] = "Bolder"
			}
			return b
		}
		blocks := []any{block(m.title, true)}
		for _, l := range m.lines {
			blocks = append(blocks, block(l, false))
		}
		return json.Marshal(map[string]any{"type": "message", "attachments": []any{map[string]any{
			"contentType": "application/vnd.microsoft.card.adaptive",
			"content": map[string]any{
				"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4", "body": blocks,
			},
		}}})
	case Telegram:
		return json.Marshal(map[string]any{"chat_id": t.chat, "text": clip(m.String(), 4096), "disable_web_page_preview": true})
	case Ntfy:
		urgent, tag := 4, "rotating_light"
		if !m.bad {
			urgent, tag = 3, "white_check_mark"
		}
		return json.Marshal(map[string]any{"topic": t.topic, "title": m.title, "message": clip(strings.Join(m.lines, "\n"), 4000), "priority": urgent, "tags": []string{tag}})
	}
	return nil, fmt.Errorf("send to %s: unknown", t.service)
}

// clip shortens a text to at most n UTF-16 units, which is how the services count.
func clip(s string, n int) string {
	units := 0
	for i, r := range s {
		w := 1
		if r > 0xffff {
			w = 2
		}
		if units += w; units > n-1 {
			return s[:i] + "…"
		}
	}
	return s
}
