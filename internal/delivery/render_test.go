package delivery

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"assay/credential"
	"assay/internal/issuance"

	"github.com/google/go-cmp/cmp"
)

const (
	testDirectoryURL = "https://id.example.com/acme/default/directory"
	testCode         = "9vJ8n3sX0uZlq7QbW2dKfA9vJ8n3sX0u"
)

// fullDevice has a value for every placeholder of a template.
func fullDevice(t *Template) issuance.Device {
	d := issuance.Device{Serial: "FAKE1", UDID: "00008030-001A2B3C4D5E6F70", Labels: map[string]string{}}
	for _, name := range t.Placeholders() {
		if label, ok := strings.CutPrefix(strings.TrimSuffix(name, "?"), labelPrefix); ok {
			d.Labels[label] = "value"
		}
	}
	return d
}

const rendered = `version: 1
document:
  KeyType: ECSECPrimeRandom
  KeySize: 384
  HardwareBound: true
  Attest: true
  Subject: [[["O", "Example {{Inc}}"]], [["OU", "{device.labels.unit?}"]], [["CN", "device-{device.serial}"]]]
  SubjectAltName: {rfc822Name: "{device.labels.owner?}@example.com", ntPrincipalName: "{device.labels.owner?}@corp"}
  UsageFlags: 1
  ExtendedKeyUsage: ["1.3.6.1.5.5.7.3.2"]
`

