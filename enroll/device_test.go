package enroll

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"regexp"
	"strings"
	"testing"

	"assay/credential"
)

func TestChipsDecideAboutAttestationAndEnclave(t *testing.T) {
	for _, test := range []struct {
		class            Class
		chip             string
		attests, enclave bool
	}{
		{IPhone, "A9", false, true}, {IPhone, "A10 Fusion", false, true}, {IPhone, "A11 Bionic", true, true},
		{IPhone, "A17 Pro", true, true}, {IPhone, "a18", true, true},
		{IPad, "A10X", false, true}, {IPad, "A12Z", true, true}, {IPad, "M4", true, true},
		{AppleTV, "A10X", false, true}, {AppleTV, "A11", false, true}, {AppleTV, "A12", true, true}, {AppleTV, "A15", true, true},
		{Mac, "Intel", false, false}, {Mac, "T1", false, false}, {Mac, "T2", false, true}, {Mac, "M1", true, true}, {Mac, "M3 Max", true, true},
		{Watch, "S3", false, true}, {Watch, "S4", true, true}, {Watch, "S9", true, true},
		{Vision, "M2", true, true},
	} {
		device, err := NewDevice(test.class, test.chip, rand.Reader)
		if err != nil {
			t.Errorf("%s %s: %v", test.class, test.chip, err)
			continue
		}
		if device.Attests() != test.attests || device.HasEnclave() != test.enclave {
			t.Errorf("%s %s: attests %t, enclave %t", test.class, test.chip, device.Attests(), device.HasEnclave())
		}
	}
}

func TestNewDeviceRefusesChipsThatTheClassNeverHad(t *testing.T) {
	for _, test := range []struct {
		class Class
		chip  string
	}{{IPhone, "M1"}, {IPhone, "Intel"}, {Watch, "A15"}, {Mac, "S4"}, {Vision, "A15"}, {IPhone, "Z80"}, {IPhone, "A"}, {"toaster", ""}} {
		if _, err := NewDevice(test.class, test.chip, rand.Reader); err == nil {
			t.Errorf("%s with %q made", test.class, test.chip)
		}
	}
}

func TestNewDeviceNamesTheUnknownClass(t *testing.T) {
	if _, err := NewDevice("toaster", "A15", rand.Reader); err == nil || !strings.Contains(err.Error(), `unknown class "toaster"`) {
		t.Errorf("got %v", err)
	}
}

// failing is a source of randomness whose read number fail (from 0) fails.
type failing struct{ fail, reads int }

func (f *failing) Read(b []byte) (int, error) {
	f.reads++
	if f.reads-1 == f.fail {
		return 0, errors.New("no randomness")
	}
	return len(b), nil
}

func TestNewDeviceNeedsRandomness(t *testing.T) {
	for fail := range 2 {
		if _, err := NewDevice(IPhone, "", &failing{fail: fail}); err == nil {
			t.Errorf("device made though read %d failed", fail)
		}
	}
}

func TestInventedNamesHaveTheRealShapeAndAreRecognizable(t *testing.T) {
	for _, test := range []struct {
		class Class
		chip  string
		udid  string
	}{
		{IPhone, "A15", `^00008110-FACADE[0-9A-F]{10}$`},
		{IPhone, "A19", `^0000FFFF-FACADE[0-9A-F]{10}$`},
		{IPhone, "A11", `^facade[0-9a-f]{34}$`},
		{Mac, "M1", `^00008103-FACADE[0-9A-F]{10}$`},
		{Mac, "T2", `^FACADE[0-9A-F]{2}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12}$`},
		{Watch, "S3", `^facade[0-9a-f]{34}$`},
	} {
		a := must(NewDevice(test.class, test.chip, rand.Reader))
		b := must(NewDevice(test.class, test.chip, rand.Reader))
		if !regexp.MustCompile(test.udid).MatchString(a.UDID) || !regexp.MustCompile(`^FAKE[0-9A-Z]{8}$`).MatchString(a.Serial) {
			t.Errorf("%s %s: serial %s, UDID %s", test.class, test.chip, a.Serial, a.UDID)
		}
		if a.Serial == b.Serial || a.UDID == b.UDID {
			t.Error("two devices have the same names")
		}
	}
}

