package proxy

import (
	"context"
	"log"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"strings"
	"sync/atomic"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/internal/ascii"
)

// proxy is the handler for callers. It sends every request to the organization, and nowhere
// else, with the caller's credentials.
type proxy struct {
	transport *failover.Transport
	org       organization
	front     front
	reverse   httputil.ReverseProxy
}

// newProxy returns a proxy that uses transport. It logs answers that break off to errorLog.
func newProxy(transport *failover.Transport, front front, errorLog *log.Logger) (*proxy, error) {
	org, err := newOrganization(transport)
	if err != nil {
		return nil, err
	}
	p := &proxy{transport: transport, org: org, front: front}
	p.reverse = httputil.ReverseProxy{
		Transport:      transport,
		Rewrite:        p.rewrite,
		ModifyResponse: p.modifyResponse,
		ErrorHandler:   writeFailure,
		FlushInterval:  -1, // pass on every piece at once
		ErrorLog:       errorLog,
	}
	return p, nil
}

func (p *proxy) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	own, ok := p.front.origin(r.Host)
	w := &answerWriter{ResponseWriter: rw, req: r}
	switch {
	case r.Method == http.MethodConnect, r.URL.IsAbs(), !strings.HasPrefix(r.RequestURI, "/"):
		// Not even for the organization: a client that takes this for a forward proxy is
		// misconfigured, and would send requests for other hosts as well.
		writeError(w, http.StatusBadRequest, "NotAForwardProxy", "this is a reverse proxy for one organization; it accepts no requests for other hosts")
		return
	case !ok:
		writeError(w, http.StatusMisdirectedRequest, "WrongHost", "this host name is not one of the proxy's; see its flag -public")
		return
	case reflects(r.Method):
		writeError(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "the proxy does not forward TRACE requests")
		return
	case bindsConnection(r.Header):
		writeError(w, http.StatusBadRequest, "ConnectionCredentials", "NTLM and Negotiate authenticate a connection, but the callers of the "+
			"proxy share its connections to the organization; send a token (Authorization: Bearer)")
		return
	case !r.ProtoAtLeast(1, 1) && r.ContentLength == 0 && r.Header.Get("Content-Length") == "" && carriesBody(r.Method):
		writeError(w, http.StatusLengthRequired, "LengthRequired", "a body over HTTP/1.0 needs a Content-Length")
		return
	}
	e := &exchange{front: own, trailer: announced(r.Trailer)}
	r = r.WithContext(httptrace.WithClientTrace(context.WithValue(r.Context(), exchangeKey{}, e), boundInformational()))
	r.Header.Del("Upgrade") // Java's HttpClient offers h2c with every request
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &callerBody{ReadCloser: r.Body, exchange: e, trailer: r.Trailer}
	}
	if err := mapBody(r, p.front.links(r.Host, p.endpoint(r))); err != nil {
		writeError(w, http.StatusBadRequest, "BodyBrokeOff", "the body of the request broke off; nothing was sent to the organization")
		return
	}
	defer w.breakOff()
	p.reverse.ServeHTTP(w, r)
}

// endpoint returns the origin for links in the body of a request. In a body that the Transport
// buffers, the Transport maps links from one endpoint to the other. In a longer body, they must
// already name the active endpoint.
func (p *proxy) endpoint(r *http.Request) string {
	if !streamed(r) {
		return p.org.primary.String()
	}
	if status := p.transport.Status(); status.Active == failover.Alternate {
		return status.Alternate.URL
	}
	return p.org.primary.String()
}

// reflects reports whether a method requests a copy of the request as the answer, with
// everything that was added to it on the way.
func reflects(method string) bool {
	return ascii.EqualFold("trace", method) || ascii.EqualFold("track", method)
}

// carriesBody reports whether requests with a method usually have a body.
func carriesBody(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete:
		return false
	}
	return true
}

// exchange is the state of a request until it is answered.
type exchange struct {
	front    string      // origin by which the caller addresses the proxy
	trailer  http.Header // of the request to the organization
	inDoubt  bool        // the answer leaves a write in doubt
	brokeOff atomic.Bool // the caller's body broke off
}

func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

type exchangeKey struct{}

// rewrite turns a caller's request into the one for the organization.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	out, links := pr.Out, p.front.links(pr.In.Host, p.org.primary.String())
	out.URL.Scheme, out.URL.Host, out.Host = p.org.primary.Scheme, p.org.primary.Host, ""
	// ReverseProxy has dropped the parameters that it cannot parse; the
	// organization may be able to: a semicolon in a $filter.
	out.URL.RawQuery = links.query(pr.In.URL.RawQuery)
	for name := range out.Header {
		if ofTheWay(name) {
			delete(out.Header, name)
		}
	}
	// Without this header, the transport requests gzip and decompresses the answers, so that
	// links can be mapped.
	out.Header.Del("Accept-Encoding")
	links.headers(out.Header)
	out.Trailer = exchangeOf(out).trailer
}

// modifyResponse turns the organization's response into the one for the caller.
func (p *proxy) modifyResponse(resp *http.Response) error {
	e := exchangeOf(resp.Request)
	_, e.inDoubt = failover.InDoubt(resp, nil)
	ownToTheProxy(resp.Header)
	dropTrailers(resp.Trailer)
	switch {
	case resp.StatusCode < 200 || resp.StatusCode > 999:
		// No caller asks for 101, and a number below 100 is not a status.
		return errNotHTTP
	case dropConnectionChallenges(resp.Header) && resp.StatusCode == http.StatusUnauthorized:
		return errConnectionChallenge
	}
	if e.inDoubt {
		resp.Header.Set(outcomeHeader, outcomeUnknown)
	}
	mapResponse(resp, p.org.links(e.front))
	resp.Body = &answerBody{ReadCloser: resp.Body, resp: resp}
	return nil
}
