package redact

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// canary stands for a secret. It must never appear.
const canary = "s3cr3t"

func TestErrorTextKeepsWhatIsHarmless(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"dial tcp 192.0.2.1:443: connect: connection refused",
		"lookup contoso--s.api.crm.dynamics.com: no such host",
		"get https://contoso.com/api/data/v9.2/accounts failed",
		"what happened? nothing",
		"is it this or that/other? nobody knows",
		"token: connection refused",
		"status code: 404, error code: 0x80040217",
		"lookup contoso.com: i/o timeout: secretary",
		"see https://contoso.com/a: mail bob@contoso.com",
		"ratio 3:4, a=b, c = d",
		"the forbearer came",
		"no Bearer ",
		"password=",
		"item #7 of 8",
		"see https://contoso.com/a or bob@contoso.com",
		"was it a/b? or not",
		"a/b\x01c?d",
		"a/b<c?d",
		"[digest]",
		"basically, bearers of news",
		"no Bearer %20",
		"no bearer token",
		"token%3A refused",
	} {
		assert.Equal(t, s, Text(s))
	}
}

// An address does not continue on the next line, or after a quotation mark.
func TestWhereAnAddressEnds(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"\n", "\x1f", "\x7f", "`", `"`} {
		for _, address := range []string{"https://contoso.com:443/a", "//"} {
			assert.Equal(t, address+end+"x:y@z", Text(address+end+"x:y@z"))
		}
	}
	assert.Equal(t, "//z", Text(`//\"x:y@z`), "the quotation mark belongs to the address")
}

func TestURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"https://user:" + canary + "@contoso.com:8443/a%2Fb/c?x=" + canary + "#" + canary: "https://contoso.com:8443/a%2Fb/c",
		"https://contoso.com": "https://contoso.com",
		"mailto:" + canary:    "mailto:",
	} {
		u, err := url.Parse(in)
		require.NoError(t, err)
		assert.Equal(t, want, URL(u))
	}
	assert.Empty(t, URL(nil))
}

func TestLine(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, want string }{
		{"blanks at the ends", "  a b ", "a b"},
		{"line ends and tabs", "a\r\n\tb\u2028c\u0085d", "a b c d"},
		{"invisible characters", "a\u200b\u202eb", "a b"},
		{"cut at a rune", "ab" + strings.Repeat("é", 9), "ab" + strings.Repeat("é", 4)},
		{"invalid utf-8", "a\xffb", "a\ufffdb"},
		{"only blanks", " \n ", ""},
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, Line(tt.in, 11), tt.name)
	}
	for s := range words("aé~ \t\x1f\x7f\u200b\u2029", 4) {
		want := strings.Join(strings.FieldsFunc(s, func(r rune) bool { return !strings.ContainsRune("aé~", r) }), " ")
		for limit := range 9 {
			cut := want[:min(limit, len(want))]
			for !utf8.ValidString(cut) {
				cut = cut[:len(cut)-1]
			}
			require.Equal(t, strings.TrimRight(cut, " "), Line(s, limit), "%q, %d", s, limit)
		}
	}
}

// words yields all texts of up to n of the characters.
func words(characters string, n int) iter.Seq[string] {
	return func(yield func(string) bool) {
		var more func(s string, n int) bool
		more = func(s string, n int) bool {
			if !yield(s) {
				return false
			}
			for _, r := range characters {
				if n > 0 && !more(s+string(r), n-1) {
					return false
				}
			}
			return true
		}
		more("", n)
	}
}

// Most texts are a single line already, and are not copied.
func TestALineOfALineIsNoCopy(t *testing.T) { // counts allocations, so not parallel
	for _, s := range []string{"", "a", "!~", "The service is unavailable."} {
		assert.Zero(t, testing.AllocsPerRun(10, func() { Line(s, len(s)) }), s)
	}
}

