package hsm

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

func TestParse(t *testing.T) {
	slot := uint(7)
	for text, want := range map[string]*URI{
		"pkcs11:token=assay;object=issuing?module-path=" + softHSM + "&pin-source=file:hsm.pin": {
			Module: softHSM, PINSource: "file:hsm.pin", Token: "assay", Object: "issuing",
		},
		"PKCS11:type=private;id=%00%A1;serial=c0ffee;manufacturer=SoftHSM%20project;model=SoftHSM%20v2;slot-id=7?pin-source=file:%2Fetc/a%20pin&module-path=/a%26b.so": {
			Module: "/a&b.so", PINSource: "file:/etc/a pin", Serial: "c0ffee", Manufacturer: "SoftHSM project", Model: "SoftHSM v2", Slot: &slot, ID: []byte{0, 0xa1},
		},
		"pkcs11:slot-id=7;object=a=b&c?module-path=/m.so&pin-source=file:p": {Module: "/m.so", PINSource: "file:p", Slot: &slot, Object: "a=b&c"},
	} {
		got, err := Parse(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const path, query = "pkcs11:token=a;object=k", "?module-path=/m.so&pin-source=file:p"
	if _, err := Parse(path + query); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"file:key.pem":                                    "not a pkcs11: URI",
		"pkcs11":                                          "no token",
		path:                                              "no module-path: name the module's file",
		path + "?module-path=/m.so":                       "no pin-source: name the file",
		"pkcs11:object=k" + query:                         "no token: name it",
		"pkcs11:manufacturer=m;object=k" + query:          "no token: name it",
		"pkcs11:token=a" + query:                          "no key: name it",
		path + query + "&pin-value=1":                     "pin-value cannot be used: the URI is stored",
		path + query + "&module-name=softhsm":             "module-name cannot be used: give the module's path",
		path + ";library-version=2" + query:               "library-version cannot be used",
		path + ";token=a" + query:                         "token stands there twice",
		path + query + "&module-path=/m.so":               "module-path stands there twice",
		path + ";x-vendor=1" + query:                      `attribute "x-vendor" is not known there`,
		path + query + "&serial=k":                        `attribute "serial" is not known there`,
		path + ";pin-source=file:p" + query:               `attribute "pin-source" is not known there`,
		path + ";type=public" + query:                     "type: only a private key can sign",
		path + ";id=" + query:                             `"id": it is empty`,
		path + ";" + query:                                "an attribute has no value",
		path + ";serial" + query:                          "an attribute has no value",
		path + ";slot-id=x" + query:                       "slot-id: it is a decimal number",
		path + ";slot-id=4294967296" + query:              "slot-id: it is a decimal number",
		path + ";serial=a b" + query:                      "' ' must be written as %20",
		path + ";serial=a/b" + query:                      "'/' must be written as %2F",
		path + ";serial=%4" + query:                       "two hex digits",
		path + ";serial=%FF" + query:                      "not text in UTF-8",
		path + ";serial=%00" + query:                      "not text in UTF-8",
		path + "?module-path=m.so&pin-source=file:p":      "module-path: it must be an absolute path",
		path + "?module-path=/m.so&pin-source=/etc/pin":   "pin-source: it must be file:PATH",
		path + "?module-path=/m.so&pin-source=%7Ccat%20p": "pin-source: it must be file:PATH",
		path + query + strings.Repeat("x", maxURI):        "longer than 2048 bytes",
		"pkcs11:?pin-value=1":                             "no key: name it", // every fault is named
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
}

// TestParseErrorsKeepPINs: what is refused is printed and logged.
func TestParseErrorsKeepPINs(t *testing.T) {
	for _, text := range []string{
		"pkcs11:token=a;object=k?pin-value=31415926&module-path=m", "pkcs11:pin-value=31415926", "pkcs11:token=a?31415926",
	} {
		if _, err := Parse(text); err == nil || strings.Contains(err.Error(), "31415926") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// format writes a URI again, every character escaped.
func format(u *URI) string {
	escape := func(s string) (escaped string) {
		for _, c := range []byte(s) {
			escaped += fmt.Sprintf("%%%02x", c)
		}
		return escaped
	}
	path := []string{"type=private"}
	for name, value := range map[string]string{
		"token": u.Token, "manufacturer": u.Manufacturer, "model": u.Model, "serial": u.Serial, "object": u.Object, "id": string(u.ID),
	} {
		if value != "" {
			path = append(path, name+"="+escape(value))
		}
	}
	if u.Slot != nil {
		path = append(path, fmt.Sprintf("slot-id=%d", *u.Slot))
	}
	return "pkcs11:" + strings.Join(path, ";") + "?module-path=" + escape(u.Module) + "&pin-source=" + escape(u.PINSource)
}

func FuzzParse(f *testing.F) {
	f.Add("pkcs11:token=a;object=k?module-path=/m.so&pin-source=file:p")
	f.Add("pkcs11:slot-id=7;id=%00%a1;type=private?module-path=/m%20.so&pin-source=file:%2fp")
	f.Add("pkcs11:?pin-value=1")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := Parse(text)
		if err != nil {
			return
		}
		if !filepath.IsAbs(u.Module) || !strings.HasPrefix(u.PINSource, "file:") || u.Object == "" && len(u.ID) == 0 || u.Token == "" && u.Serial == "" && u.Slot == nil {
			t.Errorf("%q says too little: %+v", text, u)
		}
		if again := format(u); len(again) <= maxURI {
			if got, err := Parse(again); err != nil || !cmp.Equal(u, got) {
				t.Errorf("%q is %+v, written again as %q it is %+v, %v", text, u, again, got, err)
			}
		}
	})
}
