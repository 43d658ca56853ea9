package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"assay/internal/admin"
	"assay/internal/admin/client"
)

// credentialName names credentials of devices: one by its id, or those of a device.
type credentialName struct {
	ID       string `arg:"" optional:"" name:"credential" help:"Its id (cred_…)."`
	Device   string `placeholder:"DEVICE" help:"Those of this device instead: its serial number, UDID or id (dev_…)."`
	Template string `placeholder:"NAME" help:"With --device: only the one of this template."`
}

const withdrawn = "withdrawn"

// find returns the credentials that are named, withdrawn ones too.
func (n *credentialName) find(ctx context.Context, api *client.Client) ([]admin.Credential, error) {
	switch {
	case (n.ID == "") == (n.Device == ""):
		return nil, usage(withHint(errors.New("name a credential by its id, or a device by --device"), "`assay credential list` shows the ids of all"))
	case n.ID != "" && n.Template != "":
		return nil, usage(errors.New("--template goes with --device"))
	case n.ID != "":
		credential, _, err := api.Credential(ctx, n.ID)
		if isProblem(err, http.StatusNotFound, http.StatusUnprocessableEntity) {
			return nil, noBecause(withHint(errors.New("there is no such credential"), "`assay credential list` shows all"))
		}
		return []admin.Credential{credential}, refused(err)
	}
	device, _, err := findDevice(ctx, api, n.Device)
	if err != nil {
		return nil, err
	}
	var found []admin.Credential
	for credential, err := range api.Credentials(ctx, client.CredentialFilter{Device: device.ID, Template: n.Template}) {
		if err != nil {
			return nil, refused(err)
		}
		found = append(found, credential)
	}
	if len(found) == 0 {
		return nil, noBecause(withHint(errors.New("the device has no such credential"), "`assay credential declare --template NAME` gives it one"))
	}
	return found, nil
}

type credentialList struct {
	connection
	Device   string `placeholder:"DEVICE" help:"Only those of this device: its serial number, UDID or id (dev_…)."`
	Template string `placeholder:"NAME" help:"Only those of this template."`
	State    string `enum:",delivered,fetched,refused,enrolled,renewing,dead,withdrawn" default:"" placeholder:"STATE" help:"Only those in this state (delivered, fetched, refused, enrolled, renewing, dead, withdrawn)."`
}

func (credentialList) Help() string {
	return `Lists the credentials of devices: each is a template on one device. Oldest first.

Examples:
  assay credential list --dir ./a --state refused
  assay credential list --dir ./a --device C02XEXAMPLE1 --json

Exit codes: 0 listed; 1 there is no such device; 2 wrong flags; 3 failed.`
}

func (c *credentialList) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	filter := client.CredentialFilter{Template: c.Template, State: c.State}
	if c.Device != "" {
		device, _, err := findDevice(ctx, api, c.Device)
		if err != nil {
			return err
		}
		filter.Device = device.ID
	}
	table := newTable(term.Out, "credentials", "ID", "TEMPLATE", "DEVICE", "STATE", "FETCHED", "RENEWS", "WHY")
	return printList(term, g, api, api.Credentials(ctx, filter), table, func(credential admin.Credential) []string {
		return []string{credential.ID, credential.Template, deviceText(credential.Serial, credential.UDID), credential.State,
			rfc3339(credential.FetchedAt), rfc3339(credential.RenewsAt), credential.Diagnosis.Stage}
	})
}

type credentialShow struct {
	connection
	credentialName
}

func (credentialShow) Help() string {
	return `Shows where a device's enrolment stands and what to do. ` + "`assay device show`" + ` adds what is known of the device.

Examples:
  assay credential show --dir ./a cred_06e3…
  assay credential show --dir ./a --device C02XEXAMPLE1

Exit codes: 0 shown; 1 there is no such credential; 2 wrong flags; 3 failed.`
}

func (c *credentialShow) Run(ctx context.Context, term *terminal, g *globals) error {
	return c.each(ctx, term, &c.credentialName, func(_ *client.Client, n int, credential admin.Credential) error {
		if g.JSON {
			return writeJSON(term.Out, credential)
		}
		if n > 0 {
			fmt.Fprintln(term.Out)
		}
		sayf(term.Out, "Device %s (%s)\n", deviceText(credential.Serial, credential.UDID), credential.Device)
		printCredential(term.Out, credential)
		return nil
	})
}

// each does something with every credential that is named.
func (c *connection) each(ctx context.Context, term *terminal, name *credentialName, do func(*client.Client, int, admin.Credential) error) error {
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	credentials, err := name.find(ctx, api)
	if err != nil {
		return err
	}
	for n, credential := range credentials {
		if err := do(api, n, credential); err != nil {
			return err
		}
	}
	return nil
}

type credentialRenew struct {
	connection
	credentialName
	Push bool `help:"Push the new declarations to the configured MDM."`
}

func (credentialRenew) Help() string {
	return `Makes a new code, document and declarations under the same Identifiers. The device notices by the new
ServerToken, once the MDM has the declarations; its present certificate stays valid until it has collected
the new one. Of a device without --template all credentials are renewed but those that were withdrawn; named by
--template or id, a withdrawn one comes back under its Identifiers.

Examples:
  assay credential renew --dir ./a --device C02XEXAMPLE1
  assay credential renew --dir ./a cred_06e3… --push

Exit codes: 0 renewed; 1 there is no such credential, all were withdrawn, or it cannot be renewed; 2 wrong flags; 3 failed.`
}

