package audit_test

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"assay/internal/audit"
)

var salt = bytes.Repeat([]byte{7}, audit.SaltSize)

func row(p audit.Personal) audit.Row {
	sum := audit.Commit(salt, p)
	return audit.Row{Commitment: sum[:], Salt: salt, Personal: &p}
}

func TestVerifyPersonalFindsAlteration(t *testing.T) {
	original := audit.Personal{Serial: "C02XK1", UDID: "0000-A", Names: []string{"Ann", "Bob"}, From: "192.0.2.1", DeviceError: "none"}
	if err := audit.VerifyPersonal(row(original)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*audit.Row){
		"serial":       func(r *audit.Row) { r.Personal.Serial = "C02XK2" },
		"udid":         func(r *audit.Row) { r.Personal.UDID = "" },
		"names":        func(r *audit.Row) { r.Personal.Names = []string{"AnnBob"} },
		"from":         func(r *audit.Row) { r.Personal.From = "192.0.2.2" },
		"device error": func(r *audit.Row) { r.Personal.DeviceError += "!" },
		"salt":         func(r *audit.Row) { r.Salt = bytes.Repeat([]byte{8}, audit.SaltSize) },
		"short salt":   func(r *audit.Row) { r.Salt = salt[1:] },
		"commitment":   func(r *audit.Row) { r.Commitment = make([]byte, 32) },
		"values only":  func(r *audit.Row) { r.Personal = nil },
		"salt only":    func(r *audit.Row) { r.Salt = nil },
		"added later":  func(r *audit.Row) { r.Commitment = nil },
	} {
		r := row(original)
		change(&r)
		if err := audit.VerifyPersonal(r); !errors.Is(err, audit.ErrAltered) {
			t.Errorf("%s: error is %v, want ErrAltered", name, err)
		}
	}
}

func TestVerifyPersonalTellsErasureFromAlteration(t *testing.T) {
	r := row(audit.Personal{Serial: "C02XK1"})
	r.Salt, r.Personal = nil, nil
	if err := audit.VerifyPersonal(r); !errors.Is(err, audit.ErrErased) {
		t.Errorf("error is %v, want ErrErased", err)
	}
	if err := audit.VerifyPersonal(audit.Row{}); err != nil {
		t.Errorf("row without personal values: %v", err)
	}
}

func TestDifferentValuesHaveDifferentCommitments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("nsufe\x00\x01ab")), 0, 6, -1)
		draw := rapid.Custom(func(t *rapid.T) audit.Personal {
			return audit.Personal{
				Serial: text.Draw(t, "serial"), UDID: text.Draw(t, "udid"), From: text.Draw(t, "from"),
				DeviceError: text.Draw(t, "error"), Names: rapid.SliceOfN(text, 0, 3).Draw(t, "names"),
			}
		})
		a, b := draw.Draw(t, "a"), draw.Draw(t, "b")
		same := a.Serial == b.Serial && a.UDID == b.UDID && a.From == b.From && a.DeviceError == b.DeviceError && len(a.Names) == len(b.Names)
		for i := range a.Names {
			same = same && a.Names[i] == b.Names[i]
		}
		if (audit.Commit(salt, a) == audit.Commit(salt, b)) != same {
			t.Fatalf("commitments of %+v and %+v", a, b)
		}
	})
}
