package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/attest/standin"
	"assay/credential"
	"assay/enroll"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

type simulateCommand struct {
	Device    simulateDevice    `cmd:"" default:"withargs" help:"Let simulated devices enrol (the default)."`
	Authority simulateAuthority `cmd:"" help:"Make a stand-in attestation authority for simulated devices."`
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
	Credential  string        `required:"" placeholder:"URL|FILE" help:"The credential document, or a file of URLs or codes for a fleet (see below)."`
	Authority   string        `placeholder:"DIR" help:"Stand-in authority that attests the devices. Without it attestation fails, as it does on a device that cannot reach Apple."`
	CAFile      string        `name:"ca-file" placeholder:"ROOT.pem" help:"Root that the server's TLS certificate is trusted by. Default: the system's."`
	Class       enroll.Class  `name:"device" enum:"iphone,ipad,mac,appletv,watch,vision" default:"iphone" help:"Kind of device (${enum})."`
	Chip        string        `placeholder:"CHIP" help:"Its chip, e.g. A15, M2, T2, Intel. Default: a current one."`
	OS          string        `name:"os" placeholder:"VERSION" help:"Its OS version. Default: a current one."`
	Serial      string        `placeholder:"S" help:"Its serial number. Default: a made-up one."`
	UDID        string        `name:"udid" placeholder:"U" help:"Its UDID. Default: a made-up one."`
	Out         string        `placeholder:"DIR" default:"identities" help:"Folder for the identities."`
	Replace     bool          `help:"Enrol again although an identity for this credential is there; the old one is kept aside."`
	N           int           `short:"n" default:"1" help:"How many devices."`
	Concurrency int           `short:"c" default:"8" help:"How many at a time."`
	Codes       string        `placeholder:"FILE" help:"For a fleet: one code a line, or the CSV of 'assay code mint --from'; device number i uses the i-th."`
	Verbose     bool          `short:"v" help:"Show each step."`
	Timeout     time.Duration `default:"10m" help:"End of the whole run."`
}

