package server

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"assay/internal/issuance"
)

// abandoning is a store that notes whether it was asked in time.
type abandoning struct {
	Store
	asked   bool
	expired error
	answer  error
}

func (a *abandoning) AbandonIssue(ctx context.Context, _ issuance.Call, _ issuance.OrderID, _ issuance.Refusal) error {
	a.asked, a.expired = true, ctx.Err()
	return a.answer
}

// A signature fails for lack of time as well: the claim is undone nevertheless.
func TestClaimIsUndoneAfterTheRequestsTimeIsOver(t *testing.T) {
	late, cancel := context.WithCancel(t.Context())
	cancel()
	kept := &abandoning{}
	s := &Server{Config: Config{Store: kept, Now: time.Now}}
	if err := s.abandon(late, &request{order: issuance.Order{ID: "order_1"}}, late.Err()); err == nil || !strings.Contains(err.Error(), "order_1") {
		t.Errorf("error %v", err)
	}
	if !kept.asked || kept.expired != nil {
		t.Errorf("the store was asked: %v, with a context that says %v", kept.asked, kept.expired)
	}
}

// Whatever the causes are, the client hears of an internal error alone.
func TestClaimThatCannotBeUndoneIsInternal(t *testing.T) {
	for _, cause := range []error{issuance.ErrConflict, issuance.ErrCodeTaken, &issuance.Refusal{Problem: "unauthorized"}} {
		s := &Server{Config: Config{Store: &abandoning{answer: cause}, Now: time.Now}}
		err := s.abandon(t.Context(), &request{}, errors.Join(cause, errors.New("signature")))
		if p, internal := problemOf(err); !internal {
			t.Errorf("%v becomes %v", cause, p)
		}
	}
}
