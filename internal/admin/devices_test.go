package admin_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"assay/internal/admin"
	"assay/internal/admin/client"

	"github.com/google/go-cmp/cmp"
)

// device makes a device of a serial number and returns it with its ETag.
func (r *rig) device(api *client.Client, serial string) (admin.Device, string) {
	r.t.Helper()
	if _, err := api.MintCodes(r.t.Context(), []admin.MintCode{{Serial: serial, UDID: "UDID-" + serial}}, ""); err != nil {
		r.t.Fatal(err)
	}
	found := collect(r.t, api.Devices(r.t.Context(), client.DeviceFilter{Serial: serial}))
	if len(found) != 1 {
		r.t.Fatalf("devices %+v", found)
	}
	device, tag, err := api.Device(r.t.Context(), found[0].ID)
	if err != nil || tag == "" || cmp.Diff(device, found[0]) != "" {
		r.t.Fatalf("device %+v, ETag %q: %v", device, tag, err)
	}
	return device, tag
}

func TestDeviceIsFoundBySerialOrUDID(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	device, _ := r.device(api, "C02XK1")
	r.device(api, "C02XK2")
	for _, f := range []client.DeviceFilter{{Serial: "C02XK1"}, {UDID: "udid-c02xk1"}} {
		if got := collect(t, api.Devices(t.Context(), f)); len(got) != 1 || got[0].ID != device.ID {
			t.Errorf("%+v: %+v", f, got)
		}
	}
	if got := collect(t, api.Devices(t.Context(), client.DeviceFilter{Serial: "c02xk1"})); len(got) != 0 {
		t.Errorf("serial numbers are compared without case: %+v", got)
	}
	if got := collect(t, api.Devices(t.Context(), client.DeviceFilter{})); len(got) != 2 {
		t.Errorf("all: %+v", got)
	}
	_, _, err := api.Device(t.Context(), "dev_x")
	wantRefused(t, err, http.StatusNotFound, "not-found")
}

func TestDeviceChangeReplacesWhatIsGiven(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	device, tag := r.device(api, "C02XK1")
	labels := map[string]string{"owner": "sam", "site": "north"}
	got := must[admin.Device](t)(api.UpdateDevice(t.Context(), device.ID, admin.DeviceChange{Labels: labels}, tag))
	if cmp.Diff(labels, got.Labels) != "" {
		t.Errorf("labels %v", got.Labels)
	}
	fingerprint := strings.TrimSuffix(strings.Repeat("AB:", 32), ":")
	got = must[admin.Device](t)(api.UpdateDevice(t.Context(), device.ID, admin.DeviceChange{MDMFingerprint: &fingerprint}, ""))
	if got.MDMFingerprint != strings.Repeat("ab", 32) || cmp.Diff(labels, got.Labels) != "" {
		t.Errorf("got %+v", got)
	}
	other, _ := r.device(api, "C02XK2")
	_, err := api.UpdateDevice(t.Context(), other.ID, admin.DeviceChange{MDMFingerprint: &fingerprint}, "")
	if p := wantRefused(t, err, http.StatusConflict, "fingerprint-free"); !strings.Contains(p.Detail, device.ID) {
		t.Errorf("the problem does not name the device: %s", p.Detail)
	}
	got = must[admin.Device](t)(api.UpdateDevice(t.Context(), device.ID, admin.DeviceChange{MDMFingerprint: new("")}, ""))
	if got.MDMFingerprint != "" {
		t.Errorf("got %+v", got)
	}
	for _, bad := range []string{"ab", strings.Repeat("zz", 32), strings.Repeat("ab", 33)} {
		_, err := api.UpdateDevice(t.Context(), device.ID, admin.DeviceChange{MDMFingerprint: &bad}, "")
		wantRefused(t, err, http.StatusUnprocessableEntity, "fingerprint")
	}
	_, err = api.UpdateDevice(t.Context(), device.ID, admin.DeviceChange{Labels: map[string]string{"a\n": ""}}, "")
	wantRefused(t, err, http.StatusUnprocessableEntity, "labels")
	_, err = api.UpdateDevice(t.Context(), "dev_x", admin.DeviceChange{}, "")
	wantRefused(t, err, http.StatusNotFound, "not-found")
}

func TestLostUpdateIsRefused(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	device, tag := r.device(api, "C02XK1")
	var won, lost atomic.Int32
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			_, err := api.UpdateDevice(t.Context(), device.ID, admin.DeviceChange{Labels: map[string]string{"owner": fmt.Sprint(i)}}, tag)
			if err == nil {
				won.Add(1)
				return
			}
			wantRefused(t, err, http.StatusPreconditionFailed, "if-match")
			lost.Add(1)
		})
	}
	all.Wait()
	if won.Load() != 1 || lost.Load() != 15 {
		t.Errorf("%d changes on one ETag were made", won.Load())
	}
	for _, bad := range []string{`"x"`, `r1`, `"r0"`, `W/"r1-x"`, `"r1", "r2"`, `"r99-x"`} {
		_, err := api.UpdateDevice(t.Context(), device.ID, admin.DeviceChange{Labels: map[string]string{}}, bad)
		wantRefused(t, err, http.StatusPreconditionFailed, "if-match")
	}
	must[admin.Device](t)(api.UpdateDevice(t.Context(), device.ID, admin.DeviceChange{Labels: map[string]string{}}, "*"))
}

func TestKnownThingIsNotSentAgain(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	device, tag := r.device(api, "C02XK1")
	token, _ := r.token(admin.Scopes()...)
	for _, known := range []string{tag, `"other", ` + tag, "*"} {
		answer, body := r.do("GET", "/devices/"+device.ID, token, "", "If-None-Match", known)
		if answer.StatusCode != http.StatusNotModified || body != "" || answer.Header.Get("ETag") != tag {
			t.Errorf("If-None-Match %s: %d %q, ETag %s", known, answer.StatusCode, body, answer.Header.Get("ETag"))
		}
	}
	if answer, body := r.do("PATCH", "/devices/"+device.ID, token, `{"labels":{"a":"b"}}`, "If-None-Match", "*"); answer.StatusCode != http.StatusOK || body == "" {
		t.Errorf("a change: %d %s", answer.StatusCode, body)
	}
	if answer, _ := r.do("GET", "/devices/"+device.ID, token, "", "If-None-Match", tag); answer.StatusCode != http.StatusOK || answer.Header.Get("ETag") == tag {
		t.Errorf("a changed device: %d, ETag %s", answer.StatusCode, answer.Header.Get("ETag"))
	}
}
