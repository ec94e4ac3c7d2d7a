package failover

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// credentialsOf returns every state that a credential can be in.
func credentialsOf(header string) (all []credential) {
	for bits := range 32 {
		is := func(bit int) bool { return bits>>bit&1 == 1 }
		all = append(all, credential{header, is(0), [2]bool{is(1), is(2)}, [2]bool{is(3), is(4)}})
	}
	return all
}

// Among the credentials that were not rejected there, a probe borrows a proven one first, then
// one that is not forbidden there, then the newest. The first to be forgotten are those that
// both endpoints reject, then those not proven, then the oldest.
func TestWhichCredentialIsBorrowedAndWhichForgotten(t *testing.T) {
	t.Parallel()
	for _, newer := range credentialsOf("newer") {
		for _, older := range credentialsOf("older") {
			c := credentials{kept: []credential{newer, older}}
			for at := range Alternate + 1 {
				usable := slices.DeleteFunc(slices.Clone(c.kept), func(k credential) bool { return k.rejected[at] })
				slices.SortStableFunc(usable, func(a, b credential) int {
					return cmp.Or(compareBools(b.proven, a.proven), compareBools(a.useless[at], b.useless[at]))
				})
				want := ""
				if len(usable) > 0 {
					want = usable[0].header
				}
				assert.Equal(t, want, c.pick(at), "%v: %+v", at, c.kept)
			}
			gone := func(k credential) bool { return k.rejected[Primary] && k.rejected[Alternate] }
			want := 1
			if !gone(older) && (gone(newer) || older.proven && !newer.proven) {
				want = 0
			}
			assert.Equal(t, want, c.worst(), "%+v", c.kept)
		}
	}
	assert.Empty(t, new(credentials).pick(Primary))
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// The eight newest credentials are kept, and the proven one before them, which is not replaced
// within five seconds.
func TestWhichCredentialsAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c credentials
		offer := func(name string, proven bool) bool {
			return c.offer(headerWith("Authorization", "Bearer "+name), proven)
		}
		kept := func() string {
			var names []string
			for _, k := range c.kept {
				name := strings.TrimPrefix(k.header, "Bearer ")
				if k.proven {
					name += "!"
				}
				names = append(names, name)
			}
			return strings.Join(names, " ")
		}
		for i := range 9 {
			assert.True(t, offer(strconv.Itoa(i), false))
		}
		assert.Equal(t, "8 7 6 5 4 3 2 1", kept())
		assert.False(t, offer("3", false), "it is known")
		assert.Equal(t, "8 7 6 5 4 3 2 1", kept())
		assert.False(t, offer("3", true), "it is known")
		assert.Equal(t, "3! 8 7 6 5 4 2 1", kept())
		assert.False(t, offer("x", true), "another is proven")
		time.Sleep(5*time.Second - 1)
		assert.False(t, offer("x", true))
		time.Sleep(time.Nanosecond)
		assert.True(t, offer("x", true))
		assert.Equal(t, "x! 3! 8 7 6 5 4 2", kept())
		time.Sleep(5 * time.Second)
		assert.False(t, offer("x", true))
		assert.False(t, offer("3", true))
		assert.Equal(t, "3! x! 8 7 6 5 4 2", kept())
		assert.False(t, c.offer(http.Header{}, true))
		assert.False(t, offer("x", true))
		assert.Equal(t, "3! x! 8 7 6 5 4 2", kept(), "3 has been proven just now")

		assert.False(t, c.offer(http.Header{}, false))
		assert.True(t, offer("y", false), "whatever is proven")
		assert.Equal(t, "y 3! x! 8 7 6 5 4", kept())
		assert.False(t, offer("3", false))

		c.answered(Primary, "Bearer 3", 503)
		assert.False(t, offer("x", true))
		c.answered(Primary, "Bearer unknown", 401)
		assert.False(t, offer("x", true))
		c.answered(Alternate, "Bearer 3", 401)
		assert.Equal(t, credential{"Bearer 3", true, [2]bool{Alternate: true}, [2]bool{}}, c.kept[1])
		assert.False(t, offer("x", true))
		assert.Equal(t, "x! y 3! 8 7 6 5 4", kept(), "3 was rejected")
		c.answered(Primary, "Bearer x", 403)
		assert.Equal(t, credential{"Bearer x", true, [2]bool{}, [2]bool{Primary: true}}, c.kept[0])
	})
}

