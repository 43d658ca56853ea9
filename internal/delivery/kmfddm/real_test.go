package kmfddm

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"assay/internal/counterpart"
	"assay/internal/delivery"

	"github.com/google/go-cmp/cmp"
)

// realServer is KMFDDM itself, with something in NanoMDM's place that counts notifications.
type realServer struct {
	url           string
	notifications atomic.Int32
	*Client
}

func newRealServer(t *testing.T) *realServer {
	t.Helper()
	s := &realServer{}
	nanoMDM := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/enqueue/"+testPush().Enrollment {
			s.notifications.Add(1)
		}
	}))
	t.Cleanup(nanoMDM.Close)
	s.url = counterpart.StartKMFDDM(t, nanoMDM.URL)
	var err error
	if s.Client, err = New(Options{URL: s.url, Key: counterpart.KMFDDMKey}); err != nil {
		t.Fatal(err)
	}
	return s
}

// get asks KMFDDM as NanoMDM does for a device, or as its API's user.
func (s *realServer) get(t *testing.T, path string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(user, counterpart.KMFDDMKey)
	request.Header.Set("X-Enrollment-ID", testPush().Enrollment)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		return response.Status
	}
	return strings.TrimSpace(string(body))
}

// items are the Identifiers that the device is to have, by kind.
func (s *realServer) items(t *testing.T) map[string][]string {
	t.Helper()
	var answer struct {
		Declarations map[string][]struct{ Identifier string }
	}
	if err := json.Unmarshal([]byte(s.get(t, "/declaration-items")), &answer); err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for kind, items := range answer.Declarations {
		for _, item := range items {
			all[kind] = append(all[kind], item.Identifier)
		}
	}
	return all
}

func realPush(t *testing.T, secret string) delivery.Push {
	p := testPush()
	p.Asset = declarationJSON(t, "com.apple.asset.credential.acme", p.AssetIdentifier, map[string]any{"Reference": map[string]any{"DataURL": "https://id.example.com/credential/" + secret}})
	p.Configuration = declarationJSON(t, "com.apple.configuration.security.identity", p.ConfigurationIdentifier, map[string]any{"CredentialAssetReference": p.AssetIdentifier})
	p.Activation = declarationJSON(t, "com.apple.activation.simple", p.ActivationIdentifier, map[string]any{"StandardConfigurations": []string{p.ConfigurationIdentifier}})
	return p
}

func TestKMFDDMHandsOutWhatIsPushed(t *testing.T) {
	s := newRealServer(t)
	push := func(p delivery.Push, notifications int32) {
		t.Helper()
		if err := s.Push(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if got := s.notifications.Swap(0); got != notifications {
			t.Errorf("the device was notified %d times, not %d", got, notifications)
		}
	}
	all := map[string][]string{"Assets": {"assay.cred_1.asset"}, "Configurations": {"assay.cred_1.identity"}, "Activations": {"assay.cred_1.activation"}}

	push(realPush(t, "one"), 1)
	if diff := cmp.Diff(all, s.items(t)); diff != "" {
		t.Fatal(diff)
	}
	before := s.get(t, "/tokens")
	asset := s.get(t, "/declaration/asset/assay.cred_1.asset")
	if !strings.Contains(asset, "https://id.example.com/credential/one") {
		t.Errorf("asset %s", asset)
	}

	push(realPush(t, "one"), 1) // harmless, and the device hears of it even where the first try broke off
	if s.get(t, "/tokens") == "" || s.get(t, "/declaration/asset/assay.cred_1.asset") != asset {
		t.Error("a repeated push changed the asset")
	}

	push(realPush(t, "two"), 1) // a renewal
	if after := s.get(t, "/tokens"); after == before {
		t.Error("a renewal did not change the device's tokens")
	}
	if asset := s.get(t, "/declaration/asset/assay.cred_1.asset"); !strings.Contains(asset, "/credential/two") {
		t.Errorf("asset %s", asset)
	}

	withdrawn := testPush()
	withdrawn.Withdrawn = true
	push(withdrawn, 1)
	if diff := cmp.Diff(map[string][]string{}, s.items(t)); diff != "" {
		t.Error(diff)
	}
	if left := s.get(t, "/v1/declarations"); left != "null" && left != "[]" {
		t.Errorf("KMFDDM still holds %s", left)
	}
	push(withdrawn, 1) // harmless, too
}

func TestKMFDDMRefusesAnotherKey(t *testing.T) {
	s := newRealServer(t)
	client, err := New(Options{URL: s.url, Key: "another"})
	if err != nil {
		t.Fatal(err)
	}
	err = client.Push(t.Context(), realPush(t, "one"))
	if err == nil || !strings.Contains(err.Error(), "status 401") || !strings.Contains(err.Error(), "-api flag") {
		t.Errorf("error %v", err)
	}
}
