package admin_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/internal/admin"
)

func TestDeadTokenCannotFillTheDisk(t *testing.T) {
	r := newRig(t, nil)
	revoked, id := r.token(admin.CodesRead)
	if _, err := r.store.RevokeToken(t.Context(), r.bench.Operator(), id); err != nil {
		t.Fatal(err)
	}
	other, otherID := r.token(admin.CodesRead)
	if _, err := r.store.RevokeToken(t.Context(), r.bench.Operator(), otherID); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		r.do("GET", "/codes", revoked, "")
	}
	r.do("GET", "/codes", other, "")
	if rows := r.uses(id); len(rows) != 1 || rows[0].Detail["left-out"] != "" {
		t.Errorf("a hundred uses in a minute are audited as %v", rows)
	}
	if len(r.uses(otherID)) != 1 {
		t.Error("one dead token hides another")
	}
	if n := strings.Count(r.log.String(), "token="+string(id)); n != 1 {
		t.Errorf("a hundred uses in a minute have %d lines in the log", n)
	}
	r.wait(time.Minute)
	r.do("GET", "/codes", revoked, "")
	if rows := r.uses(id); len(rows) != 2 || rows[1].Detail["left-out"] != "99" || rows[1].Check != "token-revoked" {
		t.Errorf("a minute later: %v", rows)
	}
	if logged := r.log.String(); strings.Count(logged, "token="+string(id)) != 2 || !strings.Contains(logged, "left_out=99") {
		t.Errorf("logged:\n%s", logged)
	}
}

func TestStrangersHaveOneLineASecond(t *testing.T) {
	r := newRig(t, nil)
	unknown, _, _ := admin.NewToken(strings.NewReader(strings.Repeat("x", 32)))
	for i := range 40 {
		r.do("GET", "/codes", []string{"", "assay_short", unknown}[i%3], "")
		r.do("GET", fmt.Sprint("/none", i), "", "")
	}
	if n := strings.Count(r.log.String(), "API request refused"); n != 1 {
		t.Errorf("eighty refusals of strangers have %d lines", n)
	}
	r.wait(time.Second)
	r.do("GET", "/codes", "", "")
	if logged := r.log.String(); strings.Count(logged, "API request refused") != 2 || !strings.Contains(logged, "left_out=79") {
		t.Errorf("logged:\n%s", logged)
	}
}

func TestLiveTokenLeavesARowForEachUse(t *testing.T) {
	r := newRig(t, nil)
	token, id := r.token(admin.CodesRead)
	for range 10 {
		r.do("GET", "/codes", token, "")
		r.do("GET", "/devices", token, "")
	}
	if rows := r.uses(id); len(rows) != 20 {
		t.Errorf("%d rows", len(rows))
	}
	if n := strings.Count(r.log.String(), "scope-missing"); n != 10 {
		t.Errorf("%d refusals are logged", n)
	}
}

func TestUseNamesTheThingInItsPath(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	c := r.declare(api, "C02XK1")
	cert := r.bench.Issued()
	const value = "c2VjcmV0LWNvZGUtdmFsdWUtb2YtdGVzdA"
	for path, want := range map[string]string{
		"/credentials/" + c.ID + "/profile":                      c.ID,
		"/credentials/" + c.ID + "/declarations?activation=true": c.ID,
		"/codes/" + c.Code:                                       c.Code,
		"/devices/" + c.Device:                                   c.Device,
		"/certificates/" + string(cert.ID):                       string(cert.ID),
		"/certificates/" + cert.Serial:                           cert.Serial,
		"/templates/wifi":                                        "wifi",
		"/codes/" + value:                                        "",
		"/templates/" + r.codeIn(c):                              "",
		"/devices/" + strings.Repeat("a", 99):                    "",
		"/codes":                                                 "",
	} {
		token, id := r.token(admin.Scopes()...)
		r.do("GET", path, token, "")
		rows := r.uses(id)
		if len(rows) != 1 || rows[0].Detail["thing"] != want {
			t.Errorf("GET %s is audited as %v", path, rows)
		}
	}
	token, id := r.token(admin.CodesRead)
	if answer, _ := r.do("POST", "/codes/find", token, `{"code":"`+c.Code+`"}`); answer.StatusCode != http.StatusNotFound {
		t.Errorf("got %d", answer.StatusCode)
	}
	if rows := r.uses(id); len(rows) != 1 || rows[0].Detail["thing"] != "" {
		t.Errorf("a value out of the body is audited: %v", rows)
	}
}
