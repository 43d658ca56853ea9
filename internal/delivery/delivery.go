// Package delivery brings credentials to devices. A template and a device become a credential
// document around a fresh one-time code, the declarations that point a device at it, and a
// configuration profile; all of them stay as they were rendered until the credential is rendered
// again: renewed, or because its code died unused. Documents are served at URLs that nobody can
// guess until their codes are consumed, revoked or expired; what devices report and what the server
// saw come together in a diagnosis.
//
// It refuses devices that a template lacks values for, devices that two records contradict each
// other on, fetches of dead documents, and fetches of documents with Authentication MDM by anybody
// but the device that the MDM gave an identity. What is refused is noted and logged with the device
// and the failed check, because a device says only AssetCannotBeDownloaded.
//
// It trusts the store's word on codes and devices, and of the headers of requests only Client-Cert
// (RFC 9440), from proxies that the configuration names. Values of devices and status reports are
// data of strangers: never parsed as templates, never taken beyond their bounds.
//
// A document's URL is a secret as its code is: it is stored as its SHA-256 only, or sealed, and never
// logged.
package delivery

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"

	"assay/internal/issuance"
)

// pathSize is the number of random bytes in a document's URL.
const pathSize = 24

// documentPath is where documents are served, by both listeners.
const documentPath = "/credential/"

// newDocument makes the document of the bytes to serve, and the URL under base at which it will
// be served.
func newDocument(random io.Reader, base string, body []byte) (issuance.Document, string, error) {
	secret := make([]byte, pathSize)
	if _, err := io.ReadFull(random, secret); err != nil {
		return issuance.Document{}, "", fmt.Errorf("make document URL: %w", err)
	}
	path := base64.RawURLEncoding.EncodeToString(secret)
	sum := sha256.Sum256(body)
	document := issuance.Document{PathHash: sha256.Sum256([]byte(path)), Body: body, SHA256: hex.EncodeToString(sum[:])}
	return document, base + documentPath + path, nil
}

// source is the randomness to use: the given one, or crypto/rand.
func source(random io.Reader) io.Reader {
	if random == nil {
		return rand.Reader
	}
	return random
}

// logger is the log to use: the given one, or none.
func logger(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// deviceName is how logs and refusals name a device: as ACME refusals do, by its serial, else its UDID.
func deviceName(d issuance.Device) string {
	switch {
	case d.Serial != "":
		return d.Serial
	case d.UDID != "":
		return d.UDID
	}
	return string(d.ID)
}
