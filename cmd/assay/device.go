package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"assay/internal/admin"
	"assay/internal/admin/client"
)

type deviceCommand struct {
	Import      deviceImport      `cmd:"" help:"Take a list of devices into the inventory."`
	List        deviceList        `cmd:"" help:"List devices."`
	Show        deviceShow        `cmd:"" help:"Show what a device has, and why it has not what it should."`
	Lost        deviceLost        `cmd:"" help:"Say that a device is lost: it gets nothing any more."`
	Retire      deviceRetire      `cmd:"" help:"Say that a device is retired: it gets nothing any more."`
	Expect      deviceExpect      `cmd:"" help:"Say that a device may have certificates (again)."`
	Conflicts   deviceConflicts   `cmd:"" help:"List what contradicts the inventory."`
	Resolve     deviceResolve     `cmd:"" help:"End a conflict that somebody looked at."`
	Data        deviceData        `cmd:"" help:"Show everything that is stored about a device."`
	Forget      deviceForget      `cmd:"" help:"Erase what is stored about a device and its owner."`
	Label       deviceLabel       `cmd:"" help:"Write down what templates say of a device."`
	MDMIdentity deviceMDMIdentity `cmd:"" name:"mdm-identity" help:"Register the certificate that a device shows to its MDM."`
	Report      deviceReport      `cmd:"" help:"Hand in a status report of a device."`
}

// deviceName names one device.
type deviceName struct {
	Device string `arg:"" help:"Its serial number, UDID or id (dev_…)."`
}

// findDevice finds a device by its id, its serial number or its UDID, with its ETag.
func findDevice(ctx context.Context, api *client.Client, name string) (admin.Device, string, error) {
	id := name
	if !strings.HasPrefix(name, "dev_") {
		id = ""
		for _, filter := range []client.DeviceFilter{{Serial: name}, {UDID: name}} {
			for device, err := range api.Devices(ctx, filter) {
				if err != nil {
					return admin.Device{}, "", refused(err)
				}
				id = device.ID
				break
			}
			if id != "" {
				break
			}
		}
	}
	if id == "" {
		return admin.Device{}, "", noSuchDevice(name)
	}
	device, tag, err := api.Device(ctx, id)
	if isProblem(err, http.StatusNotFound, http.StatusUnprocessableEntity) {
		return admin.Device{}, "", noSuchDevice(name)
	}
	return device, tag, refused(err)
}

func noSuchDevice(name string) error {
	return noBecause(withHint(fmt.Errorf("there is no such device: %s", name),
		"`assay device list` shows all; a device is known once a list, a credential, a code or evidence names it"))
}

// deviceText names a device for people: its serial, else its UDID.
func deviceText(serial, udid string) string {
	if serial != "" {
		return serial
	}
	return udid
}

type deviceList struct {
	connection
	Serial string `placeholder:"S" help:"Only the device with this serial number."`
	UDID   string `name:"udid" placeholder:"U" help:"Only the device with this UDID."`
	State  string `enum:",expected,active,lost,retired,unlisted" default:"" placeholder:"STATE" help:"Only devices that stand there (expected, active, lost, retired, or unlisted: they attested themselves, and nobody lists them)."`
	Label  string `placeholder:"NAME=VALUE" help:"Only devices with this label."`
}

func (deviceList) Help() string {
	return `Oldest first. Attested means that evidence once established serial and UDID; otherwise they are what an
operator expects.

Examples:
  assay device list --dir ./a
  assay device list --dir ./a --state unlisted
  assay device list --dir ./a --label owner=sam@example.com

Exit codes: 0 listed; 2 wrong flags; 3 failed.`
}

func (c *deviceList) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	table := newTable(term.Out, "devices", "ID", "SERIAL", "UDID", "STATE", "ATTESTED", "KNOWN SINCE", "LABELS")
	devices := api.Devices(ctx, client.DeviceFilter{Serial: c.Serial, UDID: c.UDID, State: c.State, Label: c.Label})
	return printList(term, g, api, devices, table, func(device admin.Device) []string {
		attested := "no"
		if device.Attested {
			attested = "yes"
		}
		return []string{device.ID, device.Serial, device.UDID, orNone(device.State, "unlisted"), attested, rfc3339(device.CreatedAt), labelText(device.Labels)}
	})
}

type deviceLabel struct {
	connection
	deviceName
	Labels []string `arg:"" name:"label" sep:"none" help:"NAME=VALUE; NAME= takes a label away."`
}

func (deviceLabel) Help() string {
	return `Labels are what templates use as {device.labels.NAME}. A change reaches the device at its next renewal.
The labels that are not named stay.

Example:
  assay device label --dir ./a C02XEXAMPLE1 owner=sam@example.com department=

Exit codes: 0 done; 1 there is no such device, or it changed meanwhile; 2 wrong flags; 3 failed.`
}