func (simulateDevice) Help() string {
	return `Does what a device does that resolves the credential: makes a key, runs ACME exactly as Apple's client
does (it retries nothing), attests, sends its CSR, and stores its identity (key.pem 0600, chain.pem,
identity.json). Serial numbers are made up, and say so.

Where a device would only say AssetCannotBeDownloaded, this shows the reason.

Examples:
  assay simulate --credential https://127.0.0.1:8443/credential/… --authority ./authority --ca-file ./a/certs/serving-root.pem
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
	if c.N < 1 || c.N > 1_000_000 || c.Concurrency < 1 || c.Concurrency > 1024 {
		return usage(errors.New("-n is 1 to 1000000 and -c 1 to 1024"))
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

func (c *simulateDevice) prepare(ctx context.Context, term *terminal) (*prepared, error) {
	p := &prepared{}
	if c.CAFile != "" {
		data, err := readInput(term, c.CAFile, maxInput)
		if err != nil {
			return nil, usage(err)
		}
		p.roots = x509.NewCertPool()
		if !p.roots.AppendCertsFromPEM(data) {
			return nil, usage(fmt.Errorf("%s holds no certificate", c.CAFile))
		}
	}
	var err error
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
	p.document, err = (&enroll.Resolver{Roots: p.roots}).Resolve(ctx, c.Credential)
	if asset, ok := errors.AsType[*enroll.AssetError](err); ok {
		if asset.Check == "download" && errors.Is(err, fs.ErrNotExist) {
			return nil, usage(err)
		}
		return nil, noBecause(withHint(err, "%s", assetHint(asset)))
	} else if err != nil {
		return nil, err
	}
	p.identities, err = enroll.OpenStore(c.Out, term.Now)
	return p, err
}

// device makes device number i with its document.
func (c *simulateDevice) device(p *prepared, i int) (*enroll.Device, *credential.Credential, error) {
	device, err := enroll.NewDevice(c.Class, c.Chip, rand.Reader)
	if err != nil {
		return nil, nil, usage(err)
	}
	document := *p.document
	serial, udid := c.Serial, c.UDID
	if p.codes != nil {
		document.ClientIdentifier = p.codes[i].code
		serial, udid = cmp.Or(p.codes[i].serial, serial), cmp.Or(p.codes[i].udid, udid)
	}
	for _, set := range []struct {
		field *string
		value string
	}{{&device.OSVersion, c.OS}, {&device.Serial, serial}, {&device.UDID, udid}} {
		if set.value != "" {
			*set.field = set.value
		}
	}
	return device, &document, nil
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
	list.add("serial", identity.Serial)
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
	if asset.Check == "document" {
		return "`assay credential check` lists every problem of a document"
	}
	return "a published document is served until its code is consumed, revoked or expired"
}

// fleet lets many devices enrol, with a progress bar on standard error.
func (c *simulateDevice) fleet(ctx context.Context, term *terminal, g *globals, p *prepared) error {
	bars := mpb.NewWithContext(ctx, mpb.WithOutput(term.Err), mpb.WithAutoRefresh())
	if g.JSON {
		bars = mpb.New(mpb.WithOutput(nil))
	}
	bar := bars.AddBar(int64(c.N), mpb.PrependDecorators(decor.Name("devices "), decor.CountersNoUnit("%d / %d")),
		mpb.AppendDecorators(decor.AverageSpeed(0, "%.0f/s "), decor.AverageETA(decor.ET_STYLE_GO)))
	fleet := &enroll.Fleet{
		Size: c.N, Concurrency: c.Concurrency,
		Enroll: func(ctx context.Context, i int) (*enroll.Result, error) {
			result, _, err := c.enroll(ctx, term, p, i, nil)
			return result, err
		},
		Progress: func(done, _ int) { bar.SetCurrent(int64(done)) },
	}
	summary := fleet.Run(ctx, nil)
	bar.Abort(false)
	bars.Wait()
	if g.JSON {
		if err := writeJSON(term.Out, summaryJSON(summary)); err != nil {
			return err
		}
	} else {
		printSummary(term, summary)
	}
	if summary.Issued != c.N {
		return no()
	}
	return nil
}

func printSummary(term *terminal, s *enroll.Summary) {
	list := newFields(term.Out)
	list.add("issued", fmt.Sprint(s.Issued))
	for _, reason := range slices.Sorted(maps.Keys(s.Refused)) {
		list.add("refused", fmt.Sprintf("%d  %s", s.Refused[reason], reason), fmt.Sprint(s.FirstError[reason]))
	}
	if s.NotRun > 0 {
		list.add("not finished", fmt.Sprint(s.NotRun))
	}
	round := func(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }
	list.add("latency", fmt.Sprintf("p50 %s  p95 %s  p99 %s  max %s", round(s.Latency.P50), round(s.Latency.P95), round(s.Latency.P99), round(s.Latency.Max)),
		"first contact to certificate")
	list.add("took", s.Took.Round(time.Millisecond).String())
	list.flush()
}

func summaryJSON(s *enroll.Summary) any {
	millis := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return struct {
		Issued    int                `json:"issued"`
		Refused   map[string]int     `json:"refused"`
		NotRun    int                `json:"notRun"`
		LatencyMS map[string]float64 `json:"latencyMilliseconds"`
		Seconds   float64            `json:"seconds"`
	}{s.Issued, s.Refused, s.NotRun, map[string]float64{
		"p50": millis(s.Latency.P50), "p95": millis(s.Latency.P95), "p99": millis(s.Latency.P99), "max": millis(s.Latency.Max),
	}, s.Took.Seconds()}
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

// fleetCode is a code with the device that it is for.
type fleetCode struct{ code, serial, udid string }

// readCodes reads one code a line, or the CSV with the header code,serial,udid.
func readCodes(term *terminal, name string) ([]fleetCode, error) {
	data, err := readInput(term, name, maxInput)
	if err != nil {
		return nil, err
	}
	var codes []fleetCode
	for n, line := range strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n") {
		if line == "" || n == 0 && strings.HasPrefix(line, "code,") {
			continue
		}
		if strings.HasPrefix(line, "{") { // from --json
			var minted struct{ Code, Serial, UDID string }
			if err := json.Unmarshal([]byte(line), &minted); err != nil {
				return nil, fmt.Errorf("%s, line %d: %w", name, n+1, err)
			}
			codes = append(codes, fleetCode{minted.Code, minted.Serial, minted.UDID})
			continue
		}
		cells := append(strings.Split(line, ","), "", "")
		codes = append(codes, fleetCode{cells[0], cells[1], cells[2]})
	}
	return codes, nil
}
