package failovertest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// firstRecID is the RecId before the first one that Finance and Operations gives.
const firstRecID = 5637144576

var (
	financeEntity = regexp.MustCompile(`^([A-Z][A-Za-z0-9_]*)(?:\(([^()]*)\))?(/\$count)?$`)
	financeKey    = regexp.MustCompile(`([A-Za-z][A-Za-z0-9_]*)=('(?:[^']|'')*'|[0-9]+)(?:,|$)`)
)

// financeKeys are the keys of the data entities that the simulator knows. All others have
// the key RecId, which the service assigns.
var financeKeys = map[string][]string{
	"CustomersV3":          {"dataAreaId", "CustomerAccount"},
	"CustomerGroups":       {"dataAreaId", "CustomerGroupId"},
	"VendorsV2":            {"dataAreaId", "VendorAccountNumber"},
	"ReleasedProductsV2":   {"dataAreaId", "ItemNumber"},
	"SalesOrderHeadersV2":  {"dataAreaId", "SalesOrderNumber"},
	"PurchaseOrderHeaders": {"dataAreaId", "PurchaseOrderNumber"},
}

// isFinance reports whether host belongs to Finance and Operations.
func isFinance(host string) bool {
	labels := strings.Split(strings.ToLower(host), ".")
	return slices.ContainsFunc(labels[1:], func(label string) bool {
		return label == "operations" || label == "cloudax" || label == "axcloud" || label == "ax"
	})
}

// isFinanceSet reports whether an entity set belongs to Finance and Operations: unlike those
// of Dataverse, its names begin with a capital letter.
func isFinanceSet(set string) bool { return set != "" && set[0] >= 'A' && set[0] <= 'Z' }

// financePath returns what follows /data in a path.
func financePath(path string) (rest string, ok bool) {
	const root = "/data"
	if len(path) < len(root) || !strings.EqualFold(path[:len(root)], root) {
		return "", false
	}
	if rest = path[len(root):]; rest == "" {
		return "", true
	}
	return rest[1:], rest[0] == '/'
}

// seedCustomer creates the n-th customer with which an organization starts.
func (o *Org) seedCustomer(n int, name string) {
	attrs := map[string]any{
		"dataAreaId": "usmf", "CustomerAccount": fmt.Sprintf("US-%03d", n),
		"CustomerGroupId": "30", "OrganizationName": name,
	}
	o.commit(o.primary, "CustomersV3", financeID("CustomersV3", attrs), &row{attrs: attrs})
}

// financeID returns the key of a record as in its address, or "" if the key is incomplete.
func financeID(set string, attrs map[string]any) string {
	var pairs []string
	for _, name := range keyOf(set) {
		switch v := attrs[name].(type) {
		case string:
			if v != "" {
				pairs = append(pairs, name+"='"+strings.ReplaceAll(v, "'", "''")+"'")
			}
		case json.Number:
			pairs = append(pairs, name+"="+v.String())
		}
	}
	if len(pairs) < len(keyOf(set)) {
		return ""
	}
	return strings.Join(pairs, ",")
}

func keyOf(set string) []string {
	if key := financeKeys[set]; key != nil {
		return key
	}
	return []string{"RecId"}
}

// financeAndOperations answers a request below /data, the OData service of
// Finance and Operations. The caller holds org.mu.
func (d *Datacenter) financeAndOperations(r *request, rest string) *answer {
	switch {
	case !d.authorized(r):
		return d.challenge()
	case d.fenced:
		return errorAnswer(d.org.cfg.FenceStatus, codeFence, fenceMessage)
	}
	c := &call{request: r, dc: d, root: "https://" + r.host + "/data/"}
	if rest == "" {
		if r.method != http.MethodGet {
			return c.notAllowed()
		}
		return jsonAnswer(http.StatusOK, map[string]any{"@odata.context": c.root + "$metadata", "value": []any{}})
	}
	m := financeEntity.FindStringSubmatch(rest)
	if m == nil {
		return financeError(http.StatusNotFound, "System.Web.Http.HttpException",
			"No HTTP resource was found that matches the request URI.")
	}
	c.set = m[1]
	switch {
	case m[3] != "" && m[2] == "" && r.method == http.MethodGet:
		return newAnswer(http.StatusOK, "text/plain", strconv.AppendInt(nil, int64(len(d.data.sorted(c.set))), 10))
	case m[3] != "":
		return c.notAllowed()
	case m[2] != "":
		return c.financeRecord(m[2])
	case r.method == http.MethodGet:
		return c.list()
	case r.method == http.MethodPost:
		return c.financeCreate()
	}
	return c.notAllowed()
}

