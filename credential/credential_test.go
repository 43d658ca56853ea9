package credential

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func published(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/published.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPublishedExamplePassesWithWarnings(t *testing.T) {
	c, findings := Parse(published(t))
	want := []found{
		{"alt-name-email", "$.SubjectAltName.rfc822Name"},
		{"alt-name-upn", "$.SubjectAltName.ntPrincipalName"},
		{"usage-flags-encipherment", "$.UsageFlags"},
	}
	if diff := cmp.Diff(want, summary(findings)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	wantCredential := &Credential{
		DirectoryURL: "https://example.com/acme/dir", ClientIdentifier: "This is a ClientIdentifier",
		KeySize: 384, KeyType: EC, HardwareBound: true, Attest: true,
		Subject: Subject{{{"C", "US"}}, {{"O", "Example Inc."}}, {{"1.2.840.113635.100.6.99999.99999", "test custom OID value"}}},
		SubjectAltName: &SubjectAltName{DNSName: "site.example.com", RFC822Name: "rfc822",
			UniformResourceIdentifier: "https://www.example.com/", NTPrincipalName: "Principal Example"},
		UsageFlags: DigitalSignature | KeyEncipherment, ExtendedKeyUsage: []string{ClientAuth},
	}
	if diff := cmp.Diff(wantCredential, c); diff != "" {
		t.Errorf("credential (-want +got):\n%s", diff)
	}
	if findings.Err() != nil {
		t.Errorf("Err: %v", findings.Err())
	}
}

func TestNewCredentialHasNoFinding(t *testing.T) {
	c := New("https://id.example.com/acme/default/directory", "9vJ8n3sX0uZlq7QbW2dKfA", Subject{{{"CN", "a<b>&c"}}})
	data, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), "a<b>&c") {
		t.Errorf("text is escaped for HTML:\n%s", data)
	}
	again, findings := Parse(data)
	if len(findings) != 0 || !again.Equal(c) {
		t.Errorf("findings %v, credential %+v", findings, again)
	}
}

func TestEncodeRefusesWhatADeviceRefuses(t *testing.T) {
	valid := func() *Credential {
		return New("https://id.example.com/acme", "9vJ8n3sX0uZlq7QbW2dKfA", Subject{{{"CN", "a"}}})
	}
	c := valid()
	c.KeySize = 521
	_, err := c.Encode()
	invalid, ok := errors.AsType[*InvalidError](err)
	if !ok || len(invalid.Findings) != 1 || invalid.Findings[0].Rule != "key-size-hardware" {
		t.Errorf("P-521 in hardware: %v", err)
	}
	if _, err := new(Credential).Encode(); err == nil {
		t.Error("the zero value was encoded")
	}
	c = valid()
	c.Subject[0][0] = Attribute{"CN", "caf\xe9"}
	if _, err := c.Encode(); !errors.Is(err, errNotFaithful) {
		t.Errorf("text that is not UTF-8: %v", err)
	}
}

func TestUnmarshalIsAsStrictAsParse(t *testing.T) {
	var outer struct{ Credential Credential }
	if err := json.Unmarshal([]byte(`{"Credential":`+clean+`}`), &outer); err != nil || outer.Credential.KeySize != 384 {
		t.Errorf("valid document: %v %+v", err, outer)
	}
	twice := strings.Replace(clean, attestLine, attestLine+", "+attestLine, 1)
	if err := json.Unmarshal([]byte(`{"Credential":`+twice+`}`), &outer); err == nil {
		t.Error("a key that appears twice was accepted")
	}
}

func TestErrNamesTheErrorsAndKeepsTheWarnings(t *testing.T) {
	_, findings := Parse([]byte(strings.Replace(clean, sizeLine, `"KeySize": 192, "Colour": 1`, 1)))
	err := findings.Err()
	if err == nil || !strings.Contains(err.Error(), "$.KeySize") || strings.Contains(err.Error(), "Colour") {
		t.Errorf("Err: %v", err)
	}
	if len(findings.Errors()) != 1 || len(findings.Warnings()) != 1 {
		t.Errorf("findings: %v", findings)
	}
	_, findings = Parse([]byte(`{}`))
	if err := findings.Err(); err == nil || !strings.Contains(err.Error(), "6 errors") || !strings.Contains(err.Error(), "and 1 more") {
		t.Errorf("Err: %v", err)
	}
}

