package failovertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"sync"
	"time"
)

// authority issues the certificates of all organizations in the process. Its keys are
// generated once and never leave the memory of the process.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool // holds cert alone

	leafKey *ecdsa.PrivateKey // shared by all certificates issued
	mu      sync.Mutex
	issued  map[string]*tls.Certificate // by host names and failureKind
}

var (
	trusted   = sync.OnceValue(newAuthority)
	untrusted = sync.OnceValue(newAuthority)
)

func newAuthority() *authority {
	a := &authority{key: newKey(), leafKey: newKey(), issued: make(map[string]*tls.Certificate)}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "failovertest authority"},
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              now.Add(10 * 365 * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	a.cert = mustCertificate(template, template, a.key, a.key)
	a.pool = x509.NewCertPool()
	a.pool.AddCert(a.cert)
	return a
}

// issue returns a certificate for the host names. If expired is set, it expired an hour ago.
func (a *authority) issue(hosts []string, expired bool) *tls.Certificate {
	name := strings.Join(hosts, " ")
	if expired {
		name += " expired"
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.issued[name]; c != nil {
		return c
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: hosts[0]},
		DNSNames:     hosts,
		NotBefore:    now.Add(-2 * time.Hour),
		NotAfter:     now.Add(365 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if expired {
		template.NotAfter = now.Add(-time.Hour)
	}
	leaf := mustCertificate(template, a.cert, a.leafKey, a.key)
	c := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: a.leafKey, Leaf: leaf}
	a.issued[name] = c
	return c
}

// certificate is the tls.Config.GetCertificate of a datacenter's server.
func (d *Datacenter) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f, _ := d.take(stageTLS, nil)
	if f.kind == badCertificate {
		return untrusted().issue(d.hosts, false), nil
	}
	return trusted().issue(d.hosts, f.kind == expiredCertificate), nil
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic("failovertest: " + err.Error())
	}
	return key
}

func mustCertificate(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		panic("failovertest: " + err.Error())
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic("failovertest: " + err.Error())
	}
	return cert
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic("failovertest: " + err.Error())
	}
	return n.Add(n, big.NewInt(1))
}
