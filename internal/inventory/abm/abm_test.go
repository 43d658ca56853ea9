package abm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/internal/inventory/abm"
	"assay/internal/inventory/abm/abmtest"

	"github.com/google/go-cmp/cmp"
)

func TestPagesListsEveryDeviceOnceInOrder(t *testing.T) {
	r := newRig(t, nil)
	r.put(5)
	got, pages, err := r.read(t.Context(), "")
	if diff := cmp.Diff([]string{"S1", "S2", "S3", "S4", "S5"}, got); diff != "" || err != nil || pages != 3 {
		t.Errorf("%d pages, %v\n%s", pages, err, diff)
	}
	requests := r.service.Requests()
	if len(requests) != 4 || requests[0] != "TOKEN" {
		t.Fatalf("requests %q", requests)
	}
	for _, one := range requests[1:] {
		if !strings.HasPrefix(one, "GET /v1/orgDevices?") || !strings.Contains(one, "limit=2") || !strings.Contains(one, "fields%5BorgDevices%5D=serialNumber%2C") {
			t.Errorf("request %q", one)
		}
		if strings.Contains(one, "imei") || strings.Contains(one, "MacAddress") {
			t.Errorf("%q asks for more than is used", one)
		}
	}
}

func TestPagesOfAnEmptyOrganization(t *testing.T) {
	r := newRig(t, nil)
	if got, pages, err := r.read(t.Context(), ""); len(got) != 0 || pages != 1 || err != nil {
		t.Errorf("%v in %d pages, %v", got, pages, err)
	}
}

func TestPagesGoesOnBehindACursor(t *testing.T) {
	r := newRig(t, nil)
	r.put(5)
	cursor := ""
	for page, err := range r.Pages(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		cursor = page.Next
		break
	}
	if got, _, err := r.read(t.Context(), cursor); err != nil || !slices.Equal(got, []string{"S3", "S4", "S5"}) {
		t.Errorf("behind the first page: %v, %v", got, err)
	}
}

