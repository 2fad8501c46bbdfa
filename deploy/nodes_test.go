package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// swarm is three nodes in memory.
type swarm struct {
	mu      sync.Mutex
	is      mesh.Swarm
	nodes   []mesh.Node
	did     []string
	open    bool
	retreat bool
	fails   map[string]error // by what was done
}

var _ deploy.NodeServer = (*swarm)(nil)

func newSwarm() *swarm {
	s := &swarm{fails: map[string]error{}}
	for i, name := range []mesh.NodeName{"one", "two", "three"} {
		s.nodes = append(s.nodes, mesh.Node{ID: fmt.Sprintf("id%d0000", i+1), Name: name, Self: i == 0, Ready: true, Agent: time.Unix(1, 0)})
	}
	return s
}

func (s *swarm) do(format string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	what := fmt.Sprintf(format, args...)
	s.did = append(s.did, what)
	return s.fails[what]
}

func (s *swarm) done() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.did, "; ")
	s.did = nil
	return out
}

func (s *swarm) Look(context.Context) (mesh.Swarm, error) { return s.is, nil }
func (s *swarm) Default() netip.Addr                      { return netip.Addr{} }
func (s *swarm) Enable(_ context.Context, addr netip.Addr) (mesh.Swarm, error) {
	s.is = mesh.Swarm{Node: "id10000", Addr: addr, Manager: true, Ours: true, Made: true}
	return s.is, s.do("enable %s", addr)
}
func (s *swarm) Disable(context.Context) error { return s.do("disable") }
func (s *swarm) Authority() ([]byte, mesh.Secret, error) {
	return []byte("cert"), mesh.NewSecret("key"), nil
}

func (s *swarm) Open(_ context.Context, c mesh.Cluster) error {
	s.mu.Lock()
	s.open, s.retreat = true, false
	s.mu.Unlock()
	return s.do("open %s %s", c.Authority, c.AuthorityKey.Reveal())
}

func (s *swarm) Shut(context.Context) error {
	s.mu.Lock()
	s.open = false
	s.mu.Unlock()
	return s.do("shut")
}

func (s *swarm) Retreat(mesh.Cluster) {
	s.mu.Lock()
	s.retreat = true
	s.mu.Unlock()
	_ = s.do("retreat")
}

func (s *swarm) Nodes(context.Context) ([]mesh.Node, map[string]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.nodes), nil, nil
}

func (s *swarm) change(id string, fn func(*mesh.Node)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.nodes {
		if s.nodes[i].ID == id {
			fn(&s.nodes[i])
		}
	}
}

func (s *swarm) SetDrained(_ context.Context, id string, drained bool) error {
	s.change(id, func(n *mesh.Node) { n.Drained = drained })
	return s.do("drained %s %v", id, drained)
}

func (s *swarm) SetLabels(_ context.Context, id string, labels map[string]string) error {
	return s.do("label %s %v", id, labels)
}
func (s *swarm) Leave(_ context.Context, id string) error { return s.do("leave %s", id) }
func (s *swarm) Remove(_ context.Context, id string) error {
	s.mu.Lock()
	s.nodes = slices.DeleteFunc(s.nodes, func(n mesh.Node) bool { return n.ID == id })
	s.mu.Unlock()
	return s.do("remove %s", id)
}

func (s *swarm) Invitation(mesh.Cluster) (string, string, error) {
	return "10.0.0.1:2378", "sha256//x", nil
}
func (s *swarm) Tokens(context.Context) (string, string, error) { return "t", "10.0.0.1:2377", nil }
func (s *swarm) Tidy(context.Context) error                     { return s.do("tidy") }

// place puts the slots of a service on one node after the other, as far as they are not drained.
func (s *swarm) place(spec mesh.InstanceSpec) (mesh.NodeName, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open || s.retreat {
		return "", false
	}
	var free []mesh.NodeName
	for _, n := range s.nodes {
		if !n.Drained {
			free = append(free, n.Name)
		}
	}
	if len(spec.Mounts) > 0 {
		return "one", true
	}
	return free[(spec.Name.Slot-1)%len(free)], true
}

