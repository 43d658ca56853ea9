package credential

import (
	"fmt"
	"strings"
)

// Judge reports what a target makes of the document: whether its system resolves it at all, and
// what its chip does with HardwareBound and Attest. Fields that could not be read count as absent,
// so a faulty document can be judged too.
func (d *Document) Judge(t Target) Findings {
	j := &judgement{target: t, document: d}
	if d.root == nil {
		return nil
	}
	j.version()
	if !j.chip() { // whatever else an impossible device would do is noise
		return j.findings
	}
	if d.draft.HardwareBound {
		j.hardwareBound()
	}
	if d.draft.Attest {
		j.attest()
	}
	return j.findings
}

type judgement struct {
	target   Target
	document *Document
	findings Findings
}

// about reports a finding about a key of the document, or the whole document if key is "".
func (j *judgement) about(key string, r *Rule, fix, format string, args ...any) {
	n := j.document.root
	if key != "" {
		n = n.member(key)
	}
	located := &Document{data: j.document.data}
	located.at(n, r, fix, format, args...)
	j.findings = append(j.findings, located.Findings...)
}

// version refuses systems older than the asset type.
func (j *judgement) version() {
	t := j.target
	p, _ := t.Platform.lookup()
	if t.Version == (Version{}) || !t.Version.Less(p.asset) {
		return
	}
	var ways []string
	if row, found, _ := t.Chip.find(t.Platform); !found || row.last == 0 || row.last >= p.asset.Major {
		ways = append(ways, fmt.Sprintf("update to %s %s", p.name, p.asset))
	}
	if !t.Version.Less(p.profile) {
		ways = append(ways, fmt.Sprintf("install the profile payload com.apple.security.acme, which works from %s %s on", p.name, p.profile))
	}
	fix := strings.Join(ways, ", or ")
	j.about("", targetVersion, fix, "%s does not know the asset com.apple.asset.credential.acme, which comes with %s %s: the device never fetches the document",
		t.system(), p.name, p.asset)
}

// chip warns about devices that never existed; it reports whether the rest is worth judging.
func (j *judgement) chip() bool {
	t := j.target
	if !t.Chip.known() {
		return true
	}
	p, _ := t.Platform.lookup()
	row, found, newer := t.Chip.find(t.Platform)
	if newer {
		return true
	}
	if !found {
		fix := "check the target's platform and chip"
		if _, onPad, _ := t.Chip.find(IPadOS); onPad && t.Platform == IOS {
			fix = "write ipados: the chip is in iPads only"
		}
		j.about("", targetChip, fix, "no device with %s runs %s, as far as this program knows: the target says nothing about your devices", t.Chip, p.name)
		return false
	}
	never := row.last > 0 && row.last < p.asset.Major
	fix := "check the target's version and chip"
	if never && row.last >= p.profile.Major {
		fix = "give these devices the profile payload com.apple.security.acme"
	}
	switch major := t.Version.Major; {
	case major == 0 && never:
		j.about("", targetChipVersion, fix, "devices with %s end with %s %d, before %s %s brought the asset com.apple.asset.credential.acme: they never fetch the document",
			t.Chip, p.name, row.last, p.name, p.asset)
	case row.covers(major):
	case major < row.first:
		j.about("", targetChipVersion, fix, "devices with %s start with %s %d: none runs %s", t.Chip, p.name, row.first, t.system())
	default:
		j.about("", targetChipVersion, fix, "devices with %s end with %s %d: none runs %s", t.Chip, p.name, row.last, t.system())
	}
	return true
}

// hardwareBound judges HardwareBound: true, which only some Macs cannot do.
func (j *judgement) hardwareBound() {
	t := j.target
	if t.Chip.known() {
		if !t.Chip.HoldsKeys(t.Platform) {
			j.about("HardwareBound", targetHardwareMac, "set HardwareBound and Attest to false in the document for these Macs",
				"HardwareBound is true, and Macs with %s have no Secure Enclave for it: the device cannot generate the key", macName(t.Chip))
		}
		return
	}
	if without := j.possible(func(c Chip) bool { return !c.HoldsKeys(t.Platform) }); without != "" {
		j.about("HardwareBound", targetHardwareUnknown, "name the chip in the target (chip=M1, chip=T2, chip=Intel) and give Macs without Secure Enclave their own document",
			"HardwareBound is true, and Macs without Apple silicon or a T2 chip run %s too (%s): those cannot generate the key", t.system(), without)
	}
}

// attest judges Attest: true, which chips without support ignore without a word.
func (j *judgement) attest() {
	t := j.target
	const fix = "let the server decide about devices without attestation, or give them a document with Attest set to false"
	if t.Chip.known() {
		if !t.Chip.Attests(t.Platform) {
			name := t.Chip.String()
			if t.Platform == MacOS {
				name = "Macs with " + macName(t.Chip)
			}
			j.about("Attest", targetAttestIgnored, fix,
				"Attest is true and %s: the device answers the challenge with {} and the server gets no attestation", ignores(name, t.Platform))
		}
		return
	}
	if without := j.possible(func(c Chip) bool { return !c.Attests(t.Platform) }); without != "" {
		j.about("Attest", targetAttestUnknown, fix+"; name the chip in the target to judge the others",
			"Attest is true, and devices that ignore it run %s too (%s): they answer the challenge with {} and the server gets no attestation", t.system(), without)
	}
}

// ignores is "the chip S3 ignores it" or "Macs with a T2 chip ignore it".
func ignores(name string, p Platform) string {
	if p == MacOS {
		return name + " ignore it"
	}
	return "the chip " + name + " ignores it"
}

// macName says a Mac's chip as an administrator would.
func macName(c Chip) string {
	switch c.family {
	case "Intel":
		return "an Intel processor and no T2 chip"
	case "T":
		return "a " + c.String() + " chip"
	}
	return c.String()
}

// possible lists the chips that fit a condition among those that the target may mean: the ones that
// run its version, or any version with the asset.
func (j *judgement) possible(fits func(Chip) bool) string {
	p, _ := j.target.Platform.lookup()
	var names []string
	for _, row := range runs[j.target.Platform] {
		chip, err := ParseChip(row.chip)
		if err != nil || !fits(chip) || row.last != 0 && row.last < p.asset.Major || !row.covers(j.target.Version.Major) {
			continue
		}
		names = append(names, row.chip)
	}
	return strings.Join(names, ", ")
}
