package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mesh"
)

// diagnosis gathers what is wrong with a stack, the most likely cause first, and what is
// well.
type diagnosis struct {
	*call
	faults, rest []findingJSON
}

func (d *diagnosis) well(format string, args ...any) {
	d.rest = append(d.rest, findingJSON{OK: true, What: fmt.Sprintf(format, args...)})
}

func (d *diagnosis) wrong(mend, format string, args ...any) {
	d.faults = append(d.faults, findingJSON{What: fmt.Sprintf(format, args...), Mend: mend})
}

// diagnoseLines is how much of the log of an instance is shown that is not up.
const diagnoseLines = 10

func runDiagnose(ctx context.Context, c *call) error {
	d := &diagnosis{call: c}
	if err := d.deployments(ctx); err != nil {
		return err
	}
	ill := d.instances(ctx)
	d.answers()
	for _, h := range c.Hosts.Domains(c.stack)[1:] {
		for _, fault := range c.dnsFaults(ctx, h) {
			d.wrong("change the record at your DNS provider", "DNS: %s", fault)
		}
	}
	if c.Certs != nil {
		for _, cert := range c.Certs.List(c.stack.Name, c.Hosts.Domains(c.stack)) {
			if cert.Error != "" {
				d.wrong(fmt.Sprintf("see: ssh mesh certs -a %s", c.stack.Name), "there is no new certificate for %s: %s", cert.Host, cert.Error)
			}
		}
	}
	d.server(ctx)
	err := c.tellFindings(slices.Concat(d.faults, d.rest))
	if len(ill) > 0 && !c.json {
		d.lastLines(ctx, ill[0])
	}
	return err
}

// deployments looks at the last deployment and at what keeps the next one away.
func (d *diagnosis) deployments(ctx context.Context) error {
	name := d.stack.Name
	last, err := d.History.Deployments(ctx, name, 1)
	if err != nil {
		return err
	}
	switch {
	case len(last) == 0:
		d.wrong("push to it: git push mesh main", "%s has not been deployed yet", name)
	case last[0].Status == mesh.StatusFailed:
		d.wrong(fmt.Sprintf("see its output: ssh mesh deployments:show -a %s %d", name, int(last[0].Number)), "the last deployment, %s, failed: %s", last[0].Number, last[0].Reason)
	default:
		d.well("the last deployment, %s, is %s", last[0].Number, last[0].Status)
	}
	if d.stack.Lock != nil {
		d.wrong(fmt.Sprintf("allow releases again: ssh mesh unlock -a %s", name), "%s", lockLine(d.stack))
	}
	return nil
}

// instances looks at each instance, and returns those that are not up.
func (d *diagnosis) instances(ctx context.Context) (ill []mesh.InstanceName) {
	name := d.stack.Name
	if loss := d.Processes.Loss(name); loss != "" {
		d.wrong(fmt.Sprintf("build it again: ssh mesh ps:rebuild -a %s", name), "%s", loss)
	}
	switch {
	case d.stack.Maintained:
		all := "all requests get 503"
		if spared := d.stack.Spared; len(spared) > 0 {
			all += ", except from " + strings.Join(texts(spared), ", ")
		}
		d.wrong(fmt.Sprintf("serve requests again: ssh mesh maintenance:off -a %s", name), "maintenance is on: %s", all)
	case d.stack.Stopped:
		d.wrong(fmt.Sprintf("start it: ssh mesh ps:start -a %s", name), "%s is stopped", name)
		return nil
	}
	for _, p := range d.portsOf("") {
		if p.Fault != "" {
			d.wrong(fmt.Sprintf("ask an admin of the server, or unpublish it: ssh mesh svc:unpublish -a %s %s --tcp %d", name, p.Service, p.Port), "port %d is not open: %s", p.Port, p.Fault)
		}
	}
	all := d.Processes.Status(name)
	if d.stack.Current > 0 && !slices.ContainsFunc(all, func(in mesh.InstanceStatus) bool { return in.Name.Service == mesh.Web }) {
		d.wrong(fmt.Sprintf("start one: ssh mesh ps:scale -a %s web=1", name), "no instance of web is wanted: requests get 503")
	}
	for _, in := range all {
		if in.State != mesh.Up {
			d.wrong(mendInstance(name, in), "%s is %s", in.Name, condition(in))
			ill = append(ill, in.Name)
			continue
		}
		// A program may run and not answer.
		saw, err := d.Processes.Probe(ctx, name, in.Name)
		var e *mesh.Error
		switch {
		case err == nil:
			d.well("%s is up: %s", in.Name, saw)
		case errors.As(err, &e):
			d.wrong(e.Hint, "%s runs, but: %s", in.Name, e.Text)
			ill = append(ill, in.Name)
		default:
			d.well("%s is up", in.Name)
		}
	}
	return ill
}

// mendInstance says what to do about an instance that is not up.
func mendInstance(stack mesh.StackName, in mesh.InstanceStatus) string {
	if in.OOM {
		return fmt.Sprintf("give it more memory: ssh mesh svc:update -a %s --memory 1g %s", stack, in.Name.Service)
	}
	return fmt.Sprintf("see what it printed: ssh mesh logs -a %s -p %s -n 100; the last release that worked comes back with: ssh mesh rollback -a %s", stack, in.Name, stack)
}

// answers looks at the last minute's answers of web.
func (d *diagnosis) answers() {
	m := d.Traffic.Minute(d.stack.Name, mesh.Web)
	switch {
	case m.Errors > 0:
		d.wrong(fmt.Sprintf("see which: ssh mesh logs -a %s --source router -n 50", d.stack.Name), "%d of %d answers of the last minute were 5xx", m.Errors, m.Requests)
	case m.Requests > 0:
		d.well("%d requests in the last minute, no 5xx", m.Requests)
	}
}

// server adds what is wrong with the server, for those who may mend it.
func (d *diagnosis) server(ctx context.Context) {
	if !d.Key.May(mesh.AccessAdmin, "") {
		return
	}
	for _, f := range d.Server.Diagnose(ctx) {
		if !f.OK {
			d.wrong(f.Mend, "the server: %s", f.What)
		}
	}
}

// lastLines prints the end of an instance's log, if it can be read.
func (d *diagnosis) lastLines(ctx context.Context, in mesh.InstanceName) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var lines []string
	q := mesh.LogQuery{Stack: d.stack.Name, Service: in.Service, Instance: in, Lines: diagnoseLines, Sources: []string{sourceApp}}
	err := d.Logs.Logs(ctx, q, func(l mesh.LogLine) error {
		lines = append(lines, mesh.Visible(l.Text))
		return nil
	})
	if err != nil || len(lines) == 0 {
		return
	}
	d.say("The last lines of %s:\n      %s\n", in, strings.Join(lines, "\n      "))
}