func TestEveryClassHasADefaultChip(t *testing.T) {
	if len(Classes()) != len(models) {
		t.Fatal("Classes is not complete")
	}
	for _, class := range Classes() {
		device, err := NewDevice(class, "", rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if !device.Attests() || !device.HasEnclave() || device.DropsZeros() || device.ProductType == "" {
			t.Errorf("%+v", device)
		}
	}
}

func TestSystemsThatDropZeros(t *testing.T) {
	for _, test := range []struct {
		class Class
		os    string
		drops bool
	}{
		{IPhone, "16.0", true}, {IPhone, "17.9", true}, {IPhone, "18", false}, {IPhone, "26.1", false}, {IPad, "17", true},
		{AppleTV, "17.1", true}, {AppleTV, "18.0", false}, {Mac, "14.7.1", true}, {Mac, "15.0", false},
		{Watch, "10.6", true}, {Watch, "11.0", false}, {Vision, "1.3", true}, {Vision, "2.0", false}, {IPhone, "", false},
	} {
		if got := (&Device{Class: test.class, OSVersion: test.os}).DropsZeros(); got != test.drops {
			t.Errorf("%s %s: %t", test.class, test.os, got)
		}
	}
}

func TestKeysAreWhatTheDocumentAsksFor(t *testing.T) {
	keys := Keys(must(NewDevice(IPhone, "", rand.Reader)))
	for _, spec := range []KeySpec{
		{credential.EC, 256, true}, {credential.EC, 384, true}, {credential.EC, 256, false}, {credential.EC, 384, false},
		{credential.EC, 521, false}, {credential.RSA, 1024, false}, {credential.RSA, 2048, false}, {credential.RSA, 2056, false},
	} {
		key, err := keys.MakeKey(t.Context(), spec)
		if err != nil {
			t.Errorf("%+v: %v", spec, err)
			continue
		}
		size := 0
		switch public := key.Public().(type) {
		case *ecdsa.PublicKey:
			size = public.Params().BitSize
		case *rsa.PublicKey:
			size = public.N.BitLen()
		}
		want := InSoftware
		if spec.HardwareBound {
			want = EnclaveStandIn
		}
		if size != spec.Size || key.Protection() != want {
			t.Errorf("%+v: %d bits, %s", spec, size, key.Protection())
		}
		handle, err := key.Handle()
		if err != nil {
			t.Fatal(err)
		}
		again, err := keys.OpenKey(handle, key.Protection())
		if err != nil || !sameKey(again.Public(), key.Public()) || again.Protection() != key.Protection() {
			t.Errorf("%+v: opened again as %v, %v", spec, again, err)
		}
	}
}

func TestKeysRefuseWhatNoDeviceMakes(t *testing.T) {
	iphone := Keys(must(NewDevice(IPhone, "", rand.Reader)))
	for _, spec := range []KeySpec{
		{credential.EC, 521, true}, {credential.RSA, 2048, true}, {credential.EC, 224, false}, {credential.RSA, 1016, false},
		{credential.RSA, 4104, false}, {credential.RSA, 2047, false}, {"DSA", 1024, false}, {"", 0, false},
	} {
		if _, err := iphone.MakeKey(t.Context(), spec); err == nil {
			t.Errorf("%+v made", spec)
		}
	}
	for _, chip := range []string{"Intel", "T1"} {
		mac := Keys(must(NewDevice(Mac, chip, rand.Reader)))
		if _, err := mac.MakeKey(t.Context(), KeySpec{credential.EC, 256, true}); err == nil {
			t.Errorf("hardware-bound key on a Mac with %s", chip)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := iphone.MakeKey(ctx, KeySpec{credential.EC, 256, true}); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

func TestEnclaveStandInDoesNotShowItsKey(t *testing.T) {
	key := must(Keys(must(NewDevice(IPhone, "", rand.Reader))).MakeKey(t.Context(), KeySpec{credential.EC, 256, true}))
	if _, err := x509.MarshalPKCS8PrivateKey(key); err == nil {
		t.Error("key exported")
	}
}

func TestOpenKeyRefuses(t *testing.T) {
	keys := Keys(must(NewDevice(IPhone, "", rand.Reader)))
	good := must(must(keys.MakeKey(t.Context(), KeySpec{credential.EC, 256, false})).Handle())
	x25519 := must(ecdh.X25519().GenerateKey(rand.Reader))
	agreement := &pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(x25519))}
	for name, test := range map[string]struct {
		handle     *pem.Block
		protection Protection
	}{
		"nothing":            {nil, InSoftware},
		"another PEM type":   {&pem.Block{Type: "CERTIFICATE", Bytes: good.Bytes}, InSoftware},
		"broken":             {&pem.Block{Type: "PRIVATE KEY", Bytes: good.Bytes[1:]}, InSoftware},
		"unknown protection": {good, "tpm"},
		"key agreement key":  {agreement, InSoftware},
	} {
		if _, err := keys.OpenKey(test.handle, test.protection); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
