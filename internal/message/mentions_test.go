package message

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMentions(t *testing.T) {
	t.Parallel()
	const primary, alternate, api = rewritePrimary, rewriteAlternate, "contoso.api.crm4.dynamics.com"
	for _, c := range []struct {
		name, why string
		host      string
		body      string
		want      bool
	}{
		{"alternate", "plain", alternate, "x https://contoso--s.crm4.dynamics.com/", true},
		{"primary", "plain", primary, "https://contoso.crm4.dynamics.com/", true},
		{"whole body", "no bytes around", alternate, "contoso--s.crm4.dynamics.com", true},
		{"upper case", "host names have no case", alternate, "CONTOSO--S.CRM4.DYNAMICS.COM", true},
		{"with api", "the other variant of the name", alternate, "contoso--s.api.crm4.dynamics.com", true},
		{"without api", "the other variant of the name", api, "contoso.crm4.dynamics.com", true},
		{"dashes before", "anchors overlap", alternate, "----contoso----contoso--s.crm4.dynamics.com", true},
		{"other side", "the primary's name is not the alternate's", alternate, "contoso.crm4.dynamics.com", false},
		{"other side back", "nor the other way round", primary, "contoso--s.crm4.dynamics.com", false},
		{"other domain with api", "another organization", alternate, "contoso--s.api.crm5.dynamics.com", false},
		{"other region", "another organization", alternate, "contoso--s.crm5.dynamics.com contoso--s.crm4.dynamics.co", false},
		{"cut", "ends within the name", alternate, "contoso--s.crm4.dynamics.c", false},
		{"cut at the start", "begins within the name", alternate, "--s.crm4.dynamics.com", false},
		{"cut behind the label", "nothing follows", alternate, "contoso--s.", false},
		{"not letters", "0x20 folds letters only", alternate, "contoso--s.crm\x14.dynamics.com", false},
		{"empty", "nothing there", alternate, "", false},
		{"no host", "an endpoint that there is not", "", "https:///", false},
		{"localhost", "a name without a dot", "localhost", "http://LocalHost:8443", true},
		{"no localhost", "a name without a dot", "localhost", "http://localhos", false},
		{"IPv6", "a name without a dot", "[::1]", "http://[::1]:8443", true},
		{"explicit", "any pair", "crm.contoso.net", "https://crm.contoso.net/", true},
		{"not explicit", "any pair", "crm.contoso.net", "https://crm.contoso.com/", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, Mentions([]byte(c.body), c.host), c.why)
		})
	}
}

func TestTheAnchorOfAName(t *testing.T) {
	t.Parallel()
	for label, want := range map[string]string{
		"contoso.": ".", "contoso--s.": "--", "--contoso.": "--", "a-b-c.": "-", "a1-b23c.": "1-", "a--b---c.": "---", "1.": "1.", ".": ".",
		"a123456789012345x.": "123456789012345", "a1234567890123456x.": "1234567890123456", "a12345678901234567x.": "1234567890123456",
	} {
		start, end := caseless(label)
		assert.Equal(t, want, label[start:end], label)
		assert.Equal(t, strings.Index(label, want), start, label)
	}
}

func TestMentionsAllocatesNothing(t *testing.T) { // counts allocations, so not parallel
	body := mentionsBody(1 << 10)
	for _, host := range []string{rewritePrimary, strings.Repeat("7", 63) + ".crm4.dynamics.com"} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { Mentions(body, host) }))
	}
}

// rewriteRow is an ordinary record, without a host.
const rewriteRow = `{"name":"Contoso, Ltd.","accountid":"6f1d2c3b-0000-4a5b-8c7d-001122334455","primarycontactid@odata.bind":"contacts(1)","creditlimit":1500.50},`

// mentionsBody returns n bytes of records.
func mentionsBody(n int) []byte {
	return []byte(strings.Repeat(rewriteRow, n/len(rewriteRow)+1)[:n])
}

func BenchmarkMentions(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		for _, host := range []string{rewritePrimary, rewriteAlternate} {
			b.Run(fmt.Sprintf("%s/%dKiB", host, size>>10), func(b *testing.B) {
				body := mentionsBody(size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if Mentions(body, host) {
						b.Fatal("no such host")
					}
				}
			})
		}
	}
}

func BenchmarkRewriteBody(b *testing.B) {
	header := contentType(typeJSON)
	body := []byte(`{"a":[` + strings.Repeat(rewriteRow, 6) + `{}],"x@odata.bind":"https://` + rewritePrimary + `/api/data/v9.2/accounts(1)"}`)
	require.True(b, json.Valid(body))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, changed := rewriteFor(toAlternate, header, "/api/data/v9.2/contacts", body); !changed {
			b.Fatal("not rewritten")
		}
	}
}
