package pagetest

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

var shots = flag.String("shots", "", "directory for screenshots, which are to be looked at")

// world is a Transport in trouble, with its page behind a server.
type world struct {
	org       *failovertest.Org
	transport *failover.Transport
	client    *http.Client
	url       string
}

const accounts = "/api/data/v9.2/accounts"

func newWorld(t *testing.T) *world {
	w := &world{org: failovertest.Start(&failovertest.Config{Lag: time.Hour})}
	t.Cleanup(w.org.Close)
	var err error
	w.client, w.transport, err = failover.Wrap(w.org.Client(), w.org.URL(), &failover.Config{
		Authorize: w.org.Authorize, Logger: slog.New(slog.DiscardHandler), RetryBackoff: time.Millisecond,
	})
	require.NoError(t, err)
	t.Cleanup(func() { w.transport.Close() })
	mux := http.NewServeMux()
	mux.Handle("/ops/failover/", w.transport.ControlHandler())
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	w.url = server.URL + "/ops/failover/"
	return w
}

// call sends a request; what comes of it is the page's business.
func (w *world) call(t *testing.T, ctx context.Context, method, body string) {
	req, err := http.NewRequestWithContext(ctx, method, w.org.URL()+accounts, strings.NewReader(body))
	require.NoError(t, err)
	if body == "" {
		req.Body = nil
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.client.Do(req)
	if err == nil {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// lose posts some writes, and loses the primary's region with them.
func (w *world) lose(t *testing.T) {
	for i := range 4 {
		ctx := failover.WithLabel(t.Context(), fmt.Sprintf("invoice %d", i+1))
		w.call(t, ctx, http.MethodPost, `{"name":"Contoso"}`)
	}
	w.org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
	w.call(t, failover.WithLabel(t.Context(), "invoice 5"), http.MethodPost, `{"name":"Contoso"}`)
	w.org.Disaster(failovertest.Refuse())
	w.call(t, t.Context(), http.MethodGet, "")
	require.Equal(t, failover.Alternate, w.transport.Status().Active)
}

// worlds are the situations that are looked at.
var worlds = []struct {
	name string
	make func(*testing.T, *world)
	text string // that the page shows
}{
	{"healthy", func(t *testing.T, w *world) { w.call(t, t.Context(), http.MethodGet, "") }, "Nothing to do."},
	{"failed over", func(t *testing.T, w *world) { w.lose(t) }, "Check the writes at risk"},
	{"unauthorized", func(t *testing.T, w *world) {
		w.lose(t)
		w.org.Alternate().FailWhen(func(r *http.Request) bool { return r.URL.Path == accounts }, failovertest.Status(401, nil, ""))
		for range 30 {
			w.call(t, t.Context(), http.MethodGet, "")
		}
	}, "got 401, 403 or a sign-in page"},
	{"down", func(t *testing.T, w *world) {
		w.org.Primary().Fail(failovertest.Refuse())
		w.call(t, t.Context(), http.MethodGet, "")
		require.True(t, w.transport.Status().Down)
	}, "Most likely Microsoft"},
	{"pinned", func(t *testing.T, w *world) {
		w.lose(t)
		_, err := w.transport.Status().Loss.Verify(t.Context(), w.client)
		require.NoError(t, err)
		w.transport.Pin(failover.Primary)
	}, "Pinned"},
}

// chromium starts a browser, which ends with the test.
func chromium(t *testing.T) context.Context {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("there is no Chromium here")
	}
	profile, err := os.MkdirTemp("", "pagetest")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(profile) }) // at best: a process of the browser may still write as it ends
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.Headless, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.UserDataDir(profile),
		chromedp.WSURLReadTimeout(time.Minute),
	}
	for _, name := range []string{"disable-quic", "disable-background-networking", "disable-component-update", "disable-sync", "disable-default-apps",
		"disable-extensions", "disable-dev-shm-usage", "hide-scrollbars"} {
		options = append(options, chromedp.Flag(name, true))
	}
	if os.Getuid() == 0 { // as in a container; nothing is visited but the test's own server
		options = append(options, chromedp.NoSandbox)
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, _ := chromedp.NewContext(allocator) // ends with allocator
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	t.Cleanup(func() {
		cancel()
		stop()
		chromedp.FromContext(ctx).Allocator.Wait()
	})
	require.NoError(t, chromedp.Run(ctx))
	return ctx
}

// complaints collects what the browser complains about in a tab, such as what the
// Content-Security-Policy has blocked.
type complaints struct {
	mu  sync.Mutex
	all []string
}

