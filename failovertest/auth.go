package failovertest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Token returns a bearer token for the audience "https://" + host. The
// organization accepts its own tokens for any of the names of its two
// datacenters, at either of them. Tokens do not expire.
func (o *Org) Token(host string) string {
	aud := "https://" + strings.ToLower(host)
	return base64.RawURLEncoding.EncodeToString([]byte(aud)) + "." + o.sign(aud)
}

// Authorize sets the Authorization header of req to a token for the host in
// its URL. It fails if that is not a host of the organization.
func (o *Org) Authorize(req *http.Request) error {
	host := req.URL.Hostname()
	if !o.primary.answersTo(host) && !o.alternate.answersTo(host) {
		return errors.New("failovertest: no token for a host outside the organization")
	}
	req.Header.Set("Authorization", "Bearer "+o.Token(host))
	return nil
}

func (o *Org) sign(aud string) string {
	mac := hmac.New(sha256.New, o.key)
	mac.Write([]byte(aud))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// audience returns the audience of the header's token if the organization
// accepts it.
func (o *Org) audience(h http.Header) (string, bool) {
	token, ok := strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	if !ok {
		return "", false
	}
	encoded, signature, _ := strings.Cut(token, ".")
	aud, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || !hmac.Equal([]byte(signature), []byte(o.sign(string(aud)))) {
		return "", false
	}
	host, ok := strings.CutPrefix(string(aud), "https://")
	if !ok || !slices.Contains(slices.Concat(o.primary.hosts, o.alternate.hosts), host) {
		return "", false
	}
	return string(aud), true
}

// challenge is the answer to a request without a valid token: RFC 6750
// section 3 with the parameters Dataverse adds. resource_id names the
// addressed host without its ".api" label.
func (d *Datacenter) challenge() *answer {
	resource := d.hosts[0]
	org, domain, _ := strings.Cut(resource, ".")
	if rest, ok := strings.CutPrefix(domain, "api."); ok {
		resource = org + "." + rest
	}
	a := newAnswer(http.StatusUnauthorized, "text/html", []byte("HTTP Error 401 - Unauthorized: Access is denied"))
	a.header.Set("WWW-Authenticate", fmt.Sprintf("Bearer authorization_uri="+
		"https://login.microsoftonline.com/%s/oauth2/authorize, resource_id=https://%s/", d.org.id, resource))
	return a
}
