package ca

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"assay/csr"
	"assay/deviceid"
)

var ignoreRaw = cmp.Options{cmpopts.IgnoreFields(csr.Attribute{}, "Raw"), cmpopts.IgnoreFields(csr.AltName{}, "Raw"), cmpopts.EquateEmpty()}

func droppedFields(grant *Grant) []string {
	var fields []string
	for _, dropped := range grant.Dropped {
		fields = append(fields, dropped.Field)
	}
	return fields
}

func TestDefaultProfileGrantsWhatWasMinted(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	ask := appleAsking()
	certificate, grant := issued(t, issuer, profile(t, nil), GrantInput{Request: ask.parsed(t), Minted: ask.minted(t), Attested: attested()})
	if diff := cmp.Diff(ask.subject, subjectOf(t, certificate), ignoreRaw); diff != "" {
		t.Error("subject:", diff)
	}
	if diff := cmp.Diff(ask.altNames, namesIn(t, certificate), ignoreRaw); diff != "" {
		t.Error("alternative names:", diff)
	}
	if certificate.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("key usage %b", certificate.KeyUsage)
	}
	if !slices.Equal(certificate.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || len(certificate.UnknownExtKeyUsage) > 0 {
		t.Errorf("extended key usage %v %v", certificate.ExtKeyUsage, certificate.UnknownExtKeyUsage)
	}
	if len(grant.Dropped) > 0 {
		t.Errorf("dropped %v", grant.Dropped)
	}
}

func TestDefaultProfileNamesNobodyWithoutCredential(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	ask := appleAsking()
	ask.keyUsage, ask.ext = 5, []string{csr.ClientAuth, "1.3.6.1.5.5.7.3.1"}
	certificate, grant := issued(t, issuer, profile(t, nil), GrantInput{Request: ask.parsed(t), Attested: attested()})
	if diff := cmp.Diff(csr.Name{one(oidCommonName, testID)}, subjectOf(t, certificate), ignoreRaw); diff != "" {
		t.Error("subject:", diff)
	}
	if names := namesIn(t, certificate); names != nil {
		t.Errorf("alternative names %v", names)
	}
	want := []string{
		"subjectAltName.rfc822Name", "subjectAltName.dNSName", "subjectAltName.uniformResourceIdentifier", "subjectAltName.ntPrincipalName",
		"subject.2.5.4.6", "subject.2.5.4.10", "subject.2.5.4.3", "subject.1.2.840.113635.100.6.99999.99999",
		"keyUsage.keyEncipherment", "extKeyUsage.1.3.6.1.5.5.7.3.1",
	}
	if diff := cmp.Diff(want, droppedFields(grant)); diff != "" {
		t.Error("dropped:", diff)
	}
}

