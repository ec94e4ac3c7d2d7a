package check

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/console"
)

// level is the severity of a finding.
type level int

const (
	fine    level = iota
	notable       // normal, but worth knowing
	warning       // works, with a drawback
	unclear       // cannot be determined from here, or not now
	broken        // a failover would not work
)

var marks = [...]string{fine: "✓", notable: "·", warning: "!", unclear: "?", broken: "✗"}

// finding is the result of one check of one endpoint.
type finding struct {
	check string
	level level
	text  string // for the table
	mend  string // what to do, a sentence or two; "" for nothing
}

// judgement is the result of all checks of one endpoint.
type judgement struct {
	facts    *Facts
	host     string
	findings []finding
	serves   bool   // it has answered for an organization
	fenced   bool   // it has said that it does not serve now
	absent   bool   // its name does not exist
	id       string // of the organization
}

func (j *judgement) add(check string, l level, text, mend string, args ...any) {
	if mend != "" {
		mend = fmt.Sprintf(mend, args...)
	}
	j.findings = append(j.findings, finding{check, l, text, mend})
}

// limits beyond which a finding is a warning or worse.
const (
	fewDays   = 14
	longTTL   = 5 * time.Minute
	clockWarn = 30 * time.Second
	clockFail = 5 * time.Minute // the tolerance of Entra ID
)

// judge judges the facts about one endpoint. probe is the library's probe timeout.
func judge(f *Facts, probe time.Duration) *judgement {
	j := &judgement{facts: f, host: strings.TrimPrefix(f.URL, "https://")}
	j.name()
	j.proxy()
	j.connection()
	if f.HTTP == nil {
		return j
	}
	if f.HTTP.Error != "" {
		j.add("HTTP", broken, f.HTTP.Error, "%s does not answer requests (%s).", j.host, f.HTTP.Error)
		return j
	}
	j.http(probe)
	j.clock()
	j.who()
	j.audience()
	j.policy()
	return j
}

func (j *judgement) name() {
	n := j.facts.Name
	switch {
	case n.Error != "" && j.facts.Proxy != nil:
		j.add("name", notable, n.Error+" here; the proxy resolves it", "")
		return
	case n.NotFound:
		j.absent = true
		j.add("name", broken, n.Error, "The name %s does not exist in DNS, as seen from this machine. Check the spelling, "+
			"and ask the operators of the name servers here.", j.host)
		return
	case n.Error != "":
		j.add("name", broken, n.Error, "This machine cannot resolve %s (%s). Fix its name servers first.", j.host, n.Error)
		return
	}
	var addresses []string
	for _, a := range n.Addresses {
		addresses = append(addresses, a.String())
	}
	text := strings.Join(addresses, "\n")
	if len(n.Aliases) > 0 {
		text += "\nalias of " + n.Aliases[len(n.Aliases)-1]
		if len(n.Aliases) > 1 {
			text += fmt.Sprintf(" (via %d)", len(n.Aliases)-1)
		}
	}
	if n.TTL == nil {
		text += "\nTTL unknown"
	} else {
		text += fmt.Sprintf("\nTTL %d s", int(*n.TTL))
	}
	switch {
	case n.Pinned:
		j.add("name", broken, text+"\nfixed in the hosts file", "The hosts file of this machine fixes the address of %s, "+
			"which would lead to the old place after the organization has moved. Remove the line.", j.host)
	case n.TTL != nil && *n.TTL > longTTL.Seconds():
		j.add("name", warning, text, "The address of %s may be cached for %d s after the organization has moved. If a name "+
			"server here prolongs the TTL, change that.", j.host, int(*n.TTL))
	default:
		j.add("name", fine, text, "")
	}
}

func (j *judgement) proxy() {
	p := j.facts.Proxy
	switch {
	case p == nil:
		j.add("proxy", fine, "none", "")
	case p.URL == "":
		j.add("proxy", broken, p.Error, "Fix HTTPS_PROXY: it is not a URL.")
	case p.Status == http.StatusProxyAuthRequired:
		j.add("proxy", broken, p.URL+"\nrequires a login (407)", "The proxy %s requires a login to connect to %s. "+
			"Put one into HTTPS_PROXY, or have the proxy allow the host without it.", p.URL, j.host)
	case p.Status >= 300:
		j.add("proxy", broken, fmt.Sprintf("%s\nrefuses (%d)", p.URL, p.Status), "The proxy %s refuses to connect to %s (%d). "+
			"Have it allow port 443 of this host.", p.URL, j.host, p.Status)
	case p.Error != "":
		j.add("proxy", broken, p.URL+"\n"+p.Error, "The proxy %s does not connect to %s (%s).", p.URL, j.host, p.Error)
	default:
		j.add("proxy", fine, p.URL, "")
	}
}

