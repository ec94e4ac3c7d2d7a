package failover

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What one Verify has found is not taken back by another one that does not get so far: on
// the page, missing writes stay missing.
func TestAVerifyThatEndsEarlyTakesNothingBack(t *testing.T) {
	t.Parallel()
	refused := func(int, *http.Request) (*http.Response, error) {
		return replyWith(401, "", "WWW-Authenticate", "Bearer"), nil
	}
	unavailable := func(int, *http.Request) (*http.Response, error) { return replyWith(503, ""), nil }
	second := func(n int, req *http.Request) (*http.Response, error) {
		if n == 0 {
			return holding(accountA)(n, req)
		}
		return refused(n, req)
	}
	type read struct {
		answer func(int, *http.Request) (*http.Response, error)
		fails  bool
	}
	full, noToken, half, ill := read{holding(accountA), false}, read{refused, true}, read{second, true}, read{unavailable, false}
	for _, tt := range []struct {
		name  string
		reads []read
		want  [3]string // states of the creates of A and B, and of one without an id
	}{
		{"refused at once", []read{noToken}, [3]string{"not verified", "not verified", "unreadable"}},
		{"refused after the first", []read{half}, [3]string{"present", "not verified", "unreadable"}},
		{"complete", []read{full}, [3]string{"present", "missing", "unreadable"}},
		{"then refused", []read{full, noToken, noToken}, [3]string{"present", "missing", "unreadable"}},
		{"then refused after the first", []read{full, half}, [3]string{"present", "missing", "unreadable"}},
		{"each record in trouble", []read{ill}, [3]string{"unreadable", "unreadable", "unreadable"}},
		{"then in trouble", []read{full, ill}, [3]string{"present", "missing", "unreadable"}},
		{"in trouble, then complete", []read{ill, full}, [3]string{"present", "missing", "unreadable"}},
		{"found later", []read{full, {holding(accountA, accountB), false}}, [3]string{"present", "present", "unreadable"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBooks(8)
				b.record(created(accountA, 0))
				time.Sleep(time.Millisecond)
				b.record(created(accountB, 0))
				time.Sleep(time.Millisecond)
				b.record(ended(Primary, OutcomeAcknowledged, time.Now(), "soap"))
				r := b.report(Primary, Alternate, 1, time.Now(), "")
				require.Len(t, r.AtRisk, 3)
				for _, read := range tt.reads {
					v, err := r.Verify(t.Context(), &http.Client{Transport: &readSide{answer: read.answer}})
					assert.Equal(t, read.fails, err != nil)
					assert.Len(t, append(append(v.Present, v.Missing...), v.Unreadable...), 3)
				}
				var got [3]string
				for i, w := range lossView(r).AtRisk {
					got[i] = w.State
				}
				assert.Equal(t, tt.want, got)
			})
		})
	}
}
