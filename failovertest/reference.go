package failovertest

import (
	"fmt"
	"net/http"
	"slices"
)

// reference answers requests to the links of a record: GET lists them, PUT
// sets the only one, POST adds one, DELETE removes one or all.
func (c *call) reference() *answer {
	r := c.dc.data.row(c.set, c.id)
	switch {
	case c.id == "" || c.prop == "":
		return c.bad("$ref needs a record and a navigation property.")
	case r == nil:
		return notFound(c.set, c.id)
	}
	links := r.links[c.prop]
	switch c.method {
	case http.MethodGet:
		value := []map[string]any{}
		for _, target := range links {
			value = append(value, map[string]any{"@odata.id": c.root + target})
		}
		return jsonAnswer(http.StatusOK, map[string]any{
			"@odata.context": c.root + "$metadata#Collection($ref)", "value": value})
	case http.MethodPost, http.MethodPut:
		body, a := c.object()
		if a != nil {
			return a
		}
		target, _ := body["@odata.id"].(string)
		set, id, a := c.resolve(target)
		if a != nil {
			return a
		}
		return c.relink(r, links, fmt.Sprintf("%s(%s)", set, id))
	case http.MethodDelete:
		return c.unlink(r, links)
	}
	return c.notAllowed()
}

// relink adds a link or, for PUT, sets it. An existing link to the target stays.
func (c *call) relink(r *row, links []string, target string) *answer {
	next := r.clone()
	switch {
	case c.method == http.MethodPut:
		next.link(c.prop, []string{target})
	case slices.Contains(links, target):
		return duplicate()
	default:
		next.link(c.prop, append(slices.Clone(links), target))
	}
	c.dc.org.commit(c.dc, c.set, c.id, next)
	return noContent()
}

// unlink removes the link that the key in the path or the parameter $id names, or else all
// links of the property.
func (c *call) unlink(r *row, links []string) *answer {
	doomed := func(target string) bool { return true }
	switch {
	case c.key != "":
		doomed = func(target string) bool { return resourcePath.FindStringSubmatch(target)[2] == c.key }
	case c.query.Has("$id"):
		set, id, a := c.resolve(c.query.Get("$id"))
		if a != nil {
			return a
		}
		doomed = func(target string) bool { return target == set+"("+id+")" }
	}
	next := r.clone()
	next.link(c.prop, slices.DeleteFunc(slices.Clone(links), doomed))
	if len(next.links[c.prop]) == len(links) {
		return errorAnswer(http.StatusNotFound, codeNotFound, "The records are not associated.")
	}
	c.dc.org.commit(c.dc, c.set, c.id, next)
	return noContent()
}
