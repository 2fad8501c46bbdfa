package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mesh"
)

// Only an address at which no connection comes about has no server.
func TestStandby_Answers(t *testing.T) {
	t.Parallel()
	listen := func(each func(net.Conn)) standbyState {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				each(c)
			}
		}()
		return standbyState{From: "ssh://mesh@" + l.Addr().String()}
	}
	for name, s := range map[string]standbyState{
		"silent": listen(func(c net.Conn) { t.Cleanup(func() { _ = c.Close() }) }), // frozen, or in the middle of an upgrade
		"closes": listen(func(c net.Conn) { _ = c.Close() }),                       // too many clients
		"speaks": listen(func(c net.Conn) { _, _ = c.Write([]byte("220 mail\r\n")); _ = c.Close() }),
	} {
		if err := s.answers(t.Context()); !errors.Is(err, mesh.Conflict) {
			t.Errorf("%s: %v", name, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := s.answers(ctx); name == "silent" && !errors.Is(err, mesh.Cancelled) {
			t.Errorf("%s, interrupted: %v", name, err)
		}
		cancel()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	for name, s := range map[string]standbyState{"nothing there": {From: "ssh://mesh@" + l.Addr().String()}, "no such name": {From: "ssh://mesh@host.invalid"}} {
		if err := s.answers(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStandby_Reason(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][2]string{
		"": {},
		"Warning: something\nssh: connect to host a port 22: Connection refused\n": {"ssh: connect to host a port 22: Connection refused"},
		"error: the key mate may not do this\nhint:  ask an admin\n":               {"the key mate may not do this", "ask an admin"},
		"error: it is full\r\nConnection closed.\n":                                {"it is full"},
		"error: one\nhint:  a\nerror: two":                                         {"two"},
	} {
		if said, hint := reason(in); said != want[0] || hint != want[1] {
			t.Errorf("%q: %q, %q", in, said, hint)
		}
	}
}

// What cannot be listed is never taken for removed: the copy would remove it as well.
func TestWalked_WhatCannotBeRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	all := func(string) bool { return false }
	if files, err := walked(dir, "x/", all); err != nil || len(files) != 1 || files[0].Path != "x/file" {
		t.Errorf("%v, %v", files, err)
	}
	for _, root := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "file", "below")} {
		if files, err := walked(root, "", all); !errors.Is(err, mesh.Unavailable) {
			t.Errorf("%s: %v, %v", root, files, err)
		}
	}
}
