package delivery

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"assay/credential"
	"assay/internal/issuance"
	"assay/internal/panics"
)

// Names of the checks that a fetch must pass, beside those of MDMIdentity.Check. A document whose code
// is dead is refused with "code-" and the code's status.
const (
	CheckListener = "listener" // documents with Authentication MDM are served by the MDM listener only, others by the main one only
	checkCode     = "code-"
)

// refusalPause is how long after a refusal no other of the same document is noted or logged.
const refusalPause = time.Minute

// noSuchDocument is what a stranger learns of a document that is over, or elsewhere: what he would
// learn of one that never was.
const noSuchDocument = "no such document: it was never published, or its code is used, revoked or expired"

// documentServer serves documents at /credential/{secret}, on one of the two listeners.
type documentServer struct {
	store    Documents
	identity *MDMIdentity // nil on the main listener
	log      *slog.Logger
	now      func() time.Time
	metrics  *Metrics
}

// Handler serves published documents at /credential/{secret}: the exact media type that devices
// demand, stable bytes and an ETag. Documents with Authentication MDM it refuses. metrics may be nil.
func Handler(store Documents, log *slog.Logger, now func() time.Time, metrics *Metrics) http.Handler {
	return surviving(&documentServer{store: store, log: logger(log), now: now, metrics: measuring(metrics)})
}

// MDMHandler serves documents with Authentication MDM at /credential/{secret}, each to the device
// that it was made for: the one that shows the identity which the MDM gave it. Documents without are
// refused, because their declarations say that anybody who has the URL may fetch them elsewhere. metrics may be nil.
func MDMHandler(store Documents, identity *MDMIdentity, log *slog.Logger, now func() time.Time, metrics *Metrics) http.Handler {
	return surviving(&documentServer{store: store, identity: identity, log: logger(log), now: now, metrics: measuring(metrics)})
}

// surviving answers requests whose handling panics as those that fail.
func surviving(s *documentServer) http.Handler {
	return panics.Handler(s, func(w http.ResponseWriter, r *http.Request, err error) { s.unavailable(w, r, "serve document", err) })
}

func (s *documentServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := s.now()
	doc, err := s.store.DocumentByPath(r.Context(), sha256.Sum256([]byte(r.PathValue("secret"))), now)
	if errors.Is(err, issuance.ErrNotFound) {
		s.metrics.refused(checkUnknown)
		http.Error(w, noSuchDocument, http.StatusNotFound)
		return
	} else if err != nil {
		s.unavailable(w, r, "serve document", err)
		return
	}
	if refusal := s.check(r, &doc, now); refusal != nil {
		s.refuse(w, r, &doc, now, refusal)
		return
	}
	etag := `"` + doc.SHA256 + `"`
	h := w.Header()
	h.Set("Content-Type", credential.ContentType)
	h.Set("Cache-Control", "no-store")
	h.Set("ETag", etag)
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Method != http.MethodHead && !s.noteFirst(w, r, &doc, now) {
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(doc.Body)))
	if r.Method == http.MethodHead {
		return
	}
	if _, err := w.Write(doc.Body); err != nil {
		s.log.WarnContext(r.Context(), "document was cut off on its way", append(describe(&doc, r), "error", err)...)
		return
	}
	s.metrics.Fetched.Inc()
	s.log.InfoContext(r.Context(), "document fetched", describe(&doc, r)...)
}

// check says why a document is not served to this request; nil if it is.
func (s *documentServer) check(r *http.Request, doc *issuance.FetchedDocument, now time.Time) *FetchRefusal {
	// A code that can no longer be used is no use to a device, and a secret to everybody else.
	if doc.Body == nil || doc.CodeStatus != issuance.CodeUnused {
		return &FetchRefusal{Check: checkCode + string(doc.CodeStatus), Text: "the document's code is " + string(doc.CodeStatus)}
	}
	// The asset declaration says who may fetch: a document must not be had with less than it says.
	if doc.MDM != (s.identity != nil) {
		return &FetchRefusal{Check: CheckListener, Text: "the document is served by the other listener"}
	}
	if s.identity == nil {
		return nil
	}
	return s.identity.Check(r, doc.Device, now)
}

