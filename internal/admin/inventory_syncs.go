package admin

import (
	"context"
	"errors"
	"net/http"
	"time"

	"assay/internal/inventory/abm"
	"assay/internal/issuance"
	"assay/internal/lifetime"
)

// Syncs keep the inventory in step with a list that is kept elsewhere.
type Syncs interface {
	// Start starts a sync that goes on by itself; abm.ErrRunning if one is under way.
	Start(call issuance.Call, o abm.Options) error
	// Standing says how far the sync under way is, or how the last one ended.
	Standing(ctx context.Context) (abm.Standing, error)
}

func (a *API) addInventorySyncs() {
	add(a, route{
		method: http.MethodGet, path: "/inventory/syncs", id: "list-inventory-syncs", tag: "devices", scope: DevicesRead,
		summary: "See syncs of the inventory", description: "One entry for each list that the inventory is kept in step with: the sync under way, else the last one. Empty where none is configured.",
	}, a.listSyncs)
	add(a, route{
		method: http.MethodPost, path: "/inventory/syncs", id: "start-inventory-sync", tag: "devices", scope: DevicesWrite, status: http.StatusAccepted,
		summary: "Start a sync of the inventory", description: "Beside those that the server makes by itself. The answer comes at once; GET /inventory/syncs says how far it is and how it ended.",
		also: map[int]string{http.StatusConflict: "One is under way, or no list is configured."},
	}, a.startSync)
}

// InventorySync is where the inventory stands with a list that is kept elsewhere.
type InventorySync struct {
	Source      string    `json:"source" doc:"Name of the list." example:"apple-business-manager"`
	Running     bool      `json:"running" doc:"Whether a sync is under way."`
	Every       string    `json:"every" doc:"How often the running server syncs by itself." example:"1h"`
	NextAt      time.Time `json:"nextAt,omitzero" doc:"When the running server syncs next; absent: at once."`
	CompletedAt time.Time `json:"completedAt,omitzero" doc:"When the list was last read to its end."`
	Unfinished  bool      `json:"unfinished" doc:"Whether the next sync goes on where one was interrupted."`
	Last        *SyncRun  `json:"last,omitempty" doc:"The sync under way, else the last one; absent: there was none."`
}

// SyncRun is one sync.
type SyncRun struct {
	StartedAt     time.Time    `json:"startedAt"`
	EndedAt       time.Time    `json:"endedAt,omitzero" doc:"Absent while it is under way."`
	Full          bool         `json:"full" doc:"Whether it was told to begin anew."`
	DryRun        bool         `json:"dryRun" doc:"Whether it changes nothing."`
	Resumed       bool         `json:"resumed" doc:"Whether it went on where another one was interrupted."`
	Complete      bool         `json:"complete" doc:"Whether the list was read to its end."`
	Pages         int          `json:"pages"`
	Total         int          `json:"total,omitempty" doc:"Devices on the list, if the service says so."`
	Listed        int          `json:"listed" doc:"Devices read."`
	New           int          `json:"new"`
	Changed       int          `json:"changed"`
	Unchanged     int          `json:"unchanged"`
	Refused       int          `json:"refused" doc:"Devices that the inventory did not take, such as for a conflict."`
	Faults        []SyncFault  `json:"faults,omitempty" nullable:"false" doc:"Devices of the list that cannot be used or were refused, the first hundred."`
	FaultCount    int          `json:"faultCount" doc:"All that cannot be used."`
	Released      []Release    `json:"released,omitempty" nullable:"false" doc:"Devices that the organization released since the sync before, the first hundred."`
	ReleasedCount int          `json:"releasedCount"`
	Missing       []string     `json:"missing,omitempty" nullable:"false" doc:"Serial numbers of devices that the organization has no longer for another reason, the first hundred."`
	MissingCount  int          `json:"missingCount"`
	Unasked       int          `json:"unasked" doc:"Devices that are off the list, and that the next sync asks about."`
	Failure       *SyncFailure `json:"failure,omitempty" doc:"Why it ended early."`
}

