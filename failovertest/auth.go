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
// organization accepts its own tokens for any of its names, at all of its
// datacenters: see [Datacenter.AcceptAudiences]. Tokens do not expire.
func (o *Org) Token(host string) string {
	aud := "https://" + strings.ToLower(host)
	return base64.RawURLEncoding.EncodeToString([]byte(aud)) + "." + o.sign(aud)
}

// Authorize sets the Authorization header of req to a token for the host in its URL. It
// returns an error if that is not a host of the organization.
func (o *Org) Authorize(req *http.Request) error {
	host := req.URL.Hostname()
	if !o.has(host) {
		return errors.New("failovertest: no token for a host outside the organization")
	}
	req.Header.Set("Authorization", "Bearer "+o.Token(host))
	return nil
}

// has reports whether host, without a port, is a name of the organization.
func (o *Org) has(host string) bool {
	return slices.ContainsFunc(o.all, func(d *Datacenter) bool { return d.answersTo(host) })
}

// AcceptAudiences makes the datacenter accept only tokens for "https://" + one of the hosts,
// and answer others like a request without a token. Without hosts it accepts the
// organization's tokens for any of its names again, which is the default.
//
// Microsoft does not document what a datacenter accepts after a failover: test with an
// alternate that accepts only its own name, and with one that accepts only the primary's.
func (d *Datacenter) AcceptAudiences(hosts ...string) {
	var audiences []string
	for _, host := range hosts {
		audiences = append(audiences, "https://"+strings.ToLower(host))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.audiences = audiences
}

// authorized reports whether the request has a token that the datacenter accepts, or needs
// none.
func (d *Datacenter) authorized(r *request) bool {
	if d.org.cfg.Anonymous {
		return true
	}
	aud, ok := d.org.audience(r.header)
	d.mu.Lock()
	defer d.mu.Unlock()
	return ok && (len(d.audiences) == 0 || slices.Contains(d.audiences, aud))
}

func (o *Org) sign(aud string) string {
	mac := hmac.New(sha256.New, o.key)
	mac.Write([]byte(aud))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// audience returns the audience of the header's token if it is one of the
// organization's.
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
	if !ok || !o.has(host) {
		return "", false
	}
	return string(aud), true
}

// challenge is the answer to a request without a valid token: RFC 6750, section 3, with
// Dataverse's parameters. resource_id is the datacenter's host without the label "api".
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
