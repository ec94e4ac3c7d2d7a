package failover_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

const soapService = "/XRMServices/2011/Organization.svc"

// soap12 returns a SOAP 1.2 message as a .NET-like client sends it: addressed
// to the organization's own URL.
func soap12(operation, content string) string {
	const services = "http://schemas.microsoft.com/xrm/2011/Contracts/Services"
	return `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://www.w3.org/2005/08/addressing"><s:Header>` +
		`<a:Action s:mustUnderstand="1">` + services + `/IOrganizationService/` + operation + `</a:Action>` +
		`<a:To s:mustUnderstand="1">` + orgURL + soapService + `</a:To></s:Header>` +
		`<s:Body><` + operation + ` xmlns="` + services + `" xmlns:i="http://www.w3.org/2001/XMLSchema-instance"` +
		` xmlns:x="http://schemas.microsoft.com/xrm/2011/Contracts" xmlns:b="http://schemas.datacontract.org/2004/07/System.Collections.Generic"` +
		` xmlns:c="http://schemas.microsoft.com/crm/2011/Contracts">` + content + `</` + operation + `></s:Body></s:Envelope>`
}

var soapWhoAmI = soap12("Execute", `<request i:type="c:WhoAmIRequest"><x:Parameters/><x:RequestId i:nil="true"/><x:RequestName>WhoAmI</x:RequestName></request>`)

var soapCreate = soap12("Create", `<entity><x:Attributes><x:KeyValuePairOfstringanyType><b:key>name</b:key>`+
	`<b:value i:type="d:string" xmlns:d="http://www.w3.org/2001/XMLSchema">see `+orgURL+`/notes</b:value></x:KeyValuePairOfstringanyType></x:Attributes>`+
	`<x:EntityState i:nil="true"/><x:FormattedValues/><x:Id>00000000-0000-0000-0000-000000000000</x:Id><x:LogicalName>account</x:LogicalName><x:RelatedEntities/></entity>`)

// send posts a body of any type and returns the status and the answer.
func (s *story) send(method, path, contentType, body string, header ...string) (int, string) {
	s.Helper()
	req, err := http.NewRequest(method, s.org.URL()+path, strings.NewReader(body))
	require.NoError(s, err)
	req.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.client.Do(req)
	require.NoError(s, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(s, err)
	return resp.StatusCode, string(answer)
}

// everywhere runs a check at home, failed over, and back at home.
func everywhere(t *testing.T, check func(s *story, where string)) {
	tell(t, failover.Config{}, func(s *story) {
		check(s, "at home")
		s.org.FailOver()
		check(s, "failed over")
		require.Equal(s, failover.Alternate, s.active())
		s.org.FailBack()
		check(s, "back at home")
		require.Equal(s, failover.Primary, s.active())
	})
}

// Organization.svc refuses a message that is not addressed to it, as WCF does.
func TestSOAPCallsWorkOnEitherSide(t *testing.T) {
	everywhere(t, func(s *story, where string) {
		status, answer := s.send("POST", soapService, "application/soap+xml; charset=utf-8", soapWhoAmI)
		require.Equal(s, 200, status, "%s: %s", where, answer)
		assert.Contains(s, answer, "OrganizationId", where)
		status, answer = s.send("POST", soapService, "application/soap+xml; charset=utf-8", soapCreate)
		require.Equal(s, 200, status, "%s: %s", where, answer)
		assert.Contains(s, answer, "CreateResult", where)
	})
}

func TestSOAPWithoutAddressingWorksOnEitherSide(t *testing.T) {
	everywhere(t, func(s *story, where string) {
		envelope := strings.ReplaceAll(soapWhoAmI, "http://www.w3.org/2003/05/soap-envelope", "http://schemas.xmlsoap.org/soap/envelope/")
		start, end := strings.Index(envelope, "<s:Header>"), strings.Index(envelope, "<s:Body>")
		status, answer := s.send("POST", soapService+"/web", "text/xml; charset=utf-8", envelope[:start]+envelope[end:],
			"SOAPAction", `"http://schemas.microsoft.com/xrm/2011/Contracts/Services/IOrganizationService/Execute"`)
		require.Equal(s, 200, status, "%s: %s", where, answer)
		assert.Contains(s, answer, "OrganizationId", where)
	})
}

// A SOAP read is repeated after an unknown outcome, a SOAP write never.
func TestSOAPInDoubt(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Primary().FailNext(1, failovertest.Reset(failovertest.BeforeAnswer))
		status, _ := s.send("POST", soapService, "application/soap+xml; charset=utf-8", soapWhoAmI)
		assert.Equal(s, 200, status)
		assert.Equal(s, 2, deliveries(s.org.Primary(), "POST"))

		s.org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
		req, err := http.NewRequest("POST", s.org.URL()+soapService, strings.NewReader(soapCreate))
		require.NoError(s, err)
		req.Header.Set("Content-Type", "application/soap+xml; charset=utf-8")
		_, err = s.client.Do(req)
		require.ErrorIs(s, err, failover.ErrOutcomeUnknown)
		assert.Equal(s, 3, deliveries(s.org.Primary(), "POST"))
	})
}

