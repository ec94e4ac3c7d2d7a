package failover

import (
	"errors"
	"net/netip"
	"slices"
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

// otherForm returns g with the label api added or removed, or g itself unless it is a Dataverse
// host with both forms.
func (g origin) otherForm() origin {
	d, _ := splitDataverse(g.name)
	if !dataverseRegions[d.region] {
		return g
	}
	d.api = !d.api
	return newOrigin(g.scheme, d.String(), g.port)
}

// loopback reports whether g is a loopback address.
func (g origin) loopback() bool {
	if ip, err := netip.ParseAddr(strings.Trim(g.name, "[]")); err == nil {
		return ip.IsLoopback()
	}
	return g.name == "localhost" || strings.HasSuffix(g.name, ".localhost")
}

// alternateMark is the suffix of an organization's name in the host of its alternate.
const alternateMark = "--s"

// derive returns the primary and the alternate that g belongs to, or g and no alternate if it is
// not a Dataverse host.
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
	// parseOrigin has not seen the name without the mark.
	if err := checkName(d.String()); err != nil {
		return g, g, err
	}
	primary = newOrigin(g.scheme, d.String(), g.port)
	d.label += alternateMark
	return primary, newOrigin(g.scheme, d.String(), g.port), nil
}

// parseOrigin parses the origin of an absolute URL. Its errors quote nothing of s except the
// name of an organization. It does not use url.Parse, whose errors may quote a password.
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

// schemeError returns the error for s, which does not begin with http:// or https://. It quotes
// s only if that is the host of an organization.
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

