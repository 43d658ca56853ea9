package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"charm.land/lipgloss/v2"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/issuance"
)

// maxRefusals is how many recent refusals a device's page shows.
const maxRefusals = 10

type deviceShow struct {
	connection
	deviceName
}

func (deviceShow) Help() string {
	return `Where a device shows only AssetCannotBeDownloaded, this page says what the server knows: whether it ever
fetched its document, whether it came to the ACME server, at which check it was refused, what it reported
itself, and what to do.

Example:
  assay device show --dir ./a C02XEXAMPLE1

Exit codes: 0 shown; 1 there is no such device; 2 wrong flags; 3 failed.`
}

// devicePage is everything that is known of a device.
type devicePage struct {
	admin.Device
	Credentials  []admin.Credential  `json:"credentials"`
	Certificates []admin.Certificate `json:"certificates"`
	Refusals     []admin.AuditRow    `json:"refusals"`        // the last ones
	Holds        []admin.Hold        `json:"holds,omitempty"` // that wait, or are approved
	Conflicts    []admin.Conflict    `json:"conflicts,omitempty"`
	Hidden       []string            `json:"hidden,omitempty"` // what is left out, because the token lacks these scopes
}

func (c *deviceShow) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	var err error
	page := devicePage{Credentials: []admin.Credential{}, Certificates: []admin.Certificate{}, Refusals: []admin.AuditRow{}}
	if page.Device, _, err = findDevice(ctx, api, c.Device); err != nil {
		return err
	}
	if err := page.read(ctx, api); err != nil {
		return refused(err)
	}
	if g.JSON {
		return writeJSON(term.Out, page)
	}
	page.print(term)
	return nil
}

