package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"
)

// Unreached says why a request to another server failed, in words for people. It leaves out
// the URL, which net/http quotes and which may have a secret in it; mask what else may be
// secret before you shorten the text. within is the time that the answer had.
func Unreached(err error, within time.Duration) string {
	var late net.Error
	var dns *net.DNSError
	var u *url.Error
	switch {
	case errors.As(err, &late) && late.Timeout():
		return fmt.Sprintf("no answer within %s", within)
	case errors.As(err, &dns):
		return "the host " + Clip(dns.Name, 100) + " cannot be found"
	case errors.As(err, &u):
		err = u.Err
	}
	return err.Error()
}

// RetryAfter reads the seconds of a Retry-After header (RFC 9110, 10.2.3), at most most. It
// returns 0 if there are none.
func RetryAfter(header string, most time.Duration) time.Duration {
	n, err := strconv.Atoi(header)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(int64(n), int64(most/time.Second))) * time.Second
}