func (c *complaints) listen(ctx context.Context) {
	chromedp.ListenTarget(ctx, func(event any) {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch e := event.(type) {
		case *log.EventEntryAdded:
			if !strings.Contains(e.Entry.URL, "favicon") && !strings.Contains(e.Entry.Text, "409 (Conflict)") {
				c.all = append(c.all, e.Entry.Text)
			}
		case *runtime.EventExceptionThrown:
			c.all = append(c.all, e.ExceptionDetails.Text)
		}
	})
}

func (c *complaints) check(t *testing.T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	assert.Empty(t, c.all, "the browser complains")
}

// look sets the width and the colours of a tab.
func look(width int64, scheme string) chromedp.Tasks {
	return chromedp.Tasks{
		chromedp.EmulateViewport(width, 900),
		chromedp.ActionFunc(func(ctx context.Context) error {
			return emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}).Do(ctx)
		}),
	}
}

// flaws are found by the browser itself: what is wider than the screen, text that
// is hard to read on its ground (WCAG 2.2, 1.4.3), and what is too small for a
// finger (2.5.8).
const flaws = `(() => {
	const found = [];
	if (document.documentElement.scrollWidth > innerWidth) found.push("wider than the screen: " + document.documentElement.scrollWidth);
	const parse = c => { const n = c.match(/[\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
	const over = (a, b) => a.slice(0, 3).map((v, i) => v * a[3] + b[i] * (1 - a[3])).concat(1);
	const light = c => { const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
	const ground = e => { const up = e.parentElement ? () => ground(e.parentElement) : () => [255, 255, 255, 1]; const c = parse(getComputedStyle(e).backgroundColor); return c[3] === 1 ? c : over(c, up()); };
	const opacity = e => e ? getComputedStyle(e).opacity * opacity(e.parentElement) : 1;
	for (const e of document.querySelectorAll("body *")) {
		if (e.closest("svg") || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
		const style = getComputedStyle(e), back = ground(e), color = parse(style.color);
		color[3] *= opacity(e);
		const [a, b] = [light(over(color, back)), light(back)].sort((x, y) => y - x);
		if ((a + .05) / (b + .05) < 4.5) found.push("contrast " + ((a + .05) / (b + .05)).toFixed(2) + ": " + e.textContent.trim().slice(0, 40));
		const box = e.getBoundingClientRect();
		if (box.right > innerWidth + 1 || box.left < -1) found.push("off the screen: " + e.textContent.trim().slice(0, 40));
	}
	for (const e of document.querySelectorAll(".button, input:not([type=radio]), .choice")) {
		const box = e.getBoundingClientRect();
		if (box.width < 24 || box.height < 24) found.push("too small: " + e.outerHTML.slice(0, 60));
	}
	return found;
})()`

