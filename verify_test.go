package failover

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// readSide is an in-memory organization that Verify reads from.
type readSide struct {
	answer func(n int, req *http.Request) (*http.Response, error) // n counts from 0
	mu     sync.Mutex
	reads  []string // method, URL
	times  []time.Time
}

func (s *readSide) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	n := len(s.reads)
	s.reads = append(s.reads, req.Method+" "+req.URL.String())
	s.times = append(s.times, time.Now())
	s.mu.Unlock()
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	resp, err := s.answer(n, req)
	if resp != nil {
		resp.Request = req
	}
	return resp, err
}

// replyWith makes a response.
func replyWith(status int, body string, pairs ...string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: headerWith(pairs...), Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
}

const notFoundBody = `{"error":{"code":"0x80040217","message":"The record does not exist"}}`

// holding answers for an organization that has only the given records.
func holding(paths ...string) func(int, *http.Request) (*http.Response, error) {
	return func(_ int, req *http.Request) (*http.Response, error) {
		if slices.Contains(paths, req.URL.Path) {
			return replyWith(200, `{"name":"Contoso"}`, "OData-Version", "4.0", "Content-Type", "application/json"), nil
		}
		return replyWith(404, notFoundBody, "OData-Version", "4.0", "Content-Type", "application/json"), nil
	}
}

func create(entity string, status int) Write {
	return Write{Method: "POST", Path: "/api/data/v9.2/accounts", Entity: entity, Status: status}
}

func onRecord(method, entity, rest string) Write {
	return Write{Method: method, Path: entity + rest, Entity: entity, Status: 204}
}

func TestVerifyJudgesEveryWrite(t *testing.T) {
	t.Parallel()
	soap := Write{Method: "POST", Path: "/XRMServices/2011/Organization.svc/web"}
	tests := []struct {
		name       string
		reason     string
		writes     []Write // a second apart
		holding    []string
		present    []int // indexes of writes
		missing    []int
		unreadable []int
		reads      int
	}{
		{name: "no writes", reason: "nothing to look up", reads: 0},
		{
			name: "created record that exists", reason: "it came across",
			writes: []Write{create(accountA, 204)}, holding: []string{accountA}, present: []int{0}, reads: 1,
		},
		{
			name: "created record that does not exist", reason: "it did not come across",
			writes: []Write{create(accountA, 204)}, missing: []int{0}, reads: 1,
		},
		{
			name: "upsert that created", reason: "201 says so",
			writes:  []Write{{Method: "PATCH", Path: accountA, Entity: accountA, Status: 201}},
			holding: []string{accountA}, present: []int{0}, reads: 1,
		},
		{
			name: "deleted record that does not exist", reason: "the deletion came across",
			writes: []Write{onRecord("DELETE", accountA, "")}, present: []int{0}, reads: 1,
		},
		{
			name: "deleted record that exists", reason: "the deletion did not come across",
			writes: []Write{onRecord("DELETE", accountA, "")}, holding: []string{accountA}, missing: []int{0}, reads: 1,
		},
		{
			name: "changed record that exists", reason: "it may be the old version",
			writes:  []Write{onRecord("PATCH", accountA, ""), onRecord("PUT", accountA, "/name"), onRecord("POST", accountA, "/Microsoft.Dynamics.CRM.Merge")},
			holding: []string{accountA}, unreadable: []int{0, 1, 2}, reads: 1,
		},
		{
			name: "changed record that does not exist", reason: "the change cannot be there without it",
			writes: []Write{onRecord("PATCH", accountA, "")}, missing: []int{0}, reads: 1,
		},
		{
			name: "deleted column", reason: "the record is to stay, so its presence says nothing",
			writes: []Write{onRecord("DELETE", accountA, "/name")}, holding: []string{accountA}, unreadable: []int{0}, reads: 1,
		},
		{
			name: "associate", reason: "a new relation is no new record",
			writes:  []Write{{Method: "POST", Path: accountA + "/contacts/$ref", Entity: accountB, Status: 204}},
			holding: []string{accountB}, unreadable: []int{0}, reads: 1,
		},
		{
			name: "created, then deleted", reason: "that the record is gone does not say that it ever came across",
			writes:  []Write{create(accountA, 204), onRecord("PATCH", accountA, ""), onRecord("DELETE", accountA, "")},
			present: []int{2}, unreadable: []int{0, 1}, reads: 1,
		},
		{
			name: "created, deleted in vain", reason: "the record is there: the creation came across, the deletion did not",
			writes:  []Write{create(accountA, 204), onRecord("DELETE", accountA, "")},
			holding: []string{accountA}, present: []int{0}, missing: []int{1}, reads: 1,
		},
		{
			name: "deleted, then created again", reason: "that the record is there does not say that it was ever away",
			writes:  []Write{onRecord("DELETE", accountA, ""), create(accountA, 204)},
			holding: []string{accountA}, present: []int{1}, unreadable: []int{0}, reads: 1,
		},
		{
			name: "no record", reason: "no id, nothing to read",
			writes: []Write{soap, {Method: "POST", Path: "/api/data/v9.2/$batch", Status: 200}, {Method: "POST", Path: "/api/data/v9.2/accounts"}}, unreadable: []int{0, 1, 2},
		},
		{
			name: "one record by several names", reason: "version of the API and case of the id do not make another record",
			writes: []Write{
				create(accountA, 204), onRecord("DELETE", strings.ReplaceAll(strings.ToUpper(accountA), "ACCOUNTS", "accounts"), ""),
				onRecord("PATCH", strings.ReplaceAll(accountA, "v9.2", "v9.0"), ""),
			},
			holding: []string{accountA}, present: []int{0}, unreadable: []int{1, 2}, reads: 1,
		},
		{
			name: "two records", reason: "each is judged by itself",
			writes: []Write{create(accountA, 204), create(accountB, 204)}, holding: []string{accountB},
			present: []int{1}, missing: []int{0}, reads: 2,
		},
		{
			name: "path that is none", reason: "a report may come from anywhere; only paths are put behind the origin",
			writes: []Write{create("@attacker.example/accounts("+recordA+")", 204), create("/\x00("+recordA+")", 204)}, unreadable: []int{0, 1},
		},
	}
	names := make(map[string]bool)
	for _, tt := range tests {
		require.NotEmpty(t, tt.reason, tt.name)
		require.False(t, names[tt.name], "name %q is used twice", tt.name)
		names[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &LossReport{URL: "https://contoso.api.crm.dynamics.com"}
				for i, w := range tt.writes {
					w.Time, w.Label = time.Now().Add(time.Duration(i)*time.Second), strconv.Itoa(i)
					if i%2 == 0 { // it makes no difference which list a write is in
						r.AtRisk = append(r.AtRisk, w)
					} else {
						r.Unknown = append(r.Unknown, w)
					}
				}
				side := &readSide{answer: holding(tt.holding...)}
				v, err := r.Verify(t.Context(), &http.Client{Transport: side})
				require.NoError(t, err)
				assert.Equal(t, indexes(tt.present), labels(v.Present), "present: "+tt.reason)
				assert.Equal(t, indexes(tt.missing), labels(v.Missing), "missing: "+tt.reason)
				assert.Equal(t, indexes(tt.unreadable), labels(v.Unreadable), "unreadable: "+tt.reason)
				assert.Len(t, side.reads, tt.reads, tt.reason)
				for _, read := range side.reads {
					assert.True(t, strings.HasPrefix(read, "GET https://contoso.api.crm.dynamics.com/"), read)
				}
			})
		})
	}
}

