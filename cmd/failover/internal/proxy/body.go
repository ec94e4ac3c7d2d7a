package proxy

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"path"
	"strings"
)

// A filter maps the links of a body that passes through it in pieces. The result does not depend
// on how the body is cut into pieces. A filter holds back a bounded part of its input.
type filter interface {
	// next filters p, the next piece of the body, and appends the result to dst.
	next(dst, p []byte) []byte
	// end appends what was held back to dst. It is called once, after the last piece.
	end(dst []byte) []byte
}

// requestFilter returns the filter for the body of a request, nil if it needs none.
func requestFilter(r *http.Request, m mapping) filter {
	media, params := contentType(r.Header)
	switch {
	case isJSON(media):
		f := newJSONLinks(m)
		f.ofCall = true
		return f
	case media == "multipart/mixed" && path.Base(r.URL.Path) == "$batch":
		f := newBatch(m, params["boundary"])
		f.ofCall = true
		return f
	case isXML(media):
		return &soapTo{links: m}
	}
	return nil
}

// responseFilter returns the filter for the body of a response, nil if it needs none. A part of
// a body (206) cannot be parsed.
func responseFilter(resp *http.Response, m mapping) filter {
	if resp.StatusCode == http.StatusPartialContent {
		return nil
	}
	media, params := contentType(resp.Header)
	query := strings.ToLower(resp.Request.URL.RawQuery)
	switch {
	case isJSON(media):
		return newJSONLinks(m)
	case media == "multipart/mixed" && path.Base(resp.Request.URL.Path) == "$batch":
		return newBatch(m, params["boundary"])
	case isXML(media) && (strings.Contains(query, "wsdl") || strings.HasPrefix(query, "xsd")):
		return newPlainLinks(m)
	}
	return nil
}

// contentType returns the media type of a body, or "" if the body is compressed or not in UTF-8.
func contentType(h http.Header) (media string, params map[string]string) {
	if e := strings.TrimSpace(strings.Join(h.Values("Content-Encoding"), ",")); e != "" && !strings.EqualFold(e, "identity") {
		return "", nil
	}
	media, params = mediaType(h)
	switch strings.ToLower(params["charset"]) {
	case "", "utf-8", "utf8", "us-ascii":
		return media, params
	}
	return "", nil
}

// maxMediaType is the longest Content-Type that is parsed.
const maxMediaType = 1 << 10

// mediaType returns the media type that a header names, "" if it names none.
func mediaType(h http.Header) (media string, params map[string]string) {
	value := h.Get("Content-Type")
	if len(value) > maxMediaType {
		return "", nil
	}
	media, params, err := mime.ParseMediaType(value)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return "", nil
	}
	return media, params
}

func isJSON(media string) bool {
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

func isXML(media string) bool {
	return media == "text/xml" || media == "application/xml" || media == "application/soap+xml" || media == "application/wsdl+xml"
}

// maxHeld is the longest request body that is read before the request is sent, so that its new
// length is known. It is the default of failover.Config.MaxBody: the Transport buffers such a
// body anyway.
const maxHeld = 1 << 20

// streamed reports whether the body of a request is streamed.
func streamed(r *http.Request) bool { return r.ContentLength < 0 || r.ContentLength > maxHeld }

// mapBody maps the links in the body of a request. A body of a known length up to maxHeld keeps
// a known length; any other is streamed in chunks. The error is that of reading the body.
func mapBody(r *http.Request, m mapping) error {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	f := requestFilter(r, m)
	if f == nil {
		return nil
	}
	body := &filtered{src: r.Body, filter: f}
	if streamed(r) {
		r.Body, r.ContentLength = body, -1
		return nil
	}
	held, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	// Without GetBody, because net/http may repeat a write that has one.
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(held)), int64(len(held))
	r.Header.Del("Expect") // the body has been read
	return nil
}

// mapResponse maps the links in the headers and the body of a response.
func mapResponse(resp *http.Response, m mapping) {
	m.headers(resp.Header)
	f := responseFilter(resp, m)
	if f == nil {
		return
	}
	for _, name := range []string{"Content-Length", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest"} {
		resp.Header.Del(name)
	}
	resp.ContentLength = -1
	resp.Body = &filtered{src: resp.Body, filter: f}
}

// filtered is a body that is filtered as it is read. What one read of the source yields can be
// read at once.
type filtered struct {
	src    io.ReadCloser
	filter filter
	buffer []byte
	out    []byte // filtered and not read yet
	err    error
	mem    []byte // backs out
}

func (b *filtered) Read(p []byte) (int, error) {
	for len(b.out) == 0 && b.err == nil {
		if b.buffer == nil {
			b.buffer = make([]byte, 16<<10)
		}
		var n int
		n, b.err = b.src.Read(b.buffer)
		b.mem = b.filter.next(b.mem[:0], b.buffer[:n])
		if b.err != nil {
			b.mem = b.filter.end(b.mem)
		}
		b.out = b.mem
	}
	n := copy(p, b.out)
	b.out = b.out[n:]
	if len(b.out) > 0 {
		return n, nil
	}
	return n, b.err
}

func (b *filtered) Close() error { return b.src.Close() }
