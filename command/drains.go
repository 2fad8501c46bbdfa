package command

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Drains adds and removes drains.
type Drains interface {
	// AddDrain returns NoStack for a stack that does not exist.
	AddDrain(ctx context.Context, d mesh.Drain) error
	RemoveDrain(ctx context.Context, id string, by mesh.KeyName) error
}

// DrainList reads the drains.
type DrainList interface {
	Drains(ctx context.Context) ([]mesh.Drain, error)
}

// DrainSender sends lines to drains. Its errors contain nothing secret.
type DrainSender interface {
	// Describe checks a URL, and returns it without its secrets. plain reports that the
	// lines would not be encrypted on the way.
	Describe(url mesh.Secret) (shown string, plain bool, err error)
	CheckHeader(header string) error
	Status(id string) mesh.DrainStatus
	// Changed tells it that a drain was added or removed.
	Changed()
}

var drainCommands = []*definition{
	{
		topic: "drains", short: "List where the log lines are sent to", stack: true, global: true, quiet: true, json: true, run: runDrains,
	},
	{
		topic: "drains", verb: "add", args: "URL", short: "Send the log lines to a URL",
		list: "syslog+tls://HOST[:6514]  RFC 5424 messages over TLS (RFC 5425)\n" +
			"https://HOST/PATH         JSON, one object a line (application/x-ndjson)\n" +
			"otlp+https://HOST[/PATH]  OpenTelemetry (OTLP over HTTP); /v1/logs unless there is a path\n" +
			"loki+https://HOST[/PATH]  Grafana Loki's push API\n",
		long: "Sends what comes from now on, in order, and each line at least once. What cannot be sent waits on the disk, up to\n" +
			"256 MB. With - for the URL it is read from standard input, and no shell history keeps it; it is stored encrypted,\n" +
			"and no command prints it. --global sends the lines of all stacks. docs/observability.md describes the forms.",
		stack: true, global: true, access: mesh.AccessDeploy, min: 1, max: 1, keeps: func(*call) []string { return []string{"…"} }, run: runDrainsAdd,
		flags: func(f *pflag.FlagSet) {
			f.StringArray("header", nil, "a `HEADER` of the requests, as 'Name: value'; may be repeated")
			f.Bool("ca", false, "read the certificates that the receiver's is checked with from standard input")
		},
	},
	{
		topic: "drains", verb: "remove", args: "ID", short: "Send no more log lines there",
		access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 1, keeps: drainID, run: runDrainsRemove,
	},
}

// drainID keeps an ID for the audit log, and no URL.
func drainID(c *call) []string {
	if len(c.args) == 1 && len(c.args[0]) == idLength {
		return c.args
	}
	return []string{"…"}
}

// idLength is the length of a drain's ID.
const idLength = 6

type drainJSON struct {
	ID      string     `json:"id"`
	Stack   string     `json:"stack,omitempty"`
	To      string     `json:"to"`
	Waiting int64      `json:"waiting_bytes"`
	Behind  float64    `json:"behind_s"`
	Lines   int        `json:"lines"`
	Lost    int        `json:"lost"`
	Sent    *time.Time `json:"sent,omitempty"`
	Failing *time.Time `json:"failing_since,omitempty"`
	Failure string     `json:"failure,omitempty"`
	Added   time.Time  `json:"added"`
	AddedBy string     `json:"added_by,omitempty"`
}

func runDrains(ctx context.Context, c *call) error {
	all, err := c.DrainList.Drains(ctx)
	if err != nil {
		return err
	}
	list := []drainJSON{}
	var rows [][]string
	var failing []string
	for _, d := range all {
		if d.Stack != c.stack.Name && (d.Stack != "" || !c.Key.May(mesh.AccessAdmin, "")) || c.global && d.Stack != "" {
			continue
		}
		s := c.DrainSender.Status(d.ID)
		out := drainJSON{ID: d.ID, Stack: string(d.Stack), To: d.Shown, Waiting: s.Waiting, Lines: s.Lines, Lost: s.Lost, Failure: s.Failure, Added: d.Added, AddedBy: string(d.AddedBy)}
		state, behind := "ok", "-"
		if !s.Behind.IsZero() {
			age := max(0, c.Now().Sub(s.Behind))
			out.Behind, behind = age.Seconds(), ago(age)
		}
		if !s.Sent.IsZero() {
			out.Sent = &s.Sent
		}
		if !s.Failed.IsZero() {
			state, out.Failing = "failing", &s.Failed
			failing = append(failing, fmt.Sprintf("%s fails since %s: %s", d.ID, c.when(s.Failed), s.Failure))
		}
		if s.Lost > 0 {
			state += fmt.Sprintf(", %d lost", s.Lost)
		}
		list = append(list, out)
		rows = append(rows, []string{d.ID, cmp.Or(string(d.Stack), "all stacks"), d.Shown, state, size(s.Waiting), behind})
	}
	if err := c.list(list, []string{"DRAIN", "STACK", "TO", "STATE", "WAITING", "BEHIND"}, rows); err != nil {
		return err
	}
	if !c.json {
		for _, f := range failing {
			c.say("%s\n", f)
		}
	}
	return nil
}

