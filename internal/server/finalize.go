package server

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"

	"assay/acme"
	"assay/attest"
	"assay/csr"
	"assay/deviceid"
	"assay/internal/base64url"
	"assay/internal/ca"
	"assay/internal/issuance"
	"assay/internal/tracing"
	"assay/policy"
)

// endTimeout bounds each of completing and undoing a claim, which begin when the request's own time
// may be over. It is longer than a database that is lost for a while is tried again.
const endTimeout = 10 * time.Second

// finalize is the issuance spine (RFC 8555, section 7.4): parse the CSR, decide, check the key,
// apply the profile, claim, sign, complete. Nothing is held before the claim; nothing is signed
// before its serial is on disk; nothing is delivered whose claim was undone.
func (s *Server) finalize(ctx context.Context, r *request) (*reply, error) {
	enrolment, err := s.readyEnrolment(ctx, r)
	if err != nil {
		return nil, err
	}
	order, code, evidence := enrolment.Order, enrolment.Code, enrolment.Evidence
	r.device = deviceName(evidence.Facts)
	in := policyInput(r, &enrolment)
	request, err := parseFinalize(r.payload)
	if err != nil {
		return nil, s.rejectCSR(ctx, r, err)
	}
	in.Evidence, in.Facts, in.Request = evidence.Kind, evidence.Facts, withoutCode(request, order.Identifier)
	decision, err := s.decide(ctx, r, &in, order, code)
	if err != nil {
		return nil, err
	}
	s.counts[r.dir.Name].decided[decision.Outcome].Inc()
	if decision.Outcome != policy.Issue {
		return nil, s.refuseOrder(ctx, r, order, in, decision)
	}
	if !decision.Key.Permits(request.SPKI) {
		return nil, s.rejectCSR(ctx, r, &csr.Error{Problem: csr.BadCSR, Check: "attested-key", Detail: "the key of the CSR is not the attested key"})
	}
	claim, grant, err := s.prepare(ctx, r, order, code, evidence, request, in, decision)
	if err != nil {
		return nil, err
	}
	claimed, err := s.Store.BeginIssue(ctx, r.call, claim.Claim)
	if err != nil {
		return nil, s.lostClaim(err)
	}
	der, err := s.Issuers[r.dir.Issuer].Issue(ctx, ca.IssueInput{
		Serial: claim.serial, Grant: grant, PublicKey: request.PublicKey,
		NotBefore: claimed.NotBefore, NotAfter: claimed.NotAfter, Shard: claimed.CRLShard,
	})
	if err != nil {
		return nil, s.abandon(ctx, r, fmt.Errorf("sign %s: %w", claimed.ID, err))
	}
	order, err = s.complete(ctx, r, issuance.Completion{
		Order: order.ID, Certificate: claimed.ID, DER: der, Attested: attestedDevice(evidence.Facts),
		Approval: issuance.HoldID(decision.Approval),
	})
	if err != nil {
		return nil, err
	}
	s.counts[r.dir.Name].issued[evidence.Kind].Inc()
	s.logIssued(ctx, r, claimed, decision)
	return &reply{status: http.StatusOK, location: s.url(r.dir, "order", string(order.ID)), body: s.wireOrder(r.dir, order)}, nil
}

// readyEnrolment loads the order with its code and evidence, and checks that it may be finalized.
func (s *Server) readyEnrolment(ctx context.Context, r *request) (issuance.Enrolment, error) {
	e, err := s.ownEnrolment(ctx, r)
	if err != nil {
		return issuance.Enrolment{}, err
	}
	if status := e.Order.StatusAt(r.call.Now); status != issuance.OrderReady {
		return issuance.Enrolment{}, acme.NewProblem(acme.OrderNotReady, "order-ready", "the order is "+string(status)+", not ready")
	}
	if e.Evidence.ID == "" {
		return issuance.Enrolment{}, fmt.Errorf("order %s is ready, but its evidence %s is missing", e.Order.ID, e.Order.Evidence)
	}
	return e, nil
}

func parseFinalize(payload []byte) (*csr.Request, error) {
	var in acme.Finalize
	if problem := acme.DecodeStrict(payload, &in); problem != nil {
		return nil, problem
	}
	der, err := base64url.Decode(in.CSR)
	if err != nil || len(der) == 0 {
		return nil, acme.NewProblem(acme.Malformed, "csr-encoding", "csr is not base64url without padding")
	}
	return csr.Parse(der)
}

// hiddenCode stands for the code in what is decided on.
const hiddenCode = "(code)"

// withoutCode is a request as it is decided on, stored and shown. ACME clients that know no other name for
// themselves repeat their order's identifier in the CSR; where that is a code, it opens a try to whoever
// reads the decision, for as long as the device is held or refused.
func withoutCode(request *csr.Request, identifier issuance.Identifier) *csr.Request {
	if identifier.Kind != policy.ByCode || identifier.Value == "" {
		return request
	}
	hide := strings.NewReplacer(identifier.Value, hiddenCode, hex.EncodeToString([]byte(identifier.Value)), hiddenCode).Replace // in names of other kinds as hex
	clean := *request
	clean.Subject = slices.Clone(request.Subject)
	for i, rdn := range clean.Subject {
		clean.Subject[i] = slices.Clone(rdn)
		for j := range rdn {
			clean.Subject[i][j].Value = hide(rdn[j].Value)
		}
	}
	clean.AltNames = slices.Clone(request.AltNames)
	for i := range clean.AltNames {
		clean.AltNames[i].Value = hide(clean.AltNames[i].Value)
	}
	return &clean
}

