package mesh

import (
	"time"
)

// Traffic is the traffic of a service in the last minute.
type Traffic struct {
	Requests int           // without Refused
	Errors   int           // answered with 5xx
	Refused  int           // by access rules
	Open     int           // connections on TCP ports, now
	P50, P95 time.Duration // half of the requests, and 95 of 100, took at most that long
}
