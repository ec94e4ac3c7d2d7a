package xmlpath

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func local(path []xml.Name) string {
	var names []string
	for _, name := range path {
		names = append(names, name.Local)
	}
	return strings.Join(names, "/")
}

func TestPathHoldsAnElementFromItsStartToItsEnd(t *testing.T) {
	t.Parallel()
	r := NewReader(strings.NewReader(`<a><b>x</b><c/></a>`), 2)
	var got []string
	for {
		token, err := r.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		switch token.(type) {
		case xml.StartElement:
			got = append(got, "<"+local(r.Path()))
		case xml.EndElement:
			got = append(got, ">"+local(r.Path()))
		case xml.CharData:
			got = append(got, "="+local(r.Path()))
		}
	}
	assert.Equal(t, []string{"<a", "<a/b", "=a/b", ">a/b", "<a/c", ">a/c", ">a"}, got)
	assert.Empty(t, r.Path(), "nothing is open at the end")
	assert.Equal(t, int64(19), r.Offset())
}

func TestNextStopsAtMaxDepth(t *testing.T) {
	t.Parallel()
	r := NewReader(strings.NewReader(`<a><b/><b><c/></b></a>`), 2)
	var err error
	for err == nil {
		_, err = r.Next()
	}
	assert.Equal(t, ErrDepth, err)
	assert.Equal(t, "a/b", local(r.Path()))
}

func TestNextTakesAnyDeclaredEncodingForUTF8(t *testing.T) {
	t.Parallel()
	r := NewReader(strings.NewReader(`<?xml version="1.0" encoding="utf-16"?><a>ü</a>`), 1)
	for range 3 { // declaration, start, text
		_, err := r.Next()
		require.NoError(t, err)
	}
}

func TestNextExpandsNoEntities(t *testing.T) {
	t.Parallel()
	r := NewReader(strings.NewReader(`<!DOCTYPE a [<!ENTITY e "contoso">]><a>&e;</a>`), 1)
	var err error
	for err == nil {
		_, err = r.Next()
	}
	var syntax *xml.SyntaxError
	assert.ErrorAs(t, err, &syntax)
}

func TestResolveKnowsTheDeclarationsInScope(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, document, qname, space string }{
		{"of the element", `<a xmlns:p="urn:one"><stop/></a>`, "p:x", "urn:one"},
		{"with blanks around it", `<a xmlns:p="urn:one"><stop/></a>`, "\n p:x ", "urn:one"},
		{"of the element itself", `<a><stop xmlns:p="urn:one"/></a>`, "p:x", "urn:one"},
		{"the nearest", `<a xmlns:p="urn:one"><b xmlns:p="urn:two"><stop/></b></a>`, "p:x", "urn:two"},
		{"not that of a sibling", `<a xmlns:p="urn:one"><b xmlns:p="urn:two" xmlns:q="urn:q"><c/></b><stop/></a>`, "p:x", "urn:one"},
		{"without a prefix", `<a xmlns="urn:one"><stop/></a>`, "x", "urn:one"},
		{"of two", `<a xmlns:p="urn:one" xmlns:q="urn:two"><stop/></a>`, "p:x", "urn:one"},
		{"no declarations", `<a b="urn:one" xmlns:q="urn:two" q:xmlns="urn:three"><stop/></a>`, "x", ""},
		{"undeclared", `<a><b xmlns:p="urn:two"/><stop/></a>`, "p:x", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := NewReader(strings.NewReader(tt.document), 9)
			for {
				token, err := r.Next()
				require.NoError(t, err)
				if s, ok := token.(xml.StartElement); ok && s.Name.Local == "stop" {
					break
				}
			}
			assert.Equal(t, xml.Name{Space: tt.space, Local: "x"}, r.Resolve(tt.qname))
		})
	}
}
