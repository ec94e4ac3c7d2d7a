package main

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"time"

	"github.com/d365failover/failover"
)

const (
	// callTimeout bounds one request, including everything that the Transport does for it:
	// attempts, probes, a switch.
	callTimeout = time.Minute
	// maxTries bounds how often the Client sends a request that is throttled, and how often
	// it repeats an update that conflicts with another one.
	maxTries = 5
)

// Client reads and writes accounts through the Dataverse Web API. It is an ordinary client with the
// usual duties: paging, ETags, throttling. The transport of its http.Client decides which
// datacenter answers; the only line here that is about failovers is in [Client.Create].
//
// A Client is safe for concurrent use.
type Client struct {
	HTTP *http.Client
	// Root is the URL of the service root, such as
	// "https://contoso.api.crm.dynamics.com/api/data/v9.2/".
	Root string
	// OnCall, if set, is called after every request.
	OnCall func(Call)
}

// Call is one HTTP request.
type Call struct {
	Method string
	Host   string // that answered or was tried last, "" if there was none
	Took   time.Duration
}

// Account is a record of the entity set "accounts".
type Account struct {
	ID          string `json:"accountid,omitempty"`
	Name        string `json:"name,omitempty"`
	Description string `json:"description,omitempty"`
	// ETag is the version of the record when it was read.
	ETag string `json:"@odata.etag,omitempty"`
}

// APIError is an answer of the Web API with a status other than 2xx.
type APIError struct {
	Status        int
	Code, Message string // of the OData error, "" if there was none
}

func (e *APIError) Error() string {
	return fmt.Sprintf("status %d %s %s", e.Status, e.Code, e.Message)
}

// isStatus reports whether err is an answer with the status.
func isStatus(err error, status int) bool {
	var e *APIError
	return errors.As(err, &e) && e.Status == status
}

// Accounts iterates over all accounts in the order of the server, and reads a page at a time. An
// error ends the sequence.
//
// The link to the next page is absolute and names the endpoint that returned it. Accounts requests
// it unchanged: the transport sends it to the endpoint that serves by then, so a failover in the
// middle of a list does not break the list.
func (c *Client) Accounts(ctx context.Context, pageSize int) iter.Seq2[Account, error] {
	return func(yield func(Account, error) bool) {
		prefer := http.Header{"Prefer": {"odata.maxpagesize=" + strconv.Itoa(pageSize)}}
		next := c.Root + "accounts?$select=name,description"
		for next != "" {
			var page struct {
				Value    []Account `json:"value"`
				NextLink string    `json:"@odata.nextLink"`
			}
			if err := c.do(ctx, http.MethodGet, next, prefer, nil, &page); err != nil {
				yield(Account{}, err)
				return
			}
			for _, account := range page.Value {
				if !yield(account, nil) {
					return
				}
			}
			next = page.NextLink
		}
	}
}

// Account reads one account.
func (c *Client) Account(ctx context.Context, id string) (Account, error) {
	var account Account
	err := c.do(ctx, http.MethodGet, c.address(id)+"?$select=name,description", nil, nil, &account)
	return account, err
}

// Create creates an account. Its ID must be set; see [NewID].
//
// If the answer to a POST is lost, nobody knows whether it was carried out, and the transport does
// not send it again by itself. Here it may ([failover.WithReplay]), because the client sets the ID:
// the service rejects a second record with the same ID, which proves that the first request was
// carried out.
func (c *Client) Create(ctx context.Context, account Account) error {
	err := c.do(failover.WithReplay(ctx), http.MethodPost, c.Root+"accounts", nil, account, nil)
	if isStatus(err, http.StatusPreconditionFailed) {
		return nil
	}
	return err
}

// Update reads an account, calls change to set fields of it, and writes it back on the condition
// that nobody else has written it meanwhile (If-Match). If somebody has, the server answers 412,
// and Update starts over: it may call change several times, each time with the latest state.
//
// The condition also makes the request safe to repeat, so the transport does that if an answer is
// lost.
func (c *Client) Update(ctx context.Context, id string, change func(*Account)) error {
	var err error
	for range maxTries {
		var account Account
		if account, err = c.Account(ctx, id); err != nil {
			return err
		}
		change(&account)
		err = c.do(ctx, http.MethodPatch, c.address(id), http.Header{"If-Match": {account.ETag}},
			Account{Name: account.Name, Description: account.Description}, nil)
		if !isStatus(err, http.StatusPreconditionFailed) {
			return err
		}
		// A pause of random length, so that two updates do not conflict again.
		if err := sleep(ctx, rand.N(100*time.Millisecond)); err != nil {
			return err
		}
	}
	return err
}

// Delete deletes an account. It returns nil if the account does not exist.
func (c *Client) Delete(ctx context.Context, id string) error {
	err := c.do(ctx, http.MethodDelete, c.address(id), nil, nil, nil)
	if isStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}

func (c *Client) address(id string) string { return c.Root + "accounts(" + id + ")" }

// do sends a request with in, if not nil, as its JSON body, and decodes the answer into out, if not
// nil. It tries again after a wait if the request is throttled, and at once if the answer to a read
// breaks off, because the transport has already returned the response by then.
func (c *Client) do(ctx context.Context, method, target string, header http.Header, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	for try := 1; ; try++ {
		resp, answer, err := c.send(ctx, method, target, header, body)
		var wait time.Duration
		switch {
		case resp == nil:
			return err
		case resp.StatusCode == http.StatusTooManyRequests && try < maxTries:
			// With Config.RetryThrottled, the transport does this for short waits.
			wait = retryAfter(resp.Header)
		case err != nil && method == http.MethodGet && try < maxTries:
		case err != nil:
			return err
		case resp.StatusCode > 299:
			return apiError(resp.StatusCode, answer)
		case out != nil:
			return json.Unmarshal(answer, out)
		default:
			return nil
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// sleep waits for d, or returns the error of ctx if that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send sends a request once and reads the answer to its end.
func (c *Client) send(ctx context.Context, method, target string, header http.Header, body []byte) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	call, start := Call{Method: method}, time.Now()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(addr string) { call.Host, _, _ = net.SplitHostPort(addr) },
	})
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("OData-Version", "4.0")
	req.Header.Set("OData-MaxVersion", "4.0")
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.OnCall != nil {
		defer func() {
			call.Took = time.Since(start)
			c.OnCall(call)
		}()
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		// The *url.Error around it quotes the query; the inner error does not.
		var outer *url.Error
		if errors.As(err, &outer) {
			err = outer.Err
		}
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp, answer, err
}

// retryAfter returns the wait that an answer asks for, in seconds or by a date (RFC 9110, section
// 10.2.3), or a second if it does not say.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil && seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(time.Until(date), time.Second)
	}
	return time.Second
}

// apiError reads the OData error of an answer.
func apiError(status int, answer []byte) error {
	var body struct {
		Error struct{ Code, Message string }
	}
	// If the answer is not JSON, the status must do.
	_ = json.Unmarshal(answer, &body)
	return &APIError{Status: status, Code: body.Error.Code, Message: body.Error.Message}
}

// NewID returns a random id for a new record.
func NewID() string {
	var b [16]byte
	crand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40 // version and variant of RFC 9562
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
