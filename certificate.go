package mesh

import "time"

// Where certificates come from.
const (
	CertificateACME     = "acme"
	CertificateUploaded = "uploaded"
)

// Certificate is the certificate that a host is served with.
type Certificate struct {
	Host    Host
	Source  string    // one of the above; empty: none, and none is requested
	Issued  time.Time // zero: none yet
	Expires time.Time // zero: none yet
	Issuer  string
	Error   string // why the last attempt to obtain or renew it failed; empty: it did not
	ErrorAt time.Time
}
