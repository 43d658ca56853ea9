package store

import (
	"sync"

	"assay/internal/issuance"
)

// maxKnown is how many accounts are remembered: a few megabytes. Beyond that all are forgotten and
// the ones in use read again.
const maxKnown = 4096

// knownAccounts remembers accounts, because every signed request names one. Only the server's own
// process changes accounts, so whoever changes one forgets it here before answering.
type knownAccounts struct {
	mu      sync.Mutex
	rows    map[issuance.AccountID]issuance.Account
	changes uint64 // counts forgettings
}

// get returns an account if it is remembered, and else what put needs after the row was read.
func (k *knownAccounts) get(id issuance.AccountID) (a issuance.Account, changes uint64, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, ok = k.rows[id]
	return a, k.changes, ok
}

// put remembers an account, unless one was forgotten since get: the row may be older than that.
func (k *knownAccounts) put(a issuance.Account, changes uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if changes != k.changes {
		return
	}
	if k.rows == nil || len(k.rows) == maxKnown {
		k.rows = make(map[issuance.AccountID]issuance.Account, maxKnown/8)
	}
	k.rows[a.ID] = a
}

// forget drops an account that was changed.
func (k *knownAccounts) forget(id issuance.AccountID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changes++
	delete(k.rows, id)
}

// forgetAll drops every account, because some were deleted.
func (k *knownAccounts) forgetAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changes++
	k.rows = nil
}
