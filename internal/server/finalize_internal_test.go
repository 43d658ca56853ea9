package server

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"assay/internal/issuance"
	"assay/policy"
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

// enrolled is a store with one enrolment.
type enrolled struct {
	Store
	e issuance.Enrolment
}

func (s enrolled) Enrolment(context.Context, issuance.OrderID) (issuance.Enrolment, error) {
	return s.e, nil
}

// An order whose code or evidence is gone is a fault inside, and gets nothing.
func TestEnrolmentWithoutItsPartsIsInternal(t *testing.T) {
	whole := issuance.Enrolment{
		Order: issuance.Order{ID: "order_1", Account: "account_1", Directory: "default", Code: "code_1", Evidence: "evidence_1",
			Identifier: issuance.Identifier{Kind: policy.ByCode}, Status: issuance.OrderReady, ExpiresAt: time.Now().Add(time.Hour)},
		Code: issuance.Code{ID: "code_1"}, Evidence: issuance.Evidence{ID: "evidence_1"},
	}
	withoutCode, withoutEvidence := whole, whole
	withoutCode.Code, withoutEvidence.Evidence = issuance.Code{}, issuance.Evidence{}
	ready := func(e issuance.Enrolment) error {
		s := &Server{Config: Config{Store: enrolled{e: e}, Now: time.Now}}
		_, err := s.readyEnrolment(t.Context(), &request{dir: &Directory{Name: "default"}, account: issuance.Account{ID: "account_1"},
			call: issuance.Call{Now: time.Now()}})
		return err
	}
	if err := ready(whole); err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]issuance.Enrolment{"code": withoutCode, "evidence": withoutEvidence} {
		err := ready(e)
		if _, internal := problemOf(err); err == nil || !internal || !strings.Contains(err.Error(), name+"_1") {
			t.Errorf("without its %s: %v", name, err)
		}
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
