package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// The organization that is called in memory.
const (
	primary   = "https://contoso.api.crm.dynamics.com"
	alternate = "https://contoso--s.api.crm.dynamics.com"

	listPath   = "/api/data/v9.2/accounts?$select=name,revenue&$top=50"
	createPath = "/api/data/v9.2/accounts"

	// missingPath is answered with the service's own 404.
	missingPath = "/api/data/v9.2/accounts(00000000-0000-0000-0000-000000000404)"
)

// memory is the round tripper at the bottom of everything that is measured. It answers at
// once, with two allocations. Calls write to nothing that they share, so parallel calls do not
// contend for it.
type memory struct {
	down  string                    // the endpoint that refuses connections, by its URL; "*": both
	asked *atomic.Int64             // counts the calls of that endpoint, except probes
	fault atomic.Pointer[time.Time] // when the last of these was refused
	rtt   time.Duration             // the duration of a call
	code  string                    // what the endpoint that is down answers instead of refusing
	size  int                       // of the answers; 0: that of listed
}

var (
	listed   = []byte(`{"@odata.context":"$metadata#accounts","value":[{"name":"Contoso","revenue":1250000.5},{"name":"Fabrikam","revenue":17}]}`)
	listHead = http.Header{
		"Content-Type":              {"application/json; odata.metadata=minimal"},
		"Date":                      {"Mon, 02 Nov 2026 08:00:00 GMT"},
		"Odata-Version":             {"4.0"},
		"Strict-Transport-Security": {"max-age=31536000"},
		"X-Ms-Service-Request-Id":   {"7c0ad3b1-54a2-4b55-8f7d-3a1a52d3c001"},
	}
	createdHead = http.Header{
		"Date":                    {"Mon, 02 Nov 2026 08:00:00 GMT"},
		"Odata-Entityid":          {primary + createPath + "(00000000-0000-0000-0000-000000000001)"},
		"Odata-Version":           {"4.0"},
		"X-Ms-Service-Request-Id": {"7c0ad3b1-54a2-4b55-8f7d-3a1a52d3c002"},
	}
	errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
)

func (m *memory) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	if m.rtt > 0 {
		if err := wait(req.Context(), m.rtt); err != nil {
			return nil, err
		}
	}
	if m.down != "" && (m.down == "*" || strings.HasSuffix(m.down, req.URL.Host)) {
		if req.URL.Path != "" { // a probe's URL is empty
			m.asked.Add(1)
			if m.rtt > 0 {
				now := time.Now()
				m.fault.Store(&now)
			}
		}
		return m.refuse(req)
	}
	resp := &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: listHead, Request: req,
	}
	if req.Method == http.MethodPost && req.URL.Path == createPath {
		resp.Status, resp.StatusCode, resp.Header, resp.Body = "204 No Content", http.StatusNoContent, createdHead, http.NoBody
		return resp, nil
	}
	if req.URL.Path == missingPath {
		const body = `{"error":{"code":"0x80040217","message":"account With Id = 00000000-0000-0000-0000-000000000404 Does Not Exist"}}`
		resp.Status, resp.StatusCode, resp.Body, resp.ContentLength = "404 Not Found", http.StatusNotFound, io.NopCloser(strings.NewReader(body)), int64(len(body))
		return resp, nil
	}
	size := len(listed)
	if m.size > 0 {
		size = m.size
	}
	resp.Body, resp.ContentLength = &memoryBody{size}, int64(size)
	return resp, nil
}

// refuse answers for the endpoint that is down.
func (m *memory) refuse(req *http.Request) (*http.Response, error) {
	if m.code == "" {
		return nil, errRefused
	}
	body := `{"error":{"code":"` + m.code + `","message":"Not served here."}}`
	return &http.Response{
		Status: "503 Service Unavailable", StatusCode: http.StatusServiceUnavailable, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Request: req,
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}, nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// memoryBody is an answer with n bytes left to read.
type memoryBody struct{ n int }

func (b *memoryBody) Read(p []byte) (int, error) {
	if b.n == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), b.n)], listed)
	if b.n > len(listed) { // the content of a long answer does not matter
		n = min(len(p), b.n)
	}
	b.n -= n
	return n, nil
}

func (b *memoryBody) Close() error { return nil }

// A sender is a peer at work: it sends the request of a call.
type sender func(*call) (*http.Response, error)

// over makes a sender from a round tripper.
func over(rt http.RoundTripper) sender {
	return func(c *call) (*http.Response, error) { return rt.RoundTrip(c.req) }
}

// A call is one request that one goroutine sends over and over.
type call struct {
	req  *http.Request
	url  *url.URL
	body []byte
}

// newCall returns a GET, or a POST of 1 KiB, with the headers that calls of the Web API have.
func newCall(method, target string) *call {
	c := new(call)
	var body io.Reader
	if method == http.MethodPost {
		c.body = []byte(`{"name":"Contoso","description":"` + strings.Repeat("x", 1<<10-35) + `"}`)
		body = bytes.NewReader(c.body)
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		panic(err) // the callers are in this package
	}
	req.Header = http.Header{
		"Accept":           {"application/json"},
		"Authorization":    {"Bearer contoso"},
		"Odata-Maxversion": {"4.0"},
		"Odata-Version":    {"4.0"},
		"User-Agent":       {"contoso/1.0"},
	}
	if body != nil {
		req.Header["Content-Type"] = []string{"application/json; charset=utf-8"}
	}
	c.req, c.url = req, req.URL
	return c
}

// do makes the call and reads the answer.
func (c *call) do(send sender) error {
	c.req.URL = c.url // the hook given to rehttp replaces it
	if c.req.GetBody != nil {
		c.req.Body, _ = c.req.GetBody()
	}
	resp, err := send(c)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 && c.url.Path != missingPath {
		resp.Body.Close()
		return errors.New(resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return err
}
