package network

import (
	"errors"
	"net/url"
	"strings"

	"github.com/d365failover/failover"
)

// Endpoints returns the address of an organization and that of its alternate
// endpoint, nil if it has none. An alternate that is given is taken instead of
// that of Microsoft's rule; [failover.NoAlternate] says that there is no second
// address. Errors name no user information, path or query.
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
		return nil, errors.New("the address is no URL with a host, such as https://contoso.crm4.dynamics.com")
	case u.Scheme != "https":
		return nil, errors.New("the address has to begin with https://")
	case u.User != nil:
		return nil, errors.New("the address must not hold a user or password")
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(strings.TrimSuffix(u.Host, "."))}, nil
}

// FinanceAndOperations reports whether a host is one of Finance and Operations,
// which answers below /data instead of /api/data.
func FinanceAndOperations(host string) bool {
	return strings.Contains(host, ".operations.") || strings.Contains(host, ".cloudax.") ||
		strings.Contains(host, ".axcloud.") || strings.Contains(host, ".sandbox.ax.")
}