// checkName returns why name, in lower case, cannot be the host of an endpoint, or nil. It
// accepts IP addresses. Underscores are not allowed in host names (RFC 1123, section 2.1), but
// common in names of Windows machines.
func checkName(name string) error {
	if ip, found := strings.CutPrefix(name, "["); found {
		ip, found = strings.CutSuffix(ip, "]")
		if a, _ := netip.ParseAddr(ip); !found || !a.Is6() || a.Zone() != "" {
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

// splitAuthority splits "host[:port]" without checking the parts. It drops a trailing dot of the
// host and keeps the brackets of an IPv6 address.
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

// defaultPort returns the default port of a scheme.
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

// isDataverse reports whether name, in lower case, is the host of a Dataverse organization.
func isDataverse(name string) bool {
	_, ok := splitDataverse(name)
	return ok
}

// onPremises reports whether name, in lower case, is the host of neither a Dataverse nor a Finance
// and Operations organization.
func onPremises(name string) bool { return !isDataverse(name) && !isFinOps(name) }

// checkMicrosoftName returns why name, a valid host name in lower case, is one of
// Microsoft's own and not that of an organization, or nil.
func checkMicrosoftName(name string) error {
	if _, region := dataverseRegions[name]; region || isFinOps("x."+name) && !isFinOps(name) {
		return errors.New("does not name an organization: its label is missing")
	}
	d, ok := splitDataverse(name)
	if !ok {
		return nil
	}
	switch {
	case slices.Contains(reservedLabels[:], d.label):
		return errors.New("names a service of Microsoft, not an organization")
	case isScaleGroup(d.label):
		return errors.New("names a scale group of Microsoft, which serves many organizations; use the organization's own host")
	case strings.HasPrefix(d.label, "xn--"), strings.Contains(d.label, "_"):
		return errors.New("has an organization name with characters other than ASCII letters, digits and hyphens")
	}
	return nil
}

// isScaleGroup reports whether a label is that of a scale group, SITE--GROUP, such
// as by2--namcrmlivesg741: a site, and a group that is named after the region,
// the product and the number of the group.
func isScaleGroup(label string) bool {
	site, group, _ := strings.Cut(label, "--")
	kind := strings.TrimRight(group, "0123456789")
	return site != "" && !strings.Contains(site, "-") && kind != group &&
		strings.Contains(kind, "crm") && strings.HasSuffix(kind, "sg")
}

// reservedLabels stand where an organization's name does and are services of
// Microsoft (discovery, the portal, the admin center). "api" alone is the form
// of a name that lacks the organization.
var reservedLabels = [...]string{"admin", "api", "dev", "disco", "globaldisco", "home", "port"}

// dataverseRegions tells for every region of Dataverse whether its
// organizations also have names with the label api.
//
// Sources: https://learn.microsoft.com/power-platform/admin/new-datacenter-regions
// and .../microsoft-dynamics-365-government; for the label api and the test
// rings the source of Microsoft's Dataverse ServiceClient.
var dataverseRegions = map[string]bool{
	"crm.dynamics.com":         true,  // North America
	"crm2.dynamics.com":        true,  // South America
	"crm3.dynamics.com":        true,  // Canada
	"crm4.dynamics.com":        true,  // Europe
	"crm5.dynamics.com":        true,  // Asia-Pacific
	"crm6.dynamics.com":        true,  // Oceania
	"crm7.dynamics.com":        true,  // Japan
	"crm8.dynamics.com":        true,  // India
	"crm9.dynamics.com":        true,  // US Government, GCC
	"crm10.dynamics.com":       false, // Microsoft's production test ring
	"crm11.dynamics.com":       true,  // United Kingdom
	"crm12.dynamics.com":       true,  // France
	"crm14.dynamics.com":       true,  // South Africa
	"crm15.dynamics.com":       true,  // United Arab Emirates
	"crm16.dynamics.com":       true,  // Germany
	"crm17.dynamics.com":       true,  // Switzerland
	"crm19.dynamics.com":       true,  // Norway
	"crm20.dynamics.com":       true,  // Singapore
	"crm21.dynamics.com":       true,  // Korea
	"crm22.dynamics.com":       true,  // Sweden
	"crm.appsplatform.us":      true,  // US Government, DoD
	"crm.dynamics-int.com":     false, // Microsoft's integration ring
	"crm.dynamics.cn":          true,  // China (21Vianet)
	"crm.microsoftdynamics.de": true,  // Germany, sovereign cloud (closed)
	"crm.microsoftdynamics.us": true,  // US Government, GCC High
}

// dataverseName is the name of a Dataverse host in its parts.
type dataverseName struct {
	label  string // the organization's, "--s" included
	api    bool
	region string
}

// splitDataverse splits a valid name in lower case. It is not ok if the name does
// not consist of one label, perhaps api, and a known region.
func splitDataverse(name string) (d dataverseName, ok bool) {
	d.label, d.region, _ = strings.Cut(name, ".")
	d.region, d.api = strings.CutPrefix(d.region, "api.")
	both, known := dataverseRegions[d.region]
	return d, known && (both || !d.api)
}

func (d dataverseName) String() string {
	if d.api {
		return d.label + ".api." + d.region
	}
	return d.label + "." + d.region
}

// finOpsSuffixes end the names of Finance and Operations environments, with one label or more
// (contoso.sandbox) before them.
//
// Source:
// https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/deployment/deployment-options-geo;
// for the last six public samples of Microsoft and others.
var finOpsSuffixes = [...]string{
	".operations.dynamics.com",
	".operations.ch.dynamics.com",
	".operations.eu.dynamics.com",
	".operations.fr.dynamics.com",
	".operations.no.dynamics.com",
	".operations.sa.dynamics.com",
	".operations.uae.dynamics.com",
	".operations.gov.microsoftdynamics.us",
	".operations.high.microsoftdynamics.us",
	".axcloud.dynamics.com",        // cloud-hosted development, older names
	".cloud.onebox.dynamics.com",   // development on a local machine
	".cloudax.dynamics.com",        // cloud-hosted development
	".operations.dynamics.cn",      // China (21Vianet)
	".sandbox.ax.dynamics.com",     // sandboxes, older names
	".operations.int.dynamics.com", // Microsoft's integration ring
}

func isFinOps(name string) bool {
	return slices.ContainsFunc(finOpsSuffixes[:], func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}