// maxURL and maxCA limit what is read from standard input, in bytes.
const (
	maxURL     = 8 << 10
	maxCA      = 256 << 10
	maxHeaders = 20
)

func runDrainsAdd(ctx context.Context, c *call) error {
	d := mesh.Drain{ID: strings.ToLower(rand.Text()[:idLength]), Stack: c.stack.Name, AddedBy: c.Key.Name, Fenced: !c.Key.May(mesh.AccessAdmin, "")}
	url := c.args[0]
	ca, _ := c.flags.GetBool("ca")
	switch {
	case url == "-" && ca:
		return c.usage("standard input can have the URL or the certificates, not both")
	case url == "-":
		var err error
		if url, err = c.text("the bytes of the URL", maxURL); err != nil {
			return err
		}
	case len(url) > maxURL:
		return c.usage("the URL is longer than %d bytes", maxURL)
	}
	d.URL = mesh.NewSecret(strings.TrimSpace(url))
	shown, plain, err := c.DrainSender.Describe(d.URL)
	if err != nil {
		return err
	}
	d.Shown = shown
	headers, _ := c.flags.GetStringArray("header")
	if len(headers) > maxHeaders {
		return c.usage("a drain has at most %d headers", maxHeaders)
	}
	if len(headers) > 0 && strings.HasPrefix(shown, "syslog") {
		return c.usage("syslog has no headers")
	}
	for _, h := range headers {
		if err := c.DrainSender.CheckHeader(h); err != nil {
			return err
		}
		d.Headers = append(d.Headers, mesh.NewSecret(h))
	}
	if ca {
		if plain {
			return c.usage("--ca is for an encrypted connection, and this one is not")
		}
		if d.CA, err = c.text("the bytes of the certificates", maxCA); err != nil {
			return err
		}
		if !x509.NewCertPool().AppendCertsFromPEM([]byte(d.CA)) {
			return mesh.Errorf(mesh.Invalid, "standard input has no certificate in PEM form").WithHint("ssh mesh drains:add -a STACK URL --ca < ca.pem")
		}
	}
	if err := c.Drains.AddDrain(ctx, d); err != nil {
		return err
	}
	c.DrainSender.Changed()
	if plain {
		c.tell("The lines are not encrypted on their way to %s.\n", shown)
	}
	of := "all stacks"
	if d.Stack != "" {
		of = string(d.Stack)
	}
	c.say("added drain %s: the lines of %s go to %s\n", d.ID, of, shown)
	return nil
}

func runDrainsRemove(ctx context.Context, c *call) error {
	all, err := c.DrainList.Drains(ctx)
	if err != nil {
		return err
	}
	id := c.args[0]
	i := slices.IndexFunc(all, func(d mesh.Drain) bool { return d.ID == id || d.URL.Reveal() == id })
	may := i >= 0 && c.Key.May(mesh.AccessDeploy, all[i].Stack) && (all[i].Stack != "" || c.Key.May(mesh.AccessAdmin, ""))
	if i < 0 && c.Key.May(mesh.AccessAdmin, "") {
		return c.Drains.RemoveDrain(ctx, id, c.Key.Name) // a damaged one, or none
	}
	if !may { // whether there is one is not everybody's business
		return mesh.Errorf(mesh.NotFound, "there is no drain %q", mesh.Clip(mesh.Visible(id), 20)).WithHint("list them with: ssh mesh drains -a STACK")
	}
	if err := c.Drains.RemoveDrain(ctx, all[i].ID, c.Key.Name); err != nil {
		return err
	}
	c.DrainSender.Changed()
	c.say("removed drain %s\n", all[i].ID)
	return nil
}
