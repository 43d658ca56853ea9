package abm

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// seedPage is Apple's example ("Get Organization Devices"), cut to what is read.
const seedPage = `{"data":[{"type":"orgDevices","id":"XABC123X0ABC123X0","attributes":{"serialNumber":"XABC123X0ABC123X0",
"addedToOrgDateTime":"2025-04-30T22:05:14.192Z","releasedFromOrgDateTime":null,"deviceModel":"iMac 21.5\"","productFamily":"Mac",
"productType":"iMac16,2","deviceCapacity":"750GB","partNumber":"FD311LL/A","orderNumber":"1234567890","color":"SILVER","status":"UNASSIGNED",
"imei":["123456789012345"],"purchaseSourceUid":"-2085650007946880","purchaseSourceType":"APPLE"},
"relationships":{"assignedServer":{"links":{"self":"https://api-business.apple.com/v1/orgDevices/X/relationships/assignedServer"}}}}],
"links":{"self":"https://api-business.apple.com/v1/orgDevices","next":"https://api-business.apple.com/v1/orgDevices?cursor=MDow"},
"meta":{"paging":{"nextCursor":"MDow","limit":100}}}`

// FuzzPage: whatever an answer holds, a page has at most the devices that were asked for, each with a serial
// number and texts that can be shown, and a cursor that fits into a URL.
func FuzzPage(f *testing.F) {
	const limit = 3
	for _, seed := range []string{
		seedPage, strings.Replace(seedPage, `"nextCursor":"MDow",`, "", 1), `{"data":[]}`, `{}`, `{"data":null}`, `[]`,
		`{"data":[{"type":"orgDevices","id":"\u0000"}]}`, `{"data":[{"type":"orgDevices","id":"A","attributes":{"releasedFromOrgDateTime":"2025-06-01T15:33:54.164Z"}}]}`,
	} {
		f.Add([]byte(seed))
	}
	if page, err := parsePage([]byte(seedPage), limit); err != nil || len(page.Devices) != 1 || page.Next != "MDow" {
		f.Fatalf("Apple's example is %+v, %v", page, err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		page, err := parsePage(body, limit)
		if err != nil {
			if len(page.Devices) > 0 || page.Next != "" {
				t.Errorf("an error and a page: %+v", page)
			}
			return
		}
		if n := len(page.Devices) + len(page.Faults); n > limit || page.Total < 0 {
			t.Errorf("%d devices, total %d", n, page.Total)
		}
		if len(page.Next) > maxCursor || strings.ContainsFunc(page.Next, unicode.IsControl) {
			t.Errorf("cursor %q", page.Next)
		}
		for _, d := range page.Devices {
			if d.Serial == "" || len(d.Serial) > maxSerial || strings.ContainsFunc(d.Serial, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("serial %q", d.Serial)
			}
			for _, text := range []string{d.Model, d.ProductFamily, d.ProductType, d.Capacity, d.Color, d.PartNumber, d.OrderNumber, d.PurchaseSource, d.Status} {
				if len(text) > maxAttribute || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
					t.Errorf("attribute %q", text)
				}
			}
		}
		for _, fault := range page.Faults {
			if fault.Why == "" || strings.ContainsFunc(fault.Serial, unicode.IsControl) {
				t.Errorf("fault %+v", fault)
			}
		}
	})
}
