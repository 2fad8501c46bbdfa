package enginetest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Beside says that a test builds in the engine, beside others, until it ends. It waits
// while another one is Alone.
func Beside(t testing.TB) {
	t.Helper()
	builds.mu.Lock()
	name := t.Name()
	for parent := name; ; parent = parent[:strings.LastIndexByte(parent, '/')] {
		if builds.alone == parent {
			builds.mu.Unlock()
			return
		}
		if builds.beside[parent] != nil {
			name = parent
			break
		}
		if !strings.Contains(parent, "/") {
			break
		}
	}
	v := builds.beside[name]
	if v == nil {
		v = &visit{}
		builds.beside[name] = v
	}
	v.parts++
	builds.mu.Unlock()
	v.enter.Do(func() { // not under the mutex, which others need to leave
		door := lock(t, "door", syscall.LOCK_EX)
		v.room = lock(t, "room", syscall.LOCK_SH)
		door.Close()
	})
	t.Cleanup(func() {
		builds.mu.Lock()
		defer builds.mu.Unlock()
		if v.parts--; v.parts == 0 {
			v.room.Close()
			delete(builds.beside, name)
		}
	})
}

// Alone waits until no other test builds in the engine, and keeps other tests, also of
// other packages and checkouts, from building until this one ends. Use it to test a
// limit that holds for the whole engine. The test must not be parallel.
func Alone(t testing.TB) {
	t.Helper()
	door, room := lock(t, "door", syscall.LOCK_EX), lock(t, "room", syscall.LOCK_EX)
	set := func(name string) {
		builds.mu.Lock()
		defer builds.mu.Unlock()
		builds.alone = name
	}
	set(t.Name())
	t.Cleanup(func() {
		set("")
		room.Close()
		door.Close()
	})
}

// builds are the tests of this process that build. They share a room, which is a lock
// on a file. The door, a second lock, lets nobody in while one waits to be alone. A test
// that is in already, and its parts, do not wait there again, or the two would wait for
// each other.
var builds = struct {
	mu     sync.Mutex
	beside map[string]*visit // by name
	alone  string            // the name of one
}{beside: map[string]*visit{}}

type visit struct {
	enter sync.Once
	room  *os.File
	parts int // guarded by the mutex of builds
}

// lock waits for the lock. It is released when the file is closed, or its process ends.
func lock(t testing.TB, name string, how int) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "mesh-enginetest-"+name), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	for {
		if err = syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}
