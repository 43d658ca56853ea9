package ca

import (
	"crypto"
	"slices"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"assay/csr"
	"assay/deviceid"
)

func rfc5280(t testing.TB) lint.Registry {
	t.Helper()
	return must(lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280}}))(t)
}

// requireLintFree holds every lint but those that are accepted, which must be found.
func requireLintFree(t testing.TB, results *zlint.ResultSet, accepted ...string) {
	t.Helper()
	if faults := lintFaults(results); !slices.Equal(faults, accepted) {
		t.Errorf("lints %v, want %v", faults, accepted)
	}
}

// lintFaults names the lints that found something.
func lintFaults(results *zlint.ResultSet) []string {
	var faults []string
	for name, result := range results.Results {
		if result.Status >= lint.Warn {
			faults = append(faults, name)
		}
	}
	slices.Sort(faults)
	return faults
}

func lintCertificate(t testing.TB, der []byte, accepted ...string) {
	t.Helper()
	results := zlint.LintCertificateEx(must(zx509.ParseCertificate(der))(t), rfc5280(t))
	if len(results.Results) < 50 {
		t.Errorf("only %d lints ran", len(results.Results))
	}
	requireLintFree(t, results, accepted...)
}

// The lint takes each byte of a string for a character, and the upper bytes of a BMPString for
// control characters. The certificate keeps the string type of the request.
func TestLintsMisreadBMPString(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	ask := asking{subject: csr.Name{{rawAttribute("2.5.4.3", tagBMPString, "\x00A\x20\xac", "A€")}}}
	p := profile(t, nil)
	p.ExtKeyUsage.Rule, p.KeyUsage.Rule = DropField, DropField
	certificate, _ := issued(t, issuer, p, GrantInput{Request: ask.parsed(t), Minted: ask.minted(t)})
	lintCertificate(t, certificate.Raw, "e_subject_dn_not_printable_characters")
}

func TestIssuedCertificatesPassRFC5280Lints(t *testing.T) {
	subjects := map[string]csr.Name{
		"none":  nil,
		"apple": appleAsking().subject,
		"many": {one("2.5.4.6", "DE"), one("2.5.4.8", "Bayern"), one("2.5.4.7", "München"), one("2.5.4.10", "A & B"), one("2.5.4.11", "IT"),
			{{Type: "2.5.4.3", Value: "a"}, {Type: "2.5.4.5", Value: "C02XG0ZZ"}}, one(oidEmail, "a@example.com")},
		"foreign strings": {{rawAttribute("2.5.4.3", cbasn1.IA5String, "a@b", "a@b")}, {rawAttribute("2.5.4.10", cbasn1.T61String, "ab", "ab")}},
	}
	altNames := map[string][]csr.AltName{
		"none":   nil,
		"apple":  appleAsking().altNames,
		"device": {permanent(t, "C02XG0ZZ"), {Kind: csr.AltURI, Value: "urn:uuid:7d4c1a5e-0001-4000-8000-000000000000"}},
		"upn":    {{Kind: csr.AltUPN, Value: "Principal Example"}},
	}
	keys := map[string]crypto.Signer{"P-256": p256Key(), "P-384": p384Key(), "P-521": p521Key(), "RSA": rsa2048Key()}
	profiles := map[string]*Profile{
		"minted": profile(t, nil),
		"attested": profile(t, func(p *Profile) {
			p.SubjectAltName.PermanentIdentifier = PermanentIdentifierRule{Rule: AsAttested, Source: deviceid.Serial}
			p.SubjectAltName.HardwareModule.Rule = AsAttested
			p.Subject = SubjectRule{Rule: Fixed, Value: [][][]string{}}
		}),
	}
	for _, algorithm := range []KeyAlgorithm{P256, P384, RSA3072} {
		_, issuer := testAuthority(t, algorithm)
		for keyName, key := range keys {
			for subjectName, subject := range subjects {
				for altName, names := range altNames {
					for profileName, p := range profiles {
						t.Run(string(algorithm)+"/"+keyName+"/"+subjectName+"/"+altName+"/"+profileName, func(t *testing.T) {
							ask := asking{key: key, subject: subject, altNames: names, keyUsage: 5, ext: []string{csr.ClientAuth, "1.3.6.1.5.5.7.3.4"}}
							ids := append(attested(), deviceid.Identifier{Kind: deviceid.HardwareSerial, Value: "7", Assigner: "2.23.133.1.2"})
							certificate, _ := issued(t, issuer, p, GrantInput{Request: ask.parsed(t), Minted: ask.minted(t), Attested: ids})
							lintCertificate(t, certificate.Raw)
						})
					}
				}
			}
		}
	}
}

func TestAuthorityPassesRFC5280Lints(t *testing.T) {
	for _, algorithm := range []KeyAlgorithm{P256, P384, RSA3072} {
		root, issuer := testAuthority(t, algorithm)
		serving := must(NewServingRoot("Example Inc.", p256Key(), testNow))(t)
		server := must(serving.NewServing([]string{"id.example.com", "192.0.2.1", "::1"}, p256Key().Public(), testNow))(t)
		for _, der := range [][]byte{root.Certificate.Raw, issuer.Certificate.Raw, serving.Certificate.Raw, server.Raw} {
			lintCertificate(t, der)
		}
	}
}

func TestLintsFindFaults(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	p := profile(t, nil)
	ask := asking{}
	grant := must(p.Grant(GrantInput{Request: ask.parsed(t), IdentityID: testID}))(t)
	grant.RawAltNames = must(encodeAltNames([]csr.AltName{{Kind: csr.AltEmail, Value: "not a mailbox"}}))(t)
	certificate := signed(t, issuer, p, grant, p256Key().Public())
	results := zlint.LintCertificateEx(must(zx509.ParseCertificate(certificate.Raw))(t), rfc5280(t))
	if !results.ErrorsPresent {
		t.Error("lints find nothing wrong with a mail address that is none")
	}
}

func TestCRLsPassRFC5280Lints(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	der := must(issuer.SignCRL(t.Context(), testCRL()))(t)
	results := zlint.LintRevocationListEx(must(zx509.ParseRevocationList(der))(t), rfc5280(t))
	if len(results.Results) == 0 {
		t.Error("no lint ran")
	}
	requireLintFree(t, results)
}

const tagBMPString = cbasn1.Tag(30)

func testCRL() CRL {
	thisUpdate, nextUpdate := CRLWindow(testNow)
	reasons := []Reason{Unspecified, KeyCompromise, Superseded, PrivilegeWithdrawn}
	crl := CRL{Number: 7, ThisUpdate: thisUpdate, NextUpdate: nextUpdate, Shard: 2}
	for n, reason := range reasons {
		serial := slices.Repeat([]byte{'0'}, 39)
		crl.Revoked = append(crl.Revoked, Revoked{Serial: string(serial) + string(rune('1'+n)), At: testNow.Add(-time.Hour), Reason: reason})
	}
	return crl
}
