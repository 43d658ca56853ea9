package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/attest/standin"
	"assay/enroll"
	"assay/enroll/ddm"
	"assay/internal/files"
)

type simulateMDM struct {
	MDM         string        `name:"mdm" required:"" placeholder:"URL" help:"ServerURL of the MDM, such as http://127.0.0.1:9000/mdm."`
	MDMIdentity string        `name:"mdm-identity" xor:"identity" required:"" placeholder:"PEM" help:"File with the device's MDM identity: certificate and key."`
	MDMCA       string        `name:"mdm-ca" xor:"identity" required:"" placeholder:"DIR" help:"Stand-in CA that issues the device's MDM identity (see: assay simulate mdm-ca)."`
	CertHeader  string        `name:"cert-header" placeholder:"NAME" help:"Pass the MDM identity in this header, as NanoMDM's -cert-header takes it, instead of signing."`
	Authority   string        `placeholder:"DIR" help:"Stand-in authority that attests the device. Without it attestation fails."`
	CAFile      string        `name:"ca-file" placeholder:"ROOT.pem" help:"Roots that the TLS certificates of the MDM, the documents and the ACME server are trusted by. Default: the system's."`
	Class       enroll.Class  `name:"device" enum:"iphone,ipad,mac,appletv,watch,vision" default:"iphone" help:"Kind of device (${enum})."`
	Chip        string        `placeholder:"CHIP" help:"Its chip. Default: a current one."`
	OS          string        `name:"os" placeholder:"VERSION" help:"Its OS version. Default: a current one."`
	Serial      string        `placeholder:"S" help:"Its serial number. Default: a made-up one."`
	UDID        string        `name:"udid" placeholder:"U" help:"Its UDID. Default: a made-up one."`
	Out         string        `placeholder:"DIR" default:"device" help:"Folder of this device: what it remembers, and its identities."`
	Once        bool          `xor:"run" help:"Connect once (the default)."`
	Watch       bool          `xor:"run" help:"Connect again and again, in the place of push notifications, until interrupted."`
	Interval    time.Duration `default:"5s" help:"Pause between connections with --watch."`
	Timeout     time.Duration `default:"5m" help:"End of one connection with everything that follows from it."`
}

func (simulateMDM) Help() string {
	return `Is a device under declarative management: enrols with the MDM (once), takes its commands, and where one
says so fetches the declarations that are new, resolves the ACME assets that an active configuration
references, enrols for their identities and reports status. A device that holds the identity for a
declaration and its ServerToken does nothing.

The folder (--out) is the device: run it again with the same folder, and it remembers. The flags that
describe the device count in its first run only.

Certificates are reported (security.certificate.list) where the MDM subscribes to that status item.

Examples:
  assay simulate mdm-ca --out ./mdm-ca
  assay simulate mdm --mdm http://127.0.0.1:9000/mdm --mdm-ca ./mdm-ca --authority ./authority --ca-file ./test/certs/serving-root.pem --out ./phone

Exit codes: 0 in step with the MDM; 1 an asset could not be had, or the MDM refused; 2 wrong flags or
unreadable input; 3 failed.`
}

func (c *simulateMDM) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.Interval < 100*time.Millisecond || c.Timeout <= 0 {
		return usage(errors.New("--interval is at least 100ms, and --timeout positive"))
	}
	device, err := c.device(term)
	if err != nil {
		return err
	}
	teller := &syncTeller{term: term, json: g.JSON}
	device.Observe, device.ACME = teller.event, teller.acme
	if !c.Watch {
		return c.connect(ctx, device, teller)
	}
	var said string
	for {
		// A device goes on after a failure. The same one is told once.
		if err := c.connect(ctx, device, teller); err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			sayf(term.Err, "assay: %v\n", err)
		} else if err == nil {
			said = ""
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.Interval):
		}
	}
}

