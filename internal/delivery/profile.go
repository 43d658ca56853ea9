package delivery

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"assay/credential"
	"assay/internal/issuance"

	"github.com/micromdm/plist"
	"github.com/smallstep/pkcs7"
)

// ErrDocumentOver is the error for a credential whose document is gone because its code is used,
// revoked or expired, or which is withdrawn: a profile would hold a dead code.
var ErrDocumentOver = errors.New("the document is over: its code is used, revoked or expired")

// ProfileContentType is the media type of configuration profiles.
const ProfileContentType = "application/x-apple-aspen-config"

// Types of the payloads.
const (
	acmePayloadType         = "com.apple.security.acme"
	rootPayloadType         = "com.apple.security.root"
	intermediatePayloadType = "com.apple.security.pkcs1"
)

// payloadHead is what every payload has.
type payloadHead struct {
	PayloadType        string
	PayloadVersion     int
	PayloadIdentifier  string
	PayloadUUID        string
	PayloadDisplayName string
}

type profilePlist struct {
	payloadHead
	PayloadOrganization string `plist:",omitempty"`
	PayloadDescription  string
	PayloadContent      []any
}

type acmePayload struct {
	payloadHead
	DirectoryURL       string
	ClientIdentifier   string
	KeySize            int
	KeyType            string
	HardwareBound      bool
	Subject            [][][]string
	SubjectAltName     *altNamePayload `plist:",omitempty"`
	UsageFlags         int             `plist:",omitempty"`
	ExtendedKeyUsage   []string        `plist:",omitempty"`
	Attest             bool
	AllowAllAppsAccess *bool `plist:",omitempty"`
	KeyIsExtractable   *bool `plist:",omitempty"`
}

type altNamePayload struct {
	DNSName                   string `plist:"dNSName,omitempty"`
	RFC822Name                string `plist:"rfc822Name,omitempty"`
	UniformResourceIdentifier string `plist:"uniformResourceIdentifier,omitempty"`
	NTPrincipalName           string `plist:"ntPrincipalName,omitempty"`
}

type certificatePayload struct {
	payloadHead
	PayloadContent []byte
}

// Profile makes a configuration profile (.mobileconfig, XML) of a credential's frozen document and
// configuration: a com.apple.security.acme payload, and one for each CA certificate (DER), so that the
// device trusts the server. It holds the code itself. Identifiers stay for the life of the
// credential, UUIDs for the life of a rendering. ErrDocumentOver: the code in it is dead.
func Profile(d issuance.Delivery, organization string, cas [][]byte) ([]byte, error) {
	if d.Document.Body == nil || d.Configuration == nil {
		return nil, ErrDocumentOver
	}
	document, findings := credential.Parse(d.Document.Body)
	if err := findings.Err(); err != nil {
		return nil, fmt.Errorf("make profile of credential %s: %w", d.Credential.ID, err)
	}
	var configuration struct{ Payload configurationPayload }
	if err := json.Unmarshal(d.Configuration, &configuration); err != nil {
		return nil, fmt.Errorf("make profile of credential %s: %w", d.Credential.ID, err)
	}
	p := profilePlist{
		payloadHead:         head(d.Credential, "Configuration", "", "Identity "+d.Credential.Template),
		PayloadOrganization: organization,
		PayloadDescription:  "Has the device ask for its certificate.",
		PayloadContent:      []any{acme(d.Credential, document, configuration.Payload)},
	}
	for _, der := range cas {
		one, err := caPayload(d.Credential, der)
		if err != nil {
			return nil, fmt.Errorf("make profile of credential %s: %w", d.Credential.ID, err)
		}
		p.PayloadContent = append(p.PayloadContent, one)
	}
	data, err := encodeProfile(p)
	if err != nil {
		return nil, fmt.Errorf("make profile of credential %s: %w", d.Credential.ID, err)
	}
	return data, nil
}

// head begins a payload of the credential. part tells its payloads apart, "" for the profile itself.
func head(c issuance.DeviceCredential, kind, part, name string) payloadHead {
	identifier := identifierPrefix + string(c.ID)
	if part != "" {
		identifier += "." + part
	}
	return payloadHead{PayloadType: kind, PayloadVersion: 1, PayloadIdentifier: identifier,
		PayloadUUID: payloadUUID(c, part), PayloadDisplayName: name}
}

