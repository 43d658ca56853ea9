package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/credential"
	"assay/csr"
	"assay/enroll"
	"assay/enroll/ddm"
	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/audit"
	"assay/internal/ca"
	"assay/internal/delivery"
	"assay/internal/installation"
	"assay/internal/issuance"
)

type demoCommand struct {
	Keep string `placeholder:"DIR" help:"Keep everything (server, authority, device) in this new folder."`
}

func (demoCommand) Help() string {
	return `Runs the whole job on this machine: a server with a fresh CA and database, a published credential, a
simulated iPhone that enrols as Apple's client does, and one refusal. Nothing leaves loopback. The
attestation comes from a stand-in authority and proves nothing about real hardware.

Examples:
  assay demo
  assay demo --keep ./demo && assay certificate list --dir ./demo/server

Exit codes: 0 the device got its identity and the second try was refused; 2 wrong flags; 3 anything else.`
}

// demo is one run of the demonstration.
type demo struct {
	*rig
	term    *terminal
	story   *story
	dir     string
	running installation.Running
	api     *client.Client
}

func (c *demoCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir := c.Keep
	if dir == "" {
		temporary, err := os.MkdirTemp("", "assay-demo-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temporary)
		dir = temporary
	} else if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return usage(fmt.Errorf("--keep %s: the folder is not empty", dir))
	}
	d := &demo{term: term, story: newStory(term.Out, g.JSON), dir: dir}
	stop, err := d.start(ctx)
	if err != nil {
		return err
	}
	err = errors.Join(d.tell(ctx), stop())
	if err == nil && c.Keep != "" {
		d.story.tell("kept", "Everything is kept in "+dir,
			"server", filepath.Join(dir, "server"), "authority", filepath.Join(dir, "authority"), "device", filepath.Join(dir, "device"),
			"look around", "assay certificate list --dir "+filepath.Join(dir, "server"))
	}
	return err
}

