package store_test

import (
	"fmt"
	"testing"

	"assay/internal/issuance"
	"assay/internal/store/storetest"
)

// BenchmarkDevicesByLabel is a search of the whole inventory for a label that one device has: ns/op is per device.
func BenchmarkDevicesByLabel(b *testing.B) {
	s := openAt(b, newPath(b))
	call := issuance.Call{Now: storetest.Start, From: "operator:bench"}
	var listings []issuance.Listing
	for i := range b.N {
		labels := map[string]string{"owner": fmt.Sprintf("user%d@example.com", i), "model": "Mac15,3", "department": "research"}
		listings = append(listings, issuance.Listing{Serial: fmt.Sprintf("FAKE%08d", i), Labels: labels})
		if len(listings) == issuance.MaxListings || i == b.N-1 {
			if _, err := s.ImportDevices(b.Context(), call, issuance.Import{Source: "csv:bench", Listings: listings}); err != nil {
				b.Fatal(err)
			}
			listings = listings[:0]
		}
	}
	b.ResetTimer()
	found := 0
	for _, err := range s.Devices(b.Context(), issuance.DeviceFilter{LabelName: "owner", LabelValue: "user0@example.com"}) {
		if err != nil {
			b.Fatal(err)
		}
		found++
	}
	if found != 1 {
		b.Errorf("found %d devices", found)
	}
}
