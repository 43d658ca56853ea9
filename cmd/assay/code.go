package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/deviceid"
	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/inventory"
)

type codeCommand struct {
	Mint   codeMint   `cmd:"" help:"Mint one-time codes."`
	List   codeList   `cmd:"" help:"List codes."`
	Show   codeShow   `cmd:"" help:"Show what became of a code."`
	Revoke codeRevoke `cmd:"" help:"Revoke an unused code."`
}

// binding says what codes are bound to; shared by the commands that mint.
type binding struct {
	Directory       string            `placeholder:"NAME" help:"ACME directory that the codes work in. Default: the only one, or 'default'."`
	Serial          string            `placeholder:"S" help:"Bind to this serial number (compared exactly)."`
	UDID            string            `name:"udid" placeholder:"U" help:"Bind to this UDID (compared without case)."`
	Label           map[string]string `placeholder:"K=V" help:"Label kept with the code; may be repeated."`
	Expires         lifetimeFlag      `default:"24h" help:"How long an unused code lives, e.g. 1h, 30d."`
	AllowUnattested bool              `help:"Let a device without attestation use the code; its identity is then unverified."`
}

// mint is the request that the flags describe, for one device.
func (b *binding) mint() admin.MintCode {
	return admin.MintCode{Directory: b.Directory, Serial: b.Serial, UDID: b.UDID, Labels: b.Label,
		AllowUnattested: b.AllowUnattested, Lifetime: time.Duration(b.Expires).String()}
}

// maxCodes is the most codes that one command mints; mintBatch of them are one request.
const (
	maxCodes  = 1_000_000
	mintBatch = 500
	mintPause = 10 * time.Millisecond // between batches, so that devices beside them need not wait long
)

type codeMint struct {
	connection
	binding
	N    int      `short:"n" default:"1" help:"How many codes."`
	From string   `placeholder:"CSV" help:"One code for each row; the header names serial, udid and labels. '-' is standard input."`
	Bind []string `enum:"serial,udid,none" default:"serial,udid" help:"What codes are bound to, of what is given (${enum})."`
}

func (codeMint) Help() string {
	return `Prints one code a line, or with --from CSV: code,serial,udid. A code is shown once: only its hash is stored.

Examples:
  assay code mint --dir ./a -n 3
  assay code mint --dir ./a --serial C02XEXAMPLE1 --label owner=sam --expires 7d
  assay code mint --dir ./a --from devices.csv --bind serial > codes.csv

Exit codes: 0 minted; 2 wrong flags or unreadable CSV (nothing was minted); 3 failed.`
}

func (c *codeMint) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.N < 1 || c.N > maxCodes {
		return usage(fmt.Errorf("-n %d is not in 1..%d", c.N, maxCodes))
	}
	if c.From != "" && (c.N != 1 || c.Serial != "" || c.UDID != "") {
		return usage(errors.New("--from brings its own devices: -n, --serial and --udid do not go with it"))
	}
	if c.N > 1 && (c.Serial != "" || c.UDID != "") {
		return usage(errors.New("several codes for one device: bind one code a device, or mint unbound ones"))
	}
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	mints, err := c.mints(term)
	if err != nil {
		return usage(err)
	}
	out, err := newMintWriter(term.Out, g.JSON, c.From != "")
	if err != nil {
		return err
	}
	for start := 0; start < len(mints); start += mintBatch {
		if start > 0 {
			time.Sleep(mintPause)
		}
		codes, err := api.MintCodes(ctx, mints[start:min(start+mintBatch, len(mints))], "")
		if err != nil {
			return refusedInput(err)
		}
		for _, code := range codes {
			if err := out.write(code); err != nil {
				return err
			}
		}
		if err := out.flush(); err != nil { // what was minted is printed, whatever comes next
			return err
		}
	}
	return nil
}

