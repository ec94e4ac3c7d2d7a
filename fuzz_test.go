package failover_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/d365failover/failover"
)

// FuzzRoundTrip lets a server answer with arbitrary bytes. Whatever they are, a round trip
// returns a response or an error in bounded time, closes the request's body once, and leaves a
// Transport that can be closed.
func FuzzRoundTrip(f *testing.F) {
	for _, answer := range []string{
		"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
		"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
		"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 99999999999\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 503 x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2e\r\n{\"error\":{\"code\":\"0x8004B065\",\"message\":\"no\"}}\r\n0\r\n\r\n",
		"HTTP/1.1 500 x\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
		"HTTP/1.1 301 x\r\nLocation: https://contoso--s.api.crm.dynamics.com@evil.example/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
		"HTTP/1.1 429 x\r\nRetry-After: -1\r\nContent-Length: 1\r\n\r\n{",
		"HTTP/1.1 401 x\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello", "HTTP/2.0 200\r\n\r\n", strings.Repeat("x", 5000),
	} {
		f.Add(uint8(0), []byte(answer))
		f.Add(uint8(1), []byte(answer))
	}
	methods := []string{http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodHead}
	f.Fuzz(func(t *testing.T, method uint8, answer []byte) {
		synctest.Test(t, func(t *testing.T) {
			base := &http.Transport{DisableKeepAlives: true}
			base.DialTLSContext = func(context.Context, string, string) (net.Conn, error) {
				client, server := net.Pipe()
				go serveBytes(server, answer)
				return client, nil
			}
			transport, err := failover.New(orgURL, &failover.Config{
				Base: base, MaxAttempts: 3, RetryBackoff: -1, ProbeTimeout: time.Second, AttemptTimeout: time.Second,
				FailureThreshold: 1, Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer transport.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			body := &closeCounter{Reader: strings.NewReader(`{"x@odata.bind":"https://contoso--s.api.crm.dynamics.com/"}`)}
			req, err := http.NewRequestWithContext(ctx, methods[int(method)%len(methods)], orgURL+accounts, body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := transport.RoundTrip(req)
			if (resp == nil) == (err == nil) {
				t.Fatalf("response %v and error %v", resp, err)
			}
			if resp != nil {
				if resp.StatusCode != http.StatusSwitchingProtocols {
					io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
				}
				resp.Body.Close()
			}
			if n := body.closed.Load(); n != 1 {
				t.Fatalf("body closed %d times", n)
			}
			if ctx.Err() != nil {
				t.Fatal("not in time")
			}
		})
	})
}

// serveBytes reads the request and answers with the bytes.
func serveBytes(conn net.Conn, answer []byte) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	go io.Copy(io.Discard, conn)
	conn.Write(answer)
}
