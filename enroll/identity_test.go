package enroll

import (
	"bytes"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"assay/attest"
	"assay/credential"
)

// enrolled makes a result as Enroll returns it, without a server.
func enrolled(t *testing.T, f *fakeServer, device *Device, document *credential.Credential) *Result {
	t.Helper()
	key, err := Keys(device).MakeKey(t.Context(), KeySpec{document.KeyType, document.KeySize, document.HardwareBound})
	if err != nil {
		t.Fatal(err)
	}
	chain := []byte(f.certify(key.Public()) + f.certify(f.issuer.Public()))
	certificate, err := firstCertificate(chain, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &Result{
		Credential: document, Device: *device, Key: key, Certificate: certificate, Chain: chain,
		OrderURL: f.url("order"), Evidence: attest.Attested, Took: 1500 * time.Millisecond,
	}
}

func newStore(t *testing.T) *Store {
	t.Helper()
	clock := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var mu sync.Mutex
	store, err := OpenStore(filepath.Join(t.TempDir(), "identities"), func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		clock = clock.Add(time.Second)
		return clock
	})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestIdentityIsStoredAndFoundAgain(t *testing.T) {
	f, store := newFakeServer(t), newStore(t)
	device := must(NewDevice(IPhone, "", rand.Reader))
	result := enrolled(t, f, device, f.document())
	saved, err := store.Save(result, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", saved.ID, device.Serial, "0abc", "0ABC", CredentialID(f.document())} {
		found, err := store.Find(text)
		if err != nil || len(found) != 1 {
			t.Fatalf("find %q: %v, %v", text, found, err)
		}
		if diff := cmp.Diff(saved, found[0], cmpopts.EquateComparable(), cmp.AllowUnexported(Identity{})); diff != "" {
			t.Error(diff)
		}
	}
	if found, err := store.Find("other"); err != nil || len(found) != 0 {
		t.Errorf("found %v, %v", found, err)
	}
	if saved.Protection != EnclaveStandIn || saved.Serial != "0abc" || saved.Evidence != attest.Attested || saved.EnrolmentSeconds != 1.5 {
		t.Errorf("identity %+v", saved)
	}
	key, certificate, err := saved.Open(Keys(device))
	if err != nil || !sameKey(key.Public(), result.Key.Public()) || !certificate.Equal(result.Certificate) {
		t.Errorf("opened %v, %v", key, err)
	}
	if existing, err := store.Existing(device, f.document()); err != nil || existing == nil || existing.ID != saved.ID {
		t.Errorf("existing %v, %v", existing, err)
	}
	other := must(NewDevice(IPhone, "", rand.Reader))
	if existing, err := store.Existing(other, f.document()); err != nil || existing != nil {
		t.Errorf("another device has %v, %v", existing, err)
	}
}

func TestIdentityFilesAreClosedAndTellNoCode(t *testing.T) {
	f, store := newFakeServer(t), newStore(t)
	saved, err := store.Save(enrolled(t, f, must(NewDevice(IPhone, "", rand.Reader)), f.document()), false)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{
		store.dir: fs.ModeDir | 0o700, saved.Path(): fs.ModeDir | 0o700, filepath.Join(saved.Path(), "key.pem"): 0o600,
	} {
		if info := must(os.Stat(path)); info.Mode() != want {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
	var names []string
	for _, entry := range must(os.ReadDir(saved.Path())) {
		names = append(names, entry.Name())
		if bytes.Contains(must(os.ReadFile(filepath.Join(saved.Path(), entry.Name()))), []byte(f.document().ClientIdentifier)) {
			t.Errorf("%s holds the one-time code", entry.Name())
		}
	}
	if !slices.Equal(names, []string{"chain.pem", "identity.json", "key.pem"}) {
		t.Errorf("files %v", names)
	}
	if entries := must(os.ReadDir(store.dir)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestIdentityIsNeverOverwrittenSilently(t *testing.T) {
	f, store := newFakeServer(t), newStore(t)
	device := must(NewDevice(IPhone, "", rand.Reader))
	first := enrolled(t, f, device, f.document())
	saved := must(store.Save(first, false))
	second := enrolled(t, f, device, f.document())
	_, err := store.Save(second, false)
	exists, ok := errors.AsType[*ExistsError](err)
	if !ok || exists.Existing.ID != saved.ID {
		t.Fatalf("got %v", err)
	}
	if key, _, err := saved.Open(Keys(device)); err != nil || !sameKey(key.Public(), first.Key.Public()) {
		t.Fatalf("first identity changed: %v", err)
	}
	if entries := must(os.ReadDir(store.dir)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}

	replaced, err := store.Save(second, true)
	if err != nil {
		t.Fatal(err)
	}
	if key, _, err := replaced.Open(Keys(device)); err != nil || !sameKey(key.Public(), second.Key.Public()) {
		t.Fatalf("second identity not in place: %v", err)
	}
	aside := must(filepath.Glob(filepath.Join(store.dir, saved.ID+".replaced-*")))
	if len(aside) != 1 {
		t.Fatalf("kept aside: %v", aside)
	}
	old, _ := pem.Decode(must(os.ReadFile(filepath.Join(aside[0], "key.pem"))))
	if !bytes.Equal(old.Bytes, must(first.Key.Handle()).Bytes) {
		t.Error("the key kept aside is not the first one")
	}
	if found := must(store.Find("")); len(found) != 1 {
		t.Errorf("found %d identities", len(found))
	}
}

func TestReplaceWithoutOldOneJustSaves(t *testing.T) {
	f, store := newFakeServer(t), newStore(t)
	if _, err := store.Save(enrolled(t, f, must(NewDevice(IPhone, "", rand.Reader)), f.document()), true); err != nil {
		t.Error(err)
	}
}

func TestOfSavesAtOnceOneWins(t *testing.T) {
	f, store := newFakeServer(t), newStore(t)
	device := must(NewDevice(IPhone, "", rand.Reader))
	var mu sync.Mutex
	won := 0
	var wait sync.WaitGroup
	for range 8 {
		result := enrolled(t, f, device, f.document())
		wait.Go(func() {
			_, err := store.Save(result, false)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if _, ok := errors.AsType[*ExistsError](err); !ok {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if won != 1 {
		t.Errorf("%d saves won", won)
	}
}

func TestOpenStoreRefusesAPathThatIsNoFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(0, os.WriteFile(path, nil, 0o600))
	if _, err := OpenStore(path, nil); err == nil {
		t.Error("opened a file")
	}
}

func TestStoreUsesTheSystemsClockIfNoneIsGiven(t *testing.T) {
	f := newFakeServer(t)
	store := must(OpenStore(t.TempDir(), nil))
	saved := must(store.Save(enrolled(t, f, must(NewDevice(Mac, "", rand.Reader)), f.document()), false))
	if time.Since(saved.EnrolledAt) > time.Minute {
		t.Errorf("enrolled at %v", saved.EnrolledAt)
	}
}

func TestOpenRefusesAForeignKey(t *testing.T) {
	f, store := newFakeServer(t), newStore(t)
	device := must(NewDevice(IPhone, "", rand.Reader))
	saved := must(store.Save(enrolled(t, f, device, f.document()), false))
	other := enrolled(t, f, device, f.document())
	path := filepath.Join(saved.Path(), "key.pem")
	must(0, os.WriteFile(path, pem.EncodeToMemory(must(other.Key.Handle())), 0o600))
	if _, _, err := saved.Open(Keys(device)); err == nil {
		t.Error("opened with another key")
	}
	own, foreign := must(os.ReadFile(path)), must(os.ReadFile(path))
	must(0, os.WriteFile(path, append(own, foreign...), 0o600))
	if _, _, err := saved.Open(Keys(device)); err == nil || !strings.Contains(err.Error(), "one PEM block") {
		t.Errorf("opened a file with two keys: %v", err)
	}
	must(0, os.WriteFile(path, []byte("no key"), 0o600))
	if _, _, err := saved.Open(Keys(device)); err == nil {
		t.Error("opened without a key")
	}
}

func TestLoadRefuses(t *testing.T) {
	f, store := newFakeServer(t), newStore(t)
	saved := must(store.Save(enrolled(t, f, must(NewDevice(IPhone, "", rand.Reader)), f.document()), false))
	for _, id := range []string{"", ".", "..", "../" + saved.ID, "a/b", ".new-1"} {
		if _, err := store.Load(id); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if _, err := store.Load("nobody"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	path := filepath.Join(saved.Path(), "identity.json")
	data := string(must(os.ReadFile(path)))
	for _, bad := range []string{"", strings.Replace(data, `"version": 1`, `"version": 2`, 1), data + strings.Repeat(" ", maxIdentityFile)} {
		must(0, os.WriteFile(path, []byte(bad), 0o600))
		if _, err := store.Load(saved.ID); err == nil {
			t.Errorf("loaded %.40q", bad)
		}
	}
}

func TestSerialNumbersThatFitNoFileNameAreKeptOut(t *testing.T) {
	id := identityID(&Device{Serial: "../../x y"}, new(credential.Credential))
	if !strings.HasPrefix(id, "xy-") {
		t.Errorf("id %q", id)
	}
	if id := identityID(&Device{Serial: strings.Repeat("A", 500)}, new(credential.Credential)); len(id) > 64 {
		t.Errorf("id of %d characters", len(id))
	}
}
