package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"charm.land/lipgloss/v2"
	"golang.org/x/term"

	"assay/credential"
)

type credentialCommand struct {
	New       credentialNew       `cmd:"" help:"Write a first template, by asking."`
	Check     credentialCheck     `cmd:"" help:"Report every rule that documents and templates break, at once."`
	Schema    credentialSchema    `cmd:"" help:"Print the JSON Schema of documents or templates."`
	Templates credentialTemplates `cmd:"" help:"List the templates with what they need."`
	Declare   credentialDeclare   `cmd:"" help:"Give devices a template; print declarations or a profile for the MDM."`
	List      credentialList      `cmd:"" help:"List the credentials of devices."`
	Show      credentialShow      `cmd:"" help:"Show where a device's enrolment stands."`
	Renew     credentialRenew     `cmd:"" help:"Let a device ask for a new certificate."`
	Push      credentialPush      `cmd:"" help:"Push declarations to the MDM."`
	Withdraw  credentialWithdraw  `cmd:"" help:"Take a template away from a device."`
	Publish   credentialPublish   `cmd:"" help:"Mint a code and publish a document written by hand."`
}

type credentialCheck struct {
	Files   []string `arg:"" name:"file" help:"ACMECredential documents (JSON) or templates (YAML); - is standard input."`
	Targets []string `name:"target" short:"t" sep:"none" placeholder:"PLATFORM[:VERSION][,chip=NAME]" help:"Judge for these devices too; may be repeated."`
}

func (*credentialCheck) Help() string {
	return `Errors mean that a device refuses the document or that its enrolment cannot succeed; warnings, that
a device or server will do something else than you may think. Every finding names its place, its
rule and the rule's source. With --target the document is judged for devices of a platform (ios,
ipados, macos, tvos, watchos, visionos), version and chip (A12, A10X, M1, S4, T1, T2, or Intel for a
Mac without a security chip); what is left out counts as unknown. A template (a .yaml file, or any with a
document: key) is judged for its own targets too; what depends on a device's values is judged when its
document is made.

Examples:
  assay credential check acme.json --target ios:17.4,chip=A12 --target macos:14.0,chip=T2
  assay credential check ./a/credentials/wifi.yaml

With --json each file is one object with its findings and its targets' findings.

Exit codes: 0 no errors (there may be warnings), 1 a document has errors, 2 wrong usage or a file
cannot be read.`
}

// checkedFile is what a check of one file found, and its JSON form.
type checkedFile struct {
	File       string              `json:"file"`
	OK         bool                `json:"ok"`
	Errors     int                 `json:"errors"`   // of the document and of all targets
	Warnings   int                 `json:"warnings"` // of the document and of all targets
	Findings   credential.Findings `json:"findings"`
	Targets    []checkedTarget     `json:"targets,omitempty"`
	Unreadable string              `json:"unreadable,omitempty"` // why the file could not be read
}

type checkedTarget struct {
	Target   string              `json:"target"`
	Findings credential.Findings `json:"findings"`
}

// Run checks every file, also behind one that cannot be read.
func (c *credentialCheck) Run(ctx context.Context, t *terminal, g *globals) error {
	targets, err := c.targets()
	if err != nil {
		return usage(err)
	}
	if i := slices.Index(c.Files, "-"); i >= 0 && slices.Contains(c.Files[i+1:], "-") {
		return usage(errors.New("standard input can be read only once"))
	}
	out := newFindingPrinter(t)
	var unreadable []error
	broken := false
	for i, name := range c.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := readInput(t, name, maxInput)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		checked := checkedFile{File: name, Findings: credential.Findings{}}
		if err != nil {
			unreadable = append(unreadable, err)
			checked.Unreadable = err.Error()
		} else {
			checked = checkFile(name, data, targets)
			broken = broken || !checked.OK
		}
		switch {
		case g.JSON:
			err = writeJSON(t.Out, checked)
		case checked.Unreadable == "":
			err = out.file(checked, i > 0)
		default:
			err = nil
		}
		if err != nil {
			return fmt.Errorf("write findings: %w", err)
		}
	}
	if len(unreadable) > 0 {
		return usage(errors.Join(unreadable...))
	}
	if broken {
		return no()
	}
	return nil
}

func (c *credentialCheck) targets() ([]credential.Target, error) {
	var out []credential.Target
	for _, s := range c.Targets {
		target, err := credential.ParseTarget(s)
		if err != nil {
			return nil, withHint(err, "a target is written like ios:17.4,chip=A12 or macos,chip=T2")
		}
		out = append(out, target)
	}
	return out, nil
}

