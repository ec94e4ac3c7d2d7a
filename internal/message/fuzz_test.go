package message

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// undo removes from a body what rewriting may change: it names the primary wherever the
// alternate is named, drops what a host may end in (a dot, an empty or standard port), and
// blanks part lengths. A rewritten body must be left the same as the original.
func undo(b []byte) string {
	s := strings.ToLower(string(b))
	s = strings.ReplaceAll(s, "contoso--s.", "contoso.")
	s = regexp.MustCompile(`(contoso(\.api)?\.crm4\.dynamics\.com)\.?(:443|:)?`).ReplaceAllString(s, "$1")
	return regexp.MustCompile(`(?m)^(content-length:[ \t]*)[0-9]+`).ReplaceAllString(s, "$1")
}

// fuzzRewrite adds the seeds of the table. For any body it checks that only hosts change, that
// a second pass changes nothing, and what check checks.
func fuzzRewrite(f *testing.F, kind string, cases []rewriteCase, check func(t *testing.T, in, out []byte)) {
	for _, c := range cases {
		f.Add([]byte(c.render(rewritePrimary, rewritePrimary)), true)
		f.Add([]byte(c.render(rewriteAlternate, rewriteAlternate)), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, alternate bool) {
		to := side{alternate: alternate}
		in := bytes.Clone(body)
		out, changed := rewriteFor(to, contentType(kind), batchPath, body)
		require.Equal(t, in, body, "the caller's bytes")
		require.Equal(t, !bytes.Equal(in, out), changed)
		if !changed {
			return
		}
		require.Equal(t, undo(in), undo(out), "something else than a host")
		check(t, in, out)
		again, changed := rewriteFor(to, contentType(kind), batchPath, out)
		require.False(t, changed, "second pass: %q", again)
	})
}

func FuzzRewriteJSON(f *testing.F) {
	fuzzRewrite(f, typeJSON, rewriteJSONCases, func(t *testing.T, in, out []byte) {
		var a, b any
		for text, v := range map[*any][]byte{&a: in, &b: out} {
			dec := json.NewDecoder(bytes.NewReader(v))
			dec.UseNumber()
			require.NoError(t, dec.Decode(text))
		}
		equalBesidesLinks(t, a, b, false, true)
	})
}

// equalBesidesLinks compares two payloads. Strings may differ where link is set, which is in
// the values of annotations; short names count as annotations only in the outermost object.
func equalBesidesLinks(t *testing.T, a, b any, link, outermost bool) {
	switch a := a.(type) {
	case map[string]any:
		require.IsType(t, a, b)
		require.Len(t, b, len(a))
		for name, v := range a {
			link := regexp.MustCompile(`^@odata\.id$|@odata\.bind$`).MatchString(name) ||
				outermost && regexp.MustCompile(`^@id$|@bind$`).MatchString(name)
			equalBesidesLinks(t, v, b.(map[string]any)[name], link, false)
		}
	case []any:
		require.IsType(t, a, b)
		require.Len(t, b, len(a))
		for i, v := range a {
			_, object := v.(string)
			equalBesidesLinks(t, v, b.([]any)[i], link && object, false)
		}
	default:
		if !link {
			require.Equal(t, a, b)
		}
	}
}

func FuzzRewriteSOAP(f *testing.F) {
	fuzzRewrite(f, typeSOAP, rewriteSOAPCases, func(t *testing.T, in, out []byte) {
		a, b := xml.NewDecoder(bytes.NewReader(in)), xml.NewDecoder(bytes.NewReader(out))
		var names []string
		for {
			x, err := a.Token()
			y, err2 := b.Token()
			require.Equal(t, err == nil, err2 == nil)
			if err != nil {
				return
			}
			switch x := x.(type) {
			case xml.StartElement:
				names = append(names, x.Name.Local)
			case xml.EndElement:
				names = names[:len(names)-1]
			}
			if _, text := x.(xml.CharData); !text || !reflect.DeepEqual(names, []string{"Envelope", "Header", "To"}) {
				require.Equal(t, x, y)
			}
		}
	})
}

func FuzzRewriteBatch(f *testing.F) {
	fuzzRewrite(f, typeBatch, rewriteBatchCases, func(t *testing.T, in, out []byte) {
		for _, eol := range []string{"\r", "\n"} {
			require.Equal(t, strings.Count(string(in), eol), strings.Count(string(out), eol), "line ends")
		}
	})
}
