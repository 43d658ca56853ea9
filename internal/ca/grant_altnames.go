package ca

import (
	"slices"

	"assay/csr"
	"assay/deviceid"
)

// altNames is the granted alternative names: the requested ones in their order, then the fixed ones,
// then the attested ones.
func (g *granting) altNames() ([]csr.AltName, error) {
	if err := g.checkDeviceNames(); err != nil {
		return nil, err
	}
	if err := g.checkMintedAltNames(); err != nil {
		return nil, err
	}
	attested, err := g.attestedNames()
	if err != nil {
		return nil, err
	}
	var names []csr.AltName
	for _, name := range g.Request.AltNames {
		reason := g.withheld(name, attested)
		if reason == "" {
			reason = altNameProblem(name.Kind, name.Value)
		}
		switch {
		case reason != "":
			g.drop("subjectAltName."+string(name.Kind), reason)
		case !isDeviceName(name.Kind): // those come from the evidence, below
			names = append(names, name)
		}
	}
	for _, kind := range []csr.AltKind{csr.AltEmail, csr.AltDNS, csr.AltURI, csr.AltUPN} {
		if rule := g.SubjectAltName.of(kind); rule.Rule == Fixed {
			for _, value := range rule.Value {
				names = append(names, csr.AltName{Kind: kind, Value: fillIn(value, g.IdentityID)})
			}
		}
	}
	return append(names, attested...), nil
}

// withheld says why a requested name is not granted, "" if it is.
func (g *granting) withheld(name csr.AltName, attested []csr.AltName) string {
	if isDeviceName(name.Kind) {
		if csr.SameAltNames([]csr.AltName{name}, namesOf(attested, name.Kind)) {
			return ""
		}
		return ruleDrops
	}
	rule := g.SubjectAltName.of(name.Kind)
	if rule == nil {
		return "names of this kind are never granted"
	}
	switch rule.Rule {
	case AsMinted:
		if g.Minted == nil {
			return noCredential
		}
		return ""
	case AsRequested:
		if !rule.Pattern.match(name.Value) {
			return noMatch
		}
		return ""
	case Fixed:
		return "the certificate profile fixes names of this kind"
	}
	return ruleDrops
}

// checkMintedAltNames holds the kinds of name that the profile grants as minted.
func (g *granting) checkMintedAltNames() error {
	if g.Minted == nil {
		return nil
	}
	for _, kind := range []csr.AltKind{csr.AltEmail, csr.AltDNS, csr.AltURI, csr.AltUPN} {
		if g.SubjectAltName.of(kind).Rule != AsMinted {
			continue
		}
		if !csr.SameAltNames(g.Request.AltNamesOf(kind), g.Minted.AltNamesOf(kind)) {
			return badCSR(CheckMintedAltNames, "the names of kind %s are not what the credential says", kind)
		}
	}
	return nil
}

// checkDeviceNames refuses a request that claims to be a device which the evidence does not name.
// It is held whatever the rules are: such a request lies.
func (g *granting) checkDeviceNames() error {
	for _, name := range g.Request.AltNames {
		if !isDeviceName(name.Kind) {
			continue
		}
		proven := slices.ContainsFunc(g.Attested, func(id deviceid.Identifier) bool {
			kind, encoded := deviceName(id)
			return kind == name.Kind && encoded.String() == name.Value
		})
		if proven {
			continue
		}
		return badCSR(attestedNameCheck(name.Kind), "the request names a %s that is not attested", name.Kind)
	}
	return nil
}

// attestedNames is the device names that the profile takes from the evidence.
func (g *granting) attestedNames() ([]csr.AltName, error) {
	var names []csr.AltName
	for _, id := range g.Attested {
		kind, encoded := deviceName(id)
		granted := kind == csr.AltHardwareModule && g.SubjectAltName.HardwareModule.Rule == AsAttested ||
			kind == csr.AltPermanentIdentifier && g.SubjectAltName.PermanentIdentifier.Rule == AsAttested &&
				g.SubjectAltName.PermanentIdentifier.Source == id.Kind
		if !granted || len(namesOf(names, kind)) > 0 {
			continue
		}
		raw, err := encoded.GeneralName()
		if err != nil {
			// The device's own: no later attempt goes better, so the device is told.
			return nil, badCSR(attestedNameCheck(kind), "the attested %s fits no %s: %v", id.Kind, kind, err)
		}
		names = append(names, csr.AltName{Kind: kind, Value: encoded.String(), Raw: raw})
	}
	return names, nil
}

// deviceName is the alternative name of an attested identifier.
func deviceName(id deviceid.Identifier) (csr.AltKind, deviceid.OtherName) {
	if id.Kind == deviceid.HardwareSerial {
		return csr.AltHardwareModule, deviceid.HardwareModule{SerialNumber: id.Value, Type: id.Assigner}
	}
	return csr.AltPermanentIdentifier, deviceid.PermanentIdentifier{Value: id.Value, Assigner: id.Assigner}
}

// attestedNameCheck is the check that device names of a kind are under.
func attestedNameCheck(kind csr.AltKind) string {
	if kind == csr.AltHardwareModule {
		return CheckAttestedHardwareName
	}
	return CheckAttestedPermanentID
}

func isDeviceName(kind csr.AltKind) bool {
	return kind == csr.AltPermanentIdentifier || kind == csr.AltHardwareModule
}

func namesOf(names []csr.AltName, kind csr.AltKind) []csr.AltName {
	return slices.DeleteFunc(slices.Clone(names), func(name csr.AltName) bool { return name.Kind != kind })
}
