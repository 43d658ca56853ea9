package credential

// Rule is one thing that the linter looks for. Ids are stable: scripts may depend on them.
type Rule struct {
	ID       string
	Severity Severity
	Title    string // what the rule demands, one line
	Source   string // where it comes from
}

// Sources that many rules share.
const (
	docCredential = "Apple documentation, ACMECredential"
	docSupport    = "Apple documentation, ACMECredential: ACME attestation hardware support"
	schema        = "Apple schema, com.apple.credential.acme"
	rfcJSON       = "RFC 8259, section "
	rfcCert       = "RFC 5280, section "
	observed      = "observed behaviour of Apple's ACME client"
	draft         = "draft-ietf-acme-device-attest, permanent-identifier"
)

// Rules of the bytes and of JSON itself.
var (
	documentTooLarge    = &Rule{"document-too-large", Error, "The document has at most 64 KiB.", "limit of this program"}
	documentEmpty       = &Rule{"document-empty", Error, "The document is not empty.", rfcJSON + "2"}
	byteOrderMark       = &Rule{"byte-order-mark", Error, "The document does not begin with a byte order mark.", rfcJSON + "8.1"}
	notUTF8             = &Rule{"not-utf-8", Error, "The document is UTF-8, not UTF-16 or UTF-32.", rfcJSON + "8.1"}
	invalidUTF8         = &Rule{"invalid-utf-8", Error, "Every string is valid UTF-8.", rfcJSON + "8.1"}
	jsonSyntax          = &Rule{"json-syntax", Error, "The document is JSON.", rfcJSON + "2"}
	trailingData        = &Rule{"trailing-data", Error, "Nothing follows the object.", rfcJSON + "2"}
	nestingTooDeep      = &Rule{"nesting-too-deep", Error, "Values nest at most 16 deep.", "limit of this program (RFC 8259, section 9)"}
	tooManyFindings     = &Rule{"too-many-findings", Error, "Rules are broken in fewer than 1000 places.", "limit of this program"}
	duplicateKey        = &Rule{"duplicate-key", Error, "No object has a key twice, at any level.", rfcJSON + "4; RFC 7493, section 2.3"}
	loneSurrogateEscape = &Rule{"lone-surrogate", Error, "Surrogates come in pairs.", rfcJSON + "8.2; RFC 7493, section 2.1"}
	notAnObject         = &Rule{"not-an-object", Error, "The document is one JSON object.", schema}
)

// Rules of keys, types and text that hold everywhere.
var (
	missingKey       = &Rule{"missing-key", Error, "Every required key is there.", schema}
	nullValue        = &Rule{"null-value", Error, "No value is null.", schema}
	wrongType        = &Rule{"wrong-type", Error, "Every value has its type.", schema}
	integerRange     = &Rule{"integer-range", Error, "Integers are between 0 and 2147483647.", schema}
	integerForm      = &Rule{"integer-form", Warning, "Integers are written without fraction, exponent or sign.", rfcJSON + "6; " + schema}
	unknownKey       = &Rule{"unknown-key", Warning, "Every key is one that Apple documents, spelt as documented.", schema + "; " + observed}
	misplacedKey     = &Rule{"misplaced-key", Warning, "Keys of declarations and profiles stay out of the document.", "Apple schemas, com.apple.asset.credential.acme, com.apple.configuration.security.identity, com.apple.security.acme"}
	controlCharacter = &Rule{"control-character", Warning, "Text has no control or invisible formatting characters, and no code points that are no characters.", "X.520, DirectoryString; RFC 3986, section 2"}
	surroundingSpace = &Rule{"surrounding-space", Warning, "Text does not begin or end with a space.", "RFC 4518, section 2.6.1"}
	placeholder      = &Rule{"placeholder", Warning, "Template variables have been filled in.", "practice: template variables of MDM servers"}
)