func TestFindingsSayWhereTheyAre(t *testing.T) {
	for _, c := range []struct {
		name, data   string
		line, column int
	}{
		{"value", strings.Replace(clean, sizeLine, `"KeySize":   192`, 1), 4, 18},
		{"unknown key", strings.Replace(clean, flagsLine, flagsLine+`, "Colour": 1`, 1), 8, 22},
		{"missing comma", strings.Replace(clean, "384,", "384", 1), 5, 5},
		{"comma before the brace", strings.Replace(clean, attestLine, attestLine+",", 1), 15, 1},
		{"cut off", "{\n\"a\": 1", 2, 7},
		{"trailing data", "{}\n  x", 2, 3},
		{"after a byte order mark", "\xEF\xBB\xBF[]", 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, findings := Parse([]byte(c.data))
			if len(findings) == 0 {
				t.Fatal("nothing found")
			}
			i := slices.IndexFunc(findings, func(f Finding) bool { return f.Line == c.line && f.Column == c.column })
			if i < 0 {
				t.Errorf("nothing at %d:%d in %+v", c.line, c.column, findings)
			}
		})
	}
}

func TestFixesSayWhatToWrite(t *testing.T) {
	for _, c := range []struct{ old, new, rule, fix string }{
		{sizeLine, `"Keysize": 384`, "missing-key", "rename \"Keysize\" to KeySize"},
		{sizeLine, `"Key Size": 384`, "unknown-key", "write KeySize"},
		{flagsLine, `"Key Usage": 1`, "unknown-key", "write UsageFlags"},
		{urlLine + ",", urlLine + `, "dnsName": "a",`, "unknown-key", "put it into SubjectAltName as dNSName"},
		{sizeLine, `"KeySize": "384"`, "wrong-type", "write the number without quotes: 384"},
		{boundLine, `"HardwareBound": "True"`, "wrong-type", "write true without quotes"},
		{sizeLine, `"KeySize": 512`, "key-size-ec", "write 521 (P-521, never hardware-bound), 384 or 256"},
		{`"CN"`, `"cn"`, "subject-attribute", `write "CN"`},
		{`"CN"`, `"S"`, "subject-attribute", `write "ST"`},
		{`"CN"`, `"E"`, "subject-attribute", `write "1.2.840.113549.1.9.1"`},
		{usageLine, `["1.3.6.1.5.5.7.3.2", "serverAuth"]`, "oid-syntax", `write "1.3.6.1.5.5.7.3.1"`},
		{subjectLine, `[["CN", "device"]]`, "subject-shape", `write [["CN", "device"]]`},
		{attestLine, attestLine + ",", "json-syntax", "remove the comma before the closing bracket"},
		{attestLine, attestLine + " // x", "json-syntax", "remove the comment: JSON has none"},
		{`"ECSECPrimeRandom"`, `'RSA'`, "json-syntax", `write straight double quotes: "`},
		{`384,`, `384`, "json-syntax", "a comma or a colon is missing before this"},
		{`"device"`, "\"dev\nice\"", "json-syntax", `strings stay on one line: write \n or \t inside them, and close them with "`},
	} {
		_, findings := Parse([]byte(strings.Replace(clean, c.old, c.new, 1)))
		if !slices.ContainsFunc(findings, func(f Finding) bool { return f.Rule == c.rule && f.Fix == c.fix }) {
			t.Errorf("%s: no finding of %s says %q: %+v", c.new, c.rule, c.fix, findings)
		}
	}
}

func TestMessagesEscapeAndShortenOutsideText(t *testing.T) {
	hostile := "\x1b[31m\u202e" + strings.Repeat("x", 5000)
	name, err := json.Marshal(hostile)
	if err != nil {
		t.Fatal(err)
	}
	document := strings.Replace(clean, attestLine, attestLine+", "+string(name)+": [{\"a\":1,\"a\":2}]", 1)
	document = strings.Replace(document, `"ECSECPrimeRandom"`, string(name), 1)
	_, findings := Parse([]byte(document))
	if len(findings) != 4 {
		t.Fatalf("findings: %v", findings)
	}
	for _, f := range findings {
		text := f.Path + f.Message + f.Fix
		if strings.ContainsAny(text, "\x1b\u202e") || len(text) > 900 {
			t.Errorf("finding passes outside text on: %q", text)
		}
	}
}

func TestAttributeOIDResolvesShortNames(t *testing.T) {
	for name, want := range map[string]string{
		"C": "2.5.4.6", "ST": "2.5.4.8", "L": "2.5.4.7", "O": "2.5.4.10", "OU": "2.5.4.11", "CN": "2.5.4.3", "1.2.5.3": "1.2.5.3",
	} {
		if got := (Attribute{name, "x"}).OID(); got != want {
			t.Errorf("OID of %s is %s, want %s", name, got, want)
		}
	}
}

