package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"

	"github.com/hooklift/gowsdl/soap"

	"github.com/d365failover/failover"
)

const (
	// servicePath is the path of the organization service for SOAP 1.1.
	servicePath = "/XRMServices/2011/Organization.svc/web"
	// callTimeout bounds one call, including everything that the Transport does for it:
	// attempts, probes, a switch.
	callTimeout = time.Minute
	// maxTries bounds how often a write in doubt is sent.
	maxTries = 3
	// codeDuplicate is the fault of a Create whose id exists (DuplicateRecord).
	codeDuplicate = "0x80040237"
)

// Client reads and writes accounts through the organization service. It uses
// github.com/hooklift/gowsdl, which is widely used, takes any http.Client and a context for every
// call, adds headers to the envelope, and sends bodies that can be sent again
// ([http.Request.GetBody]). That library speaks only SOAP 1.1, so the address of the service is the
// one that ends in /web.
//
// The library knows nothing about failovers and is used unchanged. The Transport of the http.Client
// does the rest:
//
//   - It sends a call to the endpoint that serves, and rewrites the header wsa:To: WCF answers a
//     message that names another host with the fault DestinationUnreachable ("AddressFilter
//     mismatch").
//   - It repeats reads whose answer is lost: Retrieve, RetrieveMultiple, and Execute of requests
//     like WhoAmI. In HTTP all of them are POSTs; the Transport recognizes them by SOAPAction and by
//     the request in the envelope.
//   - It repeats writes only if there is proof that they were not carried out, because the
//     connection was refused or the answer is the fence. A write in doubt fails with
//     [failover.ErrOutcomeUnknown]; see [Client.write].
//
// A Client is safe for concurrent use.
type Client struct {
	// OnCall, if set, is called after every call with its operation, the host that answered
	// or was tried last ("" if there was none), and the duration.
	OnCall func(operation, host string, took time.Duration)
	// OnDoubt, if set, is called for every write in doubt that will be sent again.
	OnDoubt func(operation string)

	soap *soap.Client
}

// NewClient returns a Client for the organization at a URL such as
// "https://contoso.api.crm.dynamics.com".
func NewClient(client *http.Client, orgURL string) *Client {
	address := orgURL + servicePath
	c := soap.NewClient(address, soap.WithHTTPClient(client))
	// SOAP 1.1 does not need the header; clients with WS-Addressing send it.
	c.AddHeader(to{Address: address})
	return &Client{soap: c}
}

// Account is a record of the entity "account".
type Account struct{ ID, Name, Description string }

// Fault is an answer other than a success.
type Fault struct {
	Status int
	// Code is that of the organization service in hexadecimal, such as "0x80040237", or that of
	// WCF, such as "DestinationUnreachable", or "" if the answer is not SOAP.
	Code, Message string
}

func (f *Fault) Error() string { return fmt.Sprintf("status %d %s %s", f.Status, f.Code, f.Message) }

// isFault reports whether err is a fault with the code.
func isFault(err error, code string) bool {
	var f *Fault
	return errors.As(err, &f) && f.Code == code
}

// WhoAmI returns the id of the user who makes the calls.
func (c *Client) WhoAmI(ctx context.Context) (string, error) {
	var response executeResponse
	err := c.call(ctx, "Execute", execute{Request: newRequest("WhoAmI")}, &response)
	return response.Results.text("UserId"), err
}

// Account reads one account.
func (c *Client) Account(ctx context.Context, id string) (Account, error) {
	var response retrieveResponse
	err := c.call(ctx, "Retrieve", retrieve{EntityName: "account", ID: id, ColumnSet: accountColumns}, &response)
	return response.Entity.account(), err
}

// Accounts reads the first accounts, at most count.
func (c *Client) Accounts(ctx context.Context, count int) ([]Account, error) {
	page := pageInfo{Count: count, PageNumber: 1}
	var response retrieveMultipleResponse
	if err := c.call(ctx, "RetrieveMultiple", retrieveMultiple{Query: newQuery("account", accountColumns, page)}, &response); err != nil {
		return nil, err
	}
	var accounts []Account
	for _, e := range response.Entities {
		accounts = append(accounts, e.account())
	}
	return accounts, nil
}

var accountColumns = columnSet{Columns: columns{Names: []name{{"name"}, {"description"}}}}

// Create creates an account. Its ID must be set and new.
func (c *Client) Create(ctx context.Context, account Account) error {
	return c.write(ctx, "Create", create{Entity: newEntity(account)})
}

// Update sets the fields of an account that are not empty. Nobody else may
// update the account at the same time.
func (c *Client) Update(ctx context.Context, account Account) error {
	return c.write(ctx, "Update", update{Entity: newEntity(account)})
}

// write sends a write, and sends it again if its outcome is unknown.
//
// The Transport must not do that, because it cannot know what a second Create does. This program
// can: it sets the ids of its accounts, so the service rejects a second Create as a duplicate, which
// proves that the first was carried out; and nobody else updates its accounts, so a second Update
// changes nothing.
func (c *Client) write(ctx context.Context, operation string, message any) error {
	err := c.call(ctx, operation, message, &struct{}{})
	for try := 1; errors.Is(err, failover.ErrOutcomeUnknown) && ctx.Err() == nil && try < maxTries; try++ {
		if c.OnDoubt != nil {
			c.OnDoubt(operation)
		}
		if err = c.call(ctx, operation, message, &struct{}{}); isFault(err, codeDuplicate) {
			return nil
		}
	}
	return err
}

// call makes a call and decodes the answer into response.
func (c *Client) call(ctx context.Context, operation string, message, response any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var host string
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(addr string) { host, _, _ = net.SplitHostPort(addr) },
	})
	start := time.Now()
	err := c.soap.CallContext(ctx, `"`+actionPrefix+operation+`"`, message, response)
	if c.OnCall != nil {
		c.OnCall(operation, host, time.Since(start))
	}
	// In SOAP 1.1, faults have status 500, which the library treats as an HTTP error.
	var failure *soap.HTTPError
	if errors.As(err, &failure) {
		err = newFault(failure)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return nil
}

// newFault reads the fault in the answer to a failed call.
func newFault(e *soap.HTTPError) *Fault {
	f := &Fault{Status: e.StatusCode}
	var envelope faultEnvelope
	if xml.Unmarshal(e.ResponseBody, &envelope) != nil {
		return f // the page of a front end; the status must do
	}
	f.Message = envelope.Fault.String
	if code := envelope.Fault.ErrorCode; code != 0 {
		f.Code = fmt.Sprintf("0x%08X", uint32(code))
	} else {
		f.Code = envelope.Fault.Code[strings.LastIndex(envelope.Fault.Code, ":")+1:]
	}
	return f
}
