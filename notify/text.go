package notify

import (
	"fmt"
	"strings"
	"time"

	"mesh"
)

// message is what people read.
type message struct {
	title string
	lines []string
	bad   bool // something began, or happened
}

func (m message) String() string { return m.title + "\n" + strings.Join(m.lines, "\n") }

// digestMost is how many alerts one message lists.
const digestMost = 20

// compose writes one message about several notices.
func compose(batch []mesh.Notice, server string) message {
	if len(batch) == 1 {
		return one(batch[0], server)
	}
	m := message{title: fmt.Sprintf("%d alerts from mesh on %s", len(batch), server)}
	for i, n := range batch {
		m.bad = m.bad || n.Event != mesh.NoticeRecovered
		if i < digestMost {
			m.lines = append(m.lines, headline(n))
		}
	}
	if more := len(batch) - digestMost; more > 0 {
		m.lines = append(m.lines, fmt.Sprintf("… and %d more.", more))
	}
	m.lines = append(m.lines, "Next: ssh mesh alerts")
	return m
}

// headline says in one line what happened.
func headline(n mesh.Notice) string {
	word := "ALERT"
	switch n.Event {
	case mesh.NoticeRecovered:
		word = "RECOVERED"
	case mesh.NoticeAnnounced:
		word = "NOTE"
	case mesh.NoticeTest:
		return "TEST mesh: " + mesh.Visible(n.Alert.Text)
	case mesh.NoticeOpened:
	}
	return word + " " + mesh.Visible(mesh.Clip(n.Alert.String(), 300))
}

func one(n mesh.Notice, server string) message {
	a := n.Alert
	m := message{title: headline(n), bad: n.Event != mesh.NoticeRecovered && n.Event != mesh.NoticeTest}
	switch n.Event {
	case mesh.NoticeTest:
		m.lines = append(m.lines, fmt.Sprintf("Sent by mesh on %s at %s.", server, stamp(n.At)), "List alerts: ssh mesh alerts")
		return m
	case mesh.NoticeRecovered:
		m.lines = append(m.lines, fmt.Sprintf("It lasted %s, since %s: %s.", lasted(a.Ended.Sub(a.Since)), stamp(a.Since), mesh.Visible(mesh.Clip(a.Text, 300))))
	case mesh.NoticeOpened:
		m.lines = append(m.lines, fmt.Sprintf("Since %s, on %s.", stamp(a.Since), server))
	case mesh.NoticeAnnounced:
		m.lines = append(m.lines, fmt.Sprintf("At %s, on %s.", stamp(a.Since), server))
	}
	if n.Event != mesh.NoticeRecovered {
		m.lines = append(m.lines, "Next: "+a.Next())
	}
	return m
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// lasted is a duration in whole seconds, or minutes if it is long. The clock may have been
// set back meanwhile.
func lasted(d time.Duration) string {
	d = max(d, 0)
	if d >= 10*time.Minute {
		return mesh.Brief(d.Round(time.Minute))
	}
	return mesh.Brief(d.Round(time.Second))
}
