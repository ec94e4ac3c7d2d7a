package failover

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
)

// An origin is the address of a server (RFC 6454), split for comparison.
type origin struct {
	scheme string // "https" or "http"
	name   string // host in lower case without trailing dot, IPv6 in brackets
	port   string // decimal, never empty
	host   string // for URL.Host: name, and port unless it is the scheme's own
}

func newOrigin(scheme, name, port string) origin {
	g := origin{scheme: scheme, name: name, port: port, host: name}
	if port != defaultPort(scheme) {
		g.host += ":" + port
	}
	return g
}

// otherForm returns g with the api label added or removed, or g itself if it is
// not a Dataverse host that has both forms.
func (g origin) otherForm() origin {
	d, ok := splitDataverse(g.name)
	if !ok || !dataverseRegions[d.region] {
		return g
	}
	d.api = !d.api
	return newOrigin(g.scheme, d.String(), g.port)
}

// loopback reports whether g cannot be reached from another machine.
func (g origin) loopback() bool {
	if ip, err := netip.ParseAddr(strings.Trim(g.name, "[]")); err == nil {
		return ip.IsLoopback()
	}
	return g.name == "localhost" || strings.HasSuffix(g.name, ".localhost")
}

// alternateMark follows the name of an organization in its alternate's.
const alternateMark = "--s"

// derive returns both origins of the pair that g is one of, or g and no alternate
// if it is not a Dataverse host.
func derive(g origin) (primary, alternate origin, err error) {
	d, ok := splitDataverse(g.name)
	if !ok {
		return g, origin{}, nil
	}
	label := strings.TrimSuffix(d.label, alternateMark)
	switch {
	case strings.HasSuffix(label, alternateMark):
		return g, g, errors.New("has an organization name that ends in --s twice; " +
			"give the alternate explicitly (Config.Alternate)")
	case len(label)+len(alternateMark) > maxLabel:
		return g, g, errors.New("has an organization name over 60 octets, which leaves no room for --s; " +
			"give the alternate explicitly (Config.Alternate)")
	}
	d.label = label
	// What is left without the mark was not seen by parseOrigin.
	if err := checkName(d.String()); err != nil {
		return g, g, err
	}
	primary = newOrigin(g.scheme, d.String(), g.port)
	d.label += alternateMark
	return primary, newOrigin(g.scheme, d.String(), g.port), nil
}

// parseOrigin parses the origin of an absolute URL. Its errors repeat nothing
// of s but the name of an organization. It does not use url.Parse, whose errors
// quote what they could not parse, a password included.
func parseOrigin(s string, allowHTTP bool) (origin, error) {
	scheme, authority, _, ok := splitURL(s)
	if !ok {
		return origin{}, schemeError(s)
	}
	if strings.Contains(authority, "@") {
		return origin{}, errors.New("contains user information; credentials belong in the requests")
	}
	name, port := splitAuthority(ascii.Lower(authority))
	if name == "" {
		return origin{}, errors.New("has no host")
	}
	if err := checkName(name); err != nil {
		return origin{}, err
	}
	if port == "" {
		port = defaultPort(scheme)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return origin{}, errors.New("has a bad port: want a number from 1 to 65535")
	}
	g := newOrigin(scheme, name, strconv.FormatUint(n, 10))
	if scheme == "http" && !allowHTTP && !g.loopback() {
		return origin{}, errors.New("is not https and would send credentials in the clear; see Config.AllowHTTP")
	}
	return g, nil
}

// schemeError says what is wrong with s, which does not begin with http:// or
// https://. It repeats s only where that is the host of an organization.
func schemeError(s string) error {
	name := strings.TrimSuffix(ascii.Lower(s), "/")
	if _, ok := splitDataverse(name); ok && checkName(name) == nil {
		return errors.New("has no scheme: write https://" + name)
	}
	if s == "" {
		return errors.New("is empty")
	}
	return errors.New("does not begin with https://")
}

const (
	maxLabel = 63  // RFC 1035, section 2.3.4
	maxName  = 253 // the same limit of 255 octets as text
)

// checkName returns why name, in lower case, cannot be the host of an endpoint,
// or nil. It lets IP addresses pass. Underscores are no part of a host name
// (RFC 1123, section 2.1) but common in names of Windows machines.
func checkName(name string) error {
	if ip, found := strings.CutPrefix(name, "["); found {
		ip, found = strings.CutSuffix(ip, "]")
		if a, err := netip.ParseAddr(ip); !found || err != nil || !a.Is6() || a.Zone() != "" {
			return errors.New("has a bad IPv6 address (zones are not supported)")
		}
		return nil
	}
	if len(name) > maxName {
		return errors.New("has a host of more than 253 octets")
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return errors.New("has a host with an empty label")
		case len(label) > maxLabel:
			return errors.New("has a host with a label over 63 octets")
		case strings.Trim(label, "-_abcdefghijklmnopqrstuvwxyz0123456789") != "":
			return errors.New("has a host with characters other than ASCII letters, digits, hyphens and dots")
		case label[0] == '-' || label[len(label)-1] == '-':
			return errors.New("has a host with a label that begins or ends with a hyphen")
		}
	}
	return checkMicrosoftName(name)
}

// splitURL splits an absolute http or https URL into its scheme, in lower case,
// its authority and the rest, which is empty or begins with "/", "?" or "#".
func splitURL(s string) (scheme, authority, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(s, "://")
	switch {
	case !ok:
		return "", "", "", false
	case ascii.EqualFold("https", scheme):
		scheme = "https"
	case ascii.EqualFold("http", scheme):
		scheme = "http"
	default:
		return "", "", "", false
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	return scheme, rest[:end], rest[end:], true
}

// splitAuthority splits "host[:port]" without judging the parts. It drops a
// trailing dot of the host and keeps the brackets of an IPv6 address.
func splitAuthority(s string) (name, port string) {
	from := 0
	if strings.HasPrefix(s, "[") {
		from = strings.IndexByte(s, ']') + 1
	}
	name = s
	if colon := strings.IndexByte(s[from:], ':'); colon >= 0 {
		name, port = s[:from+colon], s[from+colon+1:]
	}
	return strings.TrimSuffix(name, "."), port
}

// defaultPort returns the port that a URL with scheme need not name.
func defaultPort(scheme string) string {
	switch scheme {
	case "https":
		return "443"
	case "http":
		return "80"
	}
	return ""
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