// A credential can be borrowed if it is a single header that can be sent, of up to 32 KiB,
// with a scheme that is not bound to a connection or request.
func TestWhatCanBeBorrowed(t *testing.T) {
	t.Parallel()
	long := "Bearer " + strings.Repeat("x", 32<<10-len("Bearer "))
	for value, want := range map[string]bool{
		"Bearer x": true, "Basic eDp5": true, "x": true, "Digestive x": true, "\tBearer x": true, long: true, long + "x": false, "": false,
		"NTLM": false, "ntlm x": false, "Negotiate x": false, "Kerberos x": false, "Digest x": false, " \t digest x": false, "Bearer \x00": false, "Bearer \x7f": false,
	} {
		found := borrowable(http.Header{"Authorization": {value}})
		assert.Equal(t, want, found != "", "%.40q", value)
		assert.True(t, !want || found == value)
	}
	assert.Empty(t, borrowable(http.Header{"Authorization": {"Bearer x", "Bearer x"}}))
	assert.Empty(t, borrowable(http.Header{}))
}

// A 401 that asks for a token shows that something there knows tokens.
func TestWhatAsksForABearerToken(t *testing.T) {
	t.Parallel()
	for challenge, want := range map[string]bool{
		"Bearer": true, " bearer authorization_uri=https://login.contoso.example/": true, `BEARER realm="x"`: true,
		"": false, "Basic realm=x": false, "Bearers x": false, `Basic realm="Bearer"`: false, "Negotiate": false,
	} {
		assert.Equal(t, want, asksForBearer(headerWith("WWW-Authenticate", challenge)), challenge)
		assert.Equal(t, want, asksForBearer(headerWith("WWW-Authenticate", "NTLM", "WWW-Authenticate", challenge)), challenge)
	}
	assert.False(t, asksForBearer(http.Header{}))
}