func TestAsMintedRefusesEveryOtherRequest(t *testing.T) {
	for label, c := range map[string]struct {
		change func(*asking)
		check  string
	}{
		"another CN":        {func(a *asking) { a.subject[2] = one("2.5.4.3", "anna's iPhone") }, CheckMintedSubject},
		"one RDN less":      {func(a *asking) { a.subject = a.subject[:3] }, CheckMintedSubject},
		"RDN order":         {func(a *asking) { slices.Reverse(a.subject) }, CheckMintedSubject},
		"another mail":      {func(a *asking) { a.altNames[0].Value = "eve@example.com" }, CheckMintedAltNames},
		"another host":      {func(a *asking) { a.altNames[1].Value = "x.example.com" }, CheckMintedAltNames},
		"another URI":       {func(a *asking) { a.altNames[2].Value = "https://www.example.com/x" }, CheckMintedAltNames},
		"another UPN":       {func(a *asking) { a.altNames[3].Value = "eve@corp.example.com" }, CheckMintedAltNames},
		"no names":          {func(a *asking) { a.altNames = []csr.AltName{} }, CheckMintedAltNames},
		"one name more":     {func(a *asking) { a.altNames = append(a.altNames, a.altNames[1]) }, CheckMintedAltNames},
		"key usage":         {func(a *asking) { a.keyUsage = 3 }, CheckMintedKeyUsage},
		"no key usage":      {func(a *asking) { a.keyUsage = 0 }, CheckMintedKeyUsage},
		"ext key usage":     {func(a *asking) { a.ext = []string{"1.3.6.1.5.5.7.3.4"} }, CheckMintedExtKeyUsage},
		"more ext usage":    {func(a *asking) { a.ext = append(a.ext, "1.3.6.1.5.5.7.3.4") }, CheckMintedExtKeyUsage},
		"key size":          {func(a *asking) { a.key = p384Key() }, CheckMintedKey},
		"key type and size": {func(a *asking) { a.key = rsa2048Key() }, CheckMintedKey},
	} {
		t.Run(label, func(t *testing.T) {
			minted := appleAsking().minted(t)
			ask := appleAsking()
			c.change(&ask)
			_, err := profile(t, nil).Grant(GrantInput{Request: ask.parsed(t), Minted: minted, IdentityID: testID})
			requireRefusal(t, err, csr.BadCSR, c.check)
			if strings.Contains(err.Error(), "eve") {
				t.Errorf("error %q holds a name", err)
			}
		})
	}
}

func TestMintedKeyHoldsWhateverTheRules(t *testing.T) {
	p := profile(t, func(p *Profile) { p.Subject.Rule = DropField })
	minted := asking{key: p384Key()}.minted(t)
	_, err := p.Grant(GrantInput{Request: asking{}.parsed(t), Minted: minted, IdentityID: testID})
	requireRefusal(t, err, csr.BadCSR, CheckMintedKey)
}

func TestAsMintedTakesNamesInAnyOrderAndKeepsTheRequests(t *testing.T) {
	ask := appleAsking()
	minted := ask.minted(t)
	slices.Reverse(ask.altNames)
	grant := must(profile(t, nil).Grant(GrantInput{Request: ask.parsed(t), Minted: minted, IdentityID: testID}))(t)
	if want := must(encodeAltNames(ask.altNames))(t); !bytes.Equal(grant.RawAltNames, want) {
		t.Errorf("names are %x, want %x", grant.RawAltNames, want)
	}
}

func TestAsMintedTakesDefaultClientAuth(t *testing.T) {
	minted := asking{}.minted(t) // the credential names no extended key usage
	grant := must(profile(t, nil).Grant(GrantInput{Request: asking{ext: []string{csr.ClientAuth}}.parsed(t), Minted: minted, IdentityID: testID}))(t)
	if !slices.Equal(grant.ExtKeyUsage, []string{csr.ClientAuth}) || len(grant.Dropped) > 0 {
		t.Errorf("granted %v, dropped %v", grant.ExtKeyUsage, grant.Dropped)
	}
}

func TestGrantKeepsStringTypesAndOrder(t *testing.T) {
	ask := asking{subject: csr.Name{
		{rawAttribute("2.5.4.10", cbasn1.UTF8String, "Plain", "Plain")},
		{rawAttribute("1.2.3.4.5", tagBMPString, "\x00A\x20\xac", "A€")},
		{rawAttribute("2.5.4.3", cbasn1.IA5String, "x", "x"), rawAttribute("2.5.4.5", cbasn1.PrintableString, "7", "7")},
	}}
	request := ask.parsed(t)
	grant := must(profile(t, nil).Grant(GrantInput{Request: request, Minted: ask.minted(t), IdentityID: testID}))(t)
	if want := must(encodeName(ask.subject))(t); !bytes.Equal(grant.RawSubject, want) {
		t.Errorf("subject is %x, want %x", grant.RawSubject, want)
	}
}

