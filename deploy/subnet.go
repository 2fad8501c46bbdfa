package deploy

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"

	"mesh"
)

// DefaultPool holds the networks of all stacks.
var DefaultPool = netip.MustParsePrefix("10.213.0.0/16")

// subnetBits is the prefix length of a stack's network: 61 containers.
const subnetBits = 26

// subnet chooses a network from the pool that overlaps no other. Docker's default pools
// end after 31 networks. The search begins at a random place, so that two servers on
// one machine seldom choose the same.
func (d *Deployer) subnet(taken []mesh.Stack) (netip.Prefix, error) {
	var used []netip.Prefix
	for _, o := range taken {
		used = append(used, o.Subnet)
	}
	if d.HostNetworks != nil {
		used = append(used, d.HostNetworks()...)
	}
	base := d.Pool.Masked()
	count := uint32(1) << max(0, subnetBits-base.Bits())
	start := rand.Uint32()
	addr := base.Addr().As4()
	first := binary.BigEndian.Uint32(addr[:])
	for i := range count {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], first+(start+i)%count<<(32-subnetBits))
		p := netip.PrefixFrom(netip.AddrFrom4(b), subnetBits)
		if !slices.ContainsFunc(used, func(u netip.Prefix) bool { return u.IsValid() && u.Overlaps(p) }) {
			return p, nil
		}
	}
	return netip.Prefix{}, mesh.Errorf(mesh.Unavailable, "no network is free for another stack: all %d of %s are in use", count, d.Pool)
}

// subnetTries is how often a stack gets another network if something else on the
// machine has the chosen one.
const subnetTries = 8

// withSubnet runs fn, which creates the stack's network if it is missing. It tries
// another subnet if this one turns out to be taken by something that mesh cannot see,
// such as the network of another server created since.
func (d *Deployer) withSubnet(ctx context.Context, st mesh.Stack, fn func(mesh.Stack) error) (mesh.Stack, error) {
	for try := 1; ; try++ {
		err := fn(st)
		if !errors.Is(err, mesh.Conflict) || try == subnetTries {
			return st, err
		}
		stacks, serr := d.Store.Stacks(ctx)
		if serr != nil {
			return st, errors.Join(err, serr)
		}
		p, serr := d.subnet(stacks)
		if serr != nil {
			return st, errors.Join(err, serr)
		}
		if st.Was != "" {
			st.Subnet = p // recorded with the new name
			continue
		}
		d.Logger.Info("subnet is taken, choosing another", "stack", st.Name, "was", st.Subnet.String(), "now", p.String())
		st, serr = d.Store.UpdateStack(ctx, st.Name, func(s *mesh.Stack) error { s.Subnet = p; return nil })
		if serr != nil {
			return st, errors.Join(err, serr)
		}
	}
}
