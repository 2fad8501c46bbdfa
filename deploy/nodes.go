package deploy

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mesh"
)

// NodeServer is the membership of nodes, and what reaches their engines. Its methods may be
// called from several goroutines.
type NodeServer interface {
	// Look returns what this machine's engine is in a swarm.
	Look(ctx context.Context) (mesh.Swarm, error)
	// Default returns the address at which other machines reach this one; invalid: that is
	// not clear.
	Default() netip.Addr
	// Enable makes a swarm, or takes the one that there is. Disable gives it up.
	Enable(ctx context.Context, addr netip.Addr) (mesh.Swarm, error)
	Disable(ctx context.Context) error
	// Authority makes what signs the certificates of the agents.
	Authority() (cert []byte, key mesh.Secret, err error)
	// Open lets agents in, starts them on all nodes, and uses them. It may be called again.
	// Shut is the opposite.
	Open(ctx context.Context, c mesh.Cluster) error
	Shut(ctx context.Context) error
	// Retreat has new instances start on this machine alone, in its own networks.
	Retreat(c mesh.Cluster)
	// Nodes returns the nodes, as they are now, this machine first, and how many instances
	// each has, by its ID.
	Nodes(ctx context.Context) (all []mesh.Node, instances map[string]int, err error)
	SetDrained(ctx context.Context, id string, drained bool) error
	SetLabels(ctx context.Context, id string, labels map[string]string) error
	// Leave makes a node's engine leave the swarm. Remove forgets a node.
	Leave(ctx context.Context, id string) error
	Remove(ctx context.Context, id string) error
	// Invitation returns where a machine fetches what it needs to join, and the hash of the
	// public key there, as curl takes it.
	Invitation(c mesh.Cluster) (at, pin string, err error)
	// Tokens returns what a machine needs to join: a secret, and where.
	Tokens(ctx context.Context) (token, addr string, err error)
	// Tidy removes networks of stacks that nothing is in any more.
	Tidy(ctx context.Context) error
}

// ClusterStore holds what the server knows of its nodes.
type ClusterStore interface {
	Cluster(ctx context.Context) (mesh.Cluster, error)
	// UpdateCluster changes it with fn, which may run more than once. The zero value is no
	// record.
	UpdateCluster(ctx context.Context, fn func(*mesh.Cluster) error) (mesh.Cluster, error)
}

// oneMachine is the error of commands about nodes without any.
func oneMachine() error {
	return mesh.Errorf(mesh.Conflict, "this server has no nodes: it runs everything on one machine").WithHint("ssh mesh nodes:enable")
}

// claimNodes lets one change of the nodes run at a time.
func (d *Deployer) claimNodes() (release func(), err error) {
	if !d.nodes.TryLock() {
		return nil, mesh.Errorf(mesh.Conflict, "another change of the nodes is in progress").WithHint("wait until it has ended")
	}
	return d.nodes.Unlock, nil
}

// EnableNodes lets the server have nodes, which reach this machine at addr; invalid: mesh finds
// it. It moves the running stacks into networks that reach over all nodes, beside the old
// instances. If it was interrupted, it goes on.
func (d *Deployer) EnableNodes(ctx context.Context, addr netip.Addr, by mesh.KeyName, out io.Writer) error {
	release, err := d.claimNodes()
	if err != nil {
		return err
	}
	defer release()
	c, err := d.Store.Cluster(ctx)
	if err != nil {
		return err
	}
	switch {
	case c.On() && addr.IsValid() && addr != c.Addr:
		return mesh.Errorf(mesh.Conflict, "the nodes reach this machine at %s", c.Addr).WithHint("to change that: ssh mesh nodes:disable, and enable them with the other address")
	case c.On():
		addr = c.Addr
	case !addr.IsValid():
		is, err := d.NodeServer.Look(ctx)
		if err != nil {
			return err
		}
		if addr = is.Addr; !addr.IsValid() {
			addr = d.NodeServer.Default()
		}
		if !addr.IsValid() {
			return mesh.Errorf(mesh.Invalid, "this machine has no address, or several, at which other machines could reach it").
				WithHint("name it: ssh mesh nodes:enable --advertise-addr ADDRESS")
		}
	}
	sw, err := d.NodeServer.Enable(ctx, addr)
	if e, is := errors.AsType[*mesh.Error](err); is && c.On() && e.Kind == mesh.Invalid {
		return e.WithHint("the nodes were on another machine: ssh mesh nodes:disable, and enable them here")
	}
	if err != nil {
		return err
	}
	if !c.On() {
		cert, key, err := d.NodeServer.Authority()
		if err != nil {
			return err
		}
		if c, err = d.Store.UpdateCluster(ctx, func(c *mesh.Cluster) error {
			*c = mesh.Cluster{Enabled: d.Now().UTC(), By: by, Addr: sw.Addr, Made: sw.Made, Authority: cert, AuthorityKey: key}
			return nil
		}); err != nil {
			return err
		}
		d.Logger.Info("nodes enabled", "address", c.Addr.String(), "key", string(by))
	}
	if err := d.NodeServer.Open(ctx, c); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "-----> Nodes reach this machine at %s\n", c.Addr)
	if err := d.move(ctx, by, "Join the nodes", out, func(in mesh.Instance) bool { return !in.Shared() }); err != nil {
		return err
	}
	d.settleRetired(ctx)
	return d.NodeServer.Tidy(ctx)
}

