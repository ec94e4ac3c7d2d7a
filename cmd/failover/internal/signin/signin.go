// Package signin gets tokens for the subcommands.
package signin

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// TokenVariable names the environment variable with the token of "-sign-in token".
const TokenVariable = "FAILOVER_TOKEN"

// A Source returns a token for an audience, such as "https://contoso.crm4.dynamics.com". It
// is called concurrently. A nil Source means that the user does not sign in.
type Source func(ctx context.Context, audience string) (string, error)

// Usage describes the flag -sign-in, whose value is the argument of [New].
const Usage = "`how` to get tokens: \"default\" like the Azure SDK (environment, workload identity, managed identity, " +
	"az login, azd), \"token\" from the environment variable " + TokenVariable + ", or \"none\""

// Flag adds the flag -sign-in.
func Flag(flags *flag.FlagSet) *string { return flags.String("sign-in", "default", Usage) }

// New returns the Source for a value of the flag -sign-in. The host of the organization
// determines the cloud. New sends nothing.
func New(how, host string) (Source, error) {
	switch how {
	case "none":
		return nil, nil
	case "token":
		token := strings.TrimSpace(strings.TrimPrefix(os.Getenv(TokenVariable), "Bearer "))
		if token == "" {
			return nil, errors.New("-sign-in token: the environment variable " + TokenVariable + " is empty")
		}
		return func(context.Context, string) (string, error) {
			if end := claimsOf(token).Exp; end > 0 && time.Now().After(time.Unix(end, 0)) {
				return "", errors.New("the token in " + TokenVariable + " has expired")
			}
			return token, nil
		}, nil
	case "default":
		options := &azidentity.DefaultAzureCredentialOptions{}
		if os.Getenv("AZURE_AUTHORITY_HOST") == "" {
			options.Cloud = cloudOf(host)
		}
		credential, err := azidentity.NewDefaultAzureCredential(options)
		if err != nil {
			return nil, errors.New(cause(err))
		}
		return fromCredential(credential), nil
	}
	return nil, fmt.Errorf("-sign-in %s: must be default, token or none", how)
}

// timeout bounds one request for a token. Managed identities and the Azure CLI can take
// seconds.
const timeout = 30 * time.Second

func fromCredential(credential azcore.TokenCredential) Source {
	c := &cache{kept: make(map[string]*kept), get: func(ctx context.Context, audience string) (azcore.AccessToken, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{audience + "/.default"}})
		if err != nil {
			return azcore.AccessToken{}, errors.New(cause(err))
		}
		return token, nil
	}}
	return c.token
}

// cloudOf returns the cloud that an organization of this host signs in to.
func cloudOf(host string) cloud.Configuration {
	switch {
	case strings.HasSuffix(host, ".us"):
		return cloud.AzureGovernment
	case strings.HasSuffix(host, ".cn"):
		return cloud.AzureChina
	}
	return cloud.AzurePublic
}

// cause describes an error in one line. Of an answer of the sign-in service, it holds only the
// status and the error code.
func cause(err error) string {
	var azure *azidentity.AuthenticationFailedError
	if errors.As(err, &azure) && azure.RawResponse != nil {
		text := fmt.Sprintf("the sign-in service answered %d", azure.RawResponse.StatusCode)
		if code := entraCode(azure.Error()); code != "" {
			text += " (" + code + ")"
		}
		return text
	}
	var outer *url.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no token within %v", timeout)
	case errors.As(err, &outer):
		return "the sign-in service cannot be reached: " + outer.Err.Error()
	}
	return "no credential found: run \"az login\", or set AZURE_TENANT_ID, AZURE_CLIENT_ID and " +
		"AZURE_CLIENT_SECRET, or use -sign-in none"
}

// entraCode finds the error code of Entra ID, such as AADSTS500011.
func entraCode(text string) string {
	_, rest, found := strings.Cut(text, "AADSTS")
	if !found {
		return ""
	}
	n := 0
	for n < len(rest) && n < 10 && '0' <= rest[n] && rest[n] <= '9' {
		n++
	}
	return "AADSTS" + rest[:n]
}

// Audience returns the audience that a token names, "" if it names none. It does not verify
// the token.
func Audience(token string) string { return strings.TrimRight(claimsOf(token).Aud, "/") }

// claims are the claims of a token that are used.
type claims struct {
	Aud string `json:"aud"`
	Exp int64  `json:"exp"` // seconds since 1970
}

func claimsOf(token string) (c claims) {
	if parts := strings.Split(token, "."); len(parts) == 3 {
		if payload, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			_ = json.Unmarshal(payload, &c) // no claims if it is not JSON
		}
	}
	return c
}

// AudienceOf returns the audience of tokens for an address: the address without the label
// api, which Dataverse has in the names of its services.
func AudienceOf(endpoint *url.URL) string {
	organization, domain, _ := strings.Cut(endpoint.Host, ".")
	if rest, ok := strings.CutPrefix(domain, "api."); ok && strings.Contains(domain, ".crm") {
		return endpoint.Scheme + "://" + organization + "." + rest
	}
	return endpoint.Scheme + "://" + endpoint.Host
}

// Asked returns the audience that a Bearer challenge asks for, "" if it names none. Dataverse
// does not quote it.
func Asked(challenges []string) string {
	for _, challenge := range challenges {
		scheme, parameters, _ := strings.Cut(strings.TrimSpace(challenge), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			continue
		}
		for parameter := range strings.SplitSeq(parameters, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
			if strings.EqualFold(name, "resource_id") {
				return strings.TrimRight(strings.Trim(value, `"`), "/")
			}
		}
	}
	return ""
}