// Release is a device that the organization released.
type Release struct {
	Serial     string    `json:"serial"`
	ReleasedAt time.Time `json:"releasedAt"`
}

// SyncFault is a device of the list that cannot be used.
type SyncFault struct {
	Serial string `json:"serial,omitempty"`
	Why    string `json:"why"`
}

// SyncFailure is why a sync ended early.
type SyncFailure struct {
	Check   string    `json:"check" doc:"Stable name of the failed check." example:"credentials"`
	Detail  string    `json:"detail"`
	Advice  string    `json:"advice" doc:"What to do."`
	RetryAt time.Time `json:"retryAt,omitzero" doc:"When the service wants to be asked again."`
}

// StartSync says how a sync is made.
type StartSync struct {
	Full   bool `json:"full,omitempty" doc:"Begin anew where an interrupted sync could go on, and ask once more about every device that is off the list."`
	DryRun bool `json:"dryRun,omitempty" doc:"Change nothing, but say what would change."`
}

type listSyncsAnswer struct {
	Body struct {
		Items []InventorySync `json:"items" nullable:"false"`
	}
}

func (a *API) listSyncs(ctx context.Context, _ *struct{}) (*listSyncsAnswer, error) {
	out := &listSyncsAnswer{}
	out.Body.Items = []InventorySync{}
	if a.config.Syncs == nil {
		return out, nil
	}
	sync, err := a.syncNow(ctx)
	if err != nil {
		return nil, err
	}
	out.Body.Items = append(out.Body.Items, sync)
	return out, nil
}

type startSyncInput struct{ Body StartSync }

type startSyncAnswer struct{ Body InventorySync }

func (a *API) startSync(ctx context.Context, in *startSyncInput) (*startSyncAnswer, error) {
	if a.config.Syncs == nil {
		return nil, refuse(http.StatusConflict, "inventory-configured", "no list is configured that the inventory could be synced with")
	}
	err := a.config.Syncs.Start(a.call(ctx), abm.Options{Full: in.Body.Full, DryRun: in.Body.DryRun})
	if errors.Is(err, abm.ErrRunning) {
		return nil, refuse(http.StatusConflict, "sync-idle", "a sync is under way already")
	}
	if err != nil {
		return nil, err
	}
	sync, err := a.syncNow(ctx)
	if err != nil {
		return nil, err
	}
	return &startSyncAnswer{sync}, nil
}

func (a *API) syncNow(ctx context.Context) (InventorySync, error) {
	s, err := a.config.Syncs.Standing(ctx)
	if err != nil {
		return InventorySync{}, err
	}
	out := InventorySync{
		Source: abm.Source, Running: s.Running, Every: lifetime.Text(s.Every), NextAt: s.NextAt, CompletedAt: s.CompleteAt, Unfinished: s.Unfinished,
	}
	if !s.Last.StartedAt.IsZero() {
		out.Last = new(runOf(&s.Last))
	}
	return out, nil
}

func runOf(s *abm.Sync) SyncRun {
	run := SyncRun{
		StartedAt: s.StartedAt, EndedAt: s.EndedAt, Full: s.Full, DryRun: s.DryRun, Resumed: s.Resumed, Complete: s.Complete,
		Pages: s.Pages, Total: s.Total, Listed: s.Listed, New: s.New, Changed: s.Changed, Unchanged: s.Unchanged, Refused: s.Refused,
		FaultCount: s.FaultCount, ReleasedCount: s.ReleasedAll, Missing: s.Missing, MissingCount: s.MissingAll, Unasked: s.Unasked,
	}
	for _, one := range s.Released {
		run.Released = append(run.Released, Release{Serial: one.Serial, ReleasedAt: one.At})
	}
	for _, fault := range s.Faults {
		run.Faults = append(run.Faults, SyncFault{Serial: fault.Serial, Why: fault.Why})
	}
	if f := s.Failure; f != nil {
		run.Failure = &SyncFailure{Check: f.Check, Detail: f.Detail, Advice: f.Advice, RetryAt: f.RetryAt}
	}
	return run
}
