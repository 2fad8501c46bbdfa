package notify

import (
	"context"
	"fmt"
	"net/mail"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"mesh"
)

// The services that messages can go to.
const (
	Webhook  = "webhook"
	Slack    = "slack"
	Discord  = "discord"
	Teams    = "teams"
	Telegram = "telegram"
	Ntfy     = "ntfy"
	Email    = "email"
)

// person reports whether people read what arrives at a service: programs get every message
// on its own.
func person(service string) bool { return service != Webhook }

// target is where messages go, parsed from a recipient's URL.
type target struct {
	service string
	at      *url.URL // of requests, without user and password, which are below; nil for e-mail
	shown   string   // for people, without secrets
	secrets []string // what errors must not contain

	user, password string   // of HTTP Basic authentication, or of the mail server
	token          string   // of ntfy or of a Telegram bot
	topic          string   // of ntfy
	chat           string   // of Telegram
	mail           *mailbox // of e-mail
}

// mailbox is a mail server, and whom it delivers to.
type mailbox struct {
	host     string
	port     int
	implicit bool // TLS from the start
	from     string
	to       []string
}

// maxURL limits the URL of a recipient. Those of Teams take about 400 bytes.
const maxURL = 2000

// Describe returns the service of a recipient's URL, and the URL as people may see it. The
// error is a *mesh.Error that quotes nothing of the URL but its scheme and host.
func (n *Notifier) Describe(secret mesh.Secret) (service, shown string, err error) {
	t, err := parse(secret)
	return t.service, t.shown, err
}

// Allow returns an error of kind Denied or Unavailable if a recipient is fenced and its URL
// leads to where it may not be, or nowhere. Each attempt checks that again.
func (n *Notifier) Allow(ctx context.Context, r mesh.Recipient) error {
	if !r.Fenced || n.Check == nil {
		return nil
	}
	t, err := parse(r.URL)
	if err != nil {
		return err
	}
	host := ""
	if t.mail != nil {
		host = t.mail.host
	} else {
		host = t.at.Hostname()
	}
	if err := n.Check(ctx, host); err != nil {
		f := told(ctx, err)
		if f.final {
			return mesh.Errorf(mesh.Denied, "%s", f.text).WithHint("use a public address, or ask an admin of the server")
		}
		return mesh.Errorf(mesh.Unavailable, "%s", f.text).WithHint("check the URL")
	}
	return nil
}

const urlHint = "docs/alerts.md lists the forms, for example https://hooks.example.com/mesh or smtp://USER:PASSWORD@HOST:587/?from=A&to=B"

// services that a scheme can name in front: "slack+https://chat.example.com/hooks/…".
var prefixes = []string{Webhook, Slack, Discord, Teams, Telegram, Ntfy}

// parse reads the URL of a recipient.
func parse(secret mesh.Secret) (target, error) {
	raw := strings.TrimSpace(secret.Reveal())
	if raw == "" || len(raw) > maxURL || !utf8.ValidString(raw) || strings.ContainsAny(raw, " \t\r\n\x00") {
		return target{}, mesh.Errorf(mesh.Invalid, "this is not a URL of at most %d bytes", maxURL).WithHint(urlHint)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" || u.Opaque != "" {
		return target{}, mesh.Errorf(mesh.Invalid, "this is not a URL").WithHint(urlHint) // the cause quotes it
	}
	u.Fragment, u.RawFragment = "", ""
	scheme := strings.ToLower(u.Scheme)
	named, inner, joined := strings.Cut(scheme, "+")
	if joined && (inner == "https" || inner == "http") && slices.Contains(prefixes, named) {
		u.Scheme = inner
		return explicit(named, u)
	}
	switch scheme {
	case "https", "http":
		return explicit(known(u), u)
	case "smtp", "smtps":
		return mailTarget(u, scheme == "smtps")
	case Slack, Discord, Telegram, Ntfy:
		return shorthand(scheme, u)
	}
	e := mesh.Errorf(mesh.Invalid, "mesh cannot send messages to a URL that begins with %q", mesh.Clip(scheme, 20)+":")
	if scheme == Teams {
		return target{}, e.WithHint("use the https:// URL that the workflow of the Teams channel shows")
	}
	return target{}, e.WithHint(urlHint)
}

