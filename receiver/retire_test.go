package receiver

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"mesh"
)

// Read-only sessions continue, accepted connections are served, and no others begin.
func TestRetire_LetsSessionsEnd(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	tail, waiting := s.client(mesh.RoleAdmin), s.client(mesh.RoleAdmin)
	follow, err := tail.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start("logs -t"); err != nil {
		t.Fatal(err)
	}
	within(t, s.logs.began, "the followed log")

	retired := make(chan error, 1)
	go func() { retired <- s.r.Retire(t.Context()) }()
	for { // its listener closes
		c, err := s.dial()
		if c != nil {
			_ = c.Close()
		}
		if err != nil && strings.Contains(err.Error(), "refused") {
			break
		}
	}
	if out, status := run(t, tail, "version"); status == 0 || !strings.Contains(out, "mesh is being stopped") {
		t.Errorf("a further session of a connection got %q, %d", out, status)
	}
	select {
	case err := <-retired:
		t.Fatalf("retired while a client has signed in and not been served: %v", err)
	default:
	}
	if out, status := run(t, waiting, "version"); out != "mesh 9\n" || status != 0 {
		t.Errorf("who had signed in got %q, %d", out, status)
	}
	if err := within(t, retired, "the end of what changes something"); err != nil {
		t.Error(err)
	}
	select {
	case err := <-s.logs.ended:
		t.Fatalf("the followed log has ended: %v", err)
	default:
	}
	s.stop()
	if err := within(t, s.logs.ended, "the end of the followed log"); !errors.Is(err, errStopping) {
		t.Errorf("it ended with %v", err)
	}
}

func TestRetire_CutsAtItsEnd(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.client(mesh.RoleAdmin)
	sess, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, err := sess.StdinPipe() // an import waits for the end of its input
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := sess.Start("config:import -a blog"); err != nil {
		t.Fatal(err)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, why)
	defer cancel()
	if err := s.r.Retire(ctx); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	var ee *ssh.ExitError
	if err := sess.Wait(); err == nil || errors.As(err, &ee) && ee.ExitStatus() == 0 {
		t.Errorf("the session ended with %v", err)
	}
}

// ssh exits with an error if it cannot send its goodbye.
func TestServe_LeavesClientsTimeToGo(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.client(mesh.RoleAdmin)
	if out, status := run(t, c, "version"); status != 0 {
		t.Fatalf("got %q, %d", out, status)
	}
	gone := make(chan error, 1)
	go func() { gone <- c.Wait() }()
	s.stop()
	for {
		d, err := s.dial()
		if d != nil {
			_ = d.Close()
		}
		if err != nil && strings.Contains(err.Error(), "refused") {
			break
		}
	}
	select {
	case err := <-gone:
		t.Errorf("the server has closed the connection: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	_ = c.Close()
}