func TestSetsOfBytes(t *testing.T) {
	t.Parallel()
	const letters, digits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
	for name, set := range map[string]struct {
		has func(byte) bool
		all string
	}{
		"letters":             {isLetter, letters},
		"hexadecimal digits":  {isHex, digits + "abcdefABCDEF"},
		"names of parameters": {isNameByte, letters + digits + "_-.$"},
		"tokens":              {isTokenByte, letters + digits + "_-.=+/~%"},
	} {
		for c := range 256 {
			assert.Equal(t, strings.IndexByte(set.all, byte(c)) >= 0, set.has(byte(c)), "%s: %q", name, byte(c))
		}
	}
}

// secrets are texts in which canary is a secret, by kind.
var secrets = map[string]string{
	"scheme":                             "Bearer " + canary,
	"scheme in brackets":                 "[Bearer " + canary + "]",
	"scheme without a blank":             "Authorization:Bearer " + canary,
	"scheme in a header map":             "map[Accept:[*/*] Authorization:[Bearer " + canary + "] X:[y]]",
	"scheme escaped":                     "Bearer%20" + canary,
	"scheme escaped with a plus":         "bearer+" + canary,
	"scheme after an escape":             "auth%20Bearer%20" + canary,
	"scheme after an escaped mark":       "auth%3DBearer%20" + canary,
	"scheme and an escaped mark":         "bearer%2c" + canary,
	"fragment of a relative address":     "/cb#" + canary,
	"scheme with a comma":                "Basic," + canary,
	"scheme with a colon":                "bearer: " + canary,
	"scheme with quotation marks":        `Bearer "` + canary + `"`,
	"scheme and a word":                  "bearer token: " + canary,
	"scheme in another case":             "NEGOTIATE  " + canary,
	"scheme in parentheses":              "(ntlm " + canary + ")",
	"scheme in a header of its own":      "Proxy-Authorization: Custom a=" + canary + " b=" + canary,
	"digest":                             `Authorization: Digest username="u", response="` + canary + `"`,
	"user info":                          "https://user:" + canary + "@contoso.com/",
	"user info without a password":       "https://" + canary + "@contoso.com/",
	"user info with a blank":             "https://user:x " + canary + "@contoso.com/",
	"user info with a bracket":           "https://user:x<" + canary + "@contoso.com/",
	"user info with a slash":             "https://user:x/" + canary + "@contoso.com/",
	"user info with two slashes":         "https://user:x//" + canary + "@contoso.com/",
	"user info with a quotation mark":    `"https://user:x\"` + canary + `@contoso.com/"`,
	"user info with an at sign":          "https://user:x@" + canary + "@contoso.com/",
	"user info with a query":             "https://user:x?" + canary + "@contoso.com/",
	"user info without a scheme":         "//user:" + canary + "@contoso.com",
	"query":                              "https://contoso.com/a?x=" + canary,
	"query with a blank":                 "https://contoso.com/a?x=y " + canary,
	"query in quotation marks":           `"https://contoso.com/a?x=y: z ` + "?a=" + canary + `"`,
	"query with an at sign":              "https://contoso.com:443/a?b=c@d&x=" + canary,
	"query without a path":               "contoso.com?x=" + canary,
	"query of a relative address":        "/cb?" + canary,
	"query alone":                        "?$filter=name eq '" + canary + "'",
	"fragment":                           "https://contoso.com/cb#" + canary,
	"form":                               "grant_type=x&client_secret=" + canary + "&y=z",
	"form that begins with it":           "client_secret=" + canary,
	"form with blanks":                   "client_secret = " + canary,
	"escaped form":                       "client_secret%3D" + canary,
	"password":                           "password=" + canary,
	"connection string":                  "Server=x;Password=a;b" + canary + ";Database=y",
	"JSON":                               `{"access_token":"` + canary + `","x":1}`,
	"JSON with blanks":                   `{"refresh_token" : "a ` + canary + `"}`,
	"JSON in a string":                   `"{\"id_token\":\"` + canary + `\"}"`,
	"JSON cut off":                       `{"client_assertion":"a ` + canary,
	"name with a prefix":                 "oauth_refresh_token=" + canary,
	"name in another case":               "ClientSecret: " + canary,
	"signature":                          "se=2030&sig=" + canary,
	"key in a header":                    "Ocp-Apim-Subscription-Key: " + canary,
	"cookie":                             "Set-Cookie: a=b; c=" + canary,
	"web token":                          "got eyJhbGciOi" + canary + ".eyJ" + canary + ".x",
	"web token within a word":            "x=eyJ" + canary,
	"user info and an at sign behind it": "https://" + canary + "@contoso.com/ or bob@contoso.com",
	"password in a path":                 "https://contoso.com/a/password=" + canary,
	"web token in a path":                "https://contoso.com/eyJ" + canary + "?x=y",
	"web token behind user info":         "https://u:p@contoso.com/eyJ" + canary,
	"query without a name":               "https://contoso.com/a?x " + canary,
	"query without anything":             "https://contoso.com/a?=" + canary,
	"escape, scheme and an escape":       "%3DBearer%20" + canary,
	"scheme and odd characters":          "Bearer a!#" + canary,
	"password of odd characters":         "password=a!#" + canary,
	"password behind a tab":              "password=\t" + canary,
	"token in a query, escaped":          "token%3D" + canary,
	"token in JSON":                      `{"token":"` + canary + `"}`,
	"token in quotation marks":           "'token': '" + canary + "'",
	"header with odd characters":         "Cookie: a\x0e\v" + canary,
	"element":                            "<Password>" + canary + "</Password>",
	"element with a prefix":              `<o:Password Type="x">` + canary + " " + canary + "</o:Password>",
	"element of a token":                 "<wsse:BinarySecurityToken>" + canary + "</wsse:BinarySecurityToken>",
	"element cut off":                    "<ClientSecret>a" + canary,
	"private key":                        "-----BEGIN RSA PRIVATE KEY-----\n" + canary + "\n-----END RSA PRIVATE KEY-----",
	"private key cut off":                "-----BEGIN PRIVATE KEY-----" + canary,
	"private key in JSON":                `{"private_key":"` + canary + `"}`,
	"code of a device":                   "grant_type=x&device_code=" + canary,
	"port that cannot be one":            `invalid port ":` + canary + `" after host`,
}

