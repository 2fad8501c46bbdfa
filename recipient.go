package mesh

import (
	"regexp"
	"slices"
	"time"
)

// RecipientName names a recipient of alerts.
type RecipientName string

// Recipient gets messages about alerts.
type Recipient struct {
	Name    RecipientName
	Service string      // "webhook", "slack", "email", …
	URL     Secret      // where the messages go, with what it needs to sign in
	Shown   string      // the URL without its secrets, for people
	Signing Secret      // the key that a webhook's messages are signed with; empty for others
	Stacks  []StackName // only alerts of these; empty: of all stacks and the server
	On      []AlertKind // only these kinds; empty: all
	Fenced  bool        // it may not be at a private address: its author is not an admin
	Added   time.Time
	AddedBy KeyName
}

var recipientRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?$`)

// ParseRecipientName checks s.
func ParseRecipientName(s string) (RecipientName, error) {
	if !recipientRule.MatchString(s) {
		return "", Errorf(Invalid, "%q is not a name for a recipient", Clip(s, 60)).WithHint("use 1 to 40 characters a-z, 0-9, - and .: notify:add team URL")
	}
	return RecipientName(s), nil
}

// Wants reports whether the recipient gets messages about an alert.
func (r Recipient) Wants(a Alert) bool {
	return (len(r.Stacks) == 0 || a.Stack != "" && slices.Contains(r.Stacks, a.Stack)) && (len(r.On) == 0 || slices.Contains(r.On, a.Kind))
}

// NoticeEvent is what a message reports about its alert.
type NoticeEvent string

// The events. An announcement is about something that is over as soon as it has happened:
// nothing follows it.
const (
	NoticeOpened    NoticeEvent = "opened"
	NoticeRecovered NoticeEvent = "recovered"
	NoticeAnnounced NoticeEvent = "announced"
	NoticeTest      NoticeEvent = "test"
)

// Notice is one message to one recipient. The store keeps it until it is delivered.
type Notice struct {
	Number    uint64 // counts from 1, in the order of sending; given by the store, and 0 before
	Recipient RecipientName
	Event     NoticeEvent
	Alert     Alert // as it was then
	At        time.Time
}

// Delivery is how the messages to a recipient fare, since the server started.
type Delivery struct {
	Waiting int       // messages that are not delivered yet
	Sent    time.Time // of the last one that was delivered; zero: none
	Failed  time.Time // since when every attempt has failed; zero: the last one succeeded
	Failure string    // why the last attempt failed; it contains no secret
	Lost    int       // messages given up
}
