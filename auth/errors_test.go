package auth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/auth"
)

// The tokens that no text may hold: a JSON Web Token, and one that is not.
const (
	webToken    = "eyJhbGciOiJub25lIn0.eyJhdWQiOiJjb250b3NvIn0.c2ln"
	opaqueToken = "0.hunter2-Opaque~Token"
)

// answering makes every token request of w get an answer, over a real socket.
func (w world) answering(t *testing.T, handler http.HandlerFunc) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	target, err := url.Parse(server.URL)
	require.NoError(t, err)
	client := w.service.Client()
	next := client.Transport
	client.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodPost {
			req = req.Clone(req.Context())
			req.URL.Scheme, req.URL.Host, req.Host = target.Scheme, target.Host, ""
		}
		return next.RoundTrip(req)
	})
}

func TestNoTokenIsInTheTextOfAnError(t *testing.T) {
	t.Parallel()
	type row struct{ name, why, kind, body string }
	rows := []row{
		{"breaks off in the token", "the rest of the answer is lost", "application/json", `{"token_type":"Bearer","expires_in":3600,"access_token":"{T}`},
		{"breaks off behind it", "the token is whole", "application/json", `{"access_token":"{T}","expires_in":36`},
		{"lifetime is a token", "a field of the wrong type", "application/json", `{"token_type":"Bearer","access_token":"x","expires_in":"{T}"}`},
		{"lifetime is an object", "the same", "application/json", `{"access_token":"{T}","expires_in":{"a":"{T}"}}`},
		{"token is an object", "the same", "application/json", `{"token_type":"Bearer","expires_in":3600,"access_token":{"value":"{T}"}}`},
		{"token is a list", "the same", "application/json", `{"token_type":"Bearer","expires_in":3600,"access_token":["{T}"]}`},
		{"scope is a list", "the same", "application/json", `{"token_type":"Bearer","access_token":"{T}","scope":["{T}"],"refresh_in":"{T}","expires_in":[]}`},
		{"an array", "no object", "application/json", `["{T}"]`},
		{"two answers", "rubbish behind it", "application/json", `{"access_token":"{T}","expires_in":"x"}{"access_token":"{T}"}`},
		{"error is an object", "a code of the wrong type", "application/json", `{"error":{"access_token":"{T}"},"access_token":"{T}","expires_in":"x"}`},
		{"error is the token", "a code that is none", "application/json", `{"error":"{T}","error_description":"access_token {T}"}`},
		{"a form", "some services answer in this form", "application/x-www-form-urlencoded", `access_token={T}&a=%zz;`},
		{"a page", "a captive portal", "text/html", `<html>access_token={T}</html>`},
		{"nothing", "an empty answer", "application/json", ``},
	}
	seen := make(map[string]bool)
	for _, r := range rows {
		require.False(t, seen[r.name], r.name)
		require.NotEmpty(t, r.why, r.name)
		seen[r.name] = true
		for _, status := range []int{200, 400, 500} {
			for _, token := range []string{webToken, opaqueToken} {
				for _, name := range []string{"azidentity", "oauth2"} {
					t.Run(fmt.Sprint(r.name, status, name, len(token)), func(t *testing.T) {
						t.Parallel()
						w := newWorld(t)
						w.answering(t, func(rw http.ResponseWriter, _ *http.Request) {
							rw.Header().Set("Content-Type", r.kind)
							rw.WriteHeader(status)
							io.WriteString(rw, strings.ReplaceAll(r.body, "{T}", token))
						})
						w.assertNoToken(t, w.sources()[name], token)
					})
				}
			}
		}
	}
}