// The service refuses a batch part that is addressed to another host.
func TestBatchesWorkOnEitherSide(t *testing.T) {
	const host = "contoso.api.crm.dynamics.com"
	forms := map[string]string{
		"absolute URL":           "GET " + orgURL + accounts + "?$top=1 HTTP/1.1\r\nAccept: application/json\r\n\r\n",
		"absolute path and Host": "GET " + accounts + "?$top=1 HTTP/1.1\r\nHost: " + host + "\r\nAccept: application/json\r\n\r\n",
		"relative":               "GET accounts?$top=1 HTTP/1.1\r\nAccept: application/json\r\n\r\n",
	}
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(s *story, where string) {
				s.get(accounts) // moves the traffic: a batch is not repeated on the word of a fence
				write := strings.Replace(form, "GET ", "POST ", 1)
				write = strings.Replace(write, "?$top=1", "", 1)
				write = strings.Replace(write, "Accept: application/json\r\n\r\n", "Content-Type: application/json\r\n\r\n", 1) +
					`{"name":"see ` + orgURL + `/notes"}`
				body := "--b\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n" + form + "\r\n" +
					"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n" +
					"--c\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: 1\r\n\r\n" + write + "\r\n--c--\r\n--b--\r\n"
				status, answer := s.send("POST", "/api/data/v9.2/$batch", "multipart/mixed; boundary=b", body)
				require.Equal(s, 200, status, "%s: %s", where, answer)
				assert.Equal(s, 1, strings.Count(answer, "HTTP/1.1 200"), "%s: %s", where, answer)
				assert.Equal(s, 1, strings.Count(answer, "HTTP/1.1 204"), "%s: %s", where, answer)
			})
		})
	}
}

// The service refuses a binding to a record of another host.
func TestBindingsWorkOnEitherSide(t *testing.T) {
	for _, stored := range []string{orgURL, "https://contoso--s.api.crm.dynamics.com"} {
		t.Run(stored, func(t *testing.T) {
			everywhere(t, func(s *story, where string) {
				link := fmt.Sprintf("%s%s(%s)", stored, accounts, failovertest.SeedID(1))
				status, answer := s.send("POST", "/api/data/v9.2/contacts", "application/json",
					`{"lastname":"Contoso","description":"`+link+`","parentcustomerid_account@odata.bind":"`+link+`"}`, "Prefer", "return=representation")
				require.Equal(s, 201, status, "%s: %s", where, answer)
				assert.Contains(s, answer, `"description":"`+link+`"`, "column values are the caller's: %s", where)
			})
		})
	}
}

func TestAReferenceIsRemovedOnEitherSide(t *testing.T) {
	everywhere(t, func(s *story, where string) {
		record := fmt.Sprintf("%s(%s)", accounts, failovertest.SeedID(1))
		contact := fmt.Sprintf("%s/api/data/v9.2/contacts(%s)", orgURL, failovertest.SeedID(7))
		status, answer := s.send("PATCH", strings.TrimPrefix(contact, orgURL), "application/json", `{"lastname":"Contoso"}`)
		require.Equal(s, 204, status, "%s: %s", where, answer)
		status, answer = s.send("POST", record+"/contact_customer_accounts/$ref", "application/json", `{"@odata.id":"`+contact+`"}`)
		require.Equal(s, 204, status, "%s: %s", where, answer)
		status, answer = s.send("DELETE", record+"/contact_customer_accounts/$ref?$id="+contact, "application/json", "")
		require.Equal(s, 204, status, "%s: %s", where, answer)
	})
}