// decide gathers what is known around the request into the input, and lets the directory's policy
// decide. It is the same policy throughout, whatever takes over meanwhile.
func (s *Server) decide(ctx context.Context, r *request, in *policy.Input, order issuance.Order, code issuance.Code) (decision policy.Decision, err error) {
	ctx, span := tracing.Start(ctx, "decide")
	defer span.End(&err)
	now := r.dir.Policy()
	if err := s.policies.keep(ctx, s.Store, r, now); err != nil {
		return policy.Decision{}, err
	}
	spki := sha256.Sum256(in.Request.SPKI)
	attested := attestedDevice(in.Facts)
	c, err := s.Store.Circumstances(ctx, in.Now, issuance.Subject{
		Directory: r.dir.Name, Serial: attested.Serial, UDID: attested.UDID, Verified: attested.Attested,
		Code: order.Code, CodeDevice: code.Device, SPKISHA256: hex.EncodeToString(spki[:]),
	})
	if err != nil {
		return policy.Decision{}, fmt.Errorf("decide on %s: %w", order.ID, err)
	}
	in.History, in.Approval = &c.History, c.Approval
	if c.Device != nil {
		in.Device = c.Device.ForPolicy(attested.Serial != "" || attested.UDID != "")
	}
	if in.Code != nil {
		in.Code.Credential, in.Code.Template = string(c.Credential), c.Template
	}
	if now.UsesOpinion() && s.Opinion != nil && now.Barred(*in) == nil {
		in.Opinion = s.Opinion(ctx, *in)
	}
	decision = now.Decide(ctx, *in)
	span.Set(tracing.Evidence, string(in.Evidence))
	span.Set(tracing.Outcome, string(decision.Outcome))
	return decision, nil
}

// preparedClaim is a claim with the serial in the form that signing takes.
type preparedClaim struct {
	issuance.Claim
	serial *big.Int
}

// prepare applies the certificate profile and gathers what is recorded before signing.
func (s *Server) prepare(ctx context.Context, r *request, order issuance.Order, code issuance.Code, evidence issuance.Evidence, request *csr.Request, in policy.Input, decision policy.Decision) (*preparedClaim, *ca.Grant, error) {
	if accountKey(r.key.Key, request.PublicKey) {
		return nil, nil, s.rejectCSR(ctx, r, &csr.Error{Problem: csr.BadPublicKey, Check: "account-key", Detail: "the key of the CSR is the account key (RFC 8555, section 11.1)"})
	}
	id, err := issuance.NewID[issuance.CertificateID](r.call.Now, s.Random)
	if err != nil {
		return nil, nil, err
	}
	profile, err := r.dir.profile(decision.Profile)
	if err != nil {
		return nil, nil, err
	}
	input := ca.GrantInput{Request: request, Minted: code.Minted, IdentityID: string(id)}
	if evidence.Facts != nil {
		input.Attested = evidence.Facts.Identifiers
	}
	grant, err := profile.Grant(input)
	if err != nil {
		return nil, nil, s.rejectCSR(ctx, r, err)
	}
	for _, d := range grant.Dropped {
		decision.Dropped = append(decision.Dropped, policy.Dropped(d))
	}
	serialText, serial, err := ca.NewSerial(s.Random)
	if err != nil {
		return nil, nil, err
	}
	notBefore, notAfter, err := s.Issuers[r.dir.Issuer].Window(profile, r.call.Now)
	if err != nil {
		return nil, nil, err
	}
	if most := r.call.Now.UTC().Truncate(time.Second).Add(time.Duration(decision.Lifetime)); decision.Lifetime > 0 && most.Before(notAfter) {
		notAfter = most
	}
	spki := sha256.Sum256(request.SPKI)
	cert := issuance.Certificate{
		ID: id, Serial: serialText, Directory: r.dir.Name, Issuer: r.dir.Issuer,
		Profile: profile.Name, ProfileVersion: profile.Version, CRLShard: ca.ShardOf(serial, s.Shards),
		Account: r.account.ID, Code: order.Code, Device: code.Device, Evidence: order.Evidence,
		SPKISHA256: hex.EncodeToString(spki[:]), NotBefore: notBefore, NotAfter: notAfter,
	}
	if decision.Verified {
		cert.DeviceSerial = evidence.Facts.Identifier(deviceid.Serial)
		cert.DeviceUDID = evidence.Facts.Identifier(deviceid.UDID)
		cert.AttestationRoot = evidence.Facts.Root.SHA256
	} else { // unverified: what the code expects is shown as expected, never as the device's
		cert.ExpectedSerial, cert.ExpectedUDID = code.Serial, code.UDID
	}
	return &preparedClaim{serial: serial, Claim: issuance.Claim{
		Account: r.account.ID, Order: order.ID, Certificate: cert,
		Decision: storedDecision(order, in, decision),
	}}, grant, nil
}

