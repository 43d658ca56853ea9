package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"assay/acme"
	"assay/internal/issuance"
	"assay/internal/limits"
	"assay/internal/tracing"
	"assay/policy"
)

// refuse is the single place where an error becomes a problem document, a log line, a metric and
// an audit row. r is nil where the signature did not hold.
func (s *Server) refuse(ctx context.Context, dir *Directory, hr *http.Request, r *request, err error) *acme.Problem {
	problem, internal := problemOf(err)
	if internal {
		return s.internal(ctx, err)
	}
	s.refused(ctx, dir.Name, problem)
	if _, over := errors.AsType[*limits.Refused](err); over { // a flood writes nothing, and the gate logs what it refuses
		s.strangers.count(problem.Check)
		return problem
	}
	known := false
	recorded, isRecorded := errors.AsType[*recordedRefusal](err)
	switch {
	case r == nil: // unsigned traffic writes nothing
	case isRecorded: // the state change wrote its own audit row
		known = true
		if recorded.device != "" {
			r.device = recorded.device
		}
	case r.account.ID != "" && s.strangers.overdone(r.account.ID):
		if err := s.spend(ctx, r); err != nil && !errors.Is(err, issuance.ErrNonceUsed) {
			return s.internal(ctx, err)
		}
	default:
		var storeErr error
		known, storeErr = s.Store.RecordRefusal(ctx, r.call, issuance.ClientRefusal{
			Directory: dir.Name, Account: r.account.ID, Order: r.order.ID, Code: r.code, Certificate: r.certificate,
			Refusal: issuance.Refusal{Problem: problem.Kind(), Check: problem.Check, Detail: problem.Detail},
		})
		if storeErr != nil {
			return s.internal(ctx, storeErr)
		}
	}
	if !known && !s.strangers.sample(problem.Check, s.Now()) {
		return problem
	}
	s.logRefusal(ctx, dir, hr, r, problem, err)
	return problem
}

// logRefusal writes the one line by which an operator finds a refusal again: Apple's client shows
// nothing. Logs never hold codes, document URLs, tokens or keys.
func (s *Server) logRefusal(ctx context.Context, dir *Directory, hr *http.Request, r *request, p *acme.Problem, err error) {
	attrs := []slog.Attr{
		slog.String("directory", dir.Name),
		slog.String("step", hr.Pattern),
		slog.String("problem", p.Kind()),
		slog.String("check", p.Check),
		slog.String("detail", p.Detail),
		slog.String("from", hr.RemoteAddr),
	}
	if r != nil {
		for _, a := range []struct{ key, value string }{
			{"device", r.device}, {"account", string(r.account.ID)}, {"order", string(r.order.ID)},
			{"code", string(r.code)}, {"certificate", string(r.certificate)},
		} {
			if a.value != "" {
				attrs = append(attrs, slog.String(a.key, a.value))
			}
		}
	}
	if unusable, ok := errors.AsType[*issuance.CodeUnusableError](err); ok {
		attrs = append(attrs, slog.String("reason", unusable.Error()))
	}
	advice := issuance.AdviceOn(p.Check)
	if recorded, ok := errors.AsType[*recordedRefusal](err); ok {
		advice = cmp.Or(recorded.advice, advice)
	}
	if advice != "" {
		attrs = append(attrs, slog.String("hint", advice))
	}
	s.Log.LogAttrs(ctx, slog.LevelWarn, "refused", attrs...)
}

// internal logs the whole chain of an unexpected error and tells the client nothing of it.
func (s *Server) internal(ctx context.Context, err error) *acme.Problem {
	p := acme.NewProblem(acme.ServerInternal, "internal", "the server could not do this; its log says why")
	s.refused(ctx, "", p)
	s.Log.LogAttrs(ctx, slog.LevelError, "internal error", slog.String("error", err.Error()))
	return p
}

// refused counts a refusal, and names it in the request's trace.
func (s *Server) refused(ctx context.Context, directory string, p *acme.Problem) {
	s.Metrics.refused(directory, p)
	span := tracing.Current(ctx)
	span.Set(tracing.Problem, p.Kind())
	span.Set(tracing.Check, p.Check)
}

