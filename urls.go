package failover

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/message"
)

// Endpoint is one of the two addresses from which an organization can be served.
type Endpoint uint8

const (
	// Primary is the organization's own address.
	Primary Endpoint = iota
	// Alternate is its second address, if it has one, in the disaster-recovery region.
	Alternate
)

// String returns "primary" or "alternate".
func (e Endpoint) String() string {
	if e == Alternate {
		return "alternate"
	}
	return "primary"
}

// other returns the opposite endpoint.
func (e Endpoint) other() Endpoint { return e ^ 1 }

// NoAlternate is the [Config.Alternate] of an organization that has one address although
// the rule of [ParseOrg] would lead to a second.
const NoAlternate = "none"

// Org is the address, or the pair of addresses, of one organization.
//
// An organization of Dataverse answers under two names that differ by the
// label api: contoso.crm4.dynamics.com and contoso.api.crm4.dynamics.com. Both
// belong to the Org, and a request that is sent to the other endpoint keeps
// the form of its host.
//
// Use [ParseOrg] or [Transport.Org] to get one; the zero value is not usable. An Org does not
// change, and may be used concurrently.
type Org struct {
	// Primary and Alternate are the origins of the two endpoints: scheme and
	// host in lower case, the port unless it is the scheme's own, no path.
	// Alternate is nil for an organization that has one address.
	Primary, Alternate *url.URL

	// origins by variant, then by Endpoint. Variant 0 holds the addresses of
	// Primary and Alternate, variant 1 those with the other form of the name.
	// An endpoint that has one form only has it in both variants. An endpoint
	// that the organization does not have is the zero origin, which is no one's.
	origins [2][2]origin

	// root is the path under which an on-premises server serves the
	// organization, such as "/Contoso"; "" elsewhere.
	root string
	// version of the Web API that the organization's URL named, such as "v9.0",
	// "" if it named none.
	version string
}

// ParseOrg returns the organization that orgURL belongs to. It takes the URL
// of either endpoint of a Dataverse organization and derives the other: the
// alternate's name is the organization's name with "--s" added, so
// https://contoso.api.crm.dynamics.com and
// https://contoso--s.api.crm.dynamics.com are one pair. (Source: Microsoft,
// Developer Guide for Dynamics 365 Customer Engagement, "Disaster recovery", 2017. No
// later public text is known that confirms the rule or withdraws it.)
//
// A name that ends in "--s" is always taken for the alternate's. For an organization whose
// own name ends like that, use [New] with [Config.Alternate]; orgURL is then the primary.
//
// Any other host (Finance and Operations, on premises, this machine) is the only address of
// its organization, and Alternate is nil: there is no documented rule for a second one, and a
// guessed host would get the caller's credentials. If there is one, set [Config.Alternate].
//
// Only the origin of orgURL is used, so the URL of a service root or of a page of the app
// works, too. Its path is ignored, except on premises, where the first segment names the
// organization. The scheme is required and must be https (or http for a loopback host). A
// trailing dot of the host is dropped.
//
// The hosts of Microsoft's own services and scale groups (such as
// by2--namcrmlivesg741.crm.dynamics.com) are refused.
//
// Errors never quote user information, path, query or fragment.
func ParseOrg(orgURL string) (Org, error) { return newOrg(orgURL, "", false) }

// AlternateURL returns the origin of the alternate endpoint of the
// organization that orgURL belongs to, by the rules of [ParseOrg]; orgURL may be
// that of the alternate already. It is an error if the organization has only one
// address.
func AlternateURL(orgURL string) (string, error) {
	o, err := ParseOrg(orgURL)
	if err != nil {
		return "", err
	}
	if o.Alternate == nil {
		return "", refuse("organization URL", orgURL, errors.New("is not the host of a known Dataverse organization: "+
			"no documented rule leads to an alternate endpoint, and a guessed host would receive the credentials"))
	}
	return o.Alternate.String(), nil
}

