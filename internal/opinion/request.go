package opinion

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"time"

	"assay/attest"
	"assay/csr"
	"assay/deviceid"
	"assay/policy"
)

// Schema is the name and version of the JSON form of a request. Members may be added within a version;
// what a member means does not change.
const Schema = "assay.opinion.request/1"

// maxRequest bounds a request's JSON. No request that the server takes comes near it: a CSR has 16 KiB,
// the labels of a code and of a device 16 KiB each, and JSON makes at most six bytes of one.
const maxRequest = 512 << 10

// The wire form has its own types, so that a change of those inside does not change what others read.
type wireRequest struct {
	Schema    string       `json:"schema"`
	ID        string       `json:"id"`
	Test      bool         `json:"test,omitempty"`
	Time      time.Time    `json:"time"`
	Directory string       `json:"directory"`
	Order     wireOrder    `json:"order"`
	Evidence  attest.Kind  `json:"evidence"`
	Facts     *wireFacts   `json:"facts,omitempty"`
	Request   *wireAsked   `json:"request,omitempty"`
	Device    *wireDevice  `json:"device,omitempty"`
	Code      *wireCode    `json:"code,omitempty"`
	History   *wireHistory `json:"history,omitempty"`
}

type wireOrder struct {
	Kind    policy.IdentifierKind `json:"kind"`
	Claimed string                `json:"claimed,omitempty"`
}

type wireFacts struct {
	Format      string                `json:"format"`
	KeyType     string                `json:"keyType,omitempty"`
	Protection  attest.Protection     `json:"protection,omitempty"`
	Identifiers []deviceid.Identifier `json:"identifiers,omitempty"`
	Posture     wirePosture           `json:"posture"`
	NotBefore   time.Time             `json:"notBefore,omitzero"`
	NotAfter    time.Time             `json:"notAfter,omitzero"`
	Root        attest.RootFact       `json:"root"`
}

type wirePosture struct {
	ProductType     string `json:"productType,omitempty"`
	OSVersion       string `json:"osVersion,omitempty"`
	SepOSVersion    string `json:"sepOSVersion,omitempty"`
	LLBVersion      string `json:"llbVersion,omitempty"`
	SIPEnabled      *bool  `json:"sipEnabled,omitempty"`
	SecureBoot      string `json:"secureBoot,omitempty"`
	ThirdPartyKexts *bool  `json:"thirdPartyKexts,omitempty"`
}

type wireAsked struct {
	Subject         []wireAttribute `json:"subject,omitempty"`
	AltNames        []wireAltName   `json:"altNames,omitempty"`
	KeyUsage        csr.KeyUsage    `json:"keyUsage,omitempty"`
	ExtKeyUsage     []string        `json:"extKeyUsage,omitempty"`
	KeyType         string          `json:"keyType"`
	KeySize         int             `json:"keySize"`
	KeySHA256       string          `json:"keySHA256,omitempty"`
	OtherExtensions []string        `json:"otherExtensions,omitempty"`
}

type wireAttribute struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

type wireAltName struct {
	Kind  csr.AltKind `json:"kind"`
	Value string      `json:"value,omitempty"`
}

type wireDevice struct {
	ID        string            `json:"id"`
	Proven    bool              `json:"proven"`
	Known     bool              `json:"known"`
	State     policy.State      `json:"state,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Attested  bool              `json:"attested"`
	CreatedAt time.Time         `json:"createdAt,omitzero"`
	LastSeen  time.Time         `json:"lastSeen,omitzero"`
}

type wireCode struct {
	ID              string            `json:"id"`
	Serial          string            `json:"serial,omitempty"`
	UDID            string            `json:"udid,omitempty"`
	AllowUnattested bool              `json:"allowUnattested"`
	Template        string            `json:"template,omitempty"`
	Credential      string            `json:"credential,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	Tries           int               `json:"tries"`
	CreatedAt       time.Time         `json:"createdAt"`
	AgeSeconds      int64             `json:"ageSeconds"`
}

type wireHistory struct {
	DeviceCertificates int       `json:"deviceCertificates"`
	DeviceValid        int       `json:"deviceValid"`
	DeviceLastIssued   time.Time `json:"deviceLastIssued,omitzero"`
	KeyCertificates    int       `json:"keyCertificates"`
	KeyOtherDevices    int       `json:"keyOtherDevices"`
	Refusals           int       `json:"refusals"`
}