// A body that has to change is sent with the length it then has, and can be had
// again by Base.
func TestAMappedBodyIsWhole(t *testing.T) {
	t.Parallel()
	link := orgURL + accounts + "(1)"
	body := `{"parentaccountid@odata.bind":"` + link + `"}`
	want := strings.Replace(body, "contoso.", "contoso--s.", 1)
	for _, getBody := range []bool{true, false} {
		var lengths []int64
		base := &script{probe: onlyAlternateServes, answers: answers(fence, func(req *http.Request) (*http.Response, error) {
			lengths = append(lengths, req.ContentLength)
			again, err := req.GetBody()
			require.NoError(t, err)
			content, err := io.ReadAll(again)
			require.NoError(t, err)
			assert.Equal(t, want, string(content))
			return answer(204, "")(req)
		})}
		transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer transport.Close()
		req, err := http.NewRequestWithContext(failover.WithReplay(t.Context()), http.MethodPost, orgURL+accounts, bytes.NewReader([]byte(body)))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		if !getBody {
			req.GetBody = nil
		}
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		assert.Equal(t, 204, resp.StatusCode)
		require.Len(t, base.sent, 2)
		assert.Equal(t, body, base.sent[0].body)
		assert.Equal(t, want, base.sent[1].body)
		assert.Equal(t, []int64{int64(len(want))}, lengths)
	}
}

// received is a request as a server sees it.
type received struct {
	Method, Path, Body string
	Length             int64
	Encoding           []string
	Header, Trailer    http.Header
}

// Whatever the kind of body, a server sees the request that a bare
// http.Transport would have sent.
func TestRequestsLookAsNetHTTPSendsThem(t *testing.T) {
	t.Parallel()
	var last received
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		last = received{r.Method, r.RequestURI, string(body), r.ContentLength, r.TransferEncoding, r.Header, r.Trailer}
	}))
	defer server.Close()
	large := strings.Repeat("contoso ", 1000)
	stream := func(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} }
	kinds := map[string]func() (*http.Request, error){
		"GET":              func() (*http.Request, error) { return http.NewRequest("GET", server.URL+"/a%2Fb?x=%20&y", nil) },
		"GET with a body":  func() (*http.Request, error) { return http.NewRequest("GET", server.URL, strings.NewReader("{}")) },
		"POST, GetBody":    func() (*http.Request, error) { return http.NewRequest("POST", server.URL, strings.NewReader("{}")) },
		"POST, no body":    func() (*http.Request, error) { return http.NewRequest("POST", server.URL, nil) },
		"POST, NoBody":     func() (*http.Request, error) { return http.NewRequest("POST", server.URL, http.NoBody) },
		"POST, held":       func() (*http.Request, error) { return http.NewRequest("POST", server.URL, stream("{}")) },
		"POST, empty":      func() (*http.Request, error) { return http.NewRequest("POST", server.URL, stream("")) },
		"POST, streamed":   func() (*http.Request, error) { return http.NewRequest("POST", server.URL, stream(large)) },
		"PUT, of a length": func() (*http.Request, error) { return withLength(http.NewRequest("PUT", server.URL, stream("{}"))) },
		"POST, trailer": func() (*http.Request, error) {
			req, err := http.NewRequest("POST", server.URL, stream("{}"))
			req.ContentLength, req.Trailer = -1, http.Header{"X-Contoso": {"7"}}
			return req, err
		},
		"POST, expect": func() (*http.Request, error) {
			req, err := http.NewRequest("POST", server.URL, stream(large))
			req.Header.Set("Expect", "100-continue")
			return req, err
		},
	}
	base := &http.Transport{ExpectContinueTimeout: time.Minute}
	defer base.CloseIdleConnections()
	transport, err := failover.New(server.URL, &failover.Config{Base: base, Alternate: "http://127.0.0.1:1", MaxBody: 1000})
	require.NoError(t, err)
	defer transport.Close()
	for name, kind := range kinds {
		var seen []received
		for _, way := range []http.RoundTripper{base, transport} {
			req, err := kind()
			require.NoError(t, err)
			resp, err := way.RoundTrip(req)
			require.NoError(t, err, name)
			resp.Body.Close()
			seen = append(seen, last)
		}
		assert.Equal(t, seen[0], seen[1], name)
	}
}

func withLength(req *http.Request, err error) (*http.Request, error) {
	req.ContentLength = 2
	return req, err
}

// rewinding is a body as azcore makes them: its GetBody returns the body itself,
// rewound.
type rewinding struct{ *strings.Reader }

func (rewinding) Close() error { return nil }