func (c *deviceLabel) Run(ctx context.Context, term *terminal, g *globals) error {
	change := map[string]string{}
	for _, label := range c.Labels {
		name, value, found := strings.Cut(label, "=")
		if !found || name == "" {
			return usage(fmt.Errorf("%q is not written NAME=VALUE", label))
		}
		change[name] = value
	}
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	device, tag, err := findDevice(ctx, api, c.Device)
	if err != nil {
		return err
	}
	labels := mergeLabels(device.Labels, change)
	maps.DeleteFunc(labels, func(_, value string) bool { return value == "" })
	return updateDevice(ctx, api, term, g, device.ID, admin.DeviceChange{Labels: labels}, tag)
}

// updateDevice changes a device as it was when it was read, and shows it.
func updateDevice(ctx context.Context, api *client.Client, term *terminal, g *globals, id string, change admin.DeviceChange, tag string) error {
	device, err := api.UpdateDevice(ctx, id, change, tag)
	if isProblem(err, http.StatusPreconditionFailed) {
		return noBecause(errors.New("the device was changed meanwhile; nothing was done, try again"))
	} else if err != nil {
		return refusedInput(err)
	}
	if g.JSON {
		return writeJSON(term.Out, device)
	}
	printDevice(term, device)
	return nil
}

type deviceMDMIdentity struct {
	connection
	deviceName
	Fingerprint string `xor:"identity" required:"" placeholder:"HEX" help:"SHA-256 of the certificate; colons do not matter."`
	Certificate string `xor:"identity" required:"" placeholder:"PEM" help:"File with the certificate; - is standard input."`
	Remove      bool   `xor:"identity" required:"" help:"Take the registration away."`
}

func (deviceMDMIdentity) Help() string {
	return `Where the configuration says mdm.match.field: fingerprint, a device may fetch documents whose template says
authentication: MDM with exactly this certificate.

Examples:
  assay device mdm-identity --dir ./a C02XEXAMPLE1 --certificate identity.pem
  assay device mdm-identity --dir ./a C02XEXAMPLE1 --remove

Exit codes: 0 done; 1 there is no such device, or it changed meanwhile; 2 wrong flags or unreadable input; 3 failed.`
}

func (c *deviceMDMIdentity) Run(ctx context.Context, term *terminal, g *globals) error {
	fingerprint, err := c.fingerprint(term)
	if err != nil {
		return usage(err)
	}
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	device, tag, err := findDevice(ctx, api, c.Device)
	if err != nil {
		return err
	}
	return updateDevice(ctx, api, term, g, device.ID, admin.DeviceChange{MDMFingerprint: &fingerprint}, tag)
}

// fingerprint is the SHA-256 in lower-case hex; "" to remove it.
func (c *deviceMDMIdentity) fingerprint(term *terminal) (string, error) {
	switch {
	case c.Remove:
		return "", nil
	case c.Fingerprint != "":
		text := strings.ToLower(strings.ReplaceAll(c.Fingerprint, ":", ""))
		if sum, err := hex.DecodeString(text); err != nil || len(sum) != sha256.Size {
			return "", fmt.Errorf("--fingerprint %s is not a SHA-256: 64 hex digits", c.Fingerprint)
		}
		return text, nil
	}
	data, err := readInput(term, c.Certificate, maxCAFile)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", fmt.Errorf("%s holds no PEM certificate", c.Certificate)
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:]), nil
}

// maxReport is the largest status report that is read, in bytes.
const maxReport = 4 << 20

type deviceReport struct {
	connection
	File string `arg:"" help:"The StatusReport, JSON as the device sent it; - is standard input."`
}

func (deviceReport) Help() string {
	return `Hands in a declarative management StatusReport by hand, as an MDM does at /api/v1/status: it is matched to
credentials by the Identifiers of their declarations, and explains them in ` + "`assay device show`" + `.

Example:
  assay device report --dir ./a status.json

Exit codes: 0 recorded; 1 it concerns no credential of this server; 2 wrong flags or unreadable input; 3 failed.`
}

func (c *deviceReport) Run(ctx context.Context, term *terminal, g *globals) error {
	data, err := readInput(term, c.File, maxReport)
	if err != nil {
		return usage(err)
	}
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	credentials, err := api.ReportStatus(ctx, data)
	if err != nil {
		return refusedInput(err)
	}
	if g.JSON {
		if err := writeJSON(term.Out, admin.StatusResult{Credentials: append([]string{}, credentials...)}); err != nil {
			return err
		}
	}
	if len(credentials) == 0 {
		return noBecause(errors.New("the report names no declaration and no certificate of a credential that this server knows"))
	}
	if !g.JSON {
		fmt.Fprintf(term.Out, "Recorded for %s\n", strings.Join(credentials, ", "))
	}
	return nil
}
