// Package delivery brings codes to devices: it renders a credential document around a fresh code,
// publishes it at a URL that nobody can guess, and serves it until the code is consumed, revoked
// or expired.
//
// The URL is a secret as the code is: it is stored as its SHA-256 only, and never logged. The
// document is frozen once rendered: the same bytes at every fetch.
package delivery

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"assay/credential"
	"assay/internal/issuance"
)

// pathSize is the number of random bytes in a document's URL.
const pathSize = 24

// Minter stores a code with the document that delivers it.
type Minter interface {
	MintCodes(ctx context.Context, call issuance.Call, mints []issuance.Mint) ([]issuance.Code, error)
}

// Documents reads published documents.
type Documents interface {
	// DocumentByPath returns issuance.ErrNotFound once its code is consumed, revoked or expired.
	DocumentByPath(ctx context.Context, pathHash [32]byte, now time.Time) (issuance.Document, error)
	// MarkFetched notes the first fetch.
	MarkFetched(ctx context.Context, call issuance.Call, id issuance.DocumentID) error
}

// Publication is a published document, with what an asset declaration says of it.
type Publication struct {
	Code        issuance.Code `json:"code"`
	URL         string        `json:"url"` // Reference.DataURL
	ContentType string        `json:"contentType"`
	Size        int           `json:"size"`
	SHA256      string        `json:"sha256"` // Reference.Hash-SHA-256
	Body        []byte        `json:"-"`
}

// Publisher publishes documents.
type Publisher struct {
	Store Minter
	// BaseURL is the server's https URL; DirectoryURL is what documents say.
	BaseURL, DirectoryURL string
	Random                io.Reader // default crypto/rand
}

// Publish mints a code and publishes the template as its document: ClientIdentifier and
// DirectoryURL are set here, and the result is checked like any document. mint says how the code
// is bound; its Value, Minted and Document are set here.
func (p *Publisher) Publish(ctx context.Context, call issuance.Call, template *credential.Credential, mint issuance.Mint) (*Publication, error) {
	random := p.Random
	if random == nil {
		random = rand.Reader
	}
	value, err := issuance.NewCodeValue(random)
	if err != nil {
		return nil, err
	}
	document := *template
	document.ClientIdentifier, document.DirectoryURL = value, p.DirectoryURL
	body, err := document.Encode()
	if err != nil {
		return nil, fmt.Errorf("publish credential: %w", err)
	}
	secret := make([]byte, pathSize)
	if _, err := io.ReadFull(random, secret); err != nil {
		return nil, fmt.Errorf("publish credential: %w", err)
	}
	path := base64.RawURLEncoding.EncodeToString(secret)
	sum := sha256.Sum256(body)
	mint.Value = value
	mint.Minted = requested(&document)
	mint.Document = &issuance.Document{PathHash: sha256.Sum256([]byte(path)), Body: body, SHA256: hex.EncodeToString(sum[:])}
	codes, err := p.Store.MintCodes(ctx, call, []issuance.Mint{mint})
	if err != nil {
		return nil, fmt.Errorf("publish credential: %w", err)
	}
	return &Publication{
		Code: codes[0], URL: p.BaseURL + "/credential/" + path,
		ContentType: credential.ContentType, Size: len(body), SHA256: mint.Document.SHA256, Body: body,
	}, nil
}

// Handler serves published documents at /credential/{secret}: the exact media type that devices
// demand, stable bytes and an ETag.
func Handler(store Documents, log *slog.Logger, now func() time.Time) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		doc, err := store.DocumentByPath(r.Context(), sha256.Sum256([]byte(r.PathValue("secret"))), now())
		if errors.Is(err, issuance.ErrNotFound) {
			http.Error(w, "no such document: it was never published, or its code is used, revoked or expired", http.StatusNotFound)
			return
		} else if err != nil {
			log.ErrorContext(r.Context(), "serve document", "error", err)
			http.Error(w, "the document cannot be had now", http.StatusServiceUnavailable)
			return
		}
		etag := `"` + doc.SHA256 + `"`
		h := w.Header()
		h.Set("Content-Type", credential.ContentType)
		h.Set("Cache-Control", "no-store")
		h.Set("ETag", etag)
		h.Set("X-Content-Type-Options", "nosniff")
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Length", strconv.Itoa(len(doc.Body)))
		if r.Method == http.MethodHead {
			return
		}
		if _, err := w.Write(doc.Body); err == nil && doc.FetchedAt.IsZero() {
			if err := store.MarkFetched(r.Context(), issuance.Call{Now: now(), From: r.RemoteAddr}, doc.ID); err != nil {
				log.WarnContext(r.Context(), "note first fetch", "document", doc.ID, "error", err)
			}
		}
		log.InfoContext(r.Context(), "document fetched", "document", doc.ID, "code", doc.Code, "from", r.RemoteAddr)
	})
}
