package names

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"mesh"
)

// answer answers one query of a zone.
func (s *Server) answer(ctx context.Context, z *zone, w dns.ResponseWriter, q *dns.Msg) {
	_, stream := w.RemoteAddr().(*net.TCPAddr)
	reply := new(dns.Msg)
	// The addresses of all networks belong to this machine, so containers of every stack
	// can send to this one. Only those of its own network get an answer.
	stack, ok := z.asks(ctx, sender(w.RemoteAddr()))
	if !ok {
		_ = w.WriteMsg(reply.SetRcode(q, dns.RcodeRefused))
		return
	}
	if len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery {
		_ = w.WriteMsg(reply.SetRcode(q, dns.RcodeNotImplemented))
		return
	}
	ask := q.Question[0]
	if own, known := s.own(stack, z.at, ask); known {
		reply.SetReply(q)
		reply.RecursionAvailable = true
		reply.Authoritative = true
		reply.Answer = own
		send(w, q, reply, stream)
		return
	}
	got, err := s.up.ask(ctx, q, stream)
	if err != nil {
		s.log.Debug("a query was not answered", "stack", stack, "name", ask.Name, "err", err)
		got = reply.SetRcode(q, dns.RcodeServerFailure) // the engine then asks the next name server
	}
	got.Id = q.Id
	send(w, q, got, stream)
}

// send shortens an answer to what the client takes over UDP: 512 bytes (RFC 1035, 4.2.1),
// or as many as it says (RFC 6891, 6.2.3). It then asks again over TCP.
func send(w dns.ResponseWriter, q, reply *dns.Msg, stream bool) {
	size := dns.MaxMsgSize
	if !stream {
		size = dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
		}
	}
	reply.Truncate(size)
	_ = w.WriteMsg(reply)
}

// own returns the records of a name, if the table knows it. The name of a service
// without healthy instances exists, and has no address. Answers may not be kept (a time to
// live of 0), because the next rollout changes them; those without records carry no SOA,
// so they are not kept either (RFC 2308, section 5).
func (s *Server) own(stack mesh.StackName, at netip.Addr, q dns.Question) (records []dns.RR, known bool) {
	t := s.table.Load()
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	if t == nil || *t == nil || name == "" || strings.Contains(name, ".") || q.Qclass != dns.ClassINET {
		return nil, false
	}
	r, known := (*t).Resolve(stack, name)
	if !known || q.Qtype != dns.TypeA && q.Qtype != dns.TypeANY {
		return nil, known
	}
	addrs := r.Addrs
	if r.Link {
		addrs = []netip.Addr{at}
	}
	for _, a := range addrs {
		if a.Is4() {
			records = append(records, &dns.A{
				Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: a.AsSlice(),
			})
		}
	}
	// Most clients use the first address.
	rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	return records, true
}

func sender(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
