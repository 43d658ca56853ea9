package credential

import (
	"slices"
	"strings"
	"testing"
)

func TestTargetsAreReadAndWritten(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"ios:17.4,chip=A12", "ios:17.4,chip=A12"},
		{"iOS:17", "ios:17.0"},
		{"ipados", "ipados"},
		{"macos:14.0.1,chip=t2", "macos:14.0.1,chip=T2"},
		{"macos,chip=intel", "macos,chip=Intel"},
		{"tvos:17.0,chip=A10X Fusion", "tvos:17.0,chip=A10X"},
		{"ipados:17.0,chip=m1 max", "ipados:17.0,chip=M1"},
		{"ios:17.0,chip=A17 Pro", "ios:17.0,chip=A17"},
		{"watchos:10,chip=S9 SiP", "watchos:10.0,chip=S9"},
		{"visionos:1.1", "visionos:1.1"},
	} {
		got, err := ParseTarget(c.in)
		if err != nil || got.String() != c.want {
			t.Errorf("ParseTarget(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Errorf("%q is not read as it is written: %v, %v", got, again, err)
		}
	}
}

func TestUnknownTargetsAreRefused(t *testing.T) {
	for _, c := range []struct{ in, says string }{
		{"", "platform"},
		{"android:14", "platform"},
		{"ios:", "version"},
		{"ios:17.x", "version"},
		{"ios:17.4.1.2", "version"},
		{"ios:0", "version 0"},
		{"ios:9999", "version"},
		{"ios:17,model=x", "chip=NAME"},
		{"ios:17,chip", "not known"},
		{"ios:17,chip=Snapdragon", "not known"},
		{"ios:17,chip=A0", "not known"},
		{"macos:14,chip=T3", "not known"},
		{"macos:14,chip=M1X", "not known"},
		{"ios:17,chip=A12,chip=A13", "not known"},
	} {
		if got, err := ParseTarget(c.in); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("ParseTarget(%q) = %v, %v; want an error about %q", c.in, got, err, c.says)
		}
	}
}

// The table of Apple's documentation, both ends of every column.
func TestChipsAttestAsAppleDocuments(t *testing.T) {
	for _, c := range []struct {
		platform Platform
		chip     string
		attests  bool
		holds    bool
	}{
		{IOS, "A10", false, true}, {IOS, "A11", true, true}, {IOS, "A19", true, true},
		{IPadOS, "A10X", false, true}, {IPadOS, "A12", true, true}, {IPadOS, "M1", true, true},
		{TVOS, "A10X", false, true}, {TVOS, "A12", true, true},
		{WatchOS, "S3", false, true}, {WatchOS, "S4", true, true}, {WatchOS, "S10", true, true},
		{MacOS, "Intel", false, false}, {MacOS, "T1", false, false}, {MacOS, "T2", false, true}, {MacOS, "M1", true, true},
		{VisionOS, "M2", true, true}, {VisionOS, "M5", true, true},
	} {
		chip, err := ParseChip(c.chip)
		if err != nil {
			t.Fatal(err)
		}
		if got := chip.Attests(c.platform); got != c.attests {
			t.Errorf("%s on %s attests: %v", c.chip, c.platform, got)
		}
		if got := chip.HoldsKeys(c.platform); got != c.holds {
			t.Errorf("%s on %s holds keys: %v", c.chip, c.platform, got)
		}
	}
}

func TestOldSystemsAreToldWhatElseWorks(t *testing.T) {
	d := Read([]byte(clean))
	for _, c := range []struct{ target, fix string }{
		{"ios:16.0,chip=A12", "update to iOS 17.0, or install the profile payload com.apple.security.acme, which works from iOS 16.0 on"},
		{"ios:16.0,chip=A11", "install the profile payload com.apple.security.acme, which works from iOS 16.0 on"},
		{"ios:15.0,chip=A12", "update to iOS 17.0"},
		{"macos:13.0", "update to macOS 14.0"},
		{"macos:13.1", "update to macOS 14.0, or install the profile payload com.apple.security.acme, which works from macOS 13.1 on"},
		{"tvos:16.0", "update to tvOS 17.0, or install the profile payload com.apple.security.acme, which works from tvOS 16.0 on"},
		{"watchos:9.0", "update to watchOS 10.0, or install the profile payload com.apple.security.acme, which works from watchOS 9.0 on"},
		{"visionos:1.0", "update to visionOS 1.1, or install the profile payload com.apple.security.acme, which works from visionOS 1.0 on"},
	} {
		target, err := ParseTarget(c.target)
		if err != nil {
			t.Fatal(err)
		}
		findings := d.Judge(target).Errors()
		if len(findings) != 1 || findings[0].Rule != "target-version" || findings[0].Fix != c.fix {
			t.Errorf("%s: %+v", c.target, findings)
		}
	}
}

func TestUnreadableDocumentIsNotJudged(t *testing.T) {
	if findings := Read([]byte("[")).Judge(Target{Platform: IOS, Version: Version{Major: 9}}); findings != nil {
		t.Errorf("findings: %v", findings)
	}
}

func TestEveryChipOfTheTableIsReadable(t *testing.T) {
	for p, rows := range runs {
		for _, row := range rows {
			chip, err := ParseChip(row.chip)
			if err != nil || chip.String() != row.chip || row.first == 0 || row.last != 0 && row.last < row.first {
				t.Errorf("%s: %+v: %v", p, row, err)
			}
		}
	}
}

func TestUnknownChipFindingsNameTheChips(t *testing.T) {
	d := Read([]byte(clean))
	for _, c := range []struct{ target, rule, chips string }{
		{"ipados", "target-attest-unknown", "(A10, A10X)"},
		{"ipados:18.0", "target-attest-unknown", "(A10)"},
		{"tvos", "target-attest-unknown", "(A8, A10X)"},
		{"macos", "target-hardware-bound-unknown", "(Intel)"},
		{"macos", "target-attest-unknown", "(Intel, T2)"},
		{"macos:26.0", "target-attest-unknown", "(T2)"},
	} {
		target, err := ParseTarget(c.target)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(d.Judge(target), func(f Finding) bool { return f.Rule == c.rule && strings.Contains(f.Message, c.chips) }) {
			t.Errorf("%s: no finding of %s names %s: %v", c.target, c.rule, c.chips, d.Judge(target))
		}
	}
}
