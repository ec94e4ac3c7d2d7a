package failover

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/answer"
)

// What a layer around the operation quotes, or a plug-in in it, is not the word of the
// endpoint about the request: it is no proof, and no fence.
func TestWhatOtherLayersQuote(t *testing.T) {
	t.Parallel()
	const source, trace = `"@Microsoft.PowerApps.CDS.ErrorDetails.ApiExceptionSourceKey"`, `"@Microsoft.PowerApps.CDS.TraceText"`
	for name, row := range map[string]struct {
		status     int
		more       string
		code       string
		class      Class
		delivery   Delivery
		definitive bool
	}{
		"fence":                              {500, ``, "0x8004B065", ClassUnavailable, Refused, true},
		"fence, source of another kind":      {500, `,` + source + `:"ServiceRequest/Contoso"`, "0x8004B065", ClassUnavailable, Refused, true},
		"fence, empty trace":                 {500, `,` + trace + `:" "`, "0x8004B065", ClassUnavailable, Refused, true},
		"fence, plug-in":                     {500, `,` + source + `:"Plugin/Contoso"`, "0x8004B065", ClassUnavailable, Answered, false},
		"fence, trace":                       {500, `,` + trace + `:"[Contoso]"`, "0x8004B065", ClassUnavailable, Answered, false},
		"service protection":                 {429, ``, "0x80072322", ClassThrottled, Refused, false},
		"service protection, plug-in":        {429, `,` + source + `:"Plugin/Contoso"`, "0x80072322", ClassThrottled, Answered, false},
		"time-out, plug-in":                  {500, `,` + source + `:"Plugin/Contoso"`, "0x80044151", ClassTransient, Unknown, false},
		"validation, plug-in":                {400, `,` + source + `:"Plugin/Contoso"`, "0x80040203", ClassApplication, Answered, false},
		"fence, passed on":                   {404, `,"extendedData":{"code":"0x8004A104"}`, "NotFound", ClassUnavailable, Unknown, true},
		"service protection, passed on":      {500, `,"extendedData":{"code":"0x80072322"}`, "Failed", ClassThrottled, Unknown, false},
		"service protection, passed on, 429": {429, `,"extendedData":{"code":"0x80072322"}`, "Failed", ClassThrottled, Refused, false},
		"answer, passed on":                  {400, `,"extendedData":{"code":"0x80040203"}`, "Failed", ClassApplication, Answered, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := answerRow{method: http.MethodPost, status: row.status, header: typed(jsonType)}
				f := Classify(r.response(io.NopCloser(strings.NewReader(`{"error":{"code":"`+row.code+`","message":"x"`+row.more+`}}`))), nil)
				require.NotNil(t, f)
				assert.Equal(t, row.class.String(), f.Class.String())
				assert.Equal(t, row.delivery.String(), f.Delivery.String())
				assert.Equal(t, row.definitive, f.Definitive)
			})
		})
	}
}

// Words and numbers that gateways have for their own troubles are neither the errors of
// a token service nor codes of the organization.
func TestWhatGatewaysSayOfThemselves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for body, want := range map[string]struct {
			status   int
			class    Class
			delivery Delivery
		}{
			`{"error":"timeout"}`:                                     {504, ClassTransient, Unknown},
			`{"error":"unavailable"}`:                                 {500, ClassTransient, Unknown},
			`{"error":"no_healthy_upstream"}`:                         {503, ClassUnavailable, Unknown},
			`{"error":"invalid_grant"}`:                               {400, ClassAuth, Answered},
			`{"error":"invalid_token"}`:                               {499, ClassAuth, Answered},
			`{"error":"server_error","error_description":""}`:         {503, ClassAuth, Answered},
			`{"error":{"code":"408","message":"x"}}`:                  {504, ClassApplication, Unknown},
			`{"error":{"code":"429","message":"x"}}`:                  {501, ClassThrottled, Unknown},
			`{"error":{"code":"429","message":"y"}}`:                  {500, ClassThrottled, Answered},
			`{"error":{"code":-1,"message":"x"}}`:                     {503, ClassUnavailable, Unknown},
			`{"error":{"code":-32603,"message":"x"}}`:                 {502, ClassUnavailable, Unknown},
			`{"error":{"code":"0xC0000005","message":"x"}}`:           {500, ClassTransient, Unknown},
			`{"error":{"code":"0x80131500","message":"x"}}`:           {500, ClassApplication, Answered},
			`{"error":{"code":"0x8FFFFFFF","message":"x"}}`:           {500, ClassTransient, Unknown},
			`{"error":{"code":"-2130706433","message":"0x80FFFFFF"}}`: {500, ClassApplication, Answered},
		} {
			r := answerRow{method: http.MethodPost, status: want.status, header: typed(jsonType)}
			f := Classify(r.response(io.NopCloser(strings.NewReader(body))), nil)
			require.NotNil(t, f, body)
			assert.Equal(t, want.class.String(), f.Class.String(), body)
			assert.Equal(t, want.delivery.String(), f.Delivery.String(), body)
		}
		for status, class := range map[int]Class{400: ClassApplication, 401: ClassAuth, 403: ClassAuth, 407: ClassAuth, 408: ClassApplication, 429: ClassThrottled, 500: ClassApplication} {
			f := Fault{Status: status}
			assert.True(t, f.byCode(&answer.Answer{Code: "0x80131500"}))
			assert.Equal(t, class.String(), f.Class.String(), "%d with a number that is in no list", status)
			assert.Equal(t, Answered, f.Delivery)
		}
		for status, class := range map[int]Class{400: ClassApplication, 500: ClassApplication, 501: ClassTransient, 502: ClassUnavailable, 503: ClassUnavailable, 504: ClassTransient} {
			r := answerRow{method: http.MethodPost, path: orgService, status: status, header: typed("text/xml")}
			f := Classify(r.response(io.NopCloser(strings.NewReader(soap11Fault("<faultcode>e:Server</faultcode>", "x", `<detail><f:fault xmlns:f="urn:contoso:bus"/></detail>`)))), nil)
			assert.Equal(t, class.String(), f.Class.String(), status)
			assert.Equal(t, class == ClassApplication, f.Delivery == Answered, status)
		}
	})
}

