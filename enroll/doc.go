// Package enroll is the device side of an enrolment: it resolves a credential document, makes the
// key, runs ACME with device-attest-01 as Apple's client does, and keeps the identity that it got.
//
// It behaves as real devices do, not as a helpful client would: it retries nothing, reads only the
// first authorization and the first certificate, and ends the run wherever a device would, so that a
// server which passes here does not fail in the field. What a device would throw away (problem
// documents above all) is kept in Abort for the person who simulates.
//
// It trusts the TLS roots that it is given, and nothing that a server sends beyond that. Its
// hardware-bound keys are stand-ins held in memory, and its devices have serial numbers that no
// manufacturer assigns: what it proves is that a protocol run works, never that hardware exists.
package enroll
