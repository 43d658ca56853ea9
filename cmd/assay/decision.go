package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"assay/credential"
	"assay/csr"
	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/policy"
)

type decisionCommand struct {
	List    decisionList    `cmd:"" help:"List decisions."`
	Show    decisionShow    `cmd:"" help:"Show why a request was decided as it was."`
	Held    decisionHeld    `cmd:"" help:"List the devices that wait for a person's word."`
	Approve decisionApprove `cmd:"" help:"Let a held device's next try succeed."`
	Decline decisionDecline `cmd:"" help:"Keep a held device refused."`
}

type decisionList struct {
	connection
	Since   lifetimeFlag `placeholder:"AGE" help:"Only decisions younger than this, e.g. 2h, 7d."`
	Outcome string       `enum:",issue,hold,refuse" default:"" placeholder:"OUTCOME" help:"Only decisions with this outcome (issue, hold, refuse)."`
	Device  string       `placeholder:"DEVICE" help:"Only decisions about this device: serial number, UDID or id."`
	Code    string       `placeholder:"CODE" help:"Only decisions on orders with this code, by its id (code_…)."`
}

func (decisionList) Help() string {
	return `Oldest first. A request whose evidence did not verify was refused before there was anything to decide:
` + "`assay audit list --refused`" + ` has those.

Examples:
  assay decision list --dir ./a --since 1d --outcome refuse
  assay decision list --dir ./a --device C02XEXAMPLE1

Exit codes: 0 listed; 1 there is no such device; 2 wrong flags; 3 failed.`
}

func (c *decisionList) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	filter := client.DecisionFilter{Outcome: c.Outcome, Code: c.Code}
	if c.Since != 0 {
		filter.Since = term.Now().Add(-time.Duration(c.Since))
	}
	if c.Device != "" {
		device, _, err := findDevice(ctx, api, c.Device)
		if err != nil {
			return err
		}
		filter.Device = device.ID
	}
	table := newTable(term.Out, "decisions", "ID", "TIME", "OUTCOME", "SCORE", "POLICY", "DEVICE", "CODE", "WHY")
	return printList(term, g, api, api.Decisions(ctx, filter), table, func(d admin.Decision) []string {
		return []string{d.ID, rfc3339(d.Time), string(d.Decided.Outcome), strconv.Itoa(d.Decided.Score), d.Decided.Policy.Name,
			orNone(deviceText(d.Serial, d.UDID), d.Device), d.Code, whyOf(&d.Decided)}
	})
}

// whyOf is what kept a decision from issuing, or the word that let it; "" for one that issued by its score.
func whyOf(d *policy.Decision) string {
	if d.Approval != "" {
		return "approved"
	}
	if failed := d.Refused(); failed != nil {
		return failed.Check
	}
	return ""
}

type decisionShow struct {
	connection
	Thing string `arg:"" help:"A decision (dec_…), or what it was about: a certificate (cert_… or its serial number in hex), a hold (hold_…), a code (code_…) or a device (dev_…, serial number or UDID)."`
}

func (decisionShow) Help() string {
	return `Shows every check, requirement and signal with its value and points, which version of which policy decided,
and the facts that it saw. Of a code or a device, the newest decision.

Examples:
  assay decision show --dir ./a dec_06e3…
  assay decision show --dir ./a C02XEXAMPLE1

Exit codes: 0 shown; 1 there is no such decision; 2 wrong flags; 3 failed.`
}

func (c *decisionShow) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	d, err := findDecision(ctx, api, c.Thing)
	if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, d)
	}
	list := newFields(term.Out)
	list.add("decision", d.ID)
	list.addTime("time", d.Time)
	list.add("directory", d.Directory)
	list.add("order", d.Order)
	list.add("code", d.Code)
	list.add("device", d.Device)
	list.add("hold", d.Hold)
	list.add("policy", d.Decided.Policy.Name, d.Decided.Policy.SHA256)
	list.flush()
	fmt.Fprintln(term.Out)
	printDecision(term.Out, &d.Decided)
	printInput(term.Out, &d)
	return nil
}

// findDecision finds a decision by its id, or the newest one about something.
func findDecision(ctx context.Context, api *client.Client, thing string) (admin.Decision, error) {
	var filter client.DecisionFilter
	switch prefix, _, _ := strings.Cut(thing, "_"); prefix {
	case "dec":
		return decisionByID(ctx, api, thing)
	case "hold":
		hold, err := findHold(ctx, api, thing)
		if err != nil {
			return admin.Decision{}, err
		}
		return decisionByID(ctx, api, hold.Decision)
	case "code":
		filter.Code = thing
	case "cert":
		cert, err := findCertificate(ctx, api, thing)
		if err != nil {
			return admin.Decision{}, err
		}
		return decisionByID(ctx, api, cert.Decision)
	default:
		device, _, err := findDevice(ctx, api, thing)
		if err != nil { // a certificate's serial number, perhaps
			if cert, certErr := findCertificate(ctx, api, thing); certErr == nil {
				return decisionByID(ctx, api, cert.Decision)
			}
			return admin.Decision{}, err
		}
		filter.Device = device.ID
	}
	newest := ""
	for d, err := range api.Decisions(ctx, filter) {
		if err != nil {
			return admin.Decision{}, refusedInput(err)
		}
		newest = d.ID
	}
	if newest == "" {
		return admin.Decision{}, noSuchDecision()
	}
	return decisionByID(ctx, api, newest)
}

