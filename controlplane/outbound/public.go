package outbound

import "net/netip"

// Public says whether an address is a public unicast one, after the registries of special-purpose addresses that IANA keeps for
// IPv4 (RFC 6890 and what updates it) and IPv6. Where a registry calls a block globally reachable that carries no ordinary
// host (anycast of a protocol, AS112), it is none here either.
func Public(a netip.Addr) bool {
	a = a.Unmap()
	if a.Is4() {
		return !in(special4, a)
	}
	// What IANA has given out for global unicast is in one block. All else is special: loopback, unspecified, IPv4 in IPv6
	// (::/96, ::ffff:0:0/96), NAT64 (64:ff9b::/96, 64:ff9b:1::/48), discard-only and dummy (100::/64, 100:0:0:1::/64),
	// segment routing (5f00::/16), unique local (fc00::/7), link-local (fe80::/10), site-local (fec0::/10), multicast (ff00::/8).
	return global6.Contains(a) && a.Zone() == "" && !in(special6, a)
}

var global6 = netip.MustParsePrefix("2000::/3")

var special4 = parse(
	"0.0.0.0/8",          // this network
	"10.0.0.0/8",         // private use
	"100.64.0.0/10",      // shared by carriers; some clouds' metadata
	"127.0.0.0/8",        // loopback
	"168.63.129.16/32",   // not IANA's: in Azure, the host of the machine itself
	"169.254.0.0/16",     // link-local; most clouds' metadata
	"172.16.0.0/12",      // private use
	"192.0.0.0/24",       // IETF protocol assignments
	"192.0.2.0/24",       // documentation
	"192.31.196.0/24",    // AS112
	"192.52.193.0/24",    // AMT
	"192.88.99.0/24",     // 6to4 relays
	"192.168.0.0/16",     // private use
	"192.175.48.0/24",    // AS112
	"198.18.0.0/15",      // benchmarks
	"198.51.100.0/24",    // documentation
	"203.0.113.0/24",     // documentation
	"224.0.0.0/4",        // multicast
	"240.0.0.0/4",        // reserved
	"255.255.255.255/32", // broadcast
)

// special6 are the special blocks within global6.
var special6 = parse(
	"2001::/23",         // IETF protocol assignments: Teredo, benchmarks, AMT, AS112, ORCHID, drones
	"2001:db8::/32",     // documentation
	"2002::/16",         // 6to4: any IPv4 address in disguise
	"2620:4f:8000::/48", // AS112
	"3fff::/20",         // documentation
)

func parse(blocks ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, block := range blocks {
		all = append(all, netip.MustParsePrefix(block))
	}
	return all
}

func in(blocks []netip.Prefix, a netip.Addr) bool {
	for _, block := range blocks {
		if block.Contains(a) {
			return true
		}
	}
	return false
}
