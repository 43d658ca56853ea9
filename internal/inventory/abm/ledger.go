package abm

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"assay/internal/issuance"
)

// Source names the organization's list among those that the inventory comes from.
const Source = "apple-business-manager"

// Store is what a sync needs of the store.
type Store interface {
	DeviceLike(ctx context.Context, serial, udid string) (issuance.Device, error)
	Devices(ctx context.Context, f issuance.DeviceFilter) iter.Seq2[issuance.Device, error]
	ImportDevices(ctx context.Context, call issuance.Call, in issuance.Import) ([]issuance.ImportResult, error)
	SyncState(ctx context.Context, source string) (issuance.Sync, error)
	PutSyncState(ctx context.Context, call issuance.Call, y issuance.Sync) error
}

// Labels that a sync writes. Those of the service itself begin alike, so that they are no other list's.
const (
	LabelModel          = "model"
	LabelStatus         = "abm.status" // ASSIGNED, UNASSIGNED; once it is off the list, RELEASED or MISSING
	LabelProductFamily  = "abm.productFamily"
	LabelProductType    = "abm.productType"
	LabelCapacity       = "abm.capacity"
	LabelColor          = "abm.color"
	LabelPartNumber     = "abm.partNumber"
	LabelOrderNumber    = "abm.orderNumber"
	LabelPurchaseSource = "abm.purchaseSource" // APPLE, RESELLER, MANUALLY_ADDED
)

// Statuses of a device that is off the list, beside Apple's own.
const (
	StatusReleased = "RELEASED" // the organization released it
	StatusMissing  = "MISSING"  // Apple's service knows it no longer as the organization's
)

// statusUnknown stands for a status that Apple left empty, so that a device which is listed again is told from
// one that is off the list: an import leaves labels that it does not give.
const statusUnknown = "UNKNOWN"

// importBatch is how many devices one transaction takes: enrolments wait for it.
const importBatch = 100

// listingOf is a device as the inventory takes it. Where it stands is not said: a new one is expected, and of
// one that is known, people and other lists know better.
func listingOf(d Device) issuance.Listing {
	labels := map[string]string{}
	for name, value := range map[string]string{
		LabelModel: d.Model, LabelStatus: d.Status, LabelProductFamily: d.ProductFamily, LabelProductType: d.ProductType,
		LabelCapacity: d.Capacity, LabelColor: d.Color, LabelPartNumber: d.PartNumber, LabelOrderNumber: d.OrderNumber,
		LabelPurchaseSource: d.PurchaseSource,
	} {
		if value != "" {
			labels[name] = value
		}
	}
	if d.Status == "" {
		labels[LabelStatus] = statusUnknown
	}
	return issuance.Listing{Serial: d.Serial, Labels: labels}
}

// take brings listings into the inventory. What it has already is not written, and takes no turn of the one
// writer, for which enrolments wait.
func (r *run) take(ctx context.Context, listings []issuance.Listing) (Counts, error) {
	var counts Counts
	var changed []issuance.Listing
	for _, l := range listings {
		device, err := r.Store.DeviceLike(ctx, l.Serial, "")
		if err != nil && !errors.Is(err, issuance.ErrNotFound) {
			return counts, err
		}
		switch labels := issuance.MergeLabels(device.Labels, l.Labels); {
		case err == nil && device.Listed() && has(device.Labels, l.Labels):
			counts.Unchanged++
		case len(labels) > issuance.MaxLabels || issuance.LabelBytes(labels) > issuance.MaxLabelBytes:
			r.refuse(&counts, l.Serial, "it has too many labels beside these")
		default:
			changed = append(changed, l)
		}
	}
	for len(changed) > 0 {
		n := min(len(changed), importBatch)
		if err := r.write(ctx, changed[:n], &counts); err != nil {
			return counts, err
		}
		changed = changed[n:]
	}
	return counts, nil
}

// has reports whether labels are among those of a device.
func has(labels, some map[string]string) bool {
	for name, value := range some {
		if labels[name] != value {
			return false
		}
	}
	return true
}

// write imports listings in one transaction.
func (r *run) write(ctx context.Context, listings []issuance.Listing, counts *Counts) error {
	call := r.call
	call.Now = r.Now()
	results, err := r.Store.ImportDevices(ctx, call, issuance.Import{Source: Source, Automatic: true, DryRun: r.o.DryRun, Listings: listings})
	if err != nil {
		return err
	}
	for i, result := range results {
		switch result.Change {
		case issuance.ImportAdded:
			counts.New++
		case issuance.ImportUpdated:
			counts.Changed++
		case issuance.ImportUnchanged: // a person wrote down otherwise
			counts.Unchanged++
		default:
			r.refuse(counts, listings[i].Serial, "it contradicts what is known of it: "+string(result.Conflict))
		}
	}
	return nil
}

// refuse counts a device that the inventory does not take, and names the first.
func (r *run) refuse(counts *Counts, serial, why string) {
	counts.Refused++
	if len(r.sync.Faults) < maxNamed {
		r.sync.Faults = append(r.sync.Faults, Fault{Serial: serial, Why: why})
	}
}

// offList are the devices that the listing before had and this one lacks, but for those that are known to be
// off the list, unless all are asked for.
func (r *run) offList(ctx context.Context) ([]string, error) {
	var serials []string
	for device, err := range r.Store.Devices(ctx, issuance.DeviceFilter{}) {
		if err != nil {
			return nil, err
		}
		status := device.Labels[LabelStatus]
		known := status == StatusReleased || status == StatusMissing
		if device.Serial != "" && fromHere(&device) && !r.seen[digest(device.Serial)] && (!known || r.o.Full) {
			serials = append(serials, device.Serial)
		}
	}
	return serials, nil
}

// fromHere reports whether the organization's list ever gave a value of the device.
func fromHere(d *issuance.Device) bool {
	for _, source := range d.Sources {
		if source.From == Source {
			return true
		}
	}
	return false
}

// takeOff notes that a device is off the list. Where it stands stays as it is, and so do its certificates: a
// slip in Apple's web pages must not lock devices out. A policy can refuse by the label.
func (r *run) takeOff(ctx context.Context, serial, status string) error {
	return r.write(ctx, []issuance.Listing{{Serial: serial, Labels: map[string]string{LabelStatus: status}}}, new(Counts))
}

// kept reads what the store keeps of the last sync; nil for nothing.
func (s *Syncer) kept(ctx context.Context) ([]byte, error) {
	kept, err := s.Store.SyncState(ctx, Source)
	if errors.Is(err, issuance.ErrNotFound) {
		return nil, nil
	}
	return []byte(kept.Cursor), err
}

// keep has the store keep a state, beside what it keeps of every source.
func (s *Syncer) keep(ctx context.Context, call issuance.Call, text []byte, kept *state) error {
	y := issuance.Sync{
		Source: Source, Cursor: string(text), BeganAt: kept.Last.StartedAt, FinishedAt: kept.CompleteAt,
		Devices: kept.Last.Listed, Changed: kept.Last.New + kept.Last.Changed,
	}
	if failure := kept.Last.Failure; failure != nil {
		y.FailedAt, y.Error = kept.Last.EndedAt, fmt.Sprintf("%s: %s", failure.Check, failure.Detail)
	}
	call.Now = s.Now()
	return s.Store.PutSyncState(ctx, call, y)
}
