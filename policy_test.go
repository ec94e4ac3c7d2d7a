package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/rule"
)

// wsdl is a WSDL with content.
func wsdl(content string) string {
	return `<?xml version="1.0" encoding="utf-8"?>` +
		`<wsdl:definitions xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/" xmlns:wsp="http://schemas.xmlsoap.org/ws/2004/09/policy" ` +
		`xmlns:x="http://schemas.microsoft.com/xrm/2012/Contracts/Services">` + content + `</wsdl:definitions>`
}

// policyOf is a policy in its place.
func policyOf(available, enabled string) string {
	return `<wsp:Policy><wsp:ExactlyOne><wsp:All><x:FailoverPolicy><x:FailoverAvailable>` + available +
		`</x:FailoverAvailable><x:EndpointEnabled>` + enabled + `</x:EndpointEnabled></x:FailoverPolicy></wsp:All></wsp:ExactlyOne></wsp:Policy>`
}

func importOf(location string) string {
	return `<wsdl:import namespace="http://schemas.microsoft.com/xrm/2011/Contracts" location="` + location + `"/>`
}

// Request lines of the WSDL.
const (
	wsdlRoot = "/XRMServices/2011/Organization.svc?wsdl"
	wsdlZero = "/XRMServices/2011/Organization.svc?wsdl=wsdl0"
)

var (
	servesAndHas = Policy{Known: true, FailoverAvailable: true, EndpointEnabled: true}
	standsBy     = Policy{Known: true, FailoverAvailable: true}
)

