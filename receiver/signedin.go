package receiver

import (
	"context"
	"sync"

	gossh "golang.org/x/crypto/ssh"
)

// signedIn holds the open sessions, by the SignIn of their keys.
type signedIn struct {
	mu sync.Mutex
	by map[string]map[*session]bool
}

type session struct {
	cancel  context.CancelCauseFunc
	removed bool
}

func newSignedIn() *signedIn { return &signedIn{by: map[string]map[*session]bool{}} }

// enter adds a session. removed reports whether its key has been removed since.
func (s *signedIn) enter(conn *gossh.ServerConn, cancel context.CancelCauseFunc) (leave func(), removed func() bool) {
	if conn == nil || conn.Permissions == nil {
		return func() {}, func() bool { return false }
	}
	return s.enterAs(conn.Permissions.Extensions[signInExt], cancel)
}

// enterAs is enter for what has no SSH connection; fp is the key's SignIn.
func (s *signedIn) enterAs(fp string, cancel context.CancelCauseFunc) (leave func(), removed func() bool) {
	p := &session{cancel: cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[fp] == nil {
		s.by[fp] = map[*session]bool{}
	}
	s.by[fp][p] = true
	leave = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if delete(s.by[fp], p); len(s.by[fp]) == 0 {
			delete(s.by, fp)
		}
	}
	return leave, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return p.removed
	}
}

func (s *signedIn) end(fp string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fp == "" {
		return // the local socket's
	}
	for p := range s.by[fp] {
		p.removed = true
		p.cancel(errKeyRemoved)
	}
}
