package drains_test

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"strings"
	"testing"

	"mesh"
	"mesh/drains"
)

// certKey returns the private key of a test server, in PEM form.
func certKey(r *receiver) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(r.TLS.Certificates[0].PrivateKey)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), err
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"syslog+tls://logs.example.com":                          "syslog+tls://logs.example.com:6514",
		"syslog+tls://logs.example.com:99":                       "syslog+tls://logs.example.com:99",
		"syslog+tcp://[2001:db8::1]":                             "syslog+tcp://[2001:db8::1]:601 plain",
		"https://me:planted@logs.example.com/in/planted-planted": "https://…@logs.example.com/in/…",
		"https://logs.example.com/?key=planted":                  "https://logs.example.com?…",
		"http://logs.example.com/in":                             "http://logs.example.com/in plain",
		"otlp+https://otel.example.com:4318":                     "otlp+https://otel.example.com:4318/v1/logs",
		"otlp+https://otel.example.com/otlp/v1/logs":             "otlp+https://otel.example.com/otlp/v1/logs",
		"loki+https://loki.example.com":                          "loki+https://loki.example.com/loki/api/v1/push",
		" https://logs.example.com\n":                            "https://logs.example.com",
	} {
		shown, plain, err := drains.Describe(mesh.NewSecret(url))
		if plain {
			shown += " plain"
		}
		if err != nil || shown != want {
			t.Errorf("%q is shown as %q, want %q, %v", url, shown, want, err)
		}
	}
	for _, bad := range []string{
		"", "logs.example.com", "ftp://planted", "https://", "syslog+tls://host/planted", "syslog+tls://u:planted@host", "syslog+tls://host?planted=1",
		"https://host/#planted", "https://ho st/planted", "https://host:planted/", "mailto:planted",
	} {
		_, _, err := drains.Describe(mesh.NewSecret(bad))
		if err == nil || strings.Contains(err.Error(), "planted") && bad != "ftp://planted" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for h, ok := range map[string]bool{"Authorization: Bearer x": true, "X-Key:": true, "X Key: x": false, ": x": false, "X": false, "X: a\r\nY: b": false, "Ä: x": false} {
		if err := drains.CheckHeader(h); (err == nil) != ok {
			t.Errorf("%q: %v", h, err)
		}
	}
}
