package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

const orgHost = "contoso.api.crm.dynamics.com"

// site is a proxy of a simulated organization, and a caller of it.
type site struct {
	org       *failovertest.Org
	transport *failover.Transport
	servers   *servers
	url       string // of the proxy
	caller    *http.Client
}

// startSite starts both, over real sockets.
func startSite(t *testing.T) *site {
	t.Helper()
	org := failovertest.Start(nil)
	t.Cleanup(org.Close)
	s := startProxy(t, org.URL(), &failover.Config{Base: org.Transport()})
	s.org = org
	s.caller.Transport = tokens{s.caller.Transport, org.Token(orgHost)}
	return s
}

// startProxy starts a proxy of the organization at orgURL.
func startProxy(t testing.TB, orgURL string, cfg *failover.Config) *site {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.ProbeInterval, cfg.MaxProbeInterval, cfg.MinDwell = 50*time.Millisecond, 50*time.Millisecond, -1
	transport, err := failover.New(orgURL, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { transport.Close() })
	quiet := quietLog
	p, err := newProxy(transport, front{}, quiet)
	require.NoError(t, err)
	servers, err := start(quiet, service{anyPort, p}, service{anyPort, statusHandler(transport, http.NotFoundHandler(), front{})}, service{anyPort, controlHandler(transport)})
	require.NoError(t, err)
	t.Cleanup(func() { servers.stop(5 * time.Second) })
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	return &site{transport: transport, servers: servers, url: "http://" + servers.proxy.addr.String(), caller: &http.Client{Transport: base}}
}

// tokens brings a caller's own credentials.
type tokens struct {
	next  http.RoundTripper
	token string
}

func (a tokens) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+a.token)
	return a.next.RoundTrip(req)
}

// reply is an answer that was read.
type reply struct {
	*http.Response
	body string
}

// send makes a request. headers are "Name: value".
func (s *site) send(t *testing.T, method, target, body string, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	require.NoError(t, err)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := s.caller.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return reply{resp, string(text)}
}

// quietLog drops the log of servers that fail on purpose, except panics.
var quietLog = log.New(panicWatch{}, "", 0)

// panics counts the handlers that have panicked.
var panics atomic.Int32

type panicWatch struct{}

func (panicWatch) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("panic")) {
		panics.Add(1)
		os.Stderr.Write(p)
	}
	return len(p), nil
}

const asJSON = "Content-Type: application/json"

func (s *site) root() string { return s.url + "/api/data/v9.2/" }

func TestNoCallerNoticesAnOutage(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	var failures []error
	var mu sync.Mutex
	c := &callers{client: s.caller, root: s.root()}
	var done atomic.Int64
	var all sync.WaitGroup
	step := make(chan int64, 1000)
	for i := range 8 {
		job := c.list
		if i%2 == 0 {
			job = c.create
		}
		all.Go(func() {
			for range 40 {
				if err := job(t.Context()); err != nil {
					mu.Lock()
					failures = append(failures, err)
					mu.Unlock()
				}
				step <- done.Add(1)
			}
		})
	}
	go func() { all.Wait(); close(step) }()
	for n := range step {
		switch n {
		case 80:
			s.org.Disaster(failovertest.Refuse())
		case 200:
			s.org.Primary().Heal()
			s.org.FailBack()
		}
	}
	assert.Empty(t, failures)
	assert.Len(t, c.created, 160)
	for _, id := range c.created {
		_, ok := s.org.Primary().Lookup("accounts", id)
		assert.True(t, ok, "account %s is lost", id)
	}
	assert.NotZero(t, applied(s.org.Alternate()), "the alternate served")
	assert.Equal(t, 160, applied(s.org.Primary())+applied(s.org.Alternate()), "no write was carried out twice")
	assert.Len(t, s.org.Primary().Rows("accounts"), 25+160)
}

// applied returns the number of requests that changed a record.
func applied(d *failovertest.Datacenter) (n int) {
	for _, r := range d.Deliveries() {
		if r.Applied {
			n++
		}
	}
	return n
}

