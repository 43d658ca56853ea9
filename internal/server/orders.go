package server

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"assay/acme"
	"assay/attest"
	"assay/deviceid"
	"assay/internal/issuance"
	"assay/internal/tracing"
	"assay/policy"
)

// newOrder makes an order (RFC 8555, section 7.4). It looks its code up and holds nothing: a code
// is taken only at finalize.
func (s *Server) newOrder(ctx context.Context, r *request) (*reply, error) {
	identifier, err := parseOrder(r)
	if over := s.admitOrder(ctx, r, identifier, err); over != nil {
		return nil, over
	}
	if err != nil {
		return nil, err
	}
	// The validity that a client may ask for is the certificate profile's to say: a zero time, as
	// the step client sends it, and any other is ignored (docs/divergences.md).
	token := make([]byte, 32)
	if _, err := io.ReadFull(s.Random, token); err != nil {
		return nil, err
	}
	order, err := s.Store.CreateOrder(ctx, r.call, issuance.NewOrder{
		Account: r.account.ID, Directory: r.dir.Name, Identifier: identifier,
		Token: base64.RawURLEncoding.EncodeToString(token),
	})
	if unusable, ok := errors.AsType[*issuance.CodeUnusableError](err); ok && unusable.Code != "" {
		r.code = unusable.Code
		return nil, &recordedRefusal{err: err}
	}
	if tooMany, ok := errors.AsType[*issuance.TooManyOrdersError](err); ok {
		r.code = tooMany.Code
		return nil, &recordedRefusal{err: err}
	}
	if err != nil {
		return nil, err
	}
	if identifier.Kind == policy.ByCode {
		s.Limits.Vouch(string(r.account.ID))
	}
	return &reply{status: http.StatusCreated, location: s.url(r.dir, "order", string(order.ID)), body: s.wireOrder(r.dir, order)}, nil
}

// parseOrder reads what an order names.
func parseOrder(r *request) (issuance.Identifier, error) {
	var in acme.NewOrder
	if problem := acme.DecodeStrict(r.payload, &in); problem != nil {
		return issuance.Identifier{}, problem
	}
	return orderIdentifier(r.dir, in.Identifiers)
}

// orderIdentifier checks the one identifier of an order: its type, the draft's grammar, and whether
// any format could prove it.
func orderIdentifier(dir *Directory, ids []acme.Identifier) (issuance.Identifier, error) {
	if len(ids) != 1 {
		return issuance.Identifier{}, acme.NewProblem(acme.Malformed, "identifier-count",
			fmt.Sprintf("an order names exactly one identifier, this one %d", len(ids)))
	}
	id := ids[0]
	switch id.Type {
	case acme.PermanentIdentifier:
		parsed, err := deviceid.ParsePermanentIdentifier(id.Value)
		if err != nil {
			return issuance.Identifier{}, acme.NewProblem(acme.Malformed, "identifier-grammar", err.Error())
		}
		if parsed.Assigner != "" {
			return issuance.Identifier{}, acme.NewProblem(acme.RejectedIdentifier, "identifier-assigner",
				"no accepted attestation format can prove an identifier with an assigner")
		}
	case acme.HardwareModule:
		if _, err := deviceid.ParseHardwareModule(id.Value); err != nil {
			return issuance.Identifier{}, acme.NewProblem(acme.Malformed, "identifier-grammar", err.Error())
		}
		return issuance.Identifier{}, acme.NewProblem(acme.RejectedIdentifier, "identifier-hardware-module",
			"no accepted attestation format can prove a hardware module")
	default:
		return issuance.Identifier{}, acme.NewProblem(acme.UnsupportedIdentifier, "identifier-type",
			"identifiers are of type permanent-identifier or hardware-module")
	}
	return issuance.Identifier{Type: id.Type, Value: id.Value, Kind: identifierKind(dir, id.Value)}, nil
}

