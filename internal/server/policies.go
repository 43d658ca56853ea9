package server

import (
	"context"
	"fmt"
	"sync"

	"assay/internal/issuance"
	"assay/policy"
)

// keptPolicies remembers which policy of each directory the store has: no decision is taken under a
// policy whose text could not be read again.
type keptPolicies struct{ kept sync.Map } // directory to SHA-256

func (k *keptPolicies) keep(ctx context.Context, store Store, r *request, p *policy.Policy) error {
	v := p.Version()
	if kept, _ := k.kept.Load(r.dir.Name); kept == v.SHA256 {
		return nil
	}
	call := issuance.Call{Now: r.call.Now, From: "server"}
	if err := store.UsePolicy(ctx, call, r.dir.Name, v, string(p.Text())); err != nil {
		return fmt.Errorf("directory %s: %w", r.dir.Name, err)
	}
	k.kept.Store(r.dir.Name, v.SHA256)
	return nil
}
