package issuance_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"crypto/rand"

	"assay/internal/issuance"
)

func TestFinalStatusesNeverChange(t *testing.T) {
	for _, next := range []issuance.OrderStatus{issuance.OrderPending, issuance.OrderReady, issuance.OrderProcessing, issuance.OrderValid, issuance.OrderInvalid} {
		for _, final := range []issuance.OrderStatus{issuance.OrderValid, issuance.OrderInvalid} {
			if final.CanBecome(next) {
				t.Errorf("order: %s can become %s", final, next)
			}
		}
	}
	for _, next := range []issuance.CodeStatus{issuance.CodeUnused, issuance.CodeIssuing, issuance.CodeConsumed, issuance.CodeRevoked, issuance.CodeExpired} {
		for _, final := range []issuance.CodeStatus{issuance.CodeConsumed, issuance.CodeRevoked, issuance.CodeExpired} {
			if final.CanBecome(next) {
				t.Errorf("code: %s can become %s", final, next)
			}
		}
		if next == issuance.CodeExpired && issuance.CodeUnused.CanBecome(next) {
			t.Error("expired is derived from the time, never stored")
		}
	}
	for _, next := range []issuance.CertificateStatus{issuance.CertificateReserved, issuance.CertificateValid, issuance.CertificateRevoked, issuance.CertificateAbandoned} {
		for _, final := range []issuance.CertificateStatus{issuance.CertificateRevoked, issuance.CertificateAbandoned} {
			if final.CanBecome(next) {
				t.Errorf("certificate: %s can become %s", final, next)
			}
		}
	}
}

func TestNothingSkipsTheClaim(t *testing.T) {
	if issuance.OrderReady.CanBecome(issuance.OrderValid) || issuance.OrderPending.CanBecome(issuance.OrderProcessing) {
		t.Error("an order becomes valid without a claim")
	}
	if issuance.CodeUnused.CanBecome(issuance.CodeConsumed) || issuance.CodeIssuing.CanBecome(issuance.CodeRevoked) {
		t.Error("a code is consumed or revoked around its claim")
	}
	if issuance.CertificateReserved.CanBecome(issuance.CertificateRevoked) {
		t.Error("a certificate that was never signed is revoked")
	}
}

func TestStatusAtTheVeryEndIsOver(t *testing.T) {
	end := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	before := end.Add(-time.Nanosecond)
	code := issuance.Code{Status: issuance.CodeUnused, ExpiresAt: end}
	if code.StatusAt(before) != issuance.CodeUnused || code.StatusAt(end) != issuance.CodeExpired {
		t.Errorf("code is %s before its end and %s at it", code.StatusAt(before), code.StatusAt(end))
	}
	for _, status := range []issuance.OrderStatus{issuance.OrderPending, issuance.OrderReady} {
		order := issuance.Order{Status: status, ExpiresAt: end}
		if order.StatusAt(before) != status || order.StatusAt(end) != issuance.OrderInvalid {
			t.Errorf("%s order is %s before its end and %s at it", status, order.StatusAt(before), order.StatusAt(end))
		}
	}
	for _, status := range []issuance.OrderStatus{issuance.OrderProcessing, issuance.OrderValid} {
		order := issuance.Order{Status: status, ExpiresAt: end}
		if got := order.StatusAt(end); got != status {
			t.Errorf("%s order is %s after its end", status, got)
		}
	}
	for _, status := range []issuance.CodeStatus{issuance.CodeIssuing, issuance.CodeConsumed, issuance.CodeRevoked} {
		code := issuance.Code{Status: status, ExpiresAt: end}
		if got := code.StatusAt(end); got != status {
			t.Errorf("%s code is %s after its end", status, got)
		}
	}
}

func TestIDsSortByTimeAndNameTheirTable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var ids []issuance.OrderID
	for i := range 100 {
		id, err := issuance.NewID[issuance.OrderID](now.Add(time.Duration(i)*time.Millisecond), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if len(id) != len("order_")+26 || !strings.HasPrefix(string(id), "order_") {
			t.Fatalf("id %q", id)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) {
		t.Error("ids do not sort by time")
	}
	if _, err := issuance.NewID[issuance.OrderID](now, strings.NewReader("short")); err == nil {
		t.Error("an id was made without randomness")
	}
}