func (j *judgement) connection() {
	t, s := j.facts.TCP, j.facts.TLS
	switch {
	case t == nil:
		return
	case t.Error != "" && j.facts.Proxy != nil:
		j.add("TCP", broken, t.Error, "The proxy %s cannot be reached (%s).", j.facts.Proxy.URL, t.Error)
	case t.Error != "":
		j.add("TCP", broken, t.Error, "Cannot connect to port 443 of %s (%s). If there is a firewall, allow this host, or the "+
			"service tag AzureCloud of both regions.", j.host, t.Error)
	default:
		j.add("TCP", fine, t.Address+"\nin "+seconds(t.Seconds), "")
	}
	if s == nil {
		return
	}
	var chain []string
	for i, c := range s.Chain {
		if i == 0 {
			chain = append(chain, c.Subject)
		}
		if i == len(s.Chain)-1 || i == 0 {
			chain = append(chain, "by "+c.Issuer)
		}
	}
	text := strings.Join(unique(chain), "\n")
	switch {
	case s.Error != "" && len(s.Chain) > 0:
		j.add("TLS", broken, s.Error+"\n"+text+"\nexpires "+s.Chain[0].NotAfter.Format(time.DateOnly),
			"This machine rejects the certificate of %s: %s. %s", j.host, s.Error, certificateAdvice(s))
	case s.Error != "":
		j.add("TLS", broken, s.Error, "The TLS handshake with %s failed (%s). A device in between may interfere.", j.host, s.Error)
	case s.DaysLeft < fewDays:
		j.add("TLS", warning, fmt.Sprintf("%s\n%s\n%d days left", s.Version, text, s.DaysLeft),
			"A certificate of %s expires in %d days. Its issuer must renew it by then.", j.host, s.DaysLeft)
	default:
		j.add("TLS", fine, fmt.Sprintf("%s\n%s\n%d days left", s.Version, text, s.DaysLeft), "")
	}
}

func certificateAdvice(s *TLSFacts) string {
	switch {
	case strings.Contains(s.Error, "authority"):
		return fmt.Sprintf("Its issuer is %q: if that is a device of your own that inspects TLS, exempt this host, or "+
			"trust its authority on this machine.", s.Chain[len(s.Chain)-1].Issuer)
	case strings.Contains(s.Error, "expired"):
		return "Check the clock of this machine first. If it is right, the issuer must renew the certificate."
	}
	return "Check what answers at this address."
}

func (j *judgement) http(probe time.Duration) {
	h := j.facts.HTTP
	text := h.Version
	l, mend := fine, ""
	if h.Version != "HTTP/2.0" {
		l, mend = warning, fmt.Sprintf("%s speaks only %s with this machine. Without HTTP/2, only timeouts reveal a dead "+
			"connection: look for a proxy or device in between that prevents HTTP/2.", j.host, h.Version)
	}
	if n := len(h.RoundTrips); n > 0 {
		median := time.Duration(h.RoundTrips[n/2] * float64(time.Second))
		text += "\nround trip " + console.Duration(median)
		switch {
		case median >= probe:
			l, mend = broken, fmt.Sprintf("%s takes %s to answer. A probe of the library fails after %s: set Config.ProbeTimeout "+
				"to %s or more, and find out why the endpoint is slow.", j.host, console.Duration(median),
				console.Duration(probe), console.Duration((2*median).Round(time.Second)))
		case median >= probe/2:
			l, mend = warning, fmt.Sprintf("%s takes %s to answer, and a probe fails after %s: increase Config.ProbeTimeout.",
				j.host, console.Duration(median), console.Duration(probe))
		}
	}
	j.findings = append(j.findings, finding{"HTTP", l, text, mend})
}

func (j *judgement) clock() {
	c := j.facts.Clock
	if c == nil {
		j.add("clock", notable, "the answer has no Date", "")
		return
	}
	ahead := time.Duration(c.Ahead * float64(time.Second))
	off, text := ahead, "this machine is ahead by "
	if ahead < 0 {
		off, text = -ahead, "this machine is behind by "
	}
	if off <= time.Second {
		j.add("clock", fine, "agrees to the second", "")
		return
	}
	text += console.Duration(off)
	const mend = "The clock of this machine is off by %s. From 5 min on, tokens are rejected: set up NTP."
	switch {
	case off >= clockFail:
		j.add("clock", broken, text, mend, console.Duration(off))
	case off >= clockWarn:
		j.add("clock", warning, text, mend, console.Duration(off))
	default:
		j.add("clock", notable, text, "")
	}
}