// What a probe requests, and what it concludes from the answer, with and without a fence
// before it.
func TestWhatAProbeMakesOfAnAnswer(t *testing.T) {
	t.Parallel()
	const (
		fails = iota
		weakly
		passes
	)
	const named = `{"OrganizationId":"00000000-0000-0000-0000-00000000000A"}`
	type row struct {
		name         string
		status       int
		body         string
		header       http.Header
		whoAmI, path int
		class        Class // of the fault
	}
	typed := headerWith("OData-Version", "4.0", "Content-Type", "application/json")
	for _, tt := range []row{
		{"named", 200, named, typed, passes, passes, 0},
		{"no id", 200, `{"OrganizationId":""}`, typed, fails, passes, ClassApplication},
		{"no JSON", 200, named[:20], typed, fails, passes, ClassApplication},
		{"two answers", 200, named[:len(named)-1] + `,"OrganizationId":5}`, typed, fails, passes, ClassApplication},
		{"up to 64 KiB", 200, named + strings.Repeat(" ", 64<<10-len(named)) + "x", typed, passes, passes, 0},
		{"longer", 200, strings.Repeat(" ", 64<<10-len(named)+1) + named, typed, fails, passes, ClassApplication},
		{"accepted", 202, named, typed, fails, fails, ClassApplication},
		{"redirect", 302, "", headerWith("Location", "/x"), fails, fails, ClassApplication},
		{"asks for a token", 401, "", headerWith("WWW-Authenticate", "Bearer"), weakly, weakly, ClassAuth},
		{"asks for a password", 401, "", headerWith("WWW-Authenticate", "Basic"), fails, fails, ClassAuth},
		{"forbidden", 403, "", headerWith("WWW-Authenticate", "Bearer"), fails, fails, ClassAuth},
		{"throttles", 429, "", nil, weakly, weakly, ClassThrottled},
		{"throttles by a code", 503, odata("0x80072322", "x"), typed, weakly, weakly, ClassThrottled},
		{"does not serve", 503, "", nil, fails, fails, ClassUnavailable},
		{"breaks off", 200, "", typed, fails, fails, ClassTransient},
		{"page of a front end", 200, "<html>maintenance</html>", headerWith("Content-Type", "text/html"), fails, fails, ClassTransient},
		{"not found", 404, "", nil, fails, fails, ClassApplication},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// ask returns the result of a probe.
			ask := func(probe Probe, path string, terms *probeTerms) error {
				end := io.EOF
				if tt.name == "breaks off" {
					end = io.ErrUnexpectedEOF
				}
				body := &countingBody{Reader: io.MultiReader(strings.NewReader(tt.body), iotest.ErrReader(end))}
				client := withoutRedirects(&http.Client{Transport: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					assert.Equal(t, "GET https://contoso.api.crm.dynamics.com"+path, req.Method+" "+req.URL.String())
					assert.Equal(t, headerWith("Accept", "application/json", "OData-Version", "4.0", "OData-MaxVersion", "4.0"), req.Header)
					return &http.Response{StatusCode: tt.status, Header: tt.header, Body: body, ContentLength: -1, Request: req}, nil
				})})
				ctx := t.Context()
				if terms != nil {
					ctx = context.WithValue(ctx, probeTermsKey{}, terms)
				}
				err := probe(ctx, client, contoso(t))
				assert.Equal(t, 1, body.closed)
				return err
			}
			for _, p := range []struct {
				probe Probe
				path  string
				want  int
			}{{ProbeWebAPI, "/api/data/v9.2/WhoAmI", tt.whoAmI}, {ProbePath("/Data"), "/Data", tt.path}} {
				for _, fenced := range []bool{false, true} {
					want, found := p.want, ""
					if fenced && want == weakly {
						want = fails
					}
					terms := &probeTerms{fenced: fenced, found: func(id string) { found = id }}
					err := ask(p.probe, p.path, terms)
					assert.Equal(t, want != fails, err == nil, "%s, fenced: %v: %v", p.path, fenced, err)
					assert.Equal(t, want == weakly, terms.weak.Load())
					assert.Equal(t, want == passes && p.path != "/Data", found != "")
					var f *Fault
					if want == fails && assert.ErrorAs(t, err, &f) {
						assert.Equal(t, tt.class, f.Class)
						assert.Equal(t, tt.class == ClassApplication, f.Delivery == Answered && f.Status == tt.status && f.Class == ClassApplication)
					}
				}
				assert.Equal(t, p.want != fails, ask(p.probe, p.path, nil) == nil, "not called by a Transport")
			}
			for id, same := range map[string]bool{"{00000000-0000-0000-0000-00000000000a}": true, "00000000-0000-0000-0000-00000000000b": false} {
				if tt.whoAmI == passes {
					err := ask(ProbeWebAPI, "/api/data/v9.2/WhoAmI", &probeTerms{organizationID: id})
					assert.Equal(t, !same, errors.Is(err, errOtherOrganization))
					assert.Equal(t, same, err == nil)
				}
			}
		})
	}
	for _, probe := range []Probe{ProbeWebAPI, ProbePath("/data")} {
		err := probe(t.Context(), nil, &url.URL{Scheme: "https", Host: "contoso example"})
		assert.EqualError(t, err, "failover: probe of contoso example: bad path")
	}
}

