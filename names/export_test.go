package names

import "strconv"

// SetPorts makes a server listen on ports that everybody may use, and ask name servers on
// another one. Call it before Open.
func (s *Server) SetPorts(dns, door, upstream uint16) {
	s.port, s.doorPort, s.up.port = dns, door, strconv.Itoa(int(upstream))
}
