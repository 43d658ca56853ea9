//go:build !pkcs11

package hsm

import (
	"strings"
	"testing"
)

func TestOpenSaysHowToBuild(t *testing.T) {
	_, err := Open(&URI{}, func() (string, error) { return "", nil })
	if err == nil || !strings.Contains(err.Error(), "built without PKCS#11: build it with -tags pkcs11") {
		t.Error(err)
	}
}
