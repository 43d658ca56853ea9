package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/installation"
	"assay/policy"

	"charm.land/lipgloss/v2"
)

type policyCommand struct {
	New        policyNew        `cmd:"" help:"Write a first policy from an example."`
	Check      policyCheck      `cmd:"" help:"Check policies and run their tests."`
	Test       policyTest       `cmd:"" help:"Try a policy on the requests that were decided before."`
	List       policyList       `cmd:"" help:"List which policies the directories used, and since when."`
	Show       policyShow       `cmd:"" help:"Print a policy that decided here, as it was written then."`
	Attributes policyAttributes `cmd:"" help:"List what the conditions of a policy can read."`
}

type policyNew struct {
	Example string `arg:"" enum:"builtin,byod,corporate,lab,mixed" help:"The example: builtin, byod, corporate, lab or mixed."`
	Output  string `short:"o" placeholder:"FILE" help:"Write to this file, which must not exist. Default: standard output."`
}

func (policyNew) Help() string {
	return `Examples: corporate (listed and attested devices; what is behind waits for a person), mixed (devices that
cannot attest get short certificates after a person's word), byod (User Enrollment), lab, and builtin, which decides
where a directory names no policy.

Example:
  assay policy new corporate -o ./a/policies/corporate.yaml

Name it in assay.yaml, under its directory: policy: policies/corporate.yaml

Exit codes: 0 written; 2 no such example; 3 the file exists or cannot be written.`
}

func (c *policyNew) Run(term *terminal) error {
	text, err := exampleText(c.Example)
	if err != nil {
		return usage(err)
	}
	if c.Output == "" {
		_, err = term.Out.Write(text)
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.Output), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(c.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

func exampleText(name string) ([]byte, error) {
	if name == "builtin" {
		return policy.Builtin().Text(), nil
	}
	return policy.Example(name)
}

type policyCheck struct {
	Dir   string   `placeholder:"DIR" help:"Also check that this installation has the certificate profiles that the policies choose, and the service outside that they ask."`
	Files []string `arg:"" name:"file" help:"Policies, YAML; - is standard input. Cases in NAME_test.yaml beside NAME.yaml are run, too."`
}

func (policyCheck) Help() string {
	return `Finds what is wrong with a policy before it decides: faults of form and type, outcomes that are never reached,
requirements that contradict each other, labels that nothing reads. Then it runs the policy's tests.

Example:
  assay policy check --dir ./a ./a/policies/corporate.yaml

Exit codes: 0 usable, and its tests pass; 1 faulty, or a test fails; 2 unreadable, or no such installation.`
}

// checkedPolicy is what became of one file.
type checkedPolicy struct {
	File     string              `json:"file"`
	SHA256   string              `json:"sha256,omitempty"`
	OK       bool                `json:"ok"`
	Faults   []policy.Fault      `json:"faults,omitempty"`
	Warnings []policy.Fault      `json:"warnings,omitempty"`
	Tests    []policy.CaseResult `json:"tests,omitempty"`
}

func (c *policyCheck) Run(ctx context.Context, term *terminal, g *globals) error {
	var config *installation.Config
	if c.Dir != "" {
		var err error
		if config, err = installation.LoadConfig(c.Dir); err != nil {
			return usage(err)
		}
	}
	ok := true
	for _, file := range c.Files {
		checked, err := checkPolicyFile(ctx, term, config, file)
		if err != nil {
			return usage(err)
		}
		ok = ok && checked.OK
		if g.JSON {
			if err := writeJSON(term.Out, checked); err != nil {
				return err
			}
			continue
		}
		printCheckedPolicy(term.Out, checked)
	}
	if !ok {
		return no()
	}
	return nil
}

// readPolicy reads a policy file; a *policy.ParseError is one that cannot be used.
func readPolicy(term *terminal, file string) (*policy.Policy, error) {
	data, err := readInput(term, file, policy.MaxSize)
	if err != nil {
		return nil, err
	}
	return policy.Parse(strings.TrimSuffix(filepath.Base(file), ".yaml"), data)
}

// checkPolicyFile checks a policy, and what it needs of an installation, unless config is nil.
func checkPolicyFile(ctx context.Context, term *terminal, config *installation.Config, file string) (checkedPolicy, error) {
	checked := checkedPolicy{File: file}
	p, err := readPolicy(term, file)
	if faulty, ok := errors.AsType[*policy.ParseError](err); ok {
		checked.Faults = faulty.Faults
		return checked, nil
	} else if err != nil {
		return checked, err
	}
	checked.SHA256, checked.Warnings = p.Version().SHA256, p.Warnings()
	checked.Tests = p.Test(ctx)
	beside := strings.TrimSuffix(file, ".yaml") + "_test.yaml"
	if data, err := readFile(beside, policy.MaxSize); err == nil {
		cases, err := p.ParseCases(data)
		if faulty, ok := errors.AsType[*policy.ParseError](err); ok {
			checked.Faults = faulty.Faults
			return checked, nil
		} else if err != nil {
			return checked, err
		}
		checked.Tests = append(checked.Tests, p.TestCases(ctx, cases)...)
	} else if !errors.Is(err, os.ErrNotExist) {
		return checked, err
	}
	if config != nil {
		for _, fault := range config.CheckPolicy(p) {
			checked.Faults = append(checked.Faults, policy.Fault{Message: fault.Error()})
		}
	}
	checked.OK = len(checked.Faults) == 0
	for _, t := range checked.Tests {
		checked.OK = checked.OK && t.Passed
	}
	return checked, nil
}

func printCheckedPolicy(w io.Writer, c checkedPolicy) {
	bad, doubtful, good := lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Red), lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Yellow), lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Green)
	say := func(label, text string) { _, _ = lipgloss.Fprintln(w, "  "+label+"  "+printable(text)) }
	_, _ = lipgloss.Fprintln(w, headline.Render(printable(c.File)))
	for _, f := range c.Faults {
		say(bad.Render("error")+"  ", f.String())
	}
	for _, f := range c.Warnings {
		say(doubtful.Render("warning"), f.String())
	}
	failed := 0
	for _, t := range c.Tests {
		if t.Passed {
			continue
		}
		failed++
		say(bad.Render("FAIL")+"   ", t.Name)
		for _, fault := range t.Faults {
			say("       ", "  "+fault)
		}
	}
	switch {
	case len(c.Faults) > 0:
		say(bad.Render("faulty")+" ", "it cannot be used")
	case failed > 0:
		say(bad.Render("failed")+" ", fmt.Sprintf("%d of its %d tests", failed, len(c.Tests)))
	case len(c.Tests) == 0:
		say(good.Render("usable")+" ", "it has no tests: `assay policy new corporate` shows how they are written")
	default:
		say(good.Render("usable")+" ", fmt.Sprintf("its %d tests pass", len(c.Tests)))
	}
}

