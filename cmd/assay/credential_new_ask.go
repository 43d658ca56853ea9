package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"assay/internal/delivery"
)

// trial says what no further answer can mend in what was answered so far: what was not is taken to be as
// little as possible, a key in software that nothing attests.
func (a templateAnswers) trial(name string) error {
	attest := a.Attest != nil && *a.Attest
	if a.Attest = &attest; a.Key == "" && !attest {
		a.Key = "P-521"
	}
	choices, err := a.choices()
	if err != nil {
		return err
	}
	_, err = choices.Encode(name)
	faulty, ok := errors.AsType[*delivery.TemplateError](err)
	if !ok {
		return err
	}
	var faults []string // without their lines, which nobody sees
	for _, fault := range faulty.Faults {
		faults = append(faults, strings.Join(nonEmpty(fault.Message, fault.Fix), "; "))
	}
	slices.Sort(faults)
	return errors.New(strings.Join(slices.Compact(faults), ". "))
}

// anyName is a template's name for trials of what has nothing to do with it.
const anyName = "trial"

// take accepts an answer that set understands and that goes with those before it, and keeps it.
func (a *templateAnswers) take(set func(a *templateAnswers, answer string) error) func(string) error {
	return func(answer string) error {
		tried := *a
		if err := set(&tried, answer); err != nil {
			return err
		}
		if err := tried.trial(anyName); err != nil {
			return err
		}
		*a = tried
		return nil
	}
}

// ask asks for everything that no flag said.
func (a *templateAnswers) ask(q *questions) error {
	for _, one := range []struct {
		open                         bool
		explanation, name, byDefault string
		set                          func(a *templateAnswers, answer string) error
	}{
		{len(a.Platform) == 0, "Platforms it is for, e.g. ios or macos:14,chip=M1; several with a semicolon. What such devices cannot do is then reported.",
			"Platforms", "ios", (*templateAnswers).setPlatforms},
		{a.Key == "", "P-256 and P-384 keys are made in the Secure Enclave and never leave it; P-521 and RSA keys are in software and prove nothing.",
			"Key", "P-384", (*templateAnswers).setKey},
		{a.Attest == nil, "Attested: Apple vouches that this very device made this very key. Chips before A11, S4 and M1 cannot.",
			"Attest", "yes", (*templateAnswers).setAttest},
		{len(a.Subject) == 0, "Subject as TYPE=VALUE, several with a semicolon; {device.serial}, {device.udid} and {device.labels.NAME} are filled in.",
			"Subject", "CN={device.serial}", (*templateAnswers).setSubject},
		{a.Email == "" && a.DNS == "" && a.UPN == "", "Other names: email=, dns= or upn=VALUE, several with a semicolon, e.g. email={device.labels.owner?} (left out where there is no owner).",
			"Names", "none", (*templateAnswers).setNames},
		{a.Authentication == "", "Who may fetch the document: None, whoever has its unguessable URL; MDM, only the device with its MDM identity (needs mdm: in assay.yaml).",
			"Authentication", "None", (*templateAnswers).setAuthentication},
	} {
		if !one.open || one.name == "Attest" && !keys[a.Key].hardware {
			continue
		}
		if err := q.ask(one.explanation, one.name, one.byDefault, a.take(one.set)); err != nil {
			return err
		}
	}
	return nil
}

func (a *templateAnswers) setPlatforms(answer string) error {
	a.Platform = list(answer)
	if err := a.trial(anyName); err != nil && strings.Contains(answer, ",") {
		return fmt.Errorf("%w (several with a semicolon)", err)
	}
	return nil
}

func (a *templateAnswers) setKey(answer string) error {
	a.Key = strings.ToUpper(answer)
	return oneOf("P-256", "P-384", "P-521", "RSA-2048", "RSA-3072", "RSA-4096")(answer)
}

func (a *templateAnswers) setAttest(answer string) error {
	a.Attest = new(strings.HasPrefix(strings.ToLower(answer), "y"))
	return oneOf("yes", "y", "no", "n")(answer)
}

func (a *templateAnswers) setSubject(answer string) error {
	a.Subject = list(answer)
	return nil // a trial takes it apart
}

func (a *templateAnswers) setNames(answer string) error {
	if answer == "none" {
		return nil
	}
	fields := map[string]*string{"email": &a.Email, "dns": &a.DNS, "upn": &a.UPN}
	for _, part := range list(answer) {
		name, value, _ := strings.Cut(part, "=")
		field, value := fields[strings.TrimSpace(name)], strings.TrimSpace(value)
		if field == nil || value == "" {
			return fmt.Errorf("%q is no email=, dns= or upn=VALUE", part)
		}
		*field = value
	}
	return nil
}

func (a *templateAnswers) setAuthentication(answer string) error {
	a.Authentication = map[string]string{"none": "None", "mdm": "MDM"}[strings.ToLower(answer)]
	return oneOf("None", "MDM")(answer)
}
