package failover

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	const date = "Sun, 06 Nov 1994 08:49:37 GMT"
	tests := []struct {
		name, value, date string
		want              time.Duration
	}{
		{"none", "", date, 0},
		{"seconds", "17", "", 17 * time.Second},
		{"blanks", " 17 ", "", 17 * time.Second},
		{"capped", "86400", "", 5 * time.Minute},
		{"beyond 64 bits", "99999999999999999999999", "", 5 * time.Minute},
		{"negative", "-1", "", 0},
		{"fraction", "1.5", "", 0},
		{"text", "soon", "", 0},
		{"date", "Sun, 06 Nov 1994 08:49:47 GMT", date, 10 * time.Second},
		{"date in the past", "Sun, 06 Nov 1994 08:49:00 GMT", date, 0},
		{"date far ahead", "Sun, 06 Nov 2094 08:49:37 GMT", date, 5 * time.Minute},
		{"old form of date", "Sunday, 06-Nov-94 08:49:47 GMT", date, 10 * time.Second},
	}
	for _, tt := range tests {
		h := http.Header{}
		h.Set("Retry-After", tt.value)
		h.Set("Date", tt.date)
		assert.Equal(t, tt.want, retryAfter(h), tt.name)
	}
}

func TestRetryAfterWithoutDate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := http.Header{}
		h.Set("Retry-After", time.Now().Add(90*time.Second).UTC().Format(http.TimeFormat))
		assert.Equal(t, 90*time.Second, retryAfter(h), "relative to our own clock")
	})
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	assert.Empty(t, requestID(h))
	for _, key := range []string{"x-ms-client-request-id", "request-id", "x-ms-request-id", "REQ_ID", "x-ms-service-request-id"} {
		h.Set(key, key)
		assert.Equal(t, key, requestID(h), "later keys of this list outrank earlier ones")
	}
	h.Set("x-ms-service-request-id", "a\tb"+strings.Repeat("c", 500))
	assert.Len(t, requestID(h), maxRequestText)
	assert.True(t, strings.HasPrefix(requestID(h), "a b"))
	assert.Equal(t, "only", Classify(&http.Response{StatusCode: 500, Header: http.Header{"Req_id": {"only"}}}, nil).RequestID)
}

// Not parallel: testing.AllocsPerRun counts for the whole process.
func TestClassifyHealthyAllocatesNothing(t *testing.T) {
	for _, resp := range healthyAnswers() {
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			if Classify(resp, nil) != nil {
				t.Error("healthy answer judged a fault")
			}
		}))
	}
}

func healthyAnswers() []*http.Response {
	row := answerRow{status: 200, header: typed(jsonType, "OData-Version", "4.0")}
	html := answerRow{status: 200, path: "/WebResources/contoso_/start.html", header: typed(htmlType)}
	empty := answerRow{status: 204}
	unread := io.NopCloser(iotest.ErrReader(errors.New("a healthy body was read")))
	return []*http.Response{row.response(unread), html.response(unread), empty.response(http.NoBody)}
}