var policyTests = []struct {
	name   string
	reason string
	docs   map[string]string // by request line
	want   Policy
	fault  string   // message of the inconclusive fault, instead of a policy
	reads  []string // request lines; nil: wsdlRoot
}{
	{
		name: "behind an import", reason: "this is where Dataverse has it",
		docs:  map[string]string{wsdlRoot: wsdl(importOf("https://contoso.api.crm.dynamics.com" + wsdlZero)), wsdlZero: wsdl(policyOf("true", "true"))},
		want:  servesAndHas,
		reads: []string{wsdlRoot, wsdlZero},
	},
	{name: "stand-by", reason: "the endpoint is not enabled", docs: map[string]string{wsdlRoot: wsdl(policyOf("true", "false"))}, want: standsBy},
	{
		name: "no alternate", reason: "an organization without disaster recovery says so",
		docs: map[string]string{wsdlRoot: wsdl(policyOf("false", "true"))}, want: Policy{Known: true, EndpointEnabled: true},
	},
	{name: "none", reason: "on premises there is no policy", docs: map[string]string{wsdlRoot: wsdl(`<wsdl:service name="S"/>`)}},
	{
		name: "other prefixes", reason: "namespaces are resolved, not matched by prefix; and this is the other WS-Policy",
		docs: map[string]string{wsdlRoot: `<definitions xmlns="http://schemas.xmlsoap.org/wsdl/"><All xmlns="http://www.w3.org/ns/ws-policy">` +
			`<FailoverPolicy xmlns="http://schemas.microsoft.com/xrm/2012/Contracts/Services"><EndpointEnabled> 1 </EndpointEnabled>` +
			`<!-- c --><FailoverAvailable>True</FailoverAvailable></FailoverPolicy></All></definitions>`},
		want: servesAndHas,
	},
	{
		name: "byte order mark", reason: "web servers on Windows like to send one",
		docs: map[string]string{wsdlRoot: "\ufeff" + wsdl(policyOf("true", "true"))}, want: servesAndHas,
	},
	{
		name: "other namespace", reason: "it only looks like the policy",
		docs: map[string]string{wsdlRoot: wsdl(strings.ReplaceAll(policyOf("true", "true"), "x:", "wsp:"))},
	},
	{
		name: "outside of a policy", reason: "documentation may quote the element",
		docs: map[string]string{wsdlRoot: wsdl(strings.ReplaceAll(policyOf("true", "true"), "wsp:All", "wsp:Any"))},
	},
	{
		name: "after a policy", reason: "the end of wsp:All ends the policy",
		docs: map[string]string{wsdlRoot: wsdl(`<wsp:All/>` + strings.ReplaceAll(policyOf("true", "true"), "wsp:All", "wsp:Any"))},
	},
	{name: "no boolean", reason: "a value that cannot be read is not guessed", docs: map[string]string{wsdlRoot: wsdl(policyOf("true", "perhaps"))}},
	{name: "empty value", reason: "an empty value is no value", docs: map[string]string{wsdlRoot: wsdl(policyOf("", "true"))}},
	{
		name: "value within a value", reason: "only direct children count",
		docs: map[string]string{wsdlRoot: wsdl(policyOf("true", "<x:EndpointEnabled>true</x:EndpointEnabled>"))},
	},
	{
		name: "endless value", reason: "a value in many pieces is not collected",
		docs: map[string]string{wsdlRoot: wsdl(policyOf("true", strings.Repeat("t<!---->", 10000)))},
	},
	{
		name: "second policy", reason: "one that cannot be read does not hide one that can",
		docs: map[string]string{wsdlRoot: wsdl(policyOf("true", "") + policyOf("true", "false"))}, want: standsBy,
	},
	{
		name: "broken after the policy", reason: "reading ends with the policy",
		docs: map[string]string{wsdlRoot: wsdl(policyOf("true", "true") + "</a><b>")}, want: servesAndHas,
	},
	{
		name: "relative import", reason: "locations are resolved against the document",
		docs:  map[string]string{wsdlRoot: wsdl(importOf("Organization.svc?wsdl=wsdl0")), wsdlZero: wsdl(policyOf("true", "true"))},
		want:  servesAndHas,
		reads: []string{wsdlRoot, wsdlZero},
	},
	{
		name: "import with the port", reason: "the default port need not be left out, nor case kept",
		docs:  map[string]string{wsdlRoot: wsdl(importOf("https://CONTOSO.api.crm.dynamics.com:443" + wsdlZero)), wsdlZero: wsdl(policyOf("true", "true"))},
		want:  servesAndHas,
		reads: []string{wsdlRoot, wsdlZero},
	},
	{
		name: "import of an import", reason: "WCF makes two levels", want: servesAndHas,
		docs:  map[string]string{wsdlRoot: wsdl(importOf("/1")), "/1": wsdl(importOf("/2")), "/2": wsdl(policyOf("true", "true"))},
		reads: []string{wsdlRoot, "/1", "/2"},
	},
	{
		name: "chain of imports", reason: "a chain is not followed without end", fault: "imports that are not followed",
		docs:  map[string]string{wsdlRoot: wsdl(importOf("/1")), "/1": wsdl(importOf("/2")), "/2": wsdl(importOf("/3")), "/3": wsdl(policyOf("true", "true"))},
		reads: []string{wsdlRoot, "/1", "/2"},
	},
	{
		name: "loop of imports", reason: "no document is read twice",
		docs:  map[string]string{wsdlRoot: wsdl(importOf("/1#a") + importOf("") + `<wsdl:import/>`), "/1": wsdl(importOf(wsdlRoot) + importOf("/1"))},
		reads: []string{wsdlRoot, "/1"},
	},
	{
		name: "too many imports", reason: "the number of requests is bounded", fault: "imports that are not followed",
		docs: map[string]string{
			wsdlRoot: wsdl(importOf("/1") + importOf("/2") + importOf("/3") + importOf("/4") + importOf("/5")),
			"/1":     wsdl(""), "/2": wsdl(""), "/3": wsdl(""), "/4": wsdl(""), "/5": wsdl(policyOf("true", "true")),
		},
		reads: []string{wsdlRoot, "/1", "/2", "/3", "/4"},
	},
	{
		name: "import of another host", reason: "no request leaves the endpoint", fault: "imports that are not followed",
		docs: map[string]string{wsdlRoot: wsdl(importOf("https://attacker.example" + wsdlZero))},
	},
	{
		name: "import of the alternate", reason: "one endpoint does not speak for the other", fault: "imports that are not followed",
		docs: map[string]string{wsdlRoot: wsdl(importOf("https://contoso--s.api.crm.dynamics.com" + wsdlZero))},
	},
	{
		name: "import by network path", reason: "two slashes lead to another host", fault: "imports that are not followed",
		docs: map[string]string{wsdlRoot: wsdl(importOf("//attacker.example" + wsdlZero))},
	},
	{
		name: "import over http", reason: "credentials do not go out in the clear", fault: "imports that are not followed",
		docs: map[string]string{wsdlRoot: wsdl(importOf("http://contoso.api.crm.dynamics.com" + wsdlZero))},
	},
	{
		name: "import of another port", reason: "another port is another server", fault: "imports that are not followed",
		docs: map[string]string{wsdlRoot: wsdl(importOf("https://contoso.api.crm.dynamics.com:8443" + wsdlZero))},
	},
	{
		name: "import with user information", reason: "the server does not choose the credentials", fault: "imports that are not followed",
		docs: map[string]string{wsdlRoot: wsdl(importOf("https://a:b@contoso.api.crm.dynamics.com" + wsdlZero))},
	},
	{
		name: "import that is no URL", reason: "it cannot be followed", fault: "imports that are not followed",
		docs: map[string]string{wsdlRoot: wsdl(importOf("https://%zz"))},
	},
	{
		name: "import of a file", reason: "only the web is read", fault: "imports that are not followed",
		docs: map[string]string{wsdlRoot: wsdl(importOf("file:///etc/hosts"))},
	},
	{
		name: "import of a schema", reason: "schemas hold no policy",
		docs: map[string]string{wsdlRoot: wsdl(`<xs:import xmlns:xs="http://www.w3.org/2001/XMLSchema" schemaLocation="/1"/>`)},
	},
	{name: "truncated", reason: "half a document proves nothing", fault: "unexpected EOF", docs: map[string]string{wsdlRoot: wsdl("")[:200]}},
	{
		name: "truncated policy", reason: "half a policy is none", fault: "unexpected EOF",
		docs: map[string]string{wsdlRoot: strings.SplitAfter(wsdl(policyOf("true", "true")), "</x:EndpointEnabled>")[0]},
	},
	{name: "empty", reason: "nothing proves nothing", fault: "not a WSDL", docs: map[string]string{wsdlRoot: ""}},
	{name: "text", reason: "an answer in words is no WSDL", fault: "not a WSDL", docs: map[string]string{wsdlRoot: "ok"}},
	{
		name: "other document", reason: "a policy must come in a WSDL", fault: "not a WSDL",
		docs: map[string]string{wsdlRoot: strings.ReplaceAll(wsdl(policyOf("true", "true")), "definitions", "types")},
	},
	{
		name: "entity bomb", reason: "entities of a DTD are not expanded", fault: "invalid character entity",
		docs: map[string]string{wsdlRoot: `<!DOCTYPE a [<!ENTITY b "true"><!ENTITY c "&b;&b;">]>` + wsdl("<a>&c;</a>")},
	},
	{
		name: "nested without end", reason: "open elements take memory", fault: "nested too deep",
		docs: map[string]string{wsdlRoot: wsdl(strings.Repeat("<a>", 1<<18))},
	},
	{
		name: "policy nested without end", reason: "open elements take memory in a policy, too", fault: "nested too deep",
		docs: map[string]string{wsdlRoot: wsdl(policyOf("true", strings.Repeat("<a>", 1<<18)))},
	},
	{
		name: "policy behind 4 MiB", reason: "a document is read so far and no further", fault: "unexpected EOF",
		docs: map[string]string{wsdlRoot: wsdl(strings.Repeat("<a>"+strings.Repeat(" ", maxWSDLTag/2)+"</a>", maxWSDL/(maxWSDLTag/2)) + policyOf("true", "true"))},
	},
	{
		name: "endless tag", reason: "attributes take several times their size in memory", fault: "longer than 64 KiB",
		docs: map[string]string{wsdlRoot: wsdl("<a " + strings.Repeat(`a="" `, 1<<17) + "/>" + policyOf("true", "true"))},
	},
}