func TestPagesAreReadOnDuringAFailoverAndAFailBack(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	seen := make(map[string]bool)
	next, pages := s.root()+"accounts?$select=name", 0
	for next != "" {
		r := s.send(t, http.MethodGet, next, "", "Prefer: odata.maxpagesize=5")
		require.Equal(t, http.StatusOK, r.StatusCode, r.body)
		var page struct {
			Context string `json:"@odata.context"`
			Next    string `json:"@odata.nextLink"`
			Value   []struct {
				ID string `json:"accountid"`
			}
		}
		require.NoError(t, json.Unmarshal([]byte(r.body), &page))
		assert.NotContains(t, r.body, "dynamics.com")
		assert.Equal(t, s.root()+"$metadata#accounts", page.Context)
		for _, account := range page.Value {
			seen[account.ID] = true
		}
		if next = page.Next; next != "" {
			require.True(t, strings.HasPrefix(next, s.root()), next)
		}
		switch pages++; pages {
		case 1:
			s.org.Disaster(failovertest.Refuse())
		case 3:
			s.org.Primary().Heal()
			s.org.FailBack()
		}
	}
	assert.Len(t, seen, 25)
	assert.Equal(t, 5, pages)
}

func TestLinksLeadThroughTheProxyAndBack(t *testing.T) {
	t.Parallel()
	for _, at := range []failover.Endpoint{failover.Primary, failover.Alternate} {
		t.Run(at.String(), func(t *testing.T) {
			t.Parallel()
			s := startSite(t)
			if at == failover.Alternate {
				s.org.Disaster(failovertest.Refuse())
			}
			contact := s.send(t, http.MethodPost, s.root()+"contacts", `{"fullname":"Adele"}`, asJSON).Header.Get("OData-EntityId")
			require.True(t, strings.HasPrefix(contact, s.root()+"contacts("), contact)

			r := s.send(t, http.MethodPost, s.root()+"accounts", `{"name":"`+contact+`","primarycontactid@odata.bind":"`+contact+`"}`, asJSON)
			require.Equal(t, http.StatusNoContent, r.StatusCode, r.body)
			account := r.Header.Get("Location")
			require.True(t, strings.HasPrefix(account, s.root()+"accounts("), account)
			r = s.send(t, http.MethodGet, account, "")
			require.Equal(t, http.StatusOK, r.StatusCode)
			assert.Contains(t, r.body, `"name":"`+contact+`"`, "a column is kept as it was written")

			other := strings.Replace(contact, "127.0.0.1", "localhost", 1)
			r = s.send(t, http.MethodPut, account+"/primarycontactid/$ref", `{"@odata.id":"`+other+`"}`, asJSON)
			require.Equal(t, http.StatusNoContent, r.StatusCode, r.body)
			r = s.send(t, http.MethodPost, account+"/contact_customer_accounts/$ref", `{"@odata.id":"`+contact+`"}`, asJSON)
			require.Equal(t, http.StatusNoContent, r.StatusCode, r.body)
			r = s.send(t, http.MethodDelete, account+"/contact_customer_accounts/$ref?$id="+contact, "")
			require.Equal(t, http.StatusNoContent, r.StatusCode, r.body)

			s.send(t, http.MethodGet, s.root()+"WhoAmI", "") // the traffic is where it belongs
			r = s.send(t, http.MethodPatch, account, `{"description":"`+strings.Repeat("x", 2*maxHeld)+`","primarycontactid@odata.bind":"`+contact+`"}`, asJSON)
			require.Equal(t, http.StatusNoContent, r.StatusCode, "a body that is too long for the Transport to map: %s", r.body)
		})
	}
}

func TestBatchesNameTheProxy(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.org.Disaster(failovertest.Refuse())
	contact := s.send(t, http.MethodPost, s.root()+"contacts", `{"fullname":"Adele"}`, asJSON).Header.Get("OData-EntityId")
	entity := `{"name":"Contoso","primarycontactid@odata.bind":"` + contact + `"}`
	body := crlf("--b\nContent-Type: multipart/mixed;boundary=c\n\n--c\nContent-Type: application/http\nContent-ID: 1\n\n" +
		"POST " + s.root() + "accounts HTTP/1.1\nContent-Type: application/json\nContent-Length: " + fmt.Sprint(len(entity)) + "\n\n" + entity + "\n--c--\n" +
		"--b\nContent-Type: application/http\n\nGET /api/data/v9.2/accounts?$filter=name eq 'Contoso' HTTP/1.1\nHost: " + strings.TrimPrefix(s.url, "http://") + "\n\n--b--\n")
	body = strings.Replace(body, "name eq 'Contoso'", "name%20eq%20'Contoso'", 1)
	r := s.send(t, http.MethodPost, s.root()+"$batch", body, "Content-Type: multipart/mixed; boundary=b")
	require.Equal(t, http.StatusOK, r.StatusCode, r.body)
	assert.Contains(t, r.body, "HTTP/1.1 204")
	assert.Contains(t, r.body, "HTTP/1.1 200")
	assert.Contains(t, strings.ToLower(r.body), "odata-entityid: "+s.root()+"accounts(")
	assert.Contains(t, r.body, `"@odata.context":"`+s.root())
	assert.NotContains(t, r.body, "dynamics.com")
	assert.Contains(t, r.body, `"name":"Contoso"`)
}

