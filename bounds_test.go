package failover

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The limits that the documentation states, tested with literal numbers: what is just within a
// limit is there, and what is just beyond it is not.

func TestTextsOfAFaultAreAsLongAsPromised(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for n, want := range map[int]int{255: 255, 256: 256, 257: 256, 4000: 256} {
			row := answerRow{status: 400, header: typed(jsonType, "x-ms-service-request-id", strings.Repeat("i", n))}
			f := Classify(row.response(io.NopCloser(strings.NewReader(odata("0x80040203", strings.Repeat("m", n))))), nil)
			assert.Len(t, f.Message, want)
			assert.Len(t, f.RequestID, min(n, 128))
		}
		for n, want := range map[int]int{64: 64, 65: 0} {
			row := answerRow{status: 500, header: typed(jsonType)}
			f := Classify(row.response(io.NopCloser(strings.NewReader(odata(strings.Repeat("c", n), "x")))), nil)
			assert.Len(t, f.Code, want)
		}
		long := &Fault{Class: ClassUnavailable, Err: errors.New(strings.Repeat("e", 1000))}
		assert.Len(t, long.Error(), 400)
	})
}

func TestErrorsAreKeptUpTo64KiB(t *testing.T) {
	t.Parallel()
	whole := errors.New(strings.Repeat("e ", 32<<10))
	assert.Same(t, whole, Classify(nil, whole).Err)
	longer := errors.New(strings.Repeat("e ", 32<<10) + "e")
	f := Classify(nil, longer)
	assert.NotErrorIs(t, f, longer)
	assert.LessOrEqual(t, len(f.Err.Error()), 2048)
	assert.Greater(t, len(f.Err.Error()), 1024, "the beginning is left")
}

func TestCodesAreFoundInTheFirst64KiB(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const tail = `"error":{"code":"0x8004B065"}}`
		for n, want := range map[int]string{64 << 10: "0x8004B065", 64<<10 + 3: ""} {
			head := `{"a":"`
			body := head + strings.Repeat("x", n-len(head)-len(tail)-2) + `",` + tail
			require.Len(t, body, n)
			row := answerRow{status: 500, header: typed(jsonType)}
			f := Classify(row.response(io.NopCloser(strings.NewReader(body))), nil)
			assert.Equal(t, want, f.Code, "a body of %d bytes", n)
		}
	})
}

func TestSlowBodiesAreWaitedForTwoSeconds(t *testing.T) {
	t.Parallel()
	for wait, want := range map[time.Duration]string{2*time.Second - 1: "0x8004B065", 2*time.Second + 1: ""} {
		synctest.Test(t, func(t *testing.T) {
			body, sender := io.Pipe()
			defer body.Close()
			go func() {
				time.Sleep(wait)
				io.WriteString(sender, odata("0x8004B065", "x"))
				sender.Close()
			}()
			row := answerRow{status: 500, header: typed(jsonType)}
			resp := row.response(body)
			start := time.Now()
			assert.Equal(t, want, Classify(resp, nil).Code, "after %v", wait)
			assert.Equal(t, min(wait, 2*time.Second), time.Since(start))
			rest, err := io.ReadAll(resp.Body)
			assert.NoError(t, err)
			assert.Equal(t, odata("0x8004B065", "x"), string(rest))
		})
	}
}