// newOrg is [ParseOrg] with the settings of a Config: if alternate is set, orgURL is always the
// primary. Plain http requires allowHTTP or a loopback host.
func newOrg(orgURL, alternate string, allowHTTP bool) (Org, error) {
	p, err := parseOrigin(orgURL, allowHTTP)
	var a origin
	switch {
	case err != nil:
	case onPremises(p.name) && strings.Contains(orgURL, "@"):
		err = errors.New("contains an @ behind a host that is not Microsoft's, which may be a piece of a password; leave the user information out")
	case alternate == "":
		p, a, err = derive(p)
	}
	err = refuse("organization URL", orgURL, err)
	if alternate != "" && alternate != NoAlternate {
		var aerr error
		a, aerr = parseOrigin(alternate, allowHTTP)
		err = errors.Join(err, refuse("alternate URL", alternate, aerr))
	}
	if err != nil {
		return Org{}, err
	}
	o := Org{
		Primary: &url.URL{Scheme: p.scheme, Host: p.host},
		origins: [2][2]origin{{p}, {p.otherForm()}},
	}
	if onPremises(p.name) {
		o.root, o.version = servicePath(orgURL)
	}
	if a.host == "" {
		return o, nil
	}
	o.Alternate = &url.URL{Scheme: a.scheme, Host: a.host}
	o.origins[0][Alternate], o.origins[1][Alternate] = a, a.otherForm()
	for variant := range o.origins {
		if q := &o.origins[variant][Primary]; q.name == a.name && q.port == a.port {
			return Org{}, refuse("alternate URL", alternate, errors.New("is the same endpoint as the organization URL"))
		}
	}
	return o, nil
}

// refuse returns the error for s, the URL called which, nil if err is nil. It names the host of
// s unless s contains an @: then what looks like the host may be part of a password.
func refuse(which, s string, err error) error {
	if err == nil {
		return nil
	}
	_, authority, _, _ := splitURL(s)
	if name, _ := splitAuthority(ascii.Lower(authority)); !strings.Contains(s, "@") && checkName(name) == nil {
		which += " (" + name + ")"
	}
	return fmt.Errorf("failover: %s %w", which, err)
}

// match reports whether a request to u belongs to the organization, and which variant of the
// name and which endpoint it names.
//
// Scheme, host and port must be those of an endpoint. The default port may be omitted. The host
// is compared without regard to the case of ASCII letters, and may end in a dot (RFC 1034,
// section 3.1), as for net/http. The scheme is compared exactly, as in net/http. A URL whose
// Opaque part names a host does not belong, because net/http would send that name.
//
// match allocates nothing. A URL with the exact host of the primary costs two string
// comparisons.
func (o *Org) match(u *url.URL) (variant int, at Endpoint, ok bool) {
	if p := &o.origins[0][Primary]; u.Host == p.host && u.Scheme == p.scheme && u.Opaque == "" {
		return 0, Primary, true
	}
	if u.Opaque != "" && (u.Opaque[0] != '/' || strings.HasPrefix(u.Opaque, "//")) {
		return 0, Primary, false
	}
	return o.find(u.Scheme, u.Host)
}

// key returns the name of the organization, which is the same for all of its addresses.
func (o *Org) key() string {
	return min(o.origins[0][Primary].host, o.origins[1][Primary].host)
}

// origin returns URL.Scheme and URL.Host of a request of a variant to an endpoint.
func (o *Org) origin(variant int, at Endpoint) (scheme, host string) {
	p := &o.origins[variant][at]
	return p.scheme, p.host
}

// mapHost maps the value of a Host header, "host[:port]", to an endpoint. It returns the value
// unchanged and false if it is no address of the organization or names that endpoint already.
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

// mapURL maps an absolute http or https URL to an endpoint: it replaces scheme and authority,
// and keeps every byte after them. It returns s unchanged and false if s is no such URL, does
// not belong to the organization or names that endpoint already.
//
// The authority must be exactly a host of the organization, so a URL with user information,
// backslashes, spaces or escapes there is not mapped. Like net/url, mapURL rejects control
// characters anywhere. Spaces and non-ASCII bytes may follow the authority, because the service
// writes alternate keys with them.
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

// linkHeaders are the response headers with links to the organization, in canonical form.
var linkHeaders = [...]string{
	"Content-Location",
	"Location",
	"Odata-Entityid",
	"Operation-Location",
}

// mapLinks maps the values of linkHeaders in h to an endpoint, in place, with [Org.mapURL].
func (o *Org) mapLinks(h http.Header, to Endpoint) {
	for _, key := range linkHeaders {
		for i, v := range h[key] {
			if mapped, ok := o.mapURL(v, to); ok {
				h[key][i] = mapped
			}
		}
	}
}

