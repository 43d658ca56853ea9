package ddm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"crypto/sha256"

	"github.com/micromdm/plist"
	"github.com/smallstep/pkcs7"

	"assay/credential"
	"assay/enroll"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// fakeMDM is an MDM server with declarative management for one device.
type fakeMDM struct {
	t        *testing.T
	server   *httptest.Server
	identity tls.Certificate

	declarations map[string]map[string]any // by Identifier
	commands     []string                  // queued request types, one at a time
	brought      []byte                    // Data of DeclarativeManagement commands
	answer       func(message string, w http.ResponseWriter) bool
	certHeader   string

	seen    []string         // messages in their order
	reports []map[string]any // status reports
	results []commandResult
}

func newFakeMDM(t *testing.T) *fakeMDM {
	t.Helper()
	m := &fakeMDM{t: t, identity: newIdentity(t, "device"), declarations: map[string]map[string]any{}}
	m.server = httptest.NewServer(m)
	t.Cleanup(m.server.Close)
	return m
}

// newIdentity is a self-signed MDM identity.
func newIdentity(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	leaf := certify(name, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, Leaf: leaf, PrivateKey: key}
}

func certify(name string, public crypto.PublicKey, issuer *ecdsa.PrivateKey) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: must(rand.Int(rand.Reader, big.NewInt(1<<60))), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}}
	if issuer.Public().(*ecdsa.PublicKey).Equal(public) {
		parent = template
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, parent, public, issuer))))
}

func (m *fakeMDM) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := must(io.ReadAll(r.Body))
	if r.Method != http.MethodPut || !m.proves(r, body) {
		m.t.Errorf("request without proof of identity: %s %v", r.Method, r.Header)
	}
	var message struct {
		MessageType, Endpoint, UDID, Status, CommandUUID string
		Data                                             []byte
		ErrorChain                                       []commandError
	}
	if err := plist.Unmarshal(body, &message); err != nil || message.UDID == "" {
		m.t.Errorf("message %s: %v", body, err)
	}
	name := message.MessageType
	if message.Endpoint != "" {
		name = message.Endpoint
	}
	if name == "" {
		name = message.Status
	}
	if want := map[bool]string{true: typeCheckIn, false: typeCommand}[message.MessageType != ""]; r.Header.Get("Content-Type") != want {
		m.t.Errorf("%s came as %s", name, r.Header.Get("Content-Type"))
	}
	m.seen = append(m.seen, name)
	if m.answer != nil && m.answer(name, w) {
		return
	}
	switch {
	case message.Endpoint == "status":
		var report map[string]any
		if err := json.Unmarshal(message.Data, &report); err != nil {
			m.t.Error(err)
		}
		m.reports = append(m.reports, report)
	case message.Endpoint != "":
		m.declare(w, message.Endpoint)
	case message.MessageType == "":
		m.results = append(m.results, commandResult{Status: message.Status, CommandUUID: message.CommandUUID, ErrorChain: message.ErrorChain})
		m.nextCommand(w)
	}
}

// proves checks the device's proof of its identity.
func (m *fakeMDM) proves(r *http.Request, body []byte) bool {
	if m.certHeader != "" {
		return r.Header.Get(m.certHeader) == ":"+base64.StdEncoding.EncodeToString(m.identity.Leaf.Raw)+":"
	}
	der, err := base64.StdEncoding.DecodeString(r.Header.Get("Mdm-Signature"))
	if err != nil {
		return false
	}
	signed, err := pkcs7.Parse(der)
	if err != nil || len(signed.Content) > 0 {
		return false // it must be detached
	}
	signed.Content = body
	return signed.Verify() == nil && signed.GetOnlySigner().Equal(m.identity.Leaf)
}

func (m *fakeMDM) nextCommand(w http.ResponseWriter) {
	if len(m.commands) == 0 {
		return
	}
	type inner struct {
		RequestType string
		Data        []byte `plist:",omitempty"`
	}
	command := struct {
		CommandUUID string
		Command     inner
	}{fmt.Sprintf("uuid-%d", len(m.commands)), inner{RequestType: m.commands[0]}}
	if m.commands[0] == "DeclarativeManagement" {
		command.Command.Data = m.brought
	}
	m.commands = m.commands[1:]
	w.Write(must(plist.Marshal(command)))
}

// token changes with the declarations.
func (m *fakeMDM) token() string {
	sum := sha256.Sum256(must(json.Marshal(m.declarations)))
	return hex.EncodeToString(sum[:8])
}

func (m *fakeMDM) tokens() []byte {
	return must(json.Marshal(map[string]any{"SyncTokens": map[string]string{"Timestamp": "2026-01-01T00:00:00Z", "DeclarationsToken": m.token()}}))
}