// What a Transport records at the end of a probe.
func TestWhatIsKnownAfterAProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var probe Probe
		var told []Endpoint
		transport := newTestTransport(t, new(closings), Config{
			Probe:         func(ctx context.Context, client *http.Client, u *url.URL) error { return probe(ctx, client, u) },
			ProbeInterval: -1, SuspectAfter: -1, OrganizationID: "00000000-0000-0000-0000-000000000001",
			OnEvent: func(e Event) {
				if e.Kind == EventProbed {
					assert.Equal(t, map[bool]string{true: "probe passed", false: "probe failed"}[e.Err == nil], e.Reason)
					assert.Equal(t, e.From, e.To)
					told = append(told, e.From)
				}
			},
		})
		defer transport.Close()
		returns := func(err error) Probe { return func(context.Context, *http.Client, *url.URL) error { return err } }
		answers := func(resp *http.Response) Probe {
			return func(ctx context.Context, _ *http.Client, u *url.URL) error {
				return ProbeWebAPI(ctx, &http.Client{Transport: roundTripFunc(func(req *http.Request) (*http.Response, error) { resp.Request = req; return resp, nil })}, u)
			}
		}
		ask := func(e Endpoint, p Probe) error {
			probe = p
			return transport.runProbe(t.Context(), e)
		}
		throttled := func() Probe { return answers(replyWith(429, "")) }
		who := func(id string) Probe {
			return answers(replyWith(200, `{"OrganizationId":"`+id+`"}`, "OData-Version", "4.0", "Content-Type", "application/json"))
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		probe = returns(io.EOF)
		assert.ErrorIs(t, transport.runProbe(ctx, Primary), context.Canceled)
		synctest.Wait() // for the abandoned probe
		assert.Zero(t, transport.Status().Primary.LastProbe, "nobody waits for it any more; it proves nothing")

		assert.NoError(t, ask(Primary, who("00000000-0000-0000-0000-000000000001")))
		assert.ErrorIs(t, ask(Primary, who("00000000-0000-0000-0000-000000000002")), errOtherOrganization, "which one it is, the Config says")
		assert.ErrorIs(t, transport.Status().Primary.ProbeError, errOtherOrganization)

		var f *Fault
		assert.ErrorAs(t, ask(Primary, func(context.Context, *http.Client, *url.URL) error { panic("contoso") }), &f)
		assert.Equal(t, Fault{Class: ClassLocal, Delivery: NotSent, Err: errPanicked}, *f)

		shared := &Fault{Class: ClassUnavailable}
		assert.ErrorAs(t, ask(Alternate, returns(shared)), &f)
		assert.Equal(t, Alternate, f.Endpoint)
		assert.Equal(t, Primary, shared.Endpoint, "a fault of the program's is not changed")
		assert.Equal(t, StateClosed, transport.Status().Alternate.State, "of an endpoint that is not active nothing is counted")

		transport.endpoints[Alternate].fenced = true
		assert.Error(t, ask(Alternate, throttled()), "it has said that it does not serve")
		assert.NoError(t, ask(Alternate, who("00000000-0000-0000-0000-000000000001")), "which it takes back")
		assert.NoError(t, ask(Alternate, throttled()))

		require.NoError(t, transport.Switch(t.Context(), Alternate, "drill"))
		assert.Error(t, ask(Alternate, returns(shared)))
		assert.Equal(t, StateClosed, transport.Status().Alternate.State, "requests have not failed")
		transport.endpoints[Primary].reset()
		assert.Equal(t, StateClosed, transport.Status().Primary.State)
		assert.Error(t, ask(Primary, returns(shared)))
		assert.Equal(t, StateOpen, transport.Status().Primary.State, "it has to rise anew")
		synctest.Wait()
		assert.Equal(t, []Endpoint{Primary, Primary, Primary, Alternate, Alternate, Alternate, Alternate, Alternate, Alternate, Primary}, told)
	})
}

// A probe records the address that its connection led to, if that answered.
func TestTheAddressesThatProbesReach(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		status int
		seen   bool
	}{"passed": {200, true}, "passed weakly": {429, true}, "answered": {403, true}, "failed": {503, false}, "no answer": {0, false}} {
		for _, conn := range []net.Conn{nil, addressed{ip: 1}} {
			transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if trace := httptrace.ContextClientTrace(req.Context()); assert.NotNil(t, trace) {
					trace.GotConn(httptrace.GotConnInfo{Conn: conn})
				}
				if row.status == 0 {
					return nil, io.EOF
				}
				resp := replyWith(row.status, `{"OrganizationId":"00000000-0000-0000-0000-000000000002"}`, "OData-Version", "4.0", "Content-Type", "application/json")
				resp.Request = req
				return resp, nil
			}), Config{ProbeInterval: -1})
			_ = transport.runProbe(t.Context(), Primary)
			assert.Equal(t, row.seen && conn != nil, len(transport.endpoints[Primary].addresses.seen) == 1, name)
			if row.seen && conn != nil {
				conn = addressed{ip: 9}
				p := transport.probe(t.Context(), Primary)
				assert.Equal(t, " (192.0.2.1 before, 192.0.2.9 now)", p.moved)
			}
		}
	}
}