// policySite serves documents at a host and keeps the request lines.
type policySite struct {
	docs  map[string]string
	mu    sync.Mutex
	reads []string
}

func (s *policySite) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet || req.URL.Scheme != "https" || req.URL.Host != "contoso.api.crm.dynamics.com" || req.URL.User != nil {
		return nil, fmt.Errorf("stray request: %s %s", req.Method, req.URL)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = append(s.reads, req.URL.RequestURI())
	resp := replyWith(404, "", "Content-Type", "text/plain")
	if doc, ok := s.docs[req.URL.RequestURI()]; ok {
		resp = replyWith(200, doc, "Content-Type", "text/xml; charset=utf-8")
	}
	resp.Request = req
	return resp, nil
}

func contoso(t *testing.T) *url.URL {
	t.Helper()
	u, err := url.Parse("https://contoso.api.crm.dynamics.com")
	require.NoError(t, err)
	return u
}

func TestDiscoverPolicy(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	for _, tt := range policyTests {
		require.NotEmpty(t, tt.reason, tt.name)
		require.False(t, names[tt.name], "name %q is used twice", tt.name)
		names[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			site := &policySite{docs: tt.docs}
			got, err := DiscoverPolicy(t.Context(), &http.Client{Transport: site}, contoso(t))
			if tt.fault != "" {
				var f *Fault
				require.ErrorAs(t, err, &f, tt.reason)
				assert.False(t, f.counted(), "it proves nothing about the endpoint")
				assert.Contains(t, f.Message, tt.fault, tt.reason)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got, tt.reason)
			if tt.reads == nil {
				tt.reads = []string{wsdlRoot}
			}
			assert.Equal(t, tt.reads, site.reads, tt.reason)
		})
	}
}