func (j *judgement) who() {
	w, a := j.facts.WhoAmI, j.facts.Audience
	signedIn := a.Token != ""
	switch {
	case w.Fenced:
		j.fenced = true
		j.add("WhoAmI", notable, "fence: says that it does not serve the organization now", "")
	case w.Status == http.StatusOK:
		j.serves, j.id = true, w.OrganizationID
		j.add("WhoAmI", fine, cmp.Or(inTwo(w.OrganizationID), "200"), "")
	case w.Status == http.StatusUnauthorized && !signedIn:
		j.add("WhoAmI", unclear, "401: requires a token", "Sign in, so that %s can be asked which organization it serves: %s.",
			j.host, cmp.Or(a.Error, "omit -sign-in none"))
	case w.Status == http.StatusUnauthorized:
		j.add("WhoAmI", broken, "401: rejects the token", "%s", j.refused())
	case w.Status == http.StatusForbidden:
		j.add("WhoAmI", broken, "403: rejects this caller", "%s rejects this caller (403). Add it as an application user of the "+
			"organization, and check the rules of its IP firewall for both regions.", j.host)
	case w.Status == http.StatusTooManyRequests:
		j.add("WhoAmI", unclear, "429: too many requests", "%s throttles this caller. Try again later.", j.host)
	case w.Error != "":
		j.add("WhoAmI", unclear, w.Error, "%s fails at the moment (%s). Check again once it has recovered.", j.host, w.Error)
	default:
		j.add("WhoAmI", unclear, fmt.Sprintf("answers %d", w.Status), "%s answers %d, which says nothing about an organization.",
			j.host, w.Status)
	}
}

// refused says what to do about a rejected token.
func (j *judgement) refused() string {
	a := j.facts.Audience
	if a.Asked != "" && a.Asked != a.Token {
		return fmt.Sprintf("%s requires tokens for %s, but this one is for %s: after a failover, every request would get 401. "+
			"Request a token for the host of each request.", j.host, hostOf(a.Asked), hostOf(a.Token))
	}
	return fmt.Sprintf("%s rejects the token although the audience is right: check the tenant, and that the application is a user "+
		"of the organization.", j.host)
}

func (j *judgement) audience() {
	a := j.facts.Audience
	asked := cmp.Or(hostOf(a.Asked), "does not say")
	switch {
	case a.Instead != "":
		j.add("audience", warning, "asks for "+asked+"\nrejected "+hostOf(a.Token), "%s accepts only tokens for %s, not for its own "+
			"address: set Config.Audiences of package auth, or change how your program requests tokens.", j.host, hostOf(a.Instead))
	case a.Error != "" && a.Token != "" && (j.serves || j.fenced):
		j.add("audience", warning, "accepts "+hostOf(a.Token)+"\nno token for its own address: "+a.Error, "The sign-in service issues no "+
			"tokens for %s (%s), but the endpoint accepts those for %s: make your program send these, as package auth does.",
			j.host, a.Error, hostOf(a.Token))
	case a.Error != "":
		j.add("audience", unclear, "asks for "+asked+"\nno token: "+a.Error, "")
	case a.Token == "":
		j.add("audience", notable, "asks for "+asked+"\nno token was sent", "")
	case a.Asked != "" && a.Asked != a.Token && j.facts.WhoAmI.Status == http.StatusUnauthorized:
		j.add("audience", broken, "asks for "+asked+"\ntoken is for "+hostOf(a.Token), "")
	case a.Asked != "" && a.Asked != a.Token:
		j.add("audience", notable, "asks for "+asked+"\naccepts "+hostOf(a.Token), "")
	default:
		j.add("audience", fine, hostOf(a.Token), "")
	}
}

func (j *judgement) policy() {
	p := j.facts.Policy
	switch {
	case p == nil:
		j.add("policy", notable, "not read: there is no WSDL", "")
	case p.Error != "":
		j.add("policy", notable, "not read: "+p.Error, "")
	case !p.Known:
		j.add("policy", notable, "the WSDL has none", "")
	default:
		j.add("policy", fine, fmt.Sprintf("failover available: %s\nserves here: %s", yes(p.FailoverAvailable), yes(p.EndpointEnabled)), "")
	}
}

// inTwo breaks an id into two lines, because it is wider than a column.
func inTwo(id string) string {
	if i := strings.LastIndex(id, "-"); i > 0 {
		return "organization\n" + id[:i+1] + "\n" + id[i+1:]
	}
	return id
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func hostOf(audience string) string {
	if u, err := url.Parse(audience); err == nil && u.Host != "" {
		return u.Host
	}
	return audience
}

func seconds(s float64) string { return console.Duration(time.Duration(s * float64(time.Second))) }

// unique removes adjacent duplicates.
func unique(list []string) []string {
	var out []string
	for i, s := range list {
		if i == 0 || s != list[i-1] {
			out = append(out, s)
		}
	}
	return out
}