func TestTextHidesSecrets(t *testing.T) {
	t.Parallel()
	for name, s := range secrets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, s := range []string{s, "a " + s + " b", s + "\n" + s, "(" + s + ")", strings.ToUpper(s[:1]) + s[1:]} {
				assert.NotContains(t, Text(s), canary, s)
			}
		})
	}
}

func TestTextKeepsWhatIsAround(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a [Bearer x] b":                             "a [Bearer [redacted]] b",
		"Basic,x: refused":                           "Basic,[redacted] refused",
		"get https://u:p@contoso.com/a: EOF":         "get https://contoso.com/a: EOF",
		`Get "https://contoso.com/a?x=y z": refused`: `Get "https://contoso.com/a": refused`,
		"get https://contoso.com/a?x=y: refused":     "get https://contoso.com/a: refused",
		"client_secret=x&client_id=y":                "client_secret=[redacted]&client_id=y",
		`{"access_token":"x","expires_in":1}`:        `{"access_token":[redacted],"expires_in":1}`,
		"map[Authorization:[Bearer x] Accept:[y]]":   "map[Authorization:[redacted] Accept:[y]]",
		"get https://@contoso.com/a failed":          "get https://contoso.com/a failed",
		"get https://u:p@contoso.com/a b":            "get https://contoso.com/a b",
		"get https://a:1/a?b=c@d&x=y z: refused":     "get https://[redacted]: refused",
		"Bearer%20x y":                               "Bearer%20[redacted] y",
		"client_secret%3Dx&y":                        "client_secret%3D[redacted]&y",
		"%22client_secret%22%3A%22x y":               "%22client_secret%22%3A[redacted] y",
		"password={a b} c":                           "password=[redacted] c",
		"password=[a b] c":                           "password=[redacted] c",
		"password='a b' c":                           "password=[redacted] c",
		"get https://contoso.com/a?y z: refused":     "get https://contoso.com/a: refused",
		"get //?y z: refused":                        "get //: refused",
		"https://@a?b: c":                            "https://[redacted] c",
		"https://u@c/?x":                             "https://[redacted]",
		"//?a@b c":                                   "//[redacted]",
		"https://u:p@ b?x=y":                         "https:// b",
		"Bearer tokenab c":                           "Bearer token[redacted] c",
		"Bearer token: a c":                          "Bearer token: [redacted] c",
		`"Bearer x" y`:                               `"Bearer [redacted]" y`,
		"Bearer xfade y":                             "Bearer [redacted] y",
		"Bearer %gfx y":                              "Bearer [redacted] y",
		"Bearer %fgx y":                              "Bearer [redacted] y",
		"Bearer !x y":                                "Bearer [redacted] y",
		"password=\t=:\\x y":                         "password=\t=:\\[redacted] y",
		`password="" x`:                              "password=[redacted] x",
		`x password=a"y`:                             `x password=[redacted]"y`,
		"Cookie: a b\r\nX: y":                        "Cookie: [redacted]\r\nX: y",
		"Cookie: a b\nX: y":                          "Cookie: [redacted]\nX: y",
		"see /a?b c":                                 "see /a c",
		"<a:Password>x y</a:Password><b>z</b>":       "<a:Password>[redacted]</a:Password><b>z</b>",
		"<Password/><b>z</b>":                        "<Password/><b>z</b>",
		"<Password":                                  "<Password",
		"1 < 2 password > 3":                         "1 < 2 password > 3",
		"<Name>z</Name>":                             "<Name>z</Name>",
		"-----BEGIN PRIVATE KEY-----x y-----END PRIVATE KEY----- z": "-----BEGIN PRIVATE KEY-----[redacted]-----END PRIVATE KEY----- z",
		"-----BEGIN CERTIFICATE-----x-----END CERTIFICATE-----":     "-----BEGIN CERTIFICATE-----x-----END CERTIFICATE-----",
		"<https://u:p@contoso.com/a>? yes":                          "<https://contoso.com/a>? yes",
		"https://u:p@contoso.com/a\x01b?c d":                        "https://contoso.com/a\x01b?c d",
	} {
		assert.Equal(t, want, Text(in))
	}
}

