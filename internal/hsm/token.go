//go:build pkcs11

package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"
)

// opener opens the sessions of one key. Each looks for its token anew, so that one which was taken out and put
// back, perhaps elsewhere, is found again.
type opener struct {
	uri    *URI
	pin    func() (string, error)
	module *module

	login   sync.Mutex
	refused *string // the PIN that the token refused
}

// tokenSession is a session in which the private key is known.
type tokenSession struct {
	ctx    *pkcs11.Ctx
	handle pkcs11.SessionHandle
	key    pkcs11.ObjectHandle
}

func (s *tokenSession) sign(mechanism uint, input []byte) ([]byte, error) {
	if err := s.ctx.SignInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, s.key); err != nil {
		return nil, err
	}
	return s.ctx.Sign(s.handle, input)
}

func (s *tokenSession) close() { _ = s.ctx.CloseSession(s.handle) } // it may be gone already

// open opens a session, logs it in, and finds both halves of the key.
func (o *opener) open() (_ *tokenSession, _ crypto.PublicKey, err error) {
	slot, err := o.slot()
	if err != nil {
		return nil, nil, err
	}
	s := &tokenSession{ctx: o.module.ctx}
	if s.handle, err = s.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION); err != nil {
		return nil, nil, fmt.Errorf("open a session: %w", err)
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := o.logIn(s); err != nil {
		return nil, nil, err
	}
	id, err := o.findPrivate(s)
	if err != nil {
		return nil, nil, err
	}
	public, err := o.findPublic(s, id)
	if err != nil {
		return nil, nil, err
	}
	return s, public, nil
}

// slot is where the token is that the URI names; it must be one.
func (o *opener) slot() (uint, error) {
	slots, err := o.module.ctx.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("list slots: %w", err)
	}
	var found []uint
	for _, slot := range slots {
		token, err := o.module.ctx.GetTokenInfo(slot)
		if errors.Is(err, pkcs11.Error(pkcs11.CKR_TOKEN_NOT_PRESENT)) {
			continue // it was taken out just now
		}
		if err != nil {
			return 0, fmt.Errorf("read the token of slot %d: %w", slot, err)
		}
		if token.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 && o.uri.names(slot, token) {
			found = append(found, slot)
		}
	}
	switch len(found) {
	case 0:
		return 0, fmt.Errorf("there is no %s in %s: the module's own tool lists what is there", o.uri.tokenText(), o.uri.Module)
	case 1:
		return found[0], nil
	}
	return 0, fmt.Errorf("%d tokens are %s: name one by its serial", len(found), o.uri.tokenText())
}

// names reports whether the URI means this token.
func (u *URI) names(slot uint, t pkcs11.TokenInfo) bool {
	for _, p := range [][2]string{{u.Token, t.Label}, {u.Serial, t.SerialNumber}, {u.Manufacturer, t.ManufacturerID}, {u.Model, t.Model}} {
		if p[0] != "" && p[0] != p[1] {
			return false
		}
	}
	return u.Slot == nil || *u.Slot == slot
}

