package counterpart

import "testing"

// API keys of the MDM servers that tests run, of no worth.
const (
	NanoMDMKey = "nanomdm-test-key"
	KMFDDMKey  = "kmfddm-test-key"
)

// StartKMFDDM runs KMFDDM, which enqueues its commands at a NanoMDM, and returns its URL.
func StartKMFDDM(t testing.TB, nanoMDM string) (url string) {
	t.Helper()
	program := Require(t, "kmfddm")
	address := FreeAddress(t)
	Start(t, program, address, nil, "-api", KMFDDMKey, "-listen", address, "-storage", "filekv", "-storage-dsn", "db",
		"-enqueue", nanoMDM+"/v1/enqueue/", "-enqueue-key", NanoMDMKey)
	return "http://" + address
}

// StartNanoMDM runs NanoMDM on the address, which belongs to KMFDDM before either runs: each knows
// the other. More arguments say how devices prove their identity and where events go.
func StartNanoMDM(t testing.TB, address, kmfddm, caFile string, environment []string, args ...string) (url string) {
	t.Helper()
	program := Require(t, "nanomdm")
	Start(t, program, address, environment, append([]string{"-api", NanoMDMKey, "-listen", address, "-storage", "filekv", "-storage-dsn", "db",
		"-ca", caFile, "-dm", kmfddm + "/"}, args...)...)
	return "http://" + address
}