// newID makes the id of a request. It has no full stop, which divides what is signed.
func newID(random io.Reader) (string, error) {
	var raw [16]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", fmt.Errorf("make id: %w", err)
	}
	return "opinion_" + hex.EncodeToString(raw[:]), nil
}

// encode makes the JSON of a request.
func encode(id string, in policy.Input, test bool) ([]byte, error) {
	w := wireRequest{
		Schema: Schema, ID: id, Test: test, Time: in.Now.UTC(), Directory: in.Directory,
		Order: wireOrder{in.Identifier, hideCodes(in.Claimed)}, Evidence: in.Evidence,
		Facts: factsOf(in.Facts), Request: askedOf(in.Request), Device: deviceOf(in.Device), Code: codeOf(in.Code, in.Now),
	}
	if in.History != nil {
		h := wireHistory(*in.History)
		w.History = &h
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(w); err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	if body.Len() > maxRequest {
		return nil, fmt.Errorf("the request has %d bytes of JSON, more than %d", body.Len(), maxRequest)
	}
	return bytes.TrimSuffix(body.Bytes(), []byte("\n")), nil
}

// factsOf leaves out what only evidence needs: keys, and properties without a known meaning.
func factsOf(f *attest.Facts) *wireFacts {
	if f == nil {
		return nil
	}
	p := f.Posture
	return &wireFacts{
		Format: f.Format, KeyType: f.KeyType, Protection: f.Protection, Identifiers: f.Identifiers,
		Posture:   wirePosture{p.ProductType, p.OSVersion, p.SepOSVersion, p.LLBVersion, p.SIPEnabled, p.SecureBoot, p.ThirdPartyKexts},
		NotBefore: f.NotBefore, NotAfter: f.NotAfter, Root: f.Root,
	}
}

// askedOf is what the CSR asks for. Of alternative names of a kind that is not read, the kind alone is
// sent: nobody here knows what the value may hold.
func askedOf(r *csr.Request) *wireAsked {
	if r == nil {
		return nil
	}
	w := &wireAsked{KeyUsage: r.KeyUsage, ExtKeyUsage: r.ExtKeyUsage, KeyType: r.KeyType, KeySize: r.KeySize, OtherExtensions: r.OtherExtensions}
	for _, rdn := range r.Subject {
		for _, a := range rdn {
			w.Subject = append(w.Subject, wireAttribute{a.Type, hideCodes(a.Value)})
		}
	}
	for _, n := range r.AltNames {
		name := wireAltName{Kind: n.Kind}
		if n.Kind != csr.AltOther {
			name.Value = hideCodes(n.Value)
		}
		w.AltNames = append(w.AltNames, name)
	}
	if len(r.SPKI) > 0 {
		sum := sha256.Sum256(r.SPKI)
		w.KeySHA256 = hex.EncodeToString(sum[:])
	}
	return w
}

func deviceOf(d *policy.Device) *wireDevice {
	if d == nil {
		return nil
	}
	return &wireDevice{
		ID: d.ID, Proven: d.Proven, Known: d.Known, State: d.State, Labels: d.Labels, Attested: d.Attested,
		CreatedAt: d.CreatedAt, LastSeen: d.LastSeen,
	}
}

func codeOf(c *policy.Code, now time.Time) *wireCode {
	if c == nil {
		return nil
	}
	return &wireCode{
		ID: c.ID, Serial: c.Serial, UDID: c.UDID, AllowUnattested: c.AllowUnattested, Template: c.Template, Credential: c.Credential,
		Labels: c.Labels, Tries: c.Tries, CreatedAt: c.CreatedAt, AgeSeconds: int64(now.Sub(c.CreatedAt).Seconds()),
	}
}

// hidden stands for what may be a code.
const hidden = "(code)"

var (
	codeAlphabet = regexp.MustCompile(`[A-Za-z0-9_-]+`)
	hexadecimal  = regexp.MustCompile(`^([0-9a-f]+|[0-9A-F]+)$`)
)

// codeLength is the length of a code, in characters of base64url.
const codeLength = 32

// hideCodes takes from a text what has the form of a code. ACME clients that know no other name for
// themselves repeat their order's identifier in the CSR, which is the code: until it is used it gives
// whoever has it a try. A UUID without its hyphens has the same form; in hexadecimal alone no code is
// ever written.
func hideCodes(text string) string {
	return codeAlphabet.ReplaceAllStringFunc(text, func(run string) string {
		if len(run) != codeLength || hexadecimal.MatchString(run) {
			return run
		}
		return hidden
	})
}