// Rules of the directory URL and the client identifier.
var (
	directoryScheme     = &Rule{"directory-url-scheme", Error, "DirectoryURL uses https.", docCredential + ": DirectoryURL; RFC 8555, section 6.1"}
	directoryForm       = &Rule{"directory-url-form", Error, "DirectoryURL is an absolute URL with a host.", docCredential + ": DirectoryURL; RFC 3986, section 3"}
	directoryCharacters = &Rule{"directory-url-characters", Warning, "DirectoryURL has only characters that a URL may have.", "RFC 3986, section 2"}
	directoryUserinfo   = &Rule{"directory-url-userinfo", Warning, "DirectoryURL holds no user name or password.", "RFC 9110, section 4.2.4"}
	directoryFragment   = &Rule{"directory-url-fragment", Warning, "DirectoryURL has no fragment.", "RFC 9110, section 4.2.5"}
	directoryLoopback   = &Rule{"directory-url-loopback", Warning, "DirectoryURL does not point at the device itself.", "RFC 6761, section 6.3; RFC 1122, section 3.2.1.3"}

	identifierEmpty    = &Rule{"client-identifier-empty", Error, "ClientIdentifier is not empty.", draft}
	identifierGrammar  = &Rule{"client-identifier-grammar", Error, "What follows a / in ClientIdentifier is an OID, and an identifier precedes it.", draft}
	identifierAssigner = &Rule{"client-identifier-assigner", Warning, "ClientIdentifier has no /.", draft}
	identifierDevice   = &Rule{"client-identifier-device", Warning, "ClientIdentifier is a one-time code, not a serial number or UDID.", docCredential + ": ClientIdentifier"}
	identifierShort    = &Rule{"client-identifier-short", Warning, "ClientIdentifier has at least 16 characters.", docCredential + ": ClientIdentifier; RFC 8555, section 11.3"}
)

// Rules of the key pair.
var (
	keyTypeUnknown    = &Rule{"key-type", Error, "KeyType is RSA or ECSECPrimeRandom.", docCredential + ": KeyType"}
	keySizeRSA        = &Rule{"key-size-rsa", Error, "An RSA KeySize is 1024 to 4096 and a multiple of 8.", docCredential + ": KeyType"}
	keySizeEC         = &Rule{"key-size-ec", Error, "An ECSECPrimeRandom KeySize is 256, 384 or 521.", docCredential + ": KeyType"}
	keySizeHardware   = &Rule{"key-size-hardware", Error, "A hardware-bound KeySize is 256 or 384.", docCredential + ": HardwareBound"}
	hardwareRSA       = &Rule{"hardware-bound-rsa", Error, "A hardware-bound key is no RSA key.", docCredential + ": HardwareBound"}
	attestSoftwareKey = &Rule{"attest-software-key", Error, "An attested key is hardware-bound.", docCredential + ": Attest"}
	attestOff         = &Rule{"attest-off", Warning, "A hardware-bound key is attested.", docCredential + ": Attest"}
	keySizeWeak       = &Rule{"key-size-weak", Warning, "An RSA key has 2048 bits or more.", "NIST SP 800-131A, section 3"}
)

// Rules of the subject.
var (
	subjectEmpty      = &Rule{"subject-empty", Warning, "Subject is not empty.", rfcCert + "4.1.2.6"}
	subjectShape      = &Rule{"subject-shape", Error, "Subject is an array of arrays of pairs.", docCredential + ": Subject"}
	subjectRDNEmpty   = &Rule{"subject-rdn-empty", Error, "Every RDN of Subject has a pair.", rfcCert + "4.1.2.4"}
	subjectMultiPair  = &Rule{"subject-multi-pair", Warning, "Every RDN of Subject has only one pair.", observed}
	subjectAttribute  = &Rule{"subject-attribute", Error, "An attribute type is C, L, ST, O, OU, CN or a dotted OID.", docCredential + ": Subject"}
	subjectValueEmpty = &Rule{"subject-value-empty", Warning, "An attribute value is not empty.", "X.520, DirectoryString; RFC 5280, appendix A.1"}
	subjectValueLong  = &Rule{"subject-value-long", Warning, "An attribute value is within its upper bound.", "RFC 5280, appendix A.1"}
	countryCode       = &Rule{"country-code", Warning, "A country is two upper-case letters.", "ISO 3166-1; RFC 5280, appendix A.1"}
	oidSyntax         = &Rule{"oid-syntax", Error, "A dotted OID is well formed.", "X.660, section 7; " + schema}
	oidLargeArc       = &Rule{"oid-large-arc", Warning, "An arc of an OID is at most 2147483647.", "practice: X.660 sets no limit, many programs stop at 31 bits"}
)

