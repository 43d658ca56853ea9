package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"assay/internal/admin"
	"assay/internal/admin/client"
)

type credentialWithdraw struct {
	connection
	credentialName
	Push bool `help:"Take its declarations out of the MDM that the server pushes to, now instead of within a minute."`
}

func (credentialWithdraw) Help() string {
	return `Takes a template away from a device: its unused code is revoked, and nothing is delivered or renewed any
more. Certificates that the device has stay valid: they are named, revoke them by ` + "`assay certificate revoke`" + `,
and take the declarations out of the MDM. Declaring the template again is refused; ` + "`assay credential renew`" + `
brings the credential back.

Example:
  assay credential withdraw --dir ./a --device C02XEXAMPLE1 --template wifi --push

Exit codes: 0 withdrawn; 1 there is no such credential; 2 wrong flags; 3 failed.`
}

func (c *credentialWithdraw) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.Device != "" && c.Template == "" {
		return usage(errors.New("--device needs --template: say which of its credentials is withdrawn"))
	}
	return c.each(ctx, term, &c.credentialName, func(api *client.Client, _ int, credential admin.Credential) error {
		if credential.State == withdrawn {
			return noBecause(fmt.Errorf("credential %s is withdrawn already, since %s", credential.ID, rfc3339(credential.WithdrawnAt)))
		}
		gone, err := api.Withdraw(ctx, credential.ID, "")
		if err != nil {
			return refused(err)
		}
		if c.Push {
			if err := pushed(ctx, api, &gone); err != nil {
				return fmt.Errorf("withdrew %s, but the MDM still has it: %w", gone.ID, err)
			}
		}
		if g.JSON {
			return writeJSON(term.Out, gone)
		}
		sayf(term.Out, "Withdrew %s (%s from %s)\n", gone.ID, gone.Template, deviceText(gone.Serial, gone.UDID))
		switch {
		case c.Push:
			fmt.Fprintln(term.Out, "Its declarations were taken out of the MDM")
		case !gone.PushedAt.IsZero():
			sayf(term.Out, "The server takes its declarations out of the MDM within a minute; now: assay credential push %s\n", gone.ID)
		default:
			sayf(term.Out, "Next: take %s and %s out of the MDM\n", gone.ConfigurationIdentifier, gone.AssetIdentifier)
		}
		return tellValidCertificates(ctx, term.Out, api, gone)
	})
}

// tellValidCertificates names the certificates that a device keeps though its credential was withdrawn:
// first what came of the credential, then what is valid besides.
func tellValidCertificates(ctx context.Context, out io.Writer, api *client.Client, gone admin.Credential) error {
	var all []admin.Certificate
	for certificate, err := range api.Certificates(ctx, client.CertificateFilter{Device: gone.Device}) {
		if isProblem(err, http.StatusForbidden) {
			fmt.Fprintln(out, "      certificates of the device stay valid; the token may not list them (certificates:read)")
			return nil
		} else if err != nil {
			return refused(fmt.Errorf("withdrew %s; which certificates are still valid is not known: %w", gone.ID, err))
		}
		all = append(all, certificate)
	}
	its := certificatesOf(gone, all)
	for _, certificate := range all {
		if certificate.Status == "valid" && its[certificate.ID] {
			sayf(out, "      its certificate %s is still valid: assay certificate revoke %s\n", certificate.ID, certificate.ID)
		}
	}
	for _, certificate := range all {
		if certificate.Status == "valid" && !its[certificate.ID] {
			sayf(out, "      the device has another valid certificate, not known to be of this credential: %s\n", certificate.ID)
		}
	}
	return nil
}

// certificatesOf are the certificates of a device that are known to come of a credential: the one that it
// notes, the one of its present code, and whatever those superseded.
func certificatesOf(c admin.Credential, all []admin.Certificate) map[string]bool {
	its := map[string]bool{}
	for grown := true; grown; {
		grown = false
		for _, certificate := range all {
			if !its[certificate.ID] && (certificate.ID == c.Certificate || certificate.Code == c.Code || its[certificate.SupersededBy]) {
				its[certificate.ID], grown = true, true
			}
		}
	}
	return its
}
