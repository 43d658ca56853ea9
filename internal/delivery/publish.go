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
	Code        issuance.Code
	URL         string // Reference.DataURL
	ContentType string
	Size        int
	SHA256      string // Reference.Hash-SHA-256
	Body        []byte
}

// Publisher publishes documents that somebody wrote by hand.
type Publisher struct {
	Store Minter
	// BaseURL is the server's https URL; DirectoryURL is what documents say.
	BaseURL, DirectoryURL string
	Random                io.Reader // default crypto/rand
}

// Publish mints a code and publishes what was written as its document: ClientIdentifier and
// DirectoryURL are set here, and the result is checked like any document. mint says how the code
// is bound; its Value, Minted and Document are set here.
func (p *Publisher) Publish(ctx context.Context, call issuance.Call, written *credential.Credential, mint issuance.Mint) (*Publication, error) {
	random := source(p.Random)
	value, err := issuance.NewCodeValue(random)
	if err != nil {
		return nil, err
	}
	complete := *written
	complete.ClientIdentifier, complete.DirectoryURL = value, p.DirectoryURL
	body, err := complete.Encode()
	if err != nil {
		return nil, fmt.Errorf("publish document: %w", err)
	}
	document, url, err := newDocument(random, p.BaseURL, body)
	if err != nil {
		return nil, fmt.Errorf("publish document: %w", err)
	}
	mint.Value, mint.Minted, mint.Document = value, requested(&complete), &document
	codes, err := p.Store.MintCodes(ctx, call, []issuance.Mint{mint})
	if err != nil {
		return nil, fmt.Errorf("publish document: %w", err)
	}
	return &Publication{
		Code: codes[0], URL: url, ContentType: credential.ContentType, Size: len(body), SHA256: document.SHA256, Body: body,
	}, nil
}
