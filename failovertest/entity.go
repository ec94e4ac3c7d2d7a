package failovertest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// decodeEntity reads an Entity of the organization service into next, and returns the entity
// set and the id, which is "" if the service is to assign it.
func decodeEntity(e *element, next *row) (set, id string, _ *row) {
	if name := e.at("LogicalName").text(); name != "" {
		set = plural(name)
	}
	if next.attrs == nil {
		next.attrs = make(map[string]any)
	}
	for _, pair := range e.at("Attributes").Children {
		key, value := pair.at("key").text(), pair.at("value")
		switch typ := value.instance("type"); {
		case key == "" || key == primaryKey(set):
		case typ == "EntityReference":
			next.attrs["_"+key+"_value"] = strings.ToLower(value.at("Id").text())
		default:
			next.attrs[key] = decodeValue(typ, value)
		}
	}
	id = strings.ToLower(e.at("Id").text())
	if !guid.MatchString(id) || strings.Trim(id, "0-") == "" {
		id = ""
	}
	return set, id, next
}

// decodeValue returns an attribute as encoding/json decodes it.
func decodeValue(typ string, value *element) any {
	switch {
	case value.instance("nil") == "true":
		return nil
	case typ == "boolean":
		return value.text() == "true" || value.text() == "1"
	case typ == "OptionSetValue", typ == "Money":
		return number(value.at("Value").text())
	case slices.Contains([]string{"int", "long", "decimal", "double"}, typ):
		return number(value.text())
	}
	return value.Text
}

// number returns text as a number if it is one, or else as it is.
func number(text string) any {
	if json.Valid([]byte(text)) && strings.Trim(text, "+-.0123456789eE") == "" {
		return json.Number(text)
	}
	return text
}

// encodeEntity returns the content of an Entity element with the columns of a
// ColumnSet. The prefixes a and b must be bound to the contracts and the
// generic collections, i to the schema instance.
func encodeEntity(r *row, set string, columns *element) string {
	var wanted []string
	for _, c := range columns.at("Columns").Children {
		wanted = append(wanted, c.text())
	}
	all := columns.at("AllColumns").text() == "true"
	record := r.record(set)
	var b strings.Builder
	b.WriteString("<a:Attributes>")
	for _, key := range slices.Sorted(maps.Keys(record)) {
		if record[key] == nil || !all && key != primaryKey(set) && !slices.Contains(wanted, key) {
			continue
		}
		typ, text := encodeValue(record[key])
		fmt.Fprintf(&b, `<a:KeyValuePairOfstringanyType><b:key>%s</b:key><b:value i:type="c:%s" xmlns:c="%s">%s</b:value>`+
			`</a:KeyValuePairOfstringanyType>`, escape(key), typ, nsXSD, escape(text))
	}
	fmt.Fprintf(&b, `</a:Attributes><a:EntityState i:nil="true"/><a:FormattedValues/><a:Id>%s</a:Id>`+
		`<a:LogicalName>%s</a:LogicalName><a:RelatedEntities/><a:RowVersion>%d</a:RowVersion>`,
		r.id, escape(singular(set)), r.version)
	return b.String()
}

// encodeValue returns the XML Schema type and the text of an attribute.
func encodeValue(v any) (typ, text string) {
	switch v := v.(type) {
	case string:
		return "string", v
	case bool:
		return "boolean", fmt.Sprint(v)
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return "double", v.String()
		}
		return "int", v.String()
	}
	data, err := json.Marshal(v)
	if err != nil {
		panic("failovertest: " + err.Error()) // values come from JSON
	}
	return "string", string(data)
}
