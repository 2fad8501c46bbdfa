//go:build !linux

package receiver

import "net"

func quickAck(c net.Conn) net.Conn { return c }
