package chaos

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A fault is one way in which the primary endpoint fails.
type fault struct {
	name string
	// by names what injects it: "toxiproxy", "kernel" or "server".
	by      string
	moments []moment
	// proto is "h1" or "h2" if only that protocol can have the fault.
	proto string
	// mild faults leave the primary usable, and cause no failover.
	mild   bool
	inject func(s *side)
}

var (
	atAnyMoment   = []moment{cold, warm, during, headers, mid}
	inTheRequest  = []moment{during, headers, mid}
	beforeRequest = []moment{cold, warm}
	atTheAnswer   = []moment{headers}
)

// faults are those of the matrix. Their names are unique.
var faults = []fault{
	{name: "latency 50 ms", by: "toxiproxy", moments: atAnyMoment, mild: true,
		inject: func(s *side) { s.toxic("latency", `{"latency":50}`) }},
	{name: "bandwidth 256 KB/s", by: "toxiproxy", moments: atAnyMoment, mild: true,
		inject: func(s *side) { s.toxic("bandwidth", `{"rate":256}`) }},
	{name: "slicer", by: "toxiproxy", moments: atAnyMoment, mild: true,
		inject: func(s *side) {
			s.toxic("slicer", `{"average_size":512,"size_variation":256,"delay":100}`, "downstream")
		}},
	{name: "slow close", by: "toxiproxy", moments: atAnyMoment, mild: true,
		inject: func(s *side) { s.toxic("slow_close", `{"delay":500}`) }},
	{name: "timeout, data lost", by: "toxiproxy", moments: atAnyMoment,
		inject: func(s *side) { s.toxic("timeout", `{"timeout":0}`) }},
	{name: "timeout, closed after 100 ms", by: "toxiproxy", moments: atAnyMoment,
		inject: func(s *side) { s.toxic("timeout", `{"timeout":100}`) }},
	{name: "reset peer", by: "toxiproxy", moments: atAnyMoment,
		inject: func(s *side) { s.toxic("reset_peer", `{"timeout":0}`) }},
	{name: "limit data, 8 KB", by: "toxiproxy", moments: atAnyMoment,
		inject: func(s *side) { s.toxic("limit_data", `{"bytes":8192}`, "downstream") }},
	{name: "proxy down", by: "toxiproxy", moments: atAnyMoment,
		inject: (*side).refuse},

	{name: "connections reset, port closed", by: "kernel", moments: inTheRequest,
		inject: (*side).refuse},
	{name: "peer gone, data lost in one direction", by: "toxiproxy", moments: []moment{warm, headers},
		inject: func(s *side) { s.toxic("timeout", `{"timeout":0}`, "downstream") }},
	{name: "SYN black hole", by: "kernel", moments: []moment{cold}, inject: blackholed},
	{name: "name gone", by: "server", moments: []moment{cold},
		inject: func(s *side) { s.nameGone.Store(true); s.refuse() }},
	{name: "certificate of another host", by: "server", moments: []moment{cold},
		inject: func(s *side) { s.cert.Store(&certs().wrong) }},
	{name: "certificate of a stranger", by: "server", moments: []moment{cold},
		inject: func(s *side) { s.cert.Store(&certs().alien) }},
	{name: "certificate expired", by: "server", moments: []moment{cold},
		inject: func(s *side) { s.cert.Store(&certs().expired) }},

	{name: "fence code", by: "server", moments: beforeRequest, inject: func(*side) {}},
	{name: "503", by: "server", moments: atTheAnswer, inject: answers(unavailable)},
	{name: "503, body stalls", by: "server", moments: atTheAnswer, inject: answers(stalledError)},
	{name: "503, 1 GiB page", by: "server", moments: atTheAnswer, inject: answers(hugeError)},
	{name: "503, gzip bomb of 1 GiB", by: "server", moments: atTheAnswer, inject: answers(gzipBomb)},
	{name: "200, trickled headers", by: "server", proto: "h1", moments: atTheAnswer, inject: answers(trickledHeaders)},
	{name: "200, endless headers", by: "server", proto: "h1", moments: atTheAnswer, inject: answers(endlessHeaders)},
	{name: "200, fewer bytes than announced, closed", by: "server", proto: "h1", moments: atTheAnswer, inject: answers(lyingLength("close"))},
	{name: "200, fewer bytes than announced, silent", by: "server", proto: "h1", moments: atTheAnswer, inject: answers(lyingLength("stall"))},
	{name: "503, more bytes than announced", by: "server", proto: "h1", moments: atTheAnswer, inject: answers(lyingLength("more"))},

	{name: "GOAWAY, request not processed", by: "server", proto: "h2", moments: []moment{cold}, inject: scripted(goAwayUnprocessed)},
	{name: "GOAWAY, request processed", by: "server", proto: "h2", moments: []moment{cold}, inject: scripted(goAwayProcessed)},
	{name: "REFUSED_STREAM", by: "server", proto: "h2", moments: []moment{cold}, inject: scripted(refusedStream)},
	{name: "RST_STREAM, request processed", by: "server", proto: "h2", moments: []moment{cold}, inject: scripted(resetStream)},
	{name: "endless headers (CONTINUATION)", by: "server", proto: "h2", moments: []moment{cold}, inject: scripted(endlessH2Headers)},
	{name: "fewer bytes than announced", by: "server", proto: "h2", moments: []moment{cold}, inject: scripted(lyingH2Length)},
}

