package enroll

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// mdmIdentity is a self-signed stand-in for what an MDM gives a device.
func mdmIdentity(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestFetchShowsTheMDMIdentityWhereThereIsOne(t *testing.T) {
	var shown string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = ""
		for _, c := range r.TLS.PeerCertificates {
			shown += c.Subject.CommonName
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, exampleDocument)
	}))
	// The server names CAs that the identity is not of: a device shows it all the same.
	others := x509.NewCertPool()
	others.AddCert(must(x509.ParseCertificate(mdmIdentity(t, "another CA").Certificate[0])))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, ClientCAs: others}
	server.StartTLS()
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	for want, identity := range map[string]*tls.Certificate{"device": mdmIdentity(t, "device"), "": nil} {
		if _, err := (&Resolver{Roots: pool, Identity: identity}).Resolve(t.Context(), server.URL); err != nil || shown != want {
			t.Errorf("shown %q, want %q; %v", shown, want, err)
		}
	}
}

func TestIdentitySetAsideIsNotFoundAgain(t *testing.T) {
	f, store := newFakeServer(t), newStore(t)
	device := must(NewDevice(IPhone, "", rand.Reader))
	result := enrolled(t, f, device, f.document())
	identity := must(store.Save(result, false))
	if err := store.SetAside(identity); err != nil {
		t.Fatal(err)
	}
	if existing, err := store.Existing(device, f.document()); err != nil || existing != nil {
		t.Errorf("existing %v, %v", existing, err)
	}
	if found := must(store.Find("")); len(found) > 0 {
		t.Errorf("found %v", found)
	}
	if err := store.SetAside(identity); err != nil {
		t.Errorf("set aside twice: %v", err)
	}
	if _, err := store.Save(result, false); err != nil {
		t.Errorf("save again: %v", err)
	}
}
