package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"

	"github.com/wneessen/go-mail"

	"mesh"
)

// mail sends a message by e-mail. A password is never sent without TLS, unless the server
// is this machine.
func (n *Notifier) mail(ctx context.Context, r mesh.Recipient, t target, m message) error {
	b := t.mail
	msg := mail.NewMsg()
	if err := msg.From(b.from); err != nil {
		return &failure{text: "the sender's address is not accepted", final: true}
	}
	if err := msg.To(b.to...); err != nil {
		return &failure{text: "an address is not accepted", final: true}
	}
	msg.Subject(m.title)
	msg.SetDate()
	msg.SetMessageID()
	msg.SetGenHeader(mail.HeaderXMailer, "mesh/"+n.Version)
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: nobody answers it with an absence note
	msg.SetBodyString(mail.TypeTextPlain, m.String()+"\n")

	o := []mail.Option{
		mail.WithPort(b.port), mail.WithTimeout(attemptTime), mail.WithTLSPolicy(mail.TLSOpportunistic), mail.WithoutNoop(),
		mail.WithTLSConfig(&tls.Config{ServerName: b.host, MinVersion: tls.VersionTLS12}),
	}
	// With TLS from the start, the connection comes encrypted from the dial function below.
	// WithSSL would have the client take it for a plain one, and offer no password.
	switch {
	case t.user == "":
	case loopback(b.host) && !b.implicit:
		o = append(o, mail.WithSMTPAuth(mail.SMTPAuthPlainNoEnc))
	case b.implicit:
		o = append(o, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover))
	default:
		o = append(o, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithTLSPolicy(mail.TLSMandatory))
	}
	if t.user != "" {
		o = append(o, mail.WithUsername(t.user), mail.WithPassword(t.password))
	}
	dial := new(net.Dialer).DialContext
	if r.Fenced && n.Dial != nil {
		dial = n.Dial
	}
	// A server that hangs must not hold the attempt for longer than its time.
	o = append(o, mail.WithDialContextFunc(func(_ context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = c.Close() })
		if !b.implicit {
			return c, nil
		}
		s := tls.Client(c, &tls.Config{ServerName: b.host, MinVersion: tls.VersionTLS12})
		if err := s.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return s, nil
	}))
	c, err := mail.NewClient(b.host, o...)
	if err != nil {
		return &failure{text: "the mail server's settings are not accepted", final: true}
	}
	if err = c.DialAndSendWithContext(ctx, msg); ctx.Err() != nil && err != nil {
		return ctx.Err()
	}
	if err == nil {
		return nil
	}
	var se *mail.SendError
	if errors.As(err, &se) {
		// It repeats the answer for each address, and lists those.
		answer := oneLine(se.Error())
		if i := strings.Index(answer, `", `); i > 0 {
			answer = answer[:i+1]
		}
		return &failure{text: "the mail server refused it: " + mesh.Clip(answer, 200), final: !se.IsTemp()}
	}
	if strings.Contains(err.Error(), "STARTTLS") {
		return &failure{text: "the mail server offers no TLS, so mesh does not send the password", final: true}
	}
	return err
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