// probePath returns the path of the default probe: WhoAmI of the Web API, or /data for Finance
// and Operations.
func (o *Org) probePath() string {
	switch name := o.origins[0][Primary].name; {
	case isDataverse(name):
		return "/api/data/v9.2/WhoAmI"
	case o.finOps():
		return "/data"
	default:
		return o.root + "/api/data/" + cmp.Or(o.version, onPremisesVersion) + "/WhoAmI"
	}
}

// finOps reports whether the primary's host name is that of a Finance and Operations
// environment.
func (o *Org) finOps() bool { return isFinOps(o.origins[0][Primary].name) }

// find returns the variant and the endpoint of a scheme and an authority.
func (o *Org) find(scheme, authority string) (variant int, at Endpoint, ok bool) {
	name, port := splitAuthority(authority)
	if port == "" {
		port = defaultPort(scheme)
	}
	for variant := range o.origins {
		for at := range o.origins[variant] {
			p := &o.origins[variant][at]
			if p.host != "" && p.scheme == scheme && p.port == port && ascii.EqualFold(p.name, name) {
				return variant, Endpoint(at), true
			}
		}
	}
	return 0, Primary, false
}

// onPremisesVersion is the version of the Web API that every on-premises server of version 9
// serves, and Dataverse, too.
const onPremisesVersion = "v9.1"

// servicePath returns the root path of the organization in an on-premises URL, such as
// "/Contoso" for https://crm.contoso.example/Contoso/api/data/v9.0/, and the version of the Web
// API in it. The root is "" if the first segment cannot be the name of an organization, such as
// main.aspx: an Internet-facing server has that name in its host.
func servicePath(s string) (root, version string) {
	_, _, rest, _ := splitURL(s)
	path, _, _ := strings.Cut(rest, "?")
	path, _, _ = strings.Cut(path, "#")
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if isOrganizationName(segments[0]) {
		root, segments = "/"+segments[0], segments[1:]
	}
	if len(segments) >= 3 && ascii.EqualFold("api", segments[0]) && ascii.EqualFold("data", segments[1]) && isVersion(segments[2]) {
		version = segments[2]
	}
	return root, version
}

// isOrganizationName reports whether the first segment of an on-premises path may name an
// organization rather than a service.
func isOrganizationName(s string) bool {
	if s == "" || strings.Trim(ascii.Lower(s), "-_abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return false
	}
	for _, service := range [...]string{"api", "xrmservices", "mscrmservices", "webresources"} {
		if ascii.EqualFold(service, s) {
			return false
		}
	}
	return s[0] != '_' // _static, _common
}

// isVersion reports whether s is a version of the Web API, such as v9.1.
func isVersion(s string) bool {
	digits, found := strings.CutPrefix(s, "v")
	return found && digits != "" && len(digits) <= 5 && strings.Trim(digits, ".0123456789") == ""
}

// hosts maps addresses of the organization to an endpoint, for package message.
type hosts struct {
	org *Org
	to  Endpoint
}

func (h hosts) Other() string                   { return h.org.origins[0][h.to.other()].name }
func (h hosts) MapURL(s string) (string, bool)  { return h.org.mapURL(s, h.to) }
func (h hosts) MapHost(s string) (string, bool) { return h.org.mapHost(s, h.to) }

// rewriteBody returns the body of a request with its addresses mapped to an endpoint; see
// [message.Rewrite].
func (o *Org) rewriteBody(h http.Header, urlPath string, body []byte, to Endpoint) ([]byte, bool) {
	if !message.Mentions(body, o.origins[0][to.other()].name) {
		return body, false // nearly always, and always if there is no other endpoint
	}
	contentType, _ := message.Only(h, "content-type") // "", if there are several
	encoding, ok := message.Only(h, "content-encoding")
	if !ok {
		return body, false
	}
	return message.Rewrite(hosts{o, to}, contentType, encoding, urlPath, body)
}

func (o *Org) rewriteQuery(rawQuery string, to Endpoint) (string, bool) {
	return message.RewriteQuery(hosts{o, to}, rawQuery)
}
