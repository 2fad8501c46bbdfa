package deploytest

// The suites in this package are the contracts of deploy's interfaces: what Deployer
// and Fleet rely on. Each runs on the fake here, in memory, and on the real
// implementation, in the tests of its package, so the fakes cannot drift. The store
// needs no suite: the tests of deploy use the real one.

import (
	"context"
	"testing"
	"time"
)

// soon waits for an engine in another process. The limit only ends a test that hangs.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("did not happen: %s", what)
		}
	}
}
