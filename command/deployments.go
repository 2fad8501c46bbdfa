package command

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"mesh"
)

// Deployments rolls back, cancels and waits for deployments.
type Deployments interface {
	// Rollback makes a new release from an earlier one. It writes the deployment's
	// output to out as it comes, and returns a *mesh.Reported if that output already
	// shows the error.
	Rollback(ctx context.Context, stack mesh.StackName, by mesh.KeyName, n mesh.ReleaseNumber, out io.Writer) error
	// Cancel ends a waiting or running deployment, the running one if n is 0, and
	// returns its final record. It returns NotFound if there is none.
	Cancel(ctx context.Context, stack mesh.StackName, n mesh.DeploymentNumber, by mesh.KeyName) (mesh.Deployment, error)
	// Done returns a channel that is closed when the deployment has ended; nil if it
	// has already.
	Done(stack mesh.StackName, n mesh.DeploymentNumber) <-chan struct{}
}

type deploymentJSON struct {
	Number  int        `json:"number"`
	Kind    string     `json:"kind"`
	Status  string     `json:"status"`
	Release string     `json:"release,omitempty"`
	Commit  string     `json:"commit,omitempty"`
	What    string     `json:"what"`
	By      string     `json:"by"`
	Created time.Time  `json:"created"`
	Ended   *time.Time `json:"ended,omitempty"`
	Reason  string     `json:"reason,omitempty"`
	Output  *string    `json:"output,omitempty"`
}

func toDeploymentJSON(d mesh.Deployment) deploymentJSON {
	j := deploymentJSON{
		Number: int(d.Number), Kind: string(d.Kind), Status: string(d.Status), Commit: string(d.Commit), What: d.Subject,
		By: string(d.By), Created: d.Created, Reason: d.Reason,
	}
	if d.Release > 0 {
		j.Release = d.Release.String()
	}
	if !d.Ended.IsZero() {
		j.Ended = &d.Ended
	}
	return j
}

func runDeployments(ctx context.Context, c *call) error {
	n, _ := c.flags.GetInt("lines")
	deps, err := c.History.Deployments(ctx, c.stack.Name, n)
	if err != nil {
		return err
	}
	list := make([]deploymentJSON, 0, len(deps))
	var rows [][]string
	for _, d := range deps {
		list = append(list, toDeploymentJSON(d))
		what := d.Subject
		if d.Commit != "" {
			what = d.Commit.Short() + " " + what
		}
		result := string(d.Status)
		if d.Reason != "" {
			result += ": " + strings.TrimPrefix(d.Reason, result+": ")
		}
		took := "-"
		if !d.Ended.IsZero() {
			took = fmt.Sprintf("%.1fs", d.Ended.Sub(d.Created).Seconds())
		}
		rows = append(rows, []string{d.Number.String(), string(d.Kind), d.Release.String(), mesh.Clip(what, 50), string(d.By), c.when(d.Created), took, mesh.Clip(result, 90)})
	}
	return c.list(list, []string{"NUMBER", "KIND", "RELEASE", "WHAT", "BY", "WHEN", "TOOK", "RESULT"}, rows)
}

func (c *call) deployment(ctx context.Context) (mesh.Deployment, error) {
	n := c.stack.LastNumber
	if len(c.args) > 0 {
		var err error
		if v, verr := mesh.ParseReleaseNumber(c.args[0]); verr == nil && strings.HasPrefix(c.args[0], "v") {
			r, err := c.History.Release(ctx, c.stack.Name, v)
			if err != nil {
				return mesh.Deployment{}, err
			}
			n = r.Deployment
		} else if n, err = mesh.ParseDeploymentNumber(c.args[0]); err != nil {
			return mesh.Deployment{}, err
		}
	}
	if n == 0 {
		return mesh.Deployment{}, mesh.Errorf(mesh.NotFound, "%s has no deployments yet", c.stack.Name)
	}
	return c.History.Deployment(ctx, c.stack.Name, n)
}

// followEvery is how often more of a running deployment's recorded output is read.
const followEvery = 50 * time.Millisecond

func runDeploymentShow(ctx context.Context, c *call) error {
	d, err := c.deployment(ctx)
	if err != nil {
		return err
	}
	out, err := c.History.ReadOutput(c.stack.Name, d.Number)
	if err != nil {
		return err
	}
	defer out.Close()
	if c.json {
		data, err := io.ReadAll(out)
		if err != nil {
			return err
		}
		j, text := toDeploymentJSON(d), string(data)
		j.Output = &text
		return c.printJSON(j)
	}
	follow, _ := c.flags.GetBool("follow")
	done := c.Deployments.Done(c.stack.Name, d.Number)
	r := bufio.NewReader(out)
	copyRest := func() error {
		data, err := io.ReadAll(r)
		if err == nil && len(data) > 0 {
			_, err = c.Stdout.Write(bytes.ToValidUTF8(data, []byte("?")))
		}
		return err
	}
	for follow {
		if err := copyRest(); err != nil {
			return err
		}
		t := time.NewTimer(followEvery)
		select {
		case <-done:
			follow = false
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		t.Stop()
	}
	if err := copyRest(); err != nil {
		return err
	}
	if d, err = c.History.Deployment(ctx, c.stack.Name, d.Number); err != nil {
		return err
	}
	if wanted, _ := c.flags.GetBool("follow"); wanted && d.Status.Final() && d.Status != mesh.StatusLive && d.Status != mesh.StatusDryRun {
		if d.Status == mesh.StatusCancelled {
			return mesh.ExitCode(mesh.ExitStatus(mesh.Cancelled))
		}
		return mesh.ExitCode(1)
	}
	return nil
}

func runDeploymentCancel(ctx context.Context, c *call) error {
	var n mesh.DeploymentNumber
	if len(c.args) > 0 {
		var err error
		if n, err = mesh.ParseDeploymentNumber(c.args[0]); err != nil {
			return err
		}
	}
	d, err := c.Deployments.Cancel(ctx, c.stack.Name, n, c.Key.Name)
	if err != nil {
		return err
	}
	if d.Status == mesh.StatusLive {
		return mesh.Errorf(mesh.Conflict, "deployment %s had already switched traffic and is live", d.Number).WithHint("undo it with: ssh mesh rollback -a %s", c.stack.Name)
	}
	c.say("deployment %s of %s: %s\n", d.Number, c.stack.Name, d.Status)
	return nil
}
