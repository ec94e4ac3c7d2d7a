package failover

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/d365failover/failover/internal/answer"
)

// Sign-in hosts are recognized in any case.
func TestWhereCallersAreSentToSignIn(t *testing.T) {
	t.Parallel()
	for location, want := range map[string]bool{
		"https://login.microsoftonline.com/common": true, "https://LOGIN.windows.net/": true, "https://login.microsoft.com": true, "https://login.live.com:443/": true,
		"https://login.microsoftonline.us/": true, "https://login-us.microsoftonline.com/": true, "https://login.microsoftonline.de/": true,
		"https://login.chinacloudapi.cn/": true, "https://login.partner.microsoftonline.cn/": true, "https://sts.windows.net/contoso": true,
		"https://sts.contoso.com/adfs/ls/?wa=wsignin1.0": true, "https://sts.contoso.com/ADFS/oauth2/authorize": true,
		"https://sts.contoso.com/adfs": false, "https://contoso.crm.dynamics.com/login.live.com": false, "/adfs/ls": true, "https://contoso.com/": false, "": false, "https://%zz": false,
	} {
		for status, asks := range map[int]bool{299: false, 300: want, 302: want, 399: want, 400: true} {
			resp := &http.Response{StatusCode: status, Header: http.Header{"Location": {location}}, Request: &http.Request{URL: &url.URL{Scheme: "https", Host: "contoso.crm.dynamics.com"}}}
			assert.Equal(t, asks, !healthy(resp), "%d %s", status, location)
			if asks && status < 400 {
				assert.Equal(t, &Fault{Class: ClassAuth, Delivery: Answered, Status: status}, Classify(resp, nil))
			}
		}
	}
	assert.False(t, toSignIn(&http.Response{Header: http.Header{}}))
}

// An HTML page counts as misplaced only where an API was called.
func TestAPageIsMisplacedWhereAnAPIWasAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := func(method, path string) *http.Request {
			return &http.Request{Method: method, URL: &url.URL{Path: path}}
		}
		for name, row := range map[string]struct {
			req    *http.Request
			body   io.ReadCloser
			header []string
			want   bool
		}{
			"API":              {asked("GET", "/api/data/v9.2/x"), io.NopCloser(strings.NewReader("x")), nil, true},
			"no request":       {nil, io.NopCloser(strings.NewReader("x")), nil, false},
			"no URL":           {&http.Request{Method: "GET"}, io.NopCloser(strings.NewReader("x")), nil, false},
			"elsewhere":        {asked("GET", "/WebResources/x"), io.NopCloser(strings.NewReader("x")), nil, false},
			"on premises":      {asked("GET", "/contoso/api/data/v9.2/x"), io.NopCloser(strings.NewReader("x")), nil, true},
			"SOAP there":       {asked("POST", "/contoso/XRMServices/2011/Organization.svc"), io.NopCloser(strings.NewReader("x")), nil, true},
			"a page there":     {asked("GET", "/contoso/api/x"), io.NopCloser(strings.NewReader("x")), nil, false},
			"further down":     {asked("GET", "/contoso/x/api/data"), io.NopCloser(strings.NewReader("x")), nil, false},
			"HEAD":             {asked("HEAD", "/api/data/v9.2/x"), io.NopCloser(strings.NewReader("x")), nil, false},
			"no body":          {asked("GET", "/api/data/v9.2/x"), nil, nil, false},
			"empty body":       {asked("GET", "/api/data/v9.2/x"), http.NoBody, nil, false},
			"version":          {asked("GET", "/api/data/v9.2/x"), io.NopCloser(strings.NewReader("x")), []string{"OData-Version", "4.0"}, false},
			"version of OData": {asked("GET", "/api/data/v9.2/x"), io.NopCloser(strings.NewReader("x")), []string{"DataServiceVersion", "2.0"}, false},
		} {
			resp := &http.Response{StatusCode: 200, Request: row.req, Body: row.body, Header: headerWith(append(row.header, "Content-Type", "text/html")...)}
			assert.Equal(t, row.want, misplacedPage(resp), name)
			assert.Equal(t, row.want, Classify(resp, nil) != nil, name)
			resp.Header.Set("Content-Type", "application/json")
			assert.False(t, misplacedPage(resp), name)
			resp.Header.Del("Content-Type")
			assert.False(t, misplacedPage(resp), name)
		}
	})
}

