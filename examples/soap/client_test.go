package main

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/hooklift/gowsdl/soap"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// withClient runs a test with a client of a simulated organization, in a synctest bubble.
func withClient(t *testing.T, test func(t *testing.T, org *failovertest.Org, client *Client)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		hc, transport, err := failover.Wrap(nil, org.URL(), &failover.Config{
			Base: org.Transport(), Authorize: org.Authorize, Probe: failover.ProbeWSDL,
			Logger: slog.New(slog.DiscardHandler),
		})
		require.NoError(t, err)
		defer transport.Close()
		test(t, org, NewClient(hc, org.URL()))
	})
}

// redirected returns an http.Client that authorizes requests and sends them to
// a host, and does nothing else for them.
func redirected(org *failovertest.Org, host string) *http.Client {
	base := org.Transport()
	return &http.Client{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
		req = req.Clone(req.Context())
		req.URL.Host, req.Host = host, host
		if err := org.Authorize(req); err != nil {
			return nil, err
		}
		return base.RoundTrip(req)
	})}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// calls returns the SOAP calls that reached a datacenter.
func calls(d *failovertest.Datacenter) []failovertest.Delivery {
	var list []failovertest.Delivery
	for _, delivery := range d.Deliveries() {
		if delivery.Path == servicePath {
			list = append(list, delivery)
		}
	}
	return list
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		ctx := t.Context()
		user, err := client.WhoAmI(ctx)
		require.NoError(t, err)
		assert.NoError(t, uuid.Validate(user))

		want := Account{ID: uuid.NewString(), Name: `Contoso <"&'>`}
		require.NoError(t, client.Create(ctx, want))
		got, err := client.Account(ctx, want.ID)
		require.NoError(t, err)
		assert.Equal(t, want, got)

		want.Description = "renamed"
		require.NoError(t, client.Update(ctx, Account{ID: want.ID, Description: want.Description}))
		got, err = client.Account(ctx, want.ID)
		require.NoError(t, err)
		assert.Equal(t, want, got)

		accounts, err := client.Accounts(ctx, 3)
		require.NoError(t, err)
		require.Len(t, accounts, 3)
		assert.Equal(t, Account{ID: failovertest.SeedID(1), Name: "Account 01"}, accounts[0])
		accounts, err = client.Accounts(ctx, 100)
		require.NoError(t, err)
		assert.Len(t, accounts, 26)
	})
}

func TestTheAlternateRefusesAnEnvelopeForThePrimary(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		_, err := client.WhoAmI(t.Context())
		require.NoError(t, err)
		org.Disaster(failovertest.Refuse())

		// A transport that only changes the host is not enough.
		naive := NewClient(redirected(org, org.Alternate().Host()), org.URL())
		_, err = naive.WhoAmI(t.Context())
		assert.True(t, isFault(err, "DestinationUnreachable"), "%v", err)
		assert.ErrorContains(t, err, "AddressFilter mismatch")

		_, err = client.WhoAmI(t.Context())
		require.NoError(t, err)

		primary, alternate := calls(org.Primary()), calls(org.Alternate())
		require.Len(t, primary, 1)
		require.Len(t, alternate, 2)
		assert.Equal(t, primary[0].BodyHash, alternate[0].BodyHash, "the envelope that was refused is the one the primary takes")
		assert.NotEqual(t, primary[0].BodyHash, alternate[1].BodyHash, "the one that was taken has another wsa:To")
	})
}

func TestTheAlternatesOwnAddressIsTaken(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, _ *Client) {
		client := NewClient(redirected(org, org.Alternate().Host()), org.AlternateURL())
		_, err := client.WhoAmI(t.Context())
		assert.True(t, isFault(err, "0x8004B065"), "the fence: %v", err)
		org.FailOver()
		_, err = client.WhoAmI(t.Context())
		assert.NoError(t, err)
	})
}

func TestReadsAreRepeatedAndWritesAreNot(t *testing.T) {
	t.Parallel()
	account := Account{ID: failovertest.SeedID(1), Description: "new"}
	rows := []struct {
		name, reason string
		call         func(*testing.T, *Client) error
		sent         int
	}{
		{"WhoAmI", "Execute of a request that reads", func(t *testing.T, c *Client) error {
			_, err := c.WhoAmI(t.Context())
			return err
		}, 2},
		{"Retrieve", "an operation that reads", func(t *testing.T, c *Client) error {
			_, err := c.Account(t.Context(), account.ID)
			return err
		}, 2},
		{"RetrieveMultiple", "an operation that reads", func(t *testing.T, c *Client) error {
			_, err := c.Accounts(t.Context(), 5)
			return err
		}, 2},
		{"Create", "a second one might create a second record", func(t *testing.T, c *Client) error {
			return c.call(t.Context(), "Create", create{Entity: newEntity(Account{Name: "Contoso"})}, &struct{}{})
		}, 1},
		{"Update", "a second one might undo somebody else's", func(t *testing.T, c *Client) error {
			return c.call(t.Context(), "Update", update{Entity: newEntity(account)}, &struct{}{})
		}, 1},
	}
	seen := make(map[string]bool)
	for _, row := range rows {
		require.NotEmpty(t, row.reason, "reason of %q", row.name)
		require.False(t, seen[row.name], "%q occurs twice", row.name)
		seen[row.name] = true
		t.Run(row.name, func(t *testing.T) {
			withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
				org.Primary().FailNext(1, failovertest.Reset(failovertest.BeforeAnswer))
				err := row.call(t, client)
				assert.Len(t, calls(org.Primary()), row.sent)
				assert.Empty(t, calls(org.Alternate()))
				if row.sent > 1 {
					assert.NoError(t, err)
				} else {
					assert.ErrorIs(t, err, failover.ErrOutcomeUnknown, "through the SOAP library")
				}
			})
		})
	}
}