func TestDocumentsAreReadToABoundedDepth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for depth, want := range map[int]string{30: "0x8004B065", 33: ""} {
			xml := strings.Replace(soap11Fault(senderCode, "x", orgFault("detail", "0x8004B065", "x", "")),
				"<e:Body>", strings.Repeat("<h>", depth)+strings.Repeat("</h>", depth)+"<e:Body>", 1)
			json := `{"trace":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `,"error":{"code":"0x8004B065"}}`
			for _, body := range []string{xml, json} {
				row := answerRow{status: 500, header: typed("application/octet-stream")}
				f := Classify(row.response(io.NopCloser(strings.NewReader(body))), nil)
				assert.Equal(t, want, f.Code, "depth %d", depth)
			}
		}
	})
}

// A gateway may put its own message before the error that it passes on.
func TestAGatewaysWordDoesNotHideTheCodeItPassesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		row := answerRow{status: 404, header: typed(jsonType)}
		body := `{"error":{"code":"NotFound","message":"no","extendedData":{"code":"0x8004A104"}}}`
		f := Classify(row.response(io.NopCloser(strings.NewReader(body))), nil)
		require.NotNil(t, f)
		assert.Equal(t, "0x8004A104", f.Code)
		assert.True(t, f.Definitive)
	})
}

// Only the body of a SOAP message shows that it asks for several operations.
func TestAFenceAfterSeveralOperationsIsNoProof(t *testing.T) {
	t.Parallel()
	const services = "http://schemas.microsoft.com/xrm/2011/Contracts/Services"
	message := func(kind, name string) string {
		return `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><Execute xmlns="` + services + `">` +
			`<request i:type="b:` + kind + `" xmlns:b="urn:b" xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><b:Parameters/>` +
			`<b:RequestName> ` + name + ` </b:RequestName></request></Execute></s:Body></s:Envelope>`
	}
	tests := []struct {
		name, body string
		want       Delivery
	}{
		{"by name", message("OrganizationRequest", "ExecuteMultiple"), Unknown},
		{"by type", message("ExecuteMultipleRequest", "x"), Unknown},
		{"of elastic tables", message("UpsertMultipleRequest", "UpsertMultiple"), Unknown},
		{"one operation", message("CreateRequest", "Create"), Refused},
		{"the name elsewhere", strings.Replace(message("CreateRequest", "Create"), "<b:Parameters/>", "<b:Parameters><b:RequestName>ExecuteMultiple</b:RequestName></b:Parameters>", 1), Refused},
		{"no envelope", "<a>ExecuteMultiple</a>", Refused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				req, err := http.NewRequest(http.MethodPost, "https://contoso.api.crm.dynamics.com"+orgService, strings.NewReader(tt.body))
				require.NoError(t, err)
				req.Header.Set("Content-Type", "text/xml; charset=utf-8")
				req.Header.Set("SOAPAction", services+"/IOrganizationService/Execute")
				fence := soap11Fault(senderCode, "x", orgFault("detail", "-2147176347", "x", ""))
				f := Classify(&http.Response{StatusCode: 500, Request: req, Body: io.NopCloser(strings.NewReader(fence))}, nil)
				assert.Equal(t, tt.want.String(), f.Delivery.String())
				assert.True(t, f.Definitive)
				req.GetBody = nil
				f = Classify(&http.Response{StatusCode: 500, Request: req, Body: io.NopCloser(strings.NewReader(fence))}, nil)
				assert.Equal(t, Refused.String(), f.Delivery.String(), "a body that is gone does not tell")
			})
		})
	}
}

// Only an answer of the service itself is a sign of its life.
func TestAnswersOfTheServiceAreKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		page := "<html><title>404 Not Found</title></html>"
		tests := []struct {
			name string
			row  answerRow
			want bool
		}{
			{"page of a front end", answerRow{status: 404, header: typed(htmlType), body: page}, false},
			{"nothing", answerRow{status: 404}, false},
			{"word of a front end", answerRow{status: 404, header: typed(jsonType), body: odata("ResourceNotFound", "x")}, false},
			{"message of a front end", answerRow{status: 404, header: typed(jsonType), body: `{"statusCode":404,"message":"Resource not found"}`}, false},
			{"id of a front end", answerRow{status: 404, header: typed(htmlType, "x-ms-request-id", "1", "request-id", "2", "x-azure-ref", "3"), body: page}, false},
			{"firewall", answerRow{status: 403, header: typed(htmlType), body: "<title>Access Denied</title>"}, false},
			{"gateway", answerRow{status: 502, header: typed(htmlType), body: page}, false},
			{"token service", answerRow{status: 400, header: typed(jsonType), body: `{"error":"invalid_grant"}`}, false},
			{"subcode of a gateway", answerRow{status: 500, header: typed("text/xml"), body: soap12Fault(subcode(dispatcher, "ServerTooBusy"), "")}, false},
			{"protocol version", answerRow{status: 404, header: typed(htmlType, "OData-Version", "4.0"), body: page}, true},
			{"old protocol version", answerRow{status: 404, header: typed(htmlType, "DataServiceVersion", "1.0;"), body: page}, true},
			{"id of the service", answerRow{status: 404, header: typed(htmlType, "x-ms-service-request-id", "1"), body: page}, true},
			{"id of the old service", answerRow{status: 404, header: typed(htmlType, "REQ_ID", "1"), body: page}, true},
			{"id of Finance and Operations", answerRow{status: 404, header: typed(htmlType, "ms-dyn-aid", "1"), body: page}, true},
			{"code", answerRow{status: 404, header: typed(jsonType), body: odata("0x80040217", "x")}, true},
			{"code that says nothing", answerRow{status: 500, header: typed(jsonType), body: odata("0x80040216", "x")}, true},
			{"fault of the organization", answerRow{status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", orgFault("detail", "-2147220969", "x", ""))}, true},
			{"fault of an operation", answerRow{status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", `<detail><X xmlns="urn:contoso"/></detail>`)}, true},
			{"refusal of the dispatcher", answerRow{status: 500, header: typed("text/xml"), body: soap12Fault(subcode(dispatcher, "DeserializationFailed"), "")}, true},
			{"exception", answerRow{status: 500, header: typed(jsonType), body: `{"Message":"x","ExceptionType":"System.ArgumentException"}`}, true},
			{"success", answerRow{status: 204}, true},
		}
		for _, tt := range tests {
			resp := tt.row.response(io.NopCloser(strings.NewReader(tt.row.body)))
			assert.Equal(t, tt.want, fromService(resp, Classify(resp, nil)), tt.name)
		}
		resp := &http.Response{StatusCode: 404, Header: http.Header{"Odata-Version": {"4.0"}}}
		assert.True(t, fromService(resp, &Fault{}), "whoever judged it")
	})
}

var codeForm = regexp.MustCompile(`^(0x[89A-F][0-9A-F]{7}|[A-Za-z0-9_.:-]{1,64})?$`)

func FuzzClassify(f *testing.F) {
	for _, row := range answerRows {
		f.Add(row.status, row.header["Content-Type"], "", row.header["Retry-After"], []byte(row.body), true)
	}
	fence := []byte(odata("0x8004B065", "x"))
	f.Add(500, jsonType, "gzip", "", gzipped(f, fence), false)
	f.Add(500, jsonType, "deflate", "1", zlibbed(f, fence), true)
	f.Add(500, jsonType, "deflate", "x", deflated(f, fence), true)
	f.Add(500, "text/xml", "", "", utf16Bytes(soap11Fault(senderCode, "x", orgFault("detail", "-2147176347", "x", "")), "\xff\xfe", false), true)
	errCut := errors.New("connection cut")
	f.Fuzz(func(t *testing.T, status int, contentType, encoding, wait string, body []byte, eof bool) {
		synctest.Test(t, func(t *testing.T) {
			end := errCut
			if eof {
				end = io.EOF
			}
			counted := &countingBody{Reader: io.MultiReader(bytes.NewReader(body), iotest.ErrReader(end))}
			row := answerRow{status: status, header: typed(contentType, "Content-Encoding", encoding, "Retry-After", wait)}
			resp := row.response(counted)
			fault := Classify(resp, nil)
			if counted.read > maxPeek {
				t.Fatalf("read %d bytes", counted.read)
			}
			got, err := io.ReadAll(resp.Body)
			if !bytes.Equal(got, body) || eof && err != nil || !eof && err != errCut {
				t.Fatalf("body changed: %d of %d bytes, error %v", len(got), len(body), err)
			}
			if resp.Body.Close(); counted.closed != 1 {
				t.Fatalf("closed %d times", counted.closed)
			}
			if fault == nil {
				if status < 100 || status >= 400 {
					t.Fatalf("status %d is healthy", status)
				}
				return
			}
			checkFault(t, fault)
		})
	})
}

// checkFault checks what holds for every fault of a response.
func checkFault(t *testing.T, f *Fault) {
	t.Helper()
	if f.Class >= ClassCanceled || f.Delivery > Answered || f.Delivery == NotSent {
		t.Fatalf("class %v, delivery %v", f.Class, f.Delivery)
	}
	if f.Definitive && f.Class != ClassUnavailable {
		t.Fatalf("definitive %v", f.Class)
	}
	if !codeForm.MatchString(f.Code) {
		t.Fatalf("code %q", f.Code)
	}
	if len(f.Message) > 256 || !utf8.ValidString(f.Message) || strings.ContainsFunc(f.Message, func(r rune) bool { return r < ' ' }) {
		t.Fatalf("message %q", f.Message)
	}
	if f.RetryAfter < 0 || f.RetryAfter > 5*time.Minute {
		t.Fatalf("retry after %v", f.RetryAfter)
	}
	if text := f.Error(); len(text) > maxFaultText || strings.ContainsAny(text, "\r\n") {
		t.Fatalf("text %q", text)
	}
}

func BenchmarkClassify(b *testing.B) {
	b.Run("healthy", func(b *testing.B) {
		resp := healthyAnswers()[0]
		b.ReportAllocs()
		for b.Loop() {
			if Classify(resp, nil) != nil {
				b.Fatal("healthy answer judged a fault")
			}
		}
	})
	for name, row := range map[string]answerRow{
		"odata":  {status: 500, header: typed(jsonType), body: odata("0x8004B065", "not here")},
		"soap":   {status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", orgFault("detail", "-2147176347", "not here", ""))},
		"status": {status: 503},
	} {
		b.Run(name, func(b *testing.B) {
			resp := row.response(nil)
			b.ReportAllocs()
			for b.Loop() {
				resp.Body = io.NopCloser(strings.NewReader(row.body))
				if f := Classify(resp, nil); f.Class != ClassUnavailable {
					b.Fatal(f)
				}
			}
		})
	}
}
