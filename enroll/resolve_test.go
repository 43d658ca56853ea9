package enroll

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/credential"
)

const exampleDocument = `{"DirectoryURL":"https://id.example.com/acme/default/directory","ClientIdentifier":"abc",
"KeyType":"ECSECPrimeRandom","KeySize":384,"HardwareBound":true,"Attest":true,"Subject":[[["CN","device"]]]}`

// documentServer serves the document with a content type ("" for no header) and a status.
func documentServer(t *testing.T, contentType string, status int, body string) (*httptest.Server, *Resolver) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			t.Errorf("method %s", r.Method)
		}
		w.Header()["Content-Type"] = nil // or net/http guesses one
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return server, &Resolver{Roots: pool}
}

func wantAssetError(t *testing.T, err error, check string) {
	t.Helper()
	e, ok := errors.AsType[*AssetError](err)
	if !ok || e.Check != check {
		t.Fatalf("got %v, want an asset error, check %s", err, check)
	}
	if !strings.HasPrefix(err.Error(), "AssetCannotBeDownloaded: ") {
		t.Errorf("error %q", err)
	}
}

func TestFetchChecksContentTypeAsDevicesDo(t *testing.T) {
	for contentType, ok := range map[string]bool{
		"application/json":                    true,
		"application/json;charset=utf-8":      true,
		"application/json; charset=utf-8":     true,
		"application/json ;charset=utf-8":     false,
		"Application/JSON":                    false,
		"application/jsonp":                   false,
		"application/vnd.example+json":        false,
		"text/html":                           false,
		"application/octet-stream":            false,
		"":                                    false,
		"text/plain;x=application/json":       false,
		"application/json,application/x-json": false,
	} {
		server, resolver := documentServer(t, contentType, 200, exampleDocument)
		document, err := resolver.Fetch(t.Context(), Reference{DataURL: server.URL + "/x"})
		if ok {
			if err != nil || document.ClientIdentifier != "abc" {
				t.Errorf("%q: %v", contentType, err)
			}
			continue
		}
		wantAssetError(t, err, "content-type")
	}
	_, err := new(Resolver).Fetch(t.Context(), Reference{DataURL: "https://127.0.0.1:1/"})
	wantAssetError(t, err, "download")
}

func TestMissingContentTypeCountsAsHTML(t *testing.T) {
	ref := Reference{ContentType: "text/html"}
	if err := ref.check([]byte(exampleDocument), ""); err == nil || !strings.Contains(err.Error(), `came as "text/html"`) {
		t.Errorf("error %v", err)
	}
}

func TestFetchChecksSizeThenTypeThenHash(t *testing.T) {
	sum := sha256.Sum256([]byte(exampleDocument))
	hash := hex.EncodeToString(sum[:])
	size := int64(len(exampleDocument))
	for name, test := range map[string]struct {
		ref         Reference
		contentType string
		check       string
	}{
		"all right":               {Reference{Size: new(size), ContentType: "application/json", SHA256: hash}, "application/json", ""},
		"hash in upper case":      {Reference{SHA256: strings.ToUpper(hash)}, "application/json", ""},
		"size, type, hash wrong":  {Reference{Size: new(size + 1), SHA256: hash[2:] + "00"}, "text/html", "size"},
		"type, hash wrong":        {Reference{Size: new(size), SHA256: hash[2:] + "00"}, "text/html", "content-type"},
		"hash wrong":              {Reference{Size: new(size), SHA256: hash[2:] + "00"}, "application/json", "hash"},
		"hash too short":          {Reference{SHA256: hash[2:]}, "application/json", "hash"},
		"hash too long":           {Reference{SHA256: hash + "zz"}, "application/json", "hash"},
		"hash no hex":             {Reference{SHA256: strings.Repeat("x", 64)}, "application/json", "hash"},
		"size 0":                  {Reference{Size: new(int64(0))}, "application/json", "size"},
		"reference wants another": {Reference{ContentType: "text/json"}, "application/json", "content-type"},
		"both are another":        {Reference{ContentType: "text/json"}, "text/json", "content-type"},
	} {
		t.Run(name, func(t *testing.T) {
			server, resolver := documentServer(t, test.contentType, 200, exampleDocument)
			test.ref.DataURL = server.URL
			_, err := resolver.Fetch(t.Context(), test.ref)
			if test.check == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantAssetError(t, err, test.check)
		})
	}
	// Size 0 expects no body and ignores the hash; what comes is no document then.
	server, resolver := documentServer(t, "application/json", 200, "")
	_, err := resolver.Fetch(t.Context(), Reference{DataURL: server.URL, Size: new(int64(0)), SHA256: hash})
	wantAssetError(t, err, "document")
}

func TestFetchRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		body   string
		check  string
	}{
		"not found":      {404, exampleDocument, "download"},
		"created":        {201, exampleDocument, "download"},
		"too large":      {200, exampleDocument + strings.Repeat(" ", credential.MaxSize), "size"},
		"no document":    {200, "{}", "document"},
		"duplicate keys": {200, `{"Attest":true,` + exampleDocument[1:], "document"},
	} {
		t.Run(name, func(t *testing.T) {
			server, resolver := documentServer(t, "application/json", test.status, test.body)
			_, err := resolver.Resolve(t.Context(), server.URL)
			wantAssetError(t, err, test.check)
		})
	}
	for _, address := range []string{"http://id.example.com/x", "file:///etc/passwd", "https://", "://", "https://%zz"} {
		_, err := new(Resolver).Resolve(t.Context(), address)
		wantAssetError(t, err, "url")
	}
}

func TestFetchDoesNotFollowRedirectsOffTLS(t *testing.T) {
	reached := false
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer plain.Close()
	server := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	_, err := (&Resolver{Roots: pool}).Resolve(t.Context(), server.URL)
	wantAssetError(t, err, "download")
	if reached {
		t.Error("followed the redirect")
	}
}

func TestFetchDoesNotFollowRedirectsForever(t *testing.T) {
	requests := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		http.Redirect(w, r, "/again", http.StatusFound)
	}))
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	_, err := (&Resolver{Roots: pool}).Resolve(t.Context(), server.URL)
	wantAssetError(t, err, "download")
	if requests != 5 || !strings.Contains(err.Error(), "redirected too often") {
		t.Errorf("%d requests, error %v", requests, err)
	}
}

func TestFetchRefusesUntrustedServer(t *testing.T) {
	server, _ := documentServer(t, "application/json", 200, exampleDocument)
	_, err := (&Resolver{Roots: x509.NewCertPool()}).Resolve(t.Context(), server.URL)
	wantAssetError(t, err, "download")
}

func TestResolveReadsFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "credential.json")
	must(0, os.WriteFile(path, []byte(exampleDocument), 0o600))
	document, err := new(Resolver).Resolve(t.Context(), path)
	if err != nil || document.KeySize != 384 {
		t.Errorf("%v, %v", document, err)
	}
	_, err = new(Resolver).Resolve(t.Context(), path+"x")
	wantAssetError(t, err, "download")
	must(0, os.WriteFile(path, []byte("{}"), 0o600))
	_, err = new(Resolver).Resolve(t.Context(), path)
	wantAssetError(t, err, "document")
	if _, ok := errors.AsType[*credential.InvalidError](err); !ok {
		t.Errorf("error %v does not say which rules", err)
	}
}