func TestWSDLsAreReadAsFarAsPromised(t *testing.T) {
	t.Parallel()
	read := func(docs map[string]string) (Policy, error) {
		return DiscoverPolicy(t.Context(), &http.Client{Transport: &policySite{docs: docs}}, contoso(t))
	}
	filled := func(n int) string { // a WSDL of n bytes whose policy comes last
		const text = 32 << 10
		rest := n - len(wsdl(policyOf("true", "true")))
		var b strings.Builder
		for ; rest > text; rest -= text {
			b.WriteString("<a>" + strings.Repeat(" ", text-7) + "</a>")
		}
		b.WriteString(strings.Repeat(" ", rest))
		return wsdl(b.String() + policyOf("true", "true"))
	}
	policy, err := read(map[string]string{wsdlRoot: filled(4 << 20)})
	assert.NoError(t, err)
	assert.Equal(t, servesAndHas, policy)
	policy, err = read(map[string]string{wsdlRoot: filled(4<<20 + 1<<10)})
	assert.Error(t, err, "the policy ends beyond 4 MiB")
	assert.Equal(t, Policy{}, policy)

	// The root and its first four imports are read; the fifth import is not.
	for last, known := range map[int]bool{3: true, 4: false} {
		docs := map[string]string{}
		var imports strings.Builder
		for i := range 5 {
			request := wsdlRoot + "=" + strconv.Itoa(i)
			imports.WriteString(importOf("https://contoso.api.crm.dynamics.com" + request))
			docs[request] = wsdl("")
			if i == last {
				docs[request] = wsdl(policyOf("true", "true"))
			}
		}
		docs[wsdlRoot] = wsdl(imports.String())
		policy, err := read(docs)
		assert.Equal(t, known, policy.Known, "import %d", last)
		assert.Equal(t, known, err == nil, "import %d", last)
	}

	// Elements nest 128 deep at most; the definitions are one of them.
	for depth, ok := range map[int]bool{127: true, 128: false} {
		_, _, err := parseWSDL(strings.NewReader(wsdl(strings.Repeat("<a>", depth) + strings.Repeat("</a>", depth))))
		assert.Equal(t, ok, err == nil, "%d elements", depth)
	}
	for length, known := range map[int]bool{60: true, 61: false} {
		policy, _, err := parseWSDL(strings.NewReader(wsdl(policyOf("true", strings.Repeat(" ", length)+"true"))))
		assert.NoError(t, err)
		assert.Equal(t, known, policy.Known, "a value of %d bytes", length+4)
	}
}

// A program's own Classify has the last word on answers, in both directions.
func TestAProgramsOwnClassifyDecides(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		answer   frontAnswer
		classify func(*http.Response, error) *Fault
		posts    int64
		counted  uint64
	}{
		{"a success that is none", frontAnswer{Status: 200, Header: http.Header{"X-Contoso": {"broken"}}}, func(resp *http.Response, err error) *Fault {
			if err == nil && resp.Header.Get("X-Contoso") == "broken" {
				return &Fault{Class: ClassUnavailable, Delivery: Unknown, Status: resp.StatusCode}
			}
			return Classify(resp, err)
		}, 1, 1},
		{"an outage that is none", frontAnswer{Status: 503}, func(resp *http.Response, err error) *Fault {
			if err == nil && resp.StatusCode == 503 {
				return nil
			}
			return Classify(resp, err)
		}, 1, 0},
		{"a refusal that is proof", frontAnswer{Status: 502}, func(resp *http.Response, err error) *Fault {
			if err == nil && resp.StatusCode == 502 {
				return &Fault{Class: ClassUnavailable, Delivery: Refused, Status: 502}
			}
			return Classify(resp, err)
		}, 4, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				base := &frontEnd{answer: &tt.answer}
				transport, err := New("https://contoso.api.crm.dynamics.com", &Config{
					Base: base, Classify: tt.classify, Alternate: NoAlternate, FailureThreshold: 100, Logger: slog.New(slog.DiscardHandler),
				})
				require.NoError(t, err)
				defer transport.Close()
				req, err := http.NewRequest(http.MethodPost, "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", strings.NewReader("{}"))
				require.NoError(t, err)
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err, "the answer comes back as it came")
				resp.Body.Close()
				assert.Equal(t, tt.answer.Status, resp.StatusCode)
				assert.Equal(t, tt.posts, base.posts.Load())
				var counted uint64
				for _, n := range transport.Status().Primary.Faults {
					counted += n
				}
				assert.Equal(t, tt.counted, counted)
			})
		})
	}
}
