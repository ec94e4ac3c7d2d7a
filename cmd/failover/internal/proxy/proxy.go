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

// proxy is the handler that callers talk to. It sends every request to the
// organization, and to nowhere else, with the credentials it comes with.
type proxy struct {
	transport *failover.Transport
	org       organization
	front     front
	reverse   httputil.ReverseProxy
}

// newProxy returns a proxy over transport. Its own remarks, about answers that
// break off, go to errorLog.
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
		FlushInterval:  -1, // pass on what comes as it comes
		ErrorLog:       errorLog,
	}
	return p, nil
}

func (p *proxy) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	own, ok := p.front.origin(r.Host)
	w := &answerWriter{ResponseWriter: rw, req: r}
	switch {
	case r.Method == http.MethodConnect, r.URL.IsAbs(), !strings.HasPrefix(r.RequestURI, "/"):
		// Not even for the organization: what takes this for a forward proxy is
		// set up wrong, and would send requests for other hosts as well.
		writeError(w, http.StatusBadRequest, "NotAForwardProxy", "this is the organization's address; it takes no requests for other hosts")
		return
	case !ok:
		writeError(w, http.StatusMisdirectedRequest, "WrongHost", "this host name is not one of the proxy's; see its flag -public")
		return
	case reflects(r.Method):
		writeError(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "the proxy sends no requests that ask for a copy of themselves")
		return
	case bindsConnection(r.Header):
		writeError(w, http.StatusBadRequest, "ConnectionCredentials", "NTLM and Negotiate sign in a connection, and the callers of the proxy "+
			"share its connections to the organization; bring a token (Authorization: Bearer)")
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
		writeError(w, http.StatusBadRequest, "BodyBrokeOff", "the body of the request did not come to its end; nothing was sent to the organization")
		return
	}
	p.reverse.ServeHTTP(w, r)
}

// endpoint returns the origin that links in the body of a request are to have.
// The Transport maps those to the one endpoint to the other by itself, in a body
// that it holds. In a longer one they have to name the active endpoint already.
func (p *proxy) endpoint(r *http.Request) string {
	if !streamed(r) {
		return p.org.primary.String()
	}
	if status := p.transport.Status(); status.Active == failover.Alternate {
		return status.Alternate.URL
	}
	return p.org.primary.String()
}

// reflects reports whether a method asks for the request itself as the answer,
// with all that was added to it on the way.
func reflects(method string) bool {
	return ascii.EqualFold("trace", method) || ascii.EqualFold("track", method)
}

// carriesBody reports whether requests with a method have a body as a rule.
func carriesBody(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete:
		return false
	}
	return true
}

// exchange is what has to be known of a request until it is answered.
type exchange struct {
	front    string      // origin by which the caller addresses the proxy
	trailer  http.Header // of the request to the organization
	inDoubt  bool        // the answer leaves open what became of a write
	brokeOff atomic.Bool // the caller's body did not come to its end
}

func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

type exchangeKey struct{}

// rewrite makes the request that goes to the organization.
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
	// The Transport asks for gzip by itself then, and undoes it: links can be
	// mapped, and the way to the organization is the one worth compressing.
	out.Header.Del("Accept-Encoding")
	links.headers(out.Header)
	out.Trailer = exchangeOf(out).trailer
}

// modifyResponse makes the response that goes to the caller.
func (p *proxy) modifyResponse(resp *http.Response) error {
	e := exchangeOf(resp.Request)
	_, e.inDoubt = failover.InDoubt(resp, nil)
	ownToTheProxy(resp.Header)
	dropTrailers(resp.Trailer)
	switch {
	case resp.StatusCode < 200 || resp.StatusCode > 999:
		// No caller asks for 101, and what is below 100 is no status.
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