// known returns the service at an https:// URL, as people copy it from there.
func known(u *url.URL) string {
	host := strings.ToLower(u.Hostname())
	switch {
	case host == "hooks.slack.com":
		return Slack
	case (host == "discord.com" || host == "discordapp.com") && strings.HasPrefix(u.Path, "/api/webhooks/"):
		return Discord
	case strings.HasSuffix(host, ".webhook.office.com"), strings.HasSuffix(host, ".logic.azure.com"), strings.HasSuffix(host, ".api.powerplatform.com"):
		return Teams
	case host == "api.telegram.org":
		return Telegram
	case host == "ntfy.sh":
		return Ntfy
	}
	return Webhook
}

// shorthand reads the short forms of other tools, such as slack://hook:A-B-C@webhook.
func shorthand(service string, u *url.URL) (target, error) {
	password, _ := u.User.Password()
	switch service {
	case Slack:
		parts := strings.Split(password, "-")
		if u.User.Username() != "hook" || len(parts) != 3 {
			return target{}, mesh.Errorf(mesh.Invalid, "this is not a Slack webhook").WithHint("use the URL that Slack shows: https://hooks.slack.com/services/A/B/C")
		}
		return explicit(Slack, &url.URL{Scheme: "https", Host: "hooks.slack.com", Path: "/services/" + strings.Join(parts, "/")})
	case Discord:
		if u.User.Username() == "" || u.Host == "" {
			return target{}, mesh.Errorf(mesh.Invalid, "this is not a Discord webhook").WithHint("use the URL that Discord shows: https://discord.com/api/webhooks/ID/TOKEN")
		}
		return explicit(Discord, &url.URL{Scheme: "https", Host: "discord.com", Path: "/api/webhooks/" + u.Host + "/" + u.User.Username()})
	case Telegram:
		if u.Host != "telegram" {
			return target{}, mesh.Errorf(mesh.Invalid, "the host of a telegram: URL is telegram").WithHint("telegram://TOKEN@telegram?chats=CHAT; for a server of your own: telegram+https://TOKEN@HOST?chats=CHAT")
		}
		return explicit(Telegram, &url.URL{Scheme: "https", Host: "api.telegram.org", User: u.User, RawQuery: u.RawQuery})
	}
	if u.Host == "" {
		u.Host = "ntfy.sh"
	}
	return explicit(Ntfy, &url.URL{Scheme: "https", Host: u.Host, User: u.User, Path: u.Path})
}

// explicit reads an http or https URL of a service.
func explicit(service string, u *url.URL) (target, error) {
	if u.Hostname() == "" {
		return target{}, mesh.Errorf(mesh.Invalid, "the URL has no host").WithHint(urlHint)
	}
	t := target{service: service, user: u.User.Username()}
	t.password, _ = u.User.Password()
	t.secrets = secretsOf(u)
	at := *u
	at.User = nil
	t.at, t.shown = &at, u.Scheme+"://"+u.Host
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		t.shown += "/" + mesh.Mask
	}
	switch service {
	case Telegram:
		return telegramTarget(t, u)
	case Ntfy:
		t.topic = strings.Trim(u.Path, "/")
		if t.topic == "" || strings.Contains(t.topic, "/") {
			return target{}, mesh.Errorf(mesh.Invalid, "the URL has no ntfy topic").WithHint("https://ntfy.sh/TOPIC, or ntfy+https://USER:PASSWORD@HOST/TOPIC")
		}
		for _, token := range []string{t.password, t.user} { // https://docs.ntfy.sh/publish/#access-tokens
			if strings.HasPrefix(token, "tk_") {
				t.token, t.user, t.password = token, "", ""
			}
		}
		t.at.Path, t.at.RawPath, t.at.RawQuery = "/", "", ""
	}
	return t, nil
}

