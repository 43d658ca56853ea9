package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/ca"
	"assay/policy"
)

// deviceNames names devices.
type deviceNames struct {
	Devices []string `arg:"" name:"device" help:"Their serial numbers, UDIDs or ids (dev_…)."`
}

// revoking says whether a device's certificates are revoked, too.
type revoking struct {
	Revoke bool   `help:"Also revoke the valid certificates."`
	Reason string `placeholder:"REASON" help:"Why they are revoked (RFC 5280)."`
}

type deviceLost struct {
	connection
	deviceNames
	revoking
}

func (deviceLost) Help() string {
	return `A lost device gets no certificate, whatever the policy says, and its credentials are not renewed. With --revoke
the certificates that it has are revoked in the same step, for keyCompromise unless --reason says otherwise.

Example:
  assay device lost --dir ./a C02XEXAMPLE1 --revoke

Exit codes: 0 done; 1 there is no such device; 2 wrong flags; 3 failed.`
}

func (c *deviceLost) Run(ctx context.Context, term *terminal, g *globals) error {
	return setStates(ctx, term, g, &c.connection, c.Devices, policy.Lost, c.revoking, ca.KeyCompromise)
}

type deviceRetire struct {
	connection
	deviceNames
	revoking
}

func (deviceRetire) Help() string {
	return `A retired device gets no certificate, whatever the policy says, and its credentials are not renewed. With
--revoke the certificates that it has are revoked in the same step, for cessationOfOperation unless --reason says
otherwise.

Example:
  assay device retire --dir ./a C02XEXAMPLE1 C02XEXAMPLE2 --revoke

Exit codes: 0 done; 1 there is no such device; 2 wrong flags; 3 failed.`
}

func (c *deviceRetire) Run(ctx context.Context, term *terminal, g *globals) error {
	return setStates(ctx, term, g, &c.connection, c.Devices, policy.Retired, c.revoking, ca.CessationOfOperation)
}

type deviceExpect struct {
	connection
	deviceNames
}

func (deviceExpect) Help() string {
	return `Lists a device that only attested itself so far, or takes back a lost or retired one. Certificates that were
revoked stay revoked.

Example:
  assay device expect --dir ./a C02XEXAMPLE1

Exit codes: 0 done; 1 there is no such device; 2 wrong flags; 3 failed.`
}

func (c *deviceExpect) Run(ctx context.Context, term *terminal, g *globals) error {
	return setStates(ctx, term, g, &c.connection, c.Devices, policy.Expected, revoking{}, ca.Unspecified)
}

// setStates says of devices where they stand, one after another.
func setStates(ctx context.Context, term *terminal, g *globals, c *connection, names []string, state policy.State, r revoking, reason ca.Reason) error {
	if r.Reason != "" {
		if !r.Revoke {
			return usage(errors.New("--reason goes with --revoke"))
		}
		var err error
		if reason, err = ca.ParseReason(r.Reason); err != nil {
			return usage(err)
		}
	}
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	ids := make([]string, len(names))
	for i, name := range names { // all of them first, so that a name with a slip changes nothing
		device, _, err := findDevice(ctx, api, name)
		if err != nil {
			return err
		}
		ids[i] = device.ID
	}
	change := admin.SetDeviceState{State: string(state), Revoke: r.Revoke}
	if r.Revoke {
		change.Reason = reason.String()
	}
	for _, id := range ids {
		set, err := api.SetDeviceState(ctx, id, change, "")
		if err != nil {
			return refusedInput(err)
		}
		if g.JSON {
			if err := writeJSON(term.Out, set); err != nil {
				return err
			}
			continue
		}
		sayf(term.Out, "%s is %s", orNone(deviceText(set.Serial, set.UDID), set.ID), set.State)
		switch {
		case r.Revoke:
			sayf(term.Out, "; %s revoked", counted(set.Revoked, "certificate"))
		case state == policy.Lost || state == policy.Retired:
			sayf(term.Out, "; certificates that it has stay valid without --revoke")
		}
		fmt.Fprintln(term.Out)
	}
	return nil
}

type deviceConflicts struct {
	connection
	Device string `placeholder:"DEVICE" help:"Only conflicts about this device: serial number, UDID or id."`
	All    bool   `help:"Also those that are over."`
}

func (deviceConflicts) Help() string {
	return `Two devices that claim one UDID, sources that disagree, a device that attested itself and that nobody lists, a Mac
whose attested provisioning UDID is not the listed one.

Example:
  assay device conflicts --dir ./a

Exit codes: 0 listed; 1 there is no such device; 2 wrong flags; 3 failed.`
}

func (c *deviceConflicts) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	id := ""
	if c.Device != "" {
		device, _, err := findDevice(ctx, api, c.Device)
		if err != nil {
			return err
		}
		id = device.ID
	}
	advice := map[string]string{}
	table := newTable(term.Out, "conflicts", "ID", "KIND", "DEVICE", "SOURCE", "SAYS", "OTHER DEVICE", "TIMES", "LAST")
	err := printList(term, g, api, api.Conflicts(ctx, id, c.All), table, func(f admin.Conflict) []string {
		advice[f.Kind] = f.Advice
		return []string{f.ID, f.Kind, orNone(deviceText(f.Serial, f.UDID), f.Device), f.Source, f.Said, orNone(f.OtherSerial, f.Other), fmt.Sprint(f.Times), rfc3339(f.SeenAt)}
	})
	if err != nil || g.JSON || len(advice) == 0 {
		return err
	}
	fmt.Fprintln(term.Out)
	for _, kind := range []string{"not-listed", "udid-claimed", "udid-differs", "serial-differs"} {
		if text, ok := advice[kind]; ok {
			sayf(term.Out, "%s: %s\n", kind, text)
		}
	}
	return nil
}

type deviceResolve struct {
	connection
	Conflict string `arg:"" help:"The conflict (conflict_…)."`
}

func (deviceResolve) Help() string {
	return `Takes a conflict off the list, because somebody looked at it. What is said again comes back as a new one.

Example:
  assay device resolve --dir ./a conflict_06e3…

Exit codes: 0 done; 1 there is no such conflict, or it is over already; 2 wrong flags; 3 failed.`
}

func (c *deviceResolve) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	resolved, err := api.ResolveConflict(ctx, c.Conflict)
	if isProblem(err, http.StatusNotFound, http.StatusUnprocessableEntity) {
		return noBecause(withHint(errors.New("there is no such conflict"), "`assay device conflicts` lists those that are open"))
	} else if err != nil {
		return refused(err)
	}
	if g.JSON {
		return writeJSON(term.Out, resolved)
	}
	sayf(term.Out, "Resolved %s (%s)\n", resolved.ID, resolved.Kind)
	return nil
}
