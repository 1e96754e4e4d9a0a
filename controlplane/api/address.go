package api

import (
	"net/http"
	"net/netip"
	"strings"
)

// addressOf is where a request truly comes from. Only proxies that the operator trusts are believed: each has appended to
// X-Forwarded-For who called it, so that the list is read from its end, up to the first address that is no trusted proxy.
// What a caller wrote into it stands before that and is never reached. No other header is read.
func addressOf(r *http.Request, trusted []netip.Prefix) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // a listener that is no network: a test's recorder
	}
	address := plainAddress(peer.Addr())
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && within(trusted, address); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break // a proxy that does not say who called: then it is itself the best that is known
		}
		address = plainAddress(hop)
	}
	return address
}

// plainAddress has one form for each host: no zone, and IPv4 not in IPv6's clothes.
func plainAddress(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func within(networks []netip.Prefix, a netip.Addr) bool {
	for _, network := range networks {
		if network.Contains(a) {
			return true
		}
	}
	return false
}

// network is what limits count by: the address, or for IPv6 its /64, of which a single customer has all.
func network(a netip.Addr) string {
	if a.Is6() {
		if prefix, err := a.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return a.String()
}
