package statuspage

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// WantsJSON reports whether a request prefers JSON. A header that ranks both forms equal, such
// as "application/json, */*", prefers the one that it names.
func WantsJSON(r *http.Request) bool {
	if format := r.URL.Query().Get("format"); format != "" {
		return format == "json"
	}
	accept := ranges(r.Header.Values("Accept"))
	asJSON, named := rank(accept, "application/json")
	asHTML, alsoNamed := rank(accept, "text/html")
	return asJSON > asHTML || asJSON == asHTML && asJSON > 0 && named && !alsoNamed
}

// Limits of what is read of an Accept header: browsers send some ten ranges of some twenty
// bytes, but a header may have a megabyte.
const (
	maxRanges = 64
	maxRange  = 256
)

// ranges returns the first media ranges of an Accept header.
func ranges(lines []string) (all []string) {
	for _, line := range lines {
		for one := range strings.SplitSeq(line, ",") {
			if len(all) == maxRanges {
				return all
			}
			if len(one) > maxRange {
				one = "" // counts, and means nothing
			}
			all = append(all, one)
		}
	}
	return all
}

// rank returns the weight that an Accept header gives a media type, and whether
// it names it. The most specific range decides (RFC 9110, section 12.5.1).
func rank(accept []string, mediaType string) (weight float64, named bool) {
	family, _, _ := strings.Cut(mediaType, "/")
	found := -1
	for _, field := range accept {
		name, params, err := mime.ParseMediaType(field)
		if err != nil {
			continue
		}
		for precision, match := range []string{"*/*", family + "/*", mediaType} {
			if name != match || precision <= found {
				continue
			}
			found, weight = precision, 1
			if q, ok := params["q"]; ok {
				weight, _ = strconv.ParseFloat(q, 64)
			}
		}
	}
	return weight, found == 2
}