func indexes(numbers []int) []string {
	var s []string
	for _, n := range numbers {
		s = append(s, strconv.Itoa(n))
	}
	return s
}

// creates returns a report of n created records.
func creates(n int) *LossReport {
	r := &LossReport{URL: "https://contoso.api.crm.dynamics.com"}
	for i := range n {
		id := recordA[:33] + strconv.Itoa(100+i)
		w := create("/api/data/v9.2/accounts("+id+")", 204)
		w.Time = time.Now().Add(time.Duration(i))
		r.AtRisk = append(r.AtRisk, w)
	}
	return r
}

func TestVerifyReadsTenRecordsASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int64
		side := &readSide{answer: func(n int, req *http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			assert.Equal(t, headerWith("Accept", "application/json", "OData-Version", "4.0", "OData-MaxVersion", "4.0"), req.Header)
			time.Sleep(30 * time.Millisecond)
			return replyWith(200, "{}", "OData-Version", "4.0"), nil
		}}
		v, err := creates(31).Verify(t.Context(), &http.Client{Transport: side})
		require.NoError(t, err)
		assert.Len(t, v.Present, 31)
		assert.EqualValues(t, 1, most.Load(), "one read at a time")
		assert.Equal(t, 3*time.Second, side.times[30].Sub(side.times[0]))
	})
}

