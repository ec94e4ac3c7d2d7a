package dr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/signin"
)

// The two APIs that the client reads, and the audiences of their tokens.
const (
	platformURL      = "https://api.powerplatform.com"
	platformAudience = "https://api.powerplatform.com"
	platformVersion  = "2024-10-01"

	// The older API is the only one known to say whether disaster recovery is on.
	bapURL      = "https://api.bap.microsoft.com"
	bapAudience = "https://service.powerapps.com"
	bapVersion  = "2021-04-01"
)

// A Client reads Microsoft's administration APIs. It sends only GETs. It is safe for
// concurrent use.
type Client struct {
	transport http.RoundTripper
	source    signin.Source
}

// NewClient returns a Client that uses transport and the tokens of source.
func NewClient(transport http.RoundTripper, source signin.Source) *Client {
	return &Client{transport, source}
}

// Environment describes an environment. Fields that the API does not return are empty.
type Environment struct {
	ID          string `json:"id,omitempty"`
	DisplayName string `json:"displayName,omitempty"`
	Type        string `json:"type,omitempty"`
	URL         string `json:"url,omitempty"`
	DomainName  string `json:"domainName,omitempty"`
	AzureRegion string `json:"azureRegion,omitempty"`
	Geo         string `json:"geo,omitempty"`
	State       string `json:"state,omitempty"`
	AdminMode   string `json:"adminMode,omitempty"`
	DataverseID string `json:"dataverseId,omitempty"`
	FinOps      *struct {
		URL string `json:"url,omitempty"`
	} `json:"finOpsMetadata,omitempty"`
}

// An Operation is an operation on an environment, under way or ended.
type Operation struct {
	ID        string     `json:"operationId,omitempty"`
	Name      string     `json:"name"`
	Status    string     `json:"status"`
	StartTime *time.Time `json:"startTime,omitempty"`
	EndTime   *time.Time `json:"endTime,omitempty"`
	Stages    []Stage    `json:"stageStatuses,omitempty"`
}

// A Stage is a step of an [Operation].
type Stage struct {
	Name      string     `json:"name"`
	Status    string     `json:"status"`
	StartTime *time.Time `json:"startTime,omitempty"`
	EndTime   *time.Time `json:"endTime,omitempty"`
}

// Running reports whether the operation has not ended.
func (o *Operation) Running() bool { return o.Status == "InProgress" || o.Status == "Queued" }

// Environment returns the description of an environment.
func (c *Client) Environment(ctx context.Context, id string) (Environment, error) {
	var e struct {
		Environment
		AdminMode any `json:"adminMode"` // documented as a word, seen as a boolean
	}
	err := c.platform(ctx, &e, nil, "environmentmanagement", "environments", id)
	if e.AdminMode != nil {
		e.Environment.AdminMode = fmt.Sprint(e.AdminMode)
	}
	return e.Environment, err
}

// LastSync returns the time up to which the other region has all data. The API can take
// minutes to answer.
func (c *Client) LastSync(ctx context.Context, id string) (time.Time, error) {
	var snapshot struct {
		LastSyncTime *time.Time `json:"lastSyncTime"`
	}
	if err := c.platform(ctx, &snapshot, nil, "environmentmanagement", "environments", id, "businessContinuityStateFullSnapshot"); err != nil {
		return time.Time{}, err
	}
	if snapshot.LastSyncTime == nil {
		return time.Time{}, errors.New("the answer has no time")
	}
	return *snapshot.LastSyncTime, nil
}

// Operations returns the newest operations of an environment, newest first. It reads the
// stages of those that are under way or have ended since the given time separately, because
// the list does not always have them.
func (c *Client) Operations(ctx context.Context, id string, limit int, since time.Time) ([]Operation, error) {
	var page struct{ Collection, Value []Operation }
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if err := c.platform(ctx, &page, query, "environmentmanagement", "environments", id, "operations"); err != nil {
		return nil, err
	}
	list := append(page.Collection, page.Value...)
	slices.SortStableFunc(list, func(a, b Operation) int { return at(b.StartTime).Compare(at(a.StartTime)) })
	list = list[:min(limit, len(list))]
	for i, o := range list {
		if o.ID == "" || len(o.Stages) > 0 || !o.Running() && at(o.EndTime).Before(since) {
			continue
		}
		var whole Operation
		if err := c.platform(ctx, &whole, nil, "environmentmanagement", "operations", o.ID); err == nil && whole.Name != "" {
			list[i] = whole
		}
	}
	return list, nil
}

func at(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// Enabled returns whether disaster recovery is on, as the API says it: "Enabled" and "Disabled"
// are the known values.
func (c *Client) Enabled(ctx context.Context, id string) (string, error) {
	var e struct {
		Properties struct {
			States struct {
				DisasterRecovery struct {
					ID string `json:"id"`
				} `json:"disasterRecovery"`
			} `json:"states"`
		} `json:"properties"`
	}
	address, _ := url.Parse(bapURL)
	address = address.JoinPath("providers/Microsoft.BusinessAppPlatform/scopes/admin/environments", url.PathEscape(id))
	address.RawQuery = url.Values{"api-version": {bapVersion}}.Encode()
	if err := c.get(ctx, &e, bapAudience, address); err != nil {
		return "", err
	}
	if e.Properties.States.DisasterRecovery.ID == "" {
		return "", errors.New("the answer does not say")
	}
	return e.Properties.States.DisasterRecovery.ID, nil
}

func (c *Client) platform(ctx context.Context, into any, query url.Values, path ...string) error {
	address, _ := url.Parse(platformURL)
	for i, segment := range path {
		path[i] = url.PathEscape(segment)
	}
	address = address.JoinPath(path...)
	if query == nil {
		query = url.Values{}
	}
	query.Set("api-version", platformVersion)
	address.RawQuery = query.Encode()
	return c.get(ctx, into, platformAudience, address)
}

// maxBody is the maximum size of an answer.
const maxBody = 4 << 20

// An apiError is an answer other than 200. Its text says what to do.
type apiError struct {
	status int
	code   string
}

func (e *apiError) Error() string {
	text := fmt.Sprintf("the API answered %d", e.status)
	if e.code != "" {
		text += " (" + e.code + ")"
	}
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		text += ": the caller needs the permission EnvironmentManagement.Environments.Read"
	case http.StatusNotFound:
		text += ": there is no environment with this ID that the caller may see"
	case http.StatusTooManyRequests:
		text += ": too many requests, try again later"
	}
	return text
}

func (c *Client) get(ctx context.Context, into any, audience string, address *url.URL) error {
	if c.source == nil {
		return errors.New("not signed in")
	}
	token, err := c.source(ctx, audience)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return errors.New("the ID is invalid")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.transport.RoundTrip(req) // no redirects: they could lead elsewhere with the token
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("no answer in time")
	case err != nil:
		return fmt.Errorf("no answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return errors.New("the answer was cut off")
	}
	if resp.StatusCode != http.StatusOK {
		return &apiError{resp.StatusCode, errorCode(body)}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return errors.New("the answer is not in the documented form")
	}
	return nil
}

// errorCode returns the code of an error body, if it is a word.
func errorCode(body []byte) string {
	var e struct {
		Code  string
		Error struct{ Code string }
	}
	_ = json.Unmarshal(body, &e) // no code if it is not JSON
	code := e.Error.Code
	if code == "" {
		code = e.Code
	}
	for _, c := range code {
		if len(code) > 60 || (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return ""
		}
	}
	return code
}