func TestDiscoverPolicyOfAnEndpointWithAPath(t *testing.T) {
	t.Parallel()
	site := &policySite{docs: map[string]string{"/contoso" + wsdlRoot: wsdl(policyOf("true", "true"))}}
	endpoint, err := url.Parse("https://user:secret@contoso.api.crm.dynamics.com/contoso/?a=b#c")
	require.NoError(t, err)
	got, err := DiscoverPolicy(t.Context(), &http.Client{Transport: site}, endpoint)
	require.NoError(t, err)
	assert.Equal(t, servesAndHas, got)
	assert.Equal(t, "user:secret", endpoint.User.String(), "the caller's URL is not changed")
}

// Over a real connection, with the client that nil stands for.
func TestDiscoverPolicyOverHTTP(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/xml; charset=utf-8")
		if r.URL.RawQuery == "wsdl" {
			io.WriteString(w, wsdl(importOf("http://"+r.Host+wsdlZero)))
			return
		}
		io.WriteString(w, wsdl(policyOf("true", "false")))
	}))
	defer server.Close()
	endpoint, err := url.Parse(server.URL)
	require.NoError(t, err)
	got, err := DiscoverPolicy(t.Context(), nil, endpoint)
	require.NoError(t, err)
	assert.Equal(t, standsBy, got)
}

func TestDiscoverPolicyNeedsAnEndpoint(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []*url.URL{nil, {}, {Path: "contoso"}} {
		_, err := DiscoverPolicy(t.Context(), nil, endpoint)
		require.Error(t, err)
	}
}

func TestDiscoverPolicyFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	side := &readSide{answer: func(int, *http.Request) (*http.Response, error) {
		return replyWith(302, "", "Location", "https://contoso.example/"), nil
	}}
	_, err := DiscoverPolicy(t.Context(), &http.Client{Transport: side}, contoso(t))
	var f *Fault
	require.ErrorAs(t, err, &f)
	assert.Equal(t, 302, f.Status)
	assert.Len(t, side.reads, 1)
}

// brokenBody delivers text and then fails.
type brokenBody struct {
	text io.Reader
	err  error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if n, err := b.text.Read(p); err == nil {
		return n, nil
	}
	return 0, b.err
}

func (b *brokenBody) Close() error { return nil }