// Texts are cut between words. What may be user info whose at sign was cut off is hidden.
func TestTextOfAnyLength(t *testing.T) {
	t.Parallel()
	for n := range 300 {
		s := strings.Repeat("a ", (Max-n)/2) + "https://user:pass " + canary + " word" + strings.Repeat("x", 2*Max) + "@contoso.com/"
		assert.NotContains(t, Text(s), canary, "cut off %d bytes after", n)
	}
	long := strings.Repeat("b", 2*Max)
	for in, want := range map[string]string{
		long[:Max]:                  long[:Max],
		long[:Max+1]:                "",
		long[:Max-1] + " b":         long[:Max-1] + " ",
		long[:Max-1] + "<b":         long[:Max-1] + "<",
		"https://a:b c " + long:     "https://[redacted]",
		"https://a b " + long:       "https://a b ",
		"https://a:b c " + long[:8]: "https://a:b c " + long[:8],
		"https://a:1/b\nc " + long:  "https://a:1/b\nc ",
		`"https://a:1/b" c ` + long: `"https://a:1/b" c `,
		"//\n//a:b " + long:         "//\n//[redacted]",
		strings.Repeat("a ", Max):   strings.Repeat("a ", Max/2),
	} {
		assert.Equal(t, want, Text(in))
	}
}

