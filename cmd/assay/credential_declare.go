package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/delivery"
	"assay/internal/files"
	"assay/internal/issuance"
)

type credentialDeclare struct {
	connection
	Template   string            `required:"" placeholder:"NAME" help:"The credential template."`
	Serial     string            `placeholder:"S" help:"The device's serial number (compared exactly)."`
	UDID       string            `name:"udid" placeholder:"U" help:"The device's UDID (compared without case)."`
	Label      map[string]string `placeholder:"K=V" help:"Label of the device, kept with it; may be repeated."`
	From       string            `placeholder:"CSV" help:"Many devices; the header names serial, udid and labels. '-' is standard input."`
	Activation bool              `help:"With the activation that activates the configuration, for MDMs that make none of their own."`
	Push       bool              `help:"Push to the configured MDM at once."`
	Out        string            `placeholder:"DIR" help:"Write one file a declaration into this folder, named by its Identifier."`
	Report     string            `placeholder:"FILE" help:"With --from: write the failed rows to this CSV."`
	profileFlags
}

// profileFlags ask for a profile instead of declarations.
type profileFlags struct {
	Profile         bool   `help:"Write a .mobileconfig profile instead of declarations."`
	Output          string `short:"o" placeholder:"FILE" help:"File for the profile; - is standard output."`
	SignCertificate string `placeholder:"PEM" help:"Sign the profile with this certificate chain, leaf first."`
	SignKey         string `placeholder:"PEM" help:"Key of --sign-certificate."`
}

func (credentialDeclare) Help() string {
	return `Gives a device the credential of a template and prints the declarations for the MDM, a JSON array: the
asset com.apple.asset.credential.acme and the configuration com.apple.configuration.security.identity. What
stands already is printed again, byte for byte; nothing is declared twice, and what was withdrawn, or whose
code was revoked, is refused (credential renew brings it back). The declarations hold the document's secret
URL, and a profile holds the code itself.

With --from each device is one line of JSON (or its files, with --out). A row that cannot be declared stops
nothing: --report writes it with assay_line, assay_check and assay_error before the list's own columns. Mend
the rows there and hand the report in as a list: those three columns are left out when it is read. A cell
that a spreadsheet would take for a formula has an apostrophe before it: take that away, too.

Examples:
  assay credential declare --dir ./a --template wifi --serial C02XEXAMPLE1 --label owner=sam@example.com
  assay credential declare --dir ./a --template wifi --serial C02XEXAMPLE1 --profile -o wifi.mobileconfig
  assay credential declare --dir ./a --template wifi --from devices.csv --report failed.csv > declared.ndjson

Exit codes: 0 declared; 1 a device cannot have it; 2 wrong flags or unreadable input; 3 failed.`
}

func (c *credentialDeclare) Run(ctx context.Context, term *terminal, g *globals) error {
	if err := c.check(); err != nil {
		return usage(err)
	}
	sign, err := c.signer(term)
	if err != nil {
		return usage(err)
	}
	failures, err := newFailureReport(c.Report)
	if err != nil {
		return usage(fmt.Errorf("--report: %w", err))
	}
	defer failures.discard()
	if c.Out != "" {
		if err := os.MkdirAll(c.Out, 0o700); err != nil {
			return usage(fmt.Errorf("--out: %w", err))
		}
	}
	if c.From != "" {
		return c.declareList(ctx, term, g, failures)
	}
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	declared, fresh, err := api.Declare(ctx, admin.DeclareOne{
		Template: c.Template, Declare: admin.Declare{Serial: c.Serial, UDID: c.UDID, Labels: c.Label},
	}, "")
	if problem, ok := errors.AsType[*client.Problem](err); ok && slices.Contains(wholeList, problem.Check) {
		return usage(err)
	} else if err != nil {
		return refused(err)
	}
	if c.Activation {
		declared.Declarations = append(declared.Declarations, activation(declared))
	}
	var unpushed error // what was declared is printed all the same
	if c.Push {
		unpushed = pushed(ctx, api, &declared)
	}
	if c.Profile {
		err = c.profile(ctx, term, g, api, declared, sign)
	} else {
		err = c.print(term, g, declared, fresh, unpushed == nil)
	}
	if err != nil {
		return err
	}
	return unpushed
}

