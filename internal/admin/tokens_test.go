package admin_test

import (
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"

	"assay/internal/admin"
)

func TestNewTokenIsRandomAndStoredAsItsHash(t *testing.T) {
	value, hash, err := admin.NewToken(rand.Reader)
	if err != nil || !strings.HasPrefix(value, "assay_") || len(value) != 49 || hash != sha256.Sum256([]byte(value)) {
		t.Errorf("token %q: %v", value, err)
	}
	if second, _, _ := admin.NewToken(rand.Reader); second == value {
		t.Error("two tokens are the same")
	}
	if _, _, err := admin.NewToken(strings.NewReader("short")); err == nil {
		t.Error("a token was made without randomness")
	}
}

func TestParseScopesTakesKnownNamesOnly(t *testing.T) {
	got, err := admin.ParseScopes([]string{"devices:read", " codes:write", "devices:read"})
	if err != nil || !slices.Equal(got, []string{"codes:write", "devices:read"}) {
		t.Errorf("got %v, %v", got, err)
	}
	for name, names := range map[string][]string{"none": nil, "all": {"*"}, "unknown": {"codes:mint"}, "empty": {""}, "other case": {"Codes:read"}, "two in one": {"codes:read devices:read"}} {
		if got, err := admin.ParseScopes(names); err == nil || !strings.Contains(err.Error(), "codes:write") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