func TestAnswersBecomeDevices(t *testing.T) {
	r := newRig(t, nil)
	r.service.Put(
		abmtest.Device{Serial: "S1", Attributes: map[string]any{
			"deviceModel": "iMac 21.5\"", "productFamily": "Mac", "productType": "iMac16,2", "deviceCapacity": "750GB", "color": "SILVER",
			"status": "UNASSIGNED", "purchaseSourceType": "MANUALLY_ADDED", "orderNumber": nil,
		}},
		abmtest.Device{Serial: "S2", Attributes: map[string]any{
			"serialNumber": nil, "deviceModel": "tab\there", "partNumber": strings.Repeat("x", 2000), "color": "a � lost one",
		}},
	)
	var got []abm.Device
	for page, err := range r.Pages(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, page.Devices...)
	}
	want := []abm.Device{
		{Serial: "S1", Model: `iMac 21.5"`, ProductFamily: "Mac", ProductType: "iMac16,2", Capacity: "750GB", Color: "SILVER", PartNumber: "FD311LL/A", PurchaseSource: "MANUALLY_ADDED", Status: "UNASSIGNED"},
		{Serial: "S2", ProductFamily: "iPhone", ProductType: "iPhone16,1", Capacity: "256GB", OrderNumber: "1234567890", PurchaseSource: "APPLE", Status: "ASSIGNED"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDevicesWithoutUsableSerialAreNamed(t *testing.T) {
	r := newRig(t, func(c *abm.Config) { c.PageSize = 10 })
	for _, serial := range []string{"S1", "with blank", "new\nline", strings.Repeat("S", 256), "S2"} {
		r.service.Put(abmtest.Device{Serial: "id", Attributes: map[string]any{"serialNumber": serial}}, abmtest.Device{Serial: "none"})
		r.service.Fail(abmtest.List, abmtest.Changed(func(d map[string]any) {
			second := d["data"].([]any)[1].(map[string]any)
			second["id"], second["attributes"].(map[string]any)["serialNumber"] = "", ""
		}))
		for page, err := range r.Pages(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			usable := strings.HasPrefix(serial, "S") && len(serial) < 256
			if (len(page.Devices) == 1) != usable || len(page.Devices)+len(page.Faults) != 2 {
				t.Errorf("%q: %+v", serial, page)
			}
			for _, fault := range page.Faults {
				if fault.Why == "" || strings.Contains(fault.Serial, "\n") {
					t.Errorf("fault %+v", fault)
				}
			}
		}
	}
}

func TestReleasedIsSaidOfOneDeviceOnly(t *testing.T) {
	r := newRig(t, nil)
	r.put(2)
	at := time.Date(2026, 2, 1, 8, 0, 0, 0, time.UTC)
	r.service.Release("S1", at)
	if got, _, err := r.read(t.Context(), ""); err != nil || !slices.Equal(got, []string{"S2"}) {
		t.Errorf("listed %v, %v", got, err)
	}
	if d, err := r.Device(t.Context(), "S1"); err != nil || d.Serial != "S1" || !d.ReleasedAt.Equal(at) {
		t.Errorf("S1 is %+v, %v", d, err)
	}
	if d, err := r.Device(t.Context(), "S2"); err != nil || !d.ReleasedAt.IsZero() {
		t.Errorf("S2 is %+v, %v", d, err)
	}
	_, err := r.Device(t.Context(), "../x?y")
	fault, ok := errors.AsType[*abm.Error](err)
	if !ok || fault.Check != abm.CheckMissing || fault.Tries != 1 {
		t.Errorf("a device that there is not: %v", err)
	}
	if requests := r.service.Requests(); requests[len(requests)-1][:len("GET /v1/orgDevices/..%2Fx%3Fy?")] != "GET /v1/orgDevices/..%2Fx%3Fy?" {
		t.Errorf("asked %q", requests)
	}
}

func TestErrorAboutADeviceDoesNotNameIt(t *testing.T) {
	r := newRig(t, nil)
	r.service.Fail(abmtest.One, abmtest.Raw(400, "application/json", `{"errors":[{"code":"PARAMETER_ERROR","title":"Bad","detail":"C02SECRET is no id"}]}`))
	_, err := r.Device(t.Context(), "C02SECRET")
	if err == nil || strings.Contains(err.Error(), "C02SECRET") || !strings.Contains(err.Error(), "… is no id") {
		t.Errorf("got %v", err)
	}
	r.service.Fail(abmtest.One, abmtest.Repeated(7, abmtest.Dropped)...)
	if _, err := r.Device(t.Context(), "C02SECRET"); err == nil || strings.Contains(err.Error(), "C02SECRET") {
		t.Errorf("got %v", err)
	}
}

func TestFailuresThatPassAreRetried(t *testing.T) {
	for name, fault := range map[string]abmtest.Fault{
		"status 500":   abmtest.Status(500, ""),
		"status 503":   abmtest.Status(503, "1"),
		"rate limited": abmtest.Status(429, ""),
		"truncated":    abmtest.Truncated,
		"broken off":   abmtest.BrokenOff,
		"dropped":      abmtest.Dropped,
		"no data":      abmtest.Raw(200, "application/json", `{}`),
		"null data":    abmtest.Raw(200, "application/json", `{"data":null}`),
		"an error":     abmtest.Raw(200, "application/json", `{"errors":[]}`),
	} {
		for _, at := range []abmtest.Endpoint{abmtest.Token, abmtest.List} {
			t.Run(name+" at "+string(at), func(t *testing.T) {
				r := newRig(t, nil)
				r.put(3)
				r.service.Fail(at, fault, fault)
				got, _, err := r.read(t.Context(), "")
				if err != nil || len(got) != 3 {
					t.Fatalf("%v, %v", got, err)
				}
				if d := r.clock.total(); d < 3*time.Second || d > 6*time.Second { // 2 s and 4 s, less up to a half
					t.Errorf("waited %v", r.clock.waited)
				}
			})
		}
	}
}

func TestFailuresThatLastEndTheListing(t *testing.T) {
	for name, c := range map[string]struct {
		fault abmtest.Fault
		check string
		tries int
	}{
		"status 500":    {abmtest.Status(500, ""), abm.CheckService, 7},
		"rate limited":  {abmtest.Status(429, ""), abm.CheckRateLimit, 7},
		"dropped":       {abmtest.Dropped, abm.CheckNetwork, 7},
		"truncated":     {abmtest.Truncated, abm.CheckAnswer, 7},
		"forbidden":     {abmtest.Status(403, ""), abm.CheckPermission, 1},
		"bad request":   {abmtest.Status(400, ""), abm.CheckRequest, 1},
		"no such route": {abmtest.Status(404, ""), abm.CheckRequest, 1},
		"a page":        {abmtest.Raw(200, "text/html", "<html>Sign in</html>"), abm.CheckAnswer, 1},
		"no type":       {abmtest.Raw(200, "", `{"data":[]}`), abm.CheckAnswer, 1},
		"oversized":     {abmtest.Oversized(8 << 20), abm.CheckAnswer, 1},
		"redirected":    {abmtest.Redirected("/v1/orgDevices?limit=1"), abm.CheckAnswer, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.put(3)
			r.service.Fail(abmtest.List, nil)
			r.service.Fail(abmtest.List, abmtest.Repeated(9, c.fault)...)
			got, pages, err := r.read(t.Context(), "")
			fault, ok := errors.AsType[*abm.Error](err)
			if !ok || fault.Check != c.check || fault.Tries != c.tries || fault.Advice() == "" {
				t.Errorf("error %v: %+v", err, fault)
			}
			if len(got) != 2 || pages != 1 {
				t.Errorf("read %v", got)
			}
			if ok && strings.Contains(err.Error(), "Sign in") {
				t.Errorf("quotes a page: %v", err)
			}
		})
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for _, form := range []string{"seconds", "date"} {
		t.Run(form, func(t *testing.T) {
			r := newRig(t, nil)
			r.put(9)
			r.service.Limit, r.service.Per, r.service.RetryAfter = 2, 100*time.Second, form
			got, _, err := r.read(t.Context(), "")
			if err != nil || len(got) != 9 {
				t.Fatalf("%v, %v", got, err)
			}
			if d := r.clock.total(); d < 200*time.Second || d > 204*time.Second || len(r.clock.waited) != 2 {
				t.Errorf("waited %v", r.clock.waited)
			}
		})
	}
}

func TestLongerRetryAfterThanPatienceEndsTheListing(t *testing.T) {
	for _, wish := range []string{"301", "86400", "99999999999", "Sun, 01 Mar 2026 13:00:00 GMT", "Sun, 01 Mar 2099 13:00:00 GMT"} {
		r := newRig(t, nil)
		r.put(3)
		r.service.Fail(abmtest.List, nil, abmtest.Status(429, wish))
		_, _, err := r.read(t.Context(), "")
		fault, ok := errors.AsType[*abm.Error](err)
		if !ok || fault.Check != abm.CheckRateLimit || fault.RetryAt.Before(r.clock.Now().Add(301*time.Second)) || fault.RetryAt.After(r.clock.Now().Add(24*time.Hour)) {
			t.Errorf("%s: %v, %+v", wish, err, fault)
		}
		if d := r.clock.total(); d != 0 {
			t.Errorf("%s: waited %s for nothing", wish, d)
		}
	}
	r := newRig(t, nil)
	r.put(1)
	r.service.Fail(abmtest.List, abmtest.Status(429, "soon"), abmtest.Status(429, "-5"), abmtest.Status(429, "Sun, 01 Mar 2020 13:00:00 GMT"))
	if _, _, err := r.read(t.Context(), ""); err != nil {
		t.Errorf("wishes that say nothing: %v", err)
	}
}

func TestPatienceBoundsPausesTogether(t *testing.T) {
	r := newRig(t, func(c *abm.Config) { c.Patience = 10 * time.Second })
	r.put(1)
	r.service.Fail(abmtest.List, abmtest.Repeated(20, abmtest.Status(500, ""))...)
	if _, _, err := r.read(t.Context(), ""); err == nil {
		t.Error("no error")
	}
	if d := r.clock.total(); d > 10*time.Second {
		t.Errorf("waited %s", d)
	}
}

func TestSlowAnswerIsGivenUp(t *testing.T) {
	r := newRig(t, func(c *abm.Config) { c.CallLimit = 20 * time.Millisecond })
	r.put(1)
	r.service.Fail(abmtest.List, abmtest.Repeated(7, abmtest.Slow)...)
	_, _, err := r.read(t.Context(), "")
	if fault, ok := errors.AsType[*abm.Error](err); !ok || fault.Check != abm.CheckNetwork || fault.Tries != 7 {
		t.Errorf("got %v", err)
	}
}

func TestContextEndsWaitingAndAsking(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := newRig(t, func(c *abm.Config) {
		c.Wait = func(ctx context.Context, _ time.Duration) error { cancel(); return ctx.Err() }
	})
	r.put(1)
	r.service.Fail(abmtest.List, abmtest.Status(500, ""))
	if _, _, err := r.read(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("while waiting: %v", err)
	}
	before := len(r.service.Requests())
	if _, _, err := r.read(ctx, ""); !errors.Is(err, context.Canceled) || len(r.service.Requests()) != before {
		t.Errorf("afterwards: %v", err)
	}
}

func TestDefaultPauseEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := newRig(t, func(c *abm.Config) { c.Wait = nil })
	r.put(1)
	r.service.Fail(abmtest.List, func(s *abmtest.Service, w http.ResponseWriter, q *http.Request, right abmtest.Answer) {
		abmtest.Status(429, "200")(s, w, q, right)
		time.AfterFunc(10*time.Millisecond, cancel)
	})
	if _, _, err := r.read(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// page is a fault that sends a page of these devices, whatever is right.
func page(next string, serials ...string) abmtest.Fault {
	var data []string
	for _, serial := range serials {
		data = append(data, fmt.Sprintf(`{"type":"orgDevices","id":%q}`, serial))
	}
	cursor, err := json.Marshal(next)
	if err != nil {
		panic(err)
	}
	return abmtest.Raw(200, "application/json", fmt.Sprintf(`{"data":[%s],"meta":{"paging":{"nextCursor":%s}}}`, strings.Join(data, ","), cursor))
}

func TestListingThatDoesNotEndIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		faults []abmtest.Fault
		want   string
	}{
		"cursor of the page itself":   {[]abmtest.Fault{page("b", "S1"), page("b", "S2")}, "S1"},
		"cursor of a page before":     {[]abmtest.Fault{page("b", "S1"), page("c", "S2"), page("b", "S3")}, "S1 S2"},
		"same page under new cursors": {[]abmtest.Fault{page("b", "S1", "S2"), page("c", "S1", "S2")}, "S1 S2"},
		"ever new pages":              {[]abmtest.Fault{page("b", "S1"), page("c", "S2"), page("d", "S3"), page("e", "S4")}, "S1 S2 S3"},
		"enormous cursor":             {abmtest.Repeated(7, page(strings.Repeat("x", 5000), "S1")), ""},
		"cursor that is no text":      {abmtest.Repeated(7, page("\x01", "S1")), ""},
		"link without a cursor": {abmtest.Repeated(7, abmtest.Raw(200, "application/json",
			`{"data":[],"links":{"next":"https://elsewhere.invalid/v1/orgDevices?page=2"}}`)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(c *abm.Config) { c.MaxPages = 3 })
			r.service.Fail(abmtest.List, c.faults...)
			got, _, err := r.read(t.Context(), "")
			if fault, ok := errors.AsType[*abm.Error](err); !ok || fault.Check != abm.CheckAnswer {
				t.Errorf("got %v", err)
			}
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("read %q before", text)
			}
		})
	}
}