func (c *credentialRenew) Run(ctx context.Context, term *terminal, g *globals) error {
	shown, passed := 0, ""
	err := c.each(ctx, term, &c.credentialName, func(api *client.Client, _ int, before admin.Credential) error {
		if before.State == withdrawn && c.ID == "" && c.Template == "" {
			passed = before.Template
			return nil
		}
		_, tag, err := api.Credential(ctx, before.ID)
		if err != nil {
			return refused(err)
		}
		after, err := api.Renew(ctx, before.ID, tag, "")
		if isProblem(err, http.StatusPreconditionFailed) {
			return noBecause(fmt.Errorf("credential %s was changed meanwhile; look at it and try again", before.ID))
		} else if err != nil {
			return refused(err)
		}
		declarations := after.Declarations
		if c.Push {
			if after, err = api.Push(ctx, after.ID); err != nil {
				return refused(fmt.Errorf("credential %s was renewed, but not pushed: %w", before.ID, err))
			}
			after.Declarations = declarations
		}
		if shown++; shown > 1 && !g.JSON {
			fmt.Fprintln(term.Out)
		}
		if g.JSON {
			return writeJSON(term.Out, after)
		}
		printRenewal(term.Out, before, after, c.Push)
		return nil
	})
	if err == nil && shown == 0 {
		return noBecause(withHint(errors.New("all credentials of the device were withdrawn"), "--template %s brings that one back", passed))
	}
	return err
}

// printRenewal says what changed, and what the MDM has to be given again.
func printRenewal(w io.Writer, before, after admin.Credential, pushed bool) {
	sayf(w, "Renewed %s (%s on %s)\n", after.ID, after.Template, deviceText(after.Serial, after.UDID))
	list := newFields(w)
	list.add("revision", fmt.Sprintf("%d, before %d", after.Revision, before.Revision))
	list.add("code", after.Code, "before "+before.Code)
	list.addTime("fetch until", after.ExpiresAt)
	list.flush()
	var changed []string
	for _, d := range []struct{ identifier, before, after string }{
		{after.AssetIdentifier, before.AssetToken, after.AssetToken},
		{after.ConfigurationIdentifier, before.ConfigurationToken, after.ConfigurationToken},
	} {
		if d.before == d.after {
			sayf(w, "  unchanged  %s\n", d.identifier)
			continue
		}
		sayf(w, "  new        %s  ServerToken %s\n", d.identifier, d.after)
		changed = append(changed, d.identifier)
	}
	if pushed {
		sayf(w, "Pushed at %s\n", rfc3339(after.PushedAt))
	} else if len(changed) > 0 {
		sayf(w, "Next: give the MDM %s again (assay credential push %s, or credential declare)\n", strings.Join(changed, " and "), after.ID)
	}
}

type credentialPush struct {
	connection
	credentialName
}

func (credentialPush) Help() string {
	return `Pushes a credential's declarations to the MDM that the configuration names under push, as the server does
by itself after each rendering; takes them back there where the credential was withdrawn.

Example:
  assay credential push --dir ./a --device C02XEXAMPLE1

Exit codes: 0 pushed; 1 there is no such credential, or nowhere to push to; 2 wrong flags; 3 failed.`
}

func (c *credentialPush) Run(ctx context.Context, term *terminal, g *globals) error {
	return c.each(ctx, term, &c.credentialName, func(api *client.Client, _ int, credential admin.Credential) error {
		pushed, err := api.Push(ctx, credential.ID)
		if err != nil {
			return refused(fmt.Errorf("push %s: %w", credential.ID, err))
		}
		if g.JSON {
			return writeJSON(term.Out, pushed)
		}
		if pushed.State == withdrawn {
			sayf(term.Out, "Took %s (%s of %s) out of the MDM at %s\n", pushed.ID, pushed.Template, deviceText(pushed.Serial, pushed.UDID), rfc3339(pushed.PushedAt))
			return nil
		}
		sayf(term.Out, "Pushed %s (%s to %s) at %s\n", pushed.ID, pushed.Template, deviceText(pushed.Serial, pushed.UDID), rfc3339(pushed.PushedAt))
		return nil
	})
}

type credentialTemplates struct {
	connection
}

func (credentialTemplates) Help() string {
	return `Lists the templates that the server knows, with what each needs to know of a device.

Example:
  assay credential templates --dir ./a

Exit codes: 0 listed; 2 wrong flags, or a template that cannot be loaded; 3 failed.`
}

func (c *credentialTemplates) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	table := newTable(term.Out, "templates", "NAME", "DIRECTORY", "FOR", "FETCHED BY", "RENEWED BEFORE", "NEEDS")
	return printList(term, g, api, api.Templates(ctx), table, func(template admin.Template) []string {
		fetchedBy := "anybody with its URL"
		if template.Authentication == "MDM" {
			fetchedBy = "its device (MDM identity)"
		}
		return []string{template.Name, template.Directory, strings.Join(template.Targets, " "), fetchedBy, template.RenewBefore,
			strings.Join(template.Placeholders, " ")}
	})
}
