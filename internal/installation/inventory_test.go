package installation

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/admin"
	"assay/internal/inventory/abm"
	"assay/internal/inventory/abm/abmtest"
	"assay/internal/issuance"
)

// organization is an installation whose inventory is that of a stand-in for Apple Business Manager.
func organization(t *testing.T, serials ...string) (dir string, service *abmtest.Service) {
	t.Helper()
	service = abmtest.Start("business")
	t.Cleanup(service.Close)
	for _, serial := range serials {
		service.Put(abmtest.Device{Serial: serial})
	}
	dir, _ = initialized(t, nil)
	if err := os.WriteFile(filepath.Join(dir, keysFolder, "abm.pem"), service.KeyPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	edit(t, dir, "name: Example Inc.", fmt.Sprintf(`name: Example Inc.
inventory:
  appleBusinessManager: {clientID: %s, keyID: %s, keyFile: keys/abm.pem, url: %q, tokenURL: %q}`,
		service.ClientID, service.KeyID, service.URL, service.TokenURL))
	return dir, service
}

func (i *Installation) knows(t *testing.T, serial string) bool {
	t.Helper()
	_, err := i.Store.DeviceLike(t.Context(), serial, "")
	if err != nil && !errors.Is(err, issuance.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func TestServerKeepsTheInventoryInStep(t *testing.T) {
	dir, _ := organization(t, "C02XABM00001", "C02XABM00002")
	i := opened(t, dir)
	s := serve(t, i)
	await(t, "the server knows the organization's devices", func() bool { return i.knows(t, "C02XABM00002") })
	await(t, "the log says so", func() bool {
		return strings.Contains(s.log.String(), `msg="inventory synced" source=apple-business-manager`)
	})
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
}

func TestServerThatStopsInterruptsItsSync(t *testing.T) {
	dir, service := organization(t, "C02XABM00001")
	waiting := make(chan struct{})
	service.Fail(abmtest.List, func(s *abmtest.Service, w http.ResponseWriter, r *http.Request, right abmtest.Answer) {
		close(waiting)
		abmtest.Slow(s, w, r, right)
	})
	i := opened(t, dir)
	s := serve(t, i)
	<-waiting
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if y, err := i.Store.SyncState(t.Context(), abm.Source); err != nil || y.Error != "interrupted: the sync was stopped" {
		t.Errorf("state %+v, %v", y, err)
	}
}

func TestAPIInThisProcessSyncsUntilItIsClosed(t *testing.T) {
	dir, service := organization(t, "C02XABM00001")
	i, err := Open(t.Context(), dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	handler, err := i.API("operator:test")
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{})
	service.Fail(abmtest.List, func(s *abmtest.Service, w http.ResponseWriter, r *http.Request, right abmtest.Answer) {
		close(waiting)
		abmtest.Slow(s, w, r, right)
	})
	request := httptest.NewRequest(http.MethodPost, admin.Prefix+"/inventory/syncs", strings.NewReader("{}"))
	request.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, request)
	if answer.Code != http.StatusAccepted || !strings.Contains(answer.Body.String(), `"running":true`) {
		t.Fatalf("%d %s", answer.Code, answer.Body)
	}
	<-waiting
	if err := i.Close(); err != nil { // which waits for the sync
		t.Fatal(err)
	}
	if y, err := opened(t, dir).Store.SyncState(t.Context(), abm.Source); err != nil || !strings.HasPrefix(y.Error, "interrupted: ") {
		t.Errorf("state %+v, %v", y, err)
	}
}

func TestAccountsKeyIsGuarded(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(path string) error
		want  string
	}{
		"readable by others": {func(path string) error { return os.Chmod(path, 0o640) }, "used by others than its owner"},
		"missing":            {os.Remove, "no such file"},
		"no key":             {func(path string) error { return os.WriteFile(path, []byte("secret"), 0o600) }, "no PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := organization(t)
			if err := c.spoil(filepath.Join(dir, keysFolder, "abm.pem")); err != nil {
				t.Fatal(err)
			}
			i := opened(t, dir)
			for _, err := range []error{
				i.Serve(t.Context(), ServeOptions{Log: slog.New(slog.DiscardHandler)}),
				func() error { _, err := i.API("operator:test"); return err }(),
			} {
				_, isConfig := errors.AsType[*ConfigError](err)
				if !isConfig || !strings.Contains(err.Error(), "inventory.appleBusinessManager.keyFile: ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}
