package main

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mesh/names"
)

// Copies of a socket share its O_NONBLOCK, in all processes. A goroutine that waits in the
// kernel for a blocking one is not woken when it is closed: the process would not end.
func TestPass_LeavesSocketsNonBlocking(t *testing.T) {
	t.Parallel()
	nonblocking := func(what string, socket any) {
		t.Helper()
		c, ok := socket.(syscall.Conn)
		if !ok {
			t.Fatalf("%s is no socket", what)
		}
		flags := 0
		err := withFD(c, func(fd int) (err error) {
			flags, err = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			return err
		})
		if err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("%s is blocking: flags %x, %v", what, flags, err)
		}
	}
	shop := netip.MustParseAddr("127.53.7.1")
	of := names.New(names.Options{})
	of.Open("shop", shop, netip.PrefixFrom(shop, 24))
	t.Cleanup(func() { of.Close("shop") })
	if err := of.Faults()["shop"]; err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	open := newPorts(nil)
	open.open[5432] = &portListener{Listener: l, of: open, number: 5432}

	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		ends[i], _ = c.(*net.UnixConn)
		defer ends[i].Close()
	}
	if err := (&successor{wire: ends[0]}).pass(of, open); err != nil {
		t.Fatal(err)
	}
	_ = ends[0].Close()
	nonblocking("the port", l)
	h := &handover{}
	h.receive(ends[1])
	var got []string
	for name, f := range h.sockets {
		nonblocking(name, f)
		got = append(got, name)
	}
	slices.Sort(got)
	if want := []string{"port 0", "tcp 127.53.7.1:53", "udp 127.53.7.1:53"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, p := range h.ports() {
		nonblocking("a received port", p)
		_ = p.Close()
	}
	nonblocking("the port that another process has", l)

	shared, err := share(l)
	if err != nil {
		t.Fatal(err)
	}
	nonblocking("a shared listener", l)
	ended := make(chan error, 1)
	go func() {
		_, err := shared.Accept()
		ended <- err
	}()
	_ = shared.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("accepting goes on after the listener was closed")
	}
}
