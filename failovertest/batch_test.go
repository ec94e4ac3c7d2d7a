package failovertest_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

// single is a part of a batch outside a change set.
func single(text string) string {
	return "--b\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n" + text + "\r\n"
}

// changeSet is a change set; its requests get the Content-IDs 1, 2 and so on.
func changeSet(texts ...string) string {
	var b strings.Builder
	b.WriteString("--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n")
	for i, text := range texts {
		fmt.Fprintf(&b, "--c\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: %d\r\n\r\n%s\r\n", i+1, text)
	}
	b.WriteString("--c--\r\n")
	return b.String()
}

func post(set, body string) string {
	return "POST " + set + " HTTP/1.1\r\nContent-Type: application/json\r\n\r\n" + body
}

// batch sends a batch and returns the answers in it, those of change sets too.
func batch(t *testing.T, org *failovertest.Org, client *http.Client, url string, parts string, headers ...string) []*http.Response {
	t.Helper()
	r := must(t, org, client, "POST", url+api+"$batch", parts+"--b--\r\n",
		append(headers, "Content-Type: multipart/mixed; boundary=b")...)
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	return answers(t, r.Header.Get("Content-Type"), r.body)
}

func answers(t *testing.T, contentType string, body []byte) (list []*http.Response) {
	t.Helper()
	typ, params, err := mime.ParseMediaType(contentType)
	require.NoError(t, err)
	require.Equal(t, "multipart/mixed", typ)
	for mr := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		p, err := mr.NextPart()
		if err == io.EOF {
			return list
		}
		require.NoError(t, err)
		text, err := io.ReadAll(p)
		require.NoError(t, err)
		if strings.HasPrefix(p.Header.Get("Content-Type"), "multipart/") {
			list = append(list, answers(t, p.Header.Get("Content-Type"), text)...)
			continue
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), nil)
		require.NoError(t, err)
		resp.Header.Set("Content-ID", p.Header.Get("Content-ID"))
		list = append(list, resp)
	}
}

func statuses(list []*http.Response) (codes []int) {
	for _, resp := range list {
		codes = append(codes, resp.StatusCode)
	}
	return codes
}

func TestBatchAddresses(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name, reason, request string
		status                int
	}{
		{"absolute", "OData allows an absolute URI", "GET ORG/api/data/v9.2/accounts HTTP/1.1\r\nAccept: application/json\r\n\r\n", 200},
		{"path and host", "OData allows a path with a Host header", "GET /api/data/v9.2/accounts HTTP/1.1\r\nHost: HOST\r\n\r\n", 200},
		{"path alone", "the host is then the batch's", "GET /api/data/v9.2/accounts HTTP/1.1\r\n\r\n", 200},
		{"relative", "OData allows a URI relative to the service root", "GET accounts?$top=1 HTTP/1.1\r\n\r\n", 200},
		{"relative without blank line", "clients leave it out", "GET accounts HTTP/1.1\r\nAccept: application/json", 200},
		{"absolute of another host", "the other datacenter is another host", "GET ALTERNATE/api/data/v9.2/accounts HTTP/1.1\r\n\r\n", 400},
		{"another host header", "the other datacenter is another host", "GET /api/data/v9.2/accounts HTTP/1.1\r\nHost: contoso--s.api.crm.dynamics.com\r\n\r\n", 400},
		{"another service", "a batch is one service's", "GET /XRMServices/2011/Organization.svc HTTP/1.1\r\n\r\n", 400},
		{"nested", "a batch is no part of a batch", "POST $batch HTTP/1.1\r\n\r\n", 400},
		{"garbage", "a part starts with a request line", "hello", 400},
	}
	seen := make(map[string]bool)
	for _, row := range rows {
		require.NotEmpty(t, row.reason, "reason of %q", row.name)
		require.False(t, seen[row.name], "%q occurs twice", row.name)
		seen[row.name] = true
		t.Run(row.name, func(t *testing.T) {
			inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
				text := strings.NewReplacer("ORG", org.URL(), "ALTERNATE", org.AlternateURL(), "HOST", org.Primary().Host()).Replace(row.request)
				list := batch(t, org, client, org.URL(), single(text))
				assert.Equal(t, []int{row.status}, statuses(list))
				assert.False(t, org.Primary().Deliveries()[0].Applied)
			})
		})
	}
}

