package credential

import (
	"errors"
	"fmt"
	"strings"
)

// checkOID says what is wrong with a dotted OID (X.660: the first arc is 0, 1 or 2; below 0 and 1
// the second is at most 39; no leading zeros), or returns nil.
func checkOID(s string) error {
	arcs := strings.Split(s, ".")
	for _, arc := range arcs {
		if arc == "" {
			return errors.New("an arc is empty")
		}
		if strings.Trim(arc, "0123456789") != "" {
			return fmt.Errorf("%s is no number", quote(arc))
		}
		if len(arc) > 1 && arc[0] == '0' {
			return fmt.Errorf("arc %s has a leading zero", quote(arc))
		}
	}
	if len(arcs) < 2 {
		return errors.New("an OID has two arcs or more")
	}
	if arcs[0] != "0" && arcs[0] != "1" && arcs[0] != "2" {
		return fmt.Errorf("the first arc is 0, 1 or 2, not %s", quote(arcs[0]))
	}
	if arcs[0] != "2" && arcLess("39", arcs[1]) {
		return fmt.Errorf("below %s the second arc is at most 39, not %s", arcs[0], quote(arcs[1]))
	}
	return nil
}

// largeArc returns the first arc of a valid OID above 2^31-1, or "".
func largeArc(oid string) string {
	for arc := range strings.SplitSeq(oid, ".") {
		if arcLess("2147483647", arc) {
			return arc
		}
	}
	return ""
}

// arcLess compares two decimal numbers without leading zeros, of any length.
func arcLess(a, b string) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}
