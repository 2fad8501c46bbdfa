package mesh

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// Trial is a release that some clients get beside the current one.
type Trial struct {
	Release ReleaseNumber
	Targets []Target // its instances of web
	Share   float64  // of the clients of web, from 0 to 1: who gets it once gets it always
	Host    Host     // that leads to it, for those who have the Pass; empty: none does
	Pass    Secret
}

// Comparison is the traffic of a trial's release and of the current one since the trial
// began, without upgraded connections and requests that access rules refused.
type Comparison struct{ Old, New Measure }

// Since returns the traffic after an earlier Comparison of the same trial.
func (c Comparison) Since(earlier Comparison) Comparison {
	return Comparison{Old: c.Old.since(earlier.Old), New: c.New.since(earlier.New)}
}

func (m Measure) since(earlier Measure) (d Measure) {
	for i := range m.Status {
		d.Status[i] = m.Status[i] - earlier.Status[i]
	}
	for i := range m.Latency {
		d.Latency[i] = m.Latency[i] - earlier.Latency[i]
	}
	return d
}

// Canary is how a new release gets the clients of web: in steps, each a share of them, from
// 0 to 1 and growing. After the last step it gets all. Empty: all at once.
type Canary []float64

// maxCanarySteps limits the steps.
const maxCanarySteps = 10

// ParseCanary reads shares: "10%,50%", "10,50", "5". "off" is none.
func ParseCanary(s string) (c Canary, err error) {
	refuse := func(why string) error {
		return Errorf(Invalid, "canary=%q %s", Clip(Visible(s), 60), why).WithHint("use shares of the clients that grow, such as canary=10%%,50%%; or canary=off")
	}
	if s == "off" || s == "0" || s == "none" || s == "false" {
		return nil, nil
	}
	for w := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == ' ' }) {
		v, err := strconv.ParseFloat(strings.TrimSuffix(w, "%"), 64)
		switch {
		case err != nil || math.IsNaN(v):
			return nil, refuse("is not a list of shares")
		case v < 0.1 || v >= 100:
			return nil, refuse("has a share that is not from 0.1% to 99.9%")
		}
		v = math.Round(v*10) / 1000
		if len(c) > 0 && v <= c[len(c)-1] {
			return nil, refuse("has shares that do not grow")
		}
		c = append(c, v)
	}
	switch {
	case len(c) == 0:
		return nil, refuse("has no share")
	case len(c) > maxCanarySteps:
		return nil, refuse("has more than 10 shares")
	}
	return c, nil
}

// String is what ParseCanary reads.
func (c Canary) String() string {
	var parts []string
	for _, share := range c {
		parts = append(parts, Percent(share))
	}
	return strings.Join(parts, ",")
}

// DefaultCanaryStep is how long each share of a canary lasts.
const DefaultCanaryStep = 5 * time.Minute

// CanaryTime is how long each share of a canary lasts.
func (s Settings) CanaryTime() time.Duration {
	if s.CanaryStep == 0 {
		return DefaultCanaryStep
	}
	return s.CanaryStep
}

// canaryOff is how the setting turns a canary off that the tree declares.
const canaryOff = "off"

func setCanary(s *Settings, _, v string) error {
	if v == "" {
		s.Canary = ""
		return nil
	}
	c, err := ParseCanary(v)
	if err != nil {
		return err
	}
	if s.Canary = c.String(); c == nil {
		s.Canary = canaryOff
	}
	return nil
}

// CanaryState describes a canary in progress.
type CanaryState struct {
	Release, Was ReleaseNumber
	Deployment   DeploymentNumber
	By           KeyName
	Began        time.Time
	Steps        Canary
	Step         int       // index of the present one
	Until        time.Time // the end of the present step, if nothing is wrong
	Total        Comparison
}

// Share is the present share of the clients.
func (c CanaryState) Share() float64 { return c.Steps[min(c.Step, len(c.Steps)-1)] }

// A canary is taken back when its release is worse than the old one, by more than chance
// makes likely.
const (
	canaryEnough = 20                     // requests before a share of errors counts
	canaryErrors = 0.02                   // how much larger the share of 5xx may be
	canaryFew    = 5                      // errors that are enough if most requests fail
	canaryTimed  = 50                     // requests of each side before times count
	canarySlower = 2                      // how many times as long 95 of 100 requests may take,
	canarySlack  = 100 * time.Millisecond // and how much longer besides
)

// Worse says why the new release of a comparison is worse than the old one; empty: it is
// not, or there is not enough to tell.
func (c Comparison) Worse() string {
	n, o := c.New.Requests(), c.Old.Requests()
	errors := c.New.Status[5]
	bad, old := float64(errors)/float64(max(n, 1)), float64(c.Old.Status[5])/float64(max(o, 1))
	switch p, was := c.New.Latency.Quantile(95), c.Old.Latency.Quantile(95); {
	case n >= canaryEnough && errors >= 3 && bad > old+canaryErrors,
		n < canaryEnough && errors >= canaryFew && bad > 0.5 && old < 0.5:
		return "it answers " + Percent(bad) + " of " + strconv.FormatUint(n, 10) + " requests with 5xx, the old one " + Percent(old)
	case min(n, o) >= canaryTimed && p > canarySlower*was+canarySlack:
		return "95 of 100 requests take up to " + Brief(p) + ", with the old one up to " + Brief(was)
	}
	return ""
}

// side describes one side of a comparison: "1204 requests, 0.1% 5xx, p95 120ms".
func side(m Measure) string {
	n := m.Requests()
	if n == 0 {
		return "no requests"
	}
	parts := []string{strconv.FormatUint(n, 10) + " requests", Percent(float64(m.Status[5])/float64(n)) + " 5xx"}
	if n == 1 {
		parts[0] = "1 request"
	}
	if p := m.Latency.Quantile(95); p > 0 {
		parts = append(parts, "p95 "+Brief(p))
	}
	return strings.Join(parts, ", ")
}

// Text describes both sides for people, the new one first.
func (c Comparison) Text(newer, older ReleaseNumber) string {
	return newer.String() + ": " + side(c.New) + "; " + older.String() + ": " + side(c.Old)
}
