package delivery

import (
	"testing"

	"assay/internal/issuance"
)

// What one device of a hundred thousand costs before anything is stored.
func BenchmarkRender(b *testing.B) {
	one := parseTemplate(b, rendered)
	d := issuance.Device{Serial: "FAKE1", Labels: map[string]string{"owner": "sam", "unit": "Lab"}}
	b.ReportAllocs()
	for b.Loop() {
		c, err := one.Render(d, testDirectoryURL, testCode)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}
