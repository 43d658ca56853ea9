package evidence

import (
	"archive/zip"
	"bytes"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"assay/attest"
	"assay/internal/audit"
	"assay/internal/issuance"
)

//go:embed bundle/README.txt
var readme []byte

//go:embed bundle/verify.sh
var script []byte

// Bundle is everything about a piece of evidence that somebody else needs to verify it.
type Bundle struct {
	Evidence    issuance.Evidence
	Root        *attest.Root          // that anchored it; nil if it is not configured any more
	Decision    *issuance.Decision    // nil if there was none, or it is not kept
	Policy      string                // text of the policy that decided; "" for none
	Certificate *issuance.Certificate // nil if none was issued
	Issuers     [][]byte              // DER, the certificate's issuer first
	Audit       []audit.Row           // of the order
}

// ErrNoObject: evidence without an attestation object proves nothing to anybody.
var ErrNoObject = errors.New("the evidence holds no attestation object: the device sent none, or it is not kept any more")

// ErrNoChain: an object without certificates proves nothing, either. It was refused when it came.
var ErrNoChain = errors.New("the evidence's object holds no certificates")

// Write writes a bundle as a ZIP file; the same bundle as the same bytes. verify.sh in it checks, with OpenSSL
// alone, the chain, the freshness and the keys.
func Write(w io.Writer, b *Bundle) error {
	if b.Evidence.Object == nil {
		return ErrNoObject
	}
	chain, err := attest.Chain(b.Evidence.Object)
	if err != nil || len(chain) == 0 { // a device may send anything
		return ErrNoChain
	}
	z := &writer{zip: zip.NewWriter(w), at: b.Evidence.ReceivedAt.UTC()}
	z.add("README.txt", readme)
	z.add("verify.sh", script)
	z.add("attestation.cbor", b.Evidence.Object)
	z.add("leaf.pem", pemOf(chain[:1]))
	z.add("intermediates.pem", pemOf(chain[1:]))
	if b.Root != nil {
		z.add("root.pem", pemOf([][]byte{b.Root.Certificate.Raw}))
	}
	z.add("token.txt", []byte(b.Evidence.Token)) // no line end: the freshness is of these very bytes
	z.add("received-at.txt", []byte(strconv.FormatInt(b.Evidence.ReceivedAt.Unix(), 10)))
	z.addJSON("evidence.json", evidenceOf(&b.Evidence))
	if b.Decision != nil {
		z.addJSON("decision.json", b.Decision)
	}
	if b.Policy != "" {
		z.add("policy.yaml", []byte(b.Policy))
	}
	if b.Certificate != nil && len(b.Certificate.DER) > 0 {
		z.add("certificate.pem", pemOf([][]byte{b.Certificate.DER}))
		z.add("issuers.pem", pemOf(b.Issuers))
	}
	if len(b.Audit) > 0 {
		z.addJSON("audit.json", b.Audit)
	}
	if z.err == nil {
		z.err = z.zip.Close()
	}
	if z.err != nil {
		return fmt.Errorf("bundle %s: %w", b.Evidence.ID, z.err)
	}
	return nil
}

// described is a piece of evidence without what stands in files of its own.
type described struct {
	ID          issuance.EvidenceID `json:"id"`
	Order       issuance.OrderID    `json:"order"`
	ReceivedAt  time.Time           `json:"receivedAt"`
	Format      string              `json:"format"`
	KeyAuth     string              `json:"keyAuthorization"`
	DeviceError string              `json:"deviceError,omitempty"`
	Failed      string              `json:"failed,omitempty"`
	Facts       *attest.Facts       `json:"facts,omitempty"`
}

func evidenceOf(e *issuance.Evidence) described {
	return described{ID: e.ID, Order: e.Order, ReceivedAt: e.ReceivedAt, Format: e.Format, KeyAuth: e.KeyAuth, DeviceError: e.DeviceError, Failed: e.Failed, Facts: e.Facts}
}

// writer writes files until one fails.
type writer struct {
	zip *zip.Writer
	at  time.Time
	err error
}

func (z *writer) add(name string, data []byte) {
	if z.err != nil {
		return
	}
	header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: z.at}
	header.SetMode(0o644)
	if name == "verify.sh" {
		header.SetMode(0o755)
	}
	var f io.Writer
	if f, z.err = z.zip.CreateHeader(header); z.err == nil {
		_, z.err = f.Write(data)
	}
}

func (z *writer) addJSON(name string, v any) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil && z.err == nil {
		z.err = err
	}
	z.add(name, append(text, '\n'))
}

func pemOf(ders [][]byte) []byte {
	var out bytes.Buffer
	for _, der := range ders {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // to a buffer, which takes everything
	}
	return out.Bytes()
}