// recordedRefusal is a refusal whose state change already spent the nonce and wrote the audit row.
type recordedRefusal struct {
	err    error
	device string
	advice string // the policy's own, where it decided
}

func (e *recordedRefusal) Error() string { return e.err.Error() }
func (e *recordedRefusal) Unwrap() error { return e.err }

// problemOf maps every typed error to its problem; what has no type is internal.
func problemOf(err error) (p *acme.Problem, internal bool) {
	if p, ok := errors.AsType[*acme.Problem](err); ok {
		return p, false
	}
	if r, ok := errors.AsType[*issuance.Refusal](err); ok {
		return acme.NewProblem(r.Problem, r.Check, r.Detail), false
	}
	if _, ok := errors.AsType[*issuance.CodeUnusableError](err); ok {
		return acme.NewProblem(acme.RejectedIdentifier, "code-usable", "this identifier is not accepted"), false
	}
	if _, ok := errors.AsType[*issuance.TooManyOrdersError](err); ok {
		p := acme.NewProblem(acme.RateLimited, "live-orders", "too many orders in progress name this identifier")
		p.RetryAfter = issuance.OrderLifetime // then all of them are over
		return p, false
	}
	if over, ok := errors.AsType[*limits.Refused](err); ok {
		p := acme.NewProblem(acme.RateLimited, over.Check, over.Error())
		p.RetryAfter = over.RetryAfter
		return p, false
	}
	switch {
	case errors.Is(err, issuance.ErrNonceUsed):
		return acme.NewProblem(acme.BadNonce, "nonce-used", "the nonce was used before"), false
	case errors.Is(err, issuance.ErrCodeTaken):
		return acme.NewProblem(acme.Unauthorized, "code-live", "the code was used, revoked or has expired since it was ordered"), false
	case errors.Is(err, issuance.ErrApprovalTaken):
		return acme.NewProblem(acme.Unauthorized, "approval-live", "the approval was used or taken back, or it expired, meanwhile"), false
	case errors.Is(err, issuance.ErrDeviceBarred):
		return acme.NewProblem(acme.Unauthorized, policy.CheckDeviceState, "the device became lost or retired meanwhile"), false
	case errors.Is(err, issuance.ErrConflict):
		return acme.NewProblem(acme.OrderNotReady, "state", "another request changed this meanwhile"), false
	}
	return nil, true
}

// strangers counts refusals that concern nothing known, or come too often, so that nobody can fill the
// disk: one sampled log line a second, one audit row a minute (see Server.FlushStrangers).
type strangers struct {
	mu        sync.Mutex
	byCheck   map[string]int
	byAccount map[issuance.AccountID]int // refusals that changed nothing, since the last flush
	logged    time.Time
}

// An account may fill the trail and the log with so many refusals a minute; beyond that, and beyond so
// many accounts, it counts as a stranger.
const (
	maxRefusalsPerAccount = 60
	maxRefusedAccounts    = 16384
)

// overdone counts a refusal of an account and reports whether it has had its share.
func (c *strangers) overdone(id issuance.AccountID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byAccount == nil {
		c.byAccount = map[issuance.AccountID]int{}
	}
	if _, counted := c.byAccount[id]; !counted && len(c.byAccount) == maxRefusedAccounts {
		return true
	}
	c.byAccount[id]++
	return c.byAccount[id] > maxRefusalsPerAccount
}

// count counts a refusal.
func (c *strangers) count(check string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byCheck == nil {
		c.byCheck = map[string]int{}
	}
	c.byCheck[check]++
}

// sample counts a refusal and reports whether to log it.
func (c *strangers) sample(check string, now time.Time) bool {
	c.count(check)
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.logged).Abs() < time.Second {
		return false
	}
	c.logged = now
	return true
}

// FlushStrangers writes the counts since the last call as one audit row, if there are any. Call it
// once a minute.
func (s *Server) FlushStrangers(ctx context.Context) error {
	s.strangers.mu.Lock()
	counts := s.strangers.byCheck
	s.strangers.byCheck, s.strangers.byAccount = nil, nil
	s.strangers.mu.Unlock()
	if len(counts) == 0 {
		return nil
	}
	return s.Store.RecordStrangers(ctx, s.Now(), counts)
}
