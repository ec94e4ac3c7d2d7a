package network

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// server starts a name server on the loopback interface, over UDP and TCP.
func server(t *testing.T, handler dns.HandlerFunc) string {
	t.Helper()
	var listener net.Listener
	var conn net.PacketConn
	for try := 1; conn == nil; try++ { // again, if somebody has the UDP port of the same number
		var err error
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		if conn, err = net.ListenPacket("udp", listener.Addr().String()); err != nil {
			require.Less(t, try, 20, "%v", err)
			conn = nil // not an interface around a nil pointer
			listener.Close()
		}
	}
	for _, s := range []*dns.Server{{Listener: listener, Handler: handler}, {PacketConn: conn, Handler: handler}} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.ActivateAndServe()
		}()
		t.Cleanup(func() {
			_ = s.Shutdown()
			listener.Close()
			conn.Close()
			<-done
		})
	}
	return listener.Addr().String()
}

func record(t *testing.T, s string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(s)
	require.NoError(t, err)
	return r
}

func TestRecords(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		records   []string
		truncated bool // over UDP
		want      Records
	}{
		{"an address", []string{"contoso.example. 30 IN A 192.0.2.1"}, false, Records{TTL: 30 * time.Second}},
		{"a chain, in any order and case", []string{"b.example. 60 IN A 192.0.2.1", "a.example. 20 IN CNAME B.example.", "Contoso.example. 300 IN CNAME a.example."},
			false, Records{Aliases: []string{"a.example", "B.example"}, TTL: 20 * time.Second}},
		{"a loop", []string{"contoso.example. 5 IN CNAME a.example.", "a.example. 5 IN CNAME contoso.example."},
			false, Records{Aliases: []string{"a.example", "contoso.example"}, TTL: 5 * time.Second}},
		{"too long for a datagram", []string{"contoso.example. 30 IN CNAME a.example."}, true, Records{Aliases: []string{"a.example"}, TTL: 30 * time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := server(t, func(w dns.ResponseWriter, question *dns.Msg) {
				answer := new(dns.Msg).SetReply(question)
				if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && tt.truncated {
					answer.Truncated = true
				} else {
					for _, s := range tt.records {
						answer.Answer = append(answer.Answer, record(t, s))
					}
				}
				_ = w.WriteMsg(answer)
			})
			n := &Network{NameServers: []string{addr}}
			r, ok := n.Records(t.Context(), "contoso.example")
			assert.True(t, ok)
			assert.Equal(t, tt.want, r)
		})
	}
}

func TestNextNameServer(t *testing.T) {
	t.Parallel()
	refuses := server(t, func(w dns.ResponseWriter, question *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(question, dns.RcodeRefused))
	})
	answers := server(t, func(w dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg).SetReply(question)
		answer.Answer = []dns.RR{record(t, "contoso.example. 30 IN A 192.0.2.1")}
		_ = w.WriteMsg(answer)
	})
	_, ok := (&Network{NameServers: []string{refuses}}).Records(t.Context(), "contoso.example")
	assert.False(t, ok)
	_, ok = (&Network{NameServers: []string{refuses, answers}}).Records(t.Context(), "contoso.example")
	assert.True(t, ok)
	_, ok = (&Network{NameServers: []string{answers}}).Records(t.Context(), "127.0.0.1")
	assert.False(t, ok, "an address is not asked for")
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	n := &Network{Lookup: func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("192.0.2.2")}, nil
	}}
	got, err := n.Addresses(t.Context(), "contoso.example")
	require.NoError(t, err)
	assert.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}, got)
}

func TestPinned(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hosts")
	require.NoError(t, os.WriteFile(path, []byte("127.0.0.1 localhost\n192.0.2.1\tcontoso.example Other.example # fabrikam.example\n# 192.0.2.1 old.example\n"), 0o600))
	n := &Network{Hosts: path}
	for host, want := range map[string]bool{"contoso.example": true, "other.EXAMPLE": true, "fabrikam.example": false, "old.example": false, "192.0.2.1": false} {
		assert.Equal(t, want, n.Pinned(host), host)
	}
	assert.False(t, (&Network{Hosts: path + "not"}).Pinned("localhost"))
	assert.False(t, new(Network).Pinned("localhost"))
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ organization, alternate, primary, second, problem string }{
		{"https://contoso.crm4.dynamics.com/main.aspx?a=b", "", "https://contoso.crm4.dynamics.com", "https://contoso--s.crm4.dynamics.com", ""},
		{"https://contoso--s.crm4.dynamics.com", "", "https://contoso.crm4.dynamics.com", "https://contoso--s.crm4.dynamics.com", ""},
		{"https://Contoso.crm4.dynamics.com", "none", "https://contoso.crm4.dynamics.com", "", ""},
		{"https://contoso.operations.dynamics.com", "", "https://contoso.operations.dynamics.com", "", ""},
		{"https://contoso.example", "https://dr.contoso.example/", "https://contoso.example", "https://dr.contoso.example", ""},
		{"https://contoso.example", "https://contoso.example", "", "", "own address"},
		{"https://contoso.example", "http://dr.contoso.example", "", "", "https://"},
		{"contoso.crm4.dynamics.com", "", "", "", "not a URL with a host"},
		{"https://clerk:hunter2@contoso.crm4.dynamics.com", "", "", "", "must not contain"},
		{"https://clerk:hunter2@bad host", "", "", "", "not a URL with a host"},
	} {
		primary, second, err := Endpoints(tt.organization, tt.alternate)
		if tt.problem != "" {
			assert.ErrorContains(t, err, tt.problem, tt.organization)
			assert.NotContains(t, err.Error(), "hunter2")
			continue
		}
		require.NoError(t, err, tt.organization)
		assert.Equal(t, tt.primary, primary.String())
		if tt.second == "" {
			assert.Nil(t, second)
		} else {
			assert.Equal(t, tt.second, second.String())
		}
	}
}