// connect lets the device connect once and tells what came of it.
func (c *simulateMDM) connect(ctx context.Context, device *ddm.Device, teller *syncTeller) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	outcome, err := device.Connect(ctx)
	if outcome != nil || !c.Watch && err == nil {
		teller.outcome(device, outcome)
	}
	if refused, ok := errors.AsType[*ddm.MDMError](err); ok {
		return noBecause(withHint(err, "%s", mdmHint(refused)))
	} else if err != nil {
		return err
	}
	if outcome != nil && len(outcome.Failed) > 0 {
		return no()
	}
	return nil
}

// mdmHint is what to do about an MDM that refused.
func mdmHint(refused *ddm.MDMError) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](refused.Err); ok {
		return "trust the MDM's root: --ca-file takes several certificates"
	}
	switch refused.Status {
	case 0:
		return "is the MDM running, and is this its ServerURL (NanoMDM's ends in /mdm)?"
	case 400:
		return "does the MDM trust the CA of the device's MDM identity (NanoMDM: -ca)?"
	}
	return "the MDM's log says more"
}

// device opens the folder, or makes the device in its first run.
func (c *simulateMDM) device(term *terminal) (*ddm.Device, error) {
	folder, err := ddm.OpenFolder(c.Out)
	if err != nil {
		return nil, err
	}
	self, err := c.self()
	if err != nil {
		return nil, err
	}
	identity, err := c.identity(term, self)
	if err != nil {
		return nil, err
	}
	roots, err := readPool(c.CAFile)
	if err != nil {
		return nil, usage(err)
	}
	identities, err := enroll.OpenStore(filepath.Join(c.Out, "identities"), term.Now)
	if err != nil {
		return nil, err
	}
	device := &ddm.Device{
		Device: self, Folder: folder, Identities: identities, Keys: enroll.Keys(self), Roots: roots, Now: term.Now,
		MDM: &ddm.MDM{URL: c.MDM, Identity: *identity, CertHeader: c.CertHeader, Roots: roots},
	}
	if c.Authority != "" {
		authority, err := standin.Load(c.Authority, rand.Reader)
		if err != nil {
			return nil, usage(withHint(err, "make one with `assay simulate authority --out %s`", c.Authority))
		}
		device.Attester = standInAttester{authority, term.Now}
	}
	return device, nil
}

const (
	deviceFile      = "device.json"
	mdmIdentityFile = "mdm-identity.pem"
)

// self is the device that the folder describes; flags that say otherwise are refused.
func (c *simulateMDM) self() (*enroll.Device, error) {
	path := filepath.Join(c.Out, deviceFile)
	made, err := makeDevice(c.Class, c.Chip, c.OS, c.Serial, c.UDID)
	if err != nil {
		return nil, usage(err)
	}
	data, err := files.Read(path, files.MaxPEM)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = json.MarshalIndent(made, "", "  "); err != nil {
			return nil, err
		}
		return made, os.WriteFile(path, append(data, '\n'), 0o600)
	} else if err != nil {
		return nil, err
	}
	self := &enroll.Device{}
	if err := json.Unmarshal(data, self); err != nil {
		return nil, usage(fmt.Errorf("read %s: %w", path, err))
	}
	if c.Serial != "" && c.Serial != self.Serial || c.UDID != "" && c.UDID != self.UDID {
		return nil, usage(withHint(fmt.Errorf("%s is the folder of another device, %s", c.Out, self.Serial), "name another folder with --out"))
	}
	self.OSVersion = cmp.Or(c.OS, self.OSVersion)
	return self, nil
}

// identity is the device's MDM identity: the given one, or one of the stand-in CA's, issued once.
func (c *simulateMDM) identity(term *terminal, self *enroll.Device) (*tls.Certificate, error) {
	if c.MDMIdentity != "" {
		return readIdentity(term, c.MDMIdentity)
	}
	path := filepath.Join(c.Out, mdmIdentityFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := issueMDMIdentity(c.MDMCA, self, path, term.Now()); err != nil {
			return nil, err
		}
	}
	return readIdentity(term, path)
}

