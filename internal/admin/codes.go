package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"assay/internal/delivery"
	"assay/internal/issuance"
)

func (a *API) addCodes() {
	add(a, route{
		method: http.MethodPost, path: "/codes", id: "mint-codes", tag: "codes", scope: CodesWrite, status: http.StatusCreated,
		summary: "Mint codes", description: "Mints one code for each entry, all or none, and answers their values: they are shown this once, because only their hashes are stored.",
		limit: 4 << 20, also: map[int]string{http.StatusNotFound: "There is no such directory."},
	}, a.mintCodes)
	add(a, route{
		method: http.MethodGet, path: "/codes", id: "list-codes", tag: "codes", scope: CodesRead,
		summary: "List codes", description: "Oldest first, without their values.",
	}, a.listCodes)
	add(a, route{
		method: http.MethodGet, path: "/codes/{code}", id: "show-code", tag: "codes", scope: CodesRead,
		summary: "Show a code", description: "By its id. By its value it is found with POST /codes/find: a value never belongs into a URL.",
		also: map[int]string{http.StatusNotFound: "There is no such code.", http.StatusNotModified: "It is still what If-None-Match names."},
	}, a.showCode)
	add(a, route{
		method: http.MethodPost, path: "/codes/find", id: "find-code", tag: "codes", scope: CodesRead,
		summary: "Find a code by its value", description: "Changes nothing. The value stands in the body, so that no log or proxy keeps it.",
		also: map[int]string{http.StatusNotFound: "There is no such code."},
	}, a.findCode)
	add(a, route{
		method: http.MethodPost, path: "/codes/{code}/revoke", id: "revoke-code", tag: "codes", scope: CodesWrite,
		summary: "Revoke a code", description: "No device can use it from then on. A used code is not undone by it: revoke the certificate.",
		also: map[int]string{http.StatusNotFound: "There is no such code.", http.StatusConflict: "The code is in use, was used, or is revoked already."},
	}, a.revokeCode)
}

type mintCodesInput struct {
	Idempotency
	Body MintCodes
}

type mintedCodes struct{ Body MintedCodes }

func (a *API) mintCodes(ctx context.Context, in *mintCodesInput) (*mintedCodes, error) {
	mints := make([]issuance.Mint, len(in.Body.Codes))
	for i := range in.Body.Codes {
		var p *Problem
		if mints[i], p = a.mint(&in.Body.Codes[i], fmt.Sprintf("body.codes[%d]", i)); p != nil {
			return nil, p
		}
	}
	o, err := a.once(ctx, in.Idempotency, "POST /codes", in.Body)
	if err != nil {
		return nil, err
	}
	return twice(o, func(random io.Reader, replay bool) (*mintedCodes, error) {
		for i := range mints {
			if mints[i].Value, err = issuance.NewCodeValue(random); err != nil {
				return nil, err
			}
		}
		codes, err := a.minter(replay).MintCodes(ctx, o.call, mints)
		if err != nil {
			return nil, err
		}
		out := &mintedCodes{}
		for i := range codes {
			code := a.codeOf(&codes[i])
			code.Code = mints[i].Value
			out.Body.Codes = append(out.Body.Codes, code)
		}
		return out, nil
	})
}

// minter mints codes or, for a change that was made before, reads them.
func (a *API) minter(replay bool) delivery.Minter {
	if replay {
		return mintedBefore{a.config.Store}
	}
	return a.config.Store
}

// mintedBefore finds the codes that were minted.
type mintedBefore struct{ codes Codes }

func (m mintedBefore) MintCodes(ctx context.Context, _ issuance.Call, mints []issuance.Mint) ([]issuance.Code, error) {
	codes := make([]issuance.Code, len(mints))
	for i := range mints {
		var err error
		codes[i], err = m.codes.CodeByValue(ctx, mints[i].Directory, mints[i].Value)
		if errors.Is(err, issuance.ErrNotFound) {
			return nil, madeBefore()
		} else if err != nil {
			return nil, fmt.Errorf("find what was minted before: %w", err)
		}
	}
	return codes, nil
}

// How long an unused code lives.
const (
	defaultCodeLifetime = 24 * time.Hour
	maxCodeLifetime     = 365 * 24 * time.Hour
)

