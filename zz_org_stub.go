package failover

import (
	"net"
	"net/url"
	"strings"
)

// Org is one organization and its two endpoints.
type Org struct{ Primary, Alternate *url.URL }

// ParseOrg derives the pair from either of its URLs.
func ParseOrg(orgURL string) (Org, error) {
	u, err := url.Parse(orgURL)
	if err != nil {
		return Org{}, err
	}
	label, domain, _ := strings.Cut(u.Host, ".")
	label = strings.TrimSuffix(label, "--s")
	return Org{
		Primary:   &url.URL{Scheme: u.Scheme, Host: label + "." + domain},
		Alternate: &url.URL{Scheme: u.Scheme, Host: label + "--s." + domain},
	}, nil
}

func (o *Org) endpoint(e Endpoint) *url.URL {
	if e == Alternate {
		return o.Alternate
	}
	return o.Primary
}

func (o *Org) mapHost(authority string, to Endpoint) (string, bool) {
	host, port := strings.ToLower(authority), ""
	if h, p, err := net.SplitHostPort(host); err == nil {
		host, port = h, ":"+p
	}
	if port != "" && port != ":443" {
		return "", false
	}
	label, domain, _ := strings.Cut(host, ".")
	from, base, _ := strings.Cut(o.endpoint(to.other()).Host, ".")
	if label != from || strings.TrimPrefix(domain, "api.") != strings.TrimPrefix(base, "api.") {
		return "", false
	}
	label, _, _ = strings.Cut(o.endpoint(to).Host, ".")
	return label + "." + domain + port, true
}

func (o *Org) mapURL(s string, to Endpoint) (string, bool) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || !strings.EqualFold(scheme, "https") {
		return "", false
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	host, ok := o.mapHost(rest[:end], to)
	if !ok {
		return "", false
	}
	return scheme + "://" + host + rest[end:], true
}
