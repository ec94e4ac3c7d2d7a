package failoverredis

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/d365failover/failover"
)

// fieldNames are the fields of a record in Redis. Their order is that of
// formatRecord and parseRecord.
var fieldNames = [...]string{"generation", "active", "since", "earlier", "reason", "by", "version", "questions", "recoveries", "risen", "frozen"}

// fields are the values of fieldNames.
type fields [len(fieldNames)]string

// formatRecord returns a record as it is stored in Redis, readable by people.
func formatRecord(r failover.Record) (f fields, err error) {
	times := append([]time.Time{r.Since}, r.Earlier...)
	texts := make([]string, len(times))
	for i, t := range times {
		text, err := t.UTC().MarshalText() // refuses years that could not be read again
		if err != nil {
			return f, errors.New("record has a time beyond the year 9999")
		}
		texts[i] = string(text)
	}
	if r.Active != failover.Primary && r.Active != failover.Alternate {
		return f, fmt.Errorf("record has an unknown endpoint: %d", uint8(r.Active))
	}
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	f = fields{
		number(r.Generation), r.Active.String(), texts[0], strings.Join(texts[1:], " "), r.Reason, r.By,
		number(r.Version), number(r.Questions), number(r.Recoveries), number(r.Risen), r.Frozen,
	}
	size := 0
	for _, value := range f {
		size += len(value)
	}
	if size > maxRecord {
		return f, fmt.Errorf("record has %d bytes, more than %d", size, maxRecord)
	}
	return f, nil
}

// parseRecord is the inverse of formatRecord. Its errors do not quote the fields, which may
// hold anything.
func parseRecord(f fields) (r failover.Record, err error) {
	for _, n := range []struct {
		field int
		value *uint64
	}{{0, &r.Generation}, {6, &r.Version}, {7, &r.Questions}, {8, &r.Recoveries}, {9, &r.Risen}} {
		if *n.value, err = strconv.ParseUint(f[n.field], 10, 64); err != nil || strconv.FormatUint(*n.value, 10) != f[n.field] {
			return failover.Record{}, fmt.Errorf("record's %s is not a number", fieldNames[n.field])
		}
	}
	switch f[1] {
	case failover.Primary.String():
		r.Active = failover.Primary
	case failover.Alternate.String():
		r.Active = failover.Alternate
	default:
		return failover.Record{}, errors.New("record's active endpoint is neither primary nor alternate")
	}
	if r.Since, err = time.Parse(time.RFC3339Nano, f[2]); err != nil {
		return failover.Record{}, errors.New("record's since is not a time")
	}
	for text := range strings.FieldsSeq(f[3]) {
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return failover.Record{}, errors.New("record's earlier is not a list of times")
		}
		r.Earlier = append(r.Earlier, t)
	}
	r.Reason, r.By, r.Frozen = f[4], f[5], f[10]
	return r, nil
}

// parseLoaded reads the reply of loadScript.
func parseLoaded(reply any) (failover.Record, time.Time, error) {
	list, _ := reply.([]any)
	if len(list) != 4 {
		return failover.Record{}, time.Time{}, errors.New("unexpected reply")
	}
	seconds, err1 := strconv.ParseInt(fmt.Sprint(list[0]), 10, 64)
	micros, err2 := strconv.ParseInt(fmt.Sprint(list[1]), 10, 64)
	if err1 != nil || err2 != nil {
		return failover.Record{}, time.Time{}, errors.New("unexpected time")
	}
	now := time.Unix(seconds, micros*1000).UTC()
	if size, _ := list[2].(int64); size > maxRecord {
		return failover.Record{}, now, fmt.Errorf("record has %d bytes, more than %d", size, maxRecord)
	}
	values, _ := list[3].([]any)
	if len(values) != len(fieldNames) {
		return failover.Record{}, now, errors.New("unexpected reply")
	}
	var f fields
	found := false
	for i, value := range values {
		var ok bool
		f[i], ok = value.(string)
		found = found || ok
	}
	if !found {
		return failover.Record{}, now, nil
	}
	r, err := parseRecord(f)
	return r, now, err
}