// Opaque goes out in place of the path: it tells where a page is misplaced.
func TestAPageIsMisplacedWhereOpaqueAsksAnAPI(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for opaque, fault := range map[string]bool{"/api/data/v9.2/accounts?x=1": true, "/WebResources/contoso_/start.html": false, "": true} {
			r := answerRow{method: http.MethodPost, status: 200, header: typed(htmlType)}
			resp := r.response(io.NopCloser(strings.NewReader("<h1>Welcome to the hotel</h1>")))
			resp.Request.URL.Opaque = opaque
			assert.Equal(t, fault, Classify(resp, nil) != nil, opaque)
		}
		r := answerRow{path: "/elsewhere", status: 200, header: typed(htmlType)}
		resp := r.response(io.NopCloser(strings.NewReader("<title>Organization Service</title>")))
		resp.Request.URL.Opaque = "/XRMServices/2011/Organization.svc"
		assert.Nil(t, Classify(resp, nil), "the page of a service for people")
		resp.Body, resp.Request.URL.Opaque = io.NopCloser(strings.NewReader("<title>Organization Service</title>")), "/api/data/v9.2/accounts"
		assert.NotNil(t, Classify(resp, nil), "no service has its page there")
	})
}

// A message that is not held tells what it executes if it is in memory: to have any
// other again might disturb the one that is being sent.
func TestWhatAMessageExecutesThatIsNotHeld(t *testing.T) {
	t.Parallel()
	one := execute("", "", "Merge")
	closed := 0
	for name, row := range map[string]struct {
		body    io.Reader
		getBody func() (io.ReadCloser, error)
		maxBody int64
		want    bool
	}{
		"in memory": {strings.NewReader(one), func() (io.ReadCloser, error) { return &closing{strings.NewReader(one), &closed}, nil }, 3, false},
		"several, in memory": {strings.NewReader(one), func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(execute("", "", "ExecuteMultiple"))), nil
		}, 3, true},
		"cannot be had again":   {strings.NewReader(one), func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(one)), io.ErrUnexpectedEOF }, 3, true},
		"is not given again":    {strings.NewReader(one), func() (io.ReadCloser, error) { return nil, nil }, 3, true},
		"without GetBody":       {strings.NewReader(one), nil, 3, true},
		"a file":                {struct{ io.Reader }{strings.NewReader(one)}, func() (io.ReadCloser, error) { t.Error("asked for"); return nil, nil }, 3, true},
		"held, without GetBody": {struct{ io.Reader }{strings.NewReader(one)}, nil, 1 << 20, false},
		"none":                  {nil, func() (io.ReadCloser, error) { return http.NoBody, nil }, 3, true},
	} {
		req, err := http.NewRequest("POST", "https://contoso.crm.dynamics.com"+orgService, row.body)
		require.NoError(t, err)
		req.Header.Set("Content-Type", "text/xml")
		req.GetBody = row.getBody
		c := &call{t: new(Transport), req: req}
		if row.body != nil {
			require.NoError(t, c.body.load(req, row.maxBody))
		}
		assert.Equal(t, row.want, c.isBulk(), name)
	}
	assert.Equal(t, 1, closed, "what was obtained is closed")
}

// The name of a request may come in pieces, and none is longer than a name can be.
func TestTheNameOfARequestInPieces(t *testing.T) {
	t.Parallel()
	message := func(name string) io.Reader {
		return strings.NewReader(`<E><Body><Execute><request><RequestName>` + name + `</RequestName></request></Execute></Body></E>`)
	}
	for name, want := range map[string]bool{
		"ExecuteMul<!-- -->tiple":                                   true,
		"Execute<![CDATA[Multi]]>ple ":                              true,
		"Execute<?x?>Multiple":                                      true,
		"Book<!-- -->Order":                                         false,
		strings.Repeat("x", maxRequestName):                         false,
		strings.Repeat("x", maxRequestName) + "<!-- -->x":           true,
		strings.Repeat("x", maxRequestName+1):                       true,
		"ExecuteMul</RequestName><Other>tiple</Other><RequestName>": false,
	} {
		assert.Equal(t, want, executesMultiple(message(name)), name)
	}
}