func TestProbeWSDL(t *testing.T) {
	t.Parallel()
	errReset := errors.New("connection reset")
	ok := func(body string) func() (*http.Response, error) {
		return func() (*http.Response, error) { return replyWith(200, body, "Content-Type", "text/xml"), nil }
	}
	tests := []struct {
		name   string
		reason string
		answer func() (*http.Response, error)
		want   rule.Outcome
		fenced rule.Outcome // after a definitive fault of the endpoint
	}{
		{name: "enabled", reason: "the endpoint says so", answer: ok(wsdl(policyOf("true", "true"))), want: rule.Passed, fenced: rule.Passed},
		{name: "not enabled", reason: "the endpoint says so", answer: ok(wsdl(policyOf("true", "false"))), want: rule.Failed, fenced: rule.Failed},
		{name: "no policy", reason: "it answers; but it did when it was fenced, too", answer: ok(wsdl("")), want: rule.Passed, fenced: rule.Inconclusive},
		{name: "no WSDL", reason: "something answers", answer: ok("ok"), want: rule.Inconclusive, fenced: rule.Inconclusive},
		{
			name: "throttled", reason: "the organization is there; but nothing says that it is enabled",
			answer: func() (*http.Response, error) { return replyWith(429, "", "Retry-After", "1"), nil }, want: rule.Passed, fenced: rule.Inconclusive,
		},
		{
			name: "forbidden", reason: "it proves neither",
			answer: func() (*http.Response, error) { return replyWith(403, ""), nil }, want: rule.Inconclusive, fenced: rule.Inconclusive,
		},
		{
			name: "not found", reason: "it proves neither",
			answer: func() (*http.Response, error) { return replyWith(404, ""), nil }, want: rule.Inconclusive, fenced: rule.Inconclusive,
		},
		{
			name: "no content", reason: "it proves neither",
			answer: func() (*http.Response, error) { return replyWith(204, ""), nil }, want: rule.Inconclusive, fenced: rule.Inconclusive,
		},
		{
			name: "outage", reason: "a front end says that nobody is behind it",
			answer: func() (*http.Response, error) { return replyWith(503, ""), nil }, want: rule.Failed, fenced: rule.Failed,
		},
		{
			name: "outage page", reason: "a 200 in HTML is no answer of the service",
			answer: func() (*http.Response, error) {
				return replyWith(200, "<html><title>Sorry</title></html>", "Content-Type", "text/html"), nil
			}, want: rule.Failed, fenced: rule.Failed,
		},
		{
			name: "no answer", reason: "nobody is there",
			answer: func() (*http.Response, error) { return nil, errReset }, want: rule.Failed, fenced: rule.Failed,
		},
		{
			name: "broken off", reason: "the connection failed in the middle of the document",
			answer: func() (*http.Response, error) {
				resp := replyWith(200, "", "Content-Type", "text/xml")
				resp.Body, resp.ContentLength = &brokenBody{strings.NewReader(wsdl("")[:200]), errReset}, -1
				return resp, nil
			}, want: rule.Failed, fenced: rule.Failed,
		},
		{
			name: "broken off after the policy", reason: "what was needed had come",
			answer: func() (*http.Response, error) {
				resp := replyWith(200, "", "Content-Type", "text/xml")
				resp.Body, resp.ContentLength = &brokenBody{strings.NewReader(wsdl(policyOf("true", "true"))), errReset}, -1
				return resp, nil
			}, want: rule.Passed, fenced: rule.Passed,
		},
	}
	names := make(map[string]bool)
	for _, tt := range tests {
		require.NotEmpty(t, tt.reason, tt.name)
		require.False(t, names[tt.name], "name %q is used twice", tt.name)
		names[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			side := &readSide{answer: func(int, *http.Request) (*http.Response, error) { return tt.answer() }}
			var probe Probe = ProbeWSDL
			got, _ := (&probed{err: probe(t.Context(), &http.Client{Transport: side}, contoso(t))}).outcome()
			assert.Equal(t, tt.want, got, tt.reason)

			ctx := context.WithValue(t.Context(), probeTermsKey{}, &probeTerms{fenced: true})
			got, _ = (&probed{err: probe(ctx, &http.Client{Transport: side}, contoso(t))}).outcome()
			assert.Equal(t, tt.fenced, got, "fenced: "+tt.reason)
		})
	}
}

func TestProbeWSDLKeepsTheErrorOfAuthorize(t *testing.T) {
	t.Parallel()
	refused := &Fault{Class: ClassAuth, Delivery: NotSent, Err: errors.New("no token")}
	side := &readSide{answer: func(int, *http.Request) (*http.Response, error) { return nil, refused }}
	err := ProbeWSDL(t.Context(), &http.Client{Transport: side}, contoso(t))
	assert.Same(t, refused, err)
}

// A document may be delivered as slowly as the server likes, but not longer than
// the probe may take.
func TestProbeWSDLEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		side := &readSide{answer: func(int, *http.Request) (*http.Response, error) {
			r, w := io.Pipe()
			context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) }) // as net/http does
			go func() {
				text := strings.TrimSuffix(wsdl(""), "</wsdl:definitions>")
				for {
					if _, err := io.WriteString(w, text); err != nil {
						return
					}
					text = "<a/>"
					time.Sleep(time.Second)
				}
			}()
			resp := replyWith(200, "", "Content-Type", "text/xml")
			resp.Body, resp.ContentLength = r, -1
			return resp, nil
		}}
		start := time.Now()
		err := ProbeWSDL(ctx, &http.Client{Transport: side}, contoso(t))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 5*time.Second, time.Since(start))
		time.Sleep(time.Second) // for the server to find out
		synctest.Wait()
	})
}

