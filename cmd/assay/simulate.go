package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"path/filepath"
	"time"

	"assay/attest/standin"
	"assay/credential"
	"assay/enroll"
	"assay/internal/ca"
)

type simulateCommand struct {
	Device    simulateDevice    `cmd:"" default:"withargs" help:"Let simulated devices enrol (the default)."`
	MDM       simulateMDM       `cmd:"" name:"mdm" help:"Let a simulated device be managed by an MDM."`
	Authority simulateAuthority `cmd:"" help:"Make a stand-in attestation authority for simulated devices."`
	MDMCA     simulateMDMCA     `cmd:"" name:"mdm-ca" help:"Make a stand-in CA for the MDM identities of simulated devices."`
}

type simulateAuthority struct {
	Out string `required:"" placeholder:"DIR" help:"New folder for its keys and certificates."`
}

func (simulateCommand) Help() string {
	return simulateDevice{}.Help() + `

The flags are shown by: assay simulate device --help`
}

func (simulateAuthority) Help() string {
	return `Makes an attestation authority that stands in for Apple's. A server that accepts its root
(root.pem) trusts devices that do not exist: for tests only.

Example:
  assay simulate authority --out ./authority
  assay init --dir ./test --attestation-root ./authority/root.pem --allow-stand-in

Exit codes: 0 made; 2 wrong flags; 3 failed (an existing one is never overwritten).`
}

func (c *simulateAuthority) Run(term *terminal, g *globals) error {
	authority, err := standin.New(rand.Reader, term.Now())
	if err != nil {
		return err
	}
	if err := authority.Save(c.Out); err != nil {
		return err
	}
	root := filepath.Join(c.Out, standin.RootFile)
	if g.JSON {
		return writeJSON(term.Out, map[string]string{"root": root})
	}
	fmt.Fprintf(term.Out, "Made a stand-in attestation authority (not Apple's); its root: %s\n", root)
	return nil
}

type simulateDevice struct {
	Credential   string        `xor:"source" required:"" placeholder:"URL|FILE" help:"The credential document, or a file of URLs or codes for a fleet (see below)."`
	Declarations string        `xor:"source" required:"" placeholder:"URL|FILE" help:"Declarations, as 'assay credential declare' prints them, whose asset refers to the credential document."`
	MDMIdentity  string        `name:"mdm-identity" placeholder:"PEM" help:"With --declarations: the device's MDM identity (certificate and key), for assets with Authentication MDM."`
	Authority    string        `placeholder:"DIR" help:"Stand-in authority that attests the devices. Without it attestation fails, as it does on a device that cannot reach Apple."`
	CAFile       string        `name:"ca-file" placeholder:"ROOT.pem" help:"Root that the server's TLS certificate is trusted by. Default: the system's."`
	Class        enroll.Class  `name:"device" enum:"iphone,ipad,mac,appletv,watch,vision" default:"iphone" help:"Kind of device (${enum})."`
	Chip         string        `placeholder:"CHIP" help:"Its chip, e.g. A15, M2, T2, Intel. Default: a current one."`
	OS           string        `name:"os" placeholder:"VERSION" help:"Its OS version. Default: a current one."`
	Serial       string        `placeholder:"S" help:"Its serial number. Default: a made-up one."`
	UDID         string        `name:"udid" placeholder:"U" help:"Its UDID. Default: a made-up one."`
	Out          string        `placeholder:"DIR" default:"identities" help:"Folder for the identities."`
	Replace      bool          `help:"Enrol again although an identity for this credential is there; the old one is kept aside."`
	N            int           `short:"n" default:"1" help:"How many devices."`
	Concurrency  int           `short:"c" default:"8" help:"How many at a time."`
	Codes        string        `placeholder:"FILE" help:"For a fleet: one code a line, or the CSV of 'assay code mint --from'; device number i uses the i-th."`
	Verbose      bool          `short:"v" help:"Show each step."`
	Timeout      time.Duration `default:"10m" help:"End of the whole run."`
}

