package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"assay/attest"
	"assay/internal/files"
)

// maxAttestationFile bounds what is read of a file: the largest object in the wordiest encoding.
const maxAttestationFile = 256 << 10

// attestationCommand groups what can be done with evidence that lies in a file.
type attestationCommand struct {
	Inspect attestationInspect `cmd:"" help:"Explain an attestation object without verifying it."`
	Verify  attestationVerify  `cmd:"" help:"Verify an attestation object against a challenge's token."`
}

// attestationInspect explains any attestation object.
type attestationInspect struct {
	File string `arg:"" help:"Attestation object: raw CBOR, base64, base64url, a challenge response's JSON, or certificates as PEM; - reads standard input."`
}

// Help is the command's manual.
func (attestationInspect) Help() string {
	return `Prints every certificate, extension and attested value, what it means, and what was not checked.

Example:

    assay attestation inspect response.json

Exit codes: 0 explained, 2 unreadable.`
}

// attestationVerify verifies an attestation object.
type attestationVerify struct {
	File  string    `arg:"" help:"Attestation object: raw CBOR, base64, base64url or a challenge response's JSON; - reads standard input."`
	Token string    `required:"" help:"The challenge's token, as the server sent it."`
	At    time.Time `help:"Verify as of this time, RFC 3339; now unless given." placeholder:"TIME"`
	Root  string    `help:"Trust the roots in this PEM file in place of Apple's." placeholder:"FILE.pem"`
}

// Help is the command's manual.
func (attestationVerify) Help() string {
	return `Prints what the evidence proves and which root anchors it, or the first check that failed.

Example:

    assay attestation verify response.json --token evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA

Exit codes: 0 verified, 1 refused, 2 unreadable.`
}

// evidenceFile is what a file turned out to hold: a response, or certificates alone.
type evidenceFile struct {
	response *attest.Response
	chain    [][]byte
}

// Run prints an explanation.
func (c *attestationInspect) Run(_ context.Context, term *terminal, g *globals) error {
	e, err := readEvidence(c.File, term)
	if err != nil {
		if refusal, ok := errors.AsType[*attest.Refusal](err); ok {
			return usage(explainRefusal(refusal))
		}
		return err
	}
	report := inspectionReport{}
	switch {
	case e.response == nil:
		report.Inspection = attest.InspectChain(e.chain)
	case e.response.Kind == attest.None:
		report.Kind, report.DeviceError = e.response.Kind, e.response.DeviceError
		report.Inspection = &attest.Inspection{Warnings: []string{"the device sent no evidence: this proves nothing"}}
	default:
		report.Kind, report.DeviceError = e.response.Kind, e.response.DeviceError
		if report.Inspection, err = attest.Inspect(e.response.Object); err != nil {
			return usage(err)
		}
	}
	if g.JSON {
		return writeJSON(term.Out, report)
	}
	_, err = io.WriteString(term.Out, report.text(term.Now()))
	return err
}

// explainRefusal adds the advice for a refused object.
func explainRefusal(refusal *attest.Refusal) error {
	check, known := attest.LookupCheck(refusal.Check)
	if !known {
		return refusal
	}
	return withHint(refusal, "%s must hold: %s", check.Name, check.Meaning)
}

// Run prints the facts or the refusal.
func (c *attestationVerify) Run(_ context.Context, term *terminal, g *globals) error {
	if c.Token == "" {
		return usage(withHint(errors.New("read --token: it is empty"), "it is the token of the challenge that the evidence answers"))
	}
	roots, err := readRoots(c.Root)
	if err != nil {
		return usage(err)
	}
	e, err := readEvidence(c.File, term)
	refusal, refused := errors.AsType[*attest.Refusal](err)
	switch {
	case refused:
		return printVerdict(term, g, verdict{Kind: attest.Attested}.refusedBy(refusal))
	case err != nil:
		return err
	case e.response == nil:
		return usage(withHint(errors.New("read evidence: certificates alone are no attestation object"), "assay attestation inspect explains them"))
	case e.response.Kind != attest.Attested:
		return printVerdict(term, g, verdict{Kind: e.response.Kind, Detail: "the device sent nothing to verify", DeviceError: e.response.DeviceError})
	}
	at := c.At
	if at.IsZero() {
		at = term.Now()
	}
	facts, err := attest.NewVerifier().Verify(e.response.Format, e.response.Statement,
		attest.Params{Token: c.Token, Roots: roots, Now: at})
	if refusal, refused = errors.AsType[*attest.Refusal](err); refused {
		return printVerdict(term, g, verdict{Kind: attest.Attested}.refusedBy(refusal))
	}
	if err != nil {
		return err
	}
	return printVerdict(term, g, verdict{Kind: attest.Attested, Verified: true, Facts: facts})
}

func readRoots(file string) ([]attest.Root, error) {
	if file == "" {
		return []attest.Root{attest.AppleRoot()}, nil
	}
	data, err := readFile(file, files.MaxPEM)
	if err != nil {
		return nil, fmt.Errorf("read --root: %w", err)
	}
	roots, err := attest.ParseRoots(data)
	if err != nil {
		return nil, fmt.Errorf("read --root %s: %w", file, err)
	}
	return roots, nil
}

// readEvidence reads a file in any form that evidence comes in. The error is a usage error, or the
// *attest.Refusal of an object.
func readEvidence(file string, term *terminal) (evidenceFile, error) {
	data, err := readInput(term, file, maxAttestationFile)
	if err != nil {
		return evidenceFile{}, usage(fmt.Errorf("read evidence: %w", err))
	}
	text := bytes.TrimSpace(data)
	switch {
	case len(text) == 0:
		return evidenceFile{}, usage(errors.New("read evidence: the file is empty"))
	case bytes.HasPrefix(text, []byte("-----BEGIN ")):
		chain, err := readPEMChain(text)
		if err != nil {
			return evidenceFile{}, usage(err)
		}
		return evidenceFile{chain: chain}, nil
	case text[0] == '{':
		r, err := attest.ParseResponse(text)
		if _, faulty := errors.AsType[*attest.ResponseError](err); faulty {
			return evidenceFile{}, usage(withHint(err, "the JSON should be a challenge response: {\"attObj\": \"…\"}"))
		}
		return evidenceFile{response: r}, err
	}
	if decoded, ok := decodeBase64(text); ok {
		data = decoded
	}
	r, err := attest.ParseObject(data)
	return evidenceFile{response: r}, err
}

func readPEMChain(data []byte) ([][]byte, error) {
	var chain [][]byte
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("read evidence: PEM block %q is no certificate", block.Type)
		}
		chain = append(chain, block.Bytes)
	}
	if len(chain) == 0 {
		return nil, errors.New("read evidence: no PEM certificate found")
	}
	return chain, nil
}

// decodeBase64 decodes either alphabet, with or without padding and line breaks: leniently, as
// people copy evidence out of logs. CBOR maps are never such text.
func decodeBase64(text []byte) ([]byte, bool) {
	s := strings.Join(strings.Fields(string(text)), "")
	s = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "="))
	decoded, err := base64.RawStdEncoding.DecodeString(s)
	return decoded, err == nil
}
