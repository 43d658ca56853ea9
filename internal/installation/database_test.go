package installation

import (
	"strings"
	"testing"
)

func TestSetDatabaseChangesNothingElse(t *testing.T) {
	const other = "postgres://assay:a\"b@db.example.com/assay?sslmode=verify-full"
	quoted := `database: "postgres://assay:a\"b@db.example.com/assay?sslmode=verify-full"` + "\n"
	commented := strings.Replace(validConfig, "listen:", "# database: is elsewhere\nlisten:", 1)
	for _, c := range []struct{ name, config, location, want string }{
		{"named", strings.Replace(validConfig, "listen:", "database: postgres://old/assay # the old one\nlisten:", 1), other, strings.Replace(validConfig, "listen:", quoted+"listen:", 1)},
		{"taken out", strings.Replace(commented, "name:", "'database' : \"postgres://old/assay\"\nname:", 1), "", commented},
		{"not named", commented, other, commented + quoted},
		{"not named, without an end of line", strings.TrimSuffix(validConfig, "\n"), other, validConfig + quoted},
		{"on the last line", validConfig + "database: postgres://old/assay", "", validConfig},
		{"nothing to take out", commented, "", commented},
	} {
		got, before, err := SetDatabase([]byte(c.config), c.location)
		if err != nil || before != "" && before != "postgres://old/assay" || string(got) != c.want {
			t.Errorf("%s: error %v\n%s", c.name, err, got)
		}
	}
	for name, config := range map[string]string{
		"in two lines":         validConfig + "database: >-\n  postgres://old/assay\n",
		"in a flow of its own": "{version: 1, name: x, listen: '127.0.0.1:1', database: 'postgres://old/assay', attestation: {apple: {roots: [builtin]}}, profiles: {device: {}}, directories: {default: {profile: device, accept: [apple]}}}",
		"by an alias":          strings.Replace(validConfig, "name: Example Inc.", "name: &a Example Inc.", 1) + "database: &d postgres://old/assay\nurl: *d\n",
	} {
		if got, _, err := SetDatabase([]byte(config), ""); err == nil {
			t.Errorf("%s: no error, but\n%s", name, got)
		}
	}
}
