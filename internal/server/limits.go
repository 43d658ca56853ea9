package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"

	"assay/acme"
	"assay/internal/issuance"
	"assay/internal/limits"
	"assay/internal/panics"
	"assay/policy"
)

// Which limit counts a request is decided as early as it can be told from what no stranger can choose. Until
// something vouches for an account, its address answers. A live code does, because it has 192 random bits, and
// evidence that proves a device: a fleet behind one address passes, whatever strangers do there.

// Steps whose requests have limits of their own.
const (
	stepNewAccount = "new-account"
	stepNewOrder   = "new-order"
)

// unsigned limits requests that nobody signs, by address. A panic costs one of them.
func (s *Server) unsigned(handle http.HandlerFunc) http.HandlerFunc {
	return panics.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		over := s.Limits.Pass(r.Context(), limits.Charge{Limit: limits.Reads, Key: limits.AddressKey(r.RemoteAddr)})
		if over == nil {
			handle(w, r)
			return
		}
		p, _ := problemOf(over)
		name := ""
		if dir := s.Directories[r.PathValue("dir")]; dir != nil {
			name = dir.Name
		}
		s.refused(r.Context(), name, p)
		s.strangers.count(p.Check)
		s.writeProblem(r.Context(), w, nil, p)
	}), s.panicked)
}

// panicked answers an unsigned request whose handler panicked.
func (s *Server) panicked(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("Cache-Control", "no-store") // the handler may have set another, for what it meant to answer
	s.writeProblem(r.Context(), w, nil, s.internal(r.Context(), err))
}

// strangersCharge is what a signed request counts as, unless something vouches for it.
func strangersCharge(step, remote string) limits.Charge {
	limit := limits.Requests
	if step == stepNewAccount {
		limit = limits.Accounts
	}
	return limits.Charge{Limit: limit, Key: limits.AddressKey(remote)}
}

// admittedLater reports whether only a verified request shows what it counts as: an order by what it names, and
// a request of an account that is vouched for, if it is one.
func (s *Server) admittedLater(dir *Directory, step string, m *acme.Message) bool {
	if step == stepNewOrder {
		return true
	}
	id, ok := strings.CutPrefix(m.Header.KeyID, s.url(dir, "account", ""))
	return ok && s.Limits.Vouched(id)
}

// admitVerified counts a request that was admitted later. One that could not be verified is its address's: whoever
// knows an account's id, but has not its key, neither spends its limit nor passes by it.
func (s *Server) admitVerified(hr *http.Request, step string, r *request, err error) error {
	switch {
	case err != nil:
		return s.Limits.Pass(hr.Context(), strangersCharge(step, hr.RemoteAddr))
	case step == stepNewOrder: // see admitOrder
		return nil
	}
	return s.Limits.Pass(hr.Context(), s.accountCharge(r))
}

// accountCharge is what a verified request of an account counts as.
func (s *Server) accountCharge(r *request) limits.Charge {
	if id := string(r.account.ID); s.Limits.Vouched(id) {
		return limits.Charge{Limit: limits.AccountRequests, Key: id}
	}
	return strangersCharge("", r.call.From)
}

// admitOrder counts an order; faulty is what is wrong with it. One that names a live code is counted by that code,
// and not by address; one that names a code which there is not, strictly.
func (s *Server) admitOrder(ctx context.Context, r *request, ordered issuance.Identifier, faulty error) error {
	address := limits.AddressKey(r.call.From)
	charges := []limits.Charge{s.accountCharge(r)}
	switch {
	case faulty != nil:
	case ordered.Kind != policy.ByCode:
		hash := sha256.Sum256([]byte(ordered.Value)) // whatever was sent may be a secret, and as long as it likes
		charges = append(charges, limits.Charge{Limit: limits.Orders, Key: address},
			limits.Charge{Limit: limits.Identifiers, Key: address + " " + hex.EncodeToString(hash[:16])})
	default:
		code, err := s.Store.CodeByValue(ctx, r.dir.Name, ordered.Value)
		switch {
		case errors.Is(err, issuance.ErrNotFound):
			charges = append(charges, limits.Charge{Limit: limits.WrongCodes, Key: address}, limits.Charge{Limit: limits.DirectoryWrongCodes, Key: r.dir.Name})
		case err != nil:
			return err
		case code.StatusAt(r.call.Now) == issuance.CodeUnused && !s.Limits.Vouched(string(r.account.ID)):
			charges = []limits.Charge{{Limit: limits.Codes, Key: string(code.ID)}}
		default:
			charges = append(charges, limits.Charge{Limit: limits.Codes, Key: string(code.ID)})
		}
	}
	return s.Limits.Pass(r.client, charges...)
}

// admitEvidence counts an answer to a challenge before it is kept. Evidence that proves a device is counted by that
// device. Evidence that is refused fills the disk: a code has so many tries, an order without one its address's.
func (s *Server) admitEvidence(r *request, order issuance.Order, a issuance.Answer) error {
	switch device := deviceName(a.Evidence.Facts); {
	case a.Refusal != nil && order.Identifier.Kind != policy.ByCode:
		return s.Limits.Pass(r.client, limits.Charge{Limit: limits.Evidence, Key: limits.AddressKey(r.call.From)},
			limits.Charge{Limit: limits.DirectoryEvidence, Key: r.dir.Name})
	case device != "":
		return s.Limits.Pass(r.client, limits.Charge{Limit: limits.Devices, Key: device})
	}
	return nil
}
