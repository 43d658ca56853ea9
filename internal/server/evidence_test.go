package server_test

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"testing"

	"assay/attest/standin"
	"assay/internal/audit"
	"assay/internal/issuance"
)

// Every check of the attestation, turned wrong one at a time, with the same key in evidence and CSR.
func TestEachHostileAttestationIsRefusedByItsCheck(t *testing.T) {
	h := newHarness(t)
	for _, m := range standin.Mutations() {
		h.subtest(m.Name, func(t *testing.T) {
			d := h.device()
			if m.NewKey != nil {
				var err error
				if d.key, err = m.NewKey(rand.Reader); err != nil {
					t.Fatal(err)
				}
			}
			value, id := h.mint(issuance.Mint{Serial: d.serial})
			c := h.client(dirDefault)
			o := c.order(value)
			c.post(o.challenge, standin.AttestedResponse(d.object(o.token, m))).refused(http.StatusForbidden, "badAttestationStatement", m.Check)
			h.dead(o, m.Check)
			code := h.code(id, issuance.CodeUnused, 1)
			if code.LastRefusal != m.Check {
				t.Errorf("code remembers %q", code.LastRefusal)
			}
			challenge := into[struct {
				Status string
				Error  struct{ Type, Check string }
			}](c.get(o.challenge).want(http.StatusOK))
			if challenge.Status != "invalid" || challenge.Error.Check != m.Check || challenge.Error.Type != "urn:ietf:params:acme:error:badAttestationStatement" {
				t.Errorf("the challenge shows %+v", challenge)
			}
			c.finalize(o, d.csr()).refused(http.StatusForbidden, "orderNotReady", "order-ready")
			if rows := h.audited(audit.Filter{Code: string(id)}, m.Check); len(rows) != 1 || rows[0].Order != string(o.id) {
				t.Errorf("the trail has %d rows of the refusal", len(rows))
			}
		})
	}
}

func TestCodeSurvivesRefusedEvidence(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.order(value)
	mutation, err := standin.LookupMutation("freshness-of-other-token")
	if err != nil {
		t.Fatal(err)
	}
	c.post(o.challenge, standin.AttestedResponse(d.object(o.token, mutation))).refused(http.StatusForbidden, "badAttestationStatement", "freshness")
	h.code(id, issuance.CodeUnused, 1)
	h.stillGood(dirDefault, value, d)
	h.code(id, issuance.CodeConsumed, 1)
}

func TestEvidenceIsGoodForItsOwnChallengeOnly(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	first, second := h.client(dirDefault), h.client(dirDefault)
	o := first.order(value)
	replayed := d.attest(o.token)
	first.post(o.challenge, replayed).want(http.StatusOK)

	same := first.order(value)
	first.post(same.challenge, replayed).refused(http.StatusForbidden, "badAttestationStatement", "freshness")
	h.dead(same, "freshness")
	other := second.order(value)
	second.post(other.challenge, replayed).refused(http.StatusForbidden, "badAttestationStatement", "freshness")
	h.dead(other, "freshness")

	h.isReady(o)
	h.code(id, issuance.CodeUnused, 2)
	first.collect(first.finalize(o, d.csr()))
	h.code(id, issuance.CodeConsumed, 2)
}

func TestAnsweredChallengeTakesNoSecondAnswer(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{AllowUnattested: true})
	c := h.client(dirDefault)
	o := c.ready(value, d)
	other := h.device()
	c.post(o.challenge, other.attest(o.token)).refused(http.StatusBadRequest, "malformed", "challenge-pending")
	c.post(o.challenge, standin.NoneResponse()).refused(http.StatusBadRequest, "malformed", "challenge-pending")
	h.isReady(o)
	h.code(id, issuance.CodeUnused, 0)
	c.finalize(o, other.csr()).refused(http.StatusBadRequest, "badCSR", "attested-key")

	refused := c.order(value)
	c.post(refused.challenge, standin.AttestedResponse([]byte{0xa0})).refused(http.StatusForbidden, "badAttestationStatement", "object-well-formed")
	c.post(refused.challenge, d.attest(refused.token)).refused(http.StatusBadRequest, "malformed", "challenge-pending")
	h.dead(refused, "object-well-formed")
	h.code(id, issuance.CodeUnused, 1)
}

func TestChallengeOfExpiredOrderTakesNoAnswer(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.order(value)
	h.clock.Advance(issuance.OrderLifetime)
	c.post(o.challenge, d.attest(o.token)).refused(http.StatusBadRequest, "malformed", "challenge-pending")
	h.pending(o)
	h.code(id, issuance.CodeUnused, 0)
	authorization := into[struct{ Status string }](c.get(o.authorization).want(http.StatusOK))
	seen := into[struct{ Status string }](c.get(o.url).want(http.StatusOK))
	if authorization.Status != "invalid" || seen.Status != "invalid" {
		t.Errorf("an expired order is %q, its authorization %q", seen.Status, authorization.Status)
	}
}

func TestDirectoryTakesOnlyTheRootsItIsGiven(t *testing.T) {
	h := newHarness(t)
	for dir, check := range map[string]string{dirApple: "chain-anchored", dirClosed: "format-roots"} {
		h.subtest(dir, func(t *testing.T) {
			d := h.device()
			value, id := h.mint(issuance.Mint{Directory: dir})
			c := h.client(dir)
			o := c.order(value)
			c.post(o.challenge, d.attest(o.token)).refused(http.StatusForbidden, "badAttestationStatement", check)
			h.dead(o, check)
			h.code(id, issuance.CodeUnused, 1)
		})
	}
}

func TestFaultyChallengeResponseChangesNothing(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.order(value)
	object := b64.EncodeToString(d.object(o.token, standin.Mutation{}))
	for name, payload := range map[string]string{
		"no JSON":          `attObj`,
		"array":            `[]`,
		"null":             `null`,
		"string":           `"attObj"`,
		"trailing data":    `{"attObj":"` + object + `"}{}`,
		"attObj twice":     `{"attObj":"` + object + `","attObj":"` + object + `"}`,
		"attObj null":      `{"attObj":null}`,
		"attObj number":    `{"attObj":7}`,
		"attObj object":    `{"attObj":{}}`,
		"attObj array":     `{"attObj":["` + object + `"]}`,
		"padded base64url": `{"attObj":"` + object + `=="}`,
		"base64":           `{"attObj":"` + base64.StdEncoding.EncodeToString([]byte{0xfb, 0xff, 0xfe}) + `"}`,
		"line break":       `{"attObj":"` + object[:8] + `\n` + object[8:] + `"}`,
		"depth bomb":       `{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`,
		"unfinished":       `{"attObj":"` + object,
		"invalid UTF-8":    "{\"error\":\"\xff\"}",
	} {
		h.subtest(name, func(t *testing.T) {
			c.post(o.challenge, []byte(payload)).refused(http.StatusBadRequest, "malformed", "challenge-response")
			h.pending(o)
			h.code(id, issuance.CodeUnused, 0)
		})
	}
	c.post(o.challenge, []byte(`{"attObj":"`+object+`","unknown":[{}]}`)).want(http.StatusOK)
	c.collect(c.finalize(o, d.csr()))
}

func TestReadingAChallengeAnswersNothing(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{AllowUnattested: true})
	c := h.client(dirDefault)
	o := c.order(value)
	h.unchanged("POST-as-GET of a challenge", func() {
		r := c.get(o.challenge).want(http.StatusOK)
		if links := r.header.Values("Link"); !slices.Contains(links, "<"+o.authorization+`>;rel="up"`) {
			t.Errorf("a challenge's links are %q", links)
		}
	})
	h.pending(o)
}
