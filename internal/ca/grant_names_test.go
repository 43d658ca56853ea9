package ca

import (
	"crypto/rand"
	"crypto/x509"
	"testing"

	"assay/csr"
	"assay/deviceid"
)

// TestAttestedNameOutsideTheGrammarIsRefused: the device is told what is wrong; an internal error
// would have it try again without end.
func TestAttestedNameOutsideTheGrammarIsRefused(t *testing.T) {
	bySerial := profile(t, func(p *Profile) {
		p.SubjectAltName.PermanentIdentifier = PermanentIdentifierRule{Rule: AsAttested, Source: deviceid.Serial}
	})
	byModule := profile(t, func(p *Profile) { p.SubjectAltName.HardwareModule.Rule = AsAttested })
	for _, c := range []struct {
		profile  *Profile
		attested deviceid.Identifier
		check    string
	}{
		{bySerial, deviceid.Identifier{Kind: deviceid.Serial, Value: "C39/1.2.3"}, CheckAttestedPermanentID},
		{bySerial, deviceid.Identifier{Kind: deviceid.Serial, Value: ""}, CheckAttestedPermanentID},
		{byModule, deviceid.Identifier{Kind: deviceid.HardwareSerial, Value: "42/1", Assigner: "1.2.3"}, CheckAttestedHardwareName},
	} {
		in := GrantInput{Request: asking{}.parsed(t), Attested: []deviceid.Identifier{c.attested}, IdentityID: testID}
		_, err := c.profile.Grant(in)
		requireRefusal(t, err, csr.BadCSR, c.check)
		if _, err := profile(t, nil).Grant(in); err != nil {
			t.Errorf("%s %q, which the profile does not grant: %v", c.attested.Kind, c.attested.Value, err)
		}
	}
}

// TestPatternNeverSeesInvisibleCharacters: a pattern written for what people read would match them.
func TestPatternNeverSeesInvisibleCharacters(t *testing.T) {
	p := profile(t, func(p *Profile) {
		p.Subject = SubjectRule{Rule: AsRequested, Attributes: []AttributeRule{{Type: "CN", Pattern: pattern(t, "Jane.*")}}}
	})
	for _, c := range []struct {
		name    string
		refused bool
	}{{"Jane Doe", false}, {"Jane Doé 東京", false}, {"Jane\u200b Doe", true}, {"Jane \u202eeoD", true}, {"Jane\u00ad", true}, {"Jane\ufeff", true}} {
		template := &x509.CertificateRequest{RawSubject: must(encodeName(csr.Name{one(oidCommonName, c.name)}))(t)}
		request, err := csr.Parse(must(x509.CreateCertificateRequest(rand.Reader, template, p256Key()))(t))
		if c.refused {
			requireRefusal(t, err, csr.BadCSR, csr.CheckSubject)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if grant := must(p.Grant(GrantInput{Request: request, IdentityID: testID}))(t); len(grant.Dropped) != 0 {
			t.Errorf("%q: dropped %v", c.name, grant.Dropped)
		}
	}
}