// identifierKind says what a permanent identifier stands for in a directory. Where several kinds
// are allowed, a value in the form of a code is one; over 20 characters mean a UDID.
func identifierKind(dir *Directory, value string) policy.IdentifierKind {
	allowed := func(k policy.IdentifierKind) bool { return slices.Contains(dir.Identifiers, k) }
	switch {
	case allowed(policy.ByCode) && (len(dir.Identifiers) == 1 || issuance.IsCode(value)):
		return policy.ByCode
	case allowed(policy.ByUDID) && (!allowed(policy.BySerial) || len(value) > 20):
		return policy.ByUDID
	case allowed(policy.BySerial):
		return policy.BySerial
	}
	return policy.ByCode // never found: refused as an unknown code
}

// order reads an order (section 7.4).
func (s *Server) order(ctx context.Context, r *request) (*reply, error) {
	order, err := s.ownOrder(ctx, r)
	if err != nil {
		return nil, err
	}
	if !r.postAsGet() {
		return nil, acme.NewProblem(acme.Malformed, "post-as-get", "an order is read by POST-as-GET")
	}
	return &reply{status: http.StatusOK, body: s.wireOrder(r.dir, order)}, nil
}

// authorization reads or deactivates an authorization (sections 7.5 and 7.5.2).
func (s *Server) authorization(ctx context.Context, r *request) (*reply, error) {
	order, err := s.ownOrder(ctx, r)
	if err != nil {
		return nil, err
	}
	if r.postAsGet() {
		return &reply{status: http.StatusOK, body: s.wireAuthorization(r.dir, order)}, nil
	}
	var in acme.StatusUpdate
	if problem := acme.DecodeStrict(r.payload, &in); problem != nil {
		return nil, problem
	}
	if in.Status != string(issuance.AuthorizationDeactivated) {
		return nil, acme.NewProblem(acme.Malformed, "authorization-status", "a client may only set the status deactivated")
	}
	if order, err = s.Store.DeactivateAuthorization(ctx, r.call, r.account.ID, order.ID); err != nil {
		return nil, err
	}
	return &reply{status: http.StatusOK, body: s.wireAuthorization(r.dir, order)}, nil
}

// challenge reads or answers a challenge (section 7.5.1). The evidence is verified and the verdict
// stored before the reply: Apple's client does not poll.
func (s *Server) challenge(ctx context.Context, r *request) (*reply, error) {
	if r.postAsGet() {
		order, err := s.ownOrder(ctx, r)
		if err != nil {
			return nil, err
		}
		return s.challengeReply(r, order), nil
	}
	enrolment, err := s.ownEnrolment(ctx, r)
	if err != nil {
		return nil, err
	}
	order := enrolment.Order
	response, err := attest.ParseResponse(r.payload)
	refusal, inEvidence := errors.AsType[*attest.Refusal](err)
	if faulty, ok := errors.AsType[*attest.ResponseError](err); ok {
		return nil, acme.NewProblem(acme.Malformed, "challenge-response", faulty.Detail)
	} else if err != nil && !inEvidence {
		return nil, err
	}
	if order.StatusAt(r.call.Now) != issuance.OrderPending || order.Challenge.Status != issuance.ChallengePending {
		return nil, acme.NewProblem(acme.Malformed, "challenge-pending", "the challenge is not pending: it was answered, or the order's time is over")
	}
	in := policyInput(r, &enrolment)
	answer := issuance.Answer{Account: r.account.ID, Order: order.ID}
	if refusal != nil {
		answer.Evidence = issuance.Evidence{Kind: attest.Attested, Format: response.Format, Object: response.Object,
			DeviceError: response.DeviceError, Failed: refusal.Check}
		answer.Refusal = badAttestation(refusal.Check, refusal.Detail)
	} else if err := s.weigh(ctx, r, order, in, response, &answer); err != nil {
		return nil, err
	}
	if over := s.admitEvidence(r, order, answer); over != nil {
		return nil, over
	}
	answer.Evidence.Token = order.Challenge.Token
	order, err = s.Store.AnswerChallenge(ctx, r.call, answer)
	if err != nil {
		return nil, err
	}
	if answer.Refusal != nil {
		return nil, &recordedRefusal{err: answer.Refusal, device: deviceName(answer.Evidence.Facts)}
	}
	if answer.Evidence.Facts != nil {
		s.Limits.Vouch(string(r.account.ID))
	}
	return s.challengeReply(r, order), nil
}