func TestSOAPAddressesTheProxy(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.org.Disaster(failovertest.Refuse())
	const services = "http://schemas.microsoft.com/xrm/2011/Contracts/Services"
	service := s.url + "/XRMServices/2011/Organization.svc"
	r := s.send(t, http.MethodPost, service, soapHead+`<a:Action>`+services+`/IOrganizationService/Execute</a:Action><a:MessageID>urn:uuid:1</a:MessageID>`+
		`<a:To s:mustUnderstand="1">`+service+`</a:To></s:Header><s:Body><Execute xmlns="`+services+`"><request i:type="c:WhoAmIRequest" `+
		`xmlns:i="http://www.w3.org/2001/XMLSchema-instance" xmlns:c="http://schemas.microsoft.com/crm/2011/Contracts">`+
		`<a:RequestName xmlns:a="http://schemas.microsoft.com/xrm/2011/Contracts">WhoAmI</a:RequestName></request></Execute></s:Body></s:Envelope>`,
		"Content-Type: application/soap+xml; charset=utf-8")
	assert.Equal(t, http.StatusOK, r.StatusCode, r.body)
	assert.Contains(t, r.body, "OrganizationId")

	r = s.send(t, http.MethodGet, service+"?wsdl", "")
	assert.Contains(t, r.body, `location="`+service+`?wsdl=wsdl0"`)
	assert.NotContains(t, r.body, "contoso")
}

func TestHeadersOfTheWayAreNotSentOn(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	r := s.send(t, http.MethodGet, s.root()+"accounts", "",
		"X-Forwarded-For: 10.0.0.1", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: http", "X-Forwarded-Port: 80", "Forwarded: for=10.0.0.1",
		"Via: 1.1 somewhere", "X-Real-Ip: 10.0.0.1", "X-Original-Url: /evil", "Connection: keep-alive, X-Mine", "X-Mine: 1", "Keep-Alive: timeout=5",
		"Proxy-Authorization: Basic c2VjcmV0", "Proxy-Connection: keep-alive", "Te: trailers", "Upgrade: h2c", "Referer: "+s.url+"/main.aspx",
		"Accept-Encoding: br", "MSCRMCallerID: 1", "Prefer: odata.include-annotations=*", "X-Ms-Client-Request-Id: 7", "User-Agent: python-requests/2.32")
	require.Equal(t, http.StatusOK, r.StatusCode, r.body)
	sent := s.org.Primary().Deliveries()
	require.Len(t, sent, 1)
	assert.Equal(t, orgHost, sent[0].Host)
	assert.Equal(t, "https://"+orgHost, sent[0].Audience, "the caller's token")
	sent[0].Header.Del("Te") // "trailers" is true of the proxy as well
	assert.Equal(t, http.Header{
		"Accept-Encoding":        {"gzip"}, // net/http's, which also undoes it
		"Mscrmcallerid":          {"1"},
		"Prefer":                 {"odata.include-annotations=*"},
		"Referer":                {"https://" + orgHost + "/main.aspx"},
		"User-Agent":             {"python-requests/2.32"},
		"X-Ms-Client-Request-Id": {"7"},
	}, sent[0].Header)
}

