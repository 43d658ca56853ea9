package credential

import (
	"fmt"
	"strings"
)

const (
	urlLine     = `"https://id.example.com/acme/default/directory"`
	codeLine    = `"9vJ8n3sX0uZlq7QbW2dKfA"`
	sizeLine    = `"KeySize": 384`
	boundLine   = `"HardwareBound": true`
	flagsLine   = `"UsageFlags": 1`
	attestLine  = `"Attest": true`
	subjectLine = `[[["C", "US"]], [["O", "Example Inc."]], [["CN", "device"]]]`
	usageLine   = `["1.3.6.1.5.5.7.3.2"]`
)

var encodingCases = []ruleCase{
	{"more than 64 KiB", "", clean + strings.Repeat(" ", MaxSize), "", one("document-too-large", "$")},
	{"fits as read but not as written", `"device"`, `"a` + strings.Repeat("\u2028", 15000) + `b"`, "",
		[]found{{"control-character", "$.Subject[2][0][1]"}, {"subject-value-long", "$.Subject[2][0][1]"}, {"document-too-large", "$"}}},
	{"no bytes", "", " \n", "", one("document-empty", "$")},
	{"byte order mark", "", "\xEF\xBB\xBF" + clean, "", one("byte-order-mark", "$")},
	{"UTF-16 with mark", "", "\xFF\xFE{\x00}\x00", "", one("not-utf-8", "$")},
	{"UTF-16 without mark", "", "\x00{\x00}", "", one("not-utf-8", "$")},
	{"UTF-32", "", "{\x00\x00\x00}\x00\x00\x00", "", one("not-utf-8", "$")},
	{"Latin-1 in a value", `"Example Inc."`, "\"Caf\xe9\"", "", one("invalid-utf-8", "$.Subject[1][0][1]")},
	{"Latin-1 in a key", attestLine, attestLine + ", \"caf\xe9\": 1", "", []found{{"invalid-utf-8", "$['caf\uFFFD']"}, {"unknown-key", "$['caf\uFFFD']"}}},
	{"trailing comma", attestLine, attestLine + ",", "", one("json-syntax", "$")},
	{"comment", attestLine, attestLine + " // yes", "", one("json-syntax", "$")},
	{"cut off", "", clean[:200], "", one("json-syntax", "$")},
	{"property list", "", `<?xml version="1.0"?><plist/>`, "", one("json-syntax", "$")},
	{"second document", "", clean + "{}", "", one("trailing-data", "$")},
	{"garbage after the document", "", clean + "x", "", one("trailing-data", "$")},
	{"deep nesting", attestLine, attestLine + `, "x": ` + strings.Repeat("[", 16) + strings.Repeat("]", 16), "", one("nesting-too-deep", "$.x"+strings.Repeat("[0]", 15))},
	{"very deep nesting", "", strings.Repeat("[", 20000), "", one("json-syntax", "$")},
	{"hostile number of problems", subjectLine, "[" + strings.Repeat("[], ", 3000) + "[]]", "", manyEmptyRDNs()},
	{"key twice", attestLine, attestLine + ", " + attestLine, "", one("duplicate-key", "$.Attest")},
	{"key twice, once escaped", attestLine, attestLine + `, "\u0041ttest": false`, "", one("duplicate-key", "$.Attest")},
	{"key twice in the alternative names", `"dNSName": "device.example.com"`, `"dNSName": "device.example.com", "dNSName": "b.example.com"`, "", one("duplicate-key", "$.SubjectAltName.dNSName")},
	{"key twice in an unknown object", attestLine, attestLine + `, "x": [{"a": 1, "a": 2}]`, "", []found{{"unknown-key", "$.x"}, {"duplicate-key", "$.x[0].a"}}},
	{"lone high surrogate", `"Example Inc."`, `"\ud800 Inc."`, "", one("lone-surrogate", "$.Subject[1][0][1]")},
	{"lone low surrogate", `"Example Inc."`, `"\udc00"`, "", one("lone-surrogate", "$.Subject[1][0][1]")},
	{"two high surrogates", `"Example Inc."`, `"\ud83d\ud83d\ude00"`, "", one("lone-surrogate", "$.Subject[1][0][1]")},
	{"surrogate pair", `"Example Inc."`, `"\ud83d\ude00"`, "", nil},
	{"escaped backslash before u", `"Example Inc."`, `"\\ud800"`, "", nil},
	{"array", "", `[]`, "", one("not-an-object", "$")},
	{"null document", "", `null`, "", one("not-an-object", "$")},
}