// mint is the order for one code; at is where it stands in the request.
func (a *API) mint(m *MintCode, at string) (issuance.Mint, *Problem) {
	directory, p := a.directory(m.Directory)
	if p != nil {
		return issuance.Mint{}, p
	}
	lifetime := defaultCodeLifetime
	if m.Lifetime != "" {
		var err error
		if lifetime, err = parseLifetime(m.Lifetime, maxCodeLifetime); err != nil {
			return issuance.Mint{}, malformedMember("lifetime", at+".lifetime", err.Error())
		}
	}
	if p := checkDevice(m.Serial, m.UDID, m.Labels, at); p != nil {
		return issuance.Mint{}, p
	}
	return issuance.Mint{
		Directory: directory, Serial: m.Serial, UDID: m.UDID, Labels: m.Labels, AllowUnattested: m.AllowUnattested, Lifetime: lifetime,
	}, nil
}

// directory is the name of an ACME directory: the given one, or for "" the only one or "default".
func (a *API) directory(name string) (string, *Problem) {
	if chosen, ok := issuance.ChooseDirectory(a.config.Directories, name); ok {
		return chosen, nil
	}
	return "", refuse(http.StatusNotFound, "directory-known", "there is no such directory: there are %s", strings.Join(a.config.Directories, ", "))
}

type listCodesInput struct {
	Paging
	Directory string `query:"directory" maxLength:"63" doc:"Only codes of this ACME directory."`
	Status    string `query:"status" enum:"unused,issuing,consumed,revoked,expired,exhausted" doc:"Only codes of this status."`
	Device    string `query:"device" maxLength:"64" doc:"Only codes of this device, by its id."`
	Serial    string `query:"serial" maxLength:"255" doc:"Only codes bound to this serial number."`
}

func (a *API) listCodes(ctx context.Context, in *listCodesInput) (*page[Code], error) {
	list := listing[issuance.Code, Code]{
		prefix: "code_",
		rows: func(p issuance.Page) iter.Seq2[issuance.Code, error] {
			return a.config.Store.Codes(ctx, issuance.CodeFilter{Page: p, Directory: in.Directory, Status: issuance.CodeStatus(in.Status),
				Now: a.config.Now(), Device: issuance.DeviceID(in.Device), Serial: in.Serial})
		},
		id:   func(c *issuance.Code) string { return string(c.ID) },
		wire: func(c *issuance.Code) (Code, bool, error) { return a.codeOf(c), true, nil },
	}
	return list.read(in.Paging)
}

// CodePath is the path of one code. It is exported for huma, which reads no others that are embedded.
type CodePath struct {
	Code string `path:"code" maxLength:"64" doc:"Id of the code (code_…)."`
}

type showCodeInput struct {
	CodePath
	Known
}

func (a *API) showCode(ctx context.Context, in *showCodeInput) (*tagged[Code], error) {
	code, err := a.config.Store.Code(ctx, issuance.CodeID(in.Code))
	if err != nil {
		return nil, err
	}
	return tag(0, a.codeOf(&code))
}

type findCodeInput struct{ Body FindCode }

func (a *API) findCode(ctx context.Context, in *findCodeInput) (*tagged[Code], error) {
	directories := a.config.Directories
	if in.Body.Directory != "" {
		directory, p := a.directory(in.Body.Directory)
		if p != nil {
			return nil, p
		}
		directories = []string{directory}
	}
	for _, directory := range directories {
		code, err := a.config.Store.CodeByValue(ctx, directory, in.Body.Code)
		if errors.Is(err, issuance.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		return tag(0, a.codeOf(&code))
	}
	return nil, issuance.ErrNotFound
}

type codeAnswer struct{ Body Code }

func (a *API) revokeCode(ctx context.Context, in *CodePath) (*codeAnswer, error) {
	code, err := a.config.Store.RevokeCode(ctx, a.call(ctx), issuance.CodeID(in.Code))
	if errors.Is(err, issuance.ErrConflict) {
		return nil, refuse(http.StatusConflict, "code-unused", "only a code that nobody uses or used, and that is not revoked, can be revoked")
	} else if err != nil {
		return nil, err
	}
	return &codeAnswer{a.codeOf(&code)}, nil
}

// codeOf is a code's wire form, without its value.
func (a *API) codeOf(c *issuance.Code) Code {
	return Code{
		ID: string(c.ID), Directory: c.Directory, Status: string(c.StatusAt(a.config.Now())), Device: string(c.Device),
		Serial: c.Serial, UDID: c.UDID, Labels: c.Labels, AllowUnattested: c.AllowUnattested, Minted: c.Minted,
		Order: string(c.Order), Certificate: string(c.Certificate), Tries: c.Tries, LastRefusal: c.LastRefusal,
		CreatedAt: c.CreatedAt, ExpiresAt: c.ExpiresAt, UsedAt: c.UsedAt, RevokedAt: c.RevokedAt,
	}
}