type policyList struct{ connection }

func (policyList) Help() string {
	return `Oldest first; the last one of a directory is in use.

Example:
  assay policy list --dir ./a

Exit codes: 0 listed; 2 wrong flags; 3 failed.`
}

func (c *policyList) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	uses, err := api.PolicyUses(ctx)
	if err != nil {
		return refused(err)
	}
	table := newTable(term.Out, "policies (a directory is listed once it decided)", "DIRECTORY", "SINCE", "POLICY", "IN USE", "SHA-256")
	each := func(yield func(admin.PolicyUse, error) bool) {
		for _, u := range uses {
			if !yield(u, nil) {
				return
			}
		}
	}
	return printList(term, g, api, each, table, func(u admin.PolicyUse) []string {
		inUse := "no"
		if u.InUse {
			inUse = "yes"
		}
		return []string{u.Directory, rfc3339(u.Since), u.Name, inUse, u.SHA256}
	})
}

type policyShow struct {
	connection
	SHA256 string `arg:"" help:"SHA-256 of the policy, as decisions and assay policy list name it."`
}

func (policyShow) Help() string {
	return `Every policy that ever decided is kept, so that its decisions can be understood and taken again.

Example:
  assay policy show --dir ./a 3b69c2018747c4de43b48d9fb52c2f45d162a7247eb0873b6fe9185b48582ec8

Exit codes: 0 shown; 1 no policy with this SHA-256 decided here; 2 wrong flags; 3 failed.`
}

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (c *policyShow) Run(ctx context.Context, term *terminal, g *globals) error {
	if !sha256Hex.MatchString(c.SHA256) {
		return usage(withHint(fmt.Errorf("%.80q is no SHA-256", c.SHA256), "`assay policy list` shows those of the policies that were used"))
	}
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	p, err := api.Policy(ctx, c.SHA256)
	if isProblem(err, http.StatusNotFound) {
		return noBecause(errors.New("no policy with this SHA-256 decided here"))
	} else if err != nil {
		return refused(err)
	}
	if g.JSON {
		return writeJSON(term.Out, p)
	}
	fmt.Fprintln(term.Out, printableLines(strings.TrimRight(p.Text, "\n")))
	return nil
}

type policyAttributes struct{}

func (policyAttributes) Help() string {
	return `Each may be unknown: Apple leaves blank what it could not confirm. known(NAME) tells whether it is.

Example:
  assay policy attributes

Exit codes: 0 listed.`
}

func (policyAttributes) Run(term *terminal, g *globals) error {
	table := newTable(term.Out, "attributes", "NAME", "TYPE", "MEANING")
	for _, a := range policy.Attributes() {
		if g.JSON {
			if err := writeJSON(term.Out, a); err != nil {
				return err
			}
			continue
		}
		table.row(a.Name, a.Type, a.Meaning)
	}
	if g.JSON {
		return nil
	}
	return table.flush()
}