// assertNoToken requests tokens from a source that fails, and asserts that no text contains
// token.
func (w world) assertNoToken(t *testing.T, source auth.Source, token string) {
	t.Helper()
	tokens := newTokens(t, auth.Config{Source: source})
	texts := []string{}
	note := func(err error) {
		require.Error(t, err)
		texts = append(texts, err.Error(), fmt.Sprintf("%v %+v %s %q", err, err, err, err))
	}
	note(tokens.Warm(t.Context()))
	note(tokens.Authorize(get(t.Context(), primary)))
	note(tokens.State(failover.Primary).Err)
	client, transport := w.client(t, tokens, failover.Config{})
	_, err := client.Get(orgURL + accounts)
	note(err)
	note(transport.Switch(t.Context(), failover.Alternate, "drill"))
	page := httptest.NewRecorder()
	transport.StatusHandler().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/?format=json", nil))
	texts = append(texts, page.Body.String(), fmt.Sprintf("%+v", transport.Status()))
	for _, text := range texts {
		for _, secret := range []string{token, token[4:12], url.QueryEscape(token)} {
			assert.NotContains(t, text, secret)
		}
	}
}

func TestAnAnswerWhoseConnectionBreaksIsNotQuoted(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"azidentity", "oauth2"} {
		for _, answer := range []string{
			"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n" + `{"access_token":"` + webToken,
			"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + webToken + "\r\n",
			`{"access_token":"` + webToken + `"}` + "\r\n\r\n",                  // no HTTP at all
			"HTTP/1.1 " + webToken + "\r\n\r\n",                                 // a token for a status
			"HTTP/1.1 200 OK\r\n" + webToken + "\r\n\r\n",                       // a header line without a name
			"HTTP/1.1 200 OK\r\nContent-Length: " + webToken + "\r\n\r\n",       // or without sense
			"HTTP/1.1 302 Found\r\nLocation: https://%" + webToken + "\r\n\r\n", // or without a host
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.answering(t, func(rw http.ResponseWriter, _ *http.Request) {
					conn, _, err := rw.(http.Hijacker).Hijack()
					if err == nil {
						io.WriteString(conn, answer)
						conn.Close()
					}
				})
				w.assertNoToken(t, w.sources()[name], webToken)
			})
		}
	}
}

func TestErrorsSayWhatIsSafeToSay(t *testing.T) {
	t.Parallel()
	type row struct {
		name string
		err  error
		want string
	}
	rows := []row{
		{"text", errors.New("access denied for " + opaqueToken), "an error of type *errors.errorString"},
		{"text behind others", fmt.Errorf("credential: %w", errors.New(webToken)), "an error of type *fmt.wrapError"},
		{"refused, as a text", errors.New(`Post "https://login.example/?` + opaqueToken + `": dial tcp: connection refused`), "an error of type *errors.errorString: connection refused"},
		{"dial", &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}, "dial tcp: connection refused"},
		{"name", &url.Error{Op: "Post", URL: "https://login.example/?" + opaqueToken, Err: &net.DNSError{Err: "no such host", Name: "login.example"}}, "lookup login.example: no such host"},
		{"file", fmt.Errorf("workload identity: %w", &fs.PathError{Op: "open", Path: "/var/run/token", Err: fs.ErrNotExist}), "open /var/run/token: file does not exist"},
		{"file named like a token", &fs.PathError{Op: "open", Path: "/" + webToken, Err: fs.ErrNotExist}, "open /[redacted] file does not exist"},
		{"field in an error of the network", &net.OpError{Op: "read", Net: "tcp", Err: errors.New(`{"access_token":"` + opaqueToken)}, `read tcp: {"[redacted]`},
		{"time", context.DeadlineExceeded, "context deadline exceeded"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			tokens := newTokens(t, auth.Config{Source: func(context.Context, string) (azcore.AccessToken, error) { return azcore.AccessToken{}, r.err }})
			err := tokens.Authorize(get(t.Context(), primary))
			assert.EqualError(t, err, "auth: no token for https://contoso.crm.dynamics.com: "+r.want)
			assert.ErrorIs(t, err, r.err)
		})
	}
}

