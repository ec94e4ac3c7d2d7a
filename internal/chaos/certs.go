package chaos

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"sync"
	"time"
)

// The hosts of the organization; the alternate has the name that Microsoft's rule gives it.
const (
	primaryHost   = "contoso.api.crm.dynamics.com"
	alternateHost = "contoso--s.api.crm.dynamics.com"
)

// certificates are made once per process.
type certificates struct {
	pool                        *x509.CertPool // trusts good
	good, expired, wrong, alien tls.Certificate
}

var certs = sync.OnceValue(func() *certificates {
	ca, caKey := authority("chaos")
	other, otherKey := authority("stranger")
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	now := time.Now()
	both := []string{primaryHost, alternateHost}
	return &certificates{
		pool:    pool,
		good:    issue(ca, caKey, both, now.Add(time.Hour)),
		expired: issue(ca, caKey, both, now.Add(-time.Hour)),
		wrong:   issue(ca, caKey, []string{"fabrikam.example"}, now.Add(time.Hour)),
		alien:   issue(other, otherKey, both, now.Add(time.Hour)),
	}
})

func authority(name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return must(x509.ParseCertificate(der)), key
}

func issue(ca *x509.Certificate, caKey *ecdsa.PrivateKey, hosts []string, until time.Time) tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: hosts[0]}, DNSNames: hosts,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// must is for errors that only a broken machine can cause.
func must[T any](v T, err error) T {
	if err != nil {
		panic("chaos: " + err.Error())
	}
	return v
}
