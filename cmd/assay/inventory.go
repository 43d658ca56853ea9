package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"assay/internal/admin"
	"assay/internal/admin/client"
)

type inventoryCommand struct {
	Sync   inventorySync   `cmd:"" help:"Bring the inventory into step with Apple Business or School Manager."`
	Status inventoryStatus `cmd:"" help:"Show where the inventory stands with it, and what went wrong."`
}

type inventorySync struct {
	connection
	Full   bool `help:"Begin anew where an interrupted sync could go on, and ask once more about every device that is off the list."`
	DryRun bool `help:"Change nothing, but say what would change."`
}

func (inventorySync) Help() string {
	return `Reads the organization's devices through Apple's API: new ones become known, changed labels are written, and
devices that are off the list are told apart into released and missing ones. Nothing is revoked. The server does
the same by itself, as often as inventory.appleBusinessManager.every says. An interrupted sync goes on where it
was at the next one; with --server it goes on in the server, whatever becomes of this command.

Examples:
  assay inventory sync --dir ./a --dry-run
  assay inventory sync --dir ./a

Exit codes: 0 synced; 1 one is under way already, or no list is configured; 2 wrong flags; 3 failed.`
}

func (c *inventorySync) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	sync, err := api.StartInventorySync(ctx, admin.StartSync{Full: c.Full, DryRun: c.DryRun})
	if isProblem(err, http.StatusConflict) {
		return noBecause(withHint(err, "`assay inventory status` says what is under way; docs/apple-business-manager.md says how one is configured"))
	} else if err != nil {
		return refusedInput(err)
	}
	if sync, err = followSync(ctx, term, g, api, sync); err != nil {
		return err
	}
	if g.JSON {
		if err := writeJSON(term.Out, sync); err != nil {
			return err
		}
	} else {
		printSync(term.Out, sync)
	}
	return syncFailure(sync, exitFailed)
}

// followInterval is how often a sync under way is looked at.
const followInterval = 200 * time.Millisecond

// followSync waits until no sync is under way, and shows how far it is.
func followSync(ctx context.Context, term *terminal, g *globals, api *client.Client, sync admin.InventorySync) (admin.InventorySync, error) {
	progress := newSyncProgress(term, g)
	defer progress.end()
	ticker := time.NewTicker(followInterval)
	defer ticker.Stop()
	for sync.Running {
		progress.show(sync.Last)
		select {
		case <-ctx.Done():
			return sync, ctx.Err()
		case <-ticker.C:
		}
		all, err := api.InventorySyncs(ctx)
		if isProblem(err, http.StatusForbidden) {
			return sync, withHint(err, "the sync goes on; to see how it ends, the token needs devices:read too")
		} else if err != nil {
			return sync, refused(err)
		}
		if len(all) == 0 {
			return sync, errors.New("the server knows of no sync any more: was its configuration changed?")
		}
		sync = all[0]
	}
	return sync, nil
}

type inventoryStatus struct{ connection }

func (inventoryStatus) Help() string {
	return `Shows the last sync of the inventory, or the one that is under way, with what to do about a failure.

Example:
  assay inventory status --dir ./a

Exit codes: 0 in step; 1 the last sync failed, there was none yet, or no list is configured; 2 wrong flags; 3 failed.`
}

func (c *inventoryStatus) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	all, err := api.InventorySyncs(ctx)
	if err != nil {
		return refusedInput(err)
	}
	if len(all) == 0 {
		return noBecause(withHint(errors.New("the inventory is not kept in step with any list"),
			"inventory.appleBusinessManager in assay.yaml says with which; docs/apple-business-manager.md explains it"))
	}
	for _, sync := range all {
		if g.JSON {
			if err := writeJSON(term.Out, sync); err != nil {
				return err
			}
		} else {
			printSync(term.Out, sync)
		}
	}
	if all[0].Last == nil {
		return noBecause(withHint(errors.New("the inventory was never synced"), "`assay inventory sync` does it; so does the running server"))
	}
	return syncFailure(all[0], exitNo)
}

// syncFailure is how the last sync failed; nil if it did not, or is under way.
func syncFailure(sync admin.InventorySync, code int) error {
	if sync.Last == nil || sync.Last.Failure == nil {
		return nil
	}
	failure := sync.Last.Failure
	return &exitError{Code: code, Err: withHint(fmt.Errorf("the sync failed (%s): %s", failure.Check, failure.Detail), "%s", failure.Advice)}
}

// printSync writes where the inventory stands.
func printSync(w io.Writer, s admin.InventorySync) {
	list := newFields(w)
	defer list.flush()
	list.add("source", s.Source, "every "+s.Every)
	if s.Last != nil {
		printRun(list, s.Last)
	}
	if s.Unfinished && !s.Running {
		list.add("unfinished", "the next sync goes on where this one was interrupted")
	}
	list.addTime("last complete", s.CompletedAt)
	list.addTime("next", s.NextAt, "by the running server")
}

func printRun(list *fields, run *admin.SyncRun) {
	kind := ""
	switch {
	case run.DryRun:
		kind = "dry run: nothing was changed"
	case run.Resumed:
		kind = "went on where another one was interrupted"
	case run.Full:
		kind = "from the beginning"
	}
	list.addTime("started", run.StartedAt, kind)
	if run.EndedAt.IsZero() {
		list.add("under way", syncText(run))
		return
	}
	list.add("took", run.EndedAt.Sub(run.StartedAt).Round(time.Millisecond).String())
	ended := "the list was read to its end"
	if !run.Complete {
		ended = "the list was NOT read to its end"
	}
	list.add("listed", fmt.Sprintf("%d devices", run.Listed), ended)
	for _, one := range []struct {
		name  string
		count int
	}{{"new", run.New}, {"changed", run.Changed}, {"unchanged", run.Unchanged}} {
		list.add(one.name, fmt.Sprint(one.count))
	}
	var released []string
	for _, one := range run.Released {
		released = append(released, one.Serial+" on "+one.ReleasedAt.UTC().Format(time.DateOnly))
	}
	printSome(list, "refused", run.Refused, nil, "the inventory did not take them")
	printSome(list, "released", run.ReleasedCount, released, "by the organization")
	printSome(list, "missing", run.MissingCount, run.Missing, "the organization has them no longer")
	printSome(list, "not asked yet", run.Unasked, nil, "off the list; the next sync asks about them")
	printSome(list, "faulty", run.FaultCount, nil, "not used")
	for _, fault := range run.Faults[:min(len(run.Faults), maxNamedOfSync)] {
		list.add("  because", strings.TrimPrefix(fault.Serial+": "+fault.Why, ": "))
	}
}

// maxNamedOfSync is how many things of a kind a sync's summary names; --json has more.
const maxNamedOfSync = 5

// printSome writes how many there are, and the first of them; nothing for none.
func printSome(list *fields, name string, count int, some []string, remark string) {
	if count == 0 {
		return
	}
	text := fmt.Sprint(count)
	if shown := some[:min(len(some), maxNamedOfSync)]; len(shown) > 0 {
		text += ": " + strings.Join(shown, ", ")
		if count > len(shown) {
			text += ", …"
		}
	}
	list.add(name, text, remark)
}

// syncText says how far a sync under way is.
func syncText(run *admin.SyncRun) string {
	if run.Total > 0 {
		return fmt.Sprintf("%d of %d devices", run.Listed, run.Total)
	}
	return fmt.Sprintf("%d devices", run.Listed)
}
