package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"assay/credential"
	"assay/internal/delivery"
	"assay/internal/installation"
)

type credentialNew struct {
	Name   string `arg:"" optional:"" default:"device" help:"The template's name: DIR/credentials/NAME.yaml. Default: device."`
	Dir    string `placeholder:"DIR" help:"The installation's folder."`
	Output string `short:"o" placeholder:"FILE" help:"Write this file instead; - is standard output."`
	templateAnswers
}

// templateAnswers are what a template says, as flags and as the answers to questions.
type templateAnswers struct {
	Platform        []string `sep:"none" placeholder:"PLATFORM[:VERSION][,chip=NAME]" help:"Devices that it is for; may be repeated. Default: ios."`
	Key             string   `enum:",P-256,P-384,P-521,RSA-2048,RSA-3072,RSA-4096" default:"" placeholder:"KEY" help:"Key: P-256 or P-384 in the Secure Enclave; P-521, RSA-2048, RSA-3072 or RSA-4096 in software. Default: P-384."`
	Attest          *bool    `negatable:"" help:"Let Apple vouch for device and key. Default: yes for a key in the Secure Enclave."`
	Subject         []string `sep:"none" placeholder:"TYPE=VALUE" help:"A part of the subject: C, L, ST, O, OU, CN or a dotted OID; may be repeated. Default: CN={device.serial}."`
	Email           string   `placeholder:"ADDRESS" help:"E-mail address beside the subject (rfc822Name)."`
	DNS             string   `name:"dns" placeholder:"NAME" help:"DNS name beside the subject (dNSName)."`
	UPN             string   `name:"upn" placeholder:"NAME" help:"User principal name beside the subject (ntPrincipalName)."`
	Authentication  string   `enum:",None,MDM" default:"" placeholder:"WHO" help:"Who may fetch the document: None, whoever has its unguessable URL; MDM, the device with its MDM identity. Default: None."`
	AllowUnattested *bool    `negatable:"" help:"Let devices without attestation enrol. Default: yes where nothing is attested."`
	Directory       string   `placeholder:"NAME" help:"ACME directory that devices enrol at. Default: the only one, or 'default'."`
}

func (credentialNew) Help() string {
	return `Writes a first template: what devices shall ask for, with placeholders for what differs between them.
On a terminal it asks, one line of explanation a question, for what no flag says; elsewhere it takes the
defaults. A file that exists is never overwritten.

Placeholders: {device.serial}, {device.udid}, {device.labels.NAME}. With a ? at its end, as in
{device.labels.owner?}, a part is left out for a device of which that is not known.

Examples:
  assay credential new --dir ./a
  assay credential new wifi --dir ./a --platform ios --platform macos:14,chip=M1 --subject O=Example --subject CN={device.serial}
  assay credential new vpn -o vpn.yaml --key P-256 --email '{device.labels.owner?}'

Exit codes: 0 written; 1 the template breaks a rule; 2 wrong flags, or the file exists; 3 failed.`
}

// templateNameOf is the name of the template in a file.
func templateNameOf(file string) string {
	return strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
}

func (c *credentialNew) Run(_ context.Context, t *terminal, g *globals) error {
	path, err := c.path()
	if err != nil {
		return usage(err)
	}
	if _, err := os.Lstat(path); path != "-" && err == nil {
		return usage(fmt.Errorf("%s exists; it was not changed", path))
	}
	name := templateNameOf(path)
	if path == "-" {
		name = c.Name
	}
	if typed(t.In) && !g.JSON {
		if err := c.trial(name); err != nil { // before anybody answers for nothing
			return breaksRule(err)
		}
		if err := c.ask(newQuestions(t.In, t.Err)); err != nil {
			return err
		}
	}
	choices, err := c.choices()
	if err != nil {
		return usage(err)
	}
	text, err := choices.Encode(name)
	if err != nil {
		return breaksRule(err)
	}
	template, err := delivery.ParseTemplate(name, text)
	if err != nil {
		return err
	}
	if path == "-" {
		if _, err := t.Out.Write(text); err != nil {
			return err
		}
		return newFindingPrinter(t).warn(t.Err, template.Warnings())
	}
	if err := writeNewFile(path, text, 0o600); errors.Is(err, fs.ErrExist) {
		return usage(fmt.Errorf("%s exists; it was not changed", path))
	} else if err != nil {
		return fmt.Errorf("write template: %w", err)
	}
	if g.JSON {
		return writeJSON(t.Out, struct {
			Template string              `json:"template"`
			File     string              `json:"file"`
			Warnings credential.Findings `json:"warnings"`
		}{name, path, nonNil(template.Warnings())})
	}
	fmt.Fprintf(t.Out, "Wrote %s\n\n", path)
	if err := newFindingPrinter(t).warn(t.Out, template.Warnings()); err != nil {
		return err
	}
	if c.Dir == "" {
		fmt.Fprintf(t.Out, "Next: assay credential check %s\n      copy it to DIR/credentials/%s.yaml of an installation\n", path, name)
		return nil
	}
	fmt.Fprintf(t.Out, "Next: assay credential declare --dir %s --template %s --serial SERIAL\n", c.Dir, name)
	fmt.Fprintln(t.Out, "      A running server knows it within a second.")
	return nil
}

