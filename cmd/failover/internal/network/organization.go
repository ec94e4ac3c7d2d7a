package network

import (
	"errors"
	"net/url"
	"strings"

	"github.com/d365failover/failover"
)

// Endpoints returns the URLs of an organization's primary and alternate endpoints; the second
// is nil if there is none. The argument alternate overrides Microsoft's rule;
// [failover.NoAlternate] means that there is no alternate. Errors quote no user information,
// path or query.
func Endpoints(organization, alternate string) (primary, second *url.URL, err error) {
	if primary, err = origin(organization); err != nil {
		return nil, nil, err
	}
	switch alternate {
	case failover.NoAlternate:
		return primary, nil, nil
	case "":
		org, err := failover.ParseOrg(organization)
		return org.Primary, org.Alternate, err
	}
	second, err = origin(alternate)
	if err == nil && second.Host == primary.Host {
		err = errors.New("-alternate names the organization's own address")
	}
	return primary, second, err
}

func origin(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "":
		return nil, errors.New("the address is not a URL with a host, such as https://contoso.crm4.dynamics.com")
	case u.Scheme != "https":
		return nil, errors.New("the address must begin with https://")
	case u.User != nil:
		return nil, errors.New("the address must not contain a user name or password")
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(strings.TrimSuffix(u.Host, "."))}, nil
}

// FinanceAndOperations reports whether a host belongs to Finance and Operations, which answers
// below /data instead of /api/data.
func FinanceAndOperations(host string) bool {
	return strings.Contains(host, ".operations.") || strings.Contains(host, ".cloudax.") ||
		strings.Contains(host, ".axcloud.") || strings.Contains(host, ".sandbox.ax.")
}