func TestCursorIsTakenFromTheLinkAndNothingElse(t *testing.T) {
	r := newRig(t, nil)
	r.put(3)
	r.service.Fail(abmtest.List, abmtest.Changed(func(d map[string]any) {
		cursor := d["meta"].(map[string]any)["paging"].(map[string]any)["nextCursor"].(string)
		d["meta"] = map[string]any{}
		d["links"].(map[string]any)["next"] = "https://elsewhere.invalid/v1/orgDevices?cursor=" + cursor
	}))
	if got, _, err := r.read(t.Context(), ""); err != nil || len(got) != 3 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAnswerOfAnotherFormIsRefused(t *testing.T) {
	for name, change := range map[string]func(map[string]any){
		"more devices than asked for": func(d map[string]any) { d["data"] = append(d["data"].([]any), d["data"].([]any)[0]) },
		"other resources":             func(d map[string]any) { d["data"].([]any)[0].(map[string]any)["type"] = "mdmServers" },
		"serial of another type": func(d map[string]any) {
			d["data"].([]any)[0].(map[string]any)["attributes"] = map[string]any{"serialNumber": 7}
		},
		"released at no time": func(d map[string]any) {
			d["data"].([]any)[0].(map[string]any)["attributes"].(map[string]any)["releasedFromOrgDateTime"] = "yes"
		},
		"data of another type": func(d map[string]any) { d["data"] = map[string]any{} },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.put(2)
			r.service.Fail(abmtest.List, abmtest.Repeated(9, abmtest.Changed(change))...)
			got, _, err := r.read(t.Context(), "")
			if fault, ok := errors.AsType[*abm.Error](err); !ok || fault.Check != abm.CheckAnswer || len(got) != 0 {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}