func TestStatusesThatAreHealthy(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]bool{99: false, 100: true, 101: true, 199: true, 200: true, 204: true, 299: true, 300: true, 304: true, 399: true, 400: false, 404: false, 500: false, 599: false} {
		assert.Equal(t, want, healthy(&http.Response{StatusCode: status, Header: http.Header{}}), status)
	}
}

// Statuses that are conclusive by themselves.
func TestWhatAStatusSays(t *testing.T) {
	t.Parallel()
	type judgement struct {
		class    Class
		delivery Delivery
	}
	for status, want := range map[int]judgement{
		399: {ClassTransient, Unknown}, 400: {ClassApplication, Answered}, 401: {ClassAuth, Answered}, 402: {ClassApplication, Answered}, 403: {ClassAuth, Answered},
		404: {ClassApplication, Answered}, 407: {ClassAuth, Answered}, 428: {ClassApplication, Answered}, 429: {ClassThrottled, Refused}, 499: {ClassApplication, Answered},
		500: {ClassTransient, Unknown}, 501: {ClassTransient, Unknown}, 502: {ClassUnavailable, Unknown}, 503: {ClassUnavailable, Unknown}, 504: {ClassTransient, Unknown},
		519: {ClassTransient, Unknown}, 520: {ClassUnavailable, Unknown}, 523: {ClassUnavailable, Unknown}, 524: {ClassTransient, Unknown}, 525: {ClassUnavailable, Unknown},
		527: {ClassUnavailable, Unknown}, 528: {ClassTransient, Unknown}, 530: {ClassUnavailable, Unknown}, 531: {ClassTransient, Unknown}, 200: {ClassTransient, Unknown},
	} {
		f := Fault{Class: ClassLocal, Delivery: NotSent}
		f.byStatus(status)
		assert.Equal(t, want, judgement{f.Class, f.Delivery}, status)
	}
}

// Words on pages whose statuses mislead.
func TestWhatPagesSay(t *testing.T) {
	t.Parallel()
	for phrase, class := range map[string]Class{
		"our services aren't available right now": ClassUnavailable, "web app - unavailable": ClassUnavailable, "web app is stopped": ClassUnavailable,
		"404 web site not found": ClassUnavailable, "service unavailable": ClassUnavailable, "service is unavailable": ClassUnavailable,
		"temporarily unavailable": ClassUnavailable, "bad gateway": ClassUnavailable, "received an invalid response while acting as a gateway": ClassUnavailable,
		"there is a problem with the server": ClassUnavailable, "under maintenance": ClassUnavailable, "scheduled maintenance": ClassUnavailable,
		"gateway timeout": ClassTransient, "gateway time-out": ClassTransient, "request is blocked": ClassAuth, "request rejected": ClassAuth, "page blocked": ClassAuth,
		"access denied": ClassAuth, "access is denied": ClassAuth, "internet security by zscaler": ClassAuth, "403 forbidden": ClassAuth, "sign in to your account": ClassAuth,
	} {
		for status, says := range map[int]bool{400: true, 403: true, 500: true, 401: false, 407: false, 429: false} {
			f := Fault{Status: status, Delivery: Unknown}
			assert.Equal(t, says, f.byPage(&answer.Answer{Page: "contoso: " + phrase + "."}), "%d %s", status, phrase)
			if says {
				assert.Equal(t, class, f.Class, phrase)
				assert.Equal(t, class == ClassAuth, f.Delivery == Answered, phrase)
			}
		}
	}
	assert.False(t, new(Fault).byPage(&answer.Answer{Page: "contoso"}))
}

