package drill

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/d365failover/failover"
)

// heart writes marker records and looks them up afterwards.
type heart struct {
	*target
	set, column, run string
	// at returns the address that serves, as far as known.
	at func() *url.URL

	mu    sync.Mutex
	beats []*Beat
}

// newID returns a random UUID (RFC 9562, version 4).
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (h *heart) path(id string) string { return "/api/data/v9.2/" + h.set + "(" + id + ")" }

// beat writes a record at every interval until ctx ends, waits for the writes under way, which
// it does not cancel, and calls note for each.
func (h *heart) beat(ctx context.Context, interval time.Duration, note func(Beat)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	every(ctx, interval, func(n int) {
		b := &Beat{Number: n, ID: newID(), Found: NotRead}
		h.mu.Lock()
		h.beats = append(h.beats, b)
		h.mu.Unlock()
		wg.Go(func() {
			written := *b
			h.write(context.WithoutCancel(ctx), &written)
			h.mu.Lock()
			*b = written
			h.mu.Unlock()
			note(written)
		})
	})
}

// write creates the record of a beat by an update of a new id, on the condition that the record
// does not exist.
func (h *heart) write(ctx context.Context, b *Beat) {
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	content, _ := json.Marshal(map[string]string{h.column: fmt.Sprintf("%s %d", h.run, b.Number)})
	b.Begun = time.Now()
	req, err := h.request(ctx, http.MethodPatch, h.at(), h.path(b.ID), strings.NewReader(string(content)))
	if err != nil {
		b.Answer, b.Cause, b.Ended = NoToken, err.Error(), time.Now()
		return
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("If-None-Match", "*")
	b.Begun = time.Now()
	client := h.fresh()
	resp, err := client.Do(req)
	client.CloseIdleConnections()
	b.Ended = time.Now()
	fault := failover.Classify(resp, err)
	if resp != nil {
		b.status = resp.StatusCode
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
		resp.Body.Close()
	}
	switch {
	case fault == nil && resp.StatusCode/100 == 2:
		b.Answer = Written
	case fault == nil:
		b.Answer, b.Cause = Refused, fmt.Sprintf("answers %d", resp.StatusCode)
	case fault.Delivery == failover.Unknown:
		b.Answer, b.Cause = InDoubt, cause(fault, h.timeout)
	default:
		b.Answer, b.Cause = Refused, cause(fault, h.timeout)
	}
}

// rehearse writes one record and deletes it again. It returns an error if the organization
// rejects that permanently, so that heartbeats would show nothing. If the organization is down,
// it returns nil.
func (h *heart) rehearse(ctx context.Context) error {
	b := &Beat{ID: newID()}
	h.write(ctx, b)
	if b.Answer == Written {
		client := h.fresh()
		defer client.CloseIdleConnections()
		if !h.remove(ctx, client, b.ID) {
			return fmt.Errorf("cannot delete a heartbeat from %s: permit the caller to delete records, or set -keep. Record %s was left there", h.set, b.ID)
		}
		return nil
	}
	if b.Answer == Refused && b.status/100 == 4 && b.status != http.StatusTooManyRequests {
		return fmt.Errorf("cannot write a heartbeat to %s (%s): check that -heartbeat names an entity set, -heartbeat-column a text column "+
			"of it, and that the caller may create records", h.set, b.Cause)
	}
	return nil
}

const (
	readers   = 4 // concurrent requests after the watch
	readTries = 6
	readPause = 2 * time.Second
)

// readBack looks up every record, including those whose write was refused, and deletes those
// that it finds unless keep is set. It calls progress, one call at a time. It ends early when
// ctx does.
func (h *heart) readBack(ctx context.Context, keep bool, progress func(format string, args ...any)) *Heartbeat {
	// With a connection for each request, because a kept one could lead to the old place.
	client := h.fresh()
	defer client.CloseIdleConnections()
	result := &Heartbeat{EntitySet: h.set, Column: h.column, Run: h.run}
	h.forEach("reading back", progress, func(b *Beat) { b.Found = h.find(ctx, client, b.ID) })
	left := 0
	for _, b := range h.beats {
		if b.Found == Present || b.Found == Unreadable {
			left++
		}
	}
	if !keep && left > 0 {
		var mu sync.Mutex
		h.forEach("deleting", progress, func(b *Beat) {
			if b.Found == Present && h.remove(ctx, client, b.ID) {
				mu.Lock()
				left--
				mu.Unlock()
			}
		})
	}
	result.Left = left
	for _, b := range h.beats {
		b.Begun, b.Ended = b.Begun.UTC(), b.Ended.UTC()
		result.Beats = append(result.Beats, *b)
	}
	return result
}

// forEach calls f for every beat, with limited concurrency.
func (h *heart) forEach(what string, progress func(format string, args ...any), f func(*Beat)) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		done int
		next = make(chan *Beat)
	)
	for range readers {
		wg.Go(func() {
			for b := range next {
				f(b)
				mu.Lock()
				done++
				progress("%s the heartbeats: %d of %d", what, done, len(h.beats))
				mu.Unlock()
			}
		})
	}
	for _, b := range h.beats {
		next <- b
	}
	close(next)
	wg.Wait()
}

// find looks up a record, and tries again while the organization fails.
func (h *heart) find(ctx context.Context, client *http.Client, id string) Found {
	for try := range readTries {
		if try > 0 && !pause(ctx, readPause) {
			break
		}
		switch status, after := h.do(ctx, client, http.MethodGet, h.path(id)); {
		case status == http.StatusOK:
			return Present
		case status == http.StatusNotFound:
			return Missing
		case status == http.StatusForbidden, status == http.StatusBadRequest:
			return Unreadable
		case after > 0 && !pause(ctx, after):
			return Unreadable
		}
	}
	return Unreadable
}

func (h *heart) remove(ctx context.Context, client *http.Client, id string) bool {
	for try := range readTries {
		if try > 0 && !pause(ctx, readPause) {
			break
		}
		switch status, after := h.do(ctx, client, http.MethodDelete, h.path(id)); {
		case status/100 == 2, status == http.StatusNotFound:
			return true
		case status == http.StatusForbidden:
			return false
		case after > 0 && !pause(ctx, after):
			return false
		}
	}
	return false
}

// do makes a request. It returns the status of the answer, 0 if there was none or it was not
// from the service itself, and its Retry-After.
func (h *heart) do(ctx context.Context, client *http.Client, method, path string) (status int, after time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	req, err := h.request(ctx, method, h.at(), path, nil)
	if err != nil {
		return 0, 0
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, 0
	}
	fault := failover.Classify(resp, nil)
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
	if fault != nil && fault.Status == http.StatusNotFound && fault.Code == "" {
		return 0, 0 // the page of a front end, which does not know the records
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		after = min(time.Duration(n)*time.Second, 5*time.Minute)
	}
	return resp.StatusCode, after
}

// pause waits. It returns false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