// logIn logs the process in to the token, unless it is already: a login is not one session's alone. A PIN that
// the token refused is not tried again, for every try brings it nearer to locking itself; another that stands in
// the file since then is.
func (o *opener) logIn(s *tokenSession) error {
	o.login.Lock()
	defer o.login.Unlock()
	session, err := s.ctx.GetSessionInfo(s.handle)
	if err != nil {
		return fmt.Errorf("read the session: %w", err)
	}
	if session.State == pkcs11.CKS_RO_USER_FUNCTIONS || session.State == pkcs11.CKS_RW_USER_FUNCTIONS {
		return nil
	}
	token, err := s.ctx.GetTokenInfo(session.SlotID)
	if err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	if err := mayTry(token.Flags); err != nil {
		return err
	}
	pin, err := o.pin()
	if err != nil {
		return err
	}
	if o.refused != nil && *o.refused == pin {
		return fmt.Errorf("the token refused the PIN of %s, which is not tried again: write the right one there", o.uri.PINSource)
	}
	err = s.ctx.Login(s.handle, pkcs11.CKU_USER, pin)
	switch {
	case err == nil || errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)): // for another key, just now
		o.refused = nil
		return nil
	case errors.Is(err, pkcs11.Error(pkcs11.CKR_PIN_INCORRECT)), errors.Is(err, pkcs11.Error(pkcs11.CKR_PIN_INVALID)), errors.Is(err, pkcs11.Error(pkcs11.CKR_PIN_LEN_RANGE)):
		o.refused = &pin
		return fmt.Errorf("the token refused the PIN of %s: %w", o.uri.PINSource, err)
	}
	return fmt.Errorf("log in: %w", err)
}

// mayTry leaves a token's last try to a person: a server that is started again and again would take it.
func mayTry(flags uint) error {
	if flags&pkcs11.CKF_USER_PIN_LOCKED != 0 {
		return errors.New("the token locked itself after too many wrong PINs: its security officer can give it a new one")
	}
	if flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0 {
		return errors.New("one more wrong PIN would lock the token, so none is tried: log in to it once by its own tool, with the right PIN, and see that pin-source holds it")
	}
	return nil
}

// findPrivate finds the private key, which must be one, and returns its CKA_ID.
func (o *opener) findPrivate(s *tokenSession) (id []byte, err error) {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}
	if o.uri.Object != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, o.uri.Object))
	}
	if len(o.uri.ID) > 0 {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, o.uri.ID))
	}
	keys, err := s.find(template)
	if err != nil {
		return nil, fmt.Errorf("find the private key: %w", err)
	}
	switch len(keys) {
	case 0:
		return nil, fmt.Errorf("there is no private key with %s in the token", o.uri.keyText())
	case 1:
	default:
		return nil, fmt.Errorf("%d private keys are %s: name one by both object and id", len(keys), o.uri.keyText())
	}
	s.key = keys[0]
	values, err := s.values(s.key, pkcs11.CKA_ID)
	if err != nil {
		return nil, fmt.Errorf("read the private key: %w", err)
	}
	return values[0], nil
}

// findPublic finds the public key beside the private one: an object of its own or a certificate, with the same
// CKA_ID or, where that is empty, the same label. Several are fine if they hold the same key.
func (o *opener) findPublic(s *tokenSession, id []byte) (crypto.PublicKey, error) {
	same := pkcs11.NewAttribute(pkcs11.CKA_ID, id)
	if len(id) == 0 {
		same = pkcs11.NewAttribute(pkcs11.CKA_LABEL, o.uri.Object)
	}
	var public crypto.PublicKey
	for class, read := range map[uint]func(pkcs11.ObjectHandle) (crypto.PublicKey, error){
		pkcs11.CKO_PUBLIC_KEY: s.publicKey, pkcs11.CKO_CERTIFICATE: s.certificateKey,
	} {
		objects, err := s.find([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), same})
		if err != nil {
			return nil, fmt.Errorf("find the public key: %w", err)
		}
		for _, object := range objects {
			key, err := read(object)
			if err != nil {
				return nil, fmt.Errorf("read the public key: %w", err)
			}
			if public != nil && !equal(public, key) {
				return nil, fmt.Errorf("public keys and certificates with the id %x of the private key differ: give each key an id of its own", id)
			}
			public = key
		}
	}
	if public == nil {
		return nil, fmt.Errorf("there is neither public key nor certificate with the id %x of the private key: put its certificate into the token, with that id", id)
	}
	return public, nil
}

// maxObjects bounds what a search returns.
const maxObjects = 64

