package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	"mesh"
)

func TestUnreached(t *testing.T) {
	t.Parallel()
	quoted := func(err error) error {
		return fmt.Errorf("send: %w", &url.Error{Op: "Post", URL: "https://planted@host/", Err: err})
	}
	for want, err := range map[string]error{
		"no answer within 10s":            quoted(context.DeadlineExceeded),
		"the host h.test cannot be found": quoted(&net.DNSError{Name: "h.test", IsNotFound: true}),
		"connection refused":              quoted(errors.New("connection refused")),
		"closed":                          errors.New("closed"),
	} {
		if got := mesh.Unreached(err, 10*time.Second); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
	for header, want := range map[string]time.Duration{"": 0, "x": 0, "-1": 0, "7": 7 * time.Second, "3600": time.Minute, "9223372036854775807": time.Minute} {
		if got := mesh.RetryAfter(header, time.Minute); got != want {
			t.Errorf("Retry-After %q: %s", header, got)
		}
	}
}
