package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/lifetime"
)

type decisionHeld struct {
	connection
	All bool `help:"Also those that were approved, declined or used."`
}

func (decisionHeld) Help() string {
	return `Devices that a policy held back: each is refused until a person approves it.

Examples:
  assay decision held --dir ./a
  assay decision held --dir ./a --all --json

Exit codes: 0 listed; 2 wrong flags; 3 failed.`
}

func (c *decisionHeld) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	table := newTable(term.Out, "held devices", "ID", "STATUS", "DEVICE", "ATTESTED", "SCORE", "TRIES", "LAST", "WHY")
	filter := client.HoldFilter{Status: "held"}
	if c.All {
		filter.Status = ""
	}
	return printList(term, g, api, api.Holds(ctx, filter), table, func(h admin.Hold) []string {
		attested := "no"
		if h.Attested {
			attested = "yes"
		}
		name := orNone(deviceText(h.Serial, h.UDID), h.Code)
		return []string{h.ID, h.Status, name, attested, strconv.Itoa(h.Score), strconv.Itoa(h.Tries), rfc3339(h.HeldAt), h.Why}
	})
}

// holdName names one hold.
type holdName struct {
	Hold string `arg:"" help:"The hold (hold_…), the decision that held it (dec_…), or the device: serial number, UDID or id."`
}

// findHold finds a hold by its id, by the decision that held it, or by its device: of several, the one
// that waits, else the newest.
func findHold(ctx context.Context, api *client.Client, name string) (admin.Hold, error) {
	id := name
	if strings.HasPrefix(name, "dec_") {
		d, err := decisionByID(ctx, api, name)
		if err != nil {
			return admin.Hold{}, err
		}
		id = d.Hold
	} else if !strings.HasPrefix(name, "hold_") {
		device, _, err := findDevice(ctx, api, name)
		if err != nil {
			return admin.Hold{}, err
		}
		var holds []admin.Hold
		for h, err := range api.Holds(ctx, client.HoldFilter{Device: device.ID}) {
			if err != nil {
				return admin.Hold{}, refused(err)
			}
			holds = append(holds, h)
		}
		if len(holds) == 0 {
			return admin.Hold{}, noSuchHold()
		}
		waits := slices.IndexFunc(holds, func(h admin.Hold) bool { return h.Status == "held" })
		if waits < 0 {
			waits = len(holds) - 1
		}
		return holds[waits], nil
	}
	h, err := api.Hold(ctx, id)
	if id == "" || isProblem(err, http.StatusNotFound, http.StatusUnprocessableEntity) {
		return admin.Hold{}, noSuchHold()
	}
	return h, refused(err)
}

func noSuchHold() error {
	return noBecause(withHint(errors.New("nothing is held there"), "`assay decision held --all` lists everything that ever was"))
}

type decisionApprove struct {
	connection
	holdName
	For   lifetimeFlag `placeholder:"AGE" help:"How long the approval lives unused, e.g. 8h, 7d. Default: as the policy has it."`
	Renew bool         `help:"Also renew the device's credential and push it, so that the device tries again."`
}

func (decisionApprove) Help() string {
	return `The device's next try succeeds, once, until the approval expires. The approval is bound to the attested device;
of a device that attests nothing, to its credential or else its code.

A device does not try again by itself: its MDM must be given a new declaration. With --renew this is done now;
else the answer says what to do.

Examples:
  assay decision approve --dir ./a C02XEXAMPLE1 --renew
  assay decision approve --dir ./a hold_06e3… --for 8h

Exit codes: 0 approved; 1 nothing is held there, or its certificate is issued already; 2 wrong flags; 3 failed.`
}

func (c *decisionApprove) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	h, err := findHold(ctx, api, c.Hold)
	if err != nil {
		return err
	}
	if c.Renew && h.Credential == "" {
		return noBecause(withHint(fmt.Errorf("%s belongs to no credential that could be renewed", h.ID), "approve it without --renew"))
	}
	lives := ""
	if c.For != 0 {
		lives = lifetime.Text(time.Duration(c.For))
	}
	if h, err = api.ApproveHold(ctx, h.ID, lives); err != nil {
		return refusedInput(err)
	}
	pushed := false
	if c.Renew {
		if pushed, err = renewAndPush(ctx, api, h.Credential); err != nil {
			return withHint(fmt.Errorf("%s is approved, but its credential was not renewed: %w", h.ID, err), "`assay credential renew` does that")
		}
	}
	if g.JSON {
		return writeJSON(term.Out, h)
	}
	sayf(term.Out, "Approved %s until %s\n", h.ID, rfc3339(h.ExpiresAt))
	switch {
	case pushed:
		sayf(term.Out, "Renewed %s and pushed it: the device tries again\n", h.Credential)
	case c.Renew:
		sayf(term.Out, "Renewed %s: the device tries again once its MDM has the new declaration, which `assay credential declare` prints\n", h.Credential)
	case h.Next != "":
		sayf(term.Out, "Next: %s\n", h.Next)
	}
	return nil
}

// renewAndPush gives the device a new declaration, and says whether its MDM has it. Where no MDM is
// configured, whoever approves brings it there.
func renewAndPush(ctx context.Context, api *client.Client, credential string) (pushed bool, err error) {
	if _, err := api.Renew(ctx, credential, "", ""); err != nil {
		return false, refused(err)
	}
	_, err = api.Push(ctx, credential)
	if problem, ok := errors.AsType[*client.Problem](err); ok && problem.Check == "push-configured" {
		return false, nil
	}
	return err == nil, refused(err)
}

type decisionDecline struct {
	connection
	holdName
}

func (decisionDecline) Help() string {
	return `The device stays refused however often it tries, and leaves the list of those that wait. An approval that was
not used is taken back. A declined device can be approved later.

Example:
  assay decision decline --dir ./a C02XEXAMPLE1

Exit codes: 0 declined; 1 nothing is held there, or its certificate is issued already; 2 wrong flags; 3 failed.`
}

func (c *decisionDecline) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	h, err := findHold(ctx, api, c.Hold)
	if err != nil {
		return err
	}
	if h, err = api.DeclineHold(ctx, h.ID); err != nil {
		return refusedInput(err)
	}
	if g.JSON {
		return writeJSON(term.Out, h)
	}
	sayf(term.Out, "Declined %s\n", h.ID)
	return nil
}