func TestErrorHidesAddressesAnywhere(t *testing.T) {
	t.Parallel()
	below := &url.Error{Op: "Get", URL: "https://contoso.com/a?q=name: x " + canary, Err: io.EOF}
	odd := &url.Error{Op: "Get", URL: "odd " + canary, Err: io.EOF}
	quoted := &url.Error{Op: "Get", URL: "odd \"" + canary + "\"", Err: io.EOF}
	_, parse := url.Parse(fmt.Sprintf("https://user:%s/x@contoso.com/", canary))
	require.Error(t, parse)
	for name, err := range map[string]error{
		"top":            below,
		"wrapped":        fmt.Errorf("token: %w", below),
		"joined":         errors.Join(io.EOF, fmt.Errorf("x: %w", below)),
		"two wrapped":    fmt.Errorf("%w and %w", odd, below),
		"below another":  &url.Error{Op: "Post", URL: "https://contoso.com", Err: fmt.Errorf("x: %w", below)},
		"no address":     fmt.Errorf("x: %w", odd),
		"parse":          parse,
		"parse, wrapped": fmt.Errorf("x: %w", parse),
		"as text":        fmt.Errorf("x: %v", parse),
	} {
		assert.NotContains(t, Error(err), canary, name)
	}
	for want, err := range map[string]error{
		`x: Get "https://contoso.com/a": EOF`: fmt.Errorf("x: %w", below),
		"EOF":                                 below, // the caller knows the outermost address
		"invalid address":                     parse,
		"x: invalid address":                  fmt.Errorf("x: %w", parse),
		`Get "[redacted]": %!s(<nil>)`:        &url.Error{Op: "Get", URL: "odd " + canary},
		`[redacted]: Get "[redacted]": EOF: Get "[redacted]": EOF`: fmt.Errorf("%s: %w: %w", odd.URL, &url.Error{Op: "Get", URL: "odd", Err: io.EOF}, odd),
		`[redacted]: Get "[redacted]": EOF; Get "[redacted]": EOF`: fmt.Errorf("%s: %w; %w", odd.URL, odd, &url.Error{Op: "Get", URL: "odd", Err: io.EOF}),
		`x: Get "": EOF`: fmt.Errorf("x: %w", &url.Error{Op: "Get", Err: io.EOF}),
		`x: Get "[redacted]": EOF and [redacted]`:            fmt.Errorf("x: %w and odd \"%s\"", quoted, canary),
		`x: Get "[redacted]": %!s(<nil>)`:                    fmt.Errorf("x: %w", &url.Error{Op: "Get", URL: "odd " + canary}),
		`x: Get "[redacted]": EOF: y: Get "[redacted]": EOF`: fmt.Errorf("x: %w: y: %w", &url.Error{Op: "Get", URL: "odd", Err: io.EOF}, odd),
		`y: Get "[redacted]": EOF`:                           fmt.Errorf("y: %w", &url.Error{Op: "Get", URL: "https://contoso.com/%zz" + canary, Err: io.EOF}),
	} {
		assert.Equal(t, want, Error(err))
	}
	var many []error
	for i := range 100 {
		many = append(many, &url.Error{Op: "Get", URL: fmt.Sprint(i, " ", canary), Err: io.EOF})
	}
	assert.NotContains(t, Error(errors.Join(many...)), canary)
}

// FuzzText plants a canary in a secret of every kind, between arbitrary words.
func FuzzText(f *testing.F) {
	kinds := slices.Sorted(maps.Keys(secrets))
	for i := range kinds {
		f.Add(uint8(i), "dial https://contoso.com/a?b=c: ", " refused", "x")
	}
	f.Fuzz(func(t *testing.T, kind uint8, before, after, within string) {
		name := kinds[int(kind)%len(kinds)]
		if strings.Contains(before+after+within, canary) {
			t.Skip()
		}
		within = strings.Map(func(r rune) rune { // the characters of a secret
			if r > ' ' && r < 0x7f && strings.ContainsRune("abcXYZ019-_.~+/", r) {
				return r
			}
			return -1
		}, within)
		s := before + "\n" + strings.ReplaceAll(secrets[name], canary, within+canary) + "\n" + after
		got := Text(s)
		if strings.Contains(got, canary) {
			t.Fatalf("%s: %q in %q", name, s, got)
		}
		if again := Text(got); len(got) <= Max && strings.Contains(again, canary) {
			t.Fatalf("%s: %q", name, again)
		}
	})
}
