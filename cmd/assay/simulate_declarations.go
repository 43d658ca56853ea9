package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"assay/credential"
	"assay/enroll"
	"assay/enroll/ddm"
)

// maxDeclarations is the largest list of declarations that is downloaded.
const maxDeclarations = 1 << 20

// resolve gets the document that the device enrols with: the credential itself, or the one that the
// declarations' asset refers to.
func (c *simulateDevice) resolve(ctx context.Context, term *terminal, roots *x509.CertPool) (*credential.Credential, error) {
	if c.Declarations == "" {
		return (&enroll.Resolver{Roots: roots}).Resolve(ctx, c.Credential)
	}
	data, err := readDeclarations(ctx, term, c.Declarations, roots)
	if err != nil {
		return nil, err
	}
	declarations, err := ddm.ParseDeclarations(data)
	if err != nil {
		return nil, usage(withHint(fmt.Errorf("%s: %w", c.Declarations, err), "`assay credential declare` prints declarations as they must be"))
	}
	assets := ddm.ACMEAssets(declarations)
	if len(assets) != 1 {
		return nil, usage(withHint(fmt.Errorf("%s holds %d ACME assets that a configuration references", c.Declarations, len(assets)),
			"a device resolves no asset that no configuration references; one at a time is resolved here"))
	}
	asset, err := ddm.ParseACMEAsset(assets[0])
	if err != nil {
		return nil, err
	}
	resolver := &enroll.Resolver{Roots: roots}
	switch {
	case asset.MDM && c.MDMIdentity == "":
		return nil, usage(withHint(fmt.Errorf("asset %s is fetched with the device's MDM identity", assets[0].Identifier), "name it with --mdm-identity"))
	case asset.MDM:
		if resolver.Identity, err = readIdentity(term, c.MDMIdentity); err != nil {
			return nil, err
		}
	}
	return resolver.Fetch(ctx, asset.Reference)
}

// resolveHint turns what went wrong into what a command says of it.
func resolveHint(err error) error {
	asset, ok := errors.AsType[*enroll.AssetError](err)
	switch {
	case !ok:
		return err
	case asset.Check == "download" && errors.Is(err, fs.ErrNotExist):
		return usage(err)
	}
	return noBecause(withHint(err, "%s", assetHint(asset)))
}

// readDeclarations reads a file, standard input or an https URL.
func readDeclarations(ctx context.Context, term *terminal, source string, roots *x509.CertPool) ([]byte, error) {
	if !strings.Contains(source, "://") {
		data, err := readInput(term, source, maxDeclarations)
		if err != nil {
			return nil, usage(err)
		}
		return data, nil
	}
	if !strings.HasPrefix(source, "https://") {
		return nil, usage(errors.New("--declarations takes a file or an https URL"))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, usage(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: 15 * time.Second}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("fetch declarations: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, noBecause(fmt.Errorf("fetch declarations: status %d", response.StatusCode))
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxDeclarations+1))
	if err == nil && len(data) > maxDeclarations {
		err = fmt.Errorf("more than %d bytes", maxDeclarations)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch declarations: %w", err)
	}
	return data, nil
}