// Exception types that Finance and Operations names.
func TestWhatExceptionsSay(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Fault{
		"AxODataWriteException": {Class: ClassApplication, Delivery: Answered}, "Microsoft.OData.ODataException": {Class: ClassApplication, Delivery: Answered},
		"ODataUnrecognizedPathException": {Class: ClassApplication, Delivery: Answered}, "ErrorException, Contoso": {Class: ClassApplication, Delivery: Answered},
		"UpdateConflictException": {Class: ClassApplication, Delivery: Answered}, "DuplicateKeyException": {Class: ClassApplication, Delivery: Answered},
		"System.UnauthorizedAccessException, mscorlib": {Class: ClassAuth, Delivery: Answered}, "SecurityException": {Class: ClassAuth, Delivery: Answered},
		"TimeoutException": {Class: ClassTransient, Delivery: Unknown}, "DeadlockException": {Class: ClassTransient, Delivery: Unknown},
	} {
		f := Fault{Class: ClassThrottled, Delivery: Refused}
		assert.True(t, f.byException(&answer.Answer{Exception: name}), name)
		want.service = true
		assert.Equal(t, want, f, name)
	}
	for name, service := range map[string]bool{"System.Exception": true, "": false} {
		f := new(Fault)
		assert.False(t, f.byException(&answer.Answer{Exception: name}), name)
		assert.Equal(t, service, f.service, name)
	}
}

// Subcodes of SOAP faults, in the namespaces that give them a meaning.
func TestWhatSubcodesSay(t *testing.T) {
	t.Parallel()
	const wcf, security = "http://schemas.microsoft.com/ws/2005/05/addressing/none", "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
	judge := func(space, local string) (Fault, bool) {
		f, a := Fault{}, answer.Answer{}
		a.Subcode.Space, a.Subcode.Local = space, local
		ok := f.bySubcode(&a)
		return f, ok
	}
	for local, want := range map[string]Fault{
		"EndpointUnavailable": {Class: ClassUnavailable, Delivery: Unknown}, "ServerTooBusy": {Class: ClassTransient, Delivery: Unknown}, "InternalServiceFault": {Class: ClassTransient, Delivery: Unknown},
		"ActionNotSupported": {Class: ClassApplication, Delivery: Answered, service: true}, "DestinationUnreachable": {Class: ClassApplication, Delivery: Answered, service: true},
		"DeserializationFailed": {Class: ClassApplication, Delivery: Answered, service: true}, "MustUnderstand": {Class: ClassApplication, Delivery: Answered, service: true},
		"VersionMismatch": {Class: ClassApplication, Delivery: Answered, service: true}, "DataEncodingUnknown": {Class: ClassApplication, Delivery: Answered, service: true},
	} {
		for _, space := range []string{wcf, "http://schemas.xmlsoap.org/ws/2004/08/addressing", "http://www.w3.org/2005/08/addressing"} {
			f, ok := judge(space, local)
			want.Code = local
			assert.True(t, ok, local)
			assert.Equal(t, want, f, local)
		}
		_, ok := judge("urn:contoso", local)
		assert.False(t, ok, "somebody's own word")
	}
	_, ok := judge(wcf, "Contoso")
	assert.False(t, ok)
	known, a := Fault{Code: "contoso"}, answer.Answer{}
	a.Subcode.Space, a.Subcode.Local = wcf, "ServerTooBusy"
	assert.True(t, known.bySubcode(&a))
	assert.Equal(t, "contoso", known.Code, "the code that is there says more")
	for _, space := range []string{security, "http://docs.oasis-open.org/ws-sx/ws-trust/200512", "http://docs.oasis-open.org/ws-sx/ws-secureconversation/200512",
		"http://schemas.xmlsoap.org/ws/2005/02/trust", "http://schemas.xmlsoap.org/ws/2005/02/sc", "http://schemas.microsoft.com/ws/2006/05/security"} {
		f, ok := judge(space, "BadContextToken")
		assert.True(t, ok, space)
		assert.Equal(t, Fault{Class: ClassAuth, Delivery: Answered, Code: "BadContextToken"}, f, space)
		a := answer.Answer{}
		a.Detail.Space, a.Detail.Local = space, "Contoso"
		assert.False(t, new(Fault).byDetail(&a), "nothing of the service")
	}
	for space, want := range map[string]bool{"": false, "http://www.w3.org/2005/08/addressing": false, "http://schemas.xmlsoap.org/ws/2004/08/addressing": false,
		"http://schemas.datacontract.org/2004/07/System.ServiceModel": false, "urn:contoso": true} {
		a, f := answer.Answer{}, Fault{}
		a.Detail.Space, a.Detail.Local = space, "Contoso"
		assert.Equal(t, want, f.byDetail(&a), space)
		if want {
			assert.Equal(t, Fault{Class: ClassApplication, Delivery: Answered, service: true}, f)
		}
	}
}