func TestABodyWhoseGetBodyRewindsItIsSentWhole(t *testing.T) {
	small := `{"name":"Contoso"}`
	large := `{"name":"Contoso","description":"` + strings.Repeat("x", 4<<10) + `"}`
	for name, body := range map[string]string{"held": small, "not held": large} {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{MaxBody: 1 << 10}, func(s *story) {
				post := func() int {
					reader := rewinding{strings.NewReader(body)}
					req, err := http.NewRequest(http.MethodPost, orgURL+accounts, reader)
					require.NoError(s, err)
					req.Header.Set("Content-Type", "application/json")
					req.ContentLength = int64(len(body))
					req.GetBody = func() (io.ReadCloser, error) {
						_, err := reader.Seek(0, io.SeekStart)
						return reader, err
					}
					resp, err := s.client.Do(req)
					require.NoError(s, err)
					resp.Body.Close()
					return resp.StatusCode
				}
				assert.Equal(s, 204, post(), "healthy")
				s.org.FailOver()
				assert.Equal(s, 204, post(), "refused by the fence, and sent again")
				rows := s.org.Alternate().Rows("accounts")
				assert.Len(s, rows, 25+2)
				assert.Equal(s, "Contoso", rows[26]["name"])
			})
		})
	}
}

// Every attempt gets what is left to read of a body, wherever its reader stood.
func TestABodyIsSentFromWhereItStands(t *testing.T) {
	t.Parallel()
	const content = `{"name":"Contoso"}`
	for name, reader := range map[string]func(string) io.Reader{
		"bytes.Reader":   func(s string) io.Reader { return bytes.NewReader([]byte(s)) },
		"bytes.Buffer":   func(s string) io.Reader { return bytes.NewBufferString(s) },
		"strings.Reader": func(s string) io.Reader { return strings.NewReader(s) },
	} {
		for _, again := range []bool{true, false} { // with GetBody, without
			t.Run(fmt.Sprintf("%s, GetBody: %v", name, again), func(t *testing.T) {
				t.Parallel()
				var whole []string
				transport, err := failover.New(orgURL, &failover.Config{MaxAttempts: 3, FailureThreshold: 10, RetryBackoff: -1, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
					sent, err := io.ReadAll(req.Body)
					require.NoError(t, err)
					assert.EqualValues(t, len(content), req.ContentLength)
					require.NotNil(t, req.GetBody, "net/http may have to send it again on another connection")
					second, err := req.GetBody()
					require.NoError(t, err)
					resent, err := io.ReadAll(second)
					require.NoError(t, err)
					whole = append(whole, string(sent), string(resent))
					return nil, errDial
				})})
				require.NoError(t, err)
				defer transport.Close()
				body := reader("read" + content)
				_, err = io.CopyN(io.Discard, body, int64(len("read")))
				require.NoError(t, err)
				req, err := http.NewRequest(http.MethodPut, orgURL+accounts, body)
				require.NoError(t, err)
				if !again {
					req.GetBody = nil
				}
				_, err = transport.RoundTrip(req)
				require.ErrorIs(t, err, syscall.ECONNREFUSED)
				assert.Equal(t, []string{content, content, content, content, content, content}, whole)
			})
		}
	}
}

