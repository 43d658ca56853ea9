package delivery

import (
	"context"
	"fmt"
	"io"

	"assay/credential"
	"assay/internal/issuance"
)

// Publication is a published document, with what an asset declaration says of it.
type Publication struct {
	Code        issuance.Code `json:"code"`
	URL         string        `json:"url"` // Reference.DataURL
	ContentType string        `json:"contentType"`
	Size        int           `json:"size"`
	SHA256      string        `json:"sha256"` // Reference.Hash-SHA-256
	Body        []byte        `json:"-"`
}

// Publisher publishes documents that somebody wrote by hand.
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
	random := source(p.Random)
	value, err := issuance.NewCodeValue(random)
	if err != nil {
		return nil, err
	}
	rendered, body, err := encodeWith(template, p.DirectoryURL, value)
	if err != nil {
		return nil, fmt.Errorf("publish credential: %w", err)
	}
	document, url, err := newDocument(random, p.BaseURL, body)
	if err != nil {
		return nil, fmt.Errorf("publish credential: %w", err)
	}
	mint.Value, mint.Minted, mint.Document = value, requested(rendered), &document
	codes, err := p.Store.MintCodes(ctx, call, []issuance.Mint{mint})
	if err != nil {
		return nil, fmt.Errorf("publish credential: %w", err)
	}
	return &Publication{
		Code: codes[0], URL: url, ContentType: credential.ContentType, Size: len(body), SHA256: document.SHA256, Body: body,
	}, nil
}
