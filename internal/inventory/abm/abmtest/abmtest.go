// Package abmtest stands in for Apple's token service and for the API of Apple Business Manager, on
// loopback, for tests.
//
// It follows Apple's published pages, not the client that it tests: it verifies assertions by itself, gives
// out tokens that end, lists devices in pages under opaque cursors, says of a device that it was released
// only where that one device is asked for, answers 406 without an Accept header, and limits requests if told to.
// What goes wrong in the field can be made to happen (Fault). It was never compared with Apple's servers.
package abmtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"
)

// Service is a running stand-in. Close it. The exported fields are set before the first request.
type Service struct {
	URL, TokenURL string // for the client's configuration

	ClientID, KeyID string
	Key             *ecdsa.PrivateKey // the account's
	Scope           string            // business.api or school.api

	Now       func() time.Time // its clock; default time.Now
	TokenLife time.Duration    // default an hour
	PageSize  int              // most devices of a page, whatever is asked for; 0: as asked

	// Limit and Per bound the requests for devices: so many in any such span; 0: none. RetryAfter says how
	// the answer tells when to come back: "seconds", "date", or "" for not at all.
	Limit      int
	Per        time.Duration
	RetryAfter string

	server *httptest.Server

	mu       sync.Mutex
	devices  []Device // listed, in order
	released map[string]Device
	tokens   map[string]time.Time // until when each is good
	used     map[string]bool      // jti of assertions
	cursors  map[string]int       // cursor: index of the first device behind it
	faults   map[Endpoint][]Fault
	recent   []time.Time // requests for devices, for Limit
	requests []string
}

// Device is a device that the stand-in knows.
type Device struct {
	Serial     string
	Attributes map[string]any // added to, or put over, the usual ones
	ReleasedAt time.Time
}

// Start starts a stand-in with a fresh key and an account of the API: "business" or "school".
func Start(api string) *Service {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic("abmtest: " + err.Error())
	}
	s := &Service{
		ClientID: map[string]string{"business": "BUSINESSAPI.", "school": "SCHOOLAPI."}[api] + "c75c0a8a-a026-4dae-99aa-89ea1e1103e5",
		KeyID:    "e339d085-a821-438a-a527-d044edacf50a", Key: key, Scope: api + ".api",
		Now: time.Now, TokenLife: time.Hour,
		released: map[string]Device{}, tokens: map[string]time.Time{}, used: map[string]bool{}, cursors: map[string]int{}, faults: map[Endpoint][]Fault{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/auth/oauth2/token", func(w http.ResponseWriter, r *http.Request) { s.serve(Token, s.token, w, r) })
	mux.HandleFunc("/v1/orgDevices", func(w http.ResponseWriter, r *http.Request) { s.serve(List, s.list, w, r) })
	mux.HandleFunc("/v1/orgDevices/{id}", func(w http.ResponseWriter, r *http.Request) { s.serve(One, s.one, w, r) })
	s.server = httptest.NewServer(mux)
	s.URL, s.TokenURL = s.server.URL, s.server.URL+"/auth/oauth2/token"
	return s
}

// Close stops the stand-in.
func (s *Service) Close() { s.server.Close() }

// Put lists devices, behind the others or in place of those with the same serial number.
func (s *Service) Put(devices ...Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range devices {
		delete(s.released, d.Serial)
		if i := slices.IndexFunc(s.devices, func(one Device) bool { return one.Serial == d.Serial }); i >= 0 {
			s.devices[i] = d
		} else {
			s.devices = append(s.devices, d)
		}
	}
}

// PutTwice lists a device once more, as happens where a list changes while it is read.
func (s *Service) PutTwice(d Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices = append(s.devices, d)
}

// Release takes a device out of the organization: it is listed no more, and known as released.
func (s *Service) Release(serial string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if d.Serial == serial {
			d.ReleasedAt = at
			s.released[serial] = d
		}
	}
	s.remove(serial)
}

// Remove takes a device away without a trace.
func (s *Service) Remove(serial string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(serial)
}

func (s *Service) remove(serial string) {
	s.devices = slices.DeleteFunc(s.devices, func(d Device) bool { return d.Serial == serial })
}

// RevokeTokens makes every token that was given out worthless.
func (s *Service) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Requests are the requests so far: method and URI, or "TOKEN" for one of the token service.
func (s *Service) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// KeyPEM is the account's key as Apple hands it out: PKCS#8, whatever its label says.
func (s *Service) KeyPEM() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		panic("abmtest: " + err.Error())
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}
