package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/internal/admin"
)

// TestCertificatesOfACredentialAreFoundThroughRevokedOnes: the chain of what superseded what does not end
// at one that was revoked, and what another code brought is not the credential's.
func TestCertificatesOfACredentialAreFoundThroughRevokedOnes(t *testing.T) {
	all := []admin.Certificate{
		{ID: "first", Code: "c1", Status: "valid", SupersededBy: "second"},
		{ID: "second", Code: "c2", Status: "revoked", SupersededBy: "third"},
		{ID: "third", Code: "c3", Status: "valid"},
		{ID: "fourth", Code: "c4", Status: "valid"},
		{ID: "other", Code: "c5", Status: "valid"},
		{ID: "others", Code: "c6", Status: "valid", SupersededBy: "other"},
	}
	its := certificatesOf(admin.Credential{Code: "c4", Certificate: "third"}, all)
	if diff := cmp.Diff([]string{"first", "fourth", "second", "third"}, slices.Sorted(maps.Keys(its))); diff != "" {
		t.Error(diff)
	}
}
