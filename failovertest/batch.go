package failovertest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
)

// maxBatch is the maximum number of requests in a batch.
const maxBatch = 1000

// batch is a $batch request under way.
type batch struct {
	*call
	goOn    bool // after errors
	left    int  // requests allowed
	out     bytes.Buffer
	w       *multipart.Writer
	applied bool
}

// batch answers POST $batch. It carries out requests and change sets one after the other, up
// to the first error unless the caller prefers odata.continue-on-error, and always answers
// with status 200 (OData Protocol 4.0, section 11.7).
func (c *call) batch() *answer {
	if c.method != http.MethodPost {
		return c.notAllowed()
	}
	parts, err := c.parts(c.header.Get("Content-Type"), c.body)
	if err != nil {
		return c.bad(err.Error())
	}
	b := &batch{call: c, left: maxBatch,
		goOn: strings.Contains(c.header.Get("Prefer"), "odata.continue-on-error")}
	b.w = multipart.NewWriter(&b.out)
	b.w.SetBoundary("batchresponse_" + newID())
	for _, p := range parts {
		ok := true
		if strings.HasPrefix(strings.ToLower(p.contentType), "multipart/") {
			ok = b.changeSet(p)
		} else {
			a, _ := b.one(p, nil, http.MethodGet)
			writeAnswer(b.w, p.id, a)
			ok = a.status < 400
		}
		if b.left < 0 {
			return c.bad("The batch contains too many requests.")
		}
		if !ok && !b.goOn {
			break
		}
	}
	b.w.Close()
	a := newAnswer(http.StatusOK, "multipart/mixed; boundary="+b.w.Boundary(), b.out.Bytes())
	a.header.Set("OData-Version", "4.0")
	a.applied = b.applied
	return a
}

// part is one part of a multipart body.
type part struct {
	contentType string
	id          string // Content-ID
	body        []byte
}

// parts splits a multipart body.
func (c *call) parts(contentType string, body []byte) ([]part, error) {
	typ, params, err := mime.ParseMediaType(contentType)
	if err != nil || typ != "multipart/mixed" || params["boundary"] == "" {
		return nil, fmt.Errorf("the content type of a batch must be multipart/mixed with a boundary")
	}
	var parts []part
	for r := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return parts, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the batch is not well-formed")
		}
		text, err := io.ReadAll(p)
		if err != nil {
			return nil, fmt.Errorf("the batch is not well-formed")
		}
		parts = append(parts, part{p.Header.Get("Content-Type"), p.Header.Get("Content-ID"), text})
	}
}

// changeSet carries out all requests of a change set or none. It writes their answers, or
// that of the request that failed, and reports whether all succeeded.
func (b *batch) changeSet(p part) bool {
	var out bytes.Buffer
	w := multipart.NewWriter(&out)
	w.SetBoundary("changesetresponse_" + newID())
	parts, err := b.parts(p.contentType, p.body)
	if err != nil {
		writeAnswer(b.w, p.id, b.bad(err.Error()))
		return false
	}
	o, before := b.dc.org, b.dc.data.clone()
	pending := len(o.pending)
	refs := make(map[string]string)
	var answers []*answer
	var applied, failed bool
	for _, p := range parts {
		a, address := b.one(p, refs, http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodDelete)
		if a.status >= 400 {
			answers, parts, failed = []*answer{a}, []part{p}, true
			break
		}
		answers = append(answers, a)
		applied = applied || a.applied
		if p.id != "" && address != "" {
			refs["$"+p.id] = address
		}
	}
	if failed {
		b.dc.data = before
		o.pending = slices.Delete(o.pending, min(pending, len(o.pending)), len(o.pending))
	} else {
		b.applied = b.applied || applied
	}
	for i, a := range answers {
		writeAnswer(w, parts[i].id, a)
	}
	w.Close()
	pw, _ := b.w.CreatePart(textproto.MIMEHeader{
		"Content-Type": {"multipart/mixed; boundary=" + w.Boundary()}})
	pw.Write(out.Bytes())
	return !failed
}

// one carries out the request of one part. refs are the addresses by the Content-IDs of the
// change set. It returns the address of the written record, relative to the service root.
func (b *batch) one(p part, refs map[string]string, methods ...string) (a *answer, address string) {
	if b.left--; b.left < 0 {
		return b.bad("The batch contains too many requests."), ""
	}
	r, rest, err := b.embedded(p, refs)
	switch {
	case err != nil:
		return b.bad(err.Error()), ""
	case refs == nil && r.method != http.MethodGet:
		// Outside a change set each write is a unit of its own.
	case !slices.Contains(methods, r.method):
		return b.bad("The method " + r.method + " is not allowed in this place of a batch."), ""
	}
	c := &call{request: r, dc: b.dc, root: b.root, refs: refs}
	a = c.answer(rest)
	if refs == nil {
		b.applied = b.applied || a.applied
	}
	return a, strings.TrimPrefix(a.header.Get("OData-EntityId"), b.root)
}

// embedded reads the request in a part. Its address may be absolute, a path with a Host
// header, or relative to the service root. A host in it must be that of the batch.
func (b *batch) embedded(p part, refs map[string]string) (r *request, rest string, err error) {
	tr := textproto.NewReader(bufio.NewReader(bytes.NewReader(p.body)))
	line, err := tr.ReadLine()
	fields := strings.Fields(line)
	if err != nil || len(fields) != 3 || !strings.HasPrefix(fields[2], "HTTP/1") {
		return nil, "", fmt.Errorf("a part of the batch does not start with a request line")
	}
	header, err := tr.ReadMIMEHeader()
	if err != nil && err != io.EOF { // a request without a body may end here
		return nil, "", fmt.Errorf("a part of the batch has a malformed header")
	}
	body, _ := io.ReadAll(tr.R)
	target := fields[1]
	if ref, tail, _ := strings.Cut(target, "/"); refs[ref] != "" {
		target = strings.TrimSuffix(refs[ref]+"/"+tail, "/")
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil, "", fmt.Errorf("a part of the batch has a malformed address")
	}
	host := header.Get("Host")
	if u.Host != "" {
		host = u.Host
	}
	if host != "" && !strings.EqualFold(host, b.host) || u.Scheme != "" && u.Scheme != "https" {
		return nil, "", fmt.Errorf("a part of the batch is addressed to another host")
	}
	rest = u.Path
	if strings.HasPrefix(rest, "/") {
		_, after, ok := webAPIPath(rest)
		if !ok {
			return nil, "", fmt.Errorf("a part of the batch is addressed to another service")
		}
		rest = after
	}
	if rest == "$batch" {
		return nil, "", fmt.Errorf("a batch cannot be part of a batch")
	}
	return &request{method: fields[0], host: b.host, path: u.Path, query: u.Query(),
		header: http.Header(header), body: body}, rest, nil
}

// writeAnswer writes an answer as a part.
func writeAnswer(w *multipart.Writer, id string, a *answer) {
	header := textproto.MIMEHeader{
		"Content-Type":              {"application/http"},
		"Content-Transfer-Encoding": {"binary"},
	}
	if id != "" {
		header.Set("Content-ID", id)
	}
	pw, _ := w.CreatePart(header)
	fmt.Fprintf(pw, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	a.header.Write(pw)
	fmt.Fprintf(pw, "\r\n%s\r\n", a.body)
}