func clustered(t *testing.T, fn func(t *testing.T, w *deploytest.World, d *deploy.Deployer, s *swarm)) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		s := newSwarm()
		w.Options.NodeServer = s
		w.Runner.PlaceFunc = s.place
		d, _ := w.Start()
		mustPush(t, w, d, app)
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 3}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		fn(t, w, d, s)
	})
}

// nodesOf returns where the instances of blog are.
func nodesOf(w *deploytest.World) string {
	synctest.Wait()
	var out []string
	for _, c := range w.Runner.Containers() {
		if c.State == mesh.InstanceRunning {
			out = append(out, fmt.Sprintf("%s@%s", c.Name, c.Node))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// idsOf returns the containers of the running instances of blog, by their names.
func idsOf(w *deploytest.World) map[string]string {
	out := map[string]string{}
	for _, c := range w.Runner.Containers() {
		if c.State == mesh.InstanceRunning {
			out[c.Name.String()] = c.ID
		}
	}
	return out
}

var here = netip.MustParseAddr("10.0.0.1")

func TestNodes_EnableAndDisable(t *testing.T) {
	clustered(t, func(t *testing.T, w *deploytest.World, d *deploy.Deployer, s *swarm) {
		if err := d.EnableNodes(t.Context(), netip.Addr{}, "ci", io.Discard); !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), "has no address, or several") {
			t.Errorf("without an address: %v", err)
		}
		for _, fn := range []func() error{
			func() error { _, _, err := d.NodeList(t.Context()); return err },
			func() error { _, _, _, err := d.InviteNode(t.Context(), "ci"); return err },
			func() error { return d.DisableNodes(t.Context(), "ci", io.Discard) },
			func() error { return d.DrainNode(t.Context(), "two", "ci", io.Discard) },
		} {
			if err := fn(); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "has no nodes") {
				t.Errorf("on one machine: %v", err)
			}
		}
		var out deploytest.Output
		if err := d.EnableNodes(t.Context(), here, "ci", &out); err != nil || !strings.Contains(out.String(), "Join the nodes by ci") {
			t.Fatal(err, out.String())
		}
		pass(time.Minute)
		if got, did := nodesOf(w), s.done(); got != "web.1@one web.2@two web.3@three" || did != "enable 10.0.0.1; open cert key; tidy" {
			t.Errorf("%s, did %s", got, did)
		}
		// Again: it has nothing to move.
		if err := d.EnableNodes(t.Context(), netip.Addr{}, "ci", io.Discard); err != nil {
			t.Error(err)
		}
		if err := d.EnableNodes(t.Context(), netip.MustParseAddr("10.0.0.9"), "ci", io.Discard); !errors.Is(err, mesh.Conflict) {
			t.Errorf("with another address: %v", err)
		}
		s.done()
		for id, want := range map[string]string{"id20000": "two is a manager", "id30000": "two, three are managers"} {
			s.change(id, func(n *mesh.Node) { n.Manager = true })
			if id == "id30000" {
				s.change("id20000", func(n *mesh.Node) { n.Manager = true })
			}
			err := d.DisableNodes(t.Context(), "ci", io.Discard)
			if !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), want) || s.done() != "" {
				t.Errorf("with managers: %v", err)
			}
			for _, id := range []string{"id20000", "id30000"} {
				s.change(id, func(n *mesh.Node) { n.Manager = false })
			}
		}
		if err := d.DisableNodes(t.Context(), "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		want := "retreat; leave id20000; remove id20000; leave id30000; remove id30000; shut; disable; tidy"
		if got, did := nodesOf(w), s.done(); got != "web.1@ web.2@ web.3@" || did != want {
			t.Errorf("%s, did %s", got, did)
		}
		if c, err := w.Store.Cluster(t.Context()); err != nil || c.On() {
			t.Errorf("recorded: %+v, %v", c, err)
		}
		sound(t, w)
	})
}

