package credential

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Chip is the system on chip that decides about hardware-bound keys and attestation; on Intel Macs
// it is the security chip. The zero value is an unknown chip.
type Chip struct {
	family     string // "A", "M", "S", "T", or "Intel" for a Mac without a security chip
	generation int
	variant    string // "X" or "Z": chips of their own, unlike the variants of one generation
}

// chipShape accepts the names in use: A12, A12 Bionic, A10X Fusion, A17 Pro, M1 Max, S9 SiP, T2.
var chipShape = regexp.MustCompile(`^([AMST])([1-9][0-9]?)([XZ]?)(?: ?(?:BIONIC|FUSION|PRO|MAX|ULTRA|SIP))?$`)

// ParseChip reads a chip's name without case: A12, A10X, M1, S4, T1, T2, or Intel for a Mac
// without a T1 or T2. The marketing suffixes Bionic, Fusion, SiP, Pro, Max and Ultra are dropped.
func ParseChip(s string) (Chip, error) {
	upper := strings.ToUpper(strings.TrimSpace(s))
	if upper == "INTEL" {
		return Chip{family: "Intel"}, nil
	}
	m := chipShape.FindStringSubmatch(upper)
	if m == nil || m[1] == "T" && m[2] != "1" && m[2] != "2" || m[3] != "" && m[1] != "A" {
		return Chip{}, fmt.Errorf("chip %s is not known: write A12, A10X, M1, S4, T1, T2 or Intel", quote(s))
	}
	generation, _ := strconv.Atoi(m[2]) // two digits
	return Chip{family: m[1], generation: generation, variant: m[3]}, nil
}

// String returns the name that ParseChip reads, or "" for the unknown chip.
func (c Chip) String() string {
	if c.family == "" || c.family == "Intel" {
		return c.family
	}
	return c.family + strconv.Itoa(c.generation) + c.variant
}

// Family is the letter that the names of a series begin with (A, M, S or T), or Intel for a Mac without a
// security chip; "" for the unknown chip.
func (c Chip) Family() string { return c.family }

// Generation is the number in the name, such as 15 of A15; 0 where there is none.
func (c Chip) Generation() int { return c.generation }

// known reports whether the chip is known.
func (c Chip) known() bool { return c != Chip{} }

// Attests reports whether devices of the platform with this chip attest keys (Apple's table of
// hardware support; chips newer than the table attest).
func (c Chip) Attests(p Platform) bool {
	switch p {
	case IOS, IPadOS:
		return c.family == "M" || c.family == "A" && c.generation >= 11
	case TVOS:
		return c.family == "M" || c.family == "A" && c.generation >= 12
	case WatchOS:
		return c.family == "S" && c.generation >= 4
	case MacOS:
		return c.appleSilicon()
	case VisionOS:
		return true
	}
	return false
}

// appleSilicon reports whether a Mac with this chip is one with Apple silicon.
func (c Chip) appleSilicon() bool { return c.family == "M" || c.family == "A" }

// HoldsKeys reports whether devices of the platform with this chip have a Secure Enclave for
// hardware-bound keys: all but Macs with a T1 or without a security chip. Apple's text of 2024 asks
// for HardwareBound false on every Mac, beside a table that has Apple silicon attest; the current
// text excludes only the Macs excluded here.
func (c Chip) HoldsKeys(p Platform) bool {
	return p != MacOS || c.appleSilicon() || c.family == "T" && c.generation == 2
}

// run is the range of major versions that devices with a chip run on a platform.
type run struct {
	chip        string
	first, last int // major versions; last 0: the newest system still runs
}

// runs is which chips have run which systems. A chip newer than every row of its family is taken
// to be newer than this table.
var runs = map[Platform][]run{
	IOS: {
		{"A7", 7, 12}, {"A8", 8, 12}, {"A9", 9, 15}, {"A10", 10, 15}, {"A11", 11, 16}, {"A12", 12, 18},
		{"A13", 13, 0}, {"A14", 14, 0}, {"A15", 15, 0}, {"A16", 16, 0}, {"A17", 17, 0}, {"A18", 18, 0}, {"A19", 26, 0},
	},
	IPadOS: {
		{"A7", 7, 12}, {"A8", 8, 15}, {"A8X", 8, 15}, {"A9", 9, 16}, {"A9X", 9, 16}, {"A10", 10, 18}, {"A10X", 10, 17},
		{"A12", 12, 0}, {"A12X", 12, 0}, {"A12Z", 13, 0}, {"A13", 13, 0}, {"A14", 14, 0}, {"A15", 15, 0}, {"A16", 16, 0},
		{"A17", 17, 0}, {"M1", 14, 0}, {"M2", 16, 0}, {"M3", 18, 0}, {"M4", 17, 0}, {"M5", 26, 0},
	},
	TVOS:    {{"A8", 9, 0}, {"A10X", 11, 0}, {"A12", 14, 0}, {"A15", 16, 0}},
	WatchOS: {{"S1", 2, 6}, {"S2", 3, 6}, {"S3", 4, 8}, {"S4", 5, 10}, {"S5", 6, 10}, {"S6", 7, 0}, {"S7", 8, 0}, {"S8", 9, 0}, {"S9", 10, 0}, {"S10", 11, 0}},
	MacOS: {
		{"Intel", 10, 15}, {"T1", 10, 13}, {"T2", 10, 26},
		{"M1", 11, 0}, {"M2", 12, 0}, {"M3", 13, 0}, {"M4", 15, 0}, {"M5", 26, 0}, {"A18", 26, 0},
	},
	VisionOS: {{"M2", 1, 0}, {"M5", 26, 0}},
}

// covers reports whether a major version is in the range; 0 is an unknown version.
func (r run) covers(major int) bool {
	return major == 0 || major >= r.first && (r.last == 0 || major <= r.last)
}

// find returns the chip's range on a platform. newer means that the chip is beyond the table.
func (c Chip) find(p Platform) (r run, found, newer bool) {
	newest := 0
	for _, row := range runs[p] {
		if row.chip == c.String() {
			return row, true, false
		}
		if chip, err := ParseChip(row.chip); err == nil && chip.family == c.family {
			newest = max(newest, chip.generation)
		}
	}
	return run{}, false, newest > 0 && c.generation > newest
}