func TestGrantSortsAttributesOfOneRDN(t *testing.T) {
	a, b := rawAttribute("2.5.4.3", cbasn1.UTF8String, "x", "x"), rawAttribute("2.5.4.10", cbasn1.UTF8String, "y", "y")
	if x, y := must(encodeName(csr.Name{{a, b}}))(t), must(encodeName(csr.Name{{b, a}}))(t); !bytes.Equal(x, y) {
		t.Error("a set has two encodings")
	}
}

func TestAsRequestedGrantsWhatMatches(t *testing.T) {
	p := profile(t, func(p *Profile) {
		p.Subject = SubjectRule{Rule: AsRequested, Attributes: []AttributeRule{
			{Type: "CN", Pattern: pattern(t, `[a-z]+\.example`)}, {Type: "2.5.4.10", Pattern: pattern(t, "Example Inc\\.")},
		}}
		p.SubjectAltName.DNS = AltNameRule{Rule: AsRequested, Pattern: pattern(t, `a|.*\.example\.com`)}
		p.SubjectAltName.Email = AltNameRule{Rule: AsRequested, Pattern: pattern(t, `.*@example\.com`)}
		p.KeyUsage = KeyUsageRule{Rule: AsRequested, Allow: []string{"nonRepudiation"}}
		p.ExtKeyUsage = ExtKeyUsageRule{Rule: AsRequested, Allow: []string{"emailProtection"}}
	})
	ask := asking{
		subject: csr.Name{one("2.5.4.3", "phone.example"), one("2.5.4.3", "phone.example.evil"), one("2.5.4.10", "Example Inc."),
			{{Type: "2.5.4.11", Value: "IT"}}},
		altNames: []csr.AltName{
			{Kind: csr.AltDNS, Value: "x.example.com"}, {Kind: csr.AltDNS, Value: "x.example.com.evil.org"}, {Kind: csr.AltDNS, Value: "ab"},
			{Kind: csr.AltEmail, Value: "a@example.com"}, {Kind: csr.AltUPN, Value: "a@example.com"},
		},
		keyUsage: 3, ext: []string{csr.ClientAuth, "1.3.6.1.5.5.7.3.4"},
	}
	_, issuer := testAuthority(t, P256)
	certificate, grant := issued(t, issuer, p, GrantInput{Request: ask.parsed(t)})
	if diff := cmp.Diff(csr.Name{ask.subject[0], ask.subject[2]}, subjectOf(t, certificate), ignoreRaw); diff != "" {
		t.Error("subject:", diff)
	}
	if diff := cmp.Diff([]csr.AltName{ask.altNames[0], ask.altNames[3]}, namesIn(t, certificate), ignoreRaw); diff != "" {
		t.Error("names:", diff)
	}
	if certificate.KeyUsage != x509.KeyUsageContentCommitment {
		t.Errorf("key usage %b", certificate.KeyUsage)
	}
	if !slices.Equal(grant.ExtKeyUsage, []string{"1.3.6.1.5.5.7.3.4"}) {
		t.Errorf("extended key usage %v", grant.ExtKeyUsage)
	}
	want := []string{"subjectAltName.dNSName", "subjectAltName.dNSName", "subjectAltName.ntPrincipalName",
		"subject.2.5.4.3", "subject.2.5.4.11", "keyUsage.digitalSignature", "extKeyUsage." + csr.ClientAuth}
	if diff := cmp.Diff(want, droppedFields(grant)); diff != "" {
		t.Error("dropped:", diff)
	}
}

