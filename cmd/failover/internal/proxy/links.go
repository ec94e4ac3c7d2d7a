package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/internal/ascii"
)

// A mapping maps origins to their replacements: the organization's to the proxy's, or the
// reverse. Origins are in the form that origin returns.
type mapping map[string]string

// origin returns the origin of scheme and authority in a canonical form: ASCII letters in lower
// case, no default port, and no trailing dot of the host. It does not fold letters that are not
// ASCII (the Kelvin sign): they belong to another host.
func origin(scheme, authority string) string {
	scheme, authority = ascii.Lower(scheme), ascii.Lower(authority)
	switch scheme {
	case "https":
		authority = strings.TrimSuffix(authority, ":443")
	case "http":
		authority = strings.TrimSuffix(authority, ":80")
	}
	return scheme + "://" + strings.TrimSuffix(authority, ".")
}

// url maps an absolute URL and does not change what follows its authority. It returns a URL of
// another origin, or with user information, unchanged and false.
func (m mapping) url(s string) (string, bool) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s, false
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	to, ok := m[origin(scheme, rest[:end])]
	if !ok {
		return s, false
	}
	return to + rest[end:], true
}

// host maps the value of a Host header.
func (m mapping) host(authority string) (string, bool) {
	for _, scheme := range []string{"https", "http"} {
		if to, ok := m[origin(scheme, authority)]; ok {
			_, host, _ := strings.Cut(to, "://")
			return host, true
		}
	}
	return authority, false
}

// linkHeaders are the headers that hold the address of a resource, in canonical form: the first
// four in responses of Dataverse, the last two in requests.
var linkHeaders = [...]string{"Content-Location", "Location", "Odata-Entityid", "Operation-Location", "Origin", "Referer"}

// headers maps the link headers of h, in place.
func (m mapping) headers(h http.Header) {
	for _, name := range linkHeaders {
		for i, value := range h[name] {
			h[name][i], _ = m.url(value)
		}
	}
}

// query maps the absolute URL of a record in the parameter $id of a raw query
// (DELETE …/$ref?$id=…). It does not change other parameters.
func (m mapping) query(raw string) string {
	if !strings.Contains(raw, "id=") {
		return raw
	}
	params := strings.Split(raw, "&")
	for i, param := range params {
		name, value, _ := strings.Cut(param, "=")
		if name != "$id" && name != "%24id" {
			continue
		}
		if plain, err := url.QueryUnescape(value); err == nil {
			if mapped, ok := m.url(plain); ok {
				params[i] = name + "=" + url.QueryEscape(mapped)
			}
		}
	}
	return strings.Join(params, "&")
}

// organization is the organization behind the proxy.
type organization struct {
	primary *url.URL // the host of requests to the Transport
	origins []string // under which it names itself
}

// newOrganization returns the organization of a Transport. A Dataverse organization names itself
// with the label api and without it.
func newOrganization(transport *failover.Transport) (organization, error) {
	status := transport.Status()
	primary, err := url.Parse(status.Primary.URL)
	if err != nil {
		return organization{}, err
	}
	o := organization{primary: primary}
	for _, own := range []string{status.Primary.URL, status.Alternate.URL} {
		if own == "" { // the organization has one address
			continue
		}
		scheme, host, _ := strings.Cut(own, "://")
		o.origins = append(o.origins, origin(scheme, host))
		label, domain, _ := strings.Cut(host, ".")
		other, hasAPI := strings.CutPrefix(domain, "api.")
		if !hasAPI {
			other = "api." + domain
		}
		twin := scheme + "://" + label + "." + other
		if rule, err := failover.ParseOrg(twin); err == nil && rule.Alternate != nil { // it is a Dataverse organization
			o.origins = append(o.origins, twin)
		}
	}
	return o, nil
}

// links maps links in responses to a caller that addresses the proxy as front.
func (o organization) links(front string) mapping {
	m := make(mapping, len(o.origins))
	for _, own := range o.origins {
		m[own] = front
	}
	return m
}

// front is how callers address the proxy.
type front struct {
	public *url.URL // besides IP addresses and localhost; may be nil
}

// origin returns the origin of the proxy that a caller names in a Host header, and whether it is
// allowed. A name that is not the proxy's may be that of a web page whose name was made to
// resolve to this machine (DNS rebinding).
func (f front) origin(host string) (string, bool) {
	if f.public != nil && ascii.Lower(host) == ascii.Lower(f.public.Host) {
		return f.public.Scheme + "://" + f.public.Host, true
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", false
	}
	ip, err := netip.ParseAddr(name)
	if err != nil && ascii.Lower(name) != "localhost" || ip.Zone() != "" {
		return "", false
	}
	return origin("http", host), true
}

// links maps links in requests to host: those to the proxy, under each of its names, become
// links to the origin to.
func (f front) links(host, to string) mapping {
	port := ""
	if p := (&url.URL{Host: host}).Port(); p != "" {
		port = ":" + p
	}
	m := make(mapping, 5)
	for _, name := range []string{"localhost", "127.0.0.1", "[::1]"} {
		m[origin("http", name+port)] = to
	}
	if own, ok := f.origin(host); ok {
		m[own] = to
	}
	if f.public != nil {
		m[origin(f.public.Scheme, f.public.Host)] = to
	}
	return m
}
