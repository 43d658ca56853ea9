// Package admin is the HTTP API for operators, MDMs and their scripts (/api/v1): codes, certificates,
// devices, templates, the credentials of devices, and the audit trail. It describes itself in an
// OpenAPI 3.1 document that is made from the handlers' own types.
//
// It refuses every request without a bearer token that has the route's scope, members and parameters
// that it does not know, and bodies that are larger than the route needs. What it refuses it explains
// as a problem document (RFC 9457) with the name of the failed check. Each use of a token leaves an
// audit row. Secrets (codes, the URLs of documents) leave it only in answers to the scopes that say so,
// and never in a log line or audit row.
//
// It trusts whoever serves it for TLS and request timeouts, and whoever calls API.As to be the operator
// that he names.
package admin

// Prefix is the path below which the API stands.
const Prefix = "/api/v1"