func TestFixedFieldsIgnoreTheRequest(t *testing.T) {
	p := profile(t, func(p *Profile) {
		p.Subject = SubjectRule{Rule: Fixed, Value: [][][]string{{{"C", "DE"}}, {{"O", "Ä"}, {"CN", "device {identity.id}"}}}}
		p.SubjectAltName.URI = AltNameRule{Rule: Fixed, Value: []string{"https://id.example.com/device/{identity.id}"}}
		p.SubjectAltName.Email = AltNameRule{Rule: Fixed, Value: []string{"devices@example.com"}}
		p.SubjectAltName.DNS = AltNameRule{Rule: Fixed, Value: []string{"device.example.com"}}
		p.SubjectAltName.UPN = AltNameRule{Rule: Fixed, Value: []string{"device@corp.example.com"}}
		p.KeyUsage = KeyUsageRule{Rule: Fixed, Value: []string{"keyAgreement", "keyEncipherment"}}
		p.ExtKeyUsage = ExtKeyUsageRule{Rule: Fixed, Value: []string{"serverAuth", "1.2.3.2147483567"}}
	})
	_, issuer := testAuthority(t, P256)
	certificate, grant := issued(t, issuer, p, GrantInput{Request: appleAsking().parsed(t)})
	wantSubject := csr.Name{one("2.5.4.6", "DE"), {{Type: oidCommonName, Value: "device " + testID}, {Type: "2.5.4.10", Value: "Ä"}}}
	got := subjectOf(t, certificate)
	slices.SortFunc(got[1], func(a, b csr.Attribute) int { return strings.Compare(a.Type, b.Type) * -1 })
	if diff := cmp.Diff(wantSubject, got, ignoreRaw); diff != "" {
		t.Error("subject:", diff)
	}
	wantNames := []csr.AltName{{Kind: csr.AltEmail, Value: "devices@example.com"}, {Kind: csr.AltDNS, Value: "device.example.com"},
		{Kind: csr.AltURI, Value: "https://id.example.com/device/" + testID}, {Kind: csr.AltUPN, Value: "device@corp.example.com"}}
	if diff := cmp.Diff(wantNames, namesIn(t, certificate), ignoreRaw); diff != "" {
		t.Error("names:", diff)
	}
	if certificate.KeyUsage != x509.KeyUsageKeyAgreement {
		t.Errorf("key usage %b", certificate.KeyUsage)
	}
	if want := []string{"1.3.6.1.5.5.7.3.1", "1.2.3.2147483567"}; !slices.Equal(grant.ExtKeyUsage, want) {
		t.Errorf("extended key usage %v", grant.ExtKeyUsage)
	}
	if len(grant.Dropped) != 11 { // four names, four attributes, keyEncipherment, digitalSignature, clientAuth
		t.Errorf("dropped %v", droppedFields(grant))
	}
}

func TestEmptyFixedSubjectMakesNamesCritical(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	p := profile(t, func(p *Profile) {
		p.Subject = SubjectRule{Rule: Fixed, Value: [][][]string{}}
		p.SubjectAltName.PermanentIdentifier = PermanentIdentifierRule{Rule: AsAttested, Source: deviceid.Serial}
	})
	certificate, _ := issued(t, issuer, p, GrantInput{Request: asking{}.parsed(t), Attested: attested()})
	if len(subjectOf(t, certificate)) != 0 || !extensionOf(certificate, oidSubjectAltName).Critical {
		t.Error("subject is not empty, or the names are not critical")
	}
	certificate, _ = issued(t, issuer, p, GrantInput{Request: asking{}.parsed(t)})
	if diff := cmp.Diff(csr.Name{one(oidCommonName, testID)}, subjectOf(t, certificate), ignoreRaw); diff != "" {
		t.Error("a certificate without any name:", diff)
	}
	named, _ := issued(t, issuer, profile(t, nil), GrantInput{Request: appleAsking().parsed(t), Minted: appleAsking().minted(t)})
	if extensionOf(named, oidSubjectAltName).Critical {
		t.Error("names beside a subject are critical")
	}
}

