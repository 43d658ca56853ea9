// Package ddm is a simulated device under declarative device management: it enrols with an MDM,
// takes its commands, keeps its declarations, resolves com.apple.asset.credential.acme assets that
// an active configuration references, enrols for their identities through package enroll, and
// reports status, as Apple's devices do.
//
// It fetches nothing twice: a declaration with the ServerToken that it holds is not asked for again,
// and an asset whose identity it holds for that ServerToken is neither downloaded nor enrolled for.
// Whatever goes wrong with an asset is reported as Error.AssetCannotBeDownloaded, as devices do; the
// true reason is in the Outcome.
//
// It trusts nothing of what an MDM sends: everything has a size limit, and declarations must be what
// the manifest announced. An MDM without TLS is talked to on this machine only. What it cannot do
// (profiles, other configurations, predicates of activations) it reports as not supported instead of
// pretending.
package ddm