func TestAHostThatOnlyLooksLikeOursGetsNoToken(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, auth.Config{Organization: "https://crm.kimico.example", Alternate: "https://crm-s.kimico.example", Source: (&source{life: time.Hour}).get})
	require.NoError(t, tokens.Authorize(get(t.Context(), "https://CRM.KIMICO.example./x")))
	require.NoError(t, tokens.Authorize(get(t.Context(), "https://crm.kimico.example:443/x")))
	type row struct{ why, host string }
	for _, r := range []row{
		{"a dotted capital I", "crm.kİmico.example"},
		{"a dotless i", "crm.kımico.example"},
		{"the Kelvin sign", "crm.\u212aimico.example"},
		{"a long s", "crm-ſ.kimico.example"},
		{"fullwidth letters", "crm.ｋimico.example"},
		{"a Cyrillic letter", "сrm.kimico.example"},
		{"an ideographic full stop", "crm。kimico.example"},
		{"a fullwidth full stop", "crm．kimico.example"},
		{"a soft hyphen", "crm.ki\u00admico.example"},
		{"a joiner", "crm.ki\u200dmico.example"},
		{"a ligature", "crm.kimico.exampl\ufb01"},
		{"its punycode", "crm.xn--kmico-yj7c.example"},
		{"two dots at the end", "crm.kimico.example.."},
		{"a dot in front", ".crm.kimico.example"},
		{"an empty label", "crm..kimico.example"},
		{"another port", "crm.kimico.example:8443"},
		{"a port with a zero", "crm.kimico.example:0443"},
		{"the port of http", "crm.kimico.example:80"},
		{"two ports", "crm.kimico.example:443:8443"},
		{"user information in the host", "crm.kimico.example@evil.example"},
		{"a port and user information", "crm.kimico.example:443@evil.example"},
		{"a path in the host", "crm.kimico.example/.evil.example"},
		{"an escaped dot", "crm%2ekimico.example"},
		{"a null byte", "crm.kimico.example\x00.evil.example"},
		{"a blank", "crm.kimico.example "},
		{"a subdomain", "x.crm.kimico.example"},
		{"a parent", "kimico.example"},
		{"a stranger's domain", "crm.kimico.example.evil.example"},
		{"none", ""},
	} {
		req := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: r.host, Path: "/"}, Header: http.Header{}}
		assert.Error(t, tokens.Authorize(req), r.why)
		assert.Empty(t, req.Header, r.why)
	}
	for _, scheme := range []string{"http", "ftp", "", "httpſ", "wss"} {
		req := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: scheme, Host: "crm.kimico.example"}, Header: http.Header{}}
		assert.Error(t, tokens.Authorize(req), scheme)
	}
}

func TestAnOrganizationWithTheLabelAPIHasNoOtherLabels(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, auth.Config{Source: (&source{life: time.Hour}).get})
	for _, host := range []string{
		"contoso.API.crm.dynamics.com", "contoso.crm.dynamics.com.", "contoso--s.api.crm.dynamics.com:443",
	} {
		assert.NoError(t, tokens.Authorize(get(t.Context(), "https://"+host+"/")), host)
	}
	for _, host := range []string{
		"contoso.api.api.crm.dynamics.com", "contoso.apı.crm.dynamics.com", "contoſo.crm.dynamics.com", "contoso.crm.dynamicſ.com",
		"api.contoso.crm.dynamics.com", "contoso.apis.crm.dynamics.com", "contoso--S.crm.dynamics.com.evil.example",
	} {
		req := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: host}, Header: http.Header{}}
		assert.Error(t, tokens.Authorize(req), host)
	}
}

func TestAnOrganizationWithOneAddressHasOneToken(t *testing.T) {
	t.Parallel()
	for organization, alternate := range map[string]string{
		"https://contoso.operations.dynamics.com": "",
		"https://contoso.crm4.dynamics.com":       failover.NoAlternate,
		"https://crm.contoso.example":             "",
	} {
		tokens := newTokens(t, auth.Config{Organization: organization, Alternate: alternate, Source: (&source{life: time.Hour}).get})
		require.NoError(t, tokens.Warm(t.Context()))
		assert.NoError(t, tokens.Authorize(get(t.Context(), organization)))
		assert.Equal(t, organization, tokens.State(failover.Alternate).Audience)
		assert.Error(t, tokens.Authorize(get(t.Context(), "https://contoso--s.crm4.dynamics.com")))
		cfg := tokens.Configure(failover.Config{Alternate: alternate, Logger: quiet})
		transport, err := failover.New(organization, &cfg)
		require.NoError(t, err)
		transport.Close()
	}
}