func decisionByID(ctx context.Context, api *client.Client, id string) (admin.Decision, error) {
	d, err := api.Decision(ctx, id)
	if isProblem(err, http.StatusNotFound, http.StatusUnprocessableEntity) {
		return admin.Decision{}, noSuchDecision()
	}
	return d, refused(err)
}

func noSuchDecision() error {
	return noBecause(withHint(errors.New("there is no such decision"),
		"`assay decision list` shows all; a request whose evidence does not verify is refused before any: `assay audit list --refused`"))
}

// printDecision writes a decision: every check and requirement, then every signal with its points.
func printDecision(w io.Writer, d *policy.Decision) {
	sayf(w, "  outcome  %s", d.Outcome)
	if len(d.Signals) > 0 {
		sayf(w, ", with a score of %d", d.Score)
	}
	if d.Profile != "" {
		sayf(w, ", certificate profile %s", d.Profile)
	}
	if d.Lifetime > 0 {
		sayf(w, ", for at most %s", d.Lifetime)
	}
	fmt.Fprintln(w)
	for _, reason := range d.Reasons {
		mark := "yes"
		if !reason.Passed {
			mark = "NO "
		}
		sayf(w, "  %s  %-28s %s\n", mark, reason.Check, reason.Detail)
		if len(reason.Unknown) > 0 {
			sayf(w, "       %-28s not known: %s\n", "", strings.Join(reason.Unknown, ", "))
		}
		if !reason.Passed && reason.Advice != "" {
			sayf(w, "       %-28s %s\n", "", reason.Advice)
		}
	}
	for _, s := range d.Signals {
		detail := s.Detail
		if len(s.Unknown) > 0 {
			detail = strings.Trim(detail+"; not known: "+strings.Join(s.Unknown, ", "), "; ")
		}
		sayf(w, "  %+4d %-28s %-8s %s\n", s.Points, s.Name, s.Value, detail)
	}
	if d.StandIn {
		fmt.Fprintln(w, "  WARNING: a stand-in authority attested this; it proves nothing about real hardware")
	}
	for _, dropped := range d.Dropped {
		sayf(w, "  left out  %s (%s)\n", dropped.Field, dropped.Why)
	}
}

// printInput writes what a decision rested on, as far as people want to read it.
func printInput(w io.Writer, d *admin.Decision) {
	in := d.Input
	if in == nil || d.Schema < policy.Schema {
		fmt.Fprintln(w, "\nWhat it rested on is not kept any more.")
		return
	}
	if in.Request != nil {
		fmt.Fprintln(w, "\nAsked for")
		printRequest(w, in.Request)
	}
	if in.Facts != nil {
		fmt.Fprintln(w, "\nAttested")
		printFacts(w, in.Facts)
	}
	fmt.Fprintln(w, "\nKnown besides")
	list := newFields(w)
	list.add("evidence", string(in.Evidence))
	if c := in.Code; c != nil {
		list.add("code of", c.Template)
		list.add("code bound to", strings.Trim(c.Serial+" "+c.UDID, " "))
		list.addTime("code minted", c.CreatedAt)
		list.add("code refused before", strconv.Itoa(c.Tries))
	}
	if device := in.Device; device != nil {
		remark := "named by the code, NOT attested"
		if device.Proven {
			remark = "named by the evidence"
		}
		list.add("device", device.ID, remark)
		list.add("state", orNone(string(device.State), "not listed"))
		list.add("labels", labelText(device.Labels))
		list.addTime("last seen", device.LastSeen)
	} else {
		list.add("device", "no row is about it")
	}
	if h := in.History; h != nil {
		list.add("certificates before", fmt.Sprintf("%d, of these %d valid", h.DeviceCertificates, h.DeviceValid))
		list.add("certificates of the key", fmt.Sprintf("%d, of these %d to others", h.KeyCertificates, h.KeyOtherDevices))
		list.add("refusals within a day", strconv.Itoa(h.Refusals))
	}
	if o := in.Opinion; o != nil {
		list.add("opinion", strings.Trim(fmt.Sprintf("%s %d %s", o.Verdict, o.Score, strings.Join(o.Tags, " ")), " "), o.Failure)
	}
	if a := in.Approval; a != nil {
		list.add("approved by", a.By, rfc3339(a.At))
	}
	list.flush()
}

// printRequest writes what the device asked for: of it a certificate gets what the certificate profile grants.
func printRequest(w io.Writer, r *csr.Request) {
	var rdns []string
	for _, rdn := range r.Subject {
		var parts []string
		for _, a := range rdn {
			parts = append(parts, credential.ShortName(a.Type)+"="+a.Value)
		}
		rdns = append(rdns, strings.Join(parts, "+"))
	}
	list := newFields(w)
	list.add("subject", strings.Join(rdns, ", "))
	for _, name := range r.AltNames {
		list.add(string(name.Kind), name.Value)
	}
	list.add("extended key usages", strings.Join(r.ExtKeyUsage, " "))
	list.add("key", fmt.Sprintf("%s, %d bits", r.KeyType, r.KeySize))
	list.flush()
}

func orNone(text, none string) string {
	if text == "" {
		return none
	}
	return text
}
