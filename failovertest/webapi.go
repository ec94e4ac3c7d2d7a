package failovertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

var (
	apiRoot      = regexp.MustCompile(`^/api/data/(v9\.[0-9])/(.*)$`)
	resourcePath = regexp.MustCompile(`^([a-z][a-z0-9_]*)(?:\(([^()]*)\))?(?:/([a-z][A-Za-z0-9_]*)(?:\(([^()]*)\))?)?(/\$ref|/\$count)?$`)
	guid         = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// webAPIPath splits a path of the Web API into the version and the rest.
func webAPIPath(path string) (version, rest string, ok bool) {
	m := apiRoot.FindStringSubmatch(path)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// call is a request to the Web API.
type call struct {
	*request
	dc   *Datacenter
	root string // "https://host/api/data/v9.2/", as the caller addressed it

	set  string // entity set
	id   string // "" for the set itself
	prop string // property or navigation property
	key  string // id behind the navigation property
	tail string // "/$ref", "/$count" or ""

	refs map[string]string // records by "$" and Content-ID, in a change set
}

// webAPI answers a request below /api/data/v9.x/. The caller holds org.mu.
func (d *Datacenter) webAPI(r *request, version, rest string) *answer {
	a := d.webAPIAnswer(r, version, rest)
	a.header.Set("X-Ms-Service-Request-Id", newID())
	a.header.Set("Req_id", newID())
	return a
}

func (d *Datacenter) webAPIAnswer(r *request, version, rest string) *answer {
	if !d.authorized(r) {
		return d.challenge()
	}
	if d.fenced {
		return errorAnswer(d.org.cfg.FenceStatus, codeFence, fenceMessage)
	}
	c := &call{request: r, dc: d, root: "https://" + r.host + "/api/data/" + version + "/"}
	return c.answer(rest)
}

// answer carries the call out.
func (c *call) answer(rest string) *answer {
	switch strings.TrimSuffix(rest, "()") {
	case "WhoAmI":
		return c.function("WhoAmIResponse", map[string]any{
			"BusinessUnitId": c.dc.org.unitID, "UserId": c.dc.org.userID, "OrganizationId": c.dc.org.id})
	case "$batch":
		return c.batch()
	case "RetrieveVersion":
		return c.function("RetrieveVersionResponse", map[string]any{"Version": version})
	}
	m := resourcePath.FindStringSubmatch(rest)
	if m == nil {
		return errorAnswer(http.StatusNotFound, codeSegment,
			fmt.Sprintf("Resource not found for the segment '%s'.", strings.SplitN(rest, "(", 2)[0]))
	}
	c.set, c.prop, c.tail = m[1], m[3], m[5]
	if m[2] == "" && (c.prop != "" || strings.Contains(rest, "()")) {
		return c.bad("The request needs the key of a record.")
	}
	for _, k := range []struct {
		text string
		id   *string
		set  string
	}{{m[2], &c.id, c.set}, {m[4], &c.key, ""}} {
		if k.text == "" {
			continue
		}
		id := strings.TrimPrefix(k.text, primaryKey(k.set)+"=")
		if !guid.MatchString(id) {
			return c.bad("The simulator knows records by their id only.")
		}
		*k.id = strings.ToLower(id)
	}
	switch {
	case c.tail == "/$ref":
		return c.reference()
	case c.tail == "/$count" && c.id == "" && c.method == http.MethodGet:
		return newAnswer(http.StatusOK, "text/plain", fmt.Append(nil, len(c.dc.data.sorted(c.set))))
	case c.tail != "":
		return c.bad("$count is supported on entity sets only.")
	case c.prop != "":
		return c.property()
	case c.id == "":
		return c.entitySet()
	}
	return c.entity()
}

func (c *call) function(typ string, value map[string]any) *answer {
	if c.method != http.MethodGet {
		return c.notAllowed()
	}
	value["@odata.context"] = c.root + "$metadata#Microsoft.Dynamics.CRM." + typ
	return jsonAnswer(http.StatusOK, value)
}

func (c *call) bad(message string) *answer {
	return errorAnswer(http.StatusBadRequest, codeBadRequest, message)
}

func (c *call) notAllowed() *answer {
	return errorAnswer(http.StatusMethodNotAllowed, codeBadRequest,
		"The requested resource does not support http method '"+c.method+"'.")
}

func notFound(set, id string) *answer {
	return errorAnswer(http.StatusNotFound, codeNotFound,
		fmt.Sprintf("%s With Id = %s Does Not Exist", singular(set), id))
}

func preconditionFailed() *answer {
	return errorAnswer(http.StatusPreconditionFailed, codeVersion,
		"The version of the existing record doesn't match the RowVersion property provided.")
}

func duplicate() *answer {
	return errorAnswer(http.StatusPreconditionFailed, codeDuplicate,
		"A record with matching key values already exists.")
}

// entitySet answers requests to a list.
func (c *call) entitySet() *answer {
	switch c.method {
	case http.MethodGet:
		return c.list()
	case http.MethodPost:
		next := &row{}
		if a := c.merge(next); a != nil {
			return a
		}
		id, _ := next.attrs[primaryKey(c.set)].(string)
		delete(next.attrs, primaryKey(c.set))
		switch {
		case id == "":
			id = newID()
		case !guid.MatchString(id):
			return errorAnswer(http.StatusBadRequest, codeInvalid, "The id in the body is not a GUID.")
		case c.dc.data.row(c.set, strings.ToLower(id)) != nil:
			return duplicate()
		}
		c.id = strings.ToLower(id)
		return c.store(next)
	}
	return c.notAllowed()
}

// entity answers requests to a record.
func (c *call) entity() *answer {
	r := c.dc.data.row(c.set, c.id)
	match, noneMatch := c.header.Get("If-Match"), c.header.Get("If-None-Match")
	write := c.method != http.MethodGet
	upsert := c.method == http.MethodPatch && match == ""
	switch {
	case r == nil && !upsert:
		return notFound(c.set, c.id)
	case r != nil && match != "" && match != "*" && match != etag(r):
		return preconditionFailed()
	case r != nil && write && noneMatch == "*":
		return duplicate()
	case r != nil && write && noneMatch == etag(r):
		return preconditionFailed()
	case r != nil && !write && (noneMatch == etag(r) || noneMatch == "*"):
		a := newAnswer(http.StatusNotModified, "", nil)
		a.header.Set("ETag", etag(r))
		return a
	}
	switch c.method {
	case http.MethodGet:
		a := jsonAnswer(http.StatusOK, c.represent(r, true))
		a.header.Set("ETag", etag(r))
		return a
	case http.MethodPatch, http.MethodPut:
		next := &row{}
		if r != nil {
			next = r.clone()
		}
		if a := c.merge(next); a != nil {
			return a
		}
		delete(next.attrs, primaryKey(c.set))
		return c.store(next)
	case http.MethodDelete:
		c.dc.org.commit(c.dc, c.set, c.id, nil)
		return noContent()
	}
	return c.notAllowed()
}

// property answers requests to one attribute of a record.
func (c *call) property() *answer {
	r := c.dc.data.row(c.set, c.id)
	if r == nil {
		return notFound(c.set, c.id)
	}
	next := r.clone()
	switch c.method {
	case http.MethodGet:
		value, ok := r.record(c.set)[c.prop]
		if !ok || value == nil {
			return newAnswer(http.StatusNoContent, "", nil)
		}
		return jsonAnswer(http.StatusOK, map[string]any{
			"@odata.context": fmt.Sprintf("%s$metadata#%s(%s)/%s", c.root, c.set, c.id, c.prop), "value": value})
	case http.MethodPut:
		body, a := c.object()
		if a != nil {
			return a
		}
		if next.attrs == nil {
			next.attrs = make(map[string]any)
		}
		next.attrs[c.prop] = body["value"]
	case http.MethodDelete:
		delete(next.attrs, c.prop)
	default:
		return c.notAllowed()
	}
	c.dc.org.commit(c.dc, c.set, c.id, next)
	return noContent()
}

// store stores next as the record that c names, and answers with it or with its address.
func (c *call) store(next *row) *answer {
	created := c.dc.data.row(c.set, c.id) == nil
	c.dc.org.commit(c.dc, c.set, c.id, next)
	a := noContent()
	if strings.Contains(c.header.Get("Prefer"), "return=representation") {
		a = jsonAnswer(http.StatusOK, c.represent(next, true))
		if created {
			a.status = http.StatusCreated
		}
		a.header.Set("Preference-Applied", "return=representation")
		a.header.Set("ETag", etag(next))
	}
	a.applied = true
	address := fmt.Sprintf("%s%s(%s)", c.root, c.set, c.id)
	a.header.Set("OData-EntityId", address)
	if created {
		a.header.Set("Location", address)
	}
	return a
}

// noContent is the answer to a write that was applied.
func noContent() *answer {
	a := newAnswer(http.StatusNoContent, "", nil)
	a.header.Set("OData-Version", "4.0")
	a.applied = true
	return a
}

func etag(r *row) string { return fmt.Sprintf(`W/"%d"`, r.version) }

// represent returns a record as it appears in answers, with the attributes that $select names,
// or else with all.
func (c *call) represent(r *row, context bool) map[string]any {
	m := r.record(c.set)
	if names := c.query.Get("$select"); names != "" {
		selected := make(map[string]any)
		if !isFinanceSet(c.set) {
			selected[primaryKey(c.set)] = r.id
		}
		for name := range strings.SplitSeq(names, ",") {
			name = strings.TrimSpace(name)
			selected[name] = m[name]
		}
		m = selected
	}
	m["@odata.etag"] = etag(r)
	if context {
		m["@odata.context"] = c.root + "$metadata#" + c.set + "/$entity"
	}
	return m
}

// object decodes the body.
func (c *call) object() (map[string]any, *answer) {
	var m map[string]any
	dec := json.NewDecoder(bytes.NewReader(c.body))
	dec.UseNumber()
	err := dec.Decode(&m)
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = fmt.Errorf("more than one value")
		}
	}
	if err != nil || m == nil {
		return nil, errorAnswer(http.StatusBadRequest, codeInvalid,
			"Error identified in Payload provided by the user: not a JSON object")
	}
	return m, nil
}

