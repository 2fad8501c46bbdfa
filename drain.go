package mesh

import "time"

// Drain is a place that the log lines of a stack, or of all stacks, are sent to.
type Drain struct {
	ID      string    // "d4f7a1", given by mesh
	Stack   StackName // empty: all stacks
	URL     Secret    // where the lines go, with what it needs to sign in
	Shown   string    // the URL without its secrets, for people
	Headers []Secret  // "Name: value", of requests
	CA      string    // PEM certificates that its own is checked with; empty: the system's
	Fenced  bool      // it may not be at a private address: its author is not an admin
	Added   time.Time
	AddedBy KeyName
}

// DrainStatus is how a drain fares.
type DrainStatus struct {
	Waiting int64     // bytes of lines that are not sent yet
	Behind  time.Time // of the oldest line that was being sent; zero: none waits
	Sent    time.Time // when lines were last sent; zero: not since mesh started
	Lines   int       // sent since mesh started
	Failed  time.Time // since when every attempt has failed; zero: the last one succeeded
	Failure string    // why the last attempt failed; it contains no secret
	Lost    int       // lines given up, because too many waited or the receiver refused them
}
