package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/attest"
	"assay/attest/standin"
)

var attestedAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const attestedToken = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"

// runAttestation runs `assay attestation …` at attestedAt.
func runAttestation(t *testing.T, in []byte, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	term := &terminal{In: bytes.NewReader(in), Out: &stdout, Err: &stderr, Now: func() time.Time { return attestedAt }}
	code = run(t.Context(), append([]string{"attestation"}, args...), term)
	return code, stdout.String(), stderr.String()
}

// standInEvidence is an object of a stand-in authority, whose root lies in the returned file.
func standInEvidence(t *testing.T, mutation string) (object []byte, rootFile string) {
	t.Helper()
	authority, err := standin.New(rand.Reader, attestedAt)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := authority.Save(dir); err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	subject := standin.Subject{PublicKey: key.Public(), Token: attestedToken, Now: attestedAt,
		Device: standin.Device{Serial: "C39ZX0EXAMPL", UDID: "00008120-001A2B3C4D5E6F70", OSVersion: "18.5", SIP: new(true)}}
	if mutation != "" {
		if subject.Mutation, err = standin.LookupMutation(mutation); err != nil {
			t.Fatal(err)
		}
	}
	if object, err = authority.Attest(subject); err != nil {
		t.Fatal(err)
	}
	return object, filepath.Join(dir, standin.RootFile)
}

func writeEvidence(t *testing.T, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "evidence")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func wantAll(t *testing.T, out string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
}

func TestAttestationVerifyReadsEveryForm(t *testing.T) {
	object, root := standInEvidence(t, "")
	url := base64.RawURLEncoding.EncodeToString(object)
	wrapped := base64.StdEncoding.EncodeToString(object)
	for what, data := range map[string][]byte{
		"CBOR":                object,
		"base64url":           []byte(url),
		"padded base64":       []byte(wrapped + "\n"),
		"base64 over lines":   []byte(wrapped[:76] + "\r\n" + wrapped[76:] + "\r\n"),
		"challenge response":  standin.AttestedResponse(object),
		"response with blank": append([]byte("\n  "), standin.AttestedResponse(object)...),
	} {
		code, out, errs := runAttestation(t, nil, "verify", writeEvidence(t, data), "--token", attestedToken, "--root", root)
		if code != exitDone {
			t.Errorf("%s: exit code %d: %s%s", what, code, out, errs)
		}
		wantAll(t, out, "VERIFIED", "C39ZX0EXAMPL", "00008120-001A2B3C4D5E6F70", "STAND-IN root", "NOT checked", "P-384 in secure-enclave")
	}
	if code, out, errs := runAttestation(t, object, "verify", "-", "--token", attestedToken, "--root", root); code != exitDone {
		t.Errorf("standard input: exit code %d: %s%s", code, out, errs)
	}
}

func TestAttestationVerifySaysWhyItRefuses(t *testing.T) {
	object, root := standInEvidence(t, "")
	mutated, mutatedRoot := standInEvidence(t, "object-duplicate-fmt")
	for what, c := range map[string]struct {
		data []byte
		args []string
		want []string
	}{
		"another token":    {object, []string{"--token", "other", "--root", root}, []string{"REFUSED by check freshness", "must hold", "advice", "replay"}},
		"Apple's root":     {object, []string{"--token", attestedToken}, []string{"REFUSED by check chain-anchored"}},
		"too late":         {object, []string{"--token", attestedToken, "--root", root, "--at", "2026-06-01T00:00:00Z"}, []string{"REFUSED by check chain-validity", "not valid after 2026-05-30T12:00:00Z"}},
		"broken object":    {mutated, []string{"--token", attestedToken, "--root", mutatedRoot}, []string{"REFUSED by check object-well-formed"}},
		"failed on device": {standin.FailedResponse("no\x1bway"), []string{"--token", attestedToken}, []string{`REFUSED: evidence is of kind "failed"`, "noway"}},
		"no evidence":      {[]byte("{}"), []string{"--token", attestedToken}, []string{`REFUSED: evidence is of kind "none"`}},
	} {
		code, out, errs := runAttestation(t, nil, append([]string{"verify", writeEvidence(t, c.data)}, c.args...)...)
		if code != exitNo {
			t.Errorf("%s: exit code %d: %s%s", what, code, out, errs)
		}
		wantAll(t, out, c.want...)
		if strings.Contains(out, "VERIFIED") {
			t.Errorf("%s: %s", what, out)
		}
	}
}

