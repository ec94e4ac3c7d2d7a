package message

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"mime/quotedprintable"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
)

// This file reads messages as leniently as possible: it finds a write wherever any server
// might. Reads is tested against it, and shares nothing with it.

// lenientMethods are the methods that change nothing. Any other word counts as a write.
var lenientMethods = []string{"GET", "HEAD", "OPTIONS", "TRACE"}

func lenientlyWrites(method string) bool {
	return method != "" && !slices.Contains(lenientMethods, strings.ToUpper(method))
}

var lenientOverride = regexp.MustCompile(`(?i)^\s*(x-http-method|x-http-method-override|x-method-override)\s*:\s*(\S*)`)

// batchWrites reports whether some reader finds a write in a batch.
func batchWrites(h http.Header, body []byte) bool {
	if headerWrites(h) {
		return true
	}
	for _, text := range lenientTexts(string(body)) {
		if jsonWrites(text) {
			return true
		}
		for _, boundary := range lenientBoundaries(h, text) {
			for _, part := range lenientParts(text, boundary) {
				if partWrites(part) {
					return true
				}
			}
		}
	}
	return false
}

func headerWrites(h http.Header) bool {
	for name, values := range h {
		for _, v := range values {
			if m := lenientOverride.FindStringSubmatch(name + ":" + v); m != nil && lenientlyWrites(m[2]) {
				return true
			}
		}
	}
	return false
}

// lenientTexts returns what body may mean: in other character sets, and with every kind of
// line end.
func lenientTexts(body string) []string {
	texts := []string{body}
	if len(body) < 64<<10 {
		for _, order := range []int{0, 1} {
			var units []uint16
			for i := 0; i+1 < len(body); i += 2 {
				units = append(units, uint16(body[i+order])|uint16(body[i+1-order])<<8)
			}
			texts = append(texts, string(utf16.Decode(units)))
		}
	}
	texts = append(texts, strings.ReplaceAll(body, "\x00", ""))
	for i, text := range texts {
		texts[i] = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\v", "\n", "\f", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n", "\x85", "\n").Replace(text)
	}
	return texts
}

var lenientBoundary = regexp.MustCompile(`(?i)boundary\*?\d*\*?\s*=\s*("[^"]*"|[^;,\s]*)([^\n]*)`)

func lenientBoundaries(h http.Header, text string) []string {
	var found []string
	look := func(s string) {
		for _, m := range lenientBoundary.FindAllStringSubmatch(s, -1) {
			for _, b := range []string{m[1], m[1] + m[2]} {
				b = strings.TrimSpace(strings.Trim(b, `"`))
				_, extended, _ := strings.Cut(b, "''")
				found = append(found, b, strings.TrimSpace(extended))
			}
		}
	}
	for _, values := range h {
		for _, v := range values {
			look(v)
		}
	}
	look(text)
	slices.Sort(found)
	return slices.DeleteFunc(slices.Compact(found), func(b string) bool { return b == "" })
}

// lenientParts returns what stands between delimiters, wherever these stand and whatever white
// space follows them, and what stands before the first and after the last.
func lenientParts(text, boundary string) []string {
	var parts []string
	for i, part := range strings.Split(text, "--"+boundary) {
		if i > 0 {
			part = strings.TrimLeftFunc(strings.TrimPrefix(part, "--"), func(r rune) bool { return r != '\n' && unicode.IsSpace(r) })
			part = strings.TrimPrefix(part, "\n")
		}
		parts = append(parts, part)
	}
	return parts
}

// partWrites inspects a part, with or without a header of its own.
func partWrites(part string) bool {
	header, request, found := strings.Cut(part, "\n\n")
	if !found {
		header, request = "", part
	}
	request = strings.TrimLeftFunc(request, unicode.IsSpace)
	for i, decoded := range lenientDecoded(request) {
		expected := i == 0 && found && strings.Contains(header, "http")
		if decoded = strings.TrimSpace(decoded); !strings.HasPrefix(decoded, "--") && requestWrites(decoded, expected) {
			return true
		}
	}
	for line := range strings.SplitSeq(part, "\n") {
		if m := lenientOverride.FindStringSubmatch(line); m != nil && lenientlyWrites(m[2]) {
			return true
		}
		if requestWrites(strings.TrimLeftFunc(line, unicode.IsSpace), false) {
			return true
		}
	}
	return false
}

// lenientDecoded returns a part, and what it may mean in a transfer encoding.
func lenientDecoded(s string) []string {
	all := []string{s}
	if b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s), "")); err == nil {
		all = append(all, string(b))
	}
	if b, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(s))); err == nil {
		all = append(all, string(b))
	}
	return all
}