// DisableNodes brings all instances back to this machine, beside the old ones, and makes the
// other nodes leave the swarm.
func (d *Deployer) DisableNodes(ctx context.Context, by mesh.KeyName, out io.Writer) error {
	release, err := d.claimNodes()
	if err != nil {
		return err
	}
	defer release()
	c, err := d.Store.Cluster(ctx)
	if err != nil {
		return err
	}
	if !c.On() {
		return oneMachine()
	}
	is, err := d.NodeServer.Look(ctx)
	switch {
	case err != nil:
		return err
	case is.Node != "" && !is.Manager:
		return mesh.Errorf(mesh.Conflict, "this machine's engine is a worker of a swarm: it cannot make the nodes leave").
			WithHint("on a manager: docker node promote NODE; if that swarm is gone, on this machine: docker swarm leave --force")
	case is.Node == "" || !is.Ours:
		return d.forsake(ctx, c, by, out)
	}
	if err := d.noOtherManagers(ctx); err != nil {
		return err
	}
	d.NodeServer.Retreat(c)
	if err := d.move(ctx, by, "Leave the nodes", out, mesh.Instance.Shared); err != nil {
		if oerr := d.NodeServer.Open(context.WithoutCancel(ctx), c); oerr != nil {
			err = errors.Join(err, oerr)
		}
		return err
	}
	d.settleRetired(ctx)
	all, _, err := d.NodeServer.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range all {
		if !n.Self {
			if err := d.dismiss(ctx, n, out); err != nil {
				return err
			}
		}
	}
	if err := d.NodeServer.Shut(ctx); err != nil {
		return err
	}
	if err := d.NodeServer.Disable(ctx); err != nil {
		return err
	}
	if _, err := d.Store.UpdateCluster(ctx, func(c *mesh.Cluster) error { *c = mesh.Cluster{}; return nil }); err != nil {
		return err
	}
	d.Logger.Info("nodes disabled", "key", string(by))
	return d.NodeServer.Tidy(ctx)
}

// forsake goes on with this machine alone, which is not in the swarm of the nodes: the data directory
// has come from another one, or the engine has left the swarm. The nodes are left as they are.
func (d *Deployer) forsake(ctx context.Context, c mesh.Cluster, by mesh.KeyName, out io.Writer) error {
	_, _ = fmt.Fprintln(out, " !     This machine is not in the swarm of the nodes: what runs on them goes on until you end it there.")
	d.NodeServer.Retreat(c)
	if err := d.NodeServer.Shut(ctx); err != nil {
		return err
	}
	if _, err := d.Store.UpdateCluster(ctx, func(c *mesh.Cluster) error { *c = mesh.Cluster{}; return nil }); err != nil {
		return err
	}
	d.Logger.Info("nodes disabled, without their swarm", "key", string(by))
	// What has not started is tried again at once, and what runs gets networks of this machine.
	err := errors.Join(d.Reconcile(ctx), d.move(ctx, by, "Leave the nodes", out, mesh.Instance.Shared))
	d.settleRetired(ctx)
	return errors.Join(err, d.NodeServer.Tidy(ctx))
}

// noOtherManagers refuses to make managers of the swarm leave: its quorum is for people to decide.
func (d *Deployer) noOtherManagers(ctx context.Context) error {
	all, _, err := d.NodeServer.Nodes(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, n := range all {
		if n.Manager && !n.Self {
			names = append(names, string(n.Name))
		}
	}
	switch list := strings.Join(names, " "); len(names) {
	case 0:
		return nil
	case 1:
		return mesh.Errorf(mesh.Conflict, "%s is a manager of the swarm", list).WithHint("make it a worker first, on the server: docker node demote %s", list)
	default:
		return mesh.Errorf(mesh.Conflict, "%s are managers of the swarm", strings.Join(names, ", ")).WithHint("make them workers first, on the server: docker node demote %s", list)
	}
}

// settleRetired waits until instances that a rollout has left behind are gone.
func (d *Deployer) settleRetired(ctx context.Context) {
	limit, cancel := context.WithTimeout(ctx, freeTime)
	defer cancel()
	_ = d.WaitIdle(limit) // what is left is cut off with its node
}

// dismiss makes a node leave.
func (d *Deployer) dismiss(ctx context.Context, n mesh.Node, out io.Writer) error {
	if !n.Agent.IsZero() {
		if err := d.NodeServer.Leave(ctx, n.ID); err != nil {
			return err
		}
	}
	if err := d.NodeServer.Remove(ctx, n.ID); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "-----> %s has left\n", n.Name)
	return nil
}

