package admin_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/delivery"
	"assay/internal/issuance"
)

// labels are labels of so many bytes together, names included.
func labels(size int) map[string]string {
	all := map[string]string{}
	for i := 0; size > 0; i++ {
		name := fmt.Sprintf("l%03d", i)
		n := min(size-len(name), 4000)
		all[name], size = strings.Repeat("z", n), size-len(name)-n
	}
	return all
}

func TestLabelsAreBoundedTogether(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	many := map[string]string{}
	for i := range issuance.MaxLabels + 1 {
		many[fmt.Sprint(i)] = "x"
	}
	device, _ := r.device(api, "C02XK1")
	for name, bad := range map[string]map[string]string{"bytes": labels(issuance.MaxLabelBytes + 1), "count": many} {
		t.Run(name, func(t *testing.T) {
			_, err := api.MintCodes(t.Context(), []admin.MintCode{{Labels: bad}}, "")
			wantRefused(t, err, http.StatusUnprocessableEntity, "labels")
			_, _, err = api.Declare(t.Context(), admin.DeclareOne{Template: "wifi", Declare: admin.Declare{Serial: "X", Labels: bad}}, "")
			wantRefused(t, err, http.StatusUnprocessableEntity, "labels")
			_, err = api.UpdateDevice(t.Context(), device.ID, admin.DeviceChange{Labels: bad}, "")
			wantRefused(t, err, http.StatusUnprocessableEntity, "labels")
		})
	}
	must[admin.Device](t)(api.UpdateDevice(t.Context(), device.ID, admin.DeviceChange{Labels: labels(issuance.MaxLabelBytes)}, ""))
}

func TestPageEndsByItsBytesToo(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	mints := make([]admin.MintCode, 200)
	for i := range mints {
		mints[i].Labels = labels(issuance.MaxLabelBytes)
	}
	for range 2 {
		must[[]admin.Code](t)(api.MintCodes(t.Context(), mints, ""))
	}
	token, _ := r.token(admin.CodesRead)
	_, body := r.do("GET", "/codes?limit=500", token, "")
	var page admin.List[admin.Code]
	if err := json.Unmarshal([]byte(body), &page); err != nil || page.Next == "" || len(page.Items) < 40 || len(body) > 4<<20+64<<10 {
		t.Errorf("a page of %d bytes, %d things, next %q: %v", len(body), len(page.Items), page.Next, err)
	}
	if n := len(collect(t, api.Codes(t.Context(), client.CodeFilter{}))); n != 400 {
		t.Errorf("%d of 400 codes are listed", n)
	}
}

func TestProfileIsNotMadeWhereTheDeviceMustAuthenticate(t *testing.T) {
	r := newRig(t, func(c *admin.Config) {
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, "wifi.yaml"), []byte(wifi+"authentication: MDM\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		loaded, err := delivery.LoadTemplates(folder, []string{"default"}, c.Now, c.Log)
		if err != nil {
			t.Fatal(err)
		}
		c.Declarer.Templates, c.Declarer.MDMURL = loaded, "https://mdm.example.com"
	})
	api := r.client()
	c := r.declare(api, "C02XK1")
	_, err := api.Profile(t.Context(), c.ID)
	wantRefused(t, err, http.StatusConflict, "profile-authentication")
	must[admin.Declarations](t)(api.Declarations(t.Context(), c.ID, false))
}

func TestHugeArraysAreRefusedBeforeTheyCost(t *testing.T) {
	r := newRig(t, nil)
	token, _ := r.token(admin.Scopes()...)
	const size = 4<<20 - 100
	ones := strings.Repeat("1,", 999) + "1"
	for name, body := range map[string]string{
		"numbers":         `{"codes":[` + strings.Repeat("1,", size/2) + `1]}`,
		"objects":         `{"codes":[` + strings.Repeat("{},", size/3) + `{}]}`,
		"arrays":          `{"codes":[` + strings.Repeat("[],", size/3) + `1]}`,
		"arrays of those": `{"codes":[` + strings.Repeat("["+ones+"],", 999) + `1]}`,
		"one too many":    `{"codes":[` + ones + `,1]}`,
	} {
		t.Run(name, func(t *testing.T) {
			begun := time.Now()
			answer, text := r.do("POST", "/codes", token, body)
			r.wantProblem(answer, text, http.StatusUnprocessableEntity, "invalid-request")
			if took := time.Since(begun); took > time.Second { // far less, but on a busy machine
				t.Errorf("refused after %s", took)
			}
			if !strings.Contains(text, "more than") || strings.Contains(text, "expected object") {
				t.Errorf("huma was asked first: %s", text)
			}
		})
	}
	batch := strings.Repeat(`{"serial":"A"},`, 499) + `{"serial":"A"}`
	if answer, text := r.do("POST", "/codes", token, `{"codes":[`+batch+`]}`); answer.StatusCode != http.StatusCreated {
		t.Errorf("a full batch: %d %s", answer.StatusCode, text)
	}
	members := map[string]int{}
	for i := range 1001 {
		members[fmt.Sprint(i)] = i
	}
	text, _ := json.Marshal(members)
	answer, said := r.do("POST", "/codes", token, string(text))
	r.wantProblem(answer, said, http.StatusUnprocessableEntity, "invalid-request")
	report := `{"StatusItems":{"x":[` + strings.Repeat("1,", 5000) + `1]}}`
	if answer, text := r.do("POST", "/status", token, report); answer.StatusCode != http.StatusOK {
		t.Errorf("a long status report: %d %s", answer.StatusCode, text)
	}
}

