package hub

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
)

// ParseProxies reads the addresses of proxies: CIDRs, or single addresses.
func ParseProxies(words []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, w := range words {
		if a, err := netip.ParseAddr(w); err == nil {
			a = a.Unmap().WithZone("")
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(w)
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a CIDR such as 10.0.0.0/8", w)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// clientAddress is the address that a request came from. Each proxy appends to X-Forwarded-For
// the address that it was called from, and anybody can send the header:
// it is read from its end, and only as long as those who wrote it are trusted.
func clientAddress(peer string, forwarded []string, trusted []netip.Prefix) string {
	at, ok := parseAddress(peer)
	if !ok {
		return peer
	}
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !within(at, trusted) {
			break
		}
		next, ok := parseAddress(strings.TrimSpace(hop))
		if !ok {
			break
		}
		at = next
	}
	return at.String()
}

// parseAddress reads an address with or without a port.
func parseAddress(s string) (netip.Addr, bool) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return a.Unmap().WithZone(""), err == nil
}

func within(a netip.Addr, ps []netip.Prefix) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
}

// address is where a request of a person or script came from.
func (a *authenticator) address(r *http.Request) string {
	return clientAddress(r.RemoteAddr, r.Header.Values("X-Forwarded-For"), a.proxies)
}

// encrypted is whether a request came over TLS, to the hub or to a proxy that is trusted.
func (a *authenticator) encrypted(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	peer, ok := parseAddress(r.RemoteAddr)
	return ok && within(peer, a.proxies) && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// remoteIP is where a request of an agent came from: no proxy stands between agents and the hub.
func remoteIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// hostname is the machine's name; empty if it has none.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// publicAddress is where others reach a listener: at the first of the hosts that are named, else at its own address,
// else, where it listens on all, at the machine's name.
func publicAddress(listener string, hosts []string, machine string) string {
	host, port, err := net.SplitHostPort(listener)
	if err != nil {
		return listener
	}
	switch ip := net.ParseIP(host); {
	case len(hosts) > 0:
		host = hosts[0]
	case machine != "" && (host == "" || ip != nil && ip.IsUnspecified()):
		host = machine
	default:
		return dialable(listener)
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// dialable replaces the address that means "all interfaces" by one that can be dialled.
func dialable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// checkAddress refuses what is not the address of a server: scheme, host and perhaps a port. Empty is none.
func checkAddress(address string, schemes ...string) (string, error) {
	if address == "" {
		return "", nil
	}
	u, err := url.Parse(strings.TrimSuffix(address, "/"))
	switch {
	case err != nil || u.Hostname() == "" || !slices.Contains(schemes, u.Scheme):
		return "", fmt.Errorf("%q is not an address such as %s://hub.example.com", address, schemes[0])
	case u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("%q has more than a scheme, a host and a port", u.Redacted())
	}
	return u.String(), nil
}