// telegramTarget reads the token and the chat, from our own form or from the URL of a
// request: https://api.telegram.org/botTOKEN/sendMessage?chat_id=CHAT.
func telegramTarget(t target, u *url.URL) (target, error) {
	t.token = t.user
	if t.password != "" {
		t.token += ":" + t.password
	}
	if bot, ok := strings.CutPrefix(strings.Trim(u.Path, "/"), "bot"); ok && t.token == "" {
		t.token, _, _ = strings.Cut(bot, "/")
	}
	t.user, t.password = "", ""
	q := u.Query()
	t.chat = q.Get("chats") + q.Get("channels") + q.Get("chat_id")
	if !strings.Contains(t.token, ":") || t.chat == "" || strings.Contains(t.chat, ",") {
		return target{}, mesh.Errorf(mesh.Invalid, "the URL needs the token of a Telegram bot and one chat").WithHint("telegram://TOKEN@telegram?chats=CHAT; add a recipient for each chat")
	}
	t.secrets = append(t.secrets, t.token)
	t.at.Path, t.at.RawPath, t.at.RawQuery = "/bot"+t.token+"/sendMessage", "", ""
	t.shown = u.Scheme + "://" + u.Host + " chat " + mesh.Visible(mesh.Clip(t.chat, 40))
	return t, nil
}

func mailTarget(u *url.URL, implicit bool) (target, error) {
	bad := func(format string, args ...any) error {
		return mesh.Errorf(mesh.Invalid, format, args...).WithHint("smtp://USER:PASSWORD@HOST:587/?from=mesh@example.com&to=ann@example.com,bob@example.com")
	}
	m := &mailbox{host: u.Hostname(), port: 587, implicit: implicit}
	if implicit {
		m.port = 465
	}
	if m.host == "" {
		return target{}, bad("the URL has no mail server")
	}
	if p := u.Port(); p != "" {
		if _, err := fmt.Sscanf(p, "%d", &m.port); err != nil || m.port < 1 || m.port > 65535 {
			return target{}, bad("the port of the mail server is not from 1 to 65535")
		}
		m.implicit = implicit || m.port == 465
	}
	q := u.Query()
	// "fromaddress" and "toaddresses" are what other tools call them.
	from, to := q.Get("from")+q.Get("fromaddress"), q.Get("to")+q.Get("toaddresses")
	// A + in a query is a blank, which no address contains.
	from, to = strings.ReplaceAll(from, " ", "+"), strings.ReplaceAll(to, " ", "+")
	a, err := mail.ParseAddress(from)
	if err != nil {
		return target{}, bad("from=%q is not a mail address", mesh.Clip(from, 60))
	}
	m.from = a.Address
	for s := range strings.SplitSeq(to, ",") {
		a, err := mail.ParseAddress(s)
		if err != nil {
			return target{}, bad("to=%q is not a list of mail addresses", mesh.Clip(to, 60))
		}
		if m.to = append(m.to, a.Address); len(m.to) > 20 {
			return target{}, bad("a recipient can have 20 mail addresses at most")
		}
	}
	t := target{service: Email, mail: m, user: u.User.Username()}
	t.password, _ = u.User.Password()
	for _, s := range []string{t.password, t.user} {
		if len(s) >= minSecret {
			t.secrets = append(t.secrets, s)
		}
	}
	t.shown = fmt.Sprintf("%s via %s", mesh.Visible(strings.Join(m.to, ", ")), u.Host)
	return t, nil
}

// minSecret is the length from which a part of a URL may be a secret, in bytes.
const minSecret = 4

// secretsOf returns the parts of a URL that errors must not contain: anything but the
// scheme and the host may be what signs in.
func secretsOf(u *url.URL) (out []string) {
	add := func(s string) {
		if len(s) >= minSecret {
			out = append(out, s, url.QueryEscape(s), url.PathEscape(s))
		}
	}
	password, _ := u.User.Password()
	add(u.User.Username())
	add(password)
	for part := range strings.SplitSeq(u.Path, "/") {
		add(part)
	}
	for _, values := range u.Query() {
		for _, v := range values {
			add(v)
		}
	}
	return out
}
