// Package pagecheck checks in tests what the pages of package statuspage promise.
package pagecheck

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	voidElement  = regexp.MustCompile(`<meta[^>]*>`)
	styleElement = regexp.MustCompile(`(?s)<style>(.*?)</style>`)
	// link is what the page leads to: its other form, itself, an action, or the
	// runbook.
	link = regexp.MustCompile(`^(\?format=json|\./([^/]+/)?(switch|pin|unpin|freeze|unfreeze|verify)?|https?://[^#]+#[a-z0-9-]+)$`)
)

// Markup checks a page and its Content-Security-Policy: elements that nest, no ids
// twice, nothing that runs or is loaded, no style outside the one element that the
// policy names, and forms only where the policy lets them lead to the same site.
func Markup(t testing.TB, page, policy string) {
	t.Helper()
	strict := voidElement.ReplaceAllStringFunc(page, func(tag string) string { return strings.TrimSuffix(tag, ">") + "/>" })
	ids := make(map[string]bool)
	forms := 0
	in := xml.NewDecoder(strings.NewReader(strict))
	for {
		token, err := in.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err, "the page is not well-formed")
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		require.NotContains(t, []string{"script", "link", "img", "iframe", "object", "base", "embed"}, start.Name.Local)
		if start.Name.Local == "form" {
			forms++
		}
		for _, a := range start.Attr {
			require.NotContains(t, []string{"style", "src", "formaction", "target", "ping"}, a.Name.Local)
			require.False(t, strings.HasPrefix(a.Name.Local, "on"), "handler %s", a.Name.Local)
			switch a.Name.Local {
			case "href":
				require.Regexp(t, link, a.Value)
			case "action":
				require.Contains(t, []string{"switch", "pin", "unpin", "freeze", "unfreeze", "verify"}, a.Value)
			case "id":
				require.False(t, ids[a.Value], "id %s twice", a.Value)
				ids[a.Value] = true
			}
		}
	}
	styles := styleElement.FindAllStringSubmatch(page, -1)
	require.Len(t, styles, 1)
	sum := sha256.Sum256([]byte(styles[0][1]))
	formAction := "'none'"
	if forms > 0 {
		formAction = "'self'"
	}
	require.Equal(t, "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+
		"'; base-uri 'none'; frame-ancestors 'none'; form-action "+formAction, policy)
	require.NotContains(t, styles[0][1], "@import")
	require.NotRegexp(t, `url\([^#]`, styles[0][1])
}
