package failover

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Verification sorts the writes of a [LossReport] by what reading their records has
// shown. Each list is in order of time. It describes the place that was read at the time of
// reading; what other programs have done to a record since the write is not known.
type Verification struct {
	// Present: what the write left behind is there. A record that it created can
	// be read; a record that it deleted can not.
	Present []Write
	// Missing: what the write left behind is not there. The record that it
	// created or changed does not exist, or the one that it deleted still does,
	// and no later write of the report explains that.
	Missing []Write
	// Unreadable: reading cannot tell. These are changes of a record that exists (its
	// versions cannot be told apart), writes that name no record by its id (creates
	// without an answer, alternate keys, $batch, SOAP), records of elastic tables (which
	// are read by their partition as well), records that could not be read, and
	// whatever was left when Verify ended early.
	Unreadable []Write
}

// Verify reads the record of every listed write, once each, through client, and sorts the
// writes by what that shows. The client should be the one whose transport is the
// [Transport] of the report, so that the reads go to the active endpoint; it must
// authorize requests by itself, as through [Config.Authorize]. A nil client means
// [http.DefaultClient].
//
// Verify sends only GETs, one at a time, at most ten a second, and follows no redirects. If
// it is throttled it waits for as long as the service asks, up to 5 minutes, and reads a
// record at most three times. It ends early if ctx ends, three reads in a row get no
// answer, the organization is down, the credentials are refused, or throttling does
// not stop; then it returns that as its error, along with what is known by then. A single
// unreadable record does not make Verify fail. [Transport.StatusHandler] shows the result
// of the last Verify.
//
// Records that were found are no longer guarded against updates that would create them
// anew. A nil report, which [Status.Loss] is until something is at risk, lists nothing:
// Verify reads nothing and returns no error.
func (r *LossReport) Verify(ctx context.Context, client *http.Client) (Verification, error) {
	if r == nil {
		return Verification{}, nil
	}
	var epoch uint64
	if r.account != nil {
		epoch = r.account.books.epoch.Load()
	}
	writes := slices.Concat(r.AtRisk, r.Unknown)
	slices.SortStableFunc(writes, byTime)
	records := make(map[string]*listedRecord)
	var order []*listedRecord
	for _, w := range writes {
		if !strings.HasPrefix(w.Entity, "/") {
			continue
		}
		rec := records[recordKey(w.Entity)]
		if rec == nil {
			rec = &listedRecord{path: w.Entity}
			records[recordKey(w.Entity)], order = rec, append(order, rec)
		}
		if w.deletes() {
			rec.deleted = w.Time
		} else {
			rec.written = w.Time
		}
	}
	err := readRecords(ctx, client, r.URL, order)
	var v Verification
	for _, w := range writes {
		list := &v.Unreadable
		switch records[recordKey(w.Entity)].effect(w) {
		case effectSeen:
			list = &v.Present
		case effectNotSeen:
			list = &v.Missing
		}
		*list = append(*list, w)
	}
	if r.verified != nil {
		r.verified.Store(&v)
	}
	if r.account != nil {
		var found []string
		for key, rec := range records {
			if rec.presence == exists {
				found = append(found, key)
			}
		}
		r.account.books.unguard(epoch, found...)
	}
	return v, err
}

// verification returns the result of the last Verify, nil if there was none.
func (r *LossReport) verification() *Verification {
	if r.verified == nil {
		return nil
	}
	return r.verified.Load()
}

// presence is what reading a record has shown.
type presence uint8

const (
	notRead presence = iota
	exists
	gone
)

// effect is what the presence of its record says about a write.
type effect uint8

const (
	effectUnclear effect = iota
	effectSeen
	effectNotSeen
)

// listedRecord is a record that writes of a report are about.
type listedRecord struct {
	path     string
	presence presence
	// deleted and written are when it was last to be deleted, and last to be
	// created or changed, as far as the report knows.
	deleted, written time.Time
}

// effect judges one write of the record. A nil record was not read.
func (rec *listedRecord) effect(w Write) effect {
	switch {
	case rec == nil || rec.presence == notRead:
		return effectUnclear
	case w.deletes() && rec.presence == gone, w.creates() && rec.presence == exists:
		return effectSeen
	case w.deletes() && rec.written.Before(w.Time), rec.presence == gone && rec.deleted.Before(w.Time):
		return effectNotSeen
	default:
		return effectUnclear
	}
}

const (
	verifyInterval = 100 * time.Millisecond // between two reads
	verifyTries    = 3                      // of a read that is throttled
	verifySilence  = 3                      // reads in a row without an answer that end it
)

// readRecords finds out which of the records exist at an origin.
func readRecords(ctx context.Context, client *http.Client, origin string, records []*listedRecord) error {
	if len(records) == 0 {
		return nil
	}
	base, err := parseOrigin(origin, true)
	if err != nil {
		return fmt.Errorf("failover: URL of the loss report %w", err)
	}
	client = withoutRedirects(client)
	pace := time.NewTicker(verifyInterval)
	defer pace.Stop()
	silent := 0 // reads in a row without an answer
	for i, rec := range records {
		if i > 0 {
			err = wait(ctx, pace.C)
		}
		if err == nil {
			rec.presence, err = readRecord(ctx, client, base.scheme+"://"+base.host+rec.path)
		}
		var none *noAnswer
		if silent++; !errors.As(err, &none) {
			silent = 0
		} else if silent < verifySilence && ctx.Err() == nil && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrClosed) {
			err = nil // it may be this record's trouble alone
		}
		if err != nil {
			return fmt.Errorf("failover: verify: %w", err)
		}
	}
	return nil
}

// wait waits for c. It returns the error of ctx if that ends first.
func wait(ctx context.Context, c <-chan time.Time) error {
	select {
	case <-c:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// noAnswer is the error of a read that got no answer.
type noAnswer struct{ error }

func (e *noAnswer) Unwrap() error { return e.error }

// readRecord finds out whether the record at an address exists. An error means
// that reading others is of no use.
func readRecord(ctx context.Context, client *http.Client, address string) (presence, error) {
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return notRead, nil // not a path; the report was not made by this package
		}
		req.Header.Set("Accept", "application/json")
		req.Header.Set("OData-Version", "4.0")
		req.Header.Set("OData-MaxVersion", "4.0")
		resp, err := client.Do(req)
		if err != nil {
			return notRead, &noAnswer{err}
		}
		f := Classify(resp, nil)
		discard(resp)
		switch {
		case f == nil && resp.StatusCode == http.StatusOK:
			return exists, nil
		case f == nil:
			return notRead, nil
		case f.Class == ClassApplication && f.Status == http.StatusNotFound && resp.Header.Get("OData-Version") != "" && !hasSessionToken(resp):
			return gone, nil // by the service's own word; a front end would not give its version
		case f.Class == ClassAuth && f.Status != http.StatusForbidden:
			return notRead, f
		case f.Class != ClassThrottled:
			return notRead, nil
		case try == verifyTries:
			return notRead, f
		}
		timer := time.NewTimer(max(f.RetryAfter, time.Second))
		err = wait(ctx, timer.C)
		timer.Stop()
		if err != nil {
			return notRead, err
		}
	}
}
