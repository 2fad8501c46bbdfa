package deploy

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
)

func TestClaim_WaitsForWhatTheServerDoesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &Deployer{Options: Options{Now: time.Now}}
		own, _ := d.tryClaim("ledger", work{what: "started", own: true})
		go func() {
			time.Sleep(ownWork / 2)
			own()
		}()
		release, err := d.claim(t.Context(), "ledger", "attached")
		if err != nil {
			t.Fatal("somebody who comes while it is started:", err)
		}
		if _, err := d.claim(t.Context(), "ledger", "destroyed"); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "is being attached, since 2000-01-01T00:00:10Z") {
			t.Error("a second person:", err)
		}
		if r, _ := d.tryClaim("ledger", work{what: "started", own: true}); r != nil {
			t.Error("the server took what somebody changes")
		}
		release()

		own, _ = d.tryClaim("ledger", work{what: "started", own: true})
		if _, err := d.claim(t.Context(), "ledger", "attached"); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "is being started") {
			t.Error("a start that takes long:", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := d.claim(ctx, "ledger", "attached"); !errors.Is(err, context.Canceled) {
			t.Error("somebody who leaves:", err)
		}
		own()
	})
}