// The data directory has come to a machine that is not in the swarm, or the engine has left it.
func TestNodes_DisableWithoutTheSwarm(t *testing.T) {
	clustered(t, func(t *testing.T, w *deploytest.World, d *deploy.Deployer, s *swarm) {
		if err := d.EnableNodes(t.Context(), here, "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		s.done()
		s.is.Manager = false
		if err := d.DisableNodes(t.Context(), "ci", io.Discard); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "is a worker of a swarm") || s.done() != "" {
			t.Errorf("a worker: %v", err)
		}
		s.is = mesh.Swarm{}
		s.fails["enable 10.0.0.1"] = mesh.Errorf(mesh.Invalid, "10.0.0.1 is not an address of this machine")
		var e *mesh.Error
		if err := d.EnableNodes(t.Context(), netip.Addr{}, "ci", io.Discard); !errors.As(err, &e) || !strings.Contains(e.Hint, "ssh mesh nodes:disable") {
			t.Errorf("enabled again: %v", err)
		}
		s.is = mesh.Swarm{}
		s.done()
		var out strings.Builder
		if err := d.DisableNodes(t.Context(), "ci", &out); err != nil || !strings.Contains(out.String(), "is not in the swarm") {
			t.Errorf("%v, %s", err, &out)
		}
		pass(time.Minute)
		if got, did := nodesOf(w), s.done(); got != "web.1@ web.2@ web.3@" || did != "retreat; shut; tidy" {
			t.Errorf("%s, did %s", got, did)
		}
		if c, err := w.Store.Cluster(t.Context()); err != nil || c.On() {
			t.Errorf("recorded: %+v, %v", c, err)
		}
		sound(t, w)
	})
}

// A stack that cannot be moved serves as before, and the others are moved. Repeating goes on.
func TestNodes_EnableFailsForOne(t *testing.T) {
	clustered(t, func(t *testing.T, w *deploytest.World, d *deploy.Deployer, s *swarm) {
		w.Runner.CheckFunc = func(context.Context, mesh.Instance) (string, error) {
			return "", failed(mesh.Failed, "it does not answer")
		}
		if err := d.EnableNodes(t.Context(), here, "ci", io.Discard); !errors.Is(err, mesh.Failed) || !strings.Contains(err.Error(), "1 of the stacks were not moved") {
			t.Errorf("%v", err)
		}
		pass(time.Minute)
		if got := nodesOf(w); got != "web.1@ web.2@ web.3@" {
			t.Errorf("%s", got)
		}
		w.Runner.CheckFunc = nil
		if err := d.EnableNodes(t.Context(), netip.Addr{}, "ci", io.Discard); err != nil {
			t.Error(err)
		}
		pass(time.Minute)
		if got := nodesOf(w); got != "web.1@one web.2@two web.3@three" {
			t.Errorf("%s", got)
		}
		// On the way back as well: the nodes stay.
		w.Runner.CheckFunc = func(context.Context, mesh.Instance) (string, error) {
			return "", failed(mesh.Failed, "it does not answer")
		}
		s.done()
		if err := d.DisableNodes(t.Context(), "ci", io.Discard); err == nil {
			t.Error("disabled")
		}
		if c, err := w.Store.Cluster(t.Context()); err != nil || !c.On() || s.done() != "retreat; open cert key" {
			t.Errorf("recorded: %+v, %v", c, err)
		}
	})
}

