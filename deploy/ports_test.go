package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// holds are the ports that are held at the moment.
type holds struct {
	mu   sync.Mutex
	held map[uint16]bool
	busy uint16 // another program has it
}

func (h *holds) Allowed() mesh.Ports { return mesh.Ports{{First: 5000, Last: 5010}} }

func (h *holds) Hold(n uint16) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n == h.busy {
		return mesh.Errorf(mesh.Conflict, "port %d is in use by another program on the server", n)
	}
	h.held[n] = true
	return nil
}

func (h *holds) Release(n uint16) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, n)
}

func (h *holds) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprint(h.held)
}

func publishPort(t *testing.T, d *deploy.Deployer, stack mesh.StackName, service mesh.ServiceName, n uint16) (string, error) {
	t.Helper()
	var o deploytest.Output
	err := d.PublishPort(t.Context(), stack, admin, mesh.TCPPort{Number: n, Service: service}, &o)
	return o.String(), err
}

func portsOf(w *deploytest.World, stack mesh.StackName) string {
	r, _ := w.Router.Route(stack)
	var out []string
	for _, p := range r.Ports {
		out = append(out, p.String()+"="+string(p.Service))
	}
	for _, at := range r.Targets {
		out = append(out, at.Name.String())
	}
	return strings.Join(out, " ")
}

func TestPublishPort_ChecksTheServiceForIt(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		h := &holds{held: map[uint16]bool{}, busy: 5009}
		w.Options.Ports = h
		how := map[string]mesh.Check{}
		var mu sync.Mutex // instances are checked at the same time
		w.Runner.CheckedFunc = func(in mesh.Instance, c mesh.Check) {
			mu.Lock()
			defer mu.Unlock()
			how[in.Name.String()] = c
		}
		d, stop := w.Start()
		mustPush(t, w, d, twoServices)
		before := w.Runner.Names()
		out, err := publishPort(t, d, "blog", "api", 5000)
		if err != nil || !strings.Contains(out, "Publish api on port :5000") || !strings.Contains(out, "Starting api×1") {
			t.Fatalf("%v\n%s", err, out)
		}
		pass(time.Minute)
		if got := portsOf(w, "blog"); got != ":5000=api web.1 api.1" || w.Runner.Names() == before || !how["api.1"].TCP || how["api.1"].HTTP || how["worker.1"].TCP || stack(t, w).Current != 1 {
			t.Errorf("%s, %s, %+v", got, w.Runner.Names(), how)
		}
		if h.String() != "map[]" {
			t.Errorf("still held: %s", h)
		}
		// Another port of the same service starts nothing.
		before = w.Runner.Names()
		if _, err := publishPort(t, d, "blog", "api", 5001); err != nil || w.Runner.Names() != before {
			t.Errorf("%v; %s, then %s", err, before, w.Runner.Names())
		}
		const both = ":5000=api :5001=api web.1 api.1"
		mustPush(t, w, d, twoServices)
		stop()
		d, _ = w.Start()
		pass(time.Minute)
		if got := portsOf(w, "blog"); got != both || !how["api.1"].TCP {
			t.Errorf("restarted: %s", got)
		}
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "api", To: 0}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if r, _ := w.Router.Route("blog"); r.Idle["api"] != mesh.StoppedStack || r.Down != mesh.NotDown {
			t.Errorf("scaled down: %+v", r)
		}
		if err := d.RenameStack(t.Context(), "blog", "shop", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if got := portsOf(w, "shop"); got != ":5000=api :5001=api web.1" {
			t.Errorf("renamed: %s", got)
		}
		if err := d.UnpublishPort(t.Context(), "shop", mesh.TCPPort{Number: 5000, Service: "api"}); err != nil {
			t.Fatal(err)
		}
		if err := d.UnpublishPort(t.Context(), "shop", mesh.TCPPort{Number: 5000, Service: "api"}); !errors.Is(err, mesh.NotFound) {
			t.Errorf("twice: %v", err)
		}
		if _, ports, err := d.Unpublish(t.Context(), "shop", "api", nil); err != nil || len(ports) != 1 || portsOf(w, "shop") != "web.1" {
			t.Errorf("%v, %v, %s", ports, err, portsOf(w, "shop"))
		}
		soundStack(t, w, "shop")
	})
}

func TestPublishPort_Refusals(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		h := &holds{held: map[uint16]bool{}, busy: 5009}
		w.Options.Ports = h
		d, _ := w.Start()
		mustPush(t, w, d, twoServices)
		if _, err := d.CreateStack(t.Context(), "shop", "ci"); err != nil {
			t.Fatal(err)
		}
		if _, err := publishPort(t, d, "shop", "db", 5001); err != nil { // before its first release
			t.Fatal(err)
		}
		if _, err := publishPort(t, d, "blog", "api", 5000); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute) // the instance before that retires
		before := w.Runner.Names()
		for _, tc := range []struct {
			service mesh.ServiceName
			port    uint16
			want    error
			text    string
		}{
			{"worker", 4999, mesh.Denied, "does not allow port 4999"},
			{"web", 5002, mesh.Invalid, "web cannot be published on a TCP port"},
			{"gone", 5002, mesh.NotFound, `no service "gone"`},
			{"worker", 5001, mesh.Conflict, "port 5001 belongs to another stack"},
			{"worker", 5000, mesh.Conflict, "port 5000 belongs to api"},
			{"api", 5000, mesh.Conflict, "api is already published on port 5000"},
			{"worker", 5009, mesh.Conflict, "port 5009 is in use by another program"},
		} {
			if _, err := publishPort(t, d, "blog", tc.service, tc.port); !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s on %d: %v", tc.service, tc.port, err)
			}
		}
		// While one stack gets a port, no other one can.
		w.Runner.CheckFunc = func(_ context.Context, in mesh.Instance) (string, error) {
			if _, err := publishPort(t, d, "shop", "db", 5003); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "is being published") {
				t.Errorf("at the same time: %v", err)
			}
			if h.String() != "map[5003:true]" {
				t.Errorf("not held during the check: %s", h)
			}
			return "", failed(mesh.Failed, in.Name.String()+" listens on no port")
		}
		if _, err := publishPort(t, d, "blog", "worker", 5003); err == nil || !strings.Contains(err.Error(), "listens on no port") {
			t.Errorf("unhealthy: %v", err)
		}
		pass(time.Minute)
		if portsOf(w, "blog") != ":5000=api web.1 api.1" || w.Runner.Names() != before || h.String() != "map[]" {
			t.Errorf("%s, %s, then %s, held %s", portsOf(w, "blog"), before, w.Runner.Names(), h)
		}
		w.Runner.CheckFunc = nil
		if _, err := publishPort(t, d, "shop", "db", 5003); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		if err := d.DestroyStack(t.Context(), "shop", "ci"); err != nil {
			t.Fatal(err)
		}
		if _, err := publishPort(t, d, "blog", "worker", 5001); err != nil {
			t.Errorf("of a stack that was destroyed: %v", err)
		}
		for _, svc := range []mesh.ServiceName{"api", "worker"} {
			if _, _, err := d.Unpublish(t.Context(), "blog", svc, nil); err != nil {
				t.Error(err)
			}
		}
		sound(t, w)
	})
}

func TestPublishPort_NotAllowed(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, twoServices)
		_, err := publishPort(t, d, "blog", "api", 5432)
		var e *mesh.Error
		if !errors.As(err, &e) || e.Kind != mesh.Denied || !strings.Contains(e.Hint, "MESH_TCP_PORTS=5432") {
			t.Errorf("%v", err)
		}
	})
}
