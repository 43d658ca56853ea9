package base64url

import (
	"encoding/base64"
	"testing"
)

func TestDecodeTakesOneSpelling(t *testing.T) {
	for _, s := range []string{"QQ\n", "Q\r\nQ", "QR", "QQ==", "Q", "Q+/A", " QQ"} {
		if data, err := Decode(s); err == nil {
			t.Errorf("%q is taken as %q", s, data)
		}
	}
}

// FuzzDecode holds that what is taken is what encoding/base64 makes.
func FuzzDecode(f *testing.F) {
	f.Add("QQ")
	f.Add("MT\npjb2RlXzA")
	f.Add("-_-_")
	f.Fuzz(func(t *testing.T, s string) {
		if data, err := Decode(s); err == nil && base64.RawURLEncoding.EncodeToString(data) != s {
			t.Errorf("%q is taken as %q", s, data)
		}
	})
}
