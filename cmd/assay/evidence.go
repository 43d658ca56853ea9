package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/evidence"
)

type evidenceCommand struct {
	List   evidenceList   `cmd:"" help:"List what devices proved themselves with."`
	Show   evidenceShow   `cmd:"" help:"Show evidence and what it established."`
	Verify evidenceVerify `cmd:"" help:"Verify stored evidence again, with today's checks."`
	Export evidenceExport `cmd:"" help:"Write a bundle that others can verify with OpenSSL alone."`
}

type evidenceList struct {
	connection
	Since  lifetimeFlag `placeholder:"AGE" help:"Only what came within this time, e.g. 2h, 7d."`
	Kind   string       `enum:",attested,none,failed" default:"" placeholder:"KIND" help:"Only evidence of this kind (attested, none, failed)."`
	Failed bool         `help:"Only what a check refused."`
	Device string       `placeholder:"DEVICE" help:"Only what this device gave: its serial number, UDID or id (dev_…)."`
}

func (evidenceList) Help() string {
	return `Oldest first. What is still kept of each: full (as received), facts, or none.

Examples:
  assay evidence list --dir ./a --since 1d --failed
  assay evidence list --dir ./a --device C02XEXAMPLE1

Exit codes: 0 listed; 1 there is no such device; 2 wrong flags; 3 failed.`
}

func (c *evidenceList) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	filter := client.EvidenceFilter{Kind: c.Kind, Failed: c.Failed}
	if c.Device != "" {
		device, _, err := findDevice(ctx, api, c.Device)
		if err != nil {
			return err
		}
		filter.Device = device.ID
	}
	if c.Since != 0 {
		filter.Since = term.Now().Add(-time.Duration(c.Since))
	}
	table := newTable(term.Out, "evidence", "ID", "RECEIVED", "KIND", "FORMAT", "REFUSED BY", "KEPT", "ORDER")
	return printList(term, g, api, api.EvidenceList(ctx, filter), table, func(e admin.Evidence) []string {
		return []string{e.ID, rfc3339(e.ReceivedAt), e.Kind, e.Format, e.Failed, e.Kept, e.Order}
	})
}

// evidenceName names one piece of evidence.
type evidenceName struct {
	Evidence string `arg:"" help:"The evidence (evid_…), or what rests on it: a certificate (cert_… or its serial number in hex), a decision (dec_…), or, of its newest, a device or code."`
}

// find finds the evidence.
func (n *evidenceName) find(ctx context.Context, api *client.Client) (admin.EvidenceDetail, error) {
	id := n.Evidence
	if !strings.HasPrefix(id, "evid_") {
		d, err := findDecision(ctx, api, id)
		if err != nil {
			return admin.EvidenceDetail{}, err
		}
		id = d.Evidence
	}
	e, err := api.Evidence(ctx, id)
	if id == "" || isProblem(err, http.StatusNotFound, http.StatusUnprocessableEntity) {
		return admin.EvidenceDetail{}, noBecause(withHint(errors.New("there is no such evidence"), "`assay evidence list` shows what is kept"))
	}
	return e, refused(err)
}

type evidenceShow struct {
	connection
	evidenceName
}

func (evidenceShow) Help() string {
	return `Example:
  assay evidence show --dir ./a evid_06e3…

Exit codes: 0 shown; 1 there is no such evidence; 2 wrong flags; 3 failed.`
}

func (c *evidenceShow) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	e, err := c.find(ctx, api)
	if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, e)
	}
	list := newFields(term.Out)
	list.add("evidence", e.ID)
	list.addTime("received", e.ReceivedAt)
	list.add("kind", e.Kind, e.Format)
	list.add("refused by", e.Failed)
	list.add("device says", e.DeviceError)
	list.add("object", fmt.Sprintf("%d bytes", len(e.Object)))
	list.add("token", e.Token)
	list.addTime("removed", e.RemovedAt, "by retention, or because the device was forgotten")
	list.add("order", e.Order)
	list.add("certificate", e.Certificate)
	list.add("decision", e.Decision)
	list.flush()
	if e.Facts != nil {
		fmt.Fprintln(term.Out, "\nEstablished")
		printFacts(term.Out, e.Facts)
	}
	return nil
}

type evidenceVerify struct {
	connection
	Evidence string       `arg:"" optional:"" help:"The evidence (evid_…), or a certificate or decision that rests on it. Default: all."`
	Since    lifetimeFlag `placeholder:"AGE" help:"Of all, only what came within this time, e.g. 30d."`
}