// start makes the authority and the installation, and serves.
func (d *demo) start(ctx context.Context) (stop func() error, err error) {
	if d.rig, err = newRig(ctx, d.dir, "Assay Demo", d.term.Now); err != nil {
		return nil, err
	}
	logFile, err := os.OpenFile(filepath.Join(d.serverDir, "server.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, errors.Join(err, d.inst.Close())
	}
	serveCtx, stopServing := context.WithCancel(ctx)
	ready, done := make(chan installation.Running, 1), make(chan error, 1)
	go func() {
		done <- d.inst.Serve(serveCtx, installation.ServeOptions{
			Log: slog.New(slog.NewTextHandler(logFile, nil)), Ready: func(r installation.Running) { ready <- r },
		})
	}()
	stop = func() error {
		stopServing()
		return errors.Join(<-done, d.inst.Close(), logFile.Close())
	}
	select {
	case d.running = <-ready:
	case err := <-done:
		stopServing()
		return nil, errors.Join(err, d.inst.Close(), logFile.Close())
	}
	d.story.tell("server", "A server with a fresh CA and a fresh SQLite database",
		"directory", d.running.Directories["default"],
		"attestation", "stand-in authority: it stands in for Apple's and proves nothing about real hardware")
	return stop, nil
}

// tell lets a device enrol, then try the same code again.
func (d *demo) tell(ctx context.Context) error {
	device, err := enroll.NewDevice(enroll.IPhone, "", rand.Reader)
	if err != nil {
		return err
	}
	handler, err := d.inst.API(operator())
	if err != nil {
		return err
	}
	d.api = client.New("http://in-process.invalid", client.InProcess(handler), "")
	declared, asset, err := d.declare(ctx, device)
	if err != nil {
		return err
	}
	document, err := (&enroll.Resolver{Roots: d.roots}).Fetch(ctx, asset.Reference)
	if err != nil {
		return err
	}
	d.story.tell("document", "The iPhone has the declarations from its MDM, downloads its document and checks size, type and hash",
		"device", fmt.Sprintf("iPhone, %s, iOS %s, serial %s (all fake)", device.Chip, device.OSVersion, device.Serial),
		"DataURL", asset.Reference.DataURL, "ClientIdentifier", document.ClientIdentifier+" (one-time code)",
		"asks for", fmt.Sprintf("%d-bit EC key, hardware-bound, attested; subject %s", document.KeySize, subjectText(document)))
	acme := &enroll.Client{
		Device: device, Keys: enroll.Keys(device), Roots: d.roots,
		Attester: d.attester, Observe: d.observe,
	}
	result, err := acme.Enroll(ctx, document)
	if err != nil {
		return err
	}
	if err := d.explain(ctx, result); err != nil {
		return err
	}
	if err := d.again(ctx, acme, document, issuance.CodeID(declared.Code)); err != nil {
		return err
	}
	return d.diagnose(ctx, declared.ID)
}

// declare writes a template and declares it for the device.
func (d *demo) declare(ctx context.Context, device *enroll.Device) (admin.Credential, *ddm.ACMEAsset, error) {
	const name = "phone"
	template, err := delivery.NewTemplate{
		Targets: []string{string(credential.IOS)}, Email: "{device.labels.owner}@example.com",
		Subject: []credential.Attribute{{"O", "Example Inc."}, {"CN", "{device.labels.owner}'s iPhone"}},
	}.Encode(name)
	if err != nil {
		return admin.Credential{}, nil, err
	}
	folder := filepath.Join(d.serverDir, installation.TemplatesFolder)
	file := filepath.Join(folder, name+".yaml")
	if err := errors.Join(os.MkdirAll(folder, 0o700), os.WriteFile(file, template, 0o600)); err != nil {
		return admin.Credential{}, nil, err
	}
	d.story.tell("template", "An administrator writes a template once, for all devices",
		"file", file, "subject", "O=Example Inc., CN={device.labels.owner}'s iPhone", "mail address", "{device.labels.owner}@example.com")
	declared, _, err := d.api.Declare(ctx, admin.DeclareOne{Template: name, Declare: admin.Declare{
		Serial: device.Serial, UDID: device.UDID, Labels: map[string]string{"owner": "sam"},
	}}, "")
	if err != nil {
		return declared, nil, err
	}
	declaration, err := ddm.ParseDeclaration(declared.Declarations[0])
	if err != nil {
		return declared, nil, err
	}
	asset, err := ddm.ParseACMEAsset(declaration)
	if err != nil {
		return declared, nil, err
	}
	d.story.tell("declarations", "Declared for one device, it has a one-time code, a document of its own and two declarations for the MDM",
		"asset", declared.AssetIdentifier, "configuration", declared.ConfigurationIdentifier,
		"code", declared.Code, "bound to", device.Serial+", "+device.UDID, "expires", rfc3339(declared.ExpiresAt)+", an hour after the first fetch")
	return declared, asset, nil
}

// diagnose tells what the server knows of the device's credential now.
func (d *demo) diagnose(ctx context.Context, id string) error {
	credential, _, err := d.api.Credential(ctx, id)
	if err != nil {
		return err
	}
	d.story.tell("diagnosis", "What the administrator reads (assay device show)", "state", credential.State, "because", credential.Diagnosis.Text,
		"renews", rfc3339(credential.RenewsAt))
	return nil
}

// observe tells what the device does.
func (d *demo) observe(e enroll.Event) {
	switch e := e.(type) {
	case enroll.KeyMade:
		d.story.tell("key", "It makes its key and CSR before any contact with the server",
			"key", fmt.Sprintf("%s %d, %s", e.Spec.Type, e.Spec.Size, e.Protection))
	case enroll.OrderMade:
		d.story.tell("order", "With a fresh account it orders a certificate, naming the code as permanent-identifier", "order", e.URL)
	case enroll.ChallengeFound:
		d.story.tell("challenge", "The server answers with a challenge", "type", e.Type, "token", e.Token)
	case enroll.EvidenceMade:
		d.story.tell("evidence", "The device has its key attested and sends the evidence", "size", fmt.Sprintf("%d bytes of CBOR", len(e.Object)))
	}
}

// explain tells what the server made of it, from the server's own records.
func (d *demo) explain(ctx context.Context, result *enroll.Result) error {
	cert, err := d.inst.Store.CertificateBySerial(ctx, ca.FormatSerial(result.Certificate.SerialNumber))
	if err != nil {
		return err
	}
	evidence, err := d.inst.Store.Evidence(ctx, cert.Evidence)
	if err != nil {
		return err
	}
	f := evidence.Facts
	d.story.tell("facts", "What the evidence said, verified",
		"serial", cert.DeviceSerial, "UDID", cert.DeviceUDID,
		"OS", f.Posture.OSVersion, "Secure Enclave OS", f.Posture.SepOSVersion, "boot loader", f.Posture.LLBVersion,
		"freshness", "made for this very challenge", "key", f.KeyType+" in "+string(f.Protection), "anchored by", f.Root.Name)
	decision, err := d.inst.Store.Decision(ctx, cert.Decision)
	if err != nil {
		return err
	}
	lines := []string{"outcome", string(decision.Decision.Outcome)}
	for _, reason := range decision.Decision.Reasons {
		lines = append(lines, "because", reason.Detail)
	}
	d.story.tell("decision", "The decision, kept for ever with its reasons", append(lines, "recorded as", string(decision.ID))...)
	names, usages := certificateText(result.Certificate)
	identities, err := enroll.OpenStore(filepath.Join(d.dir, "device"), d.term.Now)
	if err != nil {
		return err
	}
	identity, err := identities.Save(result, false)
	if err != nil {
		return err
	}
	d.story.tell("certificate", "The device has its identity",
		"subject", result.Certificate.Subject.String(), "SAN", names, "usages", usages,
		"lifetime", rfc3339(result.Certificate.NotBefore)+" to "+rfc3339(result.Certificate.NotAfter),
		"serial", cert.Serial, "took", result.Took.Round(time.Millisecond).String()+" from first contact", "stored in", identity.Path())
	return nil
}

// again lets the device try the same code once more: it must be refused.
func (d *demo) again(ctx context.Context, acme *enroll.Client, document *credential.Credential, code issuance.CodeID) error {
	acme.Observe = nil
	_, err := acme.Enroll(ctx, document)
	abort, ok := errors.AsType[*enroll.Abort](err)
	if !ok || abort.Problem == nil {
		return fmt.Errorf("the same code was not refused a second time: %w", err)
	}
	refused, err := d.lastRefusal(ctx, code)
	if err != nil {
		return err
	}
	d.story.tell("refusal", "The same code again is refused",
		"the device gets", fmt.Sprintf("HTTP %d %s, and shows none of it", abort.Status, abort.Problem.Kind()),
		"the administrator finds", fmt.Sprintf("%s %s: the code is %s (assay audit list --refused)", refused.Action, refused.Check, refused.Detail["status"]))
	return nil
}

// lastRefusal is what the audit says of the last refusal of a code.
func (d *demo) lastRefusal(ctx context.Context, code issuance.CodeID) (audit.Row, error) {
	var last audit.Row
	for entry, err := range d.inst.Store.Audit(ctx, audit.Filter{Code: string(code)}) {
		if err != nil {
			return last, err
		}
		if entry.Outcome == audit.Refused {
			last = entry
		}
	}
	if last.Check == "" || last.Detail["status"] == "" {
		return last, fmt.Errorf("the audit does not say why code %s was refused", code)
	}
	return last, nil
}

func subjectText(c *credential.Credential) string {
	var parts []string
	for _, rdn := range c.Subject {
		parts = append(parts, rdn[0].Type()+"="+rdn[0].Value())
	}
	return strings.Join(parts, ", ")
}

// certificateText describes a certificate's names and usages for people.
func certificateText(c *x509.Certificate) (names, usages string) {
	var sans []string
	for _, extension := range c.Extensions {
		if extension.Id.Equal([]int{2, 5, 29, 17}) {
			parsed, err := csr.ParseAltNames(extension.Value)
			if err != nil {
				sans = append(sans, "unreadable")
			}
			for _, name := range parsed {
				sans = append(sans, string(name.Kind)+"="+name.Value)
			}
		}
	}
	var uses []string
	if c.KeyUsage&x509.KeyUsageDigitalSignature != 0 {
		uses = append(uses, "digitalSignature")
	}
	if c.KeyUsage&x509.KeyUsageKeyEncipherment != 0 {
		uses = append(uses, "keyEncipherment")
	}
	for _, usage := range c.ExtKeyUsage {
		if usage == x509.ExtKeyUsageClientAuth {
			uses = append(uses, "clientAuth")
		} else {
			uses = append(uses, fmt.Sprintf("usage %d", usage))
		}
	}
	return strings.Join(sans, ", "), strings.Join(uses, ", ")
}
