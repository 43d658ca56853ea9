package enroll

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"assay/credential"
	"assay/internal/files"
)

// Reference says where a credential document lies and what its bytes must be: Payload.Reference of
// a com.apple.asset.credential.acme declaration.
type Reference struct {
	DataURL     string `json:"DataURL"` // https
	ContentType string `json:"ContentType,omitempty"`
	Size        *int64 `json:"Size,omitempty"`         // bytes; nil: any
	SHA256      string `json:"Hash-SHA-256,omitempty"` // 64 hex digits; "": any
}

// Resolver fetches credential documents as a device resolves an asset.
type Resolver struct {
	Roots *x509.CertPool // trusted for the server's TLS chain; nil: the system's
	// Identity is what the device proves itself with to its MDM: for assets with Authentication MDM,
	// whose server asks for it. nil: Authentication None, nothing is shown even where a server asks.
	Identity *tls.Certificate
}

// AssetError is a document that a device would not get. A device reports every such failure as
// Error.AssetCannotBeDownloaded and says no more.
type AssetError struct {
	Check  string // size, content-type, hash, document, url, download, declaration
	Status int    // HTTP status of the answer, where it ended the download; else 0
	Detail string
	Err    error // the cause, if there is one; *credential.InvalidError if the document is wrong
}

func (e *AssetError) Error() string {
	text := "AssetCannotBeDownloaded: " + e.Detail
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *AssetError) Unwrap() error { return e.Err }

// Resolve reads the document from an https URL or, for people who try things out, from a file.
// Errors are *AssetError.
func (r *Resolver) Resolve(ctx context.Context, source string) (*credential.Credential, error) {
	if strings.Contains(source, "://") {
		return r.Fetch(ctx, Reference{DataURL: source})
	}
	file, err := files.Open(source)
	if err != nil {
		return nil, &AssetError{Check: "download", Detail: "no such document", Err: err}
	}
	defer file.Close()
	data, err := readDocument(file)
	if err != nil {
		return nil, err
	}
	return parseDocument(data)
}

// Fetch downloads the document of a reference and checks it in a device's order: size, content
// type, hash, then the document itself. Errors are *AssetError.
func (r *Resolver) Fetch(ctx context.Context, ref Reference) (*credential.Credential, error) {
	address, err := url.Parse(ref.DataURL)
	if err != nil || address.Scheme != "https" || address.Host == "" {
		return nil, &AssetError{Check: "url", Detail: "the document's URL must use https"}
	}
	data, contentType, err := r.download(ctx, ref.DataURL)
	if err != nil {
		return nil, err
	}
	if err := ref.check(data, contentType); err != nil {
		return nil, err
	}
	return parseDocument(data)
}

func (r *Resolver) download(ctx context.Context, address string) (data []byte, contentType string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	transport := newTransport(r.Roots)
	defer transport.CloseIdleConnections()
	if r.Identity != nil {
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return r.Identity, nil }
	}
	client := &http.Client{Transport: transport, CheckRedirect: onlyHTTPS}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, "", &AssetError{Check: "url", Detail: "the document's URL cannot be used", Err: err}
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, "", &AssetError{Check: "download", Detail: "download failed", Err: err}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, "", &AssetError{Check: "download", Status: response.StatusCode, Detail: fmt.Sprintf("the server answered with status %d", response.StatusCode)}
	}
	if data, err = readDocument(response.Body); err != nil {
		return nil, "", err
	}
	return data, response.Header.Get("Content-Type"), nil
}

// onlyHTTPS keeps a redirect from taking the document, with its one-time code, off TLS.
func onlyHTTPS(request *http.Request, via []*http.Request) error {
	if request.URL.Scheme != "https" {
		return errors.New("redirected to a URL without TLS")
	}
	if len(via) >= 5 {
		return errors.New("redirected too often")
	}
	return nil
}

func readDocument(from io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(from, credential.MaxSize+1))
	if err != nil {
		return nil, &AssetError{Check: "download", Detail: "download failed", Err: err}
	}
	if len(data) > credential.MaxSize {
		return nil, &AssetError{Check: "size", Detail: fmt.Sprintf("the document has more than %d bytes", credential.MaxSize)}
	}
	return data, nil
}

// check holds the bytes against the reference. The content type is compared exactly and with case
// up to a ";", and counts as text/html when the header is missing.
func (ref *Reference) check(data []byte, contentType string) error {
	if ref.Size != nil && *ref.Size != int64(len(data)) {
		return &AssetError{Check: "size", Detail: fmt.Sprintf("the document has %d bytes, the reference says %d", len(data), *ref.Size)}
	}
	got, _, _ := strings.Cut(cmp.Or(contentType, "text/html"), ";")
	if want := cmp.Or(ref.ContentType, credential.ContentType); got != want {
		return &AssetError{Check: "content-type", Detail: fmt.Sprintf("the document came as %.60q, not as %.60q", got, want)}
	}
	if got != credential.ContentType {
		return &AssetError{Check: "content-type", Detail: fmt.Sprintf("the document came as %.60q, not as %q", got, credential.ContentType)}
	}
	if ref.SHA256 == "" || ref.Size != nil && *ref.Size == 0 {
		return nil // with Size 0 no body is expected, and the hash is ignored
	}
	want, err := hex.DecodeString(ref.SHA256)
	if err != nil || len(want) != sha256.Size {
		return &AssetError{Check: "hash", Detail: "Hash-SHA-256 is not 64 hex digits"}
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], want) {
		return &AssetError{Check: "hash", Detail: "the document has another SHA-256 hash than the reference says"}
	}
	return nil
}

func parseDocument(data []byte) (*credential.Credential, error) {
	document, findings := credential.Parse(data)
	if err := findings.Err(); err != nil {
		return nil, &AssetError{Check: "document", Detail: "the document breaks rules", Err: err}
	}
	return document, nil
}
