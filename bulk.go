package failover

import (
	"encoding/xml"
	"io"
	"net/http"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/message"
	"github.com/d365failover/failover/internal/xmlpath"
)

// bulk reports whether req asks for several operations at once, of which some may
// have been carried out although the answer is a refusal: the service commits
// them one by one in a $batch, an ExecuteMultiple, and all of them on elastic
// tables. Of a SOAP message only the body tells, where it can be had again.
func bulk(req *http.Request) bool {
	if req == nil || req.URL == nil {
		return false
	}
	if isBatch(req) || multiple(operation(req.URL.Path)) {
		return true
	}
	if _, ok := message.Action(req.Header); !ok || req.Method != http.MethodPost || req.GetBody == nil {
		return false
	}
	body, err := req.GetBody()
	if err != nil {
		return false
	}
	defer body.Close()
	return executesMultiple(io.LimitReader(body, maxPeek))
}

// isBatch reports whether req is a $batch.
func isBatch(req *http.Request) bool {
	return req != nil && req.URL != nil && ascii.Lower(operation(req.URL.Path)) == "$batch"
}

// operation returns what a path ends with, without its namespace and parameters.
func operation(path string) string {
	name := strings.TrimRight(path, "/")
	name = name[strings.LastIndexByte(name, '/')+1:]
	name, _, _ = strings.Cut(name, "(")
	return name[strings.LastIndexByte(name, '.')+1:]
}

// multiple reports whether name is that of CreateMultiple, ExecuteMultiple or
// another message of their kind.
func multiple(name string) bool {
	return strings.HasSuffix(ascii.Lower(strings.TrimSpace(name)), "multiple")
}

// executesMultiple reports whether a SOAP message executes a request of that kind,
// which its type or its RequestName says.
func executesMultiple(body io.Reader) bool {
	r := xmlpath.NewReader(body, maxSOAPDepth)
	for {
		token, err := r.Next()
		if err != nil {
			return false
		}
		path := r.Path()
		if len(path) < 4 || path[1].Local != "Body" || path[2].Local != "Execute" || path[3].Local != "request" {
			continue
		}
		switch t := token.(type) {
		case xml.StartElement:
			for _, a := range t.Attr {
				if len(path) == 4 && a.Name.Local == "type" && multiple(strings.TrimSuffix(strings.TrimSpace(a.Value), "Request")) {
					return true
				}
			}
		case xml.CharData:
			if len(path) == 5 && path[4].Local == "RequestName" && multiple(string(t)) {
				return true
			}
		}
	}
}

// maxSOAPDepth is more than the way to the name of a request takes.
const maxSOAPDepth = 64
