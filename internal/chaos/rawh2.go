package chaos

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An h2Script plays an HTTP/2 server by hand. It is called with every request that was
// received whole, and returns false to close the connection.
type h2Script func(c *h2Conn, stream uint32, id string) (goOn bool)

// h2Conn is the server's end of an HTTP/2 connection.
type h2Conn struct {
	*http2.Framer
	side *side
	hbuf bytes.Buffer
	henc *hpack.Encoder
}

// play returns a server for [side.rawH2] that follows the script.
func play(script h2Script) func(*side, net.Conn) {
	return func(s *side, nc net.Conn) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(nc, preface); err != nil {
			return
		}
		c := &h2Conn{Framer: http2.NewFramer(nc, nc), side: s}
		c.henc = hpack.NewEncoder(&c.hbuf)
		c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		c.WriteWindowUpdate(0, 1<<30)
		c.serve(script)
	}
}

func (c *h2Conn) serve(script h2Script) {
	ids := make(map[uint32]string)
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			return
		}
		ended := false
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				c.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame:
			id := ""
			for _, field := range f.Fields {
				if field.Name == strings.ToLower(idHeader) {
					id = field.Value
				}
			}
			if _, trailer := ids[f.StreamID]; !trailer {
				ids[f.StreamID] = id
				c.side.note(id, delivery{arrived: 1})
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			ended = f.StreamEnded()
		}
		if stream := frame.Header().StreamID; ended && !script(c, stream, ids[stream]) {
			return
		}
	}
}

// header sends the headers of an answer: the status, and more pairs of name and value.
func (c *h2Conn) header(stream uint32, status int, more ...string) error {
	c.hbuf.Reset()
	c.henc.WriteField(hpack.HeaderField{Name: ":status", Value: strconv.Itoa(status)})
	for i := 0; i+1 < len(more); i += 2 {
		c.henc.WriteField(hpack.HeaderField{Name: more[i], Value: more[i+1]})
	}
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.hbuf.Bytes(), EndHeaders: true})
}

// refusedStream refuses every request, which by RFC 9113, section 8.7, says that none was
// carried out.
func refusedStream(c *h2Conn, stream uint32, id string) bool {
	c.side.note(id, delivery{refused: 1})
	return c.WriteRSTStream(stream, http2.ErrCodeRefusedStream) == nil
}

// goAwayUnprocessed says in a GOAWAY that the request was not processed.
func goAwayUnprocessed(c *h2Conn, stream uint32, id string) bool {
	c.side.note(id, delivery{refused: 1})
	c.WriteGoAway(0, http2.ErrCodeNo, nil)
	return false
}

// goAwayProcessed carries out the request and then goes away without an answer.
func goAwayProcessed(c *h2Conn, stream uint32, id string) bool {
	c.side.note(id, delivery{applied: 1})
	c.WriteGoAway(stream, http2.ErrCodeInternal, nil)
	return false
}

// resetStream carries out the request and resets its stream.
func resetStream(c *h2Conn, stream uint32, id string) bool {
	c.side.note(id, delivery{applied: 1})
	return c.WriteRSTStream(stream, http2.ErrCodeInternal) == nil
}

// endlessH2Headers carries out the request and answers with headers that never end.
func endlessH2Headers(c *h2Conn, stream uint32, id string) bool {
	c.side.note(id, delivery{applied: 1})
	c.hbuf.Reset()
	c.henc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.hbuf.Bytes()})
	for n := 0; err == nil; n++ {
		c.hbuf.Reset()
		c.henc.WriteField(hpack.HeaderField{Name: "x-" + strconv.Itoa(n), Value: strings.Repeat("h", 8<<10), Sensitive: true})
		c.side.written.Add(int64(c.hbuf.Len()))
		err = c.WriteContinuation(stream, false, c.hbuf.Bytes())
	}
	return false
}

// lyingH2Length carries out the request, and ends the answer before its announced length.
func lyingH2Length(c *h2Conn, stream uint32, id string) bool {
	c.side.note(id, delivery{applied: 1})
	c.header(stream, 200, "content-type", "application/json", "content-length", "1000")
	return c.WriteData(stream, true, bytes.Repeat([]byte("a"), 500)) == nil
}