// weigh verifies a response's evidence and judges it, and fills the answer in.
func (s *Server) weigh(ctx context.Context, r *request, order issuance.Order, in policy.Input, response *attest.Response, answer *issuance.Answer) error {
	keyAuthorization, err := acme.KeyAuthorization(order.Challenge.Token, r.key)
	if err != nil {
		return err
	}
	answer.Evidence = issuance.Evidence{
		Kind: response.Kind, Format: response.Format, Object: response.Object,
		DeviceError: response.DeviceError, KeyAuth: keyAuthorization,
	}
	if response.Kind == attest.Attested {
		facts, err := s.prove(ctx, response, attest.Params{
			Token: order.Challenge.Token, KeyAuthorization: keyAuthorization,
			Roots: r.dir.Roots[response.Format], Now: r.call.Now,
		})
		if refusal, ok := errors.AsType[*attest.Refusal](err); ok {
			answer.Evidence.Failed = refusal.Check
			answer.Refusal = badAttestation(refusal.Check, refusal.Detail)
			return nil
		} else if err != nil {
			return err
		}
		answer.Evidence.Facts, answer.Evidence.FactsSchema = facts, attest.FactsSchema
	}
	in.Evidence, in.Facts = answer.Evidence.Kind, answer.Evidence.Facts
	if failed := r.dir.Policy().Admit(in); failed != nil {
		answer.Evidence.Failed = failed.Check
		answer.Refusal = badAttestation(failed.Check, failed.Detail)
	}
	return nil
}

// prove verifies an attestation. A refusal is no failure of ours: the trace names its check.
func (s *Server) prove(ctx context.Context, response *attest.Response, p attest.Params) (*attest.Facts, error) {
	_, span := tracing.Start(ctx, "verify attestation")
	defer span.End(nil)
	facts, err := s.Verifier.Verify(response.Format, response.Statement, p)
	if refusal, ok := errors.AsType[*attest.Refusal](err); ok {
		span.Set(tracing.Check, refusal.Check)
	}
	return facts, err
}

func (s *Server) challengeReply(r *request, order issuance.Order) *reply {
	return &reply{status: http.StatusOK, body: s.wireChallenge(r.dir, order),
		links: []string{link(s.url(r.dir, "authorization", string(order.ID)), "up")}}
}

// policyInput is what a decision rests on beside evidence and request.
func policyInput(r *request, e *issuance.Enrolment) policy.Input {
	in := policy.Input{Now: r.call.Now, Directory: r.dir.Name, Identifier: e.Order.Identifier.Kind}
	in.Formats, in.Roots = r.dir.accepted()
	if e.Order.Identifier.Kind != policy.ByCode {
		in.Claimed = e.Order.Identifier.Value
		return in
	}
	code := &e.Code
	if expected := cmp.Or(code.Serial, code.UDID); r.device == "" && expected != "" {
		r.device = expected + " (expected)"
	}
	in.Code = &policy.Code{
		ID: string(code.ID), Live: code.StatusAt(r.call.Now) == issuance.CodeUnused,
		Serial: code.Serial, UDID: code.UDID, Labels: code.Labels, AllowUnattested: code.AllowUnattested,
		Tries: code.Tries, CreatedAt: code.CreatedAt,
	}
	return in
}

func badAttestation(check, detail string) *issuance.Refusal {
	return &issuance.Refusal{Problem: acme.BadAttestationStatement, Check: check, Detail: detail}
}

// deviceName is how a log line names a device: its serial, else its UDID.
func deviceName(f *attest.Facts) string {
	if f == nil {
		return ""
	}
	if serial := f.Identifier(deviceid.Serial); serial != "" {
		return serial
	}
	return f.Identifier(deviceid.UDID)
}
