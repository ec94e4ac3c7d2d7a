package failover

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/redact"
	"github.com/d365failover/failover/internal/xmlpath"
)

// Policy is what an organization's service description says about failover at
// the endpoint that it was read from. The zero value says nothing.
type Policy struct {
	// Known: the description has a failover policy. On premises it has none.
	// While false, the other fields mean nothing.
	Known bool
	// FailoverAvailable: the organization has an alternate endpoint to fail
	// over to.
	FailoverAvailable bool
	// EndpointEnabled: this endpoint serves the organization.
	EndpointEnabled bool
}

// DiscoverPolicy reads the failover policy from the WSDL of the organization service at an
// endpoint, for checks at start-up. Dataverse shows the WSDL without authentication.
// DiscoverPolicy does not follow redirects; a nil client means [http.DefaultClient]. Use a
// client without a [Transport], which would ask the active endpoint instead. An error is a
// *[Fault] of the endpoint, or says that endpoint has no host.
//
// The policy is the element FailoverPolicy of the namespace
// http://schemas.microsoft.com/xrm/2012/Contracts/Services in a WS-Policy; one without both
// FailoverAvailable and EndpointEnabled is ignored. It is behind a wsdl:import. Imports are
// followed within the origin of the endpoint only; if a WSDL without a policy has others, that
// is an error. At most 5 documents are read, nested imports included, up to 4 MiB of each.
func DiscoverPolicy(ctx context.Context, client *http.Client, endpoint *url.URL) (Policy, error) {
	if endpoint == nil || endpoint.Host == "" {
		return Policy{}, errors.New("failover: policy: endpoint has no host")
	}
	root := endpoint.JoinPath("/XRMServices/2011/Organization.svc")
	root.User, root.Fragment, root.RawQuery = nil, "", "wsdl"
	return findPolicy(ctx, withoutRedirects(client), root)
}

// ProbeWSDL is a [Probe] that reads the failover policy with [DiscoverPolicy]. The endpoint
// passes if the policy says that it is enabled, and fails if the policy says otherwise. If
// there is no policy, as on premises, or the request is throttled, the endpoint passes on weak
// evidence, except after a fence. ProbeWSDL needs no credentials.
func ProbeWSDL(ctx context.Context, client *http.Client, endpoint *url.URL) error {
	policy, err := DiscoverPolicy(ctx, client, endpoint)
	var f *Fault
	switch {
	case errors.As(err, &f) && f.Class == ClassThrottled:
		return passWeakly(ctx, f)
	case err != nil:
		return err
	case policy.Known && !policy.EndpointEnabled:
		return errNotEnabled
	case !policy.Known:
		return passWeakly(ctx, wsdlFault("WSDL has no failover policy"))
	default:
		return nil
	}
}

var errNotEnabled = errors.New("failover: the failover policy says that the endpoint is not enabled")

// Limits of what is read for a policy. The WSDL of an organization imports one document, of
// some hundred kilobytes.
const (
	maxWSDL        = 4 << 20  // bytes of one document
	maxWSDLTag     = 64 << 10 // bytes of one tag or text
	maxWSDLDepth   = 128      // nested elements
	maxImports     = 4
	maxImportDepth = 2
	maxPolicyValue = 64 // bytes
)

// A wsdlAddress is where a document of the WSDL is, and how many imports lead there.
type wsdlAddress struct {
	url   *url.URL
	depth int
}

// findPolicy reads the WSDL at root, and what that imports, until it finds a policy.
func findPolicy(ctx context.Context, client *http.Client, root *url.URL) (Policy, error) {
	queue := []wsdlAddress{{url: root}}
	seen := map[string]bool{root.String(): true}
	whole := true
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		policy, imports, err := readWSDL(ctx, client, at.url)
		if err != nil || policy.Known {
			return policy, err
		}
		for _, location := range imports {
			u, err := at.url.Parse(strings.TrimSpace(location))
			if err != nil || !sameOrigin(u, root) {
				whole = false
				continue
			}
			u.Host, u.Fragment = root.Host, ""
			switch key := u.String(); {
			case seen[key]:
			case at.depth == maxImportDepth || len(seen) > maxImports:
				whole = false
			default:
				seen[key] = true
				queue = append(queue, wsdlAddress{u, at.depth + 1})
			}
		}
	}
	if !whole {
		return Policy{}, wsdlFault("WSDL has no failover policy, but imports that are not followed")
	}
	return Policy{}, nil
}

// sameOrigin reports whether u may be sent what belongs to root.
func sameOrigin(u, root *url.URL) bool {
	name, port := splitAuthority(ascii.Lower(u.Host))
	rootName, rootPort := splitAuthority(ascii.Lower(root.Host))
	return u.User == nil && u.Scheme == root.Scheme && name == rootName &&
		cmp.Or(port, defaultPort(u.Scheme)) == cmp.Or(rootPort, defaultPort(root.Scheme))
}

