package store

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// MarkPushed notes how a push goes. Where another push came between, what the MDM holds is not known.
// A failure that repeats itself leaves one audit row. Not fsynced: what a power failure loses is
// pushed again.
func (s *Store) MarkPushed(ctx context.Context, call issuance.Call, id issuance.CredentialID, o issuance.PushOutcome) error {
	o.Failure = truncate(o.Failure, maxDetail)
	return s.note(ctx, call, "note push", func(t *tx) error {
		k, err := scanCredential(t.row(credentialByID, string(id)))
		if errors.Is(err, issuance.ErrNotFound) {
			return keep(err)
		}
		if err != nil {
			return err
		}
		if k.Pushed != o.Before {
			o.Pushed = issuance.UnknownAtMDM
		}
		row := credentialRow(audit.CredentialPushed, &k)
		repeated := false
		switch {
		case o.Failure != "":
			repeated = o.Failure == k.PushError
			k.PushError = o.Failure
			row.Outcome, row.Check, row.Detail["error"] = audit.Refused, "mdm-push", o.Failure
		case o.Done:
			k.PushError, k.PushedAt = "", call.Now
		default: // a beginning is worth no audit row
			repeated = true
		}
		n, err := t.exec(`UPDATE device_credentials SET pushed = ?, pushed_at = ?, push_error = ? WHERE id = ?`,
			o.Pushed, stamp(k.PushedAt), k.PushError, string(id))
		if err := changedOne(n, err, "credential"); err != nil || repeated {
			return err
		}
		return s.record(t, call, row, audit.Personal{})
	})
}

// RecordReports stores what devices say of their credentials, and returns those that are known, in
// the order of the reports. What a device says again leaves no second audit row. Not fsynced: a
// device repeats itself.
func (s *Store) RecordReports(ctx context.Context, call issuance.Call, reports []issuance.CredentialReport) ([]issuance.CredentialID, error) {
	var known []issuance.CredentialID
	err := s.note(ctx, call, "record status reports", func(t *tx) error {
		known = nil
		for i := range reports {
			r := &reports[i]
			k, err := scanCredential(t.row(credentialByID, string(r.Credential)))
			if errors.Is(err, issuance.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if err := s.recordReport(t, call, &k, r.Report); err != nil {
				return err
			}
			known = append(known, k.ID)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return known, nil
}

func (s *Store) recordReport(t *tx, call issuance.Call, k *issuance.DeviceCredential, r issuance.StatusReport) error {
	if k.Report != nil {
		r = k.Report.Merge(r)
	}
	r.ReceivedAt = timeOf(stamp(r.ReceivedAt))
	text, err := json.Marshal(&r)
	if err != nil {
		return err
	}
	n, err := t.exec(`UPDATE device_credentials SET report = ? WHERE id = ?`, string(text), string(k.ID))
	if err := changedOne(n, err, "credential"); err != nil {
		return err
	}
	if k.Report != nil {
		before := *k.Report
		before.ReceivedAt = r.ReceivedAt
		if reflect.DeepEqual(before, r) {
			return nil
		}
	}
	row, personal := credentialRow(audit.CredentialReported, k), audit.Personal{}
	for _, declaration := range []struct {
		name  string
		state *issuance.DeclarationState
	}{{"asset", r.Asset}, {"configuration", r.Configuration}} {
		state := declaration.state
		if state == nil {
			continue
		}
		row.Detail[declaration.name] = state.Valid
		if state.Valid != "invalid" {
			continue
		}
		row.Outcome, row.Check = audit.Refused, "declaration-valid"
		if len(state.Reasons) > 0 && personal.DeviceError == "" {
			personal.DeviceError = state.Reasons[0].Code + ": " + state.Reasons[0].Description
		}
	}
	return s.record(t, call, row, personal)
}
