// Package network connects the subcommands to an organization. Tests and demonstrations
// connect them to a simulated one.
package network

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Network is how a machine reaches others. The zero value asks no name servers and uses no
// proxy. It must not be changed while it is in use.
type Network struct {
	// Dial connects to a host and port. Nil: package net does.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// DialTLS connects and performs the TLS handshake. Nil: it uses Dial and Roots.
	DialTLS func(ctx context.Context, network, addr string) (net.Conn, error)
	// Roots are the trusted certificate authorities. Nil: those of the system.
	Roots *x509.CertPool
	// Proxy returns the proxy of a request, as in [http.Transport]. Nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	// Lookup returns the addresses of a host as programs on this machine see them. Nil: the
	// system's resolver does.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// NameServers are the name servers, as host and port, to ask for aliases and times to
	// live.
	NameServers []string
	// Hosts is the path of the hosts file, which takes precedence over DNS.
	Hosts string
}

// System returns the network of this machine.
func System() *Network {
	n := &Network{Proxy: http.ProxyFromEnvironment, Hosts: "/etc/hosts"}
	if runtime.GOOS == "windows" {
		n.Hosts = filepath.Join(os.Getenv("SystemRoot"), `System32\drivers\etc\hosts`)
	}
	// Windows has no such file, so there are no aliases and times to live.
	if cfg, err := dns.ClientConfigFromFile("/etc/resolv.conf"); err == nil {
		for _, server := range cfg.Servers {
			n.NameServers = append(n.NameServers, net.JoinHostPort(server, cfg.Port))
		}
	}
	return n
}

// Transport returns a new transport with connections of its own. It speaks
// HTTP/2 where the server does.
func (n *Network) Transport() *http.Transport {
	return &http.Transport{
		Proxy:               n.Proxy,
		DialContext:         n.dial,
		DialTLSContext:      n.DialTLS,
		TLSClientConfig:     &tls.Config{RootCAs: n.Roots},
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     90 * time.Second,
	}
}

func (n *Network) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if n.Dial != nil {
		return n.Dial(ctx, network, addr)
	}
	return (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext(ctx, network, addr)
}

// ProxyFor returns the proxy of requests to endpoint, nil if there is none.
func (n *Network) ProxyFor(endpoint *url.URL) (*url.URL, error) {
	if n.Proxy == nil {
		return nil, nil
	}
	return n.Proxy(&http.Request{URL: endpoint})
}

// Addresses returns the addresses of a host in order.
func (n *Network) Addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	lookup := n.Lookup
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	addresses, err := lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	addresses = slices.Clone(addresses)
	for i, a := range addresses {
		addresses[i] = a.Unmap()
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses), nil
}

// Pinned reports whether the hosts file has an address for a host.
func (n *Network) Pinned(host string) bool {
	f, err := os.Open(n.Hosts)
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) > 1 && slices.ContainsFunc(fields[1:], func(name string) bool { return strings.EqualFold(name, host) }) {
			return true
		}
	}
	return false
}

// Records are the DNS records of a host.
type Records struct {
	// Aliases are the names to which the host is an alias, in order.
	Aliases []string
	// TTL is the shortest TTL of all records: how long a change may go unnoticed.
	TTL time.Duration
}

// Records asks the name servers in turn for the records of a host. ok is false if none of
// them answers, or if host is an IP address or localhost.
func (n *Network) Records(ctx context.Context, host string) (r Records, ok bool) {
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil || host == "localhost" {
		return r, false
	}
	for _, server := range n.NameServers {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
			answer := exchange(ctx, server, host, kind)
			if answer == nil {
				continue
			}
			ok = true
			if r.add(host, answer.Answer); kind == dns.TypeA && len(r.Aliases) == 0 && len(answer.Answer) > 0 {
				break // the other type adds nothing that is printed
			}
		}
		if ok {
			return r, true
		}
	}
	return r, false
}

// exchange asks one server, over TCP if the answer does not fit a datagram.
func exchange(ctx context.Context, server, host string, kind uint16) *dns.Msg {
	question := new(dns.Msg).SetQuestion(dns.Fqdn(host), kind)
	for _, network := range []string{"udp", "tcp"} {
		client := &dns.Client{Net: network, Timeout: 3 * time.Second}
		answer, _, err := client.ExchangeContext(ctx, question, server)
		if err != nil || answer.Rcode != dns.RcodeSuccess {
			return nil
		}
		if !answer.Truncated {
			return answer
		}
	}
	return nil
}

func (r *Records) add(host string, records []dns.RR) {
	aliases := make(map[string]string)
	for _, record := range records {
		if alias, ok := record.(*dns.CNAME); ok {
			aliases[strings.ToLower(alias.Hdr.Name)] = alias.Target
		}
		if ttl := time.Duration(record.Header().Ttl) * time.Second; r.TTL == 0 || ttl < r.TTL {
			r.TTL = ttl
		}
	}
	var chain []string
	for name := strings.ToLower(dns.Fqdn(host)); aliases[name] != "" && len(chain) < len(aliases); name = strings.ToLower(aliases[name]) {
		chain = append(chain, strings.TrimSuffix(aliases[name], "."))
	}
	if len(chain) > len(r.Aliases) {
		r.Aliases = chain
	}
}

// HostPort returns the host and port of an address.
func HostPort(u *url.URL) string { return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")) }