// What flaws looks for it finds.
func TestFlawsAreFound(t *testing.T) { // not parallel, as below
	browser := chromium(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<!DOCTYPE html><meta name="viewport" content="width=device-width"><body style="background:#fff"><p style="color:#999">pale</p>`+
			`<p style="color:#000;opacity:.4">faint</p><p style="color:#555">fine</p><p style="width:500px">wide</p><a class="button" style="display:block;width:20px">x</a></body>`)
	}))
	defer server.Close()
	var found []string
	require.NoError(t, chromedp.Run(browser, look(390, "light"), chromedp.Navigate(server.URL), chromedp.Evaluate(flaws, &found)))
	require.Len(t, found, 5)
	for i, text := range []string{"wider than the screen", "pale", "faint", "off the screen: wide", "too small"} {
		assert.Contains(t, found[i], text)
	}
}

func shoot(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	if *shots == "" {
		return
	}
	var png []byte
	require.NoError(t, chromedp.Run(ctx, chromedp.FullScreenshot(&png, 100)))
	require.NoError(t, os.MkdirAll(*shots, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(*shots, strings.ReplaceAll(name, " ", "-")+".png"), png, 0o644))
}

// Every page is legible in every width and in both schemes.
func TestPagesAreLegible(t *testing.T) { // not parallel: one browser is enough for two cores
	browser := chromium(t)
	for _, row := range worlds {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			row.make(t, w)
			tab, cancel := chromedp.NewContext(browser)
			defer cancel()
			var heard complaints
			heard.listen(tab)
			for _, width := range []int64{390, 1280} {
				for _, scheme := range []string{"light", "dark"} {
					for _, path := range []string{"", "switch", "pin", "unpin", "freeze", "unfreeze", "verify"} {
						if path != "" && row.name != "failed over" && !(path == "switch" && row.name == "down") {
							continue
						}
						var text string
						var found []string
						require.NoError(t, chromedp.Run(tab, look(width, scheme), chromedp.Navigate(w.url+path),
							chromedp.Text("main", &text, chromedp.ByQuery), chromedp.Evaluate(flaws, &found)))
						name := fmt.Sprintf("%s %s %d %s", row.name, path, width, scheme)
						assert.Empty(t, found, name)
						if path == "" {
							assert.Contains(t, text, row.text, name)
						}
						shoot(tab, t, name)
					}
				}
			}
			heard.check(t)
		})
	}
}

// Every action is done as a person does it: by following links, typing and
// clicking.
func TestActionsAreClicked(t *testing.T) { // not parallel, as above
	browser := chromium(t)
	for _, width := range []int64{390, 1280} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			w := newWorld(t)
			tab, cancel := chromedp.NewContext(browser)
			defer cancel()
			var heard complaints
			heard.listen(tab)
			var at, text string
			do := func(actions ...chromedp.Action) {
				t.Helper()
				actions = append(actions, chromedp.WaitVisible("main", chromedp.ByQuery), chromedp.Location(&at), chromedp.Text("main", &text, chromedp.ByQuery))
				ctx, cancel := context.WithTimeout(tab, 2*time.Minute)
				defer cancel()
				require.NoError(t, chromedp.Run(ctx, actions...))
			}
			follow := func(action string) {
				t.Helper()
				do(clicked(`a[href="./` + action + `"]`))
				require.Equal(t, w.url+action, at)
			}
			submit := func(reason string) {
				t.Helper()
				if reason != "" {
					do(chromedp.SendKeys(`input[name="reason"]`, reason, chromedp.ByQuery))
				}
				do(clicked(`button[type="submit"]`))
			}
			require.NoError(t, chromedp.Run(tab)) // which makes the tab, for longer than a single step
			do(look(width, "light"), chromedp.Navigate(w.url))

			// Without a reason the browser itself does not send the form.
			follow("switch")
			require.NoError(t, chromedp.Run(tab, chromedp.Click(`button[type="submit"]`, chromedp.ByQuery)))
			var valid bool
			do(chromedp.Evaluate(`document.forms[0].checkValidity()`, &valid))
			assert.False(t, valid)

			// A switch to a fenced standby is refused, and what was typed stays.
			submit("drill")
			assert.Equal(t, w.url+"switch", at)
			assert.Contains(t, text, "0x8004B065")
			var typed string
			do(chromedp.Value(`input[name="reason"]`, &typed, chromedp.ByQuery))
			assert.Equal(t, "drill", typed)
			shoot(tab, t, fmt.Sprintf("refused %d", width))
			do(clicked(`a[href="./"]`))
			assert.Equal(t, w.url, at)
			assert.Equal(t, failover.Primary, w.transport.Status().Active)

			w.lose(t)
			do(chromedp.Navigate(w.url))
			follow("verify")
			submit("")
			assert.Equal(t, w.url, at)
			assert.Contains(t, text, "4 writes are missing")

			w.org.Primary().Heal()
			w.org.FailBack()
			follow("switch")
			submit("INC-4711, the primary is back")
			assert.Equal(t, w.url, at)
			assert.Equal(t, failover.Primary, w.transport.Status().Active)
			assert.Contains(t, text, "INC-4711, the primary is back")

			follow("pin")
			do(chromedp.Click(`input[value="alternate"]`, chromedp.ByQuery))
			submit("while we look")
			assert.True(t, w.transport.Status().Pinned)
			assert.Equal(t, failover.Alternate, w.transport.Status().Active)
			assert.Contains(t, text, "while we look")

			follow("unpin")
			submit("seen enough")
			assert.False(t, w.transport.Status().Pinned)
			assert.Contains(t, text, "seen enough")
			shoot(tab, t, fmt.Sprintf("after all %d", width))
			heard.check(t)
		})
	}
}

// clicked clicks and waits for the page that this leads to.
func clicked(selector string) chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := chromedp.RunResponse(ctx, chromedp.Click(selector, chromedp.ByQuery))
		return err
	})
}

// A page of another site cannot act, in a real browser.
func TestAnotherSiteCannotAct(t *testing.T) { // not parallel, as above
	browser := chromium(t)
	w := newWorld(t)
	evil := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(rw, `<!DOCTYPE html><form method="post" action="%spin"><input name="endpoint" value="alternate"><input name="reason" value="evil"><button type="submit">Win</button></form>`, w.url)
	}))
	defer evil.Close()
	tab, cancel := chromedp.NewContext(browser)
	defer cancel()
	var text string
	require.NoError(t, chromedp.Run(tab, chromedp.Navigate(strings.Replace(evil.URL, "127.0.0.1", "localhost", 1)),
		clicked("button"), chromedp.Text("body", &text, chromedp.ByQuery)))
	assert.Contains(t, text, "another site")
	assert.False(t, w.transport.Status().Pinned)
}