func TestPermanentIdentifierComesFromEvidence(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	for _, source := range []deviceid.Kind{deviceid.Serial, deviceid.UDID} {
		p := profile(t, func(p *Profile) {
			p.SubjectAltName.PermanentIdentifier = PermanentIdentifierRule{Rule: AsAttested, Source: source}
		})
		want := map[deviceid.Kind]string{deviceid.Serial: "C02XG0ZZ", deviceid.UDID: "00008110-001A2B3C4D5E6F70"}[source]
		certificate, _ := issued(t, issuer, p, GrantInput{Request: asking{}.parsed(t), Attested: attested()})
		if diff := cmp.Diff([]csr.AltName{permanent(t, want)}, namesIn(t, certificate), ignoreRaw); diff != "" {
			t.Error(diff)
		}
		unattested, _ := issued(t, issuer, p, GrantInput{Request: asking{}.parsed(t)})
		if names := namesIn(t, unattested); names != nil {
			t.Errorf("an unattested device is named %v", names)
		}
	}
}

func TestHardwareModuleComesFromEvidence(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	p := profile(t, func(p *Profile) { p.SubjectAltName.HardwareModule.Rule = AsAttested })
	ids := []deviceid.Identifier{{Kind: deviceid.HardwareSerial, Value: "42", Assigner: "2.23.133.1.2"}}
	want := module(t, "42", "2.23.133.1.2")
	certificate, _ := issued(t, issuer, p, GrantInput{Request: asking{altNames: []csr.AltName{want}}.parsed(t), Attested: ids})
	if diff := cmp.Diff([]csr.AltName{want}, namesIn(t, certificate), ignoreRaw); diff != "" {
		t.Error(diff)
	}
	for _, lie := range []csr.AltName{module(t, "43", "2.23.133.1.2"), module(t, "42", "2.23.133.1.3")} {
		_, err := p.Grant(GrantInput{Request: asking{altNames: []csr.AltName{lie}}.parsed(t), Attested: ids, IdentityID: testID})
		requireRefusal(t, err, csr.BadCSR, CheckAttestedHardwareName)
	}
}

