package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// guard decides which addresses may be called. It looks at the address that
// is about to be connected to, after the name was resolved, so that a name
// that changes its address, a redirect or an unusual spelling of an address
// does not get around it.
type guard struct {
	private bool     // loopback, private networks and every port are allowed
	hosts   []string // names for which private holds, lower case
}

func newGuard(private bool, hosts []string) *guard {
	g := &guard{private: private}
	for _, h := range hosts {
		if h = strings.ToLower(strings.TrimSpace(h)); h != "" {
			g.hosts = append(g.hosts, h)
		}
	}
	return g
}

// deniedError says which address must not be called, and why.
type deniedError struct{ text string }

func (e *deniedError) Error() string { return e.text }

// hint says what widens the guard.
const hint = "set PENSTOCK_NOTIFY_ALLOW_HOSTS for this host, or PENSTOCK_NOTIFY_ALLOW_PRIVATE=1, in the worker if it is meant"

// dial connects to address, "host:port", when both are allowed.
func (g *guard) dial(ctx context.Context, network, address string, ports ...string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	inside := g.private || slices.Contains(g.hosts, strings.ToLower(strings.TrimSuffix(host, ".")))
	if !inside && !slices.Contains(ports, port) {
		return nil, &deniedError{fmt.Sprintf("port %s of %s is not one of %s; %s", port, host, strings.Join(ports, ", "), hint)}
	}
	d := &net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		return checkAddress(address, inside)
	}}
	return d.DialContext(ctx, network, address)
}

// check resolves host and reports whether all of its addresses may be called.
// It is for the libraries that connect by themselves: between this look and
// theirs the name may change, which dial does not allow.
func (g *guard) check(ctx context.Context, host string) error {
	inside := g.private || slices.Contains(g.hosts, strings.ToLower(host))
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := checkIP(a, inside); err != nil {
			return err
		}
	}
	return nil
}

func checkAddress(address string, inside bool) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return &deniedError{fmt.Sprintf("%s is not an address", address)}
	}
	return checkIP(ap.Addr(), inside)
}

// never are the addresses at which clouds keep the metadata of a machine,
// beyond the link-local ones.
var never = []netip.Prefix{
	netip.MustParsePrefix("100.100.100.200/32"),
	netip.MustParsePrefix("192.0.0.192/32"),
	netip.MustParsePrefix("168.63.129.16/32"),
	netip.MustParsePrefix("fd00:ec2::254/128"),
	netip.MustParsePrefix("fd20:ce::254/128"),
}

// reserved are the networks that are not public, beyond what netip knows.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("fec0::/10"),
}

func checkIP(ip netip.Addr, inside bool) error {
	ip = embedded(ip.WithZone(""))
	in := func(p netip.Prefix) bool { return p.Contains(ip) }
	switch {
	case ip.IsLinkLocalUnicast(), ip.IsLinkLocalMulticast(), ip.IsInterfaceLocalMulticast(), slices.ContainsFunc(never, in):
		return &deniedError{fmt.Sprintf("the address %s is link-local or one of a cloud's metadata, which is never called", ip)}
	case ip.IsMulticast(), ip.IsUnspecified() && !inside:
		return &deniedError{fmt.Sprintf("the address %s is not one of a service", ip)}
	case inside:
		return nil
	case ip.IsLoopback(), ip.IsPrivate(), slices.ContainsFunc(reserved, in):
		return &deniedError{fmt.Sprintf("the address %s is not public; %s", ip, hint)}
	}
	return nil
}

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	sixTo4 = netip.MustParsePrefix("2002::/16")
)

// embedded is the IPv4 address that an IPv6 address stands for, or ip.
func embedded(ip netip.Addr) netip.Addr {
	ip = ip.Unmap()
	b := ip.As16()
	switch {
	case nat64.Contains(ip):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case sixTo4.Contains(ip):
		return netip.AddrFrom4([4]byte(b[2:6]))
	case ip.Is6() && netip.AddrFrom16(b).Is6() && [12]byte(b[:12]) == [12]byte{} && !ip.IsLoopback() && !ip.IsUnspecified():
		return netip.AddrFrom4([4]byte(b[12:16])) // the deprecated ::a.b.c.d
	}
	return ip
}

// denied reports whether err comes from a guard.
func denied(err error) (string, bool) {
	if e, ok := errors.AsType[*deniedError](err); ok {
		return e.text, true
	}
	return "", false
}