func (simulateDevice) Help() string {
	return `Does what a device does that resolves the credential: makes a key, runs ACME exactly as Apple's client
does (it retries nothing), attests, sends its CSR, and stores its identity (key.pem 0600, chain.pem,
identity.json). Serial numbers are made up, and say so.

Where a device would only say AssetCannotBeDownloaded, this shows the reason.

Examples:
  assay simulate --credential https://127.0.0.1:8443/credential/… --authority ./authority --ca-file ./a/certs/serving-root.pem
  assay simulate --declarations declarations.json --serial F4K3S3R14L --authority ./authority --ca-file ./a/certs/serving-root.pem
  assay simulate --credential template.json --codes codes.csv -n 100 -c 16 --authority ./authority --ca-file ./a/certs/serving-root.pem

Exit codes: 0 every device got its identity; 1 a device was refused; 2 unreadable input; 3 failed.`
}

// prepared is what all devices of a run share.
type prepared struct {
	document   *credential.Credential
	codes      []fleetCode // nil: every device uses the document's own
	roots      *x509.CertPool
	authority  *standin.Authority
	identities *enroll.Store
}

func (c *simulateDevice) Run(ctx context.Context, term *terminal, g *globals) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if err := c.check(); err != nil {
		return usage(err)
	}
	p, err := c.prepare(ctx, term)
	if err != nil {
		return err
	}
	if c.N == 1 {
		return c.one(ctx, term, g, p)
	}
	return c.fleet(ctx, term, g, p)
}

// check refuses flags that do not go together.
func (c *simulateDevice) check() error {
	switch {
	case c.N < 1 || c.N > 1_000_000 || c.Concurrency < 1 || c.Concurrency > 1024:
		return errors.New("-n is 1 to 1000000 and -c 1 to 1024")
	case c.N > 1 && (c.Serial != "" || c.UDID != ""):
		return errors.New("--serial and --udid name one device: -n does not go with them")
	case c.MDMIdentity != "" && c.Declarations == "":
		return errors.New("--mdm-identity goes with --declarations")
	case c.N > 1 && c.Declarations != "":
		return errors.New("--declarations are one device's: -n does not go with them")
	case c.N > 1 && c.Verbose:
		return errors.New("--verbose shows the steps of one device: -n does not go with it")
	}
	return nil
}

func (c *simulateDevice) prepare(ctx context.Context, term *terminal) (*prepared, error) {
	p := &prepared{}
	var err error
	if p.roots, err = readPool(c.CAFile); err != nil {
		return nil, usage(err)
	}
	if c.Authority != "" {
		if p.authority, err = standin.Load(c.Authority, rand.Reader); err != nil {
			return nil, usage(withHint(err, "make one with `assay simulate authority --out %s`", c.Authority))
		}
	}
	if c.Codes != "" {
		if p.codes, err = readCodes(term, c.Codes); err != nil {
			return nil, usage(err)
		}
		if len(p.codes) < c.N {
			return nil, usage(fmt.Errorf("%s holds %d codes for %d devices", c.Codes, len(p.codes), c.N))
		}
	}
	if p.document, err = c.resolve(ctx, term, p.roots); err != nil {
		return nil, resolveHint(err)
	}
	p.identities, err = enroll.OpenStore(c.Out, term.Now)
	return p, err
}

// device makes device number i with its document. A serial number alone already makes the device:
// the same one has the same UDID in every run, and so finds the identity that it holds.
func (c *simulateDevice) device(p *prepared, i int) (*enroll.Device, *credential.Credential, error) {
	document := *p.document
	serial, udid := c.Serial, c.UDID
	if p.codes != nil {
		document.ClientIdentifier = p.codes[i].code
		serial, udid = cmp.Or(p.codes[i].serial, serial), cmp.Or(p.codes[i].udid, udid)
	}
	device, err := makeDevice(c.Class, c.Chip, c.OS, serial, udid)
	if err != nil {
		return nil, nil, usage(err)
	}
	return device, &document, nil
}

// makeDevice invents what is not said of a device. What follows from a serial number is always the
// same.
func makeDevice(class enroll.Class, chip, os, serial, udid string) (*enroll.Device, error) {
	random := rand.Reader
	if serial != "" {
		random = mathrand.NewChaCha8(sha256.Sum256([]byte(serial)))
	}
	device, err := enroll.NewDevice(class, chip, random)
	if err != nil {
		return nil, err
	}
	device.OSVersion = cmp.Or(os, device.OSVersion)
	device.Serial, device.UDID = cmp.Or(serial, device.Serial), cmp.Or(udid, device.UDID)
	return device, nil
}