func TestRequestedPermanentIdentifierMustBeAttested(t *testing.T) {
	granting := profile(t, func(p *Profile) {
		p.SubjectAltName.PermanentIdentifier = PermanentIdentifierRule{Rule: AsAttested, Source: deviceid.Serial}
	})
	for _, c := range []struct {
		label, value string
		attested     []deviceid.Identifier
		profile      *Profile
		refused      bool
		dropped      []string
	}{
		{"the attested serial", "C02XG0ZZ", attested(), granting, false, nil},
		{"the attested serial, where the profile drops it", "C02XG0ZZ", attested(), profile(t, nil), false, []string{"subjectAltName.permanent-identifier"}},
		{"the attested UDID beside the serial", "00008110-001A2B3C4D5E6F70", attested(), granting, false, []string{"subjectAltName.permanent-identifier"}},
		{"the serial in lower case", "c02xg0zz", attested(), granting, true, nil},
		{"the UDID in lower case", "00008110-001a2b3c4d5e6f70", attested(), granting, true, nil},
		{"another serial", "C02XG0ZY", attested(), granting, true, nil},
		{"another serial, where the profile drops it", "C02XG0ZY", attested(), profile(t, nil), true, nil},
		{"a serial of an unattested device", "C02XG0ZZ", nil, granting, true, nil},
		{"an assigner that is not attested", "C02XG0ZZ/1.2.3", attested(), granting, true, nil},
	} {
		t.Run(c.label, func(t *testing.T) {
			id := must(deviceid.ParsePermanentIdentifier(c.value))(t)
			ask := asking{altNames: []csr.AltName{{Kind: csr.AltPermanentIdentifier, Value: c.value, Raw: must(id.GeneralName())(t)}}}
			grant, err := c.profile.Grant(GrantInput{Request: ask.parsed(t), Attested: c.attested, IdentityID: testID})
			if c.refused {
				requireRefusal(t, err, csr.BadCSR, CheckAttestedPermanentID)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(droppedFields(grant), c.dropped) {
				t.Errorf("dropped %v, want %v", droppedFields(grant), c.dropped)
			}
		})
	}
}

func TestGrantRefusesKeysOfOtherKinds(t *testing.T) {
	only := func(kinds ...string) *Profile { return profile(t, func(p *Profile) { p.Keys.Allow = kinds }) }
	for _, c := range []struct {
		profile *Profile
		ask     asking
		ok      bool
	}{
		{only(keyP384), asking{}, false}, {only(keyP384), asking{key: p384Key()}, true},
		{only(keyP256), asking{}, true}, {only(keyP256, keyP384), asking{key: p521Key()}, false},
		{only(keyP256), asking{key: rsa2048Key()}, false}, {profile(t, nil), asking{key: rsa2048Key()}, true},
		{profile(t, nil), asking{key: rsa1024Key()}, false},
		{profile(t, func(p *Profile) { p.Keys.RSAMinBits = 1024 }), asking{key: rsa1024Key()}, true},
		{profile(t, func(p *Profile) { p.Keys.RSAMinBits = 3072 }), asking{key: rsa2048Key()}, false},
	} {
		_, err := c.profile.Grant(GrantInput{Request: c.ask.parsed(t), IdentityID: testID})
		if c.ok && err != nil {
			t.Error(err)
		}
		if !c.ok {
			requireRefusal(t, err, csr.BadPublicKey, CheckProfileKey)
		}
	}
}

func TestKeyUsageFitsTheKey(t *testing.T) {
	everything := []string{"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement"}
	p := profile(t, func(p *Profile) { p.KeyUsage = KeyUsageRule{Rule: AsRequested, Allow: everything} })
	for _, c := range []struct {
		ask  asking
		want x509.KeyUsage
	}{
		{asking{keyUsage: 5}, x509.KeyUsageDigitalSignature},
		{asking{keyUsage: 4}, x509.KeyUsageDigitalSignature},
		{asking{keyUsage: 0x1ff}, x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyAgreement},
		{asking{key: rsa2048Key(), keyUsage: 5}, x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment},
		{asking{key: rsa2048Key(), keyUsage: 4}, x509.KeyUsageKeyEncipherment},
		{asking{key: rsa2048Key(), keyUsage: 0x1f}, x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment},
		{asking{keyUsage: csr.KeyUsage(x509.KeyUsageCertSign | x509.KeyUsageCRLSign)}, x509.KeyUsageDigitalSignature},
	} {
		for _, minted := range []*csr.Request{nil, c.ask.minted(t)} {
			judge := p
			if minted != nil {
				judge = profile(t, nil)
			}
			grant := must(judge.Grant(GrantInput{Request: c.ask.parsed(t), Minted: minted, IdentityID: testID}))(t)
			if grant.KeyUsage != c.want {
				t.Errorf("asked %b, granted %b, want %b", c.ask.keyUsage, grant.KeyUsage, c.want)
			}
			for bit, name := range keyUsageNames {
				lost := x509.KeyUsage(c.ask.keyUsage)&^grant.KeyUsage&(1<<bit) != 0
				if lost != slices.Contains(droppedFields(grant), "keyUsage."+name) {
					t.Errorf("asked %b, granted %b, dropped %v", c.ask.keyUsage, grant.KeyUsage, grant.Dropped)
				}
			}
		}
	}
}

func TestSensitiveUsagesNeedTheProfile(t *testing.T) {
	for _, usage := range []string{
		"1.3.6.1.5.5.7.3.1", "2.5.29.37.0", "1.3.6.1.5.5.7.3.3", "1.3.6.1.5.5.7.3.8", "1.3.6.1.5.5.7.3.9",
		"1.3.6.1.4.1.311.20.2.1", "1.3.6.1.4.1.311.10.3.13", "1.2.840.113635.100.4.1", "1.3.6.1.5.2.3.5",
		"1.3.6.1.4.1.311.10.12.1", "1.3.6.1.5.5.7.3.27", "1.3.6.1.5.5.7.3.28",
	} {
		ask := asking{ext: []string{csr.ClientAuth, usage}}
		in := GrantInput{Request: ask.parsed(t), Minted: ask.minted(t), IdentityID: testID}
		grant := must(profile(t, nil).Grant(in))(t)
		if !slices.Equal(grant.ExtKeyUsage, []string{csr.ClientAuth}) || !slices.Equal(droppedFields(grant), []string{"extKeyUsage." + usage}) {
			t.Errorf("%s: granted %v, dropped %v", usage, grant.ExtKeyUsage, grant.Dropped)
		}
		grant = must(profile(t, func(p *Profile) { p.ExtKeyUsage.Allow = []string{usage} }).Grant(in))(t)
		if !slices.Equal(grant.ExtKeyUsage, ask.ext) {
			t.Errorf("%s is allowed, granted %v", usage, grant.ExtKeyUsage)
		}
	}
	ask := asking{ext: []string{"1.3.6.1.4.1.311.20.2.2", "1.2.840.113635.100.45"}}
	grant := must(profile(t, nil).Grant(GrantInput{Request: ask.parsed(t), Minted: ask.minted(t), IdentityID: testID}))(t)
	if !slices.Equal(grant.ExtKeyUsage, ask.ext) {
		t.Errorf("ordinary usages: granted %v", grant.ExtKeyUsage)
	}
}

func TestGrantDropsNamesOutsideRFC5280(t *testing.T) {
	long := strings.Repeat("a", 65)
	for label, c := range map[string]struct {
		ask   asking
		field string
	}{
		"no mailbox":      {asking{altNames: []csr.AltName{{Kind: csr.AltEmail, Value: "rfc822"}}}, "subjectAltName.rfc822Name"},
		"mail name":       {asking{altNames: []csr.AltName{{Kind: csr.AltEmail, Value: "A <a@example.com>"}}}, "subjectAltName.rfc822Name"},
		"mail host":       {asking{altNames: []csr.AltName{{Kind: csr.AltEmail, Value: "a@-example.com"}}}, "subjectAltName.rfc822Name"},
		"wildcard":        {asking{altNames: []csr.AltName{{Kind: csr.AltDNS, Value: "*.example.com"}}}, "subjectAltName.dNSName"},
		"underscore":      {asking{altNames: []csr.AltName{{Kind: csr.AltDNS, Value: "a_b.example.com"}}}, "subjectAltName.dNSName"},
		"address as name": {asking{altNames: []csr.AltName{{Kind: csr.AltDNS, Value: "192.0.2.1"}}}, "subjectAltName.dNSName"},
		"long label":      {asking{altNames: []csr.AltName{{Kind: csr.AltDNS, Value: long + ".example.com"}}}, "subjectAltName.dNSName"},
		"empty label":     {asking{altNames: []csr.AltName{{Kind: csr.AltDNS, Value: "a..example.com"}}}, "subjectAltName.dNSName"},
		"space":           {asking{altNames: []csr.AltName{{Kind: csr.AltDNS, Value: " "}}}, "subjectAltName.dNSName"},
		"relative URI":    {asking{altNames: []csr.AltName{{Kind: csr.AltURI, Value: "/path"}}}, "subjectAltName.uniformResourceIdentifier"},
		"URI host":        {asking{altNames: []csr.AltName{{Kind: csr.AltURI, Value: "https://a_b/"}}}, "subjectAltName.uniformResourceIdentifier"},
		"bare IPv6 host":  {asking{altNames: []csr.AltName{{Kind: csr.AltURI, Value: "urn://:::"}}}, "subjectAltName.uniformResourceIdentifier"},
		"scheme alone":    {asking{altNames: []csr.AltName{{Kind: csr.AltURI, Value: "urn:"}}}, "subjectAltName.uniformResourceIdentifier"},
		"long CN":         {asking{subject: csr.Name{one(oidCommonName, long)}}, "subject.2.5.4.3"},
		"country":         {asking{subject: csr.Name{one("2.5.4.6", "U")}}, "subject.2.5.4.6"},
		"country type":    {asking{subject: csr.Name{{rawAttribute("2.5.4.6", cbasn1.UTF8String, "US", "US")}}}, "subject.2.5.4.6"},
		"serial type":     {asking{subject: csr.Name{one("2.5.4.5", "a@b")}}, "subject.2.5.4.5"},
		"huge type":       {asking{subject: csr.Name{one("1.2.3.2147483648", "a")}}, "subject.1.2.3.2147483648"},
		"unknown":         {asking{subject: csr.Name{one("1.2.3", strings.Repeat("a", 257))}}, "subject.1.2.3"},
	} {
		t.Run(label, func(t *testing.T) {
			grant := must(profile(t, nil).Grant(GrantInput{Request: c.ask.parsed(t), Minted: c.ask.minted(t), IdentityID: testID}))(t)
			// The credential asks for no usage, so the device's own are beside the point here.
			if !slices.Equal(droppedFields(grant), []string{c.field}) {
				t.Errorf("dropped %v, want %s", grant.Dropped, c.field)
			}
			if grant.RawAltNames != nil || !bytes.Contains(grant.RawSubject, []byte(testID)) {
				t.Error("the name is granted all the same")
			}
		})
	}
}

func TestGrantDropsOtherNamesAndExtensions(t *testing.T) {
	ip := csr.AltName{Kind: csr.AltOther, Value: "8704c0000201", Raw: []byte{0x87, 4, 192, 0, 2, 1}}
	caTrue := pkix.Extension{Id: oidBasicConstraints, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}
	ask := asking{altNames: []csr.AltName{ip}, ext: []string{csr.ClientAuth}, other: []pkix.Extension{caTrue}}
	_, issuer := testAuthority(t, P256)
	certificate, grant := issued(t, issuer, profile(t, nil), GrantInput{Request: ask.parsed(t), Minted: asking{}.minted(t)})
	if want := []string{"subjectAltName.other", "extension.2.5.29.19"}; !slices.Equal(droppedFields(grant), want) {
		t.Errorf("dropped %v, want %v", droppedFields(grant), want)
	}
	if certificate.IsCA || !certificate.BasicConstraintsValid || namesIn(t, certificate) != nil {
		t.Error("the certificate is a CA's or has the name")
	}
}

func TestGrantNeedsRequestAndIdentity(t *testing.T) {
	for _, in := range []GrantInput{{IdentityID: testID}, {Request: asking{}.parsed(t)}} {
		if grant, err := profile(t, nil).Grant(in); err == nil {
			t.Errorf("granted %+v", grant)
		}
	}
}

func TestGrantDropsUsagesThatNobodyReads(t *testing.T) {
	const huge = "2.25.329800735698586629295641978511506172918"
	ask := asking{ext: []string{csr.ClientAuth, huge}}
	grant := must(profile(t, nil).Grant(GrantInput{Request: ask.parsed(t), Minted: ask.minted(t), IdentityID: testID}))(t)
	if !slices.Equal(droppedFields(grant), []string{"extKeyUsage." + huge}) || !slices.Equal(grant.ExtKeyUsage, []string{csr.ClientAuth}) {
		t.Errorf("granted %v, dropped %v", grant.ExtKeyUsage, grant.Dropped)
	}
}

func TestPatternMatchesWholeValue(t *testing.T) {
	for _, c := range []struct {
		pattern, value string
		want           bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"a", "ba", false}, {"a|b", "ab", false}, {"a|b", "b", true}, {"", "", true}, {"", "a", false},
		{"(?m)^a$", "a\nb", false}, {".*", "a\nb", false}, {"(?i)A", "a", true},
	} {
		if got := pattern(t, c.pattern).match(c.value); got != c.want {
			t.Errorf("pattern %q on %q is %t", c.pattern, c.value, got)
		}
	}
	if (Pattern{}).match("") {
		t.Error("no pattern matches")
	}
	for _, text := range []string{"a)(b", "(", strings.Repeat("a", maxPattern+1), `a\`} {
		if err := new(Pattern).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("pattern %.20q passes", text)
		}
	}
}
