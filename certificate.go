package mesh

import "time"

// Where certificates come from.
const (
	CertificateACME     = "acme"
	CertificateUploaded = "uploaded"
)

// Certificate is what a host is served with over TLS.
type Certificate struct {
	Host    Host
	Source  string    // one of the above; empty: there is none, and none is asked for
	Expires time.Time // zero: there is none yet
	Issuer  string
	Error   string // why the last attempt to get or renew it failed; empty: it did not
	ErrorAt time.Time
}