func TestRefusedValuesAreNotEchoedAtLength(t *testing.T) {
	r := newRig(t, nil)
	token, _ := r.token(admin.Scopes()...)
	long := strings.Repeat("Z", 5000)
	many := strings.Repeat("7", 5000)
	for name, c := range map[string]struct{ method, path, body string }{
		"member":            {"POST", "/codes", `{"` + long + `":1}`},
		"deep member":       {"POST", "/codes", `{"codes":[{"` + long + `":1}]}`},
		"member twice":      {"POST", "/codes", `{"` + long + `":1,"` + long + `":2}`},
		"label's name":      {"POST", "/codes", `{"codes":[{"labels":{"` + long + `":7}}]}`},
		"number":            {"POST", "/codes", `{"codes":[{"serial":` + many + `}]}`},
		"lifetime":          {"POST", "/codes", `{"codes":[{"lifetime":"` + long + `"}]}`},
		"lifetime too long": {"POST", "/codes", `{"codes":[{"lifetime":"` + many + `h"}]}`},
		"directory":         {"POST", "/codes", `{"codes":[{"directory":"` + long + `"}]}`},
		"reason":            {"POST", "/certificates/cert_x/revoke", `{"reason":"` + long + `"}`},
		"template":          {"POST", "/credentials", `{"template":"` + long + `","serial":"x"}`},
		"batch template":    {"POST", "/credentials/batch", `{"template":"` + long + `","devices":[{"serial":"x"}]}`},
		"document's key":    {"POST", "/documents", `{"document":{"` + long + `":1}}`},
		"document's value":  {"POST", "/documents", `{"document":{"KeyType":"` + long + `","Subject":[[["` + long + `","x"]]]}}`},
		"document's path":   {"POST", "/documents", `{"document":{"SubjectAltName":{"` + long + `":{"a":[1]}}}}`},
		"report":            {"POST", "/status", `{"` + long + `":1,"` + long + `":2}`},
		"report's type":     {"POST", "/status", `{"StatusItems":` + many + `}`},
		"event":             {"POST", "/status/nanomdm", `{"topic":` + many + `}`},
		"check-in":          {"POST", "/status/nanomdm", `{"topic":"mdm.DeclarativeManagement","checkin_event":{"raw_payload":"` + base64.StdEncoding.EncodeToString([]byte(`<plist><dict><key>MessageType</key><string>x</`+long+`>`)) + `"}}`},
		"query":             {"GET", "/codes?" + long + "=1", ""},
		"status":            {"GET", "/codes?status=" + long, ""},
		"limit":             {"GET", "/codes?limit=" + long, ""},
		"time":              {"GET", "/audit?since=" + long, ""},
		"id":                {"GET", "/codes/" + long, ""},
		"path":              {"GET", "/" + long, ""},
		"If-Match":          {"DELETE", "/credentials/" + long, ""},
	} {
		t.Run(name, func(t *testing.T) {
			answer, body := r.do(c.method, c.path, token, c.body)
			if answer.StatusCode < 400 || answer.StatusCode >= 500 {
				t.Errorf("got %d", answer.StatusCode)
			}
			if strings.Contains(body, long[:101]) || strings.Contains(body, many[:101]) {
				t.Errorf("%s", body)
			}
		})
	}
}

func TestAnswersHaveOneFormWhateverIsAccepted(t *testing.T) {
	r := newRig(t, nil)
	token, _ := r.token(admin.CodesRead)
	for _, accept := range []string{"text/html", "application/cbor", "application/xml;q=1, application/json;q=0", "json", "image/png", "*/*;q=0"} {
		answer, body := r.do("GET", "/codes", token, "", "Accept", accept)
		if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "application/json" || !strings.HasPrefix(body, `{"items"`) {
			t.Errorf("Accept: %s: %d %s %s", accept, answer.StatusCode, answer.Header.Get("Content-Type"), body)
		}
		answer, body = r.do("GET", "/codes/code_x", token, "", "Accept", accept)
		r.wantProblem(answer, body, http.StatusNotFound, "not-found")
	}
}