func TestRenderFillsInTheDevice(t *testing.T) {
	one := parseTemplate(t, rendered)
	got, err := one.Render(issuance.Device{Serial: "FAKE1", Labels: map[string]string{"owner": "sam", "unit": "Lab"}}, testDirectoryURL, testCode)
	if err != nil {
		t.Fatal(err)
	}
	want := credential.New(testDirectoryURL, testCode, credential.Subject{{{"O", "Example {Inc}"}}, {{"OU", "Lab"}}, {{"CN", "device-FAKE1"}}})
	want.SubjectAltName = &credential.SubjectAltName{RFC822Name: "sam@example.com", NTPrincipalName: "sam@corp"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestRenderLeavesOutWhatIsOptionalAndEmpty(t *testing.T) {
	one := parseTemplate(t, rendered)
	got, err := one.Render(issuance.Device{Serial: "FAKE1"}, testDirectoryURL, testCode)
	if err != nil {
		t.Fatal(err)
	}
	want := credential.New(testDirectoryURL, testCode, credential.Subject{{{"O", "Example {Inc}"}}, {{"CN", "device-FAKE1"}}})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	again, err := one.Render(issuance.Device{Serial: "FAKE1", Labels: map[string]string{"owner": "sam"}}, testDirectoryURL, testCode)
	if err != nil || again.SubjectAltName == nil {
		t.Errorf("one device's rendering changed the template: %v, %v", again, err)
	}
}

func TestRenderRefusesADeviceByName(t *testing.T) {
	for name, c := range map[string]struct {
		old, new string
		device   issuance.Device
		want     RenderError // Reason: a part of it
	}{
		"serial not known": {"", "", issuance.Device{UDID: "UDID1"}, RenderError{"test", "UDID1", "Subject CN", "{device.serial?}"}},
		"label not set": {"{device.labels.unit?}", "{device.labels.unit}", issuance.Device{Serial: "FAKE1"},
			RenderError{"test", "FAKE1", "Subject OU", `no label "unit"`}},
		"UDID not known, beside an optional part": {"device-{device.serial}", "{device.labels.x?}{device.udid}", issuance.Device{Serial: "FAKE1"},
			RenderError{"test", "FAKE1", "Subject CN", "UDID is not known"}},
		"name in the alternative names not set": {"{device.labels.owner?}@corp", "{device.labels.upn}", issuance.Device{Serial: "FAKE1"},
			RenderError{"test", "FAKE1", "SubjectAltName ntPrincipalName", `no label "upn"`}},
		"value that is no address": {"", "", issuance.Device{Serial: "FAKE1", Labels: map[string]string{"owner": "a b"}},
			RenderError{"test", "FAKE1", "SubjectAltName rfc822Name", "alt-name-email"}},
		"value too long": {"", "", issuance.Device{Serial: strings.Repeat("F", 60)},
			RenderError{"test", strings.Repeat("F", 60), "Subject CN", "subject-value-long"}},
		"value far too long": {`"CN", "device-`, `"2.5.4.42", "`, issuance.Device{Serial: strings.Repeat("F", 64<<10)},
			RenderError{"test", strings.Repeat("F", 64<<10), "document", "document-too-large"}},
		"value not UTF-8": {"", "", issuance.Device{Serial: "FAKE\xff"}, RenderError{"test", "FAKE\xff", "Subject CN", "not UTF-8"}},
		"value with a line break": {"", "", issuance.Device{Serial: "FAKE1\n"},
			RenderError{"test", "FAKE1\n", "Subject CN", "control-character"}},
		"value that a server should have filled in": {"", "", issuance.Device{Serial: "%SerialNumber%"},
			RenderError{"test", "%SerialNumber%", "Subject CN", "placeholder"}},
		"part behind one that is left out": {`"CN", "device-{device.serial}"`, `"C", "{device.labels.country}"`,
			issuance.Device{Serial: "FAKE1", Labels: map[string]string{"country": "us"}}, RenderError{"test", "FAKE1", "Subject C", "country-code"}},
		"nothing of the subject left": {`[["O", "Example {{Inc}}"]], [["OU", "{device.labels.unit?}"]], [["CN", "device-{device.serial}"]]`, `[["CN", "{device.labels.unit?}"]]`,
			issuance.Device{Serial: "FAKE1"}, RenderError{"test", "FAKE1", "Subject", "optional"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseTemplate(t, strings.Replace(rendered, c.old, c.new, 1)).Render(c.device, testDirectoryURL, testCode)
			refused, ok := errors.AsType[*RenderError](err)
			if !ok || got != nil {
				t.Fatalf("got %v, %v", got, err)
			}
			if !strings.Contains(refused.Reason, c.want.Reason) {
				t.Errorf("reason %q, want one with %q", refused.Reason, c.want.Reason)
			}
			c.want.Reason = refused.Reason
			if diff := cmp.Diff(&c.want, refused); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "\xff") || len(err.Error()) > 1000 {
				t.Errorf("the message carries the device's value raw: %q", err)
			}
		})
	}
}

// What is a warning in the template, and was shown there, does not refuse devices; it only does where
// a device's own value is at fault.
func TestRenderTakesTheTemplatesOwnWarnings(t *testing.T) {
	one := parseTemplate(t, strings.Replace(rendered, `[["O", "Example {{Inc}}"]]`, `[["OU", "{device.serial}"], ["L", "{device.labels.unit?}"]], [["C", "USA"]]`, 1))
	for _, unit := range []string{"", "Lab"} {
		if _, err := one.Render(issuance.Device{Serial: "FAKE1", Labels: map[string]string{"unit": unit}}, testDirectoryURL, testCode); err != nil {
			t.Errorf("unit %q: %v", unit, err)
		}
	}
}

func TestRenderRefusesAFaultyServerURLAsNoFaultOfTheDevice(t *testing.T) {
	_, err := parseTemplate(t, rendered).Render(issuance.Device{Serial: "FAKE1"}, "http://id.example.com/", testCode)
	if _, refused := errors.AsType[*RenderError](err); err == nil || refused {
		t.Errorf("got %v", err)
	}
}

func TestRenderIsDeterministic(t *testing.T) {
	one := parseTemplate(t, rendered)
	d := issuance.Device{Serial: "FAKE1", Labels: map[string]string{"owner": "sam", "unit": "Lab", "x": "y"}}
	var bodies [2][]byte
	for i := range bodies {
		bodies[i] = must(must(one.Render(d, testDirectoryURL, testCode)).Encode())
	}
	if !bytes.Equal(bodies[0], bodies[1]) {
		t.Errorf("two renderings differ:\n%s\n%s", bodies[0], bodies[1])
	}
}

func TestBindingIsWhatTheTemplateNamesAndTheDeviceHas(t *testing.T) {
	for name, c := range map[string]struct {
		bind         string
		device       issuance.Device
		serial, udid string
		refused      bool
	}{
		"both":                   {"[serial, udid]", issuance.Device{Serial: "S", UDID: "U"}, "S", "U", false},
		"what is known":          {"[serial, udid]", issuance.Device{Serial: "S"}, "S", "", false},
		"only the serial":        {"[serial]", issuance.Device{Serial: "S", UDID: "U"}, "S", "", false},
		"nothing":                {"[]", issuance.Device{Serial: "S", UDID: "U"}, "", "", false},
		"what is not known":      {"[udid]", issuance.Device{Serial: "S"}, "", "", true},
		"a device without names": {"[serial, udid]", issuance.Device{ID: "dev_1"}, "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			serial, udid, err := parseTemplate(t, small+"bind: "+c.bind+"\n").Binding(c.device)
			if _, refused := errors.AsType[*RenderError](err); serial != c.serial || udid != c.udid || refused != c.refused {
				t.Errorf("got %q, %q, %v", serial, udid, err)
			}
		})
	}
}
