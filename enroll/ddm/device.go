package ddm

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"assay/credential"
	"assay/enroll"
)

// maxCommands is how many commands are taken in one connection; an MDM that never runs out of them
// is left.
const maxCommands = 100

// Device is a simulated device under management. Its methods are not for concurrent use.
type Device struct {
	Device     *enroll.Device // required
	MDM        *MDM           // required
	Folder     *Folder        // required
	Identities *enroll.Store  // required; where the identities of assets are kept

	Keys     enroll.KeyMaker // required
	Attester enroll.Attester // nil: attestation fails
	Roots    *x509.CertPool  // trusted for TLS of documents and ACME servers; nil: the system's

	Observe func(Event)        // called in order; nil: nobody watches
	ACME    func(enroll.Event) // called in order with the steps of enrolments; nil: nobody watches
	Now     func() time.Time   // nil: the system's clock

	run func(context.Context, *credential.Credential) (*enroll.Result, error) // in place of ACME, in tests
}

// Event is something that a device did.
type Event struct {
	Step    Step
	Subject string // what it was done with: a declaration's Identifier, a command's type
	Err     error  // why it failed; nil: it did not
}

// Step is a part of what a device under management does.
type Step string

// The steps.
const (
	StepEnrol       Step = "enrol"       // Authenticate and TokenUpdate
	StepCommand     Step = "command"     // a command of the MDM's was taken
	StepDeclaration Step = "declaration" // a declaration was fetched
	StepDropped     Step = "dropped"     // a declaration is to be held no more
	StepDocument    Step = "document"    // the credential document of an asset was fetched
	StepIdentity    Step = "identity"    // an identity was enrolled for
	StepRemoved     Step = "removed"     // an identity was removed
	StepReport      Step = "report"      // a status report was sent
)

func (d *Device) observe(step Step, subject string, err error) {
	if d.Observe != nil {
		d.Observe(Event{step, subject, err})
	}
}

func (d *Device) check() error {
	if d.Device == nil || d.MDM == nil || d.Folder == nil || d.Identities == nil || d.Keys == nil {
		return errors.New("ddm: device, MDM, folder, identity store and key maker are required")
	}
	if d.Device.UDID == "" {
		return errors.New("ddm: the device has no UDID")
	}
	return d.MDM.check()
}

// Enrol makes the device known to its MDM. A device that is enrolled there does nothing.
func (d *Device) Enrol(ctx context.Context) error {
	if err := d.check(); err != nil {
		return err
	}
	switch memory := &d.Folder.memory; memory.MDM {
	case d.MDM.URL:
		return nil
	case "":
	default:
		return fmt.Errorf("the device is enrolled with %s already", memory.MDM)
	}
	if _, err := d.MDM.send(ctx, "Authenticate", typeCheckIn, newAuthenticate(d.Device)); err != nil {
		return err
	}
	if _, err := d.MDM.send(ctx, "TokenUpdate", typeCheckIn, newTokenUpdate(d.Device)); err != nil {
		return err
	}
	d.Folder.memory.MDM = d.MDM.URL
	d.observe(StepEnrol, d.MDM.URL, nil)
	return d.Folder.save()
}

// Connect does what a device does that was woken by a push: it takes commands until there are none,
// and synchronizes its declarations if one of them asks for it. The Outcome is nil if none does.
func (d *Device) Connect(ctx context.Context) (*Outcome, error) {
	if err := d.Enrol(ctx); err != nil {
		return nil, err
	}
	result := commandResult{UDID: d.Device.UDID, Status: "Idle"}
	asked := false
	var tokens []byte
	for range maxCommands {
		answer, err := d.MDM.send(ctx, "command result", typeCommand, result)
		if err != nil {
			return nil, err
		}
		c, err := parseCommand(answer)
		if err != nil {
			return nil, err
		}
		if c == nil {
			break
		}
		result = commandResult{UDID: d.Device.UDID, Status: "Acknowledged", CommandUUID: c.CommandUUID}
		if c.Command.RequestType == "DeclarativeManagement" {
			asked, tokens = true, c.Command.Data
			d.observe(StepCommand, c.Command.RequestType, nil)
			continue
		}
		text := "The simulated device does not know the command"
		result.Status, result.ErrorChain = "Error", []commandError{{12021, "MCMDMErrorDomain", text, text}}
		d.observe(StepCommand, printable(c.Command.RequestType), errors.New("not supported"))
	}
	if !asked {
		return nil, nil
	}
	return d.Sync(ctx, tokens)
}

// ask makes a DeclarativeManagement check-in.
func (d *Device) ask(ctx context.Context, endpoint string, data []byte) ([]byte, error) {
	message := declarativeManagement{MessageType: "DeclarativeManagement", UDID: d.Device.UDID, Endpoint: endpoint, Data: data}
	return d.MDM.send(ctx, "DeclarativeManagement "+endpoint, typeCheckIn, message)
}