func TestNobodyReachesOtherHosts(t *testing.T) {
	t.Parallel()
	type row struct {
		name, why, request string
		status             int
	}
	rows := []row{
		{"tunnel", "CONNECT is for forward proxies", "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", 400},
		{"tunnel with our host", "the target counts", "CONNECT example.com:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400},
		{"absolute form", "is for forward proxies", "GET http://example.com/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400},
		{"absolute form of ours", "the same, and there is no reason to", "GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400},
		{"absolute form of the organization", "a forward proxy's, over plain HTTP", "GET http://" + orgHost + "/ HTTP/1.1\r\nHost: " + orgHost + "\r\n\r\n", 400},
		{"another scheme", "no path either", "GET file:///etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400},
		{"asterisk", "is about the server, which is the proxy", "OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400},
		{"another host", "DNS rebinding", "GET /api/data/v9.2/WhoAmI HTTP/1.1\r\nHost: attacker.example\r\n\r\n", 421},
		{"the organization's host", "leads here by mistake only", "GET /api/data/v9.2/WhoAmI HTTP/1.1\r\nHost: " + orgHost + "\r\n\r\n", 421},
		{"no host", "HTTP/1.0", "GET /api/data/v9.2/WhoAmI HTTP/1.0\r\n\r\n", 421},
		{"two hosts", "malformed", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: attacker.example\r\n\r\n", 400},
		{"host in the path", "is a path of the organization", "GET //attacker.example/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404},
		{"user in the path", "the same", "GET /@attacker.example/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404},
		{"status page", "is elsewhere", "GET /-/failover HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404},
		{"length and chunks", "request smuggling", "POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	s := startSite(t)
	for _, r := range rows {
		conn, err := net.Dial("tcp", s.servers.proxy.addr.String())
		require.NoError(t, err)
		_, err = io.WriteString(conn, r.request)
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err, r.name)
		assert.Equal(t, r.status, resp.StatusCode, r.name)
		conn.Close()
	}
	for _, d := range s.org.Primary().Deliveries() {
		assert.Equal(t, orgHost, d.Host)
		assert.Contains(t, []string{"//attacker.example/x", "/@attacker.example/x", "/-/failover"}, d.Path)
	}
}

func TestStatusAndReadiness(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	admin := "http://" + s.servers.admin.addr.String()
	r := s.send(t, http.MethodGet, admin+"/-/ready", "")
	assert.Equal(t, http.StatusOK, r.StatusCode)
	r = s.send(t, http.MethodGet, admin+"/-/failover?format=json", "")
	assert.Contains(t, r.body, `"situation": "healthy"`)
	assert.Equal(t, http.StatusNotFound, s.send(t, http.MethodGet, admin+"/api/data/v9.2/accounts", "").StatusCode)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, admin+"/-/failover", nil)
	require.NoError(t, err)
	req.Host = "attacker.example"
	resp, err := s.caller.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, http.StatusMisdirectedRequest, resp.StatusCode, "DNS rebinding")
}

func TestConditionsAndErrorsOfTheOrganizationPass(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	record := s.root() + "accounts(" + failovertest.SeedID(1) + ")"
	etag := s.send(t, http.MethodGet, record, "").Header.Get("ETag")
	require.NotEmpty(t, etag)
	assert.Equal(t, http.StatusNotModified, s.send(t, http.MethodGet, record, "", "If-None-Match: "+etag).StatusCode)
	assert.Equal(t, http.StatusNoContent, s.send(t, http.MethodPatch, record, `{"name":"b"}`, asJSON, "If-Match: "+etag).StatusCode)
	assert.Equal(t, http.StatusPreconditionFailed, s.send(t, http.MethodPatch, record, `{"name":"b"}`, asJSON, "If-Match: "+etag).StatusCode)
	assert.Equal(t, http.StatusNotFound, s.send(t, http.MethodGet, s.root()+"accounts("+newID()+")", "").StatusCode)
	head := s.send(t, http.MethodHead, record, "")
	assert.Empty(t, head.body)
	s.caller.Transport = s.caller.Transport.(tokens).next
	denied := s.send(t, http.MethodGet, record, "")
	assert.Equal(t, http.StatusUnauthorized, denied.StatusCode, "the proxy has no credentials of its own")
	assert.Contains(t, denied.Header.Get("WWW-Authenticate"), "resource_id=https://contoso.crm.dynamics.com/")
}

func TestSmallBodiesKeepALength(t *testing.T) {
	t.Parallel()
	m := front{}.links("localhost:8365", "https://contoso.crm4.dynamics.com")
	const mapped = `{"@odata.id":"https://contoso.crm4.dynamics.com/a"}`
	for _, length := range []int64{int64(len(`{"@odata.id":"http://localhost:8365/a"}`)), -1} {
		r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "/x", strings.NewReader(`{"@odata.id":"http://localhost:8365/a"}`))
		require.NoError(t, err)
		r.ContentLength, r.GetBody = length, nil
		r.Header.Set("Content-Type", "application/json")
		require.NoError(t, mapBody(r, m))
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		assert.Equal(t, mapped, string(body))
		if length < 0 {
			assert.Equal(t, int64(-1), r.ContentLength)
			continue
		}
		assert.Equal(t, int64(len(mapped)), r.ContentLength)
		assert.Nil(t, r.GetBody, "net/http repeats a write that has one, for reasons of its own")
	}
}
