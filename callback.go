package failover

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime/debug"

	"github.com/d365failover/failover/internal/redact"
)

// protect calls a function of the program, f, for the field of Config that is named.
// It reports whether f has returned: a panic is logged and goes no further.
func (t *Transport) protect(field string, f func()) (returned bool) {
	defer func() {
		if p := recover(); p != nil {
			t.cfg.Logger.Error("failover: "+field+" panicked", "organization", t.org.Primary.Host,
				"panic", redact.Line(redact.Text(fmt.Sprint(p)), maxFaultText), slog.String("stack", string(debug.Stack())))
		}
	}()
	f()
	return true
}

// errPanicked stands for the error of a function of the program that panicked.
var errPanicked = errors.New("panicked, see the log")

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
