package drains

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/leodido/go-syslog/v4/rfc5424"
	"golang.org/x/sys/unix"

	"mesh"
)

// syslogSender sends lines as RFC 5424 messages, each with its length before it: over TLS
// as in RFC 5425, over plain TCP as in RFC 6587, 3.4.1.
//
// The protocol has no answers. Lines count as sent when the receiver's machine has
// acknowledged all bytes; if the connection breaks before that, they are sent again.
type syslogSender struct {
	d    *drain
	conn net.Conn // nil: not connected
	raw  *net.TCPConn
	dead chan struct{} // closed when the receiver has closed the connection
}

// maxSyslog is how much text a message has at most, in bytes: of a longer line, the rest is
// in the next messages. RFC 5424, 6.1, lets a receiver cut at 2048; rsyslog takes 8 KB
// with everything.
const maxSyslog = 8000

// parts cuts a text into pieces of at most n bytes, between characters.
func parts(text string, n int) (out []string) {
	text = strings.ToValidUTF8(text, "\uFFFD")
	for len(text) > n {
		cut := n
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		out, text = append(out, text[:cut]), text[cut:]
	}
	return append(out, text)
}

func (s *syslogSender) send(ctx context.Context, stack mesh.StackName, lines []mesh.LogLine) (refused int, err error) {
	if s.conn != nil {
		select {
		case <-s.dead:
			s.close()
		default:
		}
	}
	if s.conn == nil {
		if err := s.connect(ctx); err != nil {
			return 0, err
		}
	}
	var b []byte
	for _, l := range lines {
		for _, part := range parts(l.Text, maxSyslog) {
			l.Text = part
			msg, err := syslogMessage(s.d.hostname, stack, l)
			if err != nil {
				refused++
				break
			}
			b = strconv.AppendInt(b, int64(len(msg)), 10)
			b = append(b, ' ')
			b = append(b, msg...)
		}
	}
	deadline := time.Now().Add(sendTime)
	_ = s.conn.SetWriteDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := s.conn.Write(b); err != nil {
		s.close()
		return 0, err
	}
	if err := s.acknowledged(ctx, deadline); err != nil {
		s.close()
		return 0, err
	}
	return refused, nil
}

func (s *syslogSender) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	c, err := s.d.dial(ctx, "tcp", s.d.url.Host)
	if err != nil {
		return err
	}
	s.raw, _ = c.(*net.TCPConn)
	if s.d.url.Scheme == schemeSyslogTLS {
		t := tls.Client(c, s.d.tls(s.d.url.Hostname()))
		if err := t.HandshakeContext(ctx); err != nil {
			_ = c.Close()
			return err
		}
		c = t
	}
	s.conn, s.dead = c, make(chan struct{})
	go func(c net.Conn, dead chan struct{}) { // a receiver sends nothing: an end is all that can come
		defer close(dead)
		_, _ = io.Copy(io.Discard, c)
	}(c, s.dead)
	return nil
}

// acknowledged waits until the receiver's machine has all bytes.
func (s *syslogSender) acknowledged(ctx context.Context, deadline time.Time) error {
	if s.raw == nil {
		return nil
	}
	rc, err := s.raw.SyscallConn()
	if err != nil {
		return err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		waiting := 0
		var ierr error
		if err := rc.Control(func(fd uintptr) { waiting, ierr = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) }); err != nil { //nolint:gosec // a descriptor
			return err
		}
		if ierr != nil || waiting == 0 {
			return nil //nolint:nilerr // not a kernel that tells
		}
		select {
		case <-s.dead:
			return errors.New("the receiver closed the connection")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the receiver does not take the lines within %s", sendTime)
		}
	}
}

func (s *syslogSender) close() {
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn, s.raw = nil, nil
	}
}

// Facilities and severities of RFC 5424, 6.2.1.
const (
	facilityUser  = 1
	facilityLocal = 16 // local0: the router's lines and mesh's own
	severityInfo  = 6
)

// severities of levels.
var severities = map[mesh.LogLevel]uint8{
	mesh.LevelDebug: 7, mesh.LevelInfo: 6, mesh.LevelNotice: 5, mesh.LevelWarn: 4, mesh.LevelError: 3, mesh.LevelFatal: 2,
}

// syslogMessage is <PRI>1 TIME HOST STACK NAME SOURCE - TEXT: the stack is the APP-NAME,
// the instance the PROCID and the source the MSGID, as at Heroku and Papertrail.
func syslogMessage(host string, stack mesh.StackName, l mesh.LogLine) (string, error) {
	facility := uint8(facilityUser)
	if l.Source != "app" {
		facility = facilityLocal
	}
	severity, ok := severities[l.Level]
	if !ok {
		severity = severityInfo
	}
	m := &rfc5424.SyslogMessage{}
	m.SetPriority(8*facility + severity)
	m.SetVersion(1)
	m.SetTimestamp(l.At.UTC().Format("2006-01-02T15:04:05.000000Z"))
	m.SetHostname(host)
	m.SetAppname(string(stack))
	m.SetProcID(l.Name)
	m.SetMsgID(l.Source)
	m.SetMessage(l.Text)
	return m.String()
}
