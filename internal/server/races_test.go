package server_test

import (
	"bytes"
	"net/http"
	"testing"

	"assay/internal/issuance"
)

func TestManyFinalizesOfOneOrderIssueOnce(t *testing.T) {
	for name, boot := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			h := bootHarness(t, boot)
			d := h.device()
			value, id := h.mint(issuance.Mint{})
			c := h.client(dirDefault)
			o := c.ready(value, d)
			csr := d.csr()
			replies := atOnce(32, func(int) *reply { return c.finalize(o, csr) })
			issued := 0
			for _, r := range replies {
				if r.status == http.StatusOK {
					issued++
					c.collect(r)
				} else if r.status != http.StatusForbidden {
					t.Errorf("a finalize that lost got %d %s", r.status, r.body)
				}
			}
			if n := h.count(`certificates`); issued != 1 || n != 1 {
				t.Errorf("%d of 32 got a certificate, %d serials were reserved", issued, n)
			}
			h.code(id, issuance.CodeConsumed, 0)
		})
	}
}

func TestManyDevicesWithOneCodeGetOneCertificate(t *testing.T) {
	h := newHarness(t)
	value, id := h.mint(issuance.Mint{})
	const devices = 32
	type contender struct {
		*client
		*order
		*device
	}
	contenders := make([]contender, devices)
	for i := range contenders {
		c, d := h.client(dirDefault), h.device()
		contenders[i] = contender{c, c.ready(value, d), d}
	}
	replies := atOnce(devices, func(i int) *reply {
		return contenders[i].client.finalize(contenders[i].order, contenders[i].csr())
	})
	issued := 0
	for i, r := range replies {
		if r.status == http.StatusOK {
			issued++
			contenders[i].collect(r)
			continue
		}
		r.refused(http.StatusForbidden, "unauthorized", "code-live")
		h.refusedOrder(contenders[i].order, "code-live")
	}
	if n := h.count(`certificates`); issued != 1 || n != 1 {
		t.Errorf("%d of %d got a certificate, %d serials were reserved", issued, devices, n)
	}
	if c, err := h.store.Code(t.Context(), id); err != nil || c.Status != issuance.CodeConsumed {
		t.Errorf("code is %s, %v", c.Status, err)
	}
}

func TestManyAnswersToOneChallengeCountOnce(t *testing.T) {
	h := newHarness(t)
	d := h.device()
	value, id := h.mint(issuance.Mint{AllowUnattested: true})
	c := h.client(dirDefault)
	o := c.order(value)
	payloads := [][]byte{d.attest(o.token), []byte(`{}`), d.attest("stale"), []byte(`{"attObj":"AA"}`)}
	replies := atOnce(16, func(i int) *reply { return c.post(o.challenge, payloads[i%len(payloads)]) })
	answers := 0
	for _, r := range replies {
		if r.status == http.StatusOK || r.status == http.StatusForbidden && !bytes.Contains(r.body, []byte("orderNotReady")) {
			answers++
		}
	}
	if n := h.count(`evidence`); answers != 1 || n != 1 {
		t.Errorf("%d answers counted, %d were kept", answers, n)
	}
	if c, err := h.store.Code(t.Context(), id); err != nil || c.Tries > 1 {
		t.Errorf("the code counts %d tries, %v", c.Tries, err)
	}
}

func TestManyRegistrationsOfOneKeyMakeOneAccount(t *testing.T) {
	h := newHarness(t)
	c := h.stranger(dirDefault)
	replies := atOnce(16, func(int) *reply { return c.post(c.url("new-account"), []byte(`{}`), withJWK) })
	created := 0
	for _, r := range replies {
		if r.status == http.StatusCreated {
			created++
		} else {
			r.want(http.StatusOK)
		}
	}
	if n := h.count(`accounts`); created != 1 || n != 1 {
		t.Errorf("%d accounts were created, %d exist", created, n)
	}
}
