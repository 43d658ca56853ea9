package delivery

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"assay/credential"
	"assay/internal/issuance"
)

// Types of the declarations.
const (
	AssetType         = "com.apple.asset.credential.acme"
	ConfigurationType = "com.apple.configuration.security.identity"
	ActivationType    = "com.apple.activation.simple"
)

// Reference is what an asset declaration says of a published document.
type Reference struct {
	DataURL string // https; a secret
	Size    int    // bytes
	SHA256  string // of the document, 64 lower-case hex digits
}

// Pair is the two declarations that bring a credential to a device, as an MDM takes them, and their
// ServerTokens.
type Pair struct {
	Asset, Configuration           []byte // JSON
	AssetToken, ConfigurationToken string
}

// declaration is a declaration of any kind. Without its ServerToken it is what the token is made of.
type declaration struct {
	Type        string
	Identifier  string
	ServerToken string `json:",omitempty"`
	Payload     any
}

type assetPayload struct {
	Reference      assetReference
	Authentication authentication
	Accessible     Accessible
}

type assetReference struct {
	DataURL     string
	ContentType string
	Size        int
	Hash        string `json:"Hash-SHA-256"`
}

type authentication struct{ Type string }

type configurationPayload struct {
	CredentialAssetReference string
	AllowAllAppsAccess       *bool `json:",omitempty"`
	KeyIsExtractable         *bool `json:",omitempty"`
}

type activationPayload struct{ StandardConfigurations []string }

// Declarations makes the pair for a credential whose document is published. The same arguments make
// the same bytes. It refuses a reference that a device would refuse.
func (t *Template) Declarations(id issuance.CredentialID, ref Reference) (Pair, error) {
	if err := ref.check(); err != nil {
		return Pair{}, fmt.Errorf("make declarations of credential %s: %w", id, err)
	}
	auth := "None"
	if t.MDM {
		auth = "MDM"
	}
	asset, assetToken, err := seal(declaration{Type: AssetType, Identifier: AssetIdentifier(id), Payload: assetPayload{
		Reference:      assetReference{DataURL: ref.DataURL, ContentType: credential.ContentType, Size: ref.Size, Hash: ref.SHA256},
		Authentication: authentication{auth},
		Accessible:     t.Accessible,
	}})
	if err != nil {
		return Pair{}, err
	}
	configuration, configurationToken, err := seal(declaration{Type: ConfigurationType, Identifier: ConfigurationIdentifier(id), Payload: configurationPayload{
		CredentialAssetReference: AssetIdentifier(id),
		AllowAllAppsAccess:       t.AllowAllAppsAccess,
		KeyIsExtractable:         t.KeyIsExtractable,
	}})
	if err != nil {
		return Pair{}, err
	}
	return Pair{Asset: asset, Configuration: configuration, AssetToken: assetToken, ConfigurationToken: configurationToken}, nil
}

// check refuses what makes every device report Error.AssetCannotBeDownloaded.
func (r Reference) check() error {
	if !strings.HasPrefix(r.DataURL, "https://") {
		return errors.New("the document's URL is not https")
	}
	if r.Size <= 0 {
		return fmt.Errorf("the document has %d bytes", r.Size)
	}
	if sum, err := hex.DecodeString(r.SHA256); err != nil || len(sum) != sha256.Size || strings.ToLower(r.SHA256) != r.SHA256 {
		return errors.New("the document's SHA-256 is not 64 lower-case hex digits")
	}
	return nil
}

// Declarations are a delivery's declarations as an MDM takes them: asset, configuration, and the
// activation if it is asked for. None for a credential that was withdrawn.
func Declarations(d *issuance.Delivery, activation bool) []json.RawMessage {
	if d.Asset == nil {
		return nil
	}
	declarations := []json.RawMessage{d.Asset, d.Configuration}
	if activation {
		declarations = append(declarations, Activation(d.Credential.ID))
	}
	return declarations
}

// Activation is the declaration that activates the configuration of a credential, for MDMs that do
// not make their own.
func Activation(id issuance.CredentialID) []byte {
	data, _, err := seal(declaration{Type: ActivationType, Identifier: ActivationIdentifier(id),
		Payload: activationPayload{StandardConfigurations: []string{ConfigurationIdentifier(id)}}})
	if err != nil { // strings alone always encode
		panic(err)
	}
	return data
}

// seal writes a declaration with its ServerToken: the SHA-256 of its bytes without the token, in
// unpadded base64url (43 of the 64 octets that a token may have). So the token changes exactly when
// the bytes do.
func seal(d declaration) (data []byte, token string, err error) {
	bare, err := json.Marshal(d)
	if err != nil {
		return nil, "", fmt.Errorf("make declaration %s: %w", d.Identifier, err)
	}
	sum := sha256.Sum256(bare)
	d.ServerToken = base64.RawURLEncoding.EncodeToString(sum[:])
	data, err = json.Marshal(d)
	if err != nil {
		return nil, "", fmt.Errorf("make declaration %s: %w", d.Identifier, err)
	}
	return data, d.ServerToken, nil
}

// DeclarationKind says which declaration of a credential an Identifier names.
type DeclarationKind string

// The kinds, as Identifiers end.
const (
	AssetKind         DeclarationKind = "asset"
	ConfigurationKind DeclarationKind = "identity"
	ActivationKind    DeclarationKind = "activation"
)

const identifierPrefix = "assay."

// AssetIdentifier is the Identifier of a credential's asset declaration. Like the others it never
// changes, and has fewer than the 64 octets that it may have.
func AssetIdentifier(id issuance.CredentialID) string { return identifier(id, AssetKind) }

// ConfigurationIdentifier is the Identifier of a credential's configuration.
func ConfigurationIdentifier(id issuance.CredentialID) string {
	return identifier(id, ConfigurationKind)
}

// ActivationIdentifier is the Identifier of a credential's activation.
func ActivationIdentifier(id issuance.CredentialID) string { return identifier(id, ActivationKind) }

func identifier(id issuance.CredentialID, kind DeclarationKind) string {
	return identifierPrefix + string(id) + "." + string(kind)
}

// ParseIdentifier reads a declaration's Identifier, which a device or an MDM sent; ok is false for one
// that Assay never makes.
func ParseIdentifier(s string) (id issuance.CredentialID, kind DeclarationKind, ok bool) {
	rest, ours := strings.CutPrefix(s, identifierPrefix)
	name, ending, two := strings.Cut(rest, ".")
	kind = DeclarationKind(ending)
	if !ours || !two || !isCredentialID(name) || kind != AssetKind && kind != ConfigurationKind && kind != ActivationKind {
		return "", "", false
	}
	return issuance.CredentialID(name), kind, true
}

// isCredentialID reports whether a text has the form of a credential's id.
func isCredentialID(s string) bool {
	random, ok := strings.CutPrefix(s, "cred_")
	return ok && len(random) == 26 && strings.Trim(random, "0123456789abcdefghjkmnpqrstvwxyz") == ""
}