// withoutRedirects returns a copy of client that returns redirects instead of following them:
// they lead to a sign-in page, or elsewhere, where an answer proves nothing.
func withoutRedirects(client *http.Client) *http.Client {
	if client == nil {
		client = http.DefaultClient
	}
	c := *client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// readWSDL reads one document of a WSDL, and returns the policy, or else the locations of its
// imports.
func readWSDL(ctx context.Context, client *http.Client, u *url.URL) (Policy, []string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return Policy{}, nil, fmt.Errorf("failover: policy of %s: bad address", u.Host)
	}
	resp, err := client.Do(req)
	if f := (*Fault)(nil); errors.As(err, &f) {
		return Policy{}, nil, f
	}
	if err != nil {
		return Policy{}, nil, Classify(nil, err)
	}
	defer discard(resp)
	if f := Classify(resp, nil); f != nil {
		return Policy{}, nil, f
	}
	if resp.StatusCode != http.StatusOK {
		return Policy{}, nil, &Fault{Class: ClassApplication, Delivery: Answered, Status: resp.StatusCode}
	}
	body := &wsdlReader{r: io.LimitReader(resp.Body, maxWSDL)}
	policy, imports, err := parseWSDL(body)
	switch {
	case body.err != nil && err != nil:
		return Policy{}, nil, Classify(nil, body.err)
	case err != nil:
		return Policy{}, nil, wsdlFault(err.Error())
	}
	return policy, imports, nil
}

// wsdlFault is the fault of an endpoint that answers, but not with a WSDL that has the policy.
// It proves nothing about the endpoint.
func wsdlFault(message string) *Fault {
	return &Fault{Class: ClassApplication, Delivery: Answered, Status: http.StatusOK, Message: redact.Line(message, maxRequestText)}
}

// wsdlReader is the body of a WSDL. It keeps the error of the body, which the XML decoder
// mixes with its own. It also bounds the tags, which take several times their size in the
// decoder; no tag can contain a "<".
type wsdlReader struct {
	r   io.Reader
	err error // of r, other than io.EOF
	run int   // bytes since the last "<"
}

func (w *wsdlReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != io.EOF {
		w.err = err
	}
	w.run += n
	if i := bytes.LastIndexByte(p[:n], '<'); i >= 0 {
		w.run = n - i
	}
	if w.run > maxWSDLTag {
		return 0, errLongTag
	}
	return n, err
}

// Names in a WSDL (WSDL 1.1, section 2.1; WS-Policy 1.2 and 1.5, section 4).
var (
	nameDefinitions = xml.Name{Space: "http://schemas.xmlsoap.org/wsdl/", Local: "definitions"}
	nameImport      = xml.Name{Space: "http://schemas.xmlsoap.org/wsdl/", Local: "import"}
	nameAll         = xml.Name{Space: "http://schemas.xmlsoap.org/ws/2004/09/policy", Local: "All"}
	nameAll15       = xml.Name{Space: "http://www.w3.org/ns/ws-policy", Local: "All"}

	namePolicy    = xml.Name{Space: "http://schemas.microsoft.com/xrm/2012/Contracts/Services", Local: "FailoverPolicy"}
	nameAvailable = xml.Name{Space: namePolicy.Space, Local: "FailoverAvailable"}
	nameEnabled   = xml.Name{Space: namePolicy.Space, Local: "EndpointEnabled"}
)

var (
	errNotWSDL = errors.New("answer is not a WSDL")
	errLongTag = errors.New("WSDL has a tag or text longer than 64 KiB")
)

// parseWSDL reads a WSDL to its end, or to a policy that is known. It keeps no more than one
// token, the names of the open elements, and the imports.
func parseWSDL(r io.Reader) (policy Policy, imports []string, err error) {
	x := xmlpath.NewReader(r, maxWSDLDepth)
	rooted := false
	for {
		token, err := x.Next()
		switch {
		case err == io.EOF && rooted:
			return Policy{}, imports, nil
		case err == io.EOF:
			return Policy{}, nil, errNotWSDL
		case err != nil:
			return Policy{}, nil, err
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		switch path := x.Path(); {
		case len(path) == 1 && start.Name != nameDefinitions:
			return Policy{}, nil, errNotWSDL
		case len(path) == 1:
			rooted = true
		case start.Name == nameImport:
			imports = append(imports, location(start.Attr))
		case start.Name == namePolicy && (slices.Contains(path, nameAll) || slices.Contains(path, nameAll15)):
			if policy, err := parsePolicy(x); err != nil || policy.Known {
				return policy, nil, err
			}
		}
	}
}

// location returns the attribute that names the location of an import.
func location(attributes []xml.Attr) string {
	for _, a := range attributes {
		if a.Name.Space == "" && a.Name.Local == "location" {
			return a.Value
		}
	}
	return ""
}

// parsePolicy reads from the start of a FailoverPolicy to its end.
func parsePolicy(x *xmlpath.Reader) (Policy, error) {
	var available, enabled string
	values := map[xml.Name]*string{nameAvailable: &available, nameEnabled: &enabled}
	depth := len(x.Path())
	for open := true; open; {
		token, err := x.Next()
		if err != nil {
			return Policy{}, err
		}
		path := x.Path()
		switch t := token.(type) {
		case xml.EndElement:
			open = len(path) > depth
		case xml.CharData:
			if len(path) != depth+1 {
				continue
			}
			if value := values[path[depth]]; value != nil && len(*value)+len(t) <= maxPolicyValue {
				*value += string(t)
			}
		}
	}
	var policy Policy
	var ok1, ok2 bool
	policy.FailoverAvailable, ok1 = xsBoolean(available)
	policy.EndpointEnabled, ok2 = xsBoolean(enabled)
	policy.Known = ok1 && ok2
	return policy, nil
}

// xsBoolean reads an XML Schema boolean (part 2, section 3.2.2), in any case because .NET
// writes True.
func xsBoolean(s string) (value, ok bool) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "true", "1":
		return true, true
	case "false", "0":
		return false, true
	}
	return false, false
}
