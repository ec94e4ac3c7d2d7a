package failover

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/xmlpath"
)

// A wsdlReader fails after more than 64 KiB without the start of a tag, however the bytes
// arrive. It keeps the error of the reader below it.
func TestATagOfAWSDLIsBounded(t *testing.T) {
	t.Parallel()
	inner := strings.Repeat("x", 64<<10-1)
	readers := map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader,
	}
	for name, pieces := range readers {
		for text, ok := range map[string]bool{
			"<" + inner: true, "<" + inner + "x": false, "x" + inner: true, "xx" + inner: false, "<a>" + inner[3:] + "<" + inner: true,
			"<a>" + inner + "<": false, strings.Repeat("<a>", 64<<10): true,
		} {
			if name != "bytes" && strings.HasSuffix(text, "<") && !ok {
				continue // a tag begins in the same piece
			}
			var got strings.Builder
			_, err := io.CopyBuffer(struct{ io.Writer }{&got}, &wsdlReader{r: pieces(strings.NewReader(text))}, make([]byte, 1<<12))
			assert.Equal(t, ok, err == nil, "%s of %d bytes, %.10s", name, len(text), text)
			assert.Equal(t, ok, got.String() == text)
			if !ok {
				assert.Equal(t, errLongTag, err)
			}
		}
	}
	w := &wsdlReader{r: strings.NewReader("x")}
	_, err := io.ReadAll(w)
	assert.NoError(t, errors.Join(err, w.err))
	w.r = iotest.ErrReader(io.ErrUnexpectedEOF)
	_, err = io.ReadAll(w)
	assert.Equal(t, io.ErrUnexpectedEOF, err)
	assert.Equal(t, io.ErrUnexpectedEOF, w.err)
}

// Imports of the root document are requested only from its own scheme, host and port.
func TestWhereImportsMayLead(t *testing.T) {
	t.Parallel()
	root := &url.URL{Scheme: "https", Host: "Contoso.crm.dynamics.com"}
	for address, want := range map[string]bool{
		"https://contoso.crm.dynamics.com/x": true, "https://CONTOSO.crm.dynamics.com:443/": true, "https://contoso.crm.dynamics.com.:/": true,
		"http://contoso.crm.dynamics.com/": false, "http://contoso.crm.dynamics.com:443/": false, "https://contoso.crm.dynamics.com:8443/": false,
		"https://contoso.crm4.dynamics.com/": false, "https://user@contoso.crm.dynamics.com/": false, "ftp://contoso.crm.dynamics.com:443": false,
	} {
		u, err := url.Parse(address)
		require.NoError(t, err)
		assert.Equal(t, want, sameOrigin(u, root), address)
	}
	plain := &url.URL{Scheme: "http", Host: "127.0.0.1:80"}
	assert.True(t, sameOrigin(&url.URL{Scheme: "http", Host: "127.0.0.1"}, plain))
	assert.False(t, sameOrigin(&url.URL{Scheme: "https", Host: "127.0.0.1"}, plain))
}

func TestBooleansOfXMLSchema(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]bool{
		"true": {true, true}, "1": {true, true}, " True\n": {true, true}, "false": {false, true}, "0": {false, true}, "FALSE": {false, true}, "": {}, "yes": {}, "10": {}, "tru": {},
	} {
		value, ok := xsBoolean(text)
		assert.Equal(t, want, [2]bool{value, ok}, text)
	}
}

// Text around the values of a policy, and the attributes of an import.
func TestPlacesInAWSDL(t *testing.T) {
	t.Parallel()
	values := `<x:FailoverAvailable>true</x:FailoverAvailable><x:EndpointEnabled>true</x:EndpointEnabled>`
	policy := func(content string) string {
		return strings.Replace(wsdl(policyOf("", "")), "<x:FailoverAvailable></x:FailoverAvailable><x:EndpointEnabled></x:EndpointEnabled>", content, 1)
	}
	for name, tt := range map[string]struct {
		doc  string
		want Policy
	}{
		"values":              {policy(values), servesAndHas},
		"zero and one":        {policy(strings.NewReplacer("true</x:F", "0</x:F", "true</x:E", "1</x:E").Replace(values)), Policy{Known: true, EndpointEnabled: true}},
		"others beside them":  {policy("<a>false</a>" + values + "<x:b>x</x:b>"), servesAndHas},
		"text around them":    {policy("false" + values + "false"), servesAndHas},
		"after its end":       {policy("</x:FailoverPolicy><x:Other>" + values + "</x:Other><x:FailoverPolicy>"), Policy{}},
		"in something within": {policy("<a>" + values + "</a>"), Policy{}},
	} {
		got, _, err := parseWSDL(strings.NewReader(tt.doc))
		require.NoError(t, err, name)
		assert.Equal(t, tt.want, got, name)
	}
	_, imports, err := parseWSDL(strings.NewReader(wsdl(`<wsdl:import xmlns:o="urn:o" o:location="no" namespace="no" location="yes"/><wsdl:import/>`)))
	require.NoError(t, err)
	assert.Equal(t, []string{"yes", ""}, imports)
	for _, doc := range []string{wsdl(strings.Repeat("<a>", 200)), policy(strings.Repeat("<a>", 200))} {
		_, _, err := parseWSDL(strings.NewReader(doc))
		assert.ErrorIs(t, err, xmlpath.ErrDepth)
	}
	_, _, err = parseWSDL(strings.NewReader(policy("<a></b>")))
	assert.Error(t, err)
}

