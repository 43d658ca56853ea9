package admin_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"testing"

	"assay/internal/admin"
	"assay/internal/audit"
)

// unsealed is a store whose trail is wrong behind its last seal.
type unsealed struct{ admin.Store }

func (u unsealed) CheckUnsealed(context.Context) (int64, []audit.Fault, error) {
	return 2, []audit.Fault{{What: "seals were deleted"}}, nil
}

func TestVerificationTellsWhatIsWrongBehindTheLastSeal(t *testing.T) {
	key, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *admin.Config) { c.Store, c.AuditKey = unsealed{c.Store}, key })
	got, err := r.client().VerifyAudit(t.Context(), 0)
	if err != nil || got.Unsealed != 2 || len(got.Faults) != 1 || got.Faults[0].What != "seals were deleted" {
		t.Errorf("got %+v, %v", got, err)
	}
}