func TestAttestationCommandsRefuseUnreadableInput(t *testing.T) {
	object, root := standInEvidence(t, "")
	file := writeEvidence(t, object)
	rootPEM, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	for what, args := range map[string][]string{
		"no such file":           {"verify", filepath.Join(t.TempDir(), "none"), "--token", "t"},
		"empty file":             {"verify", writeEvidence(t, []byte(" \n")), "--token", "t"},
		"faulty JSON":            {"verify", writeEvidence(t, []byte(`{"attObj":1}`)), "--token", "t"},
		"certificates alone":     {"verify", writeEvidence(t, rootPEM), "--token", "t"},
		"no token":               {"verify", file},
		"empty token":            {"verify", file, "--token", ""},
		"time of no form":        {"verify", file, "--token", "t", "--at", "yesterday"},
		"no such root":           {"verify", file, "--token", "t", "--root", filepath.Join(t.TempDir(), "none")},
		"root is no PEM":         {"verify", file, "--token", "t", "--root", file},
		"inspect garbage":        {"inspect", writeEvidence(t, []byte{0xff, 0})},
		"inspect oversize":       {"inspect", writeEvidence(t, make([]byte, maxAttestationFile+1))},
		"inspect a private key":  {"inspect", writeEvidence(t, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))},
		"inspect without a file": {"inspect"},
	} {
		if code, out, errs := runAttestation(t, nil, args...); code != exitUsage || errs == "" {
			t.Errorf("%s: exit code %d, want %d: %s%s", what, code, exitUsage, out, errs)
		}
	}
}

func TestAttestationInspectExplains(t *testing.T) {
	object, root := standInEvidence(t, "")
	code, out, errs := runAttestation(t, nil, "inspect", writeEvidence(t, standin.AttestedResponse(object)))
	if code != exitDone {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	wantAll(t, out, `format "apple"`, "attStmt.x5c (array)", "Certificate 1 (leaf)", "Certificate 2 (issuer)", "C39ZX0EXAMPL",
		"serial number of the device", "1.2.840.113635.100.8.9.1", "0 (enabled)", "freshnessCode", "stand-in marker",
		"WARNING: freshness was NOT checked", "WARNING: a stand-in attestation authority made this")

	code, out, _ = runAttestation(t, nil, "inspect", root)
	if code != exitDone {
		t.Fatalf("PEM: exit code %d", code)
	}
	wantAll(t, out, "Certificates, ", "not Apple", "stand-in marker")

	_, out, _ = runAttestation(t, standin.FailedResponse("it broke"), "inspect", "-")
	wantAll(t, out, "attestation failed on the device", "it broke", "WARNING: the device says that its attestation failed")

	_, out, _ = runAttestation(t, standin.NoneResponse(), "inspect", "-")
	wantAll(t, out, "the device did not attest", "WARNING: the device sent no evidence")
}

func TestAttestationCommandsPrintJSON(t *testing.T) {
	object, root := standInEvidence(t, "")
	file := writeEvidence(t, object)
	var inspection struct {
		Kind         attest.Kind
		Format       string
		StandIn      bool
		Certificates []attest.CertificateInfo
	}
	_, out, _ := runAttestation(t, nil, "inspect", "--json", file)
	if err := json.Unmarshal([]byte(out), &inspection); err != nil {
		t.Fatal(err)
	}
	if inspection.Kind != attest.Attested || inspection.Format != "apple" || !inspection.StandIn || len(inspection.Certificates) != 2 {
		t.Errorf("got %+v", inspection)
	}
	var v verdict
	_, out, _ = runAttestation(t, nil, "verify", "--json", file, "--token", attestedToken, "--root", root)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	if !v.Verified || v.Facts == nil || !v.Facts.Root.StandIn {
		t.Errorf("got %+v", v)
	}
	v = verdict{}
	_, out, _ = runAttestation(t, nil, "verify", "--json", file, "--token", "other", "--root", root)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	if v.Verified || v.Facts != nil || v.Check != attest.CheckFreshness || v.Advice == "" {
		t.Errorf("got %+v", v)
	}
}