// An attempt that was given up on may still be read from when its stall is over.
// The caller's buffer has another content by then.
func TestABufferIsTheCallersAgainOnceItIsAnswered(t *testing.T) {
	t.Parallel()
	start := func() *httptest.Server {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, "{}")
		}))
		server.EnableHTTP2 = true // with HTTP/1.1, net/http waits for the writer
		server.StartTLS()
		t.Cleanup(server.Close)
		return server
	}
	primary, alternate := start(), start()
	stalled := &stallingConn{open: make(chan struct{}), closed: make(chan struct{}), wrote: make(chan struct{}, 100)}
	release := sync.OnceFunc(func() { close(stalled.open) })
	defer release()
	var dialed atomic.Bool
	base := alternate.Client().Transport.(*http.Transport) // whose certificate the primary has, too
	base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil && address == primary.Listener.Addr().String() && dialed.CompareAndSwap(false, true) {
			stalled.Conn = conn
			conn = stalled
		}
		return conn, err
	}
	transport, err := failover.New(primary.URL, &failover.Config{Alternate: alternate.URL, Base: base, Probe: failover.ProbePath("/probe"),
		AttemptTimeout: 2 * time.Second, ProbeTimeout: 10 * time.Second, FailureThreshold: 1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()

	buffer := bytes.NewBufferString(strings.Repeat("first ", 50_000))
	req, err := http.NewRequest(http.MethodPut, primary.URL, buffer)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	resp.Body.Close()

	second := strings.Repeat("second", 5_000)
	buffer.Reset()
	buffer.WriteString(second)
	release()
	for range 2 { // what was stalled, and that the stream is reset, or the connection closed
		select {
		case <-stalled.wrote:
		case <-stalled.closed:
		case <-time.After(10 * time.Second):
			require.FailNow(t, "the first attempt does not end")
		}
	}
	assert.Equal(t, len(second), buffer.Len())
}

// stallingConn writes nothing after its first 20,000 bytes until open is closed.
type stallingConn struct {
	net.Conn
	sent         int
	open, closed chan struct{}
	wrote        chan struct{} // sent to after every write since then
	once         sync.Once
}

func (c *stallingConn) Write(p []byte) (int, error) {
	if c.sent += len(p); c.sent > 20_000 {
		select {
		case <-c.open:
			defer func() { c.wrote <- struct{}{} }()
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	return c.Conn.Write(p)
}

func (c *stallingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Without a GetBody, net/http does not send a write again either, whatever its headers.
func TestNoReplayIsForNetHTTPAsWell(t *testing.T) {
	t.Parallel()
	var posts atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodPost {
			posts.Add(1)
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	base := new(http.Transport)
	defer base.CloseIdleConnections()
	transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", Base: base, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	get, err := http.NewRequest(http.MethodGet, server.URL, nil)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(get) // net/http sends again on a connection that was used before
	require.NoError(t, err)
	resp.Body.Close()
	post, err := http.NewRequestWithContext(failover.NoReplay(t.Context()), http.MethodPost, server.URL, strings.NewReader("{}"))
	require.NoError(t, err)
	post.GetBody = nil
	post.Header.Set("Idempotency-Key", "7")
	_, err = transport.RoundTrip(post)
	require.ErrorIs(t, err, failover.ErrOutcomeUnknown)
	assert.EqualValues(t, 1, posts.Load())
}

func TestABodyLongerOrShorterThanItsLengthIsRefusedByBase(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", MaxAttempts: -1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	for _, length := range []int64{3, 7, 100, 1 << 60} {
		req, err := http.NewRequest(http.MethodPut, server.URL, strings.NewReader("12345"))
		require.NoError(t, err)
		req.ContentLength = length
		_, err = transport.RoundTrip(req)
		assert.ErrorContains(t, err, "ContentLength", "%d", length)
	}
}

// Whatever MaxBody, the server gets all of every body.
func TestMaxBodyOfAnySize(t *testing.T) {
	t.Parallel()
	var got string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		got = string(body)
	}))
	defer server.Close()
	for _, maxBody := range []int64{-1, 1, 7, 511, 512, 513, 1 << 20, math.MaxInt64 - 1, math.MaxInt64} {
		transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", MaxBody: maxBody})
		require.NoError(t, err)
		for _, size := range []int{0, 1, 6, 7, 8, 511, 512, 513, 2000} {
			want := strings.Repeat("x", size)
			for _, known := range []bool{true, false} {
				var body io.Reader = strings.NewReader(want)
				if !known {
					body = struct{ io.Reader }{iotest.OneByteReader(body)}
				}
				req, err := http.NewRequest(http.MethodPut, server.URL, body)
				require.NoError(t, err)
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err)
				resp.Body.Close()
				assert.True(t, want == got, "MaxBody %d, %d bytes, known: %v", maxBody, size, known)
			}
		}
		transport.Close()
	}
}

// While an answer is read, perhaps for long, the body of its request is not kept.
func TestALongAnswerDoesNotKeepTheRequestsBody(t *testing.T) { // not parallel: it measures the memory of the process
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("[]")), Request: req}, nil
	})
	transport, err := failover.New(orgURL, &failover.Config{Base: base})
	require.NoError(t, err)
	defer transport.Close()
	body := strings.Repeat("x", 1<<20)
	before := heapInUse()
	var answers []*http.Response
	for range 30 {
		req, err := http.NewRequest(http.MethodPost, orgURL+accounts, strings.NewReader(body))
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		answers = append(answers, resp)
	}
	after := heapInUse()
	for _, resp := range answers {
		resp.Body.Close()
	}
	assert.Less(t, int64(after)-int64(before), int64(10<<20), "of 30 MiB")
}