// addressed is a connection to 192.0.2.x.
type addressed struct {
	net.Conn
	ip byte
}

func (a addressed) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, a.ip), Port: 443}
}

// The requests of a probe carry the credentials of Authorize, or else those of a request,
// unless the probe sets its own.
func TestTheCredentialsOfProbes(t *testing.T) {
	t.Parallel()
	refused := errors.New("no token")
	for name, row := range map[string]struct {
		authorize func(*http.Request) error
		lent, own string
		want      []string
	}{
		"none":      {nil, "", "", nil},
		"lent":      {nil, "Bearer lent", "", []string{"Bearer lent"}},
		"own":       {nil, "Bearer lent", "Bearer own", []string{"Bearer own"}},
		"authorize": {func(req *http.Request) error { req.Header.Set("Authorization", "Bearer new"); return nil }, "Bearer lent", "", []string{"Bearer new"}},
		"refused":   {func(*http.Request) error { return refused }, "Bearer lent", "", nil},
	} {
		sent, body := 0, &countingBody{Reader: strings.NewReader("x")}
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			sent++
			assert.Equal(t, row.want, req.Header["Authorization"], name)
			closeBody(req)
			resp := replyWith(401, "")
			resp.Request = req
			return resp, nil
		}), Config{ProbeInterval: -1, Authorize: row.authorize, Probe: func(ctx context.Context, client *http.Client, u *url.URL) error {
			req, err := http.NewRequestWithContext(ctx, "POST", u.String(), body)
			assert.NoError(t, err)
			if row.own != "" {
				req.Header.Set("Authorization", row.own)
			}
			resp, err := client.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			return err
		}})
		transport.credentials.offer(headerWith("Authorization", row.lent), true)
		err := transport.runProbe(t.Context(), Alternate)
		assert.Equal(t, 1, body.closed, name)
		if name == "refused" {
			var f *Fault
			require.ErrorAs(t, err, &f)
			assert.Equal(t, "auth, request not sent: authorize: no token", f.Error())
			assert.ErrorIs(t, err, refused)
			assert.Zero(t, sent)
			continue
		}
		assert.NoError(t, err, name)
		assert.Equal(t, 1, sent, name)
		if row.lent != "" {
			assert.Equal(t, [2]bool{Alternate: name == "lent"}, transport.credentials.kept[0].rejected, "%s: only what was sent was rejected", name)
		}
	}
}

// While down, a new credential makes the probes try at once. With Authorize, none is kept.
func TestWhatLendingDoes(t *testing.T) {
	t.Parallel()
	for _, down := range []bool{false, true} {
		for _, authorize := range []func(*http.Request) error{nil, func(*http.Request) error { return nil }} {
			transport := newTestTransport(t, new(closings), Config{ProbeInterval: -1, Authorize: authorize})
			transport.rule.Down = down
			for i, isNew := range []bool{true, false} {
				transport.demanded = false
				transport.lend(headerWith("Authorization", "Bearer x"), i == 1)
				assert.Equal(t, down && isNew && authorize == nil, transport.demanded)
				assert.Equal(t, authorize == nil, len(transport.credentials.kept) == 1)
			}
			transport.rule.Down = false
		}
	}
}

// A fleet's record may name an endpoint that the organization does not have here.
func TestAnEndpointThatIsNotThereIsNotProbed(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, new(closings), Config{Alternate: NoAlternate})
	assert.Equal(t, errNoAlternate, transport.runProbe(t.Context(), Alternate))
	assert.Zero(t, transport.Status().Alternate.LastProbe)
}
