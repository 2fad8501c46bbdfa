package command

import (
	"context"
	"strings"
	"time"

	"mesh"
)

// Certs manages the certificates of hosts.
type Certs interface {
	List(stack mesh.StackName, hosts []mesh.Host) []mesh.Certificate
	// Add stores a certificate and its key. It returns the hosts that it covers, and
	// the reasons why clients may not trust it, a sentence each.
	Add(stack mesh.StackName, hosts []mesh.Host, pem []byte) (covered []mesh.Host, doubts []string, err error)
	Remove(stack mesh.StackName, host mesh.Host) error
}

var certCommands = []*definition{
	{
		topic: "certs", short: "List the certificates of a stack's hosts", stack: true, json: true, run: runCerts,
	},
	{
		topic: "certs", verb: "add", args: "< PEM", short: "Use your own certificate for the hosts it covers",
		long:  "Chain and key come on standard input, in any order: cat fullchain.pem privkey.pem | ssh mesh certs:add -a blog",
		stack: true, access: mesh.AccessDeploy, run: runCertsAdd,
	},
	{
		topic: "certs", verb: "remove", args: "HOST", short: "Remove the uploaded certificates that cover a host",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runCertsRemove,
	},
}

type certJSON struct {
	Host    mesh.Host  `json:"host"`
	Source  string     `json:"source,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	Issuer  string     `json:"issuer,omitempty"`
	Error   string     `json:"error,omitempty"`
	ErrorAt *time.Time `json:"error_at,omitempty"`
}

func (c *call) certs() (Certs, error) {
	if c.Certs == nil {
		return nil, mesh.Errorf(mesh.Conflict, "this server does not serve HTTPS").WithHint("start it with --https-addr :443")
	}
	return c.Certs, nil
}

func runCerts(_ context.Context, c *call) error {
	all, err := c.certs()
	if err != nil {
		return err
	}
	list := []certJSON{}
	var rows [][]string
	for _, m := range all.List(c.stack.Name, c.Hosts.Domains(c.stack)) {
		j := certJSON{Host: m.Host, Source: m.Source, Issuer: m.Issuer, Error: m.Error}
		row := []string{string(m.Host), m.Source, "-", m.Error}
		if row[1] == "" {
			row[1] = "none"
		}
		if !m.Expires.IsZero() {
			j.Expires, row[2] = &m.Expires, m.Expires.UTC().Format(time.DateOnly)
		}
		if m.Error != "" {
			j.ErrorAt, row[3] = &m.ErrorAt, c.when(m.ErrorAt)+": "+m.Error
		}
		list, rows = append(list, j), append(rows, row)
	}
	return c.list(list, []string{"HOST", "SOURCE", "EXPIRES", "LAST ERROR"}, rows)
}

// maxPEM is more than any chain with its key needs.
const maxPEM = 1 << 20

func runCertsAdd(_ context.Context, c *call) error {
	all, err := c.certs()
	if err != nil {
		return err
	}
	data, err := c.text("the certificates", maxPEM)
	if err != nil {
		return err
	}
	covered, doubts, err := all.Add(c.stack.Name, c.Hosts.Domains(c.stack), []byte(data))
	if err != nil {
		return err
	}
	for _, d := range doubts {
		c.tell(" !     %s\n", d)
	}
	var names []string
	for _, h := range covered {
		names = append(names, string(h))
	}
	c.say("added the certificate for %s to %s\n", strings.Join(names, ", "), c.stack.Name)
	return nil
}

func runCertsRemove(_ context.Context, c *call) error {
	all, err := c.certs()
	if err != nil {
		return err
	}
	host, err := mesh.ParseHost(c.args[0])
	if err != nil {
		return err
	}
	if err := all.Remove(c.stack.Name, host); err != nil {
		return err
	}
	c.say("removed the uploaded certificate for %s from %s\n", host, c.stack.Name)
	return nil
}
