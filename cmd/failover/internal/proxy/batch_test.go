package proxy

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFoldedHeadersOfPartsAreOneLine(t *testing.T) {
	t.Parallel()
	type row struct{ name, why, in, want string }
	const m = "https://contoso.api.crm4.dynamics.com"
	part := func(inner, body string) string {
		return crlf("--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\n" + inner + "\n" + body + "\n--b--\n")
	}
	rows := []row{
		{"type", "of a body with links", part("Content-Type:\n application/json\n", `{"@odata.id":"`+m+`/a"}`), part("Content-Type:\n application/json\n", `{"@odata.id":"`+proxyOrigin+`/a"}`)},
		{"tab", "folds, too", part("Content-Type:\n\tapplication/json;\n\todata.metadata=minimal\n", `{"@odata.id":"`+m+`/a"}`), part("Content-Type:\n\tapplication/json;\n\todata.metadata=minimal\n", `{"@odata.id":"`+proxyOrigin+`/a"}`)},
		{"link", "goes into one line", part("Location:\n "+m+"/a\nX: 1\n", "x"), part("Location: "+proxyOrigin+"/a\nX: 1\n", "x")},
		{"length", "with all its lines", part("Content-Length:\n 5\nX: 1\n", "x"), part("X: 1\n", "x")},
		{"blank before the colon", "lenient readers take it", part("Content-Length : 5\nLocation : "+m+"/a\n", "x"), part("Location : "+proxyOrigin+"/a\n", "x")},
		{"outcome", "is the proxy's word", part("Failover-Outcome: unknown\nfailover-outcome:\n unknown\nX: 1\n", "x"), part("X: 1\n", "x")},
		{"not folded", "an empty line ends the header", part("X: 1\n", " Location: "+m+"/a"), part("X: 1\n", " Location: "+m+"/a")},
		{"nothing to continue", "the first line", part(" Location: "+m+"/a\n", "x"), part(" Location: "+m+"/a\n", "x")},
		{"of the part itself", "names what is in it",
			crlf("--b\nContent-Type:\n application/http\nContent-Length:\n 99\n\nHTTP/1.1 200 OK\nLocation: " + m + "/a\n\n\n--b--\n"),
			crlf("--b\nContent-Type:\n application/http\n\nHTTP/1.1 200 OK\nLocation: " + proxyOrigin + "/a\n\n\n--b--\n")},
		{"delimiter in a header", "ends the part", crlf("--b\nContent-Type: application/http\n--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\nLocation: " + m + "/a\n\n--b--"),
			crlf("--b\nContent-Type: application/http\n--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\nLocation: " + proxyOrigin + "/a\n\n--b--")},
		{"breaks off in a header", "what was held comes", crlf("--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\nX: 1\n"), crlf("--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\nX: 1\n")},
		{"breaks off in a link", "the line may be whole", crlf("--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\nLocation: " + m + "/a"), crlf("--b\nContent-Type: application/http\n\nHTTP/1.1 200 OK\nLocation: " + proxyOrigin + "/a")},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	mapped := toProxy(t)
	for _, r := range rows {
		for _, size := range []int{1, 2, 3, 7, 64, 1 << 20} {
			assert.Equal(t, r.want, through(newBatch(mapped, "b"), r.in, size), "%s in pieces of %d", r.name, size)
		}
	}
}

// repeated is a text again and again, without the memory for it.
type repeated struct {
	text string
	left int
	at   int
}

func newRepeated(text string, length int) *repeated {
	return &repeated{text: strings.Repeat(text, 1+(64<<10)/len(text)), left: length}
}

func (r *repeated) Read(p []byte) (n int, err error) {
	for n < len(p) && r.left > 0 {
		c := copy(p[n:], r.text[r.at:])
		c = min(c, r.left)
		n, r.left, r.at = n+c, r.left-c, (r.at+c)%len(r.text)
	}
	if r.left == 0 {
		err = io.EOF
	}
	return n, err
}

// Not parallel: it measures the memory of the process.
func TestBatchesOfAnyFormTakeLittleMemory(t *testing.T) {
	if raceDetector {
		t.Skip("one goroutine, byte by byte: with the race detector it takes a minute and shows nothing more")
	}
	const begin = "--b\r\nContent-Type: application/http\r\n\r\nPOST /x HTTP/1.1\r\n"
	type row struct{ name, why, begin, text string }
	rows := []row{
		{"header lines", "each was kept", begin, "a:\r\n"},
		{"header lines of their own", "under names of their own", begin, "a1:x\r\nb2:y\r\n"},
		{"types", "of which one counts", begin, "Content-Type: application/json\r\n"},
		{"encodings", "of which one counts", begin, "Content-Encoding: identity\r\n"},
		{"folded lines", "are one line", begin + "a:\r\n", " b\r\n"},
		{"empty folded lines", "the same", begin + "a:\r\n", " \r\n"},
		{"one line", "does not end", begin, "a"},
		{"delimiters", "a part each", "", "--b\r\n"},
		{"parts", "one after the other", "", begin + "Content-Type: application/json\r\n\r\n{\"@odata.id\":\"https://contoso.api.crm4.dynamics.com/a\"}\r\n"},
		{"change sets", "that do not end", "", "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n"},
		{"boundaries", "one in the other", "", "--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"},
		{"arrays", "one in the other", begin + "Content-Type: application/json\r\n\r\n", "["},
		{"names", "that do not end", begin + "Content-Type: application/json\r\n\r\n{\"", "x"},
		{"links", "that do not end", begin + "Content-Type: application/json\r\n\r\n{\"@odata.id\":\"", "h"},
		{"hyphens", "that may be a delimiter", begin + "\r\n", "-"},
		{"blank lines", "before a request", "--b\r\nContent-Type: application/http\r\n\r\n", "\r\n"},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	const length = 2 << 20
	links := toProxy(t)
	for _, r := range rows {
		mem := newHeap()
		mem.n = -length / 8 // looks are slow
		out := &filtered{src: io.NopCloser(io.MultiReader(strings.NewReader(r.begin), newRepeated(r.text, length))), filter: newBatch(links, "b")}
		n, err := io.Copy(mem, out)
		require.NoError(t, err, r.name)
		assert.GreaterOrEqual(t, n, int64(length/2), r.name)
		assert.Less(t, int64(mem.most)-int64(mem.base), int64(1<<20), "bytes in use: %s", r.name)
	}

	var mem *heap
	hostile := func() io.Reader {
		return io.MultiReader(strings.NewReader(begin), newRepeated("a: "+strings.Repeat("b", 100)+"\r\n", large))
	}
	s := startOrganization(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			io.Copy(mem, r.Body)
			return
		}
		w.Header().Set("Content-Type", "multipart/mixed; boundary=b")
		io.Copy(w, hostile())
	})
	mem = newHeap()
	resp, err := s.caller.Post(s.root()+"$batch", "multipart/mixed; boundary=b", hostile())
	require.NoError(t, err)
	resp.Body.Close()
	mem.assertBounded(t)

	mem = newHeap()
	resp, err = s.caller.Get(s.root() + "$batch")
	require.NoError(t, err)
	_, err = io.Copy(mem, resp.Body)
	resp.Body.Close()
	require.NoError(t, err)
	mem.assertBounded(t)
}