func TestVerifyWaitsWhenThrottled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		side := &readSide{answer: func(n int, _ *http.Request) (*http.Response, error) {
			if n < 2 {
				return replyWith(429, "", "Retry-After", []string{"7", ""}[n]), nil
			}
			return replyWith(200, "{}", "OData-Version", "4.0"), nil
		}}
		v, err := creates(1).Verify(t.Context(), &http.Client{Transport: side})
		require.NoError(t, err)
		assert.Len(t, v.Present, 1)
		require.Len(t, side.times, 3)
		assert.Equal(t, 7*time.Second, side.times[1].Sub(side.times[0]))
		assert.Equal(t, 8*time.Second, side.times[2].Sub(side.times[0]), "a second if the service names no time")
	})
}

func TestVerifyEndsEarly(t *testing.T) {
	t.Parallel()
	errReset := errors.New("connection reset")
	always := func(status int, pairs ...string) func(int, *http.Request) (*http.Response, error) {
		return func(n int, _ *http.Request) (*http.Response, error) {
			if n == 0 {
				return replyWith(200, "{}", "OData-Version", "4.0"), nil
			}
			return replyWith(status, "", pairs...), nil
		}
	}
	tests := []struct {
		name   string
		reason string
		answer func(int, *http.Request) (*http.Response, error)
		reads  int
		check  func(t *testing.T, err error)
	}{
		{
			name: "throttled for good", reason: "the service wants to be left alone", answer: always(429, "Retry-After", "1"), reads: 1 + 3,
			check: func(t *testing.T, err error) { assertFault(t, ClassThrottled, err) },
		},
		{
			name: "credentials refused", reason: "the next read would fare no better", answer: always(401), reads: 2,
			check: func(t *testing.T, err error) { assertFault(t, ClassAuth, err) },
		},
		{
			name: "no answers", reason: "one record may be at fault; three in a row are not", reads: 1 + 3,
			answer: func(n int, req *http.Request) (*http.Response, error) {
				if n == 0 {
					return always(200)(n, req)
				}
				return nil, errReset
			},
			check: func(t *testing.T, err error) { assert.ErrorIs(t, err, errReset) },
		},
		{
			name: "down", reason: "the Transport has tried everything already", reads: 2,
			answer: func(n int, req *http.Request) (*http.Response, error) {
				if n == 0 {
					return always(200)(n, req)
				}
				return nil, &Error{is: []error{ErrUnavailable}}
			},
			check: func(t *testing.T, err error) { assert.ErrorIs(t, err, ErrUnavailable) },
		},
		{
			name: "closed", reason: "no read will be answered any more", reads: 2,
			answer: func(n int, req *http.Request) (*http.Response, error) {
				if n == 0 {
					return always(200)(n, req)
				}
				return nil, ErrClosed
			},
			check: func(t *testing.T, err error) { assert.ErrorIs(t, err, ErrClosed) },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				side := &readSide{answer: tt.answer}
				v, err := creates(5).Verify(t.Context(), &http.Client{Transport: side})
				tt.check(t, err)
				assert.Len(t, side.reads, tt.reads, tt.reason)
				assert.Len(t, v.Present, 1, "what is known by then is returned")
				assert.Len(t, v.Unreadable, 4)
			})
		})
	}
}

func assertFault(t *testing.T, class Class, err error) {
	t.Helper()
	var f *Fault
	if assert.ErrorAs(t, err, &f) {
		assert.Equal(t, class, f.Class)
	}
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer cancel()
		side := &readSide{answer: holding()}
		v, err := creates(10).Verify(ctx, &http.Client{Transport: side})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Len(t, v.Missing, 3, "read at 0, 100 and 200 ms")
		assert.Len(t, v.Unreadable, 7)
		assert.Len(t, side.reads, 3)

		ctx, cancel = context.WithCancel(t.Context())
		side = &readSide{answer: func(int, *http.Request) (*http.Response, error) { cancel(); return nil, ctx.Err() }}
		_, err = creates(1).Verify(ctx, &http.Client{Transport: side})
		require.ErrorIs(t, err, context.Canceled, "during the last read")
	})
}

func TestVerifyWaitsForTheServiceNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		side := &readSide{answer: func(int, *http.Request) (*http.Response, error) {
			return replyWith(429, "", "Retry-After", "60"), nil
		}}
		start := time.Now()
		v, err := creates(2).Verify(ctx, &http.Client{Transport: side})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 3*time.Second, time.Since(start))
		assert.Len(t, v.Unreadable, 2)
		assert.Len(t, side.reads, 1)
	})
}

func TestVerifyWithCanceledContextReadsNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v, err := creates(2).Verify(ctx, &http.Client{Transport: &readSide{answer: holding()}})
	require.ErrorIs(t, err, context.Canceled)
	assert.Len(t, v.Unreadable, 2)
}