// checkFile checks one document or template for itself and for every target.
func checkFile(name string, data []byte, targets []credential.Target) checkedFile {
	all, judge := readDocument(data)
	if isTemplate(name, data) {
		all, judge = readTemplate(name, data)
	}
	checked := checkedFile{File: name, Findings: nonNil(all)}
	for _, target := range targets {
		findings := judge(target)
		checked.Targets = append(checked.Targets, checkedTarget{target.String(), nonNil(findings)})
		all = slices.Concat(all, findings)
	}
	checked.Errors, checked.Warnings = len(all.Errors()), len(all.Warnings())
	checked.OK = checked.Errors == 0
	return checked
}

// nonNil makes an empty list [] in JSON, not null.
func nonNil(f credential.Findings) credential.Findings {
	if f == nil {
		return credential.Findings{}
	}
	return f
}

// findingPrinter writes findings for people. Styles reach terminals only: lipgloss removes them
// for other writers, and where NO_COLOR is set.
type findingPrinter struct {
	t     *terminal
	width int // to wrap at; 0: lines stay whole, for grep

	title, bad, doubtful, good, path, faint lipgloss.Style
}

func newFindingPrinter(t *terminal) *findingPrinter {
	p := &findingPrinter{
		t:        t,
		title:    lipgloss.NewStyle().Bold(true),
		bad:      lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Red),
		doubtful: lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Yellow),
		good:     lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Green),
		path:     lipgloss.NewStyle().Bold(true),
		faint:    lipgloss.NewStyle().Faint(true),
	}
	if f, ok := screen(t.Out); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width >= 40 {
			p.width = min(width, 110)
		}
	}
	return p
}

// file writes all about one file: errors, warnings, each target, and a summary line.
func (p *findingPrinter) file(c checkedFile, again bool) error {
	var b strings.Builder
	if again {
		b.WriteString("\n")
	}
	b.WriteString(p.title.Render(printable(c.File)) + "\n")
	p.findings(&b, c.Findings)
	for _, target := range c.Targets {
		b.WriteString("\n" + p.title.Render(printable("for "+target.Target)) + "\n")
		switch {
		case len(target.Findings) > 0:
		case len(c.Findings.Errors()) > 0:
			b.WriteString("  nothing to add to the errors above; check again once they are mended\n")
		default:
			b.WriteString("  " + p.good.Render("fits") + "     no rule about this platform, version and chip is broken\n")
		}
		p.findings(&b, target.Findings)
	}
	b.WriteString("\n" + p.summary(c) + "\n")
	_, err := lipgloss.Fprint(p.t.Out, b.String())
	return err
}

func (p *findingPrinter) findings(b *strings.Builder, f credential.Findings) {
	for _, finding := range f.Errors() {
		p.finding(b, p.bad.Render("error")+"    ", finding)
	}
	for _, finding := range f.Warnings() {
		p.finding(b, p.doubtful.Render("warning")+"  ", finding)
	}
}

// warn writes warnings, if there are any, and a blank line behind them.
func (p *findingPrinter) warn(out io.Writer, f credential.Findings) error {
	if len(f) == 0 {
		return nil
	}
	var b strings.Builder
	p.findings(&b, f)
	_, err := lipgloss.Fprint(out, b.String()+"\n")
	return err
}

// finding writes one finding: where, what follows from it, how to mend it, and which rule says so.
func (p *findingPrinter) finding(b *strings.Builder, label string, f credential.Finding) {
	place := ""
	if f.Line > 0 {
		place = fmt.Sprintf("  line %d", f.Line)
	}
	if f.Column > 0 {
		place += fmt.Sprintf(", column %d", f.Column)
	}
	fmt.Fprintf(b, "  %s%s%s\n", label, p.path.Render(printable(f.Path)), p.faint.Render(place))
	p.paragraph(b, f.Message, lipgloss.NewStyle())
	if f.Fix != "" {
		p.paragraph(b, "fix: "+f.Fix, lipgloss.NewStyle())
	}
	p.paragraph(b, f.Rule+" ("+f.Source+")", p.faint)
}

// paragraph writes a text under a finding, indented.
func (p *findingPrinter) paragraph(b *strings.Builder, text string, style lipgloss.Style) {
	const indent = "           "
	if p.width > 0 {
		text = lipgloss.Wrap(text, p.width-len(indent), "")
	}
	for line := range strings.SplitSeq(printableLines(text), "\n") {
		b.WriteString(indent + style.Render(line) + "\n")
	}
}

func (p *findingPrinter) summary(c checkedFile) string {
	style := p.good
	if c.Warnings > 0 {
		style = p.doubtful
	}
	if c.Errors > 0 {
		style = p.bad
	}
	return style.Render(printable(c.File) + ": " + counted(c.Errors, "error") + ", " + counted(c.Warnings, "warning"))
}

// counted writes a number with its noun: no errors, 1 error, 2 errors.
func counted(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun + "s"
	case 1:
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
