package failover

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/message"
)

// Org is the pair of endpoints of one organization.
//
// An organization of Dataverse answers under two names that differ by the
// label api: contoso.crm4.dynamics.com and contoso.api.crm4.dynamics.com. Both
// belong to the Org, and a request keeps the form it came in when it moves
// from one endpoint to the other.
//
// Make one with [ParseOrg]; the zero value is of no use. An Org is not changed
// after that and may be used concurrently.
type Org struct {
	// Primary and Alternate are the origins of the two endpoints: scheme and
	// host in lower case, the port unless it is the scheme's own, no path.
	// They are for reading: changing them does not change what belongs to the
	// organization.
	Primary, Alternate *url.URL

	// origins by variant, then by Endpoint. Variant 0 holds the addresses of
	// Primary and Alternate, variant 1 those with the other form of the name.
	// An endpoint that has one form only has it in both variants.
	origins [2][2]origin
}

// ParseOrg returns the organization that orgURL belongs to. It takes the URL
// of either endpoint of a Dataverse organization and derives the other: the
// alternate's name is the organization's name with "--s" added, so
// https://contoso.api.crm.dynamics.com and
// https://contoso--s.api.crm.dynamics.com are one pair. (Source: Microsoft,
// Developer Guide for Dynamics 365 Customer Engagement, "Disaster recovery".)
//
// A name that ends in "--s" is always taken for the alternate's. For an
// organization whose own name ends so, use [New] with Config.Alternate; its
// orgURL is the primary as it stands.
//
// Only the origin of orgURL counts: path, query and fragment are ignored, so
// the URL of a service root or of a page of the app will do. The scheme must
// be given, and be https. A trailing dot of the host is dropped.
//
// Any other host is refused, because no rule is documented that leads to its
// alternate, and a guessed host would be sent the caller's credentials. Name
// the alternate in Config.Alternate then.
//
// Errors name the host at most, never user information, path, query or
// fragment.
func ParseOrg(orgURL string) (Org, error) { return newOrg(orgURL, "", false) }

// AlternateURL returns the origin of the alternate endpoint of the
// organization that orgURL belongs to, by the rules of [ParseOrg]. The URL of
// an alternate gives that alternate.
func AlternateURL(orgURL string) (string, error) {
	o, err := ParseOrg(orgURL)
	if err != nil {
		return "", err
	}
	return o.Alternate.String(), nil
}

// newOrg is [ParseOrg] with the settings of a Config: with an alternate given,
// orgURL is the primary as it stands and both may be any host. Plain http
// needs allowHTTP or a loopback host.
func newOrg(orgURL, alternate string, allowHTTP bool) (Org, error) {
	p, err := parseOrigin(orgURL, allowHTTP)
	var a origin
	if err == nil && alternate == "" {
		p, a, err = derive(p)
	}
	err = refuse("organization URL", orgURL, err)
	if alternate != "" {
		var aerr error
		a, aerr = parseOrigin(alternate, allowHTTP)
		err = errors.Join(err, refuse("alternate URL", alternate, aerr))
	}
	if err != nil {
		return Org{}, err
	}
	o := Org{
		Primary:   &url.URL{Scheme: p.scheme, Host: p.host},
		Alternate: &url.URL{Scheme: a.scheme, Host: a.host},
		origins:   [2][2]origin{{p, a}, {p.otherForm(), a.otherForm()}},
	}
	for variant := range o.origins {
		if q := &o.origins[variant][Primary]; q.name == a.name && q.port == a.port {
			return Org{}, refuse("alternate URL", alternate, errors.New("is the same endpoint as the organization URL"))
		}
	}
	return o, nil
}

