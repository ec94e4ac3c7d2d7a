package failover

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/rule"
)

var contosoHosts = [2]string{"contoso.api.crm.dynamics.com", "contoso--s.api.crm.dynamics.com"}

// A redirectCase is an answer that may be a redirect, and the request for it.
type redirectCase struct {
	method     string
	status     int
	active, at Endpoint // at the time of the request, and in its URL
	location   string
	follows    *Endpoint        // the redirect that led to the request
	meanwhile  func(*Transport) // before the answer
}

// redirected is the outcome.
type redirected struct {
	marked            *Endpoint
	location, content string // hosts in the headers
	served            Endpoint
	fault             *Fault // that raised a question
	evidence          rule.Evidence
}

func (row redirectCase) try(t *testing.T) (got redirected) {
	var transport *Transport
	plain := true
	transport = newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
		if plain {
			return acknowledging(req)
		}
		if row.meanwhile != nil {
			row.meanwhile(transport)
		}
		got.served = Endpoint(slices.Index(contosoHosts[:], req.URL.Host))
		resp := replyWith(row.status, "", "Location", row.location, "Content-Location", "https://"+req.URL.Host+"/c", "OData-Version", "4.0", "REQ_ID", "1")
		resp.Request = req
		return resp, nil
	}), Config{ProbeInterval: -1, Probe: func(ctx context.Context, _ *http.Client, _ *url.URL) error { <-ctx.Done(); return ctx.Err() }})
	defer transport.Close()
	if row.active == Alternate {
		p := transport.newPool()
		transport.mu.Lock()
		transport.switchLocked(switchover{to: Alternate}, p, func(now time.Time) bool { return transport.rule.SwitchTo(now, rule.Alternate, false) })
		transport.unlock()
	}
	read(t, transport, "") // so that the next one is a plain read
	plain = false
	req, err := http.NewRequest(row.method, "https://"+contosoHosts[row.at]+"/x", nil)
	require.NoError(t, err)
	if row.follows != nil {
		marked := req.WithContext(context.WithValue(t.Context(), redirectionKey{}, &redirection{transport, *row.follows}))
		req.Response = &http.Response{Request: marked}
	}
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	if r, _ := resp.Request.Context().Value(redirectionKey{}).(*redirection); r != nil {
		got.marked = &r.to
	}
	host := func(name string) string {
		u, err := url.Parse(resp.Header.Get(name))
		if err != nil {
			return "?"
		}
		return u.Host
	}
	got.location, got.content = host("Location"), host("Content-Location")
	transport.mu.Lock()
	if transport.question != nil {
		got.fault = transport.question.fault
		_, got.evidence = transport.rule.Question()
	}
	transport.mu.Unlock()
	return got
}

// A redirect to an endpoint is followed to that endpoint. A redirect from the active endpoint
// to the other one is its own word that it does not serve. In a redirect, links name the host
// that the caller named; elsewhere, the primary.
func TestWhatARedirectAsksAndTells(t *testing.T) {
	t.Parallel()
	redirects := []int{301, 302, 303, 307, 308}
	both := []Endpoint{Primary, Alternate}
	synctest.Test(t, func(t *testing.T) {
		for _, status := range []int{201, 300, 301, 302, 303, 304, 305, 306, 307, 308, 309} {
			for _, location := range []string{"https://" + contosoHosts[0] + "/y", "https://" + contosoHosts[1] + "/y", "/y", "https://contoso.example/y", "https://%zz/"} {
				for n := range 8 {
					row := redirectCase{method: []string{"GET", "PUT"}[n>>2], status: status, active: both[n&1], at: both[n>>1&1], location: location}
					got, want := row.try(t), redirected{served: row.active}
					is := slices.Contains(redirects, status)
					to := slices.IndexFunc(contosoHosts[:], func(host string) bool { return strings.Contains(location, host) })
					if is && to >= 0 && both[to] != row.active {
						want.marked = &both[to]
						want.fault = &Fault{Class: ClassUnavailable, Definitive: true, Delivery: Answered, Endpoint: row.active, Status: status, Message: "redirects to the " + both[to].String()}
						want.evidence = rule.Evidence{Kinds: rule.Fenced, Decides: true}
					}
					names := Primary
					if is {
						names = row.at
					}
					want.content = contosoHosts[names]
					switch {
					case to >= 0 && names != row.active:
						want.location = contosoHosts[names]
					case to >= 0:
						want.location = contosoHosts[to]
					case strings.Contains(location, "example"):
						want.location = "contoso.example"
					case strings.Contains(location, "%"):
						want.location = "?"
					}
					require.Equal(t, want, got, "%+v", row)
				}
			}
		}
	})
}

// A redirect that comes too late, or not from the active endpoint, raises no question.
func TestWhichRedirectsAskNothing(t *testing.T) {
	t.Parallel()
	p, a := Primary, Alternate
	toP, toA := "https://"+contosoHosts[0]+"/y", "https://"+contosoHosts[1]+"/y"
	renew := func(r *Transport) {
		r.mu.Lock()
		r.rule.Epoch++
		r.publishLocked(nil)
		r.mu.Unlock()
	}
	for name, row := range map[string]struct {
		redirectCase
		served            Endpoint
		marked            *Endpoint
		location, content Endpoint
	}{
		"renewed meanwhile":            {redirectCase{location: toA, meanwhile: renew}, p, &a, a, p},
		"moved meanwhile, after that":  {redirectCase{location: toA, meanwhile: func(r *Transport) { r.Pin(a) }}, p, &a, a, p},
		"moved meanwhile, back":        {redirectCase{at: a, location: toP, meanwhile: func(r *Transport) { r.Pin(a) }}, p, &p, a, a},
		"closed meanwhile":             {redirectCase{location: toA, meanwhile: func(r *Transport) { go r.Close(); synctest.Wait() }}, p, &a, a, p},
		"followed, and on from there":  {redirectCase{at: a, follows: &a, location: toA}, a, &a, a, a},
		"followed, and back":           {redirectCase{at: a, follows: &a, location: toP}, a, &p, p, a},
		"followed, and created there":  {redirectCase{at: a, follows: &a, location: toA, status: 201}, a, nil, a, a},
		"followed, though in vain":     {redirectCase{at: p, follows: &p, location: toP}, p, nil, p, p},
		"followed away from the other": {redirectCase{active: a, at: p, follows: &p, location: toA}, p, &a, a, p},
	} {
		synctest.Test(t, func(t *testing.T) {
			for _, method := range []string{"GET", "PUT"} {
				row.method = method
				if row.status == 0 {
					row.status = 307
				}
				want := redirected{served: row.served, marked: row.marked, location: contosoHosts[row.location], content: contosoHosts[row.content]}
				assert.Equal(t, want, row.try(t), name)
			}
		})
	}
}