// requestWrites inspects a request line. If a request line is expected there, any word counts
// as a method.
func requestWrites(request string, expected bool) bool {
	line, _, _ := strings.Cut(request, "\n")
	fields := strings.FieldsFunc(line, unicode.IsSpace)
	if len(fields) == 0 {
		return false
	}
	switch strings.ToUpper(fields[0]) {
	case "POST", "PUT", "PATCH", "DELETE", "MERGE":
		return true
	case "GET", "HEAD":
		target, err := url.PathUnescape(strings.Join(fields[1:], " "))
		path, _, _ := strings.Cut(target, "?")
		return err == nil && strings.Contains(strings.ToLower(path), "dequeue")
	}
	return expected && lenientlyWrites(fields[0])
}

// jsonWrites looks for a method in a JSON batch.
func jsonWrites(text string) bool {
	var v any
	if json.Unmarshal([]byte(text), &v) != nil {
		return false
	}
	var look func(v any) bool
	look = func(v any) bool {
		switch v := v.(type) {
		case map[string]any:
			for name, member := range v {
				method, _ := member.(string)
				if strings.EqualFold(name, "method") && lenientlyWrites(method) || look(member) {
					return true
				}
			}
		case []any:
			return slices.ContainsFunc(v, look)
		}
		return false
	}
	return look(v)
}

var (
	lenientTag     = regexp.MustCompile(`<(/?)([^\s<>/:!?]+:)?([^\s<>/:!?]+)([^<>]*)>([^<]*)`)
	lenientType    = regexp.MustCompile(`\btype\s*=\s*["']\s*([^"':]*:)?([^"']*?)Request\s*["']`)
	lenientActions = regexp.MustCompile(`(?i)action\s*=\s*("[^"]*"|[^;\s]*)`)
	lenientComment = regexp.MustCompile(`(?s)<!--.*?-->`)
	lenientRead    = regexp.MustCompile(`^(WhoAmI|Retrieve[A-Za-z]*)$`)
)

// soapWrites reports whether some reader finds a write in a SOAP message: by any of the
// actions, by any element in any body, or by the type or name of any request. It ignores
// namespaces.
func soapWrites(h http.Header, body []byte) bool {
	if headerWrites(h) {
		return true
	}
	var actions []string
	for name, values := range h {
		for _, v := range values {
			if strings.EqualFold(name, "SOAPAction") && strings.Trim(v, "\" \t") != "" {
				actions = append(actions, v)
			}
			if strings.EqualFold(name, "Content-Type") {
				for _, m := range lenientActions.FindAllStringSubmatch(v, -1) {
					actions = append(actions, m[1])
				}
			}
		}
	}
	for _, text := range lenientTexts(string(body)) {
		without := lenientComment.ReplaceAllString(text, "")
		for _, text := range []string{text, without, strings.NewReplacer("<![CDATA[", "", "]]>", "").Replace(without)} {
			if textWrites(text, actions) || textWrites(html.UnescapeString(text), actions) {
				return true
			}
		}
	}
	return false
}

func textWrites(text string, actions []string) bool {
	actions = slices.Clone(actions)
	var path, open, names, kinds []string
	for _, tag := range lenientTag.FindAllStringSubmatch(text, -1) {
		name := tag[3]
		if tag[1] != "" {
			path = path[:max(0, len(path)-1)]
			continue
		}
		open = append(open, name)
		if len(path) > 0 && path[len(path)-1] == "Body" {
			actions = append(actions, name)
		}
		switch name {
		case "Action":
			actions = append(actions, tag[5])
		case "RequestName":
			names = append(names, strings.TrimSpace(tag[5]))
		}
		for _, m := range lenientType.FindAllStringSubmatch(tag[4], -1) {
			if m[2] != "Organization" {
				kinds = append(kinds, m[2])
			}
		}
		if !strings.HasSuffix(tag[4], "/") {
			path = append(path, name)
		}
	}
	if !slices.Contains(open, "Body") {
		return false // not a message, if read this way
	}
	executes := false
	for _, action := range actions {
		action = strings.Trim(strings.TrimSpace(action), `"`)
		switch action[strings.LastIndexByte(action, '/')+1:] {
		case "Retrieve", "RetrieveMultiple":
		case "Execute":
			executes = true
		default:
			return true
		}
	}
	if executes && len(names)+len(kinds) == 0 {
		return true
	}
	return slices.ContainsFunc(append(names, kinds...), func(s string) bool { return !lenientRead.MatchString(s) })
}