func (s *tokenSession) find(template []*pkcs11.Attribute) (found []pkcs11.ObjectHandle, err error) {
	if err := s.ctx.FindObjectsInit(s.handle, template); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.ctx.FindObjectsFinal(s.handle)) }()
	for len(found) < maxObjects {
		some, _, err := s.ctx.FindObjects(s.handle, maxObjects) // may be fewer than there are
		if err != nil {
			return nil, err
		}
		if len(some) == 0 {
			break
		}
		found = append(found, some...)
	}
	return found, nil
}

func (s *tokenSession) values(object pkcs11.ObjectHandle, kinds ...uint) ([][]byte, error) {
	var template []*pkcs11.Attribute
	for _, kind := range kinds {
		template = append(template, pkcs11.NewAttribute(kind, nil))
	}
	attributes, err := s.ctx.GetAttributeValue(s.handle, object, template)
	if err != nil {
		return nil, err
	}
	var values [][]byte
	for _, a := range attributes {
		values = append(values, a.Value)
	}
	return values, nil
}

func (s *tokenSession) certificateKey(object pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	values, err := s.values(object, pkcs11.CKA_VALUE)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(values[0])
	if err != nil {
		return nil, err
	}
	return supported(certificate.PublicKey)
}

func (s *tokenSession) publicKey(object pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	kind, err := s.values(object, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return nil, err
	}
	switch {
	case bytes.Equal(kind[0], pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC).Value):
		values, err := s.values(object, pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT)
		if err != nil {
			return nil, err
		}
		return ecKey(values[0], values[1])
	case bytes.Equal(kind[0], pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA).Value):
		values, err := s.values(object, pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return nil, err
		}
		exponent := new(big.Int).SetBytes(values[1])
		if !exponent.IsInt64() || exponent.Int64() > 1<<31-1 {
			return nil, errors.New("its RSA exponent is larger than 31 bits")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(values[0]), E: int(exponent.Int64())}, nil
	}
	return nil, errUnsupported
}

var errUnsupported = errors.New("it is none of P-256, P-384 and RSA")

// supported refuses the keys that Sign cannot sign with.
func supported(key crypto.PublicKey) (crypto.PublicKey, error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return key, nil
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return key, nil
		}
	}
	return nil, errUnsupported
}

// ecKey decodes CKA_EC_PARAMS, the curve's object identifier, and CKA_EC_POINT, which the standard wraps in an
// OCTET STRING and some modules do not.
func ecKey(params, point []byte) (crypto.PublicKey, error) {
	var curve elliptic.Curve
	var oid asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(params, &oid); err != nil || len(rest) > 0 {
		return nil, errUnsupported
	}
	switch {
	case oid.Equal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}):
		curve = elliptic.P256()
	case oid.Equal(asn1.ObjectIdentifier{1, 3, 132, 0, 34}):
		curve = elliptic.P384()
	default:
		return nil, errUnsupported
	}
	var inner []byte
	size := (curve.Params().BitSize + 7) / 8
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 && len(inner) == 1+2*size {
		point = inner
	}
	return ecdsa.ParseUncompressedPublicKey(curve, point)
}

// tokenText and keyText say in errors what was looked for.
func (u *URI) tokenText() string {
	var parts []string
	for _, p := range [][2]string{{"token", u.Token}, {"serial", u.Serial}, {"manufacturer", u.Manufacturer}, {"model", u.Model}} {
		if p[1] != "" {
			parts = append(parts, fmt.Sprintf("%s %q", p[0], p[1]))
		}
	}
	if u.Slot != nil {
		parts = append(parts, fmt.Sprintf("slot-id %d", *u.Slot))
	}
	return strings.Join(parts, ", ")
}

func (u *URI) keyText() string {
	var parts []string
	if u.Object != "" {
		parts = append(parts, fmt.Sprintf("object %q", u.Object))
	}
	if len(u.ID) > 0 {
		parts = append(parts, fmt.Sprintf("id %x", u.ID))
	}
	return strings.Join(parts, ", ")
}