// enroll lets one device enrol and stores its identity.
func (c *simulateDevice) enroll(ctx context.Context, term *terminal, p *prepared, i int, observe func(enroll.Event)) (*enroll.Result, *enroll.Identity, error) {
	device, document, err := c.device(p, i)
	if err != nil {
		return nil, nil, err
	}
	existing, err := p.identities.Existing(device, document)
	if err != nil {
		return nil, nil, err
	}
	if existing != nil && !c.Replace {
		return nil, nil, &enroll.ExistsError{Existing: existing}
	}
	client := &enroll.Client{Device: device, Keys: enroll.Keys(device), Roots: p.roots, Observe: observe, Now: term.Now}
	if p.authority != nil {
		client.Attester = standInAttester{p.authority, term.Now}
	}
	result, err := client.Enroll(ctx, document)
	if err != nil {
		return nil, nil, err
	}
	identity, err := p.identities.Save(result, c.Replace)
	return result, identity, err
}

func (c *simulateDevice) one(ctx context.Context, term *terminal, g *globals, p *prepared) error {
	story := newStory(term.Err, g.JSON)
	observe := func(enroll.Event) {}
	if c.Verbose {
		observe = func(e enroll.Event) { tellEvent(story, e) }
	}
	result, identity, err := c.enroll(ctx, term, p, 0, observe)
	if exists, ok := errors.AsType[*enroll.ExistsError](err); ok {
		return noBecause(withHint(exists, "a device that holds the identity does nothing; --replace enrols again"))
	}
	if abort, ok := errors.AsType[*enroll.Abort](err); ok {
		return noBecause(withHint(abort, "%s", abortHint(abort)))
	} else if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, identity)
	}
	names, usages := certificateText(result.Certificate)
	list := newFields(term.Out)
	list.add("device", fmt.Sprintf("%s, %s, OS %s, serial %s", result.Device.Class, result.Device.Chip, result.Device.OSVersion, result.Device.Serial), "simulated")
	list.add("evidence", string(result.Evidence))
	list.add("subject", result.Certificate.Subject.String())
	list.add("SAN", names)
	list.add("usages", usages)
	list.add("certificate serial", ca.FormatSerial(result.Certificate.SerialNumber))
	list.add("not after", rfc3339(result.Certificate.NotAfter))
	list.add("took", result.Took.Round(time.Millisecond).String())
	list.add("identity", identity.Path())
	list.flush()
	return nil
}

const trustHint = "trust the server's root: --ca-file DIR/certs/serving-root.pem"

// abortHint is what to do about a run that ended.
func abortHint(abort *enroll.Abort) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](abort.Err); ok {
		return trustHint
	}
	if abort.Status == 0 {
		return "is the server running? a device would only say AssetCannotBeDownloaded"
	}
	return "the server's log and `assay audit list --refused` say more; a device would only say AssetCannotBeDownloaded"
}

// assetHint is what to do about a document that could not be had.
func assetHint(asset *enroll.AssetError) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](asset.Err); ok {
		return trustHint
	}
	switch {
	case asset.Status == http.StatusForbidden:
		return "the document is for one device: does the MDM identity name it, as mdm.match demands?"
	case asset.Check == "document":
		return "`assay credential check` lists every problem of a document"
	}
	return "a published document is served until its code is consumed, revoked or expired"
}

// tellEvent tells one step of a run.
func tellEvent(s *story, e enroll.Event) {
	switch e := e.(type) {
	case enroll.KeyMade:
		s.tell("key", "made a key", "key", fmt.Sprintf("%s %d, %s", e.Spec.Type, e.Spec.Size, e.Protection))
	case enroll.Exchanged:
		detail := []string{"status", fmt.Sprint(e.Status), "took", e.Took.Round(time.Microsecond).String()}
		if e.Problem != nil {
			detail = append(detail, "problem", e.Problem.Error())
		}
		s.tell(string(e.Step), e.Method+" "+e.URL, detail...)
	case enroll.EvidenceMade:
		s.tell("evidence", "made evidence", "kind", string(e.Kind))
	case enroll.Waited:
		s.tell("wait", "waited once, as Apple's client does", "for", e.For.String())
	}
}