// move starts those instances anew that must be elsewhere, one stack after the other, beside the
// old ones. It goes on after a failure, and returns all of them.
func (d *Deployer) move(ctx context.Context, by mesh.KeyName, subject string, out io.Writer, must func(mesh.Instance) bool) error {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, st := range stacks {
		var names []mesh.InstanceName
		for _, in := range d.fleet.Members(st.Name, func(mesh.InstanceSpec) bool { return true }) {
			if must(in) {
				names = append(names, in.Name)
			}
		}
		if len(names) == 0 {
			continue
		}
		err := d.rerun(ctx, mesh.Deployment{Stack: st.Name, Kind: mesh.DeployRestart, By: by, Subject: subject}, out, func(n mesh.InstanceName) bool { return slices.Contains(names, n) }, mesh.InstanceName{})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", st.Name, err))
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return mesh.Errorf(mesh.Failed, "%d of the stacks were not moved, and serve as before: %w", len(failed), errors.Join(failed...)).WithHint("mend them, and repeat the command: it goes on where it was")
}

// Node returns a node by its name, or the beginning of its ID if several have the name.
func (d *Deployer) Node(ctx context.Context, name string) (mesh.Node, error) {
	c, err := d.Store.Cluster(ctx)
	if err != nil {
		return mesh.Node{}, err
	}
	if !c.On() {
		return mesh.Node{}, oneMachine()
	}
	all, _, err := d.NodeServer.Nodes(ctx)
	if err != nil {
		return mesh.Node{}, err
	}
	var found []mesh.Node
	for _, n := range all {
		if string(n.Name) == name || len(name) >= 6 && len(n.ID) >= len(name) && n.ID[:len(name)] == name {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return mesh.Node{}, mesh.Errorf(mesh.NotFound, "there is no node %q", mesh.Clip(mesh.Visible(name), 60)).WithHint("list them with: ssh mesh nodes")
	case 1:
		return found[0], nil
	}
	return mesh.Node{}, mesh.Errorf(mesh.Invalid, "%d nodes are called %s", len(found), mesh.Clip(mesh.Visible(name), 60)).WithHint("use the ID: ssh mesh nodes --json")
}

// NodeList returns the nodes, this machine first, and how many instances each has, by its ID.
func (d *Deployer) NodeList(ctx context.Context) (all []mesh.Node, instances map[string]int, err error) {
	c, err := d.Store.Cluster(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !c.On() {
		return nil, nil, oneMachine()
	}
	return d.NodeServer.Nodes(ctx)
}

// DrainNode starts the instances of a node elsewhere, beside the old ones. From now on, none are
// placed on it. If they cannot be elsewhere, nothing changes.
func (d *Deployer) DrainNode(ctx context.Context, name string, by mesh.KeyName, out io.Writer) error {
	release, err := d.claimNodes()
	if err != nil {
		return err
	}
	defer release()
	n, err := d.Node(ctx, name)
	if err != nil {
		return err
	}
	if err := d.NodeServer.SetDrained(ctx, n.ID, true); err != nil {
		return err
	}
	if err := d.clear(ctx, n, by, out); err != nil {
		if !n.Drained {
			err = errors.Join(err, d.NodeServer.SetDrained(context.WithoutCancel(ctx), n.ID, false))
		}
		return err
	}
	d.Logger.Info("node drained", "node", string(n.Name), "key", string(by))
	return nil
}

// clear moves what runs on a node. What needs this machine's volumes stays on it.
func (d *Deployer) clear(ctx context.Context, n mesh.Node, by mesh.KeyName, out io.Writer) error {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return err
	}
	bound := map[mesh.StackName]map[mesh.ServiceName]bool{}
	for _, st := range stacks {
		for _, u := range st.Volumes {
			if bound[st.Name] == nil {
				bound[st.Name] = map[mesh.ServiceName]bool{}
			}
			bound[st.Name][u.Service] = true
		}
	}
	return d.move(ctx, by, "Leave "+string(n.Name), out, func(in mesh.Instance) bool {
		return in.Node == n.Name && (!n.Self || !bound[in.Stack][in.Name.Service])
	})
}

// ActivateNode lets instances be placed on a node again.
func (d *Deployer) ActivateNode(ctx context.Context, name string, by mesh.KeyName) error {
	n, err := d.Node(ctx, name)
	if err != nil {
		return err
	}
	if err := d.NodeServer.SetDrained(ctx, n.ID, false); err != nil {
		return err
	}
	d.Logger.Info("node active", "node", string(n.Name), "key", string(by))
	return nil
}

// LabelNode sets labels of a node; those without a value are removed.
func (d *Deployer) LabelNode(ctx context.Context, name string, labels map[string]string, by mesh.KeyName) error {
	n, err := d.Node(ctx, name)
	if err != nil {
		return err
	}
	if err := d.NodeServer.SetLabels(ctx, n.ID, labels); err != nil {
		return err
	}
	d.Logger.Info("node labelled", "node", string(n.Name), "labels", slices.Sorted(maps.Keys(labels)), "key", string(by))
	return nil
}

// RemoveNode moves what runs on a node, and makes it leave. One that is dead is forgotten.
func (d *Deployer) RemoveNode(ctx context.Context, name string, by mesh.KeyName, out io.Writer) error {
	release, err := d.claimNodes()
	if err != nil {
		return err
	}
	defer release()
	n, err := d.Node(ctx, name)
	switch {
	case err != nil:
		return err
	case n.Self:
		return mesh.Errorf(mesh.Conflict, "mesh itself runs on %s", n.Name).WithHint("to go back to this machine alone: ssh mesh nodes:disable")
	case n.Manager:
		return mesh.Errorf(mesh.Conflict, "%s is a manager of the swarm", n.Name).WithHint("make it a worker first, on this server: docker node demote %s", n.Name)
	case n.Ready && n.Agent.IsZero():
		return mesh.Errorf(mesh.Conflict, "%s is up, but its agent is not connected, so mesh cannot move what runs there", n.Name).
			WithHint("see there: docker ps; or give it up, there: docker swarm leave; and repeat this command")
	}
	if n.Ready {
		if err := d.NodeServer.SetDrained(ctx, n.ID, true); err != nil {
			return err
		}
		if err := d.clear(ctx, n, by, out); err != nil {
			if !n.Drained {
				err = errors.Join(err, d.NodeServer.SetDrained(context.WithoutCancel(ctx), n.ID, false))
			}
			return err
		}
		d.settleRetired(ctx)
	}
	if err := d.dismiss(ctx, n, out); err != nil {
		return err
	}
	d.Logger.Info("node removed", "node", string(n.Name), "key", string(by))
	return nil
}

// inviteTime is how long a machine may take to join.
const inviteTime = time.Hour

// InviteNode returns the URL at which a machine fetches what it needs to join, until it expires,
// and the hash of the public key there, as curl takes it. The URL contains a secret.
func (d *Deployer) InviteNode(ctx context.Context, by mesh.KeyName) (url mesh.Secret, pin string, until time.Time, err error) {
	text := rand.Text()
	until = d.Now().Add(inviteTime).UTC().Truncate(time.Second)
	c, err := d.Store.UpdateCluster(ctx, func(c *mesh.Cluster) error {
		if !c.On() {
			return oneMachine()
		}
		c.Invites = slices.DeleteFunc(slices.Clone(c.Invites), func(i mesh.Invite) bool { return !d.Now().Before(i.Until) })
		c.Invites = append(c.Invites, mesh.Invite{Sum: inviteSum(text), Until: until, By: by})
		return nil
	})
	if err != nil {
		return url, "", until, err
	}
	at, pin, err := d.NodeServer.Invitation(c)
	if err != nil {
		return url, "", until, err
	}
	d.Logger.Info("invite for a node made", "key", string(by))
	return mesh.NewSecret("https://" + at + "/nodes/" + text), pin, until, nil
}

func inviteSum(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Invited reports whether a secret is that of an invite which has not expired.
func (d *Deployer) Invited(ctx context.Context, secret string) bool {
	c, err := d.Store.Cluster(ctx)
	if err != nil {
		return false
	}
	sum := inviteSum(secret)
	return slices.ContainsFunc(c.Invites, func(i mesh.Invite) bool { return i.Sum == sum && d.Now().Before(i.Until) })
}

// JoinTokens returns what a machine needs to join the swarm: a secret, and where.
func (d *Deployer) JoinTokens(ctx context.Context) (token, addr string, err error) {
	return d.NodeServer.Tokens(ctx)
}
