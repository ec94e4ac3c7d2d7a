package failover

import "reflect"

// protect calls a function of the program, f, that a field of Config holds. A panic is
// logged, goes no further, and is the error.
func (t *Transport) protect(field string, f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = t.panicked(field, v)
		}
	}()
	f()
	return nil
}

// realError returns err, or nil if that holds a nil pointer, as an error does that
// was returned in place of a pointer.
func realError(err error) error {
	if err == nil {
		return nil
	}
	if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.IsNil() {
		return nil
	}
	return err
}