// manyEmptyRDNs is as many findings as a document may have, and the one that says so.
func manyEmptyRDNs() []found {
	var out []found
	for i := range maxFindings {
		out = append(out, found{"subject-rdn-empty", fmt.Sprintf("$.Subject[%d]", i)})
	}
	return append(out, found{"too-many-findings", "$"})
}

var keyCases = []ruleCase{
	{"empty object", "", `{}`, "", []found{{"missing-key", "$.DirectoryURL"}, {"missing-key", "$.ClientIdentifier"}, {"missing-key", "$.KeySize"},
		{"missing-key", "$.KeyType"}, {"missing-key", "$.HardwareBound"}, {"missing-key", "$.Subject"}}},
	{"no UsageFlags", flagsLine + ",", "", "", nil},
	{"no ExtendedKeyUsage", `"ExtendedKeyUsage": ["1.3.6.1.5.5.7.3.2"],`, "", "", nil},
	{"key in another case", sizeLine, `"Keysize": 384`, "", []found{{"missing-key", "$.KeySize"}, {"unknown-key", "$.Keysize"}}},
	{"key with a slip", attestLine, attestLine + `, "ExtendedKeyUsag": 1`, "", one("unknown-key", "$.ExtendedKeyUsag")},
	{"key that needs quoting", attestLine, attestLine + `, "it's \"x\"": 1`, "", one("unknown-key", `$['it\'s "x"']`)},
	{"alternative name of another spelling", `"dNSName"`, `"DNSName"`, "", one("unknown-key", "$.SubjectAltName.DNSName")},
	{"alternative name at the top", attestLine, attestLine + `, "rfc822Name": "a@example.com"`, "", one("unknown-key", "$.rfc822Name")},
	{"key of the configuration", attestLine, attestLine + `, "KeyIsExtractable": false`, "", one("misplaced-key", "$.KeyIsExtractable")},
	{"key of the declaration", attestLine, attestLine + `, "ServerToken": "1"`, "", one("misplaced-key", "$.ServerToken")},
	{"null for a required key", sizeLine, `"KeySize": null`, "", one("null-value", "$.KeySize")},
	{"null for an optional key", attestLine, `"Attest": null`, "", one("null-value", "$.Attest")},
	{"null in a pair", `["CN", "device"]`, `["CN", null]`, "", one("null-value", "$.Subject[2][0][1]")},
	{"null in the usages", usageLine, `[null]`, "", one("null-value", "$.ExtendedKeyUsage[0]")},
	{"number as text", sizeLine, `"KeySize": "384"`, "", one("wrong-type", "$.KeySize")},
	{"truth as text", boundLine, `"HardwareBound": "true"`, "", one("wrong-type", "$.HardwareBound")},
	{"truth as number", attestLine, `"Attest": 1`, "", one("wrong-type", "$.Attest")},
	{"fraction", sizeLine, `"KeySize": 384.5`, "", one("wrong-type", "$.KeySize")},
	{"list of DNS names", `"device.example.com"`, `["device.example.com"]`, "", one("wrong-type", "$.SubjectAltName.dNSName")},
	{"subject as text", subjectLine, `"/C=US/CN=device"`, "", one("wrong-type", "$.Subject")},
	{"usage as text", usageLine, `"1.3.6.1.5.5.7.3.2"`, "", one("wrong-type", "$.ExtendedKeyUsage")},
	{"usage as number", usageLine, `[1.3]`, "", one("wrong-type", "$.ExtendedKeyUsage[0]")},
	{"number in a pair", `["CN", "device"]`, `["CN", 7]`, "", one("wrong-type", "$.Subject[2][0][1]")},
	{"negative flags", flagsLine, `"UsageFlags": -1`, "", one("integer-range", "$.UsageFlags")},
	{"huge size", sizeLine, `"KeySize": 99999999999999999999`, "", one("integer-range", "$.KeySize")},
	{"infinite size", sizeLine, `"KeySize": 1e999`, "", one("integer-range", "$.KeySize")},
	{"size with a fraction of zero", sizeLine, `"KeySize": 384.0`, "", one("integer-form", "$.KeySize")},
	{"size with an exponent", sizeLine, `"KeySize": 3.84e2`, "", one("integer-form", "$.KeySize")},
	{"minus zero", flagsLine, `"UsageFlags": -0`, "", []found{{"integer-form", "$.UsageFlags"}, {"usage-flags-zero", "$.UsageFlags"}}},
	{"zero-width space in a value", `"Example Inc."`, `"Example\u200b"`, "", one("control-character", "$.Subject[1][0][1]")},
	{"NUL in a value", `"Example Inc."`, `"Example\u0000"`, "", one("control-character", "$.Subject[1][0][1]")},
	{"code point of no character", `"Example Inc."`, `"Example\uffff"`, "", one("control-character", "$.Subject[1][0][1]")},
	{"space after the code", codeLine, `"9vJ8n3sX0uZlq7QbW2dKfA "`, "", one("surrounding-space", "$.ClientIdentifier")},
	{"variable in dollars", `"device"`, `"$SERIALNUMBER"`, "", one("placeholder", "$.Subject[2][0][1]")},
	{"variable in percents", `"device"`, `"%SerialNumber%"`, "", one("placeholder", "$.Subject[2][0][1]")},
	{"variable in braces", codeLine, `"{{ .Device.Code }}"`, "", one("placeholder", "$.ClientIdentifier")},
}