// An error of DiscoverPolicy is a fault of the endpoint, or says what is wrong with the call.
func TestTheErrorsOfDiscoverPolicy(t *testing.T) {
	t.Parallel()
	var body *countingBody
	answers := func(status int, text string, end error) func(int, *http.Request) (*http.Response, error) {
		return func(int, *http.Request) (*http.Response, error) {
			body = &countingBody{Reader: io.MultiReader(strings.NewReader(text), iotest.ErrReader(end))}
			return &http.Response{StatusCode: status, Body: body, Header: http.Header{}, ContentLength: -1}, nil
		}
	}
	long := strings.Repeat("a", 1000)
	for name, tt := range map[string]struct {
		answer func(int, *http.Request) (*http.Response, error)
		want   Fault
	}{
		"not served":     {answers(503, "", io.EOF), Fault{Class: ClassUnavailable, Status: 503}},
		"no content":     {answers(204, "", io.EOF), Fault{Class: ClassApplication, Delivery: Answered, Status: 204}},
		"no WSDL":        {answers(200, "<a/>", io.EOF), Fault{Class: ClassApplication, Delivery: Answered, Status: 200, Message: "answer is not a WSDL"}},
		"long complaint": {answers(200, "<wsdl:definitions xmlns:wsdl='http://schemas.xmlsoap.org/wsdl/'><"+long+"></b>", io.EOF), Fault{Class: ClassApplication, Delivery: Answered, Status: 200, Message: "XML syntax error on line 1: element <" + long[:128-len("XML syntax error on line 1: element <")]}},
		"breaks off":     {answers(200, "<wsdl:def", io.ErrUnexpectedEOF), Fault{Class: ClassTransient, Err: io.ErrUnexpectedEOF}},
		"no connection": {func(int, *http.Request) (*http.Response, error) {
			body = &countingBody{closed: 1}
			return nil, &net.OpError{Op: "dial", Err: io.EOF}
		}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
	} {
		policy, err := DiscoverPolicy(t.Context(), &http.Client{Transport: &readSide{answer: tt.answer}}, contoso(t))
		var f *Fault
		require.ErrorAs(t, err, &f, name)
		got := *f
		if name == "no connection" {
			got.Err = nil
		}
		assert.Equal(t, tt.want, got, name)
		assert.Zero(t, policy)
		assert.Equal(t, 1, body.closed, name)
	}
	for host, text := range map[string]string{"": "failover: policy: endpoint has no host", "contoso example": "failover: policy of contoso example: bad address"} {
		_, err := DiscoverPolicy(t.Context(), nil, &url.URL{Scheme: "https", Host: host})
		assert.EqualError(t, err, text)
	}
	// Once a policy was read it is known, whatever becomes of the rest.
	text := wsdl(policyOf("true", "true"))
	whole := &readSide{answer: func(int, *http.Request) (*http.Response, error) {
		r := &wholeThenError{text: text}
		return &http.Response{StatusCode: 200, Body: io.NopCloser(r), Header: http.Header{}, ContentLength: -1}, nil
	}}
	policy, err := DiscoverPolicy(t.Context(), &http.Client{Transport: whole}, contoso(t))
	assert.NoError(t, err)
	assert.Equal(t, servesAndHas, policy)
}

// wholeThenError returns its text together with an error.
type wholeThenError struct{ text string }

func (r *wholeThenError) Read(p []byte) (int, error) {
	n := copy(p, r.text)
	r.text = r.text[n:]
	if r.text == "" {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}