// Rules of the alternative names.
var (
	altNameEmpty      = &Rule{"alt-name-empty", Warning, "SubjectAltName, where present, holds a name.", observed + "; RFC 5280, section 4.2.1.6"}
	altNameEmptyValue = &Rule{"alt-name-empty-value", Warning, "An alternative name is not an empty string.", rfcCert + "4.2.1.6"}
	altNameASCII      = &Rule{"alt-name-ascii", Warning, "Addresses, DNS names and URIs are ASCII.", rfcCert + "4.2.1.6 (IA5String)"}
	altNameEmail      = &Rule{"alt-name-email", Warning, "rfc822Name is an email address.", rfcCert + "4.2.1.6; RFC 5321, section 4.1.2"}
	altNameDNS        = &Rule{"alt-name-dns", Warning, "dNSName is a host name.", rfcCert + "4.2.1.6; RFC 1123, section 2.1"}
	altNameURI        = &Rule{"alt-name-uri", Warning, "uniformResourceIdentifier is an absolute URI.", rfcCert + "4.2.1.6; RFC 3986, section 3"}
	altNameUPN        = &Rule{"alt-name-upn", Warning, "ntPrincipalName has the form name@domain.", "MS-ADA3, userPrincipalName"}
)

// Rules of the usages.
var (
	usageBits         = &Rule{"usage-flags-bits", Warning, "UsageFlags has no bits but 0x01 and 0x04.", docCredential + ": UsageFlags"}
	usageZero         = &Rule{"usage-flags-zero", Warning, "UsageFlags, where present, is not 0.", observed}
	usageEncipherment = &Rule{"usage-flags-encipherment", Warning, "An elliptic-curve key does not ask for key encipherment.", "RFC 8813, section 3"}
	usageSignature    = &Rule{"usage-flags-signature", Warning, "UsageFlags has the digital signature bit.", rfcCert + "4.2.1.3; RFC 8446, section 4.4.2.3"}
	extUsageEmpty     = &Rule{"extended-key-usage-empty", Warning, "ExtendedKeyUsage, where present, holds an OID.", rfcCert + "4.2.1.12; " + observed}
	extUsageRepeated  = &Rule{"extended-key-usage-repeated", Warning, "ExtendedKeyUsage names nothing twice.", rfcCert + "4.2.1.12"}
	extUsageNoClient  = &Rule{"extended-key-usage-no-client", Warning, "ExtendedKeyUsage includes client authentication.", rfcCert + "4.2.1.12; " + observed}
)

// Rules of targets.
var (
	targetVersion         = &Rule{"target-version", Error, "The target's system resolves ACME credentials.", docCredential + ": Platforms"}
	targetHardwareMac     = &Rule{"target-hardware-bound", Error, "HardwareBound is true only for Macs with Apple silicon or a T2 chip.", docCredential + ": HardwareBound"}
	targetHardwareUnknown = &Rule{"target-hardware-bound-unknown", Warning, "HardwareBound fits every Mac that the target may mean.", docCredential + ": HardwareBound"}
	targetAttestIgnored   = &Rule{"target-attest-ignored", Warning, "The target's chip attests.", docSupport}
	targetAttestUnknown   = &Rule{"target-attest-unknown", Warning, "Every chip that the target may mean attests.", docSupport}
	targetChip            = &Rule{"target-chip", Warning, "The target's chip exists in devices of its platform.", "Apple technical specifications"}
	targetChipVersion     = &Rule{"target-chip-version", Warning, "Devices with the target's chip run its version.", "Apple operating system compatibility lists"}
)

// Rules returns every rule, in the order of the documentation.
func Rules() []Rule {
	var out []Rule
	for _, r := range []*Rule{
		documentTooLarge, documentEmpty, byteOrderMark, notUTF8, invalidUTF8, jsonSyntax, trailingData,
		nestingTooDeep, tooManyFindings, duplicateKey, loneSurrogateEscape, notAnObject,
		missingKey, nullValue, wrongType, integerRange, integerForm, unknownKey, misplacedKey,
		controlCharacter, surroundingSpace, placeholder,
		directoryScheme, directoryForm, directoryCharacters, directoryUserinfo, directoryFragment, directoryLoopback,
		identifierEmpty, identifierGrammar, identifierAssigner, identifierDevice, identifierShort,
		keyTypeUnknown, keySizeRSA, keySizeEC, keySizeHardware, hardwareRSA, attestSoftwareKey, attestOff, keySizeWeak,
		subjectEmpty, subjectShape, subjectRDNEmpty, subjectMultiPair, subjectAttribute, subjectValueEmpty,
		subjectValueLong, countryCode, oidSyntax, oidLargeArc,
		altNameEmpty, altNameEmptyValue, altNameASCII, altNameEmail, altNameDNS, altNameURI, altNameUPN,
		usageBits, usageZero, usageEncipherment, usageSignature, extUsageEmpty, extUsageRepeated, extUsageNoClient,
		targetVersion, targetHardwareMac, targetHardwareUnknown, targetAttestIgnored, targetAttestUnknown,
		targetChip, targetChipVersion,
	} {
		out = append(out, *r)
	}
	return out
}