// mints reads everything before anything is minted, so that bad input mints nothing.
func (c *codeMint) mints(term *terminal) ([]admin.MintCode, error) {
	var mints []admin.MintCode
	add := func(m admin.MintCode, line int) error {
		if len(mints) == maxCodes {
			return fmt.Errorf("more than %d rows: split the file", maxCodes)
		}
		if deviceid.LooksLikeMacHardwareUUID(m.UDID) {
			where := ""
			if line > 0 {
				where = "line " + strconv.Itoa(line) + ": "
			}
			sayf(term.Err, "warning: %sudid %s looks like a Mac's hardware UUID, which Apple never attests: "+
				"use the provisioning UDID, or --bind serial\n", where, m.UDID)
		}
		c.unbind(&m)
		mints = append(mints, m)
		return nil
	}
	if c.From == "" {
		for range c.N {
			if err := add(c.mint(), 0); err != nil {
				return nil, err
			}
		}
		return mints, nil
	}
	data, err := readInput(term, c.From, maxInput)
	if err != nil {
		return nil, err
	}
	for device, err := range inventory.ReadCSV(bytes.NewReader(data)) {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.From, err)
		}
		m := c.mint()
		m.Serial, m.UDID, m.Labels = device.Serial, device.UDID, mergeLabels(device.Labels, c.Label)
		if err := add(m, device.Line); err != nil {
			return nil, err
		}
	}
	return mints, nil
}

// unbind keeps what the code shall not be bound to as labels.
func (c *codeMint) unbind(m *admin.MintCode) {
	keep := func(label string, value *string) {
		if *value != "" && !slices.Contains(c.Bind, label) {
			m.Labels = mergeLabels(m.Labels, map[string]string{label: *value})
			*value = ""
		}
	}
	keep("serial", &m.Serial)
	keep("udid", &m.UDID)
}

func mergeLabels(a, b map[string]string) map[string]string {
	merged := map[string]string{}
	for _, m := range []map[string]string{a, b} {
		for k, v := range m {
			merged[k] = v
		}
	}
	return merged
}

// mintWriter prints minted codes: one a line, as CSV, or as JSON.
type mintWriter struct {
	out  io.Writer
	csv  *csv.Writer
	json bool
}

func newMintWriter(out io.Writer, asJSON, asCSV bool) (*mintWriter, error) {
	w := &mintWriter{out: out, json: asJSON}
	if asCSV && !asJSON {
		w.csv = csv.NewWriter(out)
		return w, w.csv.Write([]string{"code", "serial", "udid"})
	}
	return w, nil
}

func (w *mintWriter) write(code admin.Code) error {
	serial, udid := code.Serial, code.UDID
	if serial == "" {
		serial = code.Labels["serial"]
	}
	if udid == "" {
		udid = code.Labels["udid"]
	}
	switch {
	case w.json:
		return writeJSON(w.out, code)
	case w.csv != nil:
		return w.csv.Write([]string{code.Code, inventory.CSVCell(serial), inventory.CSVCell(udid)})
	}
	_, err := fmt.Fprintln(w.out, code.Code)
	return err
}

func (w *mintWriter) flush() error {
	if w.csv == nil {
		return nil
	}
	w.csv.Flush()
	return w.csv.Error()
}

type codeList struct {
	connection
	Status    string `enum:",unused,issuing,consumed,revoked,expired,exhausted" default:"" placeholder:"STATUS" help:"Only codes of this status (unused, issuing, consumed, revoked, expired, exhausted)."`
	Serial    string `placeholder:"S" help:"Only codes bound to this serial number."`
	Directory string `placeholder:"NAME" help:"Only codes of this ACME directory."`
}

func (codeList) Help() string {
	return `Oldest first. The codes themselves are not stored and so not shown; TRIES are refused ones.

Example:
  assay code list --dir ./a --status unused

Exit codes: 0 listed; 2 wrong flags; 3 failed.`
}

