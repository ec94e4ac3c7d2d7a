package answer

import (
	"html"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/redact"
)

// readHTML collects the title and the headings of a page.
func (a *Answer) readHTML(text []byte) {
	s := string(text)
	folded := ascii.Lower(s)
	for _, tag := range []string{"<title", "<h1", "<h2", "<h3"} {
		heading := element(s, folded, tag)
		if heading == "" {
			continue
		}
		first(&a.Message, heading)
		a.Page += ascii.Lower(strings.ReplaceAll(heading, "\u2019", "'")) + "\n"
	}
}

// element returns the text of the first element in s that begins with tag;
// folded is s in lower case.
func element(s, folded, tag string) string {
	_, after, _ := strings.Cut(folded, tag)
	_, after, _ = strings.Cut(after, ">")
	text, _, found := strings.Cut(after, "</"+tag[1:])
	if !found {
		return "" // cut off, or no element at all
	}
	from := len(folded) - len(after)
	return redact.Line(html.UnescapeString(withoutTags(s[from:from+min(len(text), maxText)])), MaxMessage)
}

// withoutTags returns s without what stands between angle brackets.
func withoutTags(s string) string {
	var b strings.Builder
	for more := true; more; {
		var text string
		text, s, _ = strings.Cut(s, "<")
		b.WriteString(text)
		_, s, more = strings.Cut(s, ">")
	}
	return b.String()
}
