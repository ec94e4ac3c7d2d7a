package failover

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// This file keeps what is not known: which writes may have been carried out.

// InDoubt reports whether a write is in doubt: whether one of its attempts may have been
// carried out, and nothing that came later confirms it or rules it out. It takes what
// [http.Client.Do], or RoundTrip of a [Transport], has returned for the request.
//
// For an error, InDoubt reports what errors.Is(err, [ErrOutcomeUnknown]) does, and in one
// case more: a client whose [http.Client.Timeout] has passed keeps only the text of the
// error below it, and InDoubt recognizes that text. For a response, InDoubt is the only way
// to know: a write that is answered 502, 503, 504 or an unexplained 500 is in doubt as much
// as one without an answer, and so may be a write that was sent again and whose last
// attempt was answered 401 or 429.
//
// The fault is that of the last attempt in doubt, and must not be changed. Unless making the
// write twice is harmless, look for what it would have left behind before you send it
// again.
func InDoubt(resp *http.Response, err error) (*Fault, bool) {
	if err != nil {
		var e *Error
		switch {
		case errors.As(err, &e):
			return e.doubt, e.doubt != nil
		case errors.Is(err, ErrOutcomeUnknown), timedOutInDoubt(err):
			return &Fault{Class: ClassTransient, Err: err}, true
		}
		return nil, false
	}
	if resp == nil || resp.Request == nil {
		return nil, false
	}
	f, ok := resp.Request.Context().Value(doubtKey).(*Fault)
	return f, ok
}

// timedOutInDoubt reports whether err is what a client with a Timeout makes of an
// error of a Transport. No address has blanks in it, so none can hold that text.
func timedOutInDoubt(err error) bool {
	var failed *url.Error
	if !errors.As(err, &failed) || !failed.Timeout() {
		return false
	}
	text := failed.Err.Error()
	return strings.HasPrefix(text, "failover: ") && strings.Contains(text, ": "+strings.TrimPrefix(ErrOutcomeUnknown.Error(), "failover: ")+": ")
}

// doubt is what is left in doubt by the attempts of a call at one endpoint within
// one generation.
type doubt struct {
	fault      *Fault // of the last of them
	generation uint64
	began      uint64 // epoch of the first of them
	ended      time.Time
}

// weigh takes note of what a fault says about its attempt and about those before it.
func (c *call) weigh(f *Fault) {
	if c.isRead() || f.Delivery != Unknown && len(c.doubts) == 0 {
		return
	}
	here := func(d doubt) bool { return d.fault.Endpoint == f.Endpoint && d.generation == c.st.generation }
	switch {
	case f.Delivery == Unknown:
		began := c.st.epoch
		if i := slices.IndexFunc(c.doubts, here); i >= 0 {
			began = c.doubts[i].began
		}
		c.doubts = append(slices.DeleteFunc(c.doubts, here), doubt{f, c.st.generation, began, time.Now()})
	case c.settles(f):
		c.doubts = slices.DeleteFunc(c.doubts, here)
	}
}

// settles reports whether a fault says what became of an earlier attempt at the same
// endpoint: the record of a DELETE is gone, or the condition of a conditional write
// speaks against another one. Answers about the caller's credentials or pace do not,
// nor do pages that carry no code of the organization.
func (c *call) settles(f *Fault) bool {
	if f.Class != ClassApplication || f.Delivery != Answered || f.Code == "" {
		return false
	}
	h := c.req.Header
	matches := valueOf(h, "If-Match") != ""
	switch f.Status {
	case http.StatusNotFound, http.StatusGone:
		return c.req.Method == http.MethodDelete || matches
	case http.StatusPreconditionFailed:
		return matches || valueOf(h, "If-None-Match") != ""
	}
	return false
}

// inDoubt returns the fault of the last attempt that is in doubt, nil if none is.
func (c *call) inDoubt() *Fault {
	if len(c.doubts) == 0 {
		return nil
	}
	return c.doubts[len(c.doubts)-1].fault
}

// tellDoubt puts what is in doubt into the ledger, and tells of it. e is complete.
func (c *call) tellDoubt(e *Error) {
	var last Write
	for _, d := range c.doubts {
		w := describe(c.req, nil, d.ended, d.fault.RequestID, c.label())
		w.Status, w.Endpoint, w.Outcome, w.began = d.fault.Status, d.fault.Endpoint, OutcomeUnknown, d.began
		c.t.recordWrite(&w)
		last = w.addressed()
	}
	f := c.inDoubt()
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	c.t.emit(Event{Kind: EventOutcomeUnknown, From: f.Endpoint, To: f.Endpoint, Fault: f, Err: e, Write: &last,
		Reason: fmt.Sprintf("%s %s", e.Method, e.URL)})
}

// mark makes InDoubt find the doubt in a response. Of all that a response holds, its
// request is what clients and round trippers in between hand on.
func (c *call) mark(resp *http.Response) {
	resp.Request = c.req.WithContext(context.WithValue(c.req.Context(), doubtKey, c.inDoubt()))
}

// acknowledge enters a write in the books that the service has answered: it was carried
// out, or a part of it may have been.
func (c *call) acknowledge(resp *http.Response, outcome Outcome) {
	if c.t.books.ledger == nil && c.t.cfg.OnWrite == nil || c.isRead() {
		return
	}
	w := describe(c.req, resp, time.Now(), "", c.label())
	w.Endpoint, w.Outcome, w.began = c.st.active, outcome, c.st.epoch
	c.t.recordWrite(&w)
}

// label returns the label of the request.
func (c *call) label() string {
	label, _ := c.req.Context().Value(labelKey).(string)
	return label
}