func breaksRule(err error) error {
	return noBecause(fmt.Errorf("such a template would break a rule; nothing was written: %w", err))
}

// path is where the template goes.
func (c *credentialNew) path() (string, error) {
	switch {
	case c.Dir == "" && c.Output == "":
		return "", withHint(errors.New("missing flags: --dir=DIR or --output=FILE"), "--dir writes DIR/credentials/%s.yaml", c.Name)
	case c.Dir != "" && c.Output != "":
		return "", errors.New("--dir and --output exclude each other")
	case c.Output != "":
		return c.Output, nil
	case strings.ContainsAny(c.Name, "/\\") || strings.HasPrefix(c.Name, "."):
		return "", withHint(fmt.Errorf("%q cannot be a template's name", c.Name), "lower-case letters, digits and hyphens, at most 63")
	}
	if _, err := installation.LoadConfig(c.Dir); err != nil {
		return "", err
	}
	return filepath.Join(c.Dir, installation.TemplatesFolder, c.Name+".yaml"), nil
}

// writeNewFile writes a file that must not exist, in a folder that is made if missing. A failed write
// leaves nothing.
func writeNewFile(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// questions asks at a terminal.
type questions struct {
	in  *bufio.Reader
	out io.Writer
}

func newQuestions(in io.Reader, out io.Writer) *questions {
	return &questions{in: bufio.NewReader(in), out: out}
}

// ask explains a choice and hands the answer, or the default for an empty line, to take. Answers that it
// refuses are asked for again.
func (q *questions) ask(explanation, name, byDefault string, take func(string) error) error {
	fmt.Fprintf(q.out, "\n%s\n", explanation)
	for {
		fmt.Fprintf(q.out, "%s [%s]: ", name, byDefault)
		line, err := q.in.ReadString('\n')
		answer := strings.TrimSpace(line)
		if err != nil && (answer == "" || !errors.Is(err, io.EOF)) {
			fmt.Fprintln(q.out)
			return noBecause(errors.New("no answer; nothing was written"))
		}
		if answer == "" {
			answer = byDefault
		}
		if err = take(answer); err == nil {
			return nil
		}
		sayf(q.out, "  %v\n", err)
	}
}

// oneOf accepts some words, in any case.
func oneOf(words ...string) func(string) error {
	return func(answer string) error {
		if !slices.ContainsFunc(words, func(word string) bool { return strings.EqualFold(word, answer) }) {
			return fmt.Errorf("%q is none of %s", answer, strings.Join(words, ", "))
		}
		return nil
	}
}

// list splits an answer at semicolons, because targets hold commas.
func list(answer string) []string {
	var parts []string
	for part := range strings.SplitSeq(answer, ";") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

// keys are the keys that a template may ask for, strongest first where the hardware keeps them.
var keys = map[string]struct {
	kind     credential.KeyType
	size     int
	hardware bool
}{
	"P-256": {credential.EC, 256, true}, "P-384": {credential.EC, 384, true}, "P-521": {credential.EC, 521, false},
	"RSA-2048": {credential.RSA, 2048, false}, "RSA-3072": {credential.RSA, 3072, false}, "RSA-4096": {credential.RSA, 4096, false},
}

// attribute splits TYPE=VALUE.
func attribute(s string) (credential.Attribute, error) {
	kind, value, found := strings.Cut(s, "=")
	kind = strings.ToUpper(strings.TrimSpace(kind))
	if !found || kind == "" || value == "" {
		return credential.Attribute{}, fmt.Errorf("%q has not the form TYPE=VALUE, such as CN={device.serial} or OU=Sales", s)
	}
	return credential.Attribute{kind, value}, nil
}

// choices is the template that the answers describe, with a default for each that is missing.
func (a *templateAnswers) choices() (delivery.NewTemplate, error) {
	key := keys["P-384"]
	if a.Key != "" {
		key = keys[a.Key]
	}
	attest := key.hardware
	if a.Attest != nil {
		attest = *a.Attest
	}
	if attest && !key.hardware {
		return delivery.NewTemplate{}, fmt.Errorf("--attest: a %s key is in software, and nobody can vouch for it", a.Key)
	}
	t := delivery.NewTemplate{
		Directory: a.Directory, Targets: a.Platform, KeyType: key.kind, KeySize: key.size, Software: !key.hardware, NoAttest: !attest,
		Email: a.Email, DNSName: a.DNS, UPN: a.UPN, AllowUnattested: !attest, MDM: a.Authentication == "MDM",
	}
	if len(t.Targets) == 0 {
		t.Targets = []string{string(credential.IOS)}
	}
	if a.AllowUnattested != nil {
		t.AllowUnattested = *a.AllowUnattested
	}
	for _, part := range a.Subject {
		one, err := attribute(part)
		if err != nil {
			return t, err
		}
		t.Subject = append(t.Subject, one)
	}
	return t, nil
}