func blackholed(s *side) {
	hole, err := newBlackHole()
	if errors.Is(err, errors.ErrUnsupported) {
		s.toxic("timeout", `{"timeout":0}`) // the closest that toxiproxy offers
		return
	}
	s.hole.Store(must(hole, err))
}

func answers(h http.HandlerFunc) func(*side) {
	return func(s *side) {
		counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h(&countingWriter{w, s}, r) })
		s.answer.Store(&counted)
	}
}

func scripted(script h2Script) func(*side) {
	return func(s *side) {
		server := play(script)
		s.rawH2.Store(&server)
	}
}

// countingWriter counts the bytes that the client accepts.
type countingWriter struct {
	http.ResponseWriter
	s *side
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.s.written.Add(int64(n))
	return n, err
}

func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func unavailable(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusServiceUnavailable)
	io.WriteString(w, "<h1>Service Unavailable</h1>")
}

// stalledError sends the beginning of an error page, and then nothing until the client gives
// up.
func stalledError(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusServiceUnavailable)
	io.WriteString(w, "<h1>Service")
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func hugeError(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusServiceUnavailable)
	page := bytes.Repeat([]byte("<p>unavailable</p>"), 4<<10)
	for sent, err := 0, error(nil); sent < 1<<30 && err == nil; sent += len(page) {
		_, err = w.Write(page)
	}
}

// bomb is 1 GiB of blanks, compressed.
var bomb = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	z := must(gzip.NewWriterLevel(&b, gzip.BestSpeed))
	blanks := bytes.Repeat([]byte(" "), 1<<20)
	for range 64 {
		z.Write(blanks)
	}
	z.Close()
	return bytes.Repeat(b.Bytes(), 16) // a gzip stream may have several members: RFC 1952, section 2.2
})

func gzipBomb(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Encoding", "gzip")
	w.WriteHeader(http.StatusServiceUnavailable)
	w.Write(bomb())
}

// hijacked gives script the HTTP/1.1 connection, and closes it afterwards.
func hijacked(w http.ResponseWriter, script func(net.Conn)) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(fmt.Sprintf("chaos: no HTTP/1.1: %v", err))
	}
	defer c.Close()
	script(c)
}

// patience bounds a script whose client never hangs up.
const patience = 20 * time.Second

// silent keeps the connection until the client closes it.
func silent(c net.Conn) {
	c.SetReadDeadline(time.Now().Add(patience))
	io.Copy(io.Discard, c)
}

func trickledHeaders(w http.ResponseWriter, _ *http.Request) {
	hijacked(w, func(c net.Conn) {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		head := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Trickle: " + strings.Repeat("t", int(patience/(50*time.Millisecond)))
		for i := range head {
			<-tick.C
			if _, err := io.WriteString(c, head[i:i+1]); err != nil {
				return
			}
		}
	})
}

func endlessHeaders(w http.ResponseWriter, _ *http.Request) {
	s := w.(*countingWriter).s
	hijacked(w, func(c net.Conn) {
		c.SetDeadline(time.Now().Add(patience))
		n, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for i := 0; err == nil; i++ {
			s.written.Add(int64(n))
			n, err = io.WriteString(c, "X-"+strconv.Itoa(i)+": "+strings.Repeat("h", 8<<10)+"\r\n")
		}
	})
}

// lyingLength answers with a Content-Length that does not match the body.
func lyingLength(how string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		hijacked(w, func(c net.Conn) {
			status, announced := "200 OK", 1000
			if how == "more" {
				status, announced = "503 Service Unavailable", 10
			}
			fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
				status, announced, bytes.Repeat([]byte("b"), 500))
			if how != "close" {
				silent(c)
			}
		})
	}
}
