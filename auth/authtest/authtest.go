// Package authtest simulates the sign-in service of Microsoft Entra ID for tests, as far as
// applications with a client secret need it: OpenID configuration and the client credentials
// grant, over TLS on the loopback interface. It issues tokens that an organization of package
// failovertest accepts.
package authtest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/d365failover/failover/failovertest"
)

// The one application that the service knows.
const (
	tenant   = "9f2c7b1e-4d3a-4c58-8e61-0b7d5a2f9c34"
	clientID = "5d0e8a96-71c2-4b0f-a3d7-6c1f2e9b8d40"
	// Secret is the client secret of the application.
	Secret = "hunter2-of-contoso"
)

// Lifetime is the lifetime of tokens according to the service. The organization accepts them
// for longer.
const Lifetime = time.Hour

// Service is a simulated sign-in service. It is safe for concurrent use.
type Service struct {
	org    *failovertest.Org
	server *httptest.Server

	mu      sync.Mutex
	asked   []string        // scopes, in the order of the requests
	unknown map[string]bool // scopes that the service rejects
	closed  bool
}

// Start starts the sign-in service of org. Call Close when done.
func Start(org *failovertest.Org) *Service {
	s := &Service{org: org, unknown: make(map[string]bool)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /"+tenant+"/v2.0/.well-known/openid-configuration", s.configuration)
	mux.HandleFunc("POST /"+tenant+"/oauth2/v2.0/token", s.token)
	s.server = httptest.NewUnstartedServer(mux)
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that Close cuts off
	s.server.StartTLS()
	return s
}

// Close makes the service unreachable. Closing again does nothing.
func (s *Service) Close() {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if !closed {
		s.server.Close()
	}
}

// Refuse makes the service reject requests for a scope, as if it did not know the resource.
func (s *Service) Refuse(scope string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unknown[scope] = true
}

// Asked returns the scopes of all requests for tokens, oldest first.
func (s *Service) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

// Client returns a client that reaches the service.
func (s *Service) Client() *http.Client { return s.server.Client() }

// Credential returns a new credential of azidentity that signs in to the service.
func (s *Service) Credential() (azcore.TokenCredential, error) {
	return azidentity.NewClientSecretCredential(tenant, clientID, Secret, &azidentity.ClientSecretCredentialOptions{
		ClientOptions: policy.ClientOptions{
			Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: s.server.URL},
			Transport: s.Client(),
			Retry:     policy.RetryOptions{MaxRetries: -1}, // tests do not wait
		},
		DisableInstanceDiscovery: true,
	})
}

// OAuth2 returns a configuration of golang.org/x/oauth2 that signs in to the service. It has
// no scopes.
func (s *Service) OAuth2() *clientcredentials.Config {
	return &clientcredentials.Config{
		ClientID: clientID, ClientSecret: Secret, AuthStyle: oauth2.AuthStyleInParams,
		TokenURL: s.server.URL + "/" + tenant + "/oauth2/v2.0/token",
	}
}

func (s *Service) configuration(w http.ResponseWriter, _ *http.Request) {
	base := s.server.URL + "/" + tenant
	answer(w, http.StatusOK, map[string]any{
		"issuer":                 base + "/v2.0",
		"authorization_endpoint": base + "/oauth2/v2.0/authorize",
		"token_endpoint":         base + "/oauth2/v2.0/token",
	})
}

func (s *Service) token(w http.ResponseWriter, r *http.Request) {
	if r.ParseForm() != nil {
		return // the caller gave up
	}
	// MSAL adds scopes of its own that mean nothing to applications.
	scope := ""
	for word := range strings.FieldsSeq(r.FormValue("scope")) {
		if strings.HasSuffix(word, "/.default") {
			scope = word
		}
	}
	s.mu.Lock()
	s.asked = append(s.asked, scope)
	unknown := s.unknown[scope]
	s.mu.Unlock()
	host, ok := strings.CutPrefix(strings.TrimSuffix(scope, "/.default"), "https://")
	switch {
	case r.FormValue("client_id") != clientID || r.FormValue("client_secret") != Secret:
		answer(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client", "error_description": "wrong secret"})
	case !ok || unknown:
		answer(w, http.StatusBadRequest, map[string]any{
			"error": "invalid_resource", "error_description": "The resource principal named " + scope + " was not found."})
	default:
		answer(w, http.StatusOK, map[string]any{
			"token_type": "Bearer", "expires_in": int(Lifetime / time.Second), "access_token": s.org.Token(host)})
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// Demand makes a datacenter reject tokens for any other audience with the challenge of
// Dataverse, until [failovertest.Datacenter.Heal].
func Demand(d *failovertest.Datacenter, audience string) {
	d.FailWhen(func(r *http.Request) bool { return Audience(r.Header) != audience },
		failovertest.Status(http.StatusUnauthorized, http.Header{"WWW-Authenticate": {fmt.Sprintf(
			"Bearer authorization_uri=https://login.microsoftonline.com/%s/oauth2/authorize, resource_id=%s/", tenant, audience)}}, ""))
}

// Audience returns the audience of a request's token, "" if it has none.
func Audience(h http.Header) string {
	token := strings.TrimPrefix(h.Get("Authorization"), "Bearer ")
	encoded, _, _ := strings.Cut(token, ".")
	audience, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return ""
	}
	return string(audience)
}
