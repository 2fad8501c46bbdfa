package mesh

import (
	"time"
)

// Traffic is the traffic of a service in the last minute.
type Traffic struct {
	Requests int
	Errors   int           // answered with 5xx
	P50, P95 time.Duration // half of the requests, and 95 of 100, took at most that long
}