// readIdentity reads certificates and key from one PEM file.
func readIdentity(term *terminal, path string) (*tls.Certificate, error) {
	data, err := readInput(term, path, maxInput)
	if err != nil {
		return nil, usage(err)
	}
	identity, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, usage(withHint(fmt.Errorf("read MDM identity %s: %w", path, err), "the file holds the certificate and its key, both as PEM"))
	}
	return &identity, nil
}

// syncTeller tells what a device under management does.
type syncTeller struct {
	term *terminal
	json bool
}

var stepTexts = map[ddm.Step]string{
	ddm.StepEnrol: "enrolled with", ddm.StepCommand: "took command", ddm.StepDeclaration: "fetched declaration",
	ddm.StepDropped: "dropped declaration", ddm.StepDocument: "fetched document of", ddm.StepIdentity: "enrolled for identity of",
	ddm.StepRemoved: "removed identity of", ddm.StepReport: "reported",
}

func (s *syncTeller) event(e ddm.Event) {
	switch {
	case s.json:
	case e.Err != nil:
		sayf(s.term.Out, "FAILED: %s %s: %v\n", stepTexts[e.Step], e.Subject, e.Err)
	default:
		sayf(s.term.Out, "%s %s\n", stepTexts[e.Step], e.Subject)
	}
}

// acme shows what a device throws away: the problem that ended an enrolment.
func (s *syncTeller) acme(e enroll.Event) {
	if exchange, ok := e.(enroll.Exchanged); ok && exchange.Problem != nil && !s.json {
		sayf(s.term.Out, "  %s %s: status %d: %s\n", exchange.Method, exchange.URL, exchange.Status, exchange.Problem)
	}
}

// outcome tells what a connection changed; nil: the MDM had nothing for the device.
func (s *syncTeller) outcome(device *ddm.Device, o *ddm.Outcome) {
	if s.json {
		_ = writeJSON(s.term.Out, newOutcomeJSON(device, o))
		return
	}
	switch {
	case o == nil:
		sayf(s.term.Out, "%s: the MDM has nothing for it\n", device.Device.Serial)
	case len(o.Failed) > 0:
		sayf(s.term.Out, "%s: %d of its assets could not be had; the MDM hears %s\n", device.Device.Serial, len(o.Failed), ddm.AssetCannotBeDownloaded)
	default:
		var ids []string
		for _, identity := range o.Enrolled {
			ids = append(ids, "identity "+identity.Path()+", certificate "+identity.Serial)
		}
		sayf(s.term.Out, "%s: %s\n", device.Device.Serial, cmp.Or(strings.Join(ids, "; "), "in step with the MDM, no new identity"))
	}
}

// outcomeJSON is the outcome of a connection for scripts.
type outcomeJSON struct {
	Serial   string             `json:"serial"`
	UDID     string             `json:"udid"`
	Asked    bool               `json:"asked"` // whether the MDM asked for a synchronization
	Fetched  []string           `json:"fetched,omitempty"`
	Dropped  []string           `json:"dropped,omitempty"`
	Enrolled []*enroll.Identity `json:"enrolled,omitempty"`
	Removed  []string           `json:"removed,omitempty"`
	Failed   []failureJSON      `json:"failed,omitempty"`
	Reported bool               `json:"reported"`
}

type failureJSON struct {
	Asset string `json:"asset"`
	Error string `json:"error"`
}

func newOutcomeJSON(device *ddm.Device, o *ddm.Outcome) *outcomeJSON {
	j := &outcomeJSON{Serial: device.Device.Serial, UDID: device.Device.UDID}
	if o == nil {
		return j
	}
	j.Asked, j.Fetched, j.Dropped, j.Enrolled, j.Removed, j.Reported = true, o.Fetched, o.Dropped, o.Enrolled, o.Removed, o.Reported
	for _, f := range o.Failed {
		j.Failed = append(j.Failed, failureJSON{f.Asset, f.Err.Error()})
	}
	return j
}