// payloadUUID is made of the credential, its revision and the part of the profile (RFC 9562, section
// 5.8): the same for the same rendering, another for every other.
func payloadUUID(c issuance.DeviceCredential, part string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "assay profile\x00%s\x00%d\x00%s", c.ID, c.Revision, part))
	sum[6] = sum[6]&0x0F | 0x80
	sum[8] = sum[8]&0x3F | 0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func acme(c issuance.DeviceCredential, document *credential.Credential, configuration configurationPayload) acmePayload {
	p := acmePayload{
		payloadHead:        head(c, acmePayloadType, "acme", "ACME certificate "+c.Template),
		DirectoryURL:       document.DirectoryURL,
		ClientIdentifier:   document.ClientIdentifier,
		KeySize:            document.KeySize,
		KeyType:            string(document.KeyType),
		HardwareBound:      document.HardwareBound,
		Subject:            [][][]string{},
		UsageFlags:         int(document.UsageFlags),
		ExtendedKeyUsage:   document.ExtendedKeyUsage,
		Attest:             document.Attest,
		AllowAllAppsAccess: configuration.AllowAllAppsAccess,
		KeyIsExtractable:   configuration.KeyIsExtractable,
	}
	for _, rdn := range document.Subject {
		pairs := [][]string{}
		for _, pair := range rdn {
			pairs = append(pairs, []string{pair.Type(), pair.Value()})
		}
		p.Subject = append(p.Subject, pairs)
	}
	if san := document.SubjectAltName; san != nil {
		p.SubjectAltName = new(altNamePayload(*san))
	}
	return p
}

func caPayload(c issuance.DeviceCredential, der []byte) (certificatePayload, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return certificatePayload{}, fmt.Errorf("read CA certificate: %w", err)
	}
	kind := intermediatePayloadType
	if bytes.Equal(cert.RawSubject, cert.RawIssuer) {
		kind = rootPayloadType
	}
	sum := sha256.Sum256(der)
	name := cert.Subject.CommonName
	if name == "" {
		name = cert.Subject.String()
	}
	return certificatePayload{payloadHead: head(c, kind, "ca."+hex.EncodeToString(sum[:8]), name), PayloadContent: der}, nil
}

// encodeProfile writes the profile. XML cannot carry every text (XML 1.0, section 2.2), and the encoder
// replaces what it cannot carry: such a profile is refused, not changed.
func encodeProfile(p profilePlist) ([]byte, error) {
	data, err := plist.MarshalIndent(p, "\t")
	if err != nil {
		return nil, err
	}
	var again struct {
		payloadHead
		PayloadOrganization string
		PayloadContent      []acmePayload // of certificates only what they share with it
	}
	if err := plist.Unmarshal(data, &again); err != nil {
		return nil, err
	}
	if again.payloadHead != p.payloadHead || again.PayloadOrganization != p.PayloadOrganization || len(again.PayloadContent) != len(p.PayloadContent) {
		return nil, errNoXML
	}
	for i, one := range again.PayloadContent {
		switch original := p.PayloadContent[i].(type) {
		case acmePayload:
			if !reflect.DeepEqual(one, original) {
				return nil, errNoXML
			}
		case certificatePayload:
			if one.payloadHead != original.payloadHead {
				return nil, errNoXML
			}
		}
	}
	return data, nil
}

var errNoXML = errors.New("a text has characters that a property list cannot carry")

// ProfileSigner is the chain and the key of a pair that signs profiles.
func ProfileSigner(pair tls.Certificate) ([]*x509.Certificate, crypto.Signer, error) {
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, nil, errors.New("the key cannot sign")
	}
	chain := make([]*x509.Certificate, len(pair.Certificate))
	for n, der := range pair.Certificate {
		var err error
		if chain[n], err = x509.ParseCertificate(der); err != nil {
			return nil, nil, err
		}
	}
	return chain, key, nil
}

// SignProfile wraps a profile into CMS signed data (RFC 5652) with the profile and the signer's chain
// in it, as devices take it. chain begins with the signer's certificate, whose key it is and which must
// be valid now.
func SignProfile(profile []byte, chain []*x509.Certificate, key crypto.Signer, now time.Time) ([]byte, error) {
	if len(chain) == 0 {
		return nil, errors.New("sign profile: there is no certificate")
	}
	signer := chain[0]
	public, ok := signer.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return nil, errors.New("sign profile: the key is not the certificate's")
	}
	if now.Before(signer.NotBefore) || now.After(signer.NotAfter) {
		return nil, fmt.Errorf("sign profile: the certificate is valid from %s to %s only", signer.NotBefore.Format(time.RFC3339), signer.NotAfter.Format(time.RFC3339))
	}
	signed, err := pkcs7.NewSignedData(profile)
	if err != nil {
		return nil, fmt.Errorf("sign profile: %w", err)
	}
	signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := signed.AddSignerChain(signer, key, chain[1:], pkcs7.SignerInfoConfig{}); err != nil {
		return nil, fmt.Errorf("sign profile: %w", err)
	}
	data, err := signed.Finish()
	if err != nil {
		return nil, fmt.Errorf("sign profile: %w", err)
	}
	return data, nil
}