func TestBatchStopsAtTheFirstErrorUnlessToldOtherwise(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		parts := single(post("contacts", `{"lastname":"one"}`)) +
			single("GET contacts(99999999-0000-0000-0000-000000000000) HTTP/1.1\r\n\r\n") +
			single(post("contacts", `{"lastname":"two"}`))
		assert.Equal(t, []int{204, 404}, statuses(batch(t, org, client, org.URL(), parts)))
		assert.Len(t, org.Primary().Rows("contacts"), 1)
		assert.Equal(t, []int{204, 404, 204}, statuses(batch(t, org, client, org.URL(), parts, "Prefer: odata.continue-on-error")))
		assert.Len(t, org.Primary().Rows("contacts"), 3)
		assert.True(t, org.Primary().Deliveries()[0].Applied)
	})
}

func TestChangeSetsAreAtomic(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		const id = "88888888-0000-0000-0000-000000000000"
		good := changeSet(
			post("accounts", `{"accountid":"`+id+`"}`),
			post("contacts", `{"parentcustomerid_account@odata.bind":"$1"}`),
			"PATCH $1 HTTP/1.1\r\n\r\n"+`{"name":"renamed"}`)
		list := batch(t, org, client, org.URL(), good)
		assert.Equal(t, []int{204, 204, 204}, statuses(list))
		assert.Equal(t, "2", list[1].Header.Get("Content-ID"))
		record, _ := org.Primary().Lookup("accounts", id)
		assert.Equal(t, "renamed", record["name"])
		contacts := org.Primary().Rows("contacts")
		require.Len(t, contacts, 1)
		assert.Equal(t, id, contacts[0]["_parentcustomerid_account_value"])

		// The second time the first request fails; then the last one does.
		assert.Equal(t, []int{412}, statuses(batch(t, org, client, org.URL(), good)))
		late := changeSet(post("contacts", `{}`), post("accounts", `{"accountid":"`+id+`"}`))
		assert.Equal(t, []int{412}, statuses(batch(t, org, client, org.URL(), late)))
		assert.Len(t, org.Primary().Rows("contacts"), 1, "the first request was undone")
		assert.Len(t, org.Alternate().Rows("contacts"), 1, "and not replicated")
		log := org.Primary().Deliveries()
		assert.False(t, log[len(log)-1].Applied)

		assert.Equal(t, []int{400}, statuses(batch(t, org, client, org.URL(), changeSet("GET contacts HTTP/1.1\r\n\r\n"))),
			"change sets change")
	})
}

func TestBatchesThatAreRefusedWhole(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		r := must(t, org, client, "POST", org.URL()+api+"$batch", "x", "Content-Type: application/json")
		assert.Equal(t, 400, r.StatusCode)
		r = must(t, org, client, "POST", org.URL()+api+"$batch", "x", "Content-Type: multipart/mixed; boundary=b")
		assert.Equal(t, 400, r.StatusCode)
		many := strings.Repeat(single("GET WhoAmI HTTP/1.1\r\n\r\n"), 1001)
		r = must(t, org, client, "POST", org.URL()+api+"$batch", many+"--b--\r\n", "Content-Type: multipart/mixed; boundary=b")
		assert.Equal(t, 400, r.StatusCode)
		r = must(t, org, client, "POST", org.AlternateURL()+api+"$batch", many, "Content-Type: multipart/mixed; boundary=b")
		assert.Equal(t, "0x8004b065", r.code(t))
		r = must(t, org, client, "GET", org.URL()+api+"$batch", "")
		assert.Equal(t, 405, r.StatusCode)
	})
}