func storedDecision(order issuance.Order, in policy.Input, d policy.Decision) issuance.Decision {
	stored := issuance.Decision{Order: order.ID, Directory: order.Directory, Code: order.Code, Evidence: order.Evidence,
		Time: in.Now, Schema: policy.Schema, Decision: d, Input: &in}
	if in.Device != nil {
		stored.Device = issuance.DeviceID(in.Device.ID)
	}
	return stored
}

// rejectCSR counts a try; the order stays ready, up to a limit. Faults of the JSON itself change nothing.
func (s *Server) rejectCSR(ctx context.Context, r *request, err error) error {
	fault, ok := errors.AsType[*csr.Error](err)
	if !ok {
		return err
	}
	refusal := issuance.Refusal{Problem: fault.Problem, Check: fault.Check, Detail: fault.Detail}
	if _, err := s.Store.RejectCSR(ctx, r.call, issuance.CSRRejection{Account: r.account.ID, Order: r.order.ID, Refusal: refusal}); err != nil {
		return err
	}
	return &recordedRefusal{err: &refusal}
}

// refuseOrder records a decision to refuse; the order becomes invalid.
func (s *Server) refuseOrder(ctx context.Context, r *request, order issuance.Order, in policy.Input, d policy.Decision) error {
	failed := d.Refused() // a decision that does not issue has a failed reason
	if failed == nil {
		return fmt.Errorf("decision on %s is %s, for no reason", order.ID, d.Outcome)
	}
	refusal := issuance.Refusal{Problem: acme.Unauthorized, Check: failed.Check, Detail: failed.Detail}
	_, err := s.Store.RefuseOrder(ctx, r.call, issuance.OrderRefusal{
		Account: r.account.ID, Order: order.ID, Refusal: refusal, Decision: storedDecision(order, in, d),
		Attested: attestedDevice(in.Facts),
	})
	if err != nil {
		return err
	}
	return &recordedRefusal{err: &refusal, advice: failed.Advice}
}

// lostClaim: the store recorded that the code, the approval or the device's good standing was lost
// meanwhile; a lost race for the order changed nothing.
func (s *Server) lostClaim(err error) error {
	if errors.Is(err, issuance.ErrCodeTaken) || errors.Is(err, issuance.ErrApprovalTaken) || errors.Is(err, issuance.ErrDeviceBarred) {
		return &recordedRefusal{err: err}
	}
	return err
}

// complete ends a claim in time of its own. One that was undone meanwhile stays undone; one that
// cannot be completed is undone at once, so that the device may try again with its code.
func (s *Server) complete(ctx context.Context, r *request, c issuance.Completion) (issuance.Order, error) {
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	order, err := s.Store.CompleteIssue(own, issuance.Call{Now: s.Now(), From: r.call.From}, c)
	switch {
	case err == nil:
		return order, nil
	case errors.Is(err, issuance.ErrConflict):
		return issuance.Order{}, fmt.Errorf("complete %s: %w", c.Certificate, err)
	}
	return issuance.Order{}, s.abandon(ctx, r, fmt.Errorf("complete %s: %w", c.Certificate, err))
}

// abandon undoes a claim that cannot be completed, for lack of time perhaps: so it takes its own. What
// cannot be undone now is undone by the upkeep. Both causes lose their types: whatever they are, the
// request failed inside.
func (s *Server) abandon(ctx context.Context, r *request, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	why := issuance.Refusal{Problem: acme.ServerInternal, Check: "issuing", Detail: "the certificate could not be issued"}
	call := issuance.Call{Now: s.Now(), From: r.call.From}
	if err := s.Store.AbandonIssue(ctx, call, r.order.ID, why); err != nil {
		return fmt.Errorf("issue for %s: %v; undo its claim: %v", r.order.ID, cause, err)
	}
	return fmt.Errorf("issue for %s: %v", r.order.ID, cause)
}

// attestedDevice is the device that the evidence vouches for; zero if it names none.
func attestedDevice(f *attest.Facts) issuance.Device {
	if f == nil {
		return issuance.Device{}
	}
	return issuance.Device{Serial: f.Identifier(deviceid.Serial), UDID: f.Identifier(deviceid.UDID), Attested: true}
}

// accountKey reports whether the certificate's key is the account's.
func accountKey(account, certified any) bool {
	key, ok := account.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(certified)
}

func (s *Server) logIssued(ctx context.Context, r *request, c issuance.Certificate, d policy.Decision) {
	tracing.Current(ctx).Set(tracing.Certificate, string(c.ID))
	s.Log.InfoContext(ctx, "issued", "directory", r.dir.Name, "device", r.device, "certificate", c.ID, "serial", c.Serial,
		"code", c.Code, "verified", d.Verified, "standIn", d.StandIn, "notAfter", c.NotAfter.UTC().Format(time.RFC3339))
}