var requestCases = []ruleCase{
	{"http", urlLine, `"http://id.example.com/acme"`, "", one("directory-url-scheme", "$.DirectoryURL")},
	{"ftp", urlLine, `"ftp://id.example.com/acme"`, "", one("directory-url-scheme", "$.DirectoryURL")},
	{"empty URL", urlLine, `""`, "", one("directory-url-form", "$.DirectoryURL")},
	{"relative URL", urlLine, `"/acme/directory"`, "", one("directory-url-form", "$.DirectoryURL")},
	{"URL without host", urlLine, `"https:///acme"`, "", one("directory-url-form", "$.DirectoryURL")},
	{"host without scheme", urlLine, `"id.example.com/acme"`, "", one("directory-url-form", "$.DirectoryURL")},
	{"port out of range", urlLine, `"https://id.example.com:70000/acme"`, "", one("directory-url-form", "$.DirectoryURL")},
	{"port zero", urlLine, `"https://id.example.com:0/acme"`, "", one("directory-url-form", "$.DirectoryURL")},
	{"empty port", urlLine, `"https://id.example.com:/acme"`, "", one("directory-url-form", "$.DirectoryURL")},
	{"no URL at all", urlLine, `"https://id example.com"`, "", one("directory-url-form", "$.DirectoryURL")},
	{"space in the path", urlLine, `"https://id.example.com/a b"`, "", one("directory-url-characters", "$.DirectoryURL")},
	{"host not ASCII", urlLine, `"https://bücher.example/acme"`, "", one("directory-url-characters", "$.DirectoryURL")},
	{"password", urlLine, `"https://user:secret@id.example.com/acme"`, "", one("directory-url-userinfo", "$.DirectoryURL")},
	{"fragment", urlLine, `"https://id.example.com/acme#x"`, "", one("directory-url-fragment", "$.DirectoryURL")},
	{"localhost", urlLine, `"https://LOCALHOST:8443/acme"`, "", one("directory-url-loopback", "$.DirectoryURL")},
	{"loopback address", urlLine, `"https://[::1]:8443/acme"`, "", one("directory-url-loopback", "$.DirectoryURL")},
	{"scheme in capitals, query", urlLine, `"HTTPS://id.example.com/acme?tenant=1"`, "", nil},
	{"empty code", codeLine, `""`, "", one("client-identifier-empty", "$.ClientIdentifier")},
	{"code with a slash", codeLine, `"9vJ8n3sX0uZlq7/QbW2dKfA"`, "", one("client-identifier-grammar", "$.ClientIdentifier")},
	{"code that begins with a slash", codeLine, `"/1.2.3.4.5.6.7.8.9.10"`, "", one("client-identifier-grammar", "$.ClientIdentifier")},
	{"code with an assigner", codeLine, `"9vJ8n3sX0uZlq7QbW2dKfA/1.2.3"`, "", one("client-identifier-assigner", "$.ClientIdentifier")},
	{"serial number", codeLine, `"C02XEXAMPLE1"`, "", one("client-identifier-device", "$.ClientIdentifier")},
	{"UDID", codeLine, `"00008030-001A2B3C4D5E6F70"`, "", one("client-identifier-device", "$.ClientIdentifier")},
	{"old UDID", codeLine, `"0123456789abcdef0123456789abcdef01234567"`, "", one("client-identifier-device", "$.ClientIdentifier")},
	{"UUID as code", codeLine, `"6f1c0a52-4a4e-4a86-9d8f-0c8f6a3a2b11"`, "", nil},
	{"short code", codeLine, `"secret"`, "", one("client-identifier-short", "$.ClientIdentifier")},
}

