package failovertest

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	filterEq  = regexp.MustCompile(`^\s*([A-Za-z_][A-Za-z0-9_]*)\s+eq\s+(?:'((?:[^']|'')*)'|([^\s']+))\s*$`)
	skipToken = regexp.MustCompile(`^<cookie pagenumber="(\d+)" after="(\d+)" since="(\d+)" />$`)
	maxPage   = regexp.MustCompile(`odata\.maxpagesize=(\d+)`)
)

// list answers GET of an entity set with all records, with those changed since a delta link,
// or with a further page of either.
func (c *call) list() *answer {
	q := c.query
	match, a := c.filter(q.Get("$filter"))
	if a != nil {
		return a
	}
	track := strings.Contains(c.header.Get("Prefer"), "odata.track-changes") || q.Has("$deltatoken")
	rows, gone := c.dc.data.sorted(c.set), map[string]int64(nil)
	stamp := c.dc.data.version
	if q.Has("$deltatoken") {
		text, _, _ := strings.Cut(q.Get("$deltatoken"), "!")
		since, err := strconv.ParseInt(text, 10, 64)
		if err != nil || since > stamp {
			return errorAnswer(http.StatusBadRequest, codeExpiredDelta,
				"Version stamp associated with the client has expired. Please perform a full sync.")
		}
		rows = slices.DeleteFunc(rows, func(r *row) bool { return r.version <= since })
		gone = c.deletedSince(since)
	}
	rows = slices.DeleteFunc(rows, func(r *row) bool { return !match(r) })
	total := len(rows)
	if top := q.Get("$top"); top != "" {
		n, err := strconv.Atoi(top)
		if err != nil || n < 0 {
			return c.bad("Invalid value of $top.")
		}
		rows = rows[:min(n, len(rows))]
	}
	page := 1
	if text := q.Get("$skiptoken"); text != "" {
		m := skipToken.FindStringSubmatch(text)
		if m == nil {
			return c.bad("Malformed XML in the Paging Cookie")
		}
		page, _ = strconv.Atoi(m[1])
		after, _ := strconv.ParseInt(m[2], 10, 64)
		stamp, _ = strconv.ParseInt(m[3], 10, 64)
		track = track || stamp > 0
		rows = slices.DeleteFunc(rows, func(r *row) bool { return r.seq <= after })
	}
	return c.page(rows, gone, page, total, stamp, track)
}

// page answers with the first of the rows and links to the rest.
func (c *call) page(rows []*row, gone map[string]int64, page, total int, stamp int64, track bool) *answer {
	size := c.dc.org.cfg.PageSize
	if m := maxPage.FindStringSubmatch(c.header.Get("Prefer")); m != nil {
		if n, _ := strconv.Atoi(m[1]); n > 0 {
			size = n
		}
	}
	value := []map[string]any{}
	for _, r := range rows[:min(size, len(rows))] {
		value = append(value, c.represent(r, false))
	}
	body := map[string]any{"@odata.context": c.root + "$metadata#" + c.set}
	if c.query.Get("$count") == "true" {
		body["@odata.count"] = total
	}
	switch {
	case len(rows) > size:
		since := int64(0)
		if track {
			since = stamp
		}
		body["@odata.nextLink"] = c.self("$skiptoken",
			fmt.Sprintf(`<cookie pagenumber="%d" after="%d" since="%d" />`, page+1, rows[size-1].seq, since))
	case track:
		body["@odata.context"] = c.root + "$metadata#" + c.set + "/$delta"
		body["@odata.deltaLink"] = c.self("$deltatoken",
			fmt.Sprintf("%d!%s", stamp, time.Now().UTC().Format("01/02/2006 15:04:05")))
		for id := range gone {
			value = append(value, map[string]any{
				"@odata.context": c.root + "$metadata#" + c.set + "/$deletedEntity",
				"id":             id, "reason": "deleted"})
		}
	}
	body["value"] = value
	a := jsonAnswer(http.StatusOK, body)
	if track {
		a.header.Set("Preference-Applied", "odata.track-changes")
	}
	return a
}

// self returns the absolute address of the request with one more parameter, which replaces
// those of earlier pages.
func (c *call) self(name, value string) string {
	q := url.Values{}
	for k, v := range c.query {
		if k != "$skiptoken" && (k != "$deltatoken" || name == "$skiptoken") {
			q[k] = v
		}
	}
	q.Set(name, value)
	// OData clients expect the dollar sign as it is.
	return c.root + c.set + "?" + strings.ReplaceAll(q.Encode(), "%24", "$")
}

// deletedSince returns the ids of the records deleted after a version.
func (c *call) deletedSince(since int64) map[string]int64 {
	gone := make(map[string]int64)
	if t := c.dc.data.tables[c.set]; t != nil {
		for id, v := range t.deleted {
			if v > since {
				gone[id] = v
			}
		}
	}
	return gone
}

// filter returns the predicate of a $filter of the form "attribute eq value".
func (c *call) filter(text string) (func(*row) bool, *answer) {
	if text == "" {
		return func(*row) bool { return true }, nil
	}
	m := filterEq.FindStringSubmatch(text)
	if m == nil {
		return nil, c.bad("The simulator filters by \"attribute eq value\" only.")
	}
	want := m[3]
	if want == "" {
		want = strings.ReplaceAll(m[2], "''", "'")
	}
	return func(r *row) bool {
		value, ok := r.record(c.set)[m[1]]
		if !ok || value == nil {
			return m[3] == "null"
		}
		return fmt.Sprint(value) == want
	}, nil
}
