package credential

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Platform is an Apple operating system.
type Platform string

// The platforms that resolve ACME credentials.
const (
	IOS      Platform = "ios"
	IPadOS   Platform = "ipados"
	MacOS    Platform = "macos"
	TVOS     Platform = "tvos"
	WatchOS  Platform = "watchos"
	VisionOS Platform = "visionos"
)

// Version is a version of an operating system. The zero value is an unknown version.
type Version struct{ Major, Minor, Patch int }

// Less reports whether v is older than other.
func (v Version) Less(other Version) bool {
	return slices.Compare([]int{v.Major, v.Minor, v.Patch}, []int{other.Major, other.Minor, other.Patch}) < 0
}

// String returns 17.4 or 17.4.1, or "" for the unknown version.
func (v Version) String() string {
	switch {
	case v == Version{}:
		return ""
	case v.Patch != 0:
		return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
	}
	return fmt.Sprintf("%d.%d", v.Major, v.Minor)
}

// platform is what the schemas say about an operating system.
type platform struct {
	id      Platform
	name    string
	asset   Version // first with the asset com.apple.asset.credential.acme
	profile Version // first with the profile payload com.apple.security.acme
}

var platforms = []platform{
	{IOS, "iOS", Version{17, 0, 0}, Version{16, 0, 0}},
	{IPadOS, "iPadOS", Version{17, 0, 0}, Version{16, 0, 0}},
	{MacOS, "macOS", Version{14, 0, 0}, Version{13, 1, 0}},
	{TVOS, "tvOS", Version{17, 0, 0}, Version{16, 0, 0}},
	{WatchOS, "watchOS", Version{10, 0, 0}, Version{9, 0, 0}},
	{VisionOS, "visionOS", Version{1, 1, 0}, Version{1, 0, 0}},
}

func (p Platform) lookup() (platform, bool) {
	i := slices.IndexFunc(platforms, func(one platform) bool { return one.id == p })
	if i < 0 {
		return platform{name: string(p)}, false
	}
	return platforms[i], true
}

// Target is the devices that a document is for. Version and Chip may be unknown: the findings then
// speak of all that the target may mean.
type Target struct {
	Platform Platform
	Version  Version
	Chip     Chip
}

var versionShape = regexp.MustCompile(`^[0-9]{1,3}(?:\.[0-9]{1,3}){0,2}$`)

// ParseTarget reads PLATFORM[:VERSION][,chip=NAME], for example ios:17.4,chip=A12 or macos,chip=T2.
// Platforms and chips are read without case.
func ParseTarget(s string) (Target, error) {
	head, rest, more := strings.Cut(s, ",")
	name, version, hasVersion := strings.Cut(head, ":")
	t := Target{Platform: Platform(strings.ToLower(strings.TrimSpace(name)))}
	if _, ok := t.Platform.lookup(); !ok {
		return Target{}, fmt.Errorf("target %s: the platform is ios, ipados, macos, tvos, watchos or visionos", quote(s))
	}
	if hasVersion {
		if !versionShape.MatchString(version) {
			return Target{}, fmt.Errorf("target %s: the version has the form 17, 17.4 or 17.4.1", quote(s))
		}
		parts := [3]int{}
		for i, part := range strings.Split(version, ".") {
			parts[i], _ = strconv.Atoi(part) // three digits at most
		}
		t.Version = Version{parts[0], parts[1], parts[2]}
		if t.Version.Major == 0 {
			return Target{}, fmt.Errorf("target %s: no system has version 0", quote(s))
		}
	}
	if !more {
		return t, nil
	}
	key, value, _ := strings.Cut(rest, "=")
	if strings.ToLower(strings.TrimSpace(key)) != "chip" {
		return Target{}, fmt.Errorf("target %s: what follows the comma is chip=NAME", quote(s))
	}
	chip, err := ParseChip(value)
	if err != nil {
		return Target{}, fmt.Errorf("target %s: %w", quote(s), err)
	}
	t.Chip = chip
	return t, nil
}

// String returns the form that ParseTarget reads.
func (t Target) String() string {
	s := string(t.Platform)
	if v := t.Version.String(); v != "" {
		s += ":" + v
	}
	if t.Chip.known() {
		s += ",chip=" + t.Chip.String()
	}
	return s
}

// system names the target's system for a message: iOS 17.4.
func (t Target) system() string {
	p, _ := t.Platform.lookup()
	if v := t.Version.String(); v != "" {
		return p.name + " " + v
	}
	return p.name
}
