package main

import (
	"fmt"
	"io"

	"assay/policy"
)

// printDecision writes a decision with its reasons, one a line.
func printDecision(w io.Writer, d *policy.Decision) {
	sayf(w, "  outcome  %s\n", d.Outcome)
	for _, reason := range d.Reasons {
		mark := "yes"
		if !reason.Passed {
			mark = "NO "
		}
		sayf(w, "  %s  %-28s %s\n", mark, reason.Check, reason.Detail)
	}
	if d.StandIn {
		fmt.Fprintln(w, "  WARNING: a stand-in authority attested this; it proves nothing about real hardware")
	}
	for _, dropped := range d.Dropped {
		sayf(w, "  left out  %s (%s)\n", dropped.Field, dropped.Why)
	}
}
