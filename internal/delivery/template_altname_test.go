package delivery

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"assay/internal/issuance"

	"pgregory.net/rapid"
)

// named is a template with one alternative name.
func named(t testing.TB, name, text string) *Template {
	t.Helper()
	return parseTemplate(t, small+"  SubjectAltName: {"+name+": '"+text+"'}\n")
}

func TestAValueBesideLiteralTextStaysOnePartOfItsName(t *testing.T) {
	const uri, mail, upn, dns = "uniformResourceIdentifier", "rfc822Name", "ntPrincipalName", "dNSName"
	host := "https://{device.labels.x}.example.com/"
	for _, c := range []struct {
		name, text, value string
		taken             bool
	}{
		{uri, host, "evil.org/", false}, {uri, host, "evil.org?", false}, {uri, host, "evil.org#", false}, {uri, host, "evil.org:443", false},
		{uri, host, "evil@", false}, {uri, host, `evil.org\`, false}, {uri, host, "evil.org%2f", false}, {uri, host, "[::1]", false}, {uri, host, "::1]", false},
		{uri, host, "a b", false}, {uri, host, "a\u00a0b", false}, {uri, host, ".", false}, {uri, host, "a.", false}, {uri, host, ".a", false},
		{uri, host, "a", true}, {uri, host, "a.b-c_d~1", true},
		{uri, "https://example.com/{device.labels.x}/profile", "..", false},
		{uri, "https://example.com/?device={device.labels.x}", "a&role=admin", false},
		{uri, "{device.labels.x}{device.serial}", "https://evil.org/", false},
		{uri, "{device.labels.x}", "https://phones.example.com/a?b#c", true},
		{uri, "{device.labels.x}", "not a URI", false}, // the document's own rule
		{mail, "{device.labels.x}@example.com", "a@evil.org", false}, {mail, "{device.labels.x}@example.com", `"a@"`, false},
		{mail, "{device.labels.x}@example.com", "a.b", true}, {mail, "{device.labels.x}", "a@b.example.com", true}, {mail, "{device.labels.x}.example.com", "a@b", true},
		{upn, "{device.labels.x}@corp", "admin@corp", false}, {upn, "admin@{device.labels.x}", "a@corp", false},
		{upn, "{device.labels.x}@corp", "sam", true}, {upn, "{device.labels.x}", "sam@corp", true},
		{dns, "{device.labels.x}.example.com", "*", false}, {dns, "{device.labels.x}", "*.example.com", false},
		{dns, "{device.labels.x}.example.com", "a.", false}, {dns, "{device.labels.x}.example.com", "a..b", false}, {dns, "www{device.labels.x}", ".evil.org", false},
		{dns, "{device.labels.x}.example.com", "a.b", true}, {dns, "{device.labels.x}", "a.example.com", true},
	} {
		got, err := named(t, c.name, c.text).Render(issuance.Device{Serial: "FAKE1", Labels: map[string]string{"x": c.value}}, testDirectoryURL, testCode)
		if c.taken {
			if err != nil || *altName(got.SubjectAltName, c.name) != strings.NewReplacer("{device.labels.x}", c.value).Replace(c.text) {
				t.Errorf("%s %s with %q: %v, %v", c.name, c.text, c.value, got, err)
			}
			continue
		}
		refused, ok := errors.AsType[*RenderError](err)
		if !ok || got != nil || refused.Field != "SubjectAltName "+c.name || refused.Reason == "" {
			t.Errorf("%s %s with %q: %v, %v", c.name, c.text, c.value, got, err)
		} else if byRule := strings.Contains(refused.Reason, "[alt-name-"); byRule != (c.value == "not a URI") {
			t.Errorf("%s %s with %q: refused for another reason: %v", c.name, c.text, c.value, err)
		}
	}
	_, err := named(t, uri, host).Render(issuance.Device{Serial: "FAKE1", Labels: map[string]string{"x": "evil.org/"}}, testDirectoryURL, testCode)
	if err == nil || !strings.Contains(err.Error(), `{device.labels.x}, "evil.org/", has a /`) || !strings.Contains(err.Error(), "give the device another value") {
		t.Errorf("the refusal says %v", err)
	}
}

// Whatever a device's value is, the host or domain that the template writes is the one that is rendered.
func TestARenderedNameEndsAsItsTemplateSays(t *testing.T) {
	uri, mail, upn, dns := named(t, "uniformResourceIdentifier", "https://{device.labels.x}.example.com/{device.serial}"),
		named(t, "rfc822Name", "{device.labels.x}@example.com"), named(t, "ntPrincipalName", "{device.labels.x}@example.com"), named(t, "dNSName", "{device.labels.x}.example.com")
	parts := rapid.SampledFrom([]string{"evil.org", "a", "b-1", "/", "?", "#", "@", ":", `\`, "%", "%2f", "[", "]", "*", ".", "..", " ", "\t", "&", "=", ";", `"`, "<", ">", ",", "(", "443", "::1"})
	values := rapid.OneOf(hostile(), rapid.StringMatching(`[a-z0-9.-]{1,12}`),
		rapid.Map(rapid.SliceOfN(parts, 1, 4), func(s []string) string { return strings.Join(s, "") }))
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		d := issuance.Device{Serial: "FAKE1", Labels: map[string]string{"x": values.Draw(t, "x")}}
		if c, err := uri.Render(d, testDirectoryURL, testCode); err == nil {
			taken++
			got, err := url.Parse(c.SubjectAltName.UniformResourceIdentifier)
			if err != nil || got.Scheme != "https" || got.User != nil || !strings.HasSuffix(got.Host, ".example.com") || got.Path != "/FAKE1" || got.RawQuery != "" || got.Fragment != "" {
				t.Fatalf("rendered %s", c.SubjectAltName.UniformResourceIdentifier)
			}
		}
		for _, one := range []*Template{mail, upn} {
			if c, err := one.Render(d, testDirectoryURL, testCode); err == nil {
				if _, domain, _ := strings.Cut(c.SubjectAltName.RFC822Name+c.SubjectAltName.NTPrincipalName, "@"); domain != "example.com" {
					t.Fatalf("rendered %+v", c.SubjectAltName)
				}
			}
		}
		if c, err := dns.Render(d, testDirectoryURL, testCode); err == nil {
			if name := c.SubjectAltName.DNSName; !strings.HasSuffix(name, ".example.com") || strings.HasPrefix(name, ".") || strings.Contains(name, "..") || strings.Contains(name, "*") {
				t.Fatalf("rendered %s", name)
			}
		}
	})
	if taken == 0 {
		t.Error("no value was taken")
	}
}
