package failover

import (
	"net/http"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
)

// This file knows the addresses of records: what a request and its answer say about
// the record that a write is for.

// maxAddress bounds the address of a record that an answer names, in bytes.
const maxAddress = 1024

// namedRecord returns the address of the record that a response names: in
// OData-EntityId (OData 4.0, part 1, section 8.3.4), or in the Location of a 201.
func namedRecord(resp *http.Response) string {
	address := valueOf(resp.Header, "Odata-Entityid")
	if address == "" && resp.StatusCode == http.StatusCreated {
		address = valueOf(resp.Header, "Location")
	}
	address, _, _ = strings.Cut(address, "?")
	address, _, _ = strings.Cut(address, "#")
	if len(address) > maxAddress {
		return ""
	}
	return address
}

// inPartition reports whether a write is for a record of an elastic table, which its
// id alone does not address: the request names the partition, or the answer has the
// session token that the writes of such tables come with. Source:
// https://learn.microsoft.com/power-apps/developer/data-platform/use-elastic-tables
func inPartition(req *http.Request, resp *http.Response) bool {
	return req.URL.RawQuery != "" && strings.Contains(ascii.Lower(req.URL.RawQuery), "partitionid") ||
		resp != nil && hasSessionToken(resp)
}

func hasSessionToken(resp *http.Response) bool {
	return valueOf(resp.Header, "X-Ms-Session-Token") != ""
}

// recordAt returns path and id of the record at an address. Both are empty if it
// is not the address of one.
func recordAt(address string) (entity, id string) {
	path := address
	if _, _, rest, ok := splitURL(address); ok {
		path = rest
	}
	if len(path) > maxWritePath || !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, invisible) {
		return "", ""
	}
	path = withParens(path)
	if entity, id = recordIn(path); entity != path {
		return "", ""
	}
	return entity, id
}

func invisible(r rune) bool { return r <= ' ' || r > '~' }

// withParens undoes the escaping of parentheses, which net/url escapes in paths
// that were not parsed. To OData they mean the same.
func withParens(path string) string {
	if strings.IndexByte(path, '%') < 0 {
		return path
	}
	return strings.ReplaceAll(strings.ReplaceAll(path, "%28", "("), "%29", ")")
}

// guidLength of the form 00000000-0000-0000-0000-000000000000.
const guidLength = 36

// recordIn returns the start of a path that ends with the first record that is
// addressed by a GUID, as in "/api/data/v9.2/accounts(...)/name", and that GUID.
// Both are empty if there is none.
func recordIn(path string) (entity, id string) {
	for i := 0; ; {
		open := strings.IndexByte(path[i:], '(')
		if open < 0 {
			return "", ""
		}
		set := path[strings.LastIndexByte(path[:i+open], '/')+1 : i+open]
		i += open + 1
		end := i + guidLength
		if end < len(path) && path[end] == ')' && isGUID(path[i:end]) && isIdentifier(set) {
			return path[:end+1], path[i:end]
		}
	}
}

func isGUID(s string) bool {
	for i := range len(s) {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return false
			}
		default:
			if c := ascii.LowerByte(s[i]); (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return len(s) == guidLength
}

// isIdentifier reports whether s can be the name of an entity set.
func isIdentifier(s string) bool {
	for i := range len(s) {
		if c := ascii.LowerByte(s[i]); c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return s != ""
}

// recordKey identifies the record at a path: entity set and id, whatever the version
// of the API in the path.
func recordKey(entity string) string {
	return ascii.Lower(entity[strings.LastIndexByte(entity, '/')+1:])
}

// deletes reports whether w is to delete its record, and not a part of it.
func (w *Write) deletes() bool { return w.Method == http.MethodDelete && w.Path == w.Entity }

// creates reports whether w is known to have created its record: the answer
// says so, or names a record that the path of the request did not lead to.
func (w *Write) creates() bool {
	return w.Status == http.StatusCreated ||
		w.Method == http.MethodPost && !strings.HasPrefix(w.Path, w.Entity) && !strings.HasSuffix(w.Path, "/$ref")
}
