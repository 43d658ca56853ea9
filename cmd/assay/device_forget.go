package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"assay/internal/admin/client"
)

type deviceData struct {
	connection
	deviceName
}

func (deviceData) Help() string {
	return `Everything that is stored about a device and its owner, from every table, as one JSON document: for whoever the
device belongs to asks what is known.

Example:
  assay device data --dir ./a C02XEXAMPLE1

Exit codes: 0 shown; 1 there is no such device; 2 wrong flags; 3 failed.`
}

func (c *deviceData) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	device, _, err := findDevice(ctx, api, c.Device)
	if err != nil {
		return err
	}
	data, err := api.DeviceData(ctx, device.ID)
	if err != nil {
		return refused(err)
	}
	if g.JSON {
		return writeJSON(term.Out, data)
	}
	encoder := json.NewEncoder(term.Out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(data)
}

type deviceForget struct {
	connection
	deviceName
	Revoke bool `help:"Revoke its valid certificates first; without, a device that has some is not forgotten."`
	Yes    bool `help:"Do not ask."`
}

func (deviceForget) Help() string {
	return `Erases serial number, UDID and labels wherever they stand, the device's evidence, what decisions rested on, its
certificates themselves, and the personal values of the audit's rows about it. This cannot be undone. That
certificates were issued, decided on and revoked stays on record under opaque ids, and the audit still verifies.

Copies of the database that were made before (backups, also the .bak files of migrations) are not touched.

Example:
  assay device forget --dir ./a C02XEXAMPLE1 --revoke

Exit codes: 0 forgotten; 1 there is no such device, it has valid certificates, or the answer was no; 2 wrong flags;
3 failed.`
}

func (c *deviceForget) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	device, _, err := findDevice(ctx, api, c.Device)
	if err != nil {
		return err
	}
	if !c.Yes {
		sayf(term.Err, "Forget %s (%s)? What is erased cannot be brought back. Type yes: ", orNone(deviceText(device.Serial, device.UDID), device.ID), device.ID)
		answer, _ := bufio.NewReader(term.In).ReadString('\n')
		if strings.TrimSpace(answer) != "yes" {
			return noBecause(errors.New("nothing was erased"))
		}
	}
	done, err := api.ForgetDevice(ctx, device.ID, c.Revoke)
	if isProblem(err, http.StatusConflict) && !c.Revoke {
		return noBecause(withHint(err, "--revoke revokes them first"))
	} else if err != nil {
		return refused(err)
	}
	if g.JSON {
		return writeJSON(term.Out, done)
	}
	fmt.Fprintf(term.Out, "Forgotten. Erased: %s (%d revoked now), %s of evidence, the personal values of %s of the audit\n",
		counted(done.Certificates, "certificate"), done.Revoked, counted(done.Evidence, "piece"), counted(done.AuditRows, "row"))
	return nil
}
