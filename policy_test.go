package failover

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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

// Request lines for the WSDL.
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

// policySite serves documents at a host, and records the request lines.
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

// Not parallel: it measures the memory of the process.
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

// A 429 that does not say how long to wait is returned to the caller.
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