func TestNodes_DrainAndRemove(t *testing.T) {
	clustered(t, func(t *testing.T, w *deploytest.World, d *deploy.Deployer, s *swarm) {
		if err := d.EnableNodes(t.Context(), here, "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		s.done()
		before := idsOf(w)
		if err := d.DrainNode(t.Context(), "two", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		// Only what was there is elsewhere now.
		got, after := nodesOf(w), idsOf(w)
		if got != "web.1@one web.2@three web.3@three" || after["web.1"] != before["web.1"] || after["web.2"] == before["web.2"] || after["web.3"] != before["web.3"] {
			t.Errorf("%s, %v, was %v", got, after, before)
		}
		if err := d.ActivateNode(t.Context(), "two", "ci"); err != nil || s.done() != "drained id20000 true; drained id20000 false" {
			t.Error(err)
		}
		// If it fails, the node is used as before.
		w.Runner.CheckFunc = func(context.Context, mesh.Instance) (string, error) {
			return "", failed(mesh.Failed, "it does not answer")
		}
		if err := d.DrainNode(t.Context(), "three", "ci", io.Discard); err == nil || s.done() != "drained id30000 true; drained id30000 false" {
			t.Errorf("%v", err)
		}
		if err := d.RemoveNode(t.Context(), "three", "ci", io.Discard); err == nil || s.done() != "drained id30000 true; drained id30000 false" {
			t.Errorf("%v", err)
		}
		w.Runner.CheckFunc = nil
		if err := d.RemoveNode(t.Context(), "one", "ci", io.Discard); !errors.Is(err, mesh.Conflict) {
			t.Errorf("this machine: %v", err)
		}
		if err := d.RemoveNode(t.Context(), "nosuch", "ci", io.Discard); !errors.Is(err, mesh.NotFound) {
			t.Errorf("unknown: %v", err)
		}
		s.change("id20000", func(n *mesh.Node) { n.Agent = time.Time{} })
		if err := d.RemoveNode(t.Context(), "two", "ci", io.Discard); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "its agent is not connected") {
			t.Errorf("up, without an agent: %v", err)
		}
		s.change("id20000", func(n *mesh.Node) { n.Ready = false })
		if err := d.RemoveNode(t.Context(), "two", "ci", io.Discard); err != nil || s.done() != "remove id20000" {
			t.Errorf("dead: %v", err)
		}
		if err := d.RemoveNode(t.Context(), "id3000", "ci", io.Discard); err != nil || s.done() != "drained id30000 true; leave id30000; remove id30000" {
			t.Errorf("by its ID: %v", err)
		}
		pass(time.Minute)
		if got := nodesOf(w); got != "web.1@one web.2@one web.3@one" {
			t.Errorf("%s", got)
		}
		if err := d.LabelNode(t.Context(), "one", map[string]string{"zone": "a"}, "ci"); err != nil || s.done() != "label id10000 map[zone:a]" {
			t.Error(err)
		}
		sound(t, w)
	})
}

func TestNodes_Invites(t *testing.T) {
	clustered(t, func(t *testing.T, w *deploytest.World, d *deploy.Deployer, s *swarm) {
		if err := d.EnableNodes(t.Context(), here, "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		url, pin, until, err := d.InviteNode(t.Context(), "ci")
		secret, ok := strings.CutPrefix(url.Reveal(), "https://10.0.0.1:2378/nodes/")
		if err != nil || !ok || pin != "sha256//x" || time.Until(until) > time.Hour {
			t.Fatal(url, pin, until, err)
		}
		if !d.Invited(t.Context(), secret) || d.Invited(t.Context(), "") || d.Invited(t.Context(), secret+"x") {
			t.Error("the secret does not decide")
		}
		pass(61 * time.Minute)
		if d.Invited(t.Context(), secret) {
			t.Error("it does not expire")
		}
		if _, _, _, err := d.InviteNode(t.Context(), "ci"); err != nil {
			t.Error(err)
		}
		if c, err := w.Store.Cluster(t.Context()); err != nil || len(c.Invites) != 1 {
			t.Errorf("%d invites, %v", len(c.Invites), err)
		}
	})
}