// refuse says about the URL s, which is called which, why it is refused; nil if
// err is nil. It names the host of s where that is one beyond doubt: with an @
// anywhere, what looks like the host may be a piece of a password.
func refuse(which, s string, err error) error {
	if err == nil {
		return nil
	}
	if _, authority, _, ok := splitURL(s); ok && !strings.Contains(s, "@") {
		if name, _ := splitAuthority(ascii.Lower(authority)); name != "" && checkName(name) == nil {
			which += " (" + name + ")"
		}
	}
	return fmt.Errorf("failover: %s %w", which, err)
}

// match reports whether a request to u belongs to the organization, and then
// which form of the name it uses and which endpoint it names.
//
// Scheme, host and port must be those of the pair. The port may be left out
// where it is the scheme's own; the host is compared in ASCII without regard to
// case and may end in a dot, which names the same host (RFC 1034, section 3.1)
// and which net/http accepts. The scheme is compared as it stands, as net/http
// does. A URL whose Opaque part names a host of its own does not belong: that
// name would go out whatever URL.Host says.
//
// match allocates nothing. A URL with the exact host of the primary costs two
// comparisons of strings.
func (o *Org) match(u *url.URL) (variant int, at Endpoint, ok bool) {
	if p := &o.origins[0][Primary]; u.Host == p.host && u.Scheme == p.scheme && u.Opaque == "" {
		return 0, Primary, true
	}
	if strings.HasPrefix(u.Opaque, "//") {
		return 0, Primary, false
	}
	return o.find(u.Scheme, u.Host)
}

// key returns the name of the organization: the same for all of its addresses.
func (o *Org) key() string {
	return min(o.origins[0][Primary].host, o.origins[1][Primary].host)
}

// origin returns what a request of the given variant carries in URL.Scheme and
// URL.Host (and Host) when it is sent to endpoint at.
func (o *Org) origin(variant int, at Endpoint) (scheme, host string) {
	p := &o.origins[variant][at]
	return p.scheme, p.host
}

// mapHost maps the value of a Host header, "host[:port]", to endpoint to. It
// returns the authority unchanged and false if that does not belong to the
// pair or names endpoint to already.
func (o *Org) mapHost(authority string, to Endpoint) (string, bool) {
	variant, at, ok := o.find("https", authority)
	if !ok {
		variant, at, ok = o.find("http", authority)
	}
	if !ok || at == to {
		return authority, false
	}
	return o.origins[variant][to].host, true
}

// mapURL maps an absolute http or https URL to endpoint to: scheme and
// authority are replaced, every byte after them is kept. It returns s unchanged
// and false if s is not such a URL, does not belong to the pair or names
// endpoint to already.
//
// The authority must be a host of the pair and nothing else, so a URL with user
// information, backslashes, blanks or escapes there is not mapped. Control
// characters are refused everywhere, as net/url does. Blanks and bytes beyond
// ASCII may follow the authority: the service writes alternate keys so.
func (o *Org) mapURL(s string, to Endpoint) (string, bool) {
	scheme, authority, rest, ok := splitURL(s)
	if !ok || strings.ContainsFunc(rest, isControl) {
		return s, false
	}
	variant, at, ok := o.find(scheme, authority)
	if !ok || at == to {
		return s, false
	}
	p := &o.origins[variant][to]
	return p.scheme + "://" + p.host + rest, true
}

// linkHeaders are the response headers in which the service names itself, in
// canonical form.
var linkHeaders = [...]string{
	"Content-Location",
	"Location",
	"Odata-Entityid",
	"Operation-Location",
}

// mapLinks maps every value of the link headers of h to endpoint to, in place.
// Values that [Org.mapURL] does not map and all other headers stay as they are.
func (o *Org) mapLinks(h http.Header, to Endpoint) {
	for _, key := range linkHeaders {
		for i, v := range h[key] {
			if mapped, ok := o.mapURL(v, to); ok {
				h[key][i] = mapped
			}
		}
	}
}

// finOps reports whether the primary is known to be a Finance and Operations
// environment by its name.
func (o *Org) finOps() bool { return isFinOps(o.origins[0][Primary].name) }