// merge sets the attributes and bindings of the body in r. It returns an answer if they are
// invalid.
func (c *call) merge(r *row) *answer {
	body, a := c.object()
	if a != nil {
		return a
	}
	if r.attrs == nil {
		r.attrs = make(map[string]any)
	}
	for name, value := range body {
		nav, bind := strings.CutSuffix(name, "@odata.bind")
		switch {
		case bind:
			target, _ := value.(string)
			set, id, a := c.resolve(target)
			if a != nil {
				return a
			}
			r.attrs["_"+nav+"_value"] = id
			r.link(nav, []string{set + "(" + id + ")"})
		case !strings.Contains(name, "@"):
			r.attrs[name] = value
		}
	}
	return nil
}

// resolve returns the record that an address in a body names: relative to the service root, or
// absolute with the host of the request. Like Dataverse, it rejects the addresses of other
// hosts.
func (c *call) resolve(target string) (set, id string, a *answer) {
	invalid := errorAnswer(http.StatusBadRequest, codeInvalid,
		"Invalid URI: it does not name a record of this service root.")
	if ref := c.refs[target]; ref != "" {
		target = ref
	}
	rest := strings.TrimPrefix(target, "/")
	if u, err := url.Parse(target); err == nil && u.Host != "" {
		root, _ := url.Parse(c.root)
		if u.Scheme != "https" || !strings.EqualFold(u.Host, root.Host) {
			return "", "", invalid
		}
		rest = strings.TrimPrefix(u.Path, "/")
	}
	if _, after, ok := webAPIPath("/" + rest); ok {
		rest = after
	}
	m := resourcePath.FindStringSubmatch(rest)
	if m == nil || !guid.MatchString(m[2]) || m[3] != "" || m[5] != "" {
		return "", "", invalid
	}
	set, id = m[1], strings.ToLower(m[2])
	if c.dc.data.row(set, id) == nil {
		return "", "", notFound(set, id)
	}
	return set, id, nil
}

// link replaces the targets of a navigation property.
func (r *row) link(nav string, targets []string) {
	if r.links == nil {
		r.links = make(map[string][]string)
	}
	r.links[nav] = targets
}
