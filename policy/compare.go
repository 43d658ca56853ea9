package policy

import (
	"cmp"
	"slices"
)

// Difference is what another decision on the same input makes of it.
type Difference struct {
	From, To Outcome
	// Changed is whether the outcome, or what a certificate would get, is another one.
	Changed bool
	// Because are the requirements, signals and checks whose results differ, most telling first; then
	// what else a certificate would get, such as "lifetime 90d → 1d".
	Because []string
}

// Compare tells what made two decisions on one input differ: a requirement or check that passes in one
// and not in the other, or signals that give other points.
func Compare(from, to Decision) Difference {
	d := Difference{From: from.Outcome, To: to.Outcome}
	d.Changed = from.Outcome != to.Outcome || from.Profile != to.Profile || from.Lifetime != to.Lifetime
	if !d.Changed {
		return d
	}
	passed := func(reasons []Reason) map[string]bool {
		m := map[string]bool{}
		for _, r := range reasons {
			m[r.Check] = r.Passed
		}
		return m
	}
	before, after := passed(from.Reasons), passed(to.Reasons)
	for _, reasons := range [][]Reason{to.Reasons, from.Reasons} {
		for _, r := range reasons {
			was, had := before[r.Check]
			is, has := after[r.Check]
			// A check that only one of the two has makes a difference where it fails.
			if (had && has && was != is || had != has && !r.Passed) && !slices.Contains(d.Because, r.Check) && r.Check != CheckOutcome && r.Check != CheckHeld {
				d.Because = append(d.Because, r.Check)
			}
		}
	}
	points := func(signals []Signal) map[string]int {
		m := map[string]int{}
		for _, s := range signals {
			m[s.Name] = s.Points
		}
		return m
	}
	was, is := points(from.Signals), points(to.Signals)
	for _, signals := range [][]Signal{to.Signals, from.Signals} {
		for _, s := range signals {
			if name := "signal:" + s.Name; was[s.Name] != is[s.Name] && !slices.Contains(d.Because, name) {
				d.Because = append(d.Because, name)
			}
		}
	}
	if from.Outcome == to.Outcome && from.Profile != to.Profile {
		d.Because = append(d.Because, "profile "+cmp.Or(from.Profile, "of the directory")+" → "+cmp.Or(to.Profile, "of the directory"))
	}
	if from.Outcome == to.Outcome && from.Lifetime != to.Lifetime {
		d.Because = append(d.Because, "lifetime "+lifetimeText(from.Lifetime)+" → "+lifetimeText(to.Lifetime))
	}
	if len(d.Because) == 0 {
		d.Because = []string{"outcomes"}
	}
	return d
}

// lifetimeText is how long a certificate may live at most by the policy.
func lifetimeText(l Lifetime) string {
	if l == 0 {
		return "of the profile"
	}
	return l.String()
}