// Not parallel: it measures the memory of the whole program.
func TestHostileWSDLTakesLittleMemory(t *testing.T) {
	bombs := map[string]string{
		"text":       "<a>" + strings.Repeat("x", maxWSDL),
		"attributes": "<a " + strings.Repeat(`a="" `, maxWSDL/5),
		"namespaces": strings.Repeat(`<a xmlns="a">`, maxWSDL/13),
		"markup":     strings.Repeat("<", maxWSDL),
		"comment":    "<!--" + strings.Repeat("<", maxWSDL),
		"doctype":    "<!DOCTYPE " + strings.Repeat("<", maxWSDL),
	}
	for name, bomb := range bombs {
		body := wsdl(bomb)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := parseWSDL(&wsdlReader{r: io.LimitReader(strings.NewReader(body), maxWSDL)})
		runtime.ReadMemStats(&after)
		assert.Error(t, err, name)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(5*maxWSDL), name)
	}
}

func FuzzParseWSDL(f *testing.F) {
	for _, tt := range policyTests {
		for _, doc := range tt.docs {
			if len(doc) < 1<<16 {
				f.Add(doc)
			}
		}
	}
	f.Fuzz(func(t *testing.T, doc string) {
		policy, imports, err := parseWSDL(strings.NewReader(doc))
		if err != nil && (policy != Policy{} || imports != nil) {
			t.Errorf("%v and %v with error %v", policy, imports, err)
		}
		if !policy.Known && policy != (Policy{}) {
			t.Errorf("an unknown policy says %v", policy)
		}
		if policy.Known && !strings.Contains(doc, namePolicy.Local) {
			t.Error("a policy out of nothing")
		}
	})
}

// A probe that could not be authorized has not passed, and says why.
func TestProbesKeepTheErrorOfAuthorize(t *testing.T) {
	t.Parallel()
	refused := &Fault{Class: ClassAuth, Delivery: NotSent, Err: errors.New("no token")}
	side := &readSide{answer: func(int, *http.Request) (*http.Response, error) { return nil, refused }}
	for name, probe := range map[string]Probe{"web API": ProbeWebAPI, "path": ProbePath("/data")} {
		assert.Same(t, refused, probe(t.Context(), &http.Client{Transport: side}, contoso(t)), name)
	}
}

// Probes without traffic come at growing times, which begin anew after a good one; while
// nothing is known to serve they come sooner. None comes at the very time of another
// process's.
func TestTheTimesBetweenProbes(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, new(closings), Config{ProbeInterval: 10 * time.Second, MaxProbeInterval: time.Minute})
	const hold = "questions that change nothing"
	for name, row := range map[string]struct {
		next func() time.Duration
		want []float64 // seconds
	}{
		"ordinary":    {transport.schedule(new(state)).NextBackOff, []float64{10, 15, 22.5, 33.75, 50.625, 60, 60}},
		"down":        {transport.schedule(&state{down: true}).NextBackOff, []float64{1, 1.5, 2.25, 3.375, 5.0625, 7.59375, 8, 8}},
		"provisional": {transport.schedule(&state{provisional: true}).NextBackOff, []float64{1, 1.5, 2.25, 3.375, 5.0625, 7.59375, 8, 8}},
		hold:          {func() time.Duration { transport.mu.Lock(); defer transport.mu.Unlock(); return transport.holdLocked() }, []float64{1, 2, 4, 4}},
	} {
		exact := 0
		for i, want := range row.want {
			got := row.next().Seconds()
			assert.InDelta(t, want, got, want*0.2+1e-6, "%s, %d", name, i)
			if got == want {
				exact++
			}
		}
		assert.Less(t, exact, len(row.want), name)
	}
	s := transport.schedule(new(state))
	s.NextBackOff()
	s.NextBackOff()
	s.Reset()
	assert.InDelta(t, 10, s.NextBackOff().Seconds(), 2)
}

// A 429 that does not say how long to wait is the caller's.
func TestAThrottledRequestWithoutAWaitIsNotRepeated(t *testing.T) {
	t.Parallel()
	sent := 0
	transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
		sent++
		resp := replyWith(429, "")
		resp.Request = req
		return resp, nil
	}), Config{RetryThrottled: time.Minute, ProbeInterval: -1, SuspectAfter: -1})
	assert.Equal(t, 429, post(t, transport, "/api/data/v9.2/accounts", "", "", ""))
	assert.Equal(t, 1, sent)
}