// noteFirst notes the first fetch before a byte is sent: from it the code's life counts. It reports
// whether to go on.
func (s *documentServer) noteFirst(w http.ResponseWriter, r *http.Request, doc *issuance.FetchedDocument, now time.Time) bool {
	if !doc.FetchedAt.IsZero() {
		return true
	}
	err := s.store.MarkFetched(r.Context(), issuance.Call{Now: now, From: r.RemoteAddr}, doc.ID)
	if errors.Is(err, issuance.ErrConflict) {
		s.refuse(w, r, doc, now, &FetchRefusal{Check: checkCode + "ended", Text: "the document's code ended while it was asked for", Err: err})
		return false
	}
	if err != nil {
		s.unavailable(w, r, "note first fetch of document "+string(doc.ID), err)
		return false
	}
	return true
}

// refuse answers a refused fetch: 403 with the failed check where the identity was judged, for the
// device's administrator; else what a stranger gets.
func (s *documentServer) refuse(w http.ResponseWriter, r *http.Request, doc *issuance.FetchedDocument, now time.Time, refusal *FetchRefusal) {
	s.metrics.refused(refusal.Check)
	for _, name := range []string{"ETag", "Content-Type", "Content-Length"} {
		w.Header().Del(name)
	}
	if refusal.identity {
		http.Error(w, "this document opens to the MDM identity of its device only: "+refusal.Text+" ("+refusal.Check+")", http.StatusForbidden)
	} else {
		http.Error(w, noSuchDocument, http.StatusNotFound)
	}
	// Whoever asks again and again is noted once a minute, whatever he is refused for.
	if now.Sub(doc.RefusedAt).Abs() < refusalPause {
		return
	}
	attrs := append(describe(doc, r), "check", refusal.Check, "detail", refusal.Text)
	if refusal.Err != nil {
		attrs = append(attrs, "error", refusal.Err)
	}
	if hint := fetchAdvice(refusal.Check); hint != "" {
		attrs = append(attrs, "hint", hint)
	}
	s.log.WarnContext(r.Context(), "document refused", attrs...)
	// The answer is out; that the note is kept must not hang on whether the device still listens.
	err := s.store.RefuseFetch(context.WithoutCancel(r.Context()), issuance.Call{Now: now, From: r.RemoteAddr}, doc.ID, refusal.Check)
	if err != nil {
		s.log.ErrorContext(r.Context(), "note refused fetch", "document", doc.ID, "error", err)
	}
}

func (s *documentServer) unavailable(w http.ResponseWriter, r *http.Request, doing string, err error) {
	s.metrics.refused(checkInternal)
	h := w.Header()
	h.Del("ETag")
	s.log.ErrorContext(r.Context(), doing, "error", err)
	http.Error(w, "the document cannot be had now", http.StatusServiceUnavailable)
}

// describe is what the log says of a fetched document: never its path, which is a secret.
func describe(doc *issuance.FetchedDocument, r *http.Request) []any {
	attrs := []any{"document", doc.ID, "code", doc.Code}
	if doc.Credential != "" {
		attrs = append(attrs, "credential", doc.Credential)
	}
	if name := deviceName(doc.Device); name != "" {
		attrs = append(attrs, "device", name)
	}
	return append(attrs, "from", r.RemoteAddr)
}

// fetchAdvice is what an operator can do about a refused fetch; "" if nothing is known to help.
func fetchAdvice(check string) string {
	switch check {
	case CheckListener:
		return "the declaration that the device has points at the wrong listener: renew the credential, and see that url and mdm.url of the configuration reach the right ones"
	case checkCode + string(issuance.CodeConsumed):
		return "the code has its certificate; a device that asks again lost it (erased, or the declaration was removed): renew the credential; if it was not the device, somebody else has the document's URL"
	case checkCode + string(issuance.CodeExpired), checkCode + string(issuance.CodeExhausted), checkCode + string(issuance.CodeRevoked), checkCode + "ended":
		return "renew the credential: the MDM gets a new document"
	}
	return identityAdvice[check]
}