var keyPairCases = []ruleCase{
	{"key type of another name", `"ECSECPrimeRandom"`, `"EC"`, "", one("key-type", "$.KeyType")},
	{"key type in small letters", `"ECSECPrimeRandom"`, `"rsa"`, "", one("key-type", "$.KeyType")},
	{"P-256", sizeLine, `"KeySize": 256`, "", nil},
	{"512 for 521", sizeLine, `"KeySize": 512`, "", one("key-size-ec", "$.KeySize")},
	{"P-192", sizeLine, `"KeySize": 192`, "", one("key-size-ec", "$.KeySize")},
	{"size zero", sizeLine, `"KeySize": 0`, "", one("key-size-ec", "$.KeySize")},
	{"P-521 in hardware", sizeLine, `"KeySize": 521`, "", one("key-size-hardware", "$.KeySize")},
	{"RSA in hardware", `384,
    "KeyType": "ECSECPrimeRandom"`, `2048, "KeyType": "RSA"`, "", one("hardware-bound-rsa", "$.HardwareBound")},
	{"attested software key", boundLine, `"HardwareBound": false`, "", one("attest-software-key", "$.Attest")},
	{"hardware key without attestation", attestLine, `"Attest": false`, "", one("attest-off", "$.Attest")},
	{"hardware key, Attest absent", ",\n    " + attestLine, "", "", one("attest-off", "$.Attest")},
	{"RSA size below the range", "", rsa("1016"), "", one("key-size-rsa", "$.KeySize")},
	{"RSA size above the range", "", rsa("4104"), "", one("key-size-rsa", "$.KeySize")},
	{"RSA size no multiple of 8", "", rsa("2049"), "", one("key-size-rsa", "$.KeySize")},
	{"weak RSA", "", rsa("1024"), "", one("key-size-weak", "$.KeySize")},
	{"RSA at its upper end", "", rsa("4096"), "", nil},
	{"RSA of an odd size", "", rsa("2056"), "", nil},
	{"P-521 in software", "", strings.Replace(rsa("521"), `"RSA"`, `"ECSECPrimeRandom"`, 1), "", nil},
}

// rsa is the clean document with a software RSA key.
func rsa(size string) string {
	return strings.NewReplacer(sizeLine, `"KeySize": `+size, "ECSECPrimeRandom", "RSA",
		boundLine, `"HardwareBound": false`, attestLine, `"Attest": false`).Replace(clean)
}