func TestVerifyGoesOnAfterARecordThatCannotBeRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		side := &readSide{answer: func(n int, _ *http.Request) (*http.Response, error) {
			if n%3 != 2 {
				return nil, errors.New("connection reset")
			}
			return replyWith(200, "{}", "OData-Version", "4.0"), nil
		}}
		v, err := creates(9).Verify(t.Context(), &http.Client{Transport: side})
		require.NoError(t, err)
		assert.Len(t, v.Present, 3)
		assert.Len(t, v.Unreadable, 6)
	})
}

func TestVerifyOfNoReport(t *testing.T) {
	t.Parallel()
	var none *LossReport
	side := &readSide{answer: holding()}
	v, err := none.Verify(t.Context(), &http.Client{Transport: side})
	require.NoError(t, err, "nothing is at risk")
	assert.Zero(t, v)
	v, err = new(LossReport).Verify(t.Context(), &http.Client{Transport: side})
	require.NoError(t, err, "nothing is listed")
	assert.Zero(t, v)
	assert.Empty(t, side.reads)
}

// Read without its partition, a record of an elastic table seems not to exist.
func TestVerifyDoesNotJudgeElasticTables(t *testing.T) {
	t.Parallel()
	const reading = "/api/data/v9.2/contoso_readings(" + recordA + ")"
	elastic := Write{Method: "POST", Path: "/api/data/v9.2/contoso_readings", EntityID: recordA, Status: 204}
	deleted := Write{Method: "DELETE", Path: reading, EntityID: recordA, Status: 204}
	unmarked := Write{Method: "DELETE", Path: reading, Entity: reading, EntityID: recordA, Status: 204}
	side := &readSide{answer: func(int, *http.Request) (*http.Response, error) {
		return replyWith(404, notFoundBody, "OData-Version", "4.0", "Content-Type", "application/json", "X-Ms-Session-Token", "240:8#1"), nil
	}}
	r := &LossReport{URL: "https://contoso.api.crm.dynamics.com", AtRisk: []Write{elastic, deleted, unmarked}}
	v, err := r.Verify(t.Context(), &http.Client{Transport: side})
	require.NoError(t, err)
	assert.Len(t, v.Unreadable, 3)
	assert.Len(t, side.reads, 1, "only what seems to be addressed is read")
}

// Neither a redirect nor an error proves anything about a record, or prevents reading the
// others.
func TestVerifyProvesNothingByOtherAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, deletes := range []bool{false, true} {
			answers := []*http.Response{
				replyWith(302, "", "Location", "https://contoso.example/"),
				replyWith(403, "", "OData-Version", "4.0"),
				replyWith(404, "<html>no such site</html>", "Content-Type", "text/html"), // from a front end
				replyWith(404, odata("0x8004A104", "x"), "OData-Version", "4.0", "Content-Type", "application/json"),
				replyWith(500, notFoundBody, "OData-Version", "4.0"),
				replyWith(204, "", "OData-Version", "4.0"),
				replyWith(200, "<html>maintenance</html>", "Content-Type", "text/html"),
				replyWith(200, "{}", "OData-Version", "4.0"),
			}
			side := &readSide{answer: func(n int, _ *http.Request) (*http.Response, error) { return answers[n], nil }}
			r, bodies := creates(len(answers)), make([]*countingBody, len(answers))
			for i, resp := range answers {
				bodies[i] = &countingBody{Reader: resp.Body}
				resp.Body = bodies[i]
				if w := &r.AtRisk[i]; deletes {
					w.Method, w.Path = "DELETE", w.Entity
				}
			}
			v, err := r.Verify(t.Context(), &http.Client{Transport: side})
			require.NoError(t, err)
			assert.Equal(t, r.AtRisk[:len(answers)-1], v.Unreadable)
			assert.Len(t, append(v.Present, v.Missing...), 1)
			assert.Equal(t, deletes, len(v.Missing) == 1, "what exists was created, and not deleted")
			assert.Len(t, side.reads, len(answers), "no redirect was followed")
			for _, body := range bodies {
				assert.Equal(t, 1, body.closed)
			}
		}
	})
}

func TestVerifyNeedsAnOrigin(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "contoso", "https://user:secret@contoso.api.crm.dynamics.com"} {
		r := creates(1)
		r.URL = address
		v, err := r.Verify(t.Context(), nil)
		require.ErrorContains(t, err, "failover: URL of the loss report ")
		assert.NotContains(t, err.Error(), "secret")
		assert.Len(t, v.Unreadable, 1)
	}
	r := creates(1)
	r.URL = "http://contoso.api.crm.dynamics.com"
	v, err := r.Verify(t.Context(), &http.Client{Transport: &readSide{answer: holding()}})
	require.NoError(t, err, "with Config.AllowHTTP")
	assert.Len(t, v.Missing, 1)
}