func (c *codeList) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	table := newTable(term.Out, "codes", "ID", "STATUS", "SERIAL", "UDID", "EXPIRES", "TRIES", "LAST REFUSAL", "LABELS")
	codes := api.Codes(ctx, client.CodeFilter{Status: c.Status, Serial: c.Serial, Directory: c.Directory})
	return printList(term, g, api, codes, table, func(code admin.Code) []string {
		return []string{code.ID, code.Status, code.Serial, code.UDID, rfc3339(code.ExpiresAt), strconv.Itoa(code.Tries), code.LastRefusal, labelText(code.Labels)}
	})
}

// labelText writes labels in order of their names.
func labelText(labels map[string]string) string {
	names := make([]string, 0, len(labels))
	for name, value := range labels {
		names = append(names, name+"="+value)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

type codeShow struct {
	connection
	Code string `arg:"" help:"The code, or its id (code_…)."`
}

func (codeShow) Help() string {
	return `Shows a code's state, its binding and what happened to it, from the audit.

Example:
  assay code show --dir ./a code_06e3…

Exit codes: 0 shown; 1 there is no such code; 2 wrong flags; 3 failed.`
}

func (c *codeShow) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	code, err := findCode(ctx, api, c.Code)
	if err != nil {
		return err
	}
	history, err := auditOf(ctx, api, client.AuditFilter{Code: code.ID})
	if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, struct {
			admin.Code
			History []admin.AuditRow `json:"history"`
		}{code, history})
	}
	list := newFields(term.Out)
	list.add("code", code.ID)
	list.add("status", code.Status)
	list.add("directory", code.Directory)
	list.add("bound to serial", code.Serial)
	list.add("bound to UDID", code.UDID)
	list.add("labels", labelText(code.Labels))
	if code.AllowUnattested {
		list.add("attestation", "not demanded", "an identity made with it may be unverified")
	}
	list.addTime("minted", code.CreatedAt)
	list.addTime("expires", code.ExpiresAt)
	list.addTime("used", code.UsedAt)
	list.addTime("revoked", code.RevokedAt)
	list.add("certificate", code.Certificate)
	list.add("tries refused", strconv.Itoa(code.Tries), code.LastRefusal)
	list.flush()
	printHistory(term.Out, history, code.ID, code.Certificate)
	return nil
}

// findCode finds a code by its id, or by itself in whichever directory it works.
func findCode(ctx context.Context, api *client.Client, name string) (code admin.Code, err error) {
	if strings.HasPrefix(name, "code_") {
		code, err = api.Code(ctx, name)
	} else {
		code, err = api.FindCode(ctx, "", name)
	}
	if isProblem(err, http.StatusNotFound, http.StatusBadRequest, http.StatusUnprocessableEntity) {
		return admin.Code{}, noBecause(withHint(errors.New("there is no such code"), "`assay code list` shows the ids of all codes"))
	}
	return code, refused(err)
}

type codeRevoke struct {
	connection
	Code string `arg:"" help:"The code, or its id (code_…)."`
}

func (codeRevoke) Help() string {
	return `Revokes an unused code: no device can use it from then on. A used code is not undone by it: revoke the certificate.

Example:
  assay code revoke --dir ./a code_06e3…

Exit codes: 0 revoked; 1 there is no such code, or it is not unused; 2 wrong flags; 3 failed.`
}

func (c *codeRevoke) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	code, err := findCode(ctx, api, c.Code)
	if err != nil {
		return err
	}
	revoked, err := api.RevokeCode(ctx, code.ID)
	if isProblem(err, http.StatusConflict) {
		return noBecause(fmt.Errorf("code %s is %s: only an unused code can be revoked", code.ID, code.Status))
	} else if err != nil {
		return refused(err)
	}
	if g.JSON {
		return writeJSON(term.Out, revoked)
	}
	fmt.Fprintf(term.Out, "Revoked %s\n", code.ID)
	return nil
}
