package admin

import "encoding/json"

// List is one page of a list.
type List[T any] struct {
	Items []T    `json:"items" nullable:"false" doc:"At most limit things, oldest first."`
	Next  string `json:"next,omitempty" doc:"Cursor of the next page; absent on the last one."`
}

// MintCodes asks for codes, all or none.
type MintCodes struct {
	Codes []MintCode `json:"codes" nullable:"false" minItems:"1" maxItems:"500"`
}

// MintedCodes are fresh codes, with their values, in the order of the request.
type MintedCodes struct {
	Codes []Code `json:"codes" nullable:"false"`
}

// FindCode asks for a code by its value.
type FindCode struct {
	Directory string `json:"directory,omitempty" doc:"ACME directory that the code works in. Default: any."`
	Code      string `json:"code" minLength:"1" maxLength:"255" doc:"The code itself."`
}

// RevokeCertificate says why a certificate is revoked.
type RevokeCertificate struct {
	Reason string `json:"reason,omitempty" enum:"unspecified,keyCompromise,cACompromise,affiliationChanged,superseded,cessationOfOperation,certificateHold,privilegeWithdrawn,aACompromise" doc:"RFC 5280, section 5.3.1. Default: unspecified."`
}

// DeclareOne asks for the credential of one device.
type DeclareOne struct {
	Template string `json:"template" minLength:"1" maxLength:"63" doc:"Name of the credential template."`
	Declare
}

// DeclaredBatch is what became of each device of a batch, in the order of the request.
type DeclaredBatch struct {
	Results []DeclareResult `json:"results" nullable:"false"`
}

// PublishDocument asks to publish a credential document that was written by hand, around a fresh code.
type PublishDocument struct {
	Document json.RawMessage `json:"document" doc:"The ACMECredential document; its ClientIdentifier and DirectoryURL are replaced."`
	MintCode
}

// Publication is a published document, with what an asset declaration says of it.
type Publication struct {
	Code        Code   `json:"code" doc:"The code in the document; its value stands only there."`
	URL         string `json:"url" doc:"Reference.DataURL. A secret: who has it has the code."`
	ContentType string `json:"contentType" doc:"Reference.ContentType."`
	Size        int    `json:"size" doc:"Reference.Size."`
	SHA256      string `json:"sha256" doc:"Reference.Hash-SHA-256."`
}

// StatusResult says which credentials a status report concerned.
type StatusResult struct {
	Credentials []string `json:"credentials" nullable:"false" doc:"Ids of the credentials whose declarations or certificates the report names."`
}
