package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestChallengesThatSignInConnectionsAreDropped(t *testing.T) {
	t.Parallel()
	type row struct {
		name, why string
		in, want  []string
	}
	rows := []row{
		{"alone", "the usual offer of IIS", []string{"Negotiate", "NTLM"}, nil},
		{"in one line", "a list", []string{"Negotiate, NTLM"}, nil},
		{"case", "schemes have none", []string{"negotiate", "ntlm", "NeGoTiAtE"}, nil},
		{"with a token", "the second step", []string{"NTLM TlRMTVNTUAACAAAA==", "Negotiate oYG2MIGzoAMKAQGh"}, nil},
		{"Bearer stays", "byte by byte", []string{"Bearer authorization_uri=https://login.example/, resource_id=https://contoso.crm.dynamics.com/"}, []string{"Bearer authorization_uri=https://login.example/, resource_id=https://contoso.crm.dynamics.com/"}},
		{"Bearer among them", "in lines", []string{"Negotiate", "Bearer realm=\"x\"", "NTLM"}, []string{"Bearer realm=\"x\""}},
		{"Bearer in the middle", "in a list", []string{"NTLM, Bearer realm=\"x, NTLM\", error=\"a\", Negotiate abc==, Basic realm=y"}, []string{"Bearer realm=\"x, NTLM\", error=\"a\", Basic realm=y"}},
		{"with parameters", "go with their challenge", []string{"Negotiate a=b, c=d, Basic realm=x, charset=UTF-8"}, []string{"Basic realm=x, charset=UTF-8"}},
		{"in a quoted string", "is none", []string{"Basic realm=\"NTLM, Negotiate\""}, []string{"Basic realm=\"NTLM, Negotiate\""}},
		{"in an escaped one", "is none", []string{"Basic realm=\"a\\\", NTLM, b\""}, []string{"Basic realm=\"a\\\", NTLM, b\""}},
		{"behind a quote that does not end", "lenient readers find it", []string{"Basic realm=\"x, NTLM"}, []string{"Basic realm=\"x"}},
		{"as a parameter", "is none", []string{"Basic realm=x, ntlm=1"}, []string{"Basic realm=x, ntlm=1"}},
		{"longer name", "another scheme", []string{"NTLMv3 a=b"}, []string{"NTLMv3 a=b"}},
		{"tab", "separates, too", []string{"NTLM\tTlRM"}, nil},
		{"odd blanks", "some trim them", []string{"\u00a0NTLM", "Basic realm=x, \fNegotiate\u0085abc"}, []string{"Basic realm=x"}},
		{"siblings", "sign in connections as well", []string{"Kerberos", "Nego2", "CredSSP"}, nil},
		{"Digest", "signs in a request", []string{"Digest realm=\"x\", nonce=\"y\""}, []string{"Digest realm=\"x\", nonce=\"y\""}},
		{"nothing", "no challenge", nil, nil},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		h := http.Header{}
		for _, v := range r.in {
			h.Add("WWW-Authenticate", v)
		}
		none := dropConnectionChallenges(h)
		assert.Equal(t, r.want, h["Www-Authenticate"], r.name)
		assert.Equal(t, r.in != nil && r.want == nil, none, r.name)
	}
}

type userKey struct{}

// windowsAuthentication answers as IIS does with it: who has signed in over a
// connection is the user of all that comes over it.
func windowsAuthentication(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	user := r.Context().Value(userKey{}).(*string)
	scheme, credentials, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case isConnectionScheme(scheme):
		*user = credentials
	case scheme == "Bearer":
		fmt.Fprintf(w, "%s by a token", credentials)
		return
	}
	if *user == "" {
		w.Header().Add("WWW-Authenticate", "Negotiate")
		w.Header().Add("WWW-Authenticate", "NTLM")
		if r.URL.Path != "/windows-only" {
			w.Header().Add("WWW-Authenticate", `Bearer realm="contoso"`)
		}
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprint(w, *user)
}

func TestNobodyIsTheUserWhoSignedInLast(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	connections := 0
	s := startHTTP1(t, func(server *httptest.Server, _ *http.Transport) {
		server.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
			mu.Lock()
			defer mu.Unlock()
			connections++
			return context.WithValue(ctx, userKey{}, new(string))
		}
	}, windowsAuthentication)
	r := s.send(t, http.MethodGet, s.root()+"WhoAmI", "")
	assert.Equal(t, http.StatusUnauthorized, r.StatusCode)
	assert.Equal(t, []string{`Bearer realm="contoso"`}, r.Header.Values("WWW-Authenticate"))
	for _, credentials := range []string{
		"NTLM adele", "Negotiate adele", "ntlm adele", "NEGOTIATE adele", "NTLM\tadele", "NTLM", "Negotiate", "Kerberos adele", "Nego2 adele", "CredSSP adele",
		"Bearer x, NTLM adele", "\u00a0NTLM adele", "Bearer \"x, NTLM adele", "NTLM,adele", "Negotiate=adele",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			r = s.send(t, method, s.root()+"WhoAmI", "", "Authorization: "+credentials)
			assert.Equal(t, http.StatusBadRequest, r.StatusCode, credentials)
			assert.Equal(t, "Failover.ConnectionCredentials", r.failure(t).Error.Code)
			assert.Contains(t, r.failure(t).Error.Message, "Bearer", "what to do")
			assert.NotContains(t, r.body, "adele")
		}
		r = s.send(t, http.MethodGet, s.root()+"WhoAmI", "")
		assert.Equal(t, http.StatusUnauthorized, r.StatusCode, "%s: the next user is nobody", credentials)
	}
	two := answersIn(t, "GET", s.raw(t, "GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer lee\r\nAuthorization: NTLM adele\r\n\r\n"))
	assert.Equal(t, http.StatusBadRequest, two[0].StatusCode)
	folded := answersIn(t, "GET", s.raw(t, "GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization:\r\n NTLM adele\r\n\r\n"))
	assert.Equal(t, http.StatusBadRequest, folded[0].StatusCode)
	r = s.send(t, http.MethodGet, s.root()+"WhoAmI", "", "Authorization: Bearer lee")
	assert.Equal(t, "lee by a token", r.body)
	r = s.send(t, http.MethodGet, s.url+"/windows-only", "")
	assert.Equal(t, http.StatusBadGateway, r.StatusCode)
	assert.Equal(t, "Failover.ConnectionCredentials", r.failure(t).Error.Code)
	assert.Empty(t, r.Header.Get("Failover-Outcome"), "nothing was carried out")
	mu.Lock()
	defer mu.Unlock()
	assert.LessOrEqual(t, connections, 3, "the requests shared connections")
}

// Without the proxy's protection, the organization of the test above does confuse users.
func TestWindowsAuthenticationSignsInConnections(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(windowsAuthentication))
	server.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, userKey{}, new(string))
	}
	server.Start()
	t.Cleanup(server.Close)
	var last bytes.Buffer
	for _, credentials := range []string{"NTLM adele", ""} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		require.NoError(t, err)
		if credentials != "" {
			req.Header.Set("Authorization", credentials)
		}
		resp, err := server.Client().Do(req)
		require.NoError(t, err)
		last.Reset()
		io.Copy(&last, resp.Body)
		resp.Body.Close()
	}
	assert.Equal(t, "adele", last.String())
}
