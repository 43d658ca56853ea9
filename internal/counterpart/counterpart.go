// Package counterpart finds the foreign programs that tests run against: a server of another kind,
// another implementation of X.509. Its own tests are those meetings: foreign ACME clients with our
// server, our simulated device with a foreign server, openssl with our certificates and CRLs.
package counterpart

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Required is the environment variable that lists, separated by commas, the programs that must be
// there. Where it names a program that is missing the test fails; else it is skipped, so that
// everybody's `go test ./...` passes and a machine that means it cannot overlook anything.
const Required = "ASSAY_REQUIRE"

// Require returns the path of a program, and skips or fails the test if there is none.
func Require(t testing.TB, program string) (path string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	missing(t, program, err)
	return ""
}

// missing fails the test that needs a program if it is required, and else skips it.
func missing(t testing.TB, program string, err error) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv(Required), ","), program) {
		t.Fatalf("%s lists %s: %v", Required, program, err)
	}
	t.Skipf("%s is not installed; .ci/install installs it", program)
}
