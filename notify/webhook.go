package notify

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"mesh"
)

// hook is the body of a message to a webhook. docs/alerts.md describes it; fields are only
// ever added.
type hook struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Event   string    `json:"event"`
	At      time.Time `json:"at"`
	Server  string    `json:"server"`
	Text    string    `json:"text"`
	Alert   hookAlert `json:"alert"`
}

type hookAlert struct {
	Number  uint64     `json:"number,omitempty"`
	Kind    string     `json:"kind,omitempty"`
	Stack   string     `json:"stack,omitempty"`
	About   string     `json:"about,omitempty"`
	Text    string     `json:"text"`
	Since   time.Time  `json:"since"`
	Count   int        `json:"count"`
	Ended   *time.Time `json:"ended,omitempty"`
	Outcome string     `json:"outcome,omitempty"`
	Next    string     `json:"next"`
}

func (n *Notifier) hook(m mesh.Notice) hook {
	a := m.Alert
	h := hook{
		Version: 1, ID: n.id(m), Event: string(m.Event), At: m.At.UTC(), Server: n.Server, Text: compose([]mesh.Notice{m}, n.Server).String(),
		Alert: hookAlert{
			Number: a.Number, Kind: string(a.Kind), Stack: string(a.Stack), About: a.About, Text: a.Text, Since: a.Since.UTC(),
			Count: a.Count, Outcome: a.Outcome, Next: a.Next(),
		},
	}
	if !a.Open() {
		ended := a.Ended.UTC()
		h.Alert.Ended = &ended
	}
	return h
}

// NewSigningKey returns a random key for the messages to a webhook.
func (n *Notifier) NewSigningKey() mesh.Secret {
	return mesh.NewSecret("meshwh_" + strings.ToLower(rand.Text()+rand.Text()))
}

// Sign returns the value of the header Mesh-Signature for a body that is sent at a time:
// "t=SECONDS,v1=HEX", where HEX is the HMAC-SHA256 with key of SECONDS, a full stop and
// the body.
func Sign(key string, at time.Time, body []byte) string {
	seconds := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(key))
	_, _ = fmt.Fprintf(mac, "%s.", seconds)
	_, _ = mac.Write(body)
	return "t=" + seconds + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
