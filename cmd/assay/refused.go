package main

import (
	"crypto/x509"
	"errors"
	"net/http"
	"slices"

	"assay/internal/admin/client"
)

// isProblem reports whether the API refused with one of some HTTP statuses.
func isProblem(err error, statuses ...int) bool {
	problem, ok := errors.AsType[*client.Problem](err)
	return ok && slices.Contains(statuses, problem.Status)
}

// refused turns what the API refused into the command's end: a token that is not good enough is a
// failure with a hint; a request that the API understood and does not grant is the answer no.
func refused(err error) error {
	if _, untrusted := errors.AsType[x509.UnknownAuthorityError](err); untrusted {
		return withHint(err, trustHint)
	}
	problem, ok := errors.AsType[*client.Problem](err)
	if !ok {
		return err
	}
	if problem.Check == "templates-readable" {
		return usage(withHint(err, "`assay credential check FILE` lists every fault of a template"))
	}
	switch problem.Status {
	case http.StatusUnauthorized:
		return withHint(err, "is the token of --token-file this server's, not expired and not revoked? `assay token list --dir DIR` on the server says so")
	case http.StatusForbidden:
		return withHint(err, "the token's scopes do not allow this: `assay token list --dir DIR` shows them, `assay token mint` makes another")
	case http.StatusBadRequest:
		return usage(err)
	case http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed, http.StatusUnprocessableEntity:
		return noBecause(err)
	}
	return err
}

// refusedInput is refused for commands whose flags are all that can be wrong.
func refusedInput(err error) error {
	if isProblem(err, http.StatusNotFound, http.StatusUnprocessableEntity) {
		return usage(err)
	}
	return refused(err)
}
