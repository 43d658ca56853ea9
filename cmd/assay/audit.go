package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"assay/internal/admin/client"
	"assay/internal/audit"
)

type auditCommand struct {
	List       auditList       `cmd:"" help:"List what was done and refused."`
	Verify     auditVerify     `cmd:"" help:"Verify that nothing was changed, deleted or put in another order."`
	Checkpoint auditCheckpoint `cmd:"" help:"Print the newest seal, to be kept elsewhere."`
}

type auditList struct {
	connection
	Since       lifetimeFlag `placeholder:"AGE" help:"Only rows younger than this, e.g. 2h, 7d."`
	Code        string       `placeholder:"ID" help:"Only rows of this code."`
	Order       string       `placeholder:"ID" help:"Only rows of this order."`
	Certificate string       `placeholder:"ID" help:"Only rows of this certificate."`
	Device      string       `placeholder:"ID" help:"Only rows of this device."`
	Action      string       `placeholder:"ACTION" help:"Only rows of this action, e.g. challenge.answered."`
	Refused     bool         `help:"Only refusals."`
}

func (auditList) Help() string {
	return `Oldest first. A refused device is found here by its serial, its code or its order: Apple's client
shows nothing of why it was refused. A row's personal values (serial, from) may have been erased.

Examples:
  assay audit list --dir ./a --refused --since 2h
  assay audit list --dir ./a --code code_06e3…

Exit codes: 0 listed; 2 wrong flags; 3 failed.`
}

func (c *auditList) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	filter := client.AuditFilter{Code: c.Code, Order: c.Order, Certificate: c.Certificate, Device: c.Device, Action: c.Action, Refused: c.Refused}
	if c.Since != 0 {
		filter.Since = term.Now().Add(-time.Duration(c.Since))
	}
	rows := 0
	for entry, err := range api.Audit(ctx, filter) {
		if err != nil {
			return refusedInput(err)
		}
		if g.JSON {
			if err := writeJSON(term.Out, entry); err != nil {
				return err
			}
			continue
		}
		printAudit(term.Out, entry)
		rows++
	}
	if rows == 0 && !g.JSON {
		fmt.Fprintln(term.Out, "no audit rows")
	}
	return nil
}

// auditOf collects the rows that concern one thing.
func auditOf(ctx context.Context, api *client.Client, filter client.AuditFilter) ([]audit.Row, error) {
	var rows []audit.Row
	for entry, err := range api.Audit(ctx, filter) {
		if err != nil {
			return nil, refused(err)
		}
		rows = append(rows, entry)
		if len(rows) > 10_000 {
			return nil, errors.New("over 10,000 audit rows: use `assay audit list`")
		}
	}
	return rows, nil
}

// printHistory writes what happened to a thing whose own page names the known ids already.
func printHistory(w io.Writer, rows []audit.Row, known ...string) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintln(w, "\nHistory")
	for _, entry := range rows {
		printAudit(w, entry, known...)
	}
}

// printAudit writes one audit row as one line: when, what, why not, who, and the ids to go on with
// but for those that are known.
func printAudit(w io.Writer, r audit.Row, known ...string) {
	sayf(w, "  %s  %-22s", rfc3339(r.Time), r.Action)
	if r.Outcome == audit.Refused {
		sayf(w, "  REFUSED %s", r.Check)
		if why := r.Detail["detail"]; why != "" {
			sayf(w, ": %s", why)
		}
	}
	if r.Personal != nil {
		for _, part := range []struct{ name, value string }{
			{"serial", r.Personal.Serial}, {"udid", r.Personal.UDID}, {"from", r.Personal.From}, {"names", strings.Join(r.Personal.Names, ", ")},
			{"device says", r.Personal.DeviceError},
		} {
			if part.value != "" {
				fmt.Fprintf(w, "  %s=%q", part.name, part.value)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Detail)) {
		if name != "detail" {
			fmt.Fprintf(w, "  %s=%q", name, r.Detail[name])
		}
	}
	for _, id := range []struct{ name, value string }{
		{"code", r.Code}, {"order", r.Order}, {"certificate", r.Certificate}, {"issuer", r.Issuer},
	} {
		if id.value != "" && !slices.Contains(known, id.value) {
			sayf(w, "  %s=%s", id.name, id.value)
		}
	}
	fmt.Fprintln(w)
}