// check refuses flags that do not go together.
func (c *credentialDeclare) check() error {
	one := c.Serial != "" || c.UDID != ""
	switch {
	case c.From != "" && one:
		return errors.New("--from brings its own devices: --serial and --udid do not go with it")
	case c.From == "" && !one:
		return errors.New("name the device: --serial or --udid, or many devices: --from CSV")
	case c.Report != "" && c.From == "":
		return errors.New("--report goes with --from")
	case c.Profile && (c.From != "" || c.Out != "" || c.Activation):
		return errors.New("--profile makes one device's profile: --from, --out and --activation do not go with it")
	case c.Profile && c.Output == "":
		return errors.New("--profile needs -o FILE")
	case !c.Profile && (c.Output != "" || c.SignCertificate != "" || c.SignKey != ""):
		return errors.New("-o, --sign-certificate and --sign-key go with --profile")
	case (c.SignCertificate == "") != (c.SignKey == ""):
		return errors.New("--sign-certificate and --sign-key go together")
	}
	return nil
}

// activation is the declaration that activates a credential's configuration.
func activation(c admin.Credential) json.RawMessage {
	return delivery.Activation(issuance.CredentialID(c.ID))
}

// pushed pushes a credential and takes over what became of it.
func pushed(ctx context.Context, api *client.Client, c *admin.Credential) error {
	after, err := api.Push(ctx, c.ID)
	if err != nil {
		return refused(fmt.Errorf("the declarations of %s were not pushed: %w", c.ID, err))
	}
	after.Declarations = c.Declarations
	*c = after
	return nil
}

// print writes a device's declarations.
func (c *credentialDeclare) print(term *terminal, g *globals, declared admin.Credential, fresh, pushed bool) error {
	var written []string
	if c.Out != "" {
		var err error
		if written, err = writeDeclarations(c.Out, declared.Declarations); err != nil {
			return err
		}
	}
	if g.JSON {
		return writeJSON(term.Out, struct {
			admin.Credential
			Fresh bool     `json:"fresh"`
			Files []string `json:"files,omitempty"`
		}{declared, fresh, written})
	}
	how := "stands already, unchanged"
	if fresh {
		how = "declared; the device has to fetch it before " + rfc3339(declared.ExpiresAt)
	}
	if c.Push && pushed {
		how += "; pushed at " + rfc3339(declared.PushedAt)
	}
	sayf(term.Err, "credential %s (%s on %s) %s\n", declared.ID, declared.Template, deviceText(declared.Serial, declared.UDID), how)
	if c.Out != "" {
		for _, file := range written {
			fmt.Fprintln(term.Out, file)
		}
		return nil
	}
	encoder := json.NewEncoder(term.Out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(declared.Declarations)
}

// fileIdentifier is an Identifier that is safe as a file's name.
var fileIdentifier = regexp.MustCompile(`^assay\.cred_[0-9a-z]{1,40}\.[a-z]{1,16}$`)

// writeDeclarations writes each declaration to a file named by its Identifier, as the bytes that its
// ServerToken belongs to. A file that holds them already is left alone.
func writeDeclarations(dir string, declarations admin.Declarations) ([]string, error) {
	var written []string
	for _, declaration := range declarations {
		var named struct{ Identifier string }
		if err := json.Unmarshal(declaration, &named); err != nil || !fileIdentifier.MatchString(named.Identifier) {
			return nil, fmt.Errorf("the server sent a declaration with the Identifier %q, which cannot name a file", named.Identifier)
		}
		file := filepath.Join(dir, named.Identifier+".json")
		written = append(written, file)
		if present, err := files.Read(file, maxInput); err == nil && bytes.Equal(present, declaration) {
			continue
		}
		if err := writeAtomic(file, declaration); err != nil {
			return nil, err
		}
	}
	return written, nil
}

// profile fetches a credential as a profile and writes it.
func (c *credentialDeclare) profile(ctx context.Context, term *terminal, g *globals, api *client.Client, declared admin.Credential, sign func([]byte) ([]byte, error)) error {
	data, err := api.Profile(ctx, declared.ID)
	if err != nil {
		return refused(err)
	}
	if sign != nil {
		if !strings.HasPrefix(string(data), "<?xml") {
			return noBecause(errors.New("the server signs profiles itself: leave --sign-certificate and --sign-key out"))
		}
		if data, err = sign(data); err != nil {
			return fmt.Errorf("sign profile: %w", err)
		}
	}
	if c.Output == "-" {
		_, err := term.Out.Write(data)
		return err
	}
	if err := writeAtomic(c.Output, data); err != nil {
		return err
	}
	if g.JSON {
		declared.Declarations = nil
		return writeJSON(term.Out, struct {
			admin.Credential
			File string `json:"file"`
		}{declared, c.Output})
	}
	fmt.Fprintf(term.Out, "Wrote %s (%d bytes); it holds the code, which ends %s\n", c.Output, len(data), rfc3339(declared.ExpiresAt))
	return nil
}
