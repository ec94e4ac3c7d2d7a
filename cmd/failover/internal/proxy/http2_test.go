package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/d365failover/failover"
)

// answerHTTP2 serves one connection and answers each request with header blocks,
// or, if there are none, with a reset once it was carried out.
func answerHTTP2(conn net.Conn, blocks [][]string, carriedOut *atomic.Int32) {
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	framer := http2.NewFramer(conn, conn)
	framer.WriteSettings()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				framer.WriteSettingsAck()
			}
		case *http2.DataFrame:
			if frame.StreamEnded() && blocks == nil {
				carriedOut.Add(1)
				framer.WriteRSTStream(frame.StreamID, http2.ErrCodeProtocol)
			}
		case *http2.HeadersFrame:
			if frame.StreamEnded() && blocks == nil {
				carriedOut.Add(1)
				framer.WriteRSTStream(frame.StreamID, http2.ErrCodeProtocol)
			}
			for i, block := range blocks {
				var b bytes.Buffer
				enc := hpack.NewEncoder(&b)
				enc.SetMaxDynamicTableSize(0)
				for _, field := range block {
					name, value, _ := strings.Cut(field, " ")
					enc.WriteField(hpack.HeaderField{Name: name, Value: value})
				}
				framer.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: i == len(blocks)-1})
			}
		}
	}
}

// startHTTP2 starts a proxy of an organization that serves connections as it likes.
// Probes pass.
func startHTTP2(t *testing.T, cfg *failover.Config, serve func(net.Conn)) *site {
	t.Helper()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS() // for its certificate
	t.Cleanup(cert.Close)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: cert.TLS.Certificates, NextProtos: []string{"h2"}})
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	base := newBase()
	base.TLSClientConfig = cert.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	base.TLSClientConfig.NextProtos = nil
	t.Cleanup(base.CloseIdleConnections)
	cfg.Base, cfg.Alternate = base, "https://127.0.0.1:1"
	cfg.Probe = func(context.Context, *http.Client, *url.URL) error { return nil }
	return startProxy(t, "https://"+ln.Addr().String(), cfg)
}

// A connection over which nothing comes any more does not keep the callers waiting without end.
func TestDeadConnectionsOverHTTP2AreFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go func() {
			go io.Copy(io.Discard, far)
			http2.NewFramer(far, nil).WriteSettings()
		}()
		base := newBase()
		base.Protocols = new(http.Protocols)
		base.Protocols.SetUnencryptedHTTP2(true)
		base.DialContext = func(context.Context, string, string) (net.Conn, error) { return near, nil }
		defer base.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://contoso.crm.dynamics.com/", strings.NewReader("{}"))
		require.NoError(t, err)
		began := time.Now()
		_, err = base.RoundTrip(req)
		require.Error(t, err)
		assert.Less(t, time.Since(began), time.Minute)
	})
}

func TestTheProxyMakesNoWriteRepeatable(t *testing.T) {
	t.Parallel()
	type row struct{ name, why, request string }
	const head = "POST /api/data/v9.2/accounts HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
	const batch = "--b\r\nContent-Type: application/http\r\n\r\nPOST /x HTTP/1.1\r\n\r\n--b--"
	rows := []row{
		{"mapped", "it is in memory", head + "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"},
		{"mapped batch", "the same", strings.Replace(head, "accounts", "$batch", 1) + "Content-Type: multipart/mixed; boundary=b\r\nContent-Length: " + fmt.Sprint(len(batch)) + "\r\n\r\n" + batch},
		{"as it comes", "it may be in memory", head + "Content-Length: 2\r\n\r\n{}"},
		{"in chunks", "its length is not known", head + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"},
		{"no body", "there is nothing to have again", head + "Content-Length: 0\r\n\r\n"},
		{"asked for", "the body is sent on demand", head + "Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			var carriedOut atomic.Int32
			s := startHTTP2(t, new(failover.Config), func(conn net.Conn) { answerHTTP2(conn, nil, &carriedOut) })
			text := s.raw(t, r.request)
			assert.EqualValues(t, 1, carriedOut.Load())
			answers := answersIn(t, "POST", text)
			last := answers[len(answers)-1]
			assert.Equal(t, http.StatusBadGateway, last.StatusCode)
			assert.Equal(t, "unknown", last.Header.Get("Failover-Outcome"))
		})
	}
}

func TestAnswersOverHTTP2ThatCannotBePassedOn(t *testing.T) {
	t.Parallel()
	type row struct {
		name, why string
		blocks    [][]string
		status    int
	}
	ok := []string{":status 200"}
	rows := []row{
		{"99", "no status", [][]string{{":status 99"}}, 502},
		{"1000", "no status", [][]string{{":status 1000"}}, 502},
		{"negative", "no status", [][]string{{":status -200"}}, 502},
		{"zero", "no status", [][]string{{":status 0"}}, 502},
		{"signed", "read as 200, and written as that", [][]string{{":status +200"}}, 200},
		{"101", "HTTP/2 knows no other protocols", [][]string{{":status 101"}, ok}, 200},
		{"103", "with a word of ours", [][]string{{":status 103", "failover-outcome unknown", "link </a>"}, ok}, 200},
		{"header", "with a word of ours", [][]string{{":status 200", "failover-outcome unknown"}}, 200},
		{"trailer", "with a word of ours", [][]string{ok, {"failover-outcome unknown", "x-sum 42"}}, 200},
		{"challenge in a trailer", "is too late", [][]string{ok, {"www-authenticate NTLM"}}, 200},
		{"hop by hop", "HTTP/2 has none", [][]string{{":status 200", "connection x-named", "x-named 1", "keep-alive 5"}}, 200},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := startHTTP2(t, &failover.Config{MaxAttempts: 1, FailureThreshold: 1 << 30}, func(conn net.Conn) { answerHTTP2(conn, r.blocks, nil) })
			for _, method := range []string{"GET", "POST"} {
				text := s.raw(t, method+" /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nTE: trailers\r\nContent-Length: 0\r\n\r\n")
				answers := answersIn(t, method, text)
				require.NotEmpty(t, answers)
				last := answers[len(answers)-1]
				assert.Equal(t, r.status, last.StatusCode, "%q", text)
				if r.status == 200 {
					assert.NotContains(t, strings.ToLower(text), "failover-outcome")
				} else if method == "POST" {
					assert.Equal(t, "unknown", last.Header.Get("Failover-Outcome"))
				}
				for _, word := range []string{"NTLM", "X-Named", "Keep-Alive", "101"} {
					assert.NotContains(t, text, word)
				}
			}
		})
	}
}