func (evidenceVerify) Help() string {
	return `Runs today's checks, with today's roots, on what was stored, as of the time when it came, and compares the facts
and the certificate's key. What is not kept any more is counted.

Examples:
  assay evidence verify --dir ./a cert_06e3…
  assay evidence verify --dir ./a --since 30d

Exit codes: 0 all as it was; 1 something does not verify any more; 2 wrong flags; 3 failed.`
}

// verifiedLine is what became of one piece of evidence.
type verifiedLine struct {
	Evidence string `json:"evidence"`
	evidence.Verdict
}

func (c *evidenceVerify) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	run := verifyRun{api: api, term: term, json: g.JSON, counts: map[evidence.Result]int{}, last: term.Now(),
		table: newTable(term.Out, "evidence that does not verify any more", "EVIDENCE", "RESULT", "CHECK", "DETAIL")}
	if c.Evidence != "" {
		name := evidenceName{c.Evidence}
		e, err := name.find(ctx, api)
		if err != nil {
			return err
		}
		if err := run.verify(ctx, e.ID); err != nil {
			return err
		}
		return run.end()
	}
	filter := client.EvidenceFilter{}
	if c.Since != 0 {
		filter.Since = term.Now().Add(-time.Duration(c.Since))
	}
	for e, err := range api.EvidenceList(ctx, filter) {
		if err != nil {
			return refusedInput(err)
		}
		if err := run.verify(ctx, e.ID); err != nil {
			return err
		}
	}
	return run.end()
}

// verifyRun verifies one piece of evidence after another.
type verifyRun struct {
	api    *client.Client
	term   *terminal
	json   bool
	table  *table
	counts map[evidence.Result]int
	bad    int
	done   int
	last   time.Time // when progress was last told
}

func (r *verifyRun) verify(ctx context.Context, id string) error {
	verdict, err := r.api.VerifyEvidence(ctx, id)
	if isProblem(err, http.StatusNotFound) {
		return nil // retention was faster
	} else if err != nil {
		return refused(err)
	}
	r.counts[verdict.Result]++
	r.done++
	if !verdict.Result.Good() {
		r.bad++
	}
	switch {
	case r.json:
		return writeJSON(r.term.Out, verifiedLine{id, verdict})
	case !verdict.Result.Good():
		detail := verdict.Detail
		if len(verdict.Differences) > 0 {
			detail += ": " + strings.Join(verdict.Differences, ", ")
		}
		r.table.row(id, string(verdict.Result), verdict.Check, detail)
	}
	if now := r.term.Now(); now.Sub(r.last) >= progressInterval {
		r.last = now
		fmt.Fprintf(r.term.Err, "%d verified so far, %d not\n", r.done-r.bad, r.bad)
	}
	return nil
}

func (r *verifyRun) end() error {
	if !r.json {
		if r.bad > 0 {
			if err := r.table.flush(); err != nil {
				return err
			}
		}
		var parts []string
		for _, result := range slices.Sorted(maps.Keys(r.counts)) {
			parts = append(parts, fmt.Sprintf("%d %s", r.counts[result], result))
		}
		sayf(r.term.Out, "%s of evidence: %s\n", counted(r.done, "piece"), orNone(strings.Join(parts, ", "), "nothing to verify"))
	}
	if r.bad > 0 {
		return no()
	}
	return nil
}

type evidenceExport struct {
	connection
	evidenceName
	Output string `short:"o" required:"" placeholder:"FILE.zip" help:"Write the bundle to this file."`
}

func (evidenceExport) Help() string {
	return `Writes a ZIP file that somebody else can verify with OpenSSL alone (verify.sh in it does): the attestation object,
its certificates and root, the challenge's token, what was established and decided, by which policy, the
certificate, and the audit's rows about the order. It holds personal values.

Example:
  assay evidence export --dir ./a cert_06e3… -o evidence.zip

Exit codes: 0 written; 1 there is no such evidence, or its object is not kept; 2 wrong flags; 3 failed.`
}

func (c *evidenceExport) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	e, err := c.find(ctx, api)
	if err != nil {
		return err
	}
	bundle, err := api.ExportEvidence(ctx, e.ID)
	if err != nil {
		return refused(err)
	}
	if err := os.WriteFile(c.Output, bundle, 0o600); err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, struct {
			Evidence string `json:"evidence"`
			File     string `json:"file"`
			Bytes    int    `json:"bytes"`
		}{e.ID, c.Output, len(bundle)})
	}
	sayf(term.Out, "Wrote %s (%d bytes): unpack it and run verify.sh\n", c.Output, len(bundle))
	return nil
}
