package receiver

import (
	"context"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// keepAlive closes a connection whose client has failed to answer three times in a row,
// so that a sleeping laptop holds up no deployment.
func keepAlive(ctx context.Context, conn *gossh.ServerConn, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	answered := make(chan struct{}, 1)
	missed, asked := 0, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-answered:
			missed, asked = 0, false
		case <-t.C:
			if asked {
				if missed++; missed >= 3 {
					_ = conn.Close()
					return
				}
				continue
			}
			asked = true
			go func() {
				_, _, _ = conn.SendRequest("keepalive@openssh.com", true, nil)
				answered <- struct{}{}
			}()
		}
	}
}