// read collects what belongs to the device, as far as the token's scopes go.
func (p *devicePage) read(ctx context.Context, api *client.Client) error {
	for _, part := range []struct {
		scope admin.Scope
		read  func(context.Context, *client.Client) error
	}{{admin.CredentialsRead, p.readCredentials}, {admin.CertificatesRead, p.readCertificates}, {admin.AuditRead, p.readRefusals},
		{admin.DecisionsRead, p.readHolds}, {admin.DevicesRead, p.readConflicts}} {
		if err := part.read(ctx, api); isProblem(err, http.StatusForbidden) {
			p.Hidden = append(p.Hidden, string(part.scope))
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (p *devicePage) readCredentials(ctx context.Context, api *client.Client) error {
	for credential, err := range api.Credentials(ctx, client.CredentialFilter{Device: p.ID}) {
		if err != nil {
			return err
		}
		p.Credentials = append(p.Credentials, credential)
	}
	return nil
}

func (p *devicePage) readCertificates(ctx context.Context, api *client.Client) error {
	for certificate, err := range api.Certificates(ctx, client.CertificateFilter{Device: p.ID}) {
		if err != nil {
			return err
		}
		p.Certificates = append(p.Certificates, certificate)
	}
	return nil
}

func (p *devicePage) readHolds(ctx context.Context, api *client.Client) error {
	for hold, err := range api.Holds(ctx, client.HoldFilter{Device: p.ID}) {
		if err != nil {
			return err
		}
		if hold.Status != "used" {
			p.Holds = append(p.Holds, hold)
		}
	}
	return nil
}

func (p *devicePage) readConflicts(ctx context.Context, api *client.Client) error {
	for conflict, err := range api.Conflicts(ctx, p.ID, false) {
		if err != nil {
			return err
		}
		p.Conflicts = append(p.Conflicts, conflict)
	}
	return nil
}

func (p *devicePage) readRefusals(ctx context.Context, api *client.Client) error {
	// Before evidence named the device, its refusals are known by its codes only.
	filters := []client.AuditFilter{{Device: p.ID, Refused: true}}
	for _, credential := range p.Credentials {
		filters = append(filters, client.AuditFilter{Code: credential.Code, Refused: true})
	}
	for _, filter := range filters {
		for row, err := range api.Audit(ctx, filter) {
			if err != nil {
				return err
			}
			p.addRefusal(row)
		}
	}
	return nil
}

// addRefusal keeps the youngest refusals, each once, oldest first.
func (p *devicePage) addRefusal(row admin.AuditRow) {
	place, found := slices.BinarySearchFunc(p.Refusals, row, func(a, b admin.AuditRow) int {
		return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.ID, b.ID))
	})
	if found {
		return
	}
	p.Refusals = slices.Insert(p.Refusals, place, row)
	if len(p.Refusals) > maxRefusals {
		p.Refusals = slices.Delete(p.Refusals, 0, 1)
	}
}

func (p *devicePage) print(term *terminal) {
	printDevice(term, p.Device)
	for _, hold := range p.Holds {
		sayf(term.Out, "\nHeld: %s (%s): %s\n", hold.Why, hold.Status, hold.ID)
		if hold.Next != "" {
			sayf(term.Out, "  To do: %s\n", hold.Next)
		}
	}
	for _, conflict := range p.Conflicts {
		sayf(term.Out, "\nConflict %s: %s says %s (%s)\n  To do: %s\n", conflict.Kind, conflict.Source, conflict.Said, conflict.ID, conflict.Advice)
	}
	if len(p.Credentials) == 0 && !slices.Contains(p.Hidden, string(admin.CredentialsRead)) {
		sayf(term.Out, "\nNo template was declared for it: assay credential declare --template NAME --serial %s\n", deviceText(p.Serial, p.UDID))
	}
	for _, credential := range p.Credentials {
		fmt.Fprintln(term.Out)
		printCredential(term.Out, credential)
	}
	if len(p.Certificates) > 0 {
		fmt.Fprintln(term.Out, "\nCertificates")
		for _, certificate := range p.Certificates {
			printCertificateLine(term.Out, certificate)
		}
	}
	if len(p.Refusals) > 0 {
		fmt.Fprintln(term.Out, "\nLast refusals")
		for _, row := range p.Refusals {
			printAudit(term.Out, row, p.ID)
		}
	}
	if len(p.Hidden) > 0 {
		fmt.Fprintf(term.Out, "\nNot all is shown: the token lacks %s\n", strings.Join(p.Hidden, " and "))
	}
}

func printDevice(term *terminal, d admin.Device) {
	known := "expected by an operator, NOT attested"
	if d.Attested {
		known = "attested"
	}
	from := func(value string) string {
		if source := d.Sources[value]; source.From != "" && source.From != issuance.FromEvidence {
			return "from " + source.From
		}
		return ""
	}
	list := newFields(term.Out)
	list.add("device", d.ID)
	list.add("state", orNone(d.State, "unlisted: it attested itself, and nobody lists it"), from(issuance.StateSource))
	list.add("serial", d.Serial, known, from(issuance.SerialSource))
	list.add("UDID", d.UDID, known, from(issuance.UDIDSource))
	for _, name := range slices.Sorted(maps.Keys(d.Labels)) {
		list.add("label "+printable(name), d.Labels[name], from(issuance.LabelSource+name))
	}
	list.add("MDM identity", d.MDMFingerprint, "SHA-256")
	list.addTime("known since", d.CreatedAt)
	list.addTime("last seen", d.LastSeen)
	list.flush()
}

func printCertificateLine(w io.Writer, c admin.Certificate) {
	sayf(w, "  %s  %-9s  until %s", c.ID, c.Status, rfc3339(c.NotAfter))
	switch {
	case c.SupersededBy != "":
		sayf(w, "  superseded by %s", c.SupersededBy)
	case c.Status == "revoked":
		sayf(w, "  revoked %s (%s)", rfc3339(c.RevokedAt), c.RevokedReason)
	case c.Status == "valid" && c.CollectedAt.IsZero():
		fmt.Fprint(w, "  issued, never collected: the device does not have it")
	}
	fmt.Fprintln(w)
}

// printCredential writes a credential as its device's page shows it: what happened and what to do come
// first, the particulars after them.
func printCredential(w io.Writer, c admin.Credential) {
	lipgloss.Fprintf(w, "Credential %s: %s\n", headline.Render(printable(c.Template)), headline.Render(printable(c.State)))
	if c.Diagnosis.Text != "" {
		sayf(w, "  %s\n", c.Diagnosis.Text)
	}
	if c.Diagnosis.Advice != "" {
		sayf(w, "  To do: %s\n", c.Diagnosis.Advice)
	}
	list := newFields(w)
	list.add("credential", c.ID, fmt.Sprintf("revision %d, rendered %s", c.Revision, rfc3339(c.RenderedAt)))
	list.add("code", c.Code, c.CodeStatus)
	if c.CodeStatus == "unused" {
		list.addTime("code ends", c.ExpiresAt)
	}
	if c.FetchedAt.IsZero() {
		list.add("document", "never fetched")
	} else {
		list.addTime("document fetched", c.FetchedAt)
	}
	list.add("certificate", c.Certificate)
	list.addTime("renews", c.RenewsAt)
	list.addTime("withdrawn", c.WithdrawnAt)
	list.add("asset", c.AssetIdentifier, "ServerToken "+c.AssetToken)
	list.add("configuration", c.ConfigurationIdentifier, "ServerToken "+c.ConfigurationToken)
	list.addTime("pushed", c.PushedAt)
	list.add("push failed", c.PushError)
	list.flush()
	printReport(w, c.Report)
}

// printReport writes what the device last said; every text of it comes from the device.
func printReport(w io.Writer, r *admin.Report) {
	if r == nil {
		return
	}
	fmt.Fprintf(w, "  The device reported at %s\n", rfc3339(r.ReceivedAt))
	list := newFields(w)
	for _, part := range []struct {
		name  string
		state *admin.DeclarationState
	}{{"  asset", r.Asset}, {"  configuration", r.Configuration}} {
		if part.state == nil {
			continue
		}
		active := "not active"
		if part.state.Active {
			active = "active"
		}
		list.add(part.name, part.state.Valid+", "+active)
		for _, reason := range part.state.Reasons {
			list.add("    because", strings.Join(nonEmpty(reason.Code, reason.Description, reason.Details), ": "))
		}
	}
	list.add("  certificate", r.Installed, "SHA-256")
	list.flush()
}

func nonEmpty(texts ...string) []string {
	return slices.DeleteFunc(texts, func(text string) bool { return text == "" })
}