// financeError is an error of Finance and Operations, whose code is empty.
func financeError(status int, typ, message string) *answer {
	return jsonAnswer(status, map[string]any{"error": map[string]any{
		"code": "", "message": "An error has occurred.",
		"innererror": map[string]any{"message": message, "type": typ, "stacktrace": ""},
	}})
}

// writeError is the answer to a write that Finance and Operations rejects.
func (c *call) writeError(reason string) *answer {
	return financeError(http.StatusBadRequest, "Microsoft.Dynamics.Platform.Integration.Services.OData.Core.AxODataWriteException",
		"Write failed for table row of type '"+c.set+"'. Infolog: Error: "+reason)
}

func (c *call) financeCreate() *answer {
	next := &row{}
	if a := c.merge(next); a != nil {
		return a
	}
	if financeKeys[c.set] == nil {
		next.attrs["RecId"] = json.Number(strconv.FormatInt(firstRecID+c.dc.data.seq, 10))
	}
	id := financeID(c.set, next.attrs)
	switch {
	case id == "":
		return c.writeError("Field '" + strings.Join(keyOf(c.set), "', '") + "' must be filled in.")
	case c.financeRow(id) != nil:
		return c.writeError("The record already exists.")
	}
	c.dc.org.commit(c.dc, c.set, id, next)
	a := jsonAnswer(http.StatusCreated, c.represent(next, true))
	a.applied = true
	a.header.Set("ETag", etag(next))
	a.header.Set("Location", c.root+c.set+"("+id+")")
	return a
}

// financeRow returns the record with a key, ignoring case.
func (c *call) financeRow(id string) *row {
	for key, r := range c.dc.data.table(c.set).rows {
		if strings.EqualFold(key, id) {
			return r
		}
	}
	return nil
}

// financeRecord answers a request to one record, whose address has all fields of its key, in
// any order.
func (c *call) financeRecord(key string) *answer {
	attrs := make(map[string]any)
	for _, m := range financeKey.FindAllStringSubmatch(key, -1) {
		if text, ok := strings.CutPrefix(m[2], "'"); ok {
			attrs[m[1]] = strings.ReplaceAll(strings.TrimSuffix(text, "'"), "''", "'")
		} else {
			attrs[m[1]] = json.Number(m[2])
		}
	}
	id := financeID(c.set, attrs)
	if id == "" || len(attrs) != len(keyOf(c.set)) {
		return c.bad("The number of keys specified in the URI does not match number of key properties for the resource.")
	}
	r := c.financeRow(id)
	match := c.header.Get("If-Match")
	switch {
	case r == nil:
		return financeError(http.StatusNotFound, "System.Web.Http.HttpException", "No record was found for the key.")
	case c.method == http.MethodGet:
		a := jsonAnswer(http.StatusOK, c.represent(r, true))
		a.header.Set("ETag", etag(r))
		return a
	case match != "" && match != "*" && match != etag(r):
		return preconditionFailed()
	case c.method == http.MethodDelete:
		c.dc.org.commit(c.dc, c.set, r.id, nil)
		return noContent()
	case c.method != http.MethodPatch && c.method != http.MethodPut:
		return c.notAllowed()
	}
	next := r.clone()
	if a := c.merge(next); a != nil {
		return a
	}
	if financeID(c.set, next.attrs) != r.id {
		return c.writeError("The key of a record cannot be changed.")
	}
	c.dc.org.commit(c.dc, c.set, r.id, next)
	return noContent()
}