func TestAWriteThatWasRefusedIsSentToTheAlternate(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		client.OnDoubt = func(string) { t.Error("there is no doubt") }
		account := Account{ID: uuid.NewString(), Name: "Contoso"}
		org.FailOver() // the primary answers with the fence
		require.NoError(t, client.Create(t.Context(), account))
		_, ok := org.Alternate().Lookup("accounts", account.ID)
		assert.True(t, ok)
		primary, alternate := calls(org.Primary()), calls(org.Alternate())
		require.Len(t, primary, 1)
		assert.False(t, primary[0].Applied)
		require.Len(t, alternate, 1)
		assert.True(t, alternate[0].Applied)
	})
}

func TestACreateInDoubtMakesOneAccount(t *testing.T) {
	t.Parallel()
	for _, moment := range []failovertest.Moment{failovertest.BeforeAnswer, failovertest.AfterApply} {
		t.Run(moment.String(), func(t *testing.T) {
			withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
				var doubts []string
				client.OnDoubt = func(operation string) { doubts = append(doubts, operation) }
				org.Primary().FailNext(1, failovertest.Reset(moment))
				account := Account{ID: uuid.NewString(), Name: "Contoso"}
				require.NoError(t, client.Create(t.Context(), account))
				assert.Equal(t, []string{"Create"}, doubts)
				applied := 0
				for _, call := range calls(org.Primary()) {
					if call.Applied {
						applied++
					}
				}
				assert.Equal(t, 1, applied)
				_, ok := org.Primary().Lookup("accounts", account.ID)
				assert.True(t, ok)
			})
		})
	}
}

func TestAnIDThatIsTakenIsAnError(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		err := client.Create(t.Context(), Account{ID: failovertest.SeedID(1), Name: "Contoso"})
		assert.True(t, isFault(err, codeDuplicate), "%v", err)
	})
}

func TestAWriteThatStaysInDoubtFails(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		org.Primary().FailWhen(func(r *http.Request) bool { return strings.Contains(r.Header.Get("SOAPAction"), "Update") },
			failovertest.Reset(failovertest.BeforeAnswer))
		err := client.Update(t.Context(), Account{ID: failovertest.SeedID(1), Description: "new"})
		assert.ErrorIs(t, err, failover.ErrOutcomeUnknown)
		assert.Len(t, calls(org.Primary()), maxTries)
	})
}

func TestOnCallNamesTheHostThatAnswered(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		var told []string
		client.OnCall = func(operation, host string, _ time.Duration) { told = append(told, operation+" "+host) }
		for range 2 {
			_, err := client.Account(t.Context(), failovertest.SeedID(1))
			require.NoError(t, err)
			org.Disaster(failovertest.Refuse())
		}
		assert.Equal(t, []string{"Retrieve " + org.Primary().Host(), "Retrieve " + org.Alternate().Host()}, told)
	})
}

func TestFaults(t *testing.T) {
	t.Parallel()
	envelope := func(fault string) string {
		return `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault>` + fault + `</s:Fault></s:Body></s:Envelope>`
	}
	rows := []struct {
		name, reason string
		body         string
		want         Fault
	}{
		{"organization", "its code is a signed number", envelope(`<faultcode>s:Client</faultcode><faultstring>gone</faultstring>` +
			`<detail><OrganizationServiceFault xmlns="` + nsContracts + `"><ErrorCode>-2147220969</ErrorCode></OrganizationServiceFault></detail>`),
			Fault{500, "0x80040217", "gone"}},
		{"WCF", "the code is a QName", envelope(`<faultcode>a:ActionNotSupported</faultcode><faultstring>no</faultstring>`), Fault{500, "ActionNotSupported", "no"}},
		{"page", "front ends speak HTML", "<p>Bad gateway<br>", Fault{500, "", ""}},
		{"empty", "some say nothing", "", Fault{500, "", ""}},
	}
	seen := make(map[string]bool)
	for _, row := range rows {
		require.NotEmpty(t, row.reason, "reason of %q", row.name)
		require.False(t, seen[row.name], "%q occurs twice", row.name)
		seen[row.name] = true
		assert.Equal(t, &row.want, newFault(&soap.HTTPError{StatusCode: 500, ResponseBody: []byte(row.body)}), row.name)
	}
}