func TestEqualSeesEveryField(t *testing.T) {
	base := func() *Credential {
		c, _ := Parse(published(t))
		return c
	}
	for name, change := range map[string]func(*Credential){
		"DirectoryURL":     func(c *Credential) { c.DirectoryURL += "x" },
		"ClientIdentifier": func(c *Credential) { c.ClientIdentifier += "x" },
		"KeySize":          func(c *Credential) { c.KeySize = 256 },
		"KeyType":          func(c *Credential) { c.KeyType = RSA },
		"HardwareBound":    func(c *Credential) { c.HardwareBound = false },
		"Attest":           func(c *Credential) { c.Attest = false },
		"Subject":          func(c *Credential) { c.Subject[0][0][1] = "DE" },
		"UsageFlags":       func(c *Credential) { c.UsageFlags = 1 },
		"ExtendedKeyUsage": func(c *Credential) { c.ExtendedKeyUsage = nil },
		"SubjectAltName":   func(c *Credential) { c.SubjectAltName = nil },
		"dNSName":          func(c *Credential) { c.SubjectAltName.DNSName = "" },
	} {
		changed := base()
		change(changed)
		if changed.Equal(base()) {
			t.Errorf("a changed %s compares equal", name)
		}
	}
	if !base().Equal(base()) || base().Equal(nil) {
		t.Error("Equal of the same value or nil is wrong")
	}
}

func TestEncodeThenParseIsTheSameValue(t *testing.T) {
	text := rapid.StringMatching(`[ -~äß€]{1,30}`)
	rapid.Check(t, func(t *rapid.T) {
		c := New("https://id.example.com/"+rapid.StringMatching(`[a-z]{0,9}`).Draw(t, "path"),
			rapid.StringMatching(`[A-Za-z0-9_-]{1,40}`).Draw(t, "code"), nil)
		for range rapid.IntRange(0, 4).Draw(t, "RDNs") {
			var rdn []Attribute
			for range rapid.IntRange(1, 2).Draw(t, "pairs") {
				rdn = append(rdn, Attribute{rapid.SampledFrom([]string{"C", "CN", "O", "1.2.5.3"}).Draw(t, "type"), text.Draw(t, "value")})
			}
			c.Subject = append(c.Subject, rdn)
		}
		if c.Subject == nil {
			c.Subject = Subject{}
		}
		c.UsageFlags = UsageFlags(rapid.SampledFrom([]int{0, 1, 4, 5}).Draw(t, "usage"))
		c.ExtendedKeyUsage = rapid.SliceOfN(rapid.SampledFrom([]string{ClientAuth, "1.3.6.1.5.5.7.3.4"}), 0, 3).Draw(t, "extended")
		if rapid.Bool().Draw(t, "alternative names") {
			c.SubjectAltName = &SubjectAltName{DNSName: text.Draw(t, "dns"), NTPrincipalName: text.Draw(t, "upn")}
		}
		data, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, findings := Parse(data)
		if findings.Err() != nil || !again.Equal(c) {
			t.Fatalf("%v\n%s", findings, data)
		}
		if second, err := again.Encode(); err != nil || string(second) != string(data) {
			t.Fatalf("the same value has other bytes (%v):\n%s\n%s", err, data, second)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(published(f))
	seeds := 1
	for _, c := range ruleCases {
		data := []byte(c.new)
		if c.old != "" {
			data = []byte(strings.Replace(clean, c.old, c.new, 1))
		}
		if len(data) < 4096 {
			f.Add(data)
			seeds++
		}
	}
	if seeds < 100 {
		f.Fatalf("only %d seeds", seeds)
	}
	targets := []Target{{}, {Platform: MacOS}, {Platform: IOS, Version: Version{16, 0, 0}, Chip: Chip{family: "A", generation: 11}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := Read(data)
		for _, target := range targets {
			d.Judge(target)
		}
		for _, found := range d.Findings {
			if found.Rule == "" || found.Message == "" || !strings.HasPrefix(found.Path, "$") {
				t.Errorf("incomplete finding %+v", found)
			}
		}
		if (d.Credential == nil) != (len(d.Findings.Errors()) > 0) {
			t.Fatalf("credential %v with findings %v", d.Credential, d.Findings)
		}
		if d.Credential == nil {
			return
		}
		if !json.Valid(data) {
			t.Fatal("accepted what encoding/json does not")
		}
		again, err := d.Credential.Encode()
		if err != nil {
			t.Fatalf("an accepted document cannot be written: %v", err)
		}
		c, findings := Parse(again)
		if findings.Err() != nil || !c.Equal(d.Credential) {
			t.Fatalf("written and read again it differs: %v\n%s", findings, again)
		}
	})
}