// SQL error numbers that concern the infrastructure, and their neighbours.
func TestSQLErrorsOfTheInfrastructure(t *testing.T) {
	t.Parallel()
	numbers := []int{-2, -1, 0, 2, 20, 35, 53, 64, 121, 233, 258, 997, 10053, 10054, 10060, 10061, 11001, 615, 617, 669, 921, 926, 976, 978, 979, 983, 4060, 4221, 9001, 17142, 18401,
		3906, 701, 802, 845, 1101, 1105, 8645, 8651, 9002, 1203, 1204, 1221, 1222, 3935, 3960, 3966, 41301, 41302, 41305, 41325, 41839,
		10922, 10928, 10929, 10936, 40143, 40197, 40501, 40540, 40549, 40550, 40551, 40552, 40553, 40613, 42108, 42109, 49918, 49919, 49920, 49977, 49983}
	known := make(map[int]bool)
	for _, n := range numbers {
		known[n] = true
	}
	for n := -10; n < 60000; n++ {
		if sqlInfrastructure(n) != known[n] {
			t.Errorf("%d: %v", n, !known[n])
		}
	}
	class, delivery := sqlFault("Sql Number: 1205: deadlock")
	assert.Equal(t, ClassTransient, class)
	assert.Equal(t, Answered, delivery)
}

// A code may be the status of a client error.
func TestCodesThatAreStatuses(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]int{"400": 400, "429": 429, " 499 ": 499, "0x1ad": 429, "0X190": 400, "399": 0, "500": 0, "0x1f4": 0, "0x": 0, "x": 0, "": 0, "65937": 0} {
		n, ok := codeStatus(code)
		assert.Equal(t, want != 0, ok, code)
		if ok {
			assert.Equal(t, want, n, code)
		}
	}
}

// Retry-After in seconds, and as a date, which is relative to the answer's Date.
func TestRetryAfterAtItsBounds(t *testing.T) {
	t.Parallel()
	date := "Sat, 14 Mar 2026 05:00:00 GMT"
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, " 7 ": 7 * time.Second, "300": 5 * time.Minute, "301": 5 * time.Minute, "99999999999999999999999": 5 * time.Minute,
		"-1": 0, "1.5": 0, "Sat, 14 Mar 2026 05:00:30 GMT": 30 * time.Second, "Sat, 14 Mar 2026 04:59:30 GMT": 0, "Sun, 15 Mar 2026 05:00:00 GMT": 5 * time.Minute, "soon": 0,
	} {
		assert.Equal(t, want, retryAfter(http.Header{"Retry-After": {value}, "Date": {date}}), value)
	}
}

// Some headers are set only by the services themselves: an answer that has one comes from
// them.
func TestWhatComesFromAService(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, want := range map[string]bool{"OData-Version": true, "DataServiceVersion": true, "x-ms-service-request-id": true, "REQ_ID": true, "ms-dyn-aid": true, "x-ms-request-id": false, "Server": false} {
			resp := replyWith(500, "", name, "contoso")
			f := Classify(resp, nil)
			assert.Equal(t, want, f.service, name)
			assert.Equal(t, want, fromService(resp, &Fault{}), name)
		}
		assert.True(t, fromService(replyWith(500, ""), &Fault{service: true}))
		assert.True(t, fromService(replyWith(200, ""), nil))
	})
}

// Credentials that an endpoint has rejected are not offered to its probes; those of a request
// that met a fault are.
func TestWhatIsLentToProbes(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		f    Fault
		lent bool
	}{
		"rejected":       {Fault{Class: ClassAuth, Status: 401}, false},
		"forbidden":      {Fault{Class: ClassAuth, Status: 403}, true},
		"unavailable":    {Fault{Class: ClassUnavailable, Status: 503}, true},
		"cannot be sent": {Fault{Class: ClassLocal}, false},
	} {
		c := newCall(t, accountA, "", "", 1)
		c.t = newTestTransport(t, new(closings), Config{ProbeInterval: -1, SuspectAfter: -1})
		c.req.Header.Set("Authorization", "Bearer x")
		c.lend(&row.f)
		var usable []string
		for _, k := range c.t.credentials.kept {
			if !k.rejected[Primary] {
				usable = append(usable, k.header)
			}
		}
		assert.Equal(t, row.lent, len(usable) == 1, name)
	}
}