func (m *fakeMDM) declare(w http.ResponseWriter, endpoint string) {
	switch endpoint {
	case "tokens":
		w.Write(m.tokens())
	case "declaration-items":
		lists := map[string][]any{"Activations": {}, "Assets": {}, "Configurations": {}, "Management": {}}
		for _, id := range slices.Sorted(maps.Keys(m.declarations)) {
			d := m.declarations[id]
			for _, k := range kinds {
				if strings.HasPrefix(d["Type"].(string), k.prefix) {
					lists[k.manifest] = append(lists[k.manifest], map[string]any{"Identifier": id, "ServerToken": d["ServerToken"]})
				}
			}
		}
		json.NewEncoder(w).Encode(map[string]any{"Declarations": lists, "DeclarationsToken": m.token()})
	default:
		parts := strings.SplitN(endpoint, "/", 3)
		d := m.declarations[parts[2]]
		if d == nil || !strings.HasPrefix(d["Type"].(string), "com.apple."+parts[1]+".") {
			m.t.Errorf("asked for %s", endpoint)
		}
		json.NewEncoder(w).Encode(d)
	}
}

func (m *fakeMDM) put(kind, id, token string, payload map[string]any) {
	m.declarations[id] = map[string]any{"Type": kind, "Identifier": id, "ServerToken": token, "Payload": payload}
}

// documents is a server of credential documents and of nothing else.
type documents struct {
	*httptest.Server
	requests int
	shown    string // subject of the client certificate of the last request
	status   int
	code     string
}

const documentBody = `{"DirectoryURL":"https://id.example.com/acme/default/directory","ClientIdentifier":"abc",
"KeyType":"ECSECPrimeRandom","KeySize":384,"HardwareBound":true,"Attest":true,"Subject":[[["CN","device"]]]}`

func newDocuments(t *testing.T) *documents {
	t.Helper()
	d := &documents{status: http.StatusOK, code: "abc"}
	d.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.requests++
		d.shown = ""
		for _, c := range r.TLS.PeerCertificates {
			d.shown = c.Subject.CommonName
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(d.status)
		io.WriteString(w, strings.Replace(documentBody, "abc", d.code, 1))
	}))
	d.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	d.StartTLS()
	t.Cleanup(d.Close)
	return d
}

// site is a device with its MDM and a server of documents.
type site struct {
	*Device
	mdm       *fakeMDM
	documents *documents
	runs      int   // of ACME
	refuse    error // by ACME
	path      string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{mdm: newFakeMDM(t), documents: newDocuments(t), path: t.TempDir()}
	device := must(enroll.NewDevice(enroll.IPhone, "", rand.Reader))
	roots := x509.NewCertPool()
	roots.AddCert(s.documents.Certificate())
	issuer := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	s.Device = &Device{
		Device: device, MDM: &MDM{URL: s.mdm.server.URL + "/mdm", Identity: s.mdm.identity}, Folder: must(OpenFolder(s.path)),
		Identities: must(enroll.OpenStore(filepath.Join(s.path, "identities"), nil)), Keys: enroll.Keys(device), Roots: roots,
	}
	s.run = func(ctx context.Context, document *credential.Credential) (*enroll.Result, error) {
		s.runs++
		if s.refuse != nil {
			return nil, s.refuse
		}
		key, err := s.Keys.MakeKey(ctx, enroll.KeySpec{Type: document.KeyType, Size: document.KeySize, HardwareBound: document.HardwareBound})
		if err != nil {
			return nil, err
		}
		certificate := certify("Sam's iPhone", key.Public(), issuer)
		return &enroll.Result{
			Credential: document, Device: *device, Key: key, Certificate: certificate,
			Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}),
		}, nil
	}
	return s
}

// declareIdentity declares asset, configuration, activation and, with them, a subscription.
func (s *site) declareIdentity(token, authentication string) {
	payload := map[string]any{"Reference": map[string]any{"DataURL": s.documents.URL + "/x", "ContentType": "application/json"}}
	if authentication != "" {
		payload["Authentication"] = map[string]any{"Type": authentication}
	}
	s.mdm.put(TypeACMEAsset, "asset", token, payload)
	s.mdm.put(TypeIdentity, "identity", "c1", map[string]any{"CredentialAssetReference": "asset"})
	s.mdm.put(TypeSubscriptions, "subscriptions", "s1", map[string]any{"StatusItems": []any{
		map[string]any{"Name": itemCertificates}, map[string]any{"Name": "device.identifier.serial-number"}, map[string]any{"Name": "unknown.item"},
	}})
	s.mdm.put(TypeActivation, "activation", "a1", map[string]any{"StandardConfigurations": []any{"identity", "subscriptions"}})
}

func (s *site) sync(t *testing.T) *Outcome {
	t.Helper()
	s.mdm.seen = nil
	outcome, err := s.Sync(t.Context(), s.mdm.tokens())
	if err != nil {
		t.Fatal(err)
	}
	return outcome
}
