package failover

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime/debug"

	"github.com/d365failover/failover/internal/redact"
)

// This file calls the functions of the program that Config holds: whatever they do,
// the process lives, and requests go on.

// protect calls such a function, f, that a field of Config holds. A panic is logged
// with the name of the field and goes no further; the error is errPanicked then.
func (t *Transport) protect(field string, f func()) (err error) {
	err = errPanicked // or has called runtime.Goexit
	defer func() {
		if v := recover(); v != nil {
			t.cfg.Logger.Error("failover: a function of the program panicked", "organization", t.org.Primary.Host,
				"function", "Config."+field, "panic", redact.Line(redact.Text(fmt.Sprint(v)), maxErrorText), slog.String("stack", string(debug.Stack())))
		}
	}()
	f()
	return nil
}

// errPanicked stands for the result of a function of the program that has panicked.
var errPanicked = errors.New("failover: the function panicked, see the log")

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
