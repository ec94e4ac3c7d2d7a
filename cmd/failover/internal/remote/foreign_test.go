package remote

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// poison puts a terminal's control characters into every text of v.
func poison(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		poison(v.Elem(), text)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			poison(v.Index(i), text)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf(text), reflect.ValueOf(uint64(1)))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				poison(v.Field(i), text)
			}
		}
	default:
	}
}

// Whatever field of an answer holds them: control characters do not reach the terminal.
func TestNoFieldOfAnAnswerControlsTheTerminal(t *testing.T) {
	t.Parallel()
	const attack = "\x1b]0;owned\a\x1b[2J\u009b31m\u202e\r"
	var s status
	poison(reflect.ValueOf(&s).Elem(), attack)
	for name, command := range map[string]subcommand{"status": Status, "switch": Switch, "pin": Pin, "unpin": Unpin, "freeze": Freeze, "unfreeze": Unfreeze, "verify": Verify} {
		for _, ok := range []bool{true, false} {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var v any = &s
				if r.Method == http.MethodPost {
					v = answer{OK: ok, Error: attack, Status: s}
					if !ok {
						w.WriteHeader(http.StatusConflict)
					}
				}
				assert.NoError(t, json.NewEncoder(w).Encode(v))
			}))
			args := []string{"-at", server.URL}
			switch name {
			case "switch", "pin":
				args = append(args, "primary", "-reason", "drill")
			case "unpin", "freeze":
				args = append(args, "-reason", "drill")
			}
			var out bytes.Buffer
			status := command(t.Context(), args, &out, &out)
			server.Close()
			if name != "status" {
				assert.Equal(t, ok, status == 0, name)
			}
			assert.NotEmpty(t, out.String())
			bad := strings.IndexFunc(out.String(), func(r rune) bool {
				return unicode.IsControl(r) && r != '\n' || unicode.Is(unicode.Bidi_Control, r)
			})
			assert.Negative(t, bad, "%s: %q", name, out.String())
		}
	}
}

// All reports are shown, the newest first, and none of an outage without a switch is told
// as one of a switch.
func TestEveryLossReportIsShown(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := status{Active: "alternate", Losses: []loss{
		{From: "alternate", To: "alternate", AtRisk: []write{{Method: "POST", Path: "/b", State: "present"}}},
		{From: "alternate", To: "alternate"},
		{From: "primary", To: "alternate", Unknown: []write{{Method: "POST", Path: "/a", State: "missing"}}},
	}}
	s.print(&out)
	newest := strings.Index(out.String(), "Writes at risk after an outage of the alternate: 1 present")
	switched := strings.Index(out.String(), "Writes at risk since the primary was left: 1 missing")
	assert.Positive(t, newest, out.String())
	assert.Greater(t, switched, newest, out.String())
	assert.Equal(t, 2, strings.Count(out.String(), "Writes at risk"))
}

// Reports of full ledgers are long, and a process that never ends its answer is not read for
// ever.
func TestLongAnswers(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"active":"primary","situation":"healthy","events":[],"x":"`)
		n := 20
		if strings.Contains(r.URL.Path, "endless") {
			n = 70
		}
		block := bytes.Repeat([]byte("x"), 1<<20)
		for range n {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
		io.WriteString(w, `"}`)
	}))
	defer server.Close()
	for path, want := range map[string]string{"/": "healthy", "/endless": "is longer than 64 MB"} {
		var out bytes.Buffer
		Status(t.Context(), []string{"-at", server.URL + path}, &out, &out)
		require.Contains(t, strings.Join(strings.Fields(out.String()), " "), want)
	}
}