// find returns the place of scheme and authority in o.origins.
func (o *Org) find(scheme, authority string) (variant int, at Endpoint, ok bool) {
	name, port := splitAuthority(authority)
	if port == "" {
		port = defaultPort(scheme)
	}
	for variant := range o.origins {
		for at := range o.origins[variant] {
			p := &o.origins[variant][at]
			if p.scheme == scheme && p.port == port && ascii.EqualFold(p.name, name) {
				return variant, Endpoint(at), true
			}
		}
	}
	return 0, Primary, false
}

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
	if ip, ok := g.addr(); ok {
		return ip.IsLoopback()
	}
	return g.name == "localhost" || strings.HasSuffix(g.name, ".localhost")
}

// addr returns the IP address that g names.
func (g origin) addr() (netip.Addr, bool) {
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(g.name, "["), "]"))
	return ip, err == nil
}

// alternateMark follows the name of an organization in its alternate's.
const alternateMark = "--s"

// derive returns both origins of the pair that g is one of.
func derive(g origin) (primary, alternate origin, err error) {
	d, ok := splitDataverse(g.name)
	if !ok {
		kind := "not the host of a known Dataverse organization"
		switch _, isIP := g.addr(); {
		case isIP:
			kind = "an IP address"
		case g.loopback():
			kind = "a name of this machine"
		case isFinOps(g.name):
			kind = "a host of Finance and Operations"
		}
		return g, g, fmt.Errorf("is %s: no documented rule leads to its alternate endpoint, and a guessed host "+
			"would receive the credentials; give the alternate explicitly (Config.Alternate)", kind)
	}
	label := strings.TrimSuffix(d.label, alternateMark)
	switch {
	case strings.HasSuffix(label, alternateMark):
		return g, g, errors.New("has an organization name that ends in --s twice; " +
			"give the alternate explicitly (Config.Alternate)")
	case len(label)+len(alternateMark) > maxLabel:
		return g, g, errors.New("has an organization name over 60 octets, which leaves no room for --s")
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
	d, ok := splitDataverse(name)
	if !ok {
		return nil
	}
	switch {
	case slices.Contains(reservedLabels[:], d.label):
		return errors.New("names a service of Microsoft, not an organization")
	case strings.HasPrefix(d.label, "xn--"), strings.Contains(d.label, "_"):
		return errors.New("has an organization name with characters other than ASCII letters, digits and hyphens")
	}
	return nil
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

// finOpsSuffixes end the names of Finance and Operations environments, with
// one label or more (contoso.sandbox) before them.
//
// Source: https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/deployment/deployment-options-geo;
// for the last five public samples of Microsoft and others.
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
	".operations.int.dynamics.com", // Microsoft's integration ring
}

func isFinOps(name string) bool {
	for _, suffix := range finOpsSuffixes {
		if len(name) > len(suffix) && strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
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

// hosts maps addresses of the organization to one of its endpoints.
type hosts struct {
	org *Org
	to  Endpoint
}

func (h hosts) Other() string                   { return h.org.origins[0][h.to.other()].name }
func (h hosts) MapURL(s string) (string, bool)  { return h.org.mapURL(s, h.to) }
func (h hosts) MapHost(s string) (string, bool) { return h.org.mapHost(s, h.to) }

// rewriteBody returns the body of a request as the endpoint to expects it, see
// [message.Rewrite].
func (o *Org) rewriteBody(h http.Header, urlPath string, body []byte, to Endpoint) ([]byte, bool) {
	if !message.Mentions(body, o.origins[0][to.other()].name) {
		return body, false // nearly always
	}
	return message.Rewrite(hosts{o, to}, valueOf(h, "Content-Type"), strings.Join(h["Content-Encoding"], ","), urlPath, body)
}

func (o *Org) rewriteQuery(rawQuery string, to Endpoint) (string, bool) {
	return message.RewriteQuery(hosts{o, to}, rawQuery)
}
